"""``python -m mpt.study FILE``: run a study, and write its page, tables and figures beside its file."""

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

from mpt.config import FusedConfig
from mpt.study.answer import Answer
from mpt.study.cells import Memory
from mpt.study.page import sentences, write_results
from mpt.study.read import load_study
from mpt.study.run import describe_plan, open_study, plan_study, run_study
from mpt.sweep.engines import ENGINES, check_engine

UNITS = {"s": 1, "m": 60, "h": 3600}


def parse_duration(text: str) -> float:
    """Read a duration: 90s, 30m, 2h.

    Raises:
        argparse.ArgumentTypeError: It is none.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smh])", text.strip())
    if not found or float(found[1]) == 0:
        raise argparse.ArgumentTypeError(f"is {text!r}; write a duration, such as 90s, 30m or 2h")
    return float(found[1]) * UNITS[found[2]]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Raises:
        UserError: Something is wrong with the study or its runs, all of it together.
        Interrupted: A signal stopped it; the same command goes on.
    """
    parser = argparse.ArgumentParser(
        "python -m mpt.study",
        description="From a question to what holds: sources, tuning and the runs that count, then a page.",
    )
    parser.add_argument("file", type=Path, help="the study, a YAML file (docs/studies.md)")
    parser.add_argument(
        "--budget", type=parse_duration, metavar="30m", help="stop where the whole would take longer than this"
    )
    parser.add_argument("--dry-run", action="store_true", help="print the runs as command lines, and run none")
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="processes that share the jobs (1)")
    parser.add_argument("--engine", choices=ENGINES, default="local", help="where they run (local; docs/sweeps.md)")
    arguments = parser.parse_args(argv)
    check_engine(FusedConfig(workers=arguments.workers, engine=arguments.engine))
    study = load_study(arguments.file)
    if arguments.dry_run:
        with open_study(study) as jobs:
            print(describe_plan(study, plan_study(study, jobs), Memory(study.results / "cells.jsonl")))
        return 0
    planned, memory = run_study(study, arguments.budget, arguments.workers, arguments.engine)
    answer = Answer(study, memory)
    page = write_results(planned, answer)
    print("\n".join(["", study.question, *sentences(answer), f"page: {page}"]))
    return 0
