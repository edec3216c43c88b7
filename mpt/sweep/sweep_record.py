"""A sweep: its name, a record of what became of each job, and the table at its end."""

import hashlib
import json
import math
import os
import re
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from mpt.atomic import write_atomically
from mpt.errors import UserError

VARIABLE = "MPT_SWEEP"
"""Environment variable with the name of the sweep, for jobs in other processes."""
RECORDS = "sweeps"
"""Folder below hydra.sweep.dir: of each sweep NAME.jsonl, a line per job, and NAME.yaml, its configuration."""
LONGEST_NAME = 80

_folder: Path | None = None
_jobs = 0
"""Jobs that the command line asks for; 0 where a sweeper decides by itself."""


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
    global _jobs
    os.environ.pop(VARIABLE, None)
    if {"-m", "--multirun"} & set(arguments):
        _jobs = count_jobs(arguments)
        os.environ[VARIABLE] = name_of(arguments)
        _warn_once()


def count_jobs(arguments: Sequence[str]) -> int:
    """Count the jobs of a sweep; 0 where they are not known beforehand, or the command line is wrong."""
    overrides = [text for text in arguments if "=" in text and not text.startswith("-")]
    if any(text.lstrip("+").startswith("hydra/sweeper") for text in overrides):
        return 0
    try:
        parsed = OverridesParser.create().parse_overrides(overrides)
        return math.prod(len(list(each.sweep_string_iterator())) for each in parsed if each.is_discrete_sweep())
    except (HydraException, ValueError):
        return 0


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
        UserError: The file is not the record of a sweep.
    """
    outcomes: dict[int, Outcome] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), start=1):
        if not line:
            continue
        try:
            outcome = Outcome(**json.loads(line))
        except (ValueError, TypeError) as error:
            raise UserError(f"{path}:{number}: not a line of a sweep's record ({error})") from error
        outcomes[outcome.job] = outcome
    return [outcomes[job] for job in sorted(outcomes)]


def finish() -> None:
    """Print the table of the sweep that has ended, and give its files a name of their own; its name is free again."""
    global _folder
    folder, name = _folder, os.environ.pop(VARIABLE, "sweep")
    _folder = None
    if folder is None:
        return
    path = folder / RECORDS / f"{name}.jsonl"
    configuration = folder / "multirun.yaml"  # the next sweep's would take its place
    if path.is_file() and configuration.is_file():
        _scrub(configuration)
        configuration.replace(path.with_suffix(".yaml"))
    if path.is_file():
        _print_table(read_record(path), path, _jobs)


def _scrub(configuration: Path) -> None:
    """Take what ``hydra.job.env_set`` sets out of the file that Hydra leaves of a sweep: it may be a secret."""
    composed = OmegaConf.load(configuration)
    job = OmegaConf.select(composed, "hydra.job")
    if job is None or not job.get("env_set"):
        return
    job.env_set = {}
    overrides = composed.hydra.overrides
    overrides.hydra = [text for text in overrides.hydra if not text.lstrip("+~").startswith("hydra.job.env")]
    with write_atomically(configuration) as temporary:
        temporary.write_text(OmegaConf.to_yaml(composed), encoding="utf-8")


def _warn_once() -> None:
    """Print a warning that several jobs of a sweep share once."""
    show, seen = warnings.showwarning, set()

    def show_new(message: Warning | str, category: type[Warning], *rest: Any, **more: Any) -> None:
        if (category, str(message)) not in seen:
            seen.add((category, str(message)))
            show(message, category, *rest, **more)

    warnings.showwarning = show_new


def differences(outcomes: Sequence[Outcome]) -> list[str]:
    """The overrides of each job that not all jobs have, as one text each."""
    everywhere = set.intersection(*(set(outcome.overrides) for outcome in outcomes))
    return [" ".join(text for text in outcome.overrides if text not in everywhere) for outcome in outcomes]


def describe_jobs(outcomes: Sequence[Outcome], jobs: int) -> str:
    """Say how many jobs there are, how many failed, and of a sweep that was stopped how many are unfinished.

    Args:
        outcomes: One for each job that ended.
        jobs: How many there should be; 0: not known.
    """
    failed = sum(outcome.error is not None for outcome in outcomes)
    unfinished = max(0, jobs - len(outcomes))
    if not unfinished:
        return f"{len(outcomes)} jobs, {failed} failed"
    return f"{jobs} jobs, {failed} failed, {unfinished} unfinished; the same command goes on"


def _print_table(outcomes: list[Outcome], path: Path, jobs: int) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=describe_jobs(outcomes, jobs))
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
