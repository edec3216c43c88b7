"""A sweep: its name, a record of what became of each job, and the table at its end."""

import hashlib
import json
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from omegaconf import DictConfig

VARIABLE = "MPT_SWEEP"
"""Environment variable with the name of the sweep, for jobs in other processes."""
RECORDS = "sweeps"
"""Folder below hydra.sweep.dir: of each sweep NAME.jsonl, a line per job, and NAME.yaml, its configuration."""
LONGEST_NAME = 80

_folder: Path | None = None


class RememberFolder(Callback):
    """Tells this module where a sweep lies; Hydra calls it, by ``hydra.callbacks`` in ``conf/train.yaml``."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Keep the folder before the first job starts."""
        global _folder
        _folder = Path(config.hydra.sweep.dir).absolute()


@dataclass(frozen=True)
class Outcome:
    """The outcome of a job.

    Attributes:
        job: Its number in the sweep.
        folder: Its run folder.
        overrides: Its part of the command line.
        score: Its average test score; None where it failed, or tested nothing.
        error: Why it failed, in one line; None where it did not.
    """

    job: int
    folder: str
    overrides: list[str]
    score: float | None = None
    error: str | None = None


def begin(arguments: Sequence[str]) -> None:
    """Name the sweep that a command line asks for, in the environment; a single run has none."""
    os.environ.pop(VARIABLE, None)
    if {"-m", "--multirun"} & set(arguments):
        os.environ[VARIABLE] = name_of(arguments)


def name_of(arguments: Sequence[str]) -> str:
    """Name a sweep after what it sweeps over, and six digits of a hash of its whole command line.

    Returns:
        Such as ``seed=0,1,2-3f2a9c``.
    """
    overrides = sorted(text for text in arguments if "=" in text and not text.startswith("-"))
    swept = [text for text in overrides if _is_swept(text)]
    digits = hashlib.sha256(json.dumps(overrides).encode()).hexdigest()[:6]
    readable = re.sub(r"[^\w.=,+-]", "_", "+".join(swept))[:LONGEST_NAME]
    return f"{readable or 'sweep'}-{digits}"


def _is_swept(text: str) -> bool:
    try:
        (override,) = OverridesParser.create().parse_overrides([text])
    except HydraException:
        return False
    return override.is_sweep_override()


def record(sweep_folder: Path, outcome: Outcome) -> None:
    """Add a line to the record of the sweep that this process belongs to."""
    path = sweep_folder / RECORDS / f"{os.environ.get(VARIABLE, 'sweep')}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:  # a short line is added in one piece, by any process
        file.write(json.dumps(outcome.__dict__) + "\n")


def read_record(path: Path) -> list[Outcome]:
    """Read the outcomes of a sweep: the last one of each job, in their order.

    Raises:
        ValueError: The file is not the record of a sweep.
    """
    outcomes: dict[int, Outcome] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            outcome = Outcome(**json.loads(line))
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path}:{number}: not a line of a sweep's record ({error})") from error
        outcomes[outcome.job] = outcome
    return [outcomes[job] for job in sorted(outcomes)]


def finish() -> None:
    """Print the table of the sweep that has ended, and give its files a name of their own."""
    if _folder is None:
        return
    path = _folder / RECORDS / f"{os.environ.get(VARIABLE, 'sweep')}.jsonl"
    configuration = _folder / "multirun.yaml"  # the next sweep's would take its place
    if path.is_file() and configuration.is_file():
        configuration.replace(path.with_suffix(".yaml"))
    if path.is_file():
        _print_table(read_record(path), path)


def differences(outcomes: Sequence[Outcome]) -> list[str]:
    """The overrides of each job that not all jobs have, as one text each."""
    everywhere = set.intersection(*(set(outcome.overrides) for outcome in outcomes))
    return [" ".join(text for text in outcome.overrides if text not in everywhere) for outcome in outcomes]


def _print_table(outcomes: list[Outcome], path: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(
        title=f"{len(outcomes)} jobs, {sum(outcome.error is not None for outcome in outcomes)} failed"
    )
    for column in ("job", "run", "what differs", "test score"):
        table.add_column(column, overflow="fold")
    for outcome, differs in zip(outcomes, differences(outcomes), strict=True):
        shown = "–" if outcome.score is None else f"{outcome.score:.3f}"
        if outcome.error is not None:
            shown = f"failed: {outcome.error}"
        table.add_row(str(outcome.job), Path(outcome.folder).name, differs, shown)
    console = Console(width=None if sys.stdout.isatty() else 200)
    console.print(table, markup=False)
    if any(outcome.error is None for outcome in outcomes):
        here = Path.cwd()
        shown_path = path.relative_to(here) if path.is_relative_to(here) else path
        console.print(f"compare them: python -m mpt.report '{shown_path}'", highlight=False, soft_wrap=True)
