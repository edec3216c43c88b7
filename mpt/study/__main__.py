"""``python -m mpt.study FILE``: run a study, and write its page, tables and figures beside its file."""

import argparse
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from mpt.cli.job import is_known, print_errors
from mpt.cli.many import open_jobs
from mpt.cli.phrase import phrase
from mpt.study.answer import Answer
from mpt.study.cells import Memory
from mpt.study.page import sentences, write_results
from mpt.study.read import load_study
from mpt.study.run import describe_plan, plan_study, run_study

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
    """Run the command line; 2 and one message a line where something is wrong."""
    parser = argparse.ArgumentParser(
        "python -m mpt.study",
        description="From a question to what holds: sources, tuning and the runs that count, then a page.",
    )
    parser.add_argument("file", type=Path, help="the study, a YAML file (docs/studies.md)")
    parser.add_argument(
        "--budget", type=parse_duration, metavar="30m", help="stop where the whole would take longer than this"
    )
    parser.add_argument("--dry-run", action="store_true", help="print the runs as command lines, and run none")
    arguments = parser.parse_args(argv)
    try:
        study = load_study(arguments.file)
        if arguments.dry_run:
            with open_jobs(study.folders) as jobs:
                print(describe_plan(study, plan_study(study, jobs), Memory(study.results / "cells.jsonl")))
            return 0
        planned, memory = run_study(study, arguments.budget)
        answer = Answer(study, memory)
        page = write_results(planned, answer)
        print("\n".join(["", study.question, *sentences(answer), f"page: {page}"]))
    except KeyboardInterrupt:
        print("stopped; the same command goes on", file=sys.stderr)
        return 130
    except BrokenPipeError:  # who reads has enough, as head has
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if not is_known(error):
            raise
        print_errors(phrase(error))
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
