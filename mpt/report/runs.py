"""Everything that a report shows of some runs: their scores, where they come from, and what they leave behind."""

import csv
import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from mpt.errors import UserError
from mpt.report.gather import Line, find_failures, gather
from mpt.run.folder import RunFolder, read_config
from mpt.run.record import read_metrics
from mpt.sweep.sweep_record import Outcome


class Origin(NamedTuple):
    """A run's origin and cost."""

    run: str
    stage: str
    tasks: str
    backbone: str
    command: str
    started: str
    mpt: str
    git: str
    machine: str
    seconds: float | None
    """Seconds of training."""
    trained: int | None
    """Trained parameters."""
    score: float | None
    """The average over its tasks."""
    rows: int | None
    """Test rows, of all tasks together."""


class Sample(NamedTuple):
    """One answer of a run."""

    run: str
    task: str
    row_id: str
    input: str
    references: list[str]
    prediction: str
    score: float | None
    """By the first of the task's metrics that means something for one example."""


class Heat(NamedTuple):
    """The task similarity of one run."""

    run: str
    tasks: list[str]
    cosines: list[list[float]]


@dataclass(frozen=True)
class Runs:
    """Some runs together.

    Attributes:
        lines: A line per run and task, from :func:`mpt.report.gather.gather`.
        origins: A line per finished run.
        unfinished: Folders of runs that are not finished.
        failures: Jobs of sweeps that failed.
        copies: Folders of runs that are left out, since another one is the same run.
        split: The split that the scores are of.
    """

    lines: list[Line]
    origins: list[Origin]
    unfinished: list[Path]
    failures: list[Outcome]
    split: str
    copies: list[Path] = field(default_factory=list)

    @property
    def folders(self) -> list[Path]:
        """The folders of the finished runs."""
        return [Path(origin.run) for origin in self.origins]

    @property
    def versions(self) -> list[str]:
        """The versions of mpt, and the revisions, that the runs are of."""
        return sorted({" ".join(filter(None, (origin.mpt, origin.git))) for origin in self.origins})


def read_runs(folders: Sequence[Path], split: str = "test") -> Runs:
    """Read all of the runs in and below some folders.

    Raises:
        FileNotFoundError: As :func:`mpt.report.gather.gather`.
        UserError: A run's files are damaged.
    """
    copies: list[Path] = []
    lines, unfinished = gather(folders, split, copies)
    runs = dict.fromkeys(Path(line["run"]) for line in lines)
    origins = [_origin(run, split) for run in runs]
    return Runs(lines, origins, unfinished, find_failures(folders), split, copies)


def _origin(run: Path, split: str) -> Origin:
    config, about = read_config(run) or ({}, {})
    metrics = read_metrics(run) or {}
    backbone = config.get("backbone") or {}
    return Origin(
        run=str(run),
        stage=str(config.get("stage", "")),
        tasks=", ".join(config.get("tasks") or {}),
        backbone=Path(str(backbone.get("path") or backbone.get("name") or "")).name,
        command=str(about.get("command", "")),
        started=str(about.get("started", "")),
        mpt=str((about.get("versions") or {}).get("mpt", "")),
        git=str(about.get("git") or ""),
        machine=str(about.get("machine", "")),
        seconds=(metrics.get("seconds") or {}).get("fit"),
        trained=(metrics.get("parameters") or {}).get("trained"),
        score=(metrics[split].get("average") or {}).get("score"),
        rows=(metrics[split].get("average") or {}).get("n"),
    )


def read_similarities(runs: Iterable[Path]) -> list[Heat]:
    """Read ``similarity.csv`` of the runs that have one.

    Raises:
        UserError: The file is damaged.
    """
    heats = []
    for run in runs:
        path = RunFolder(run).similarity_table
        if not path.is_file():
            continue
        try:
            with path.open(encoding="utf-8", newline="") as file:
                header, *rows = list(csv.reader(file)) or [[]]
            cosines = [[float(value) for value in row[1:]] for row in rows]
            if {len(row) for row in rows} != {len(header)} or len(rows) != len(header) - 1:
                raise ValueError(f"{len(rows)} rows for {len(header) - 1} tasks")
        except ValueError as error:
            raise UserError(f"{path}: damaged ({error}); overwrite=true runs the run again") from error
        heats.append(Heat(str(run), header[1:], cosines))
    return heats


def read_samples(runs: Iterable[Path], each: int) -> Iterator[Sample]:
    """Read the first test predictions of every task of the runs.

    Args:
        runs: Run folders.
        each: How many of a task of a run.

    Raises:
        UserError: A file is damaged.
    """
    for run in runs:
        for path in sorted(RunFolder(run).predictions.glob("*.jsonl")):
            with path.open(encoding="utf-8") as file:
                for number, text in enumerate(itertools.islice(file, each), start=1):
                    try:
                        yield _sample(str(run), path.stem, json.loads(text))
                    except (ValueError, KeyError, TypeError, AttributeError) as error:
                        raise UserError(f"{path}:{number}: not a prediction ({error})") from error


def _sample(run: str, task: str, line: dict[str, Any]) -> Sample:
    score = next(iter((line.get("scores") or {}).values()), None)
    return Sample(run, task, line["row_id"], line["input"], list(line["references"]), line["prediction"], score)
