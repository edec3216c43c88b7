"""The memory of a study: ``cells.jsonl``, a line for each job that ended, with what the statistics need and no texts.

It travels with a repository, as run folders do not: a fresh clone goes on from it. The last line of a place counts.
"""

import csv
import hashlib
import io
import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from mpt import __version__
from mpt.atomic import make_folder, write_atomically
from mpt.errors import UserError
from mpt.report.row_scores import read_row_scores
from mpt.run.folder import read_config
from mpt.run.origin import code_digest, git_revision
from mpt.run.record import as_cell, read_metrics
from mpt.study.plan import Job

DIGITS = 6
"""Decimals of row scores that are kept."""
NOT_IN_CSV = ("row_scores",)


@dataclass(frozen=True)
class Cell:
    """What a job left; without a score where it failed."""

    phase: str
    method: str
    level: str
    target: str
    draw: int
    candidate: int | None
    job: str
    """Hash of its overrides."""
    run: str
    """Its run folder."""
    error: str | None = None
    """Why it failed."""
    score: float | None = None
    """Test score of the best step; of a source the average over its tasks."""
    validation: float | None = None
    before: float | None = None
    """Test score before any step."""
    n: int | None = None
    metric: str = ""
    best_step: int | None = None
    trained: int | None = None
    """Numbers that are trained."""
    stored: int | None = None
    """Numbers to keep for the target."""
    seconds: float | None = None
    """The run's own, of a group its share."""
    cost: float | None = None
    """Seconds by the clock, all of its group shared out; None where it was finished before."""
    data: str = ""
    """Digest of the rows that it read."""
    row_ids: str = ""
    """Digest of the test rows that it was scored on, in order."""
    row_scores: list[float] | None = None
    """What each test row scores, or its pseudo-value; of final runs."""
    backbone: str = ""
    machine: str = ""
    started: str = ""
    mpt: str = ""
    code: str = ""
    git: str = ""

    @property
    def place(self) -> tuple[Any, ...]:
        """As :attr:`mpt.study.plan.Job.place`."""
        candidate = self.candidate if self.phase == "tuning" else None
        return self.phase, self.method, self.level, self.target, self.draw, candidate


def read_cell(job: Job, folder: Path, cost: float | None) -> Cell:
    """Read what the statistics need out of a finished run's folder.

    Raises:
        UserError: The folder is damaged, or its run is of other code than this.
    """
    config, about = read_config(folder) or ({}, {})
    metrics = read_metrics(folder)
    if metrics is None:
        raise UserError(f"{folder}: the run is not finished; the same command goes on")
    if about.get("code") != code_digest():
        raise UserError(
            f"{folder}: was run by other code ({_shown(about)}) than this, whose numbers may differ; remove the "
            "study's runs to run it anew, or check that code out"
        )
    name = job.target or "average"
    tests = metrics["test"]
    test = tests.get(name) or next(iter(tests.values()))  # a source of one task has no average
    validation = metrics["validation"].get(name) or next(iter(metrics["validation"].values()))
    metric = str(metrics.get("metric", {}).get(job.target, ""))
    rows = None
    if job.phase == "final":
        line = {"run": str(folder), "task": job.target, "split": "test", "metric": metric, "score": test["score"]}
        rows = read_row_scores(line, "score")
    digests = (about.get("rows") or {}).get("digests") or {}
    backbone = config.get("backbone") or {}
    return Cell(
        **_place(job),
        run=folder.as_posix(),
        score=test["score"],
        validation=validation["score"],
        before=test.get("before"),
        n=int(test["n"]),
        metric=metric,
        best_step=(metrics.get("best_step") or {}).get(job.target),
        trained=metrics["parameters"]["trained"],
        stored=metrics["parameters"]["total"],
        seconds=round(sum(metrics["seconds"].values()), 3),
        cost=None if cost is None else round(cost, 3),
        data=_digest(digests),
        row_ids="" if rows is None else _digest(rows.row_ids),
        row_scores=None if rows is None else [_short(value) for value in rows.values.tolist()],
        backbone=Path(str(backbone.get("path") or backbone.get("name") or "")).name,
        machine=str(about.get("machine", "")),
        started=str(about.get("started", "")),
        mpt=str((about.get("versions") or {}).get("mpt", "")),
        code=str(about["code"]),
        git=str(about.get("git") or ""),
    )


def failed_cell(job: Job, folder: Path, error: str) -> Cell:
    """Say that a job failed."""
    git = git_revision() or ""
    return Cell(**_place(job), run=folder.as_posix(), error=error, mpt=__version__, code=code_digest(), git=git)


def _place(job: Job) -> dict[str, Any]:
    phase, method, level, target, draw, _ = job.place
    named = {"phase": phase, "method": method, "level": level, "target": target, "draw": draw}
    return named | {"candidate": job.candidate, "job": job.hash}


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:12]


def _short(value: float) -> float:
    """A row score in few characters: 1 in place of 1.0."""
    value = round(value, DIGITS)
    return int(value) if value.is_integer() else value


def _shown(about: dict[str, Any]) -> str:
    return f"mpt {(about.get('versions') or {}).get('mpt', '?')}, code {about.get('code', 'unknown')}"


class Memory:
    """The cells of a study, on the disk as soon as they are known.

    Args:
        path: ``cells.jsonl``; it and its folder are made with the first cell.

    Raises:
        UserError: A line is no cell.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.cells: dict[tuple[Any, ...], Cell] = {}
        self._first: dict[tuple[Any, ...], Cell] = {}
        if not path.is_file():
            return
        known = {each.name for each in fields(Cell)}
        text = path.read_text(encoding="utf-8")
        for number, line in enumerate(text.split("\n"), start=1):
            if not line:
                continue
            try:
                cell = Cell(**{key: value for key, value in json.loads(line).items() if key in known})
            except (ValueError, TypeError, AttributeError) as error:
                if number == text.count("\n") + 1:  # cut off while it was written; the run folder still has it
                    self._cut(text)
                    continue
                raise UserError(f"{path}:{number}: not a cell of a study ({error}); remove the line") from error
            self.cells[cell.place] = cell
            self._check_data(cell)

    def _cut(self, text: str) -> None:
        with write_atomically(self.path) as temporary:
            temporary.write_text(text[: text.rfind("\n") + 1], encoding="utf-8")

    def add(self, cells: Iterable[Cell]) -> None:
        """Append cells in one piece, and have the system put them on the disk.

        Raises:
            UserError: A cell is of other rows than those of its target before.
        """
        cells = list(cells)
        for cell in cells:
            self._check_data(cell)
            self.cells[cell.place] = cell
        make_folder(self.path.parent)
        with self.path.open("a", encoding="utf-8") as file:
            file.write("".join(json.dumps(asdict(cell), ensure_ascii=False) + "\n" for cell in cells))
            file.flush()
            os.fsync(file.fileno())

    def _check_data(self, cell: Cell) -> None:
        if cell.error is not None:
            return
        first = self._first.setdefault(
            (cell.phase, cell.level, cell.target, cell.phase == "source" and cell.method), cell
        )
        if (first.data, first.row_ids) != (cell.data, cell.row_ids):
            raise UserError(
                f"{cell.run}: read other rows of {cell.target or 'its tasks'} than {first.run}; the data changed under "
                f"the study, so move {self.path} away to run it anew"
            )

    def finished(self, job: Job) -> Cell | None:
        """The cell of a job that ended with a score; None where it has to run."""
        cell = self.cells.get(job.place)
        return cell if cell is not None and cell.error is None and cell.job == job.hash else None

    def refuse_other_code(self) -> None:
        """Refuse to add to cells of other code: their numbers and the new ones would not be of one study.

        Raises:
            UserError: As said.
        """
        others = sorted({(cell.mpt, cell.code) for cell in self.cells.values()} - {(__version__, code_digest())})
        if others:
            shown = "; ".join(f"mpt {version}, code {code}" for version, code in others)
            raise UserError(
                f"{self.path}: has cells of {shown}, and this is mpt {__version__}, code {code_digest()}, whose "
                "numbers may differ; move the file and the study's runs away to run it anew, or check that code out"
            )

    def export(self, path: Path) -> None:
        """Write the cells as a CSV, without the row scores."""
        columns = [each.name for each in fields(Cell) if each.name not in NOT_IN_CSV]
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows([as_cell(_plain(getattr(cell, name))) for name in columns] for cell in self.cells.values())
        with write_atomically(path) as temporary:
            temporary.write_text(text.getvalue(), encoding="utf-8")


def _plain(value: Any) -> Any:
    return "" if value is None else value
