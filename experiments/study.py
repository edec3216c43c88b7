"""What the studies share: a study is a list of cells; what is missing runs, and its lines go to a CSV at once.

The CSV under ``results/`` is the memory of a study: it travels with the repository, as run folders do not. A study that
was stopped, or that is given more cells, goes on from it.
"""

import csv
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from mpt import __version__  # noqa: E402
from mpt.report.gather import gather  # noqa: E402

Line = dict[str, Any]
"""One task of one cell: what the cell is called, ``task``, and its numbers."""
VERSION = "mpt"
"""Column that says which version of the code a line is of."""
NUMBERS = (
    *("n", "score", "before", "oracle", "exact_match", "accuracy", "token_f1"),
    *("curve_mean", "best_step", "fit_seconds", "trained_parameters"),
)
"""Columns of a study's CSV after the cell's own and ``task``; empty where a run has no such number."""


@dataclass(frozen=True)
class Source:
    """A source run that cells adapt from; trained when the first missing cell needs it.

    Attributes:
        folder: Its run folder, from the project's root.
        overrides: Its part of the command line.
    """

    folder: Path
    overrides: tuple[str, ...]


@dataclass(frozen=True)
class Cell:
    """One run of a study.

    Attributes:
        names: What it is called in the CSV, such as ``{"method": "plain", "seed": "0"}``; the same keys in all cells.
        overrides: Its part of the command line.
        folder: Its run folder, from the project's root.
        source: What it adapts from; None: nothing.
    """

    names: Mapping[str, str]
    overrides: tuple[str, ...]
    folder: Path
    source: Source | None = field(default=None)


def run_study(
    path: Path, cells: Sequence[Cell], *, split: str = "test", jobs: int = 1, tasks: bool = True
) -> list[Line]:
    """Run the cells that a study's CSV lacks, and append the lines of each as soon as it has finished.

    Args:
        path: The CSV; it and its folder are made where they are not there.
        cells: All cells of the study, those in the CSV included.
        split: test or validation.
        jobs: Runs side by side, each with one thread where there are several.
        tasks: A line for each task; False: one for the average.

    Returns:
        The lines of these cells, in the order of the file.

    Raises:
        SystemExit: A run failed; what had finished is in the CSV.
    """
    refuse_other_versions(path)
    finished = {_key(line, cell.names) for line in read_lines(path) for cell in cells[:1]}
    missing = [cell for cell in cells if tuple(cell.names.items()) not in finished]
    threads = ("trainer.threads=1",) if jobs > 1 else ()
    lock = Lock()

    def finish(cell: Cell) -> None:
        train((*cell.overrides, *threads), cell.folder)
        lines, _ = gather([ROOT / cell.folder], split)
        kept = [line for line in lines if (line["task"] != "average") == tasks or len(lines) == 1]
        with lock:
            append_lines(path, cell.names, kept)

    with ThreadPoolExecutor(jobs) as pool:
        sources = {cell.source.folder: cell.source for cell in missing if cell.source is not None}
        list(pool.map(lambda source: train((*source.overrides, *threads), source.folder), sources.values()))
        list(pool.map(finish, missing))
    wanted = {tuple(cell.names.items()) for cell in cells}
    return [line for line in read_lines(path) if any(_key(line, cell.names) in wanted for cell in cells[:1])]


def refuse_other_versions(path: Path) -> None:
    """Refuse to go on with a CSV of another version: its numbers and the new ones would not be of one study.

    Raises:
        SystemExit: As said.
    """
    found = {line.get(VERSION, "0.1.0") for line in read_lines(path)} - {__version__}
    if found:
        raise SystemExit(
            f"{path}: has lines of mpt {', '.join(sorted(found))}, and this is {__version__}, whose numbers differ "
            "(CHANGELOG.md); move the file away to run the study anew"
        )


def train(overrides: Iterable[str], folder: Path) -> None:
    """Run `train.py` into a folder; a run that is finished already only prints its table.

    Raises:
        SystemExit: It failed; the end of what it printed is shown.
    """
    quiet = ("logger=csv", "trainer.progress_bar=false", "trainer.accelerator=cpu", f"hydra.run.dir={folder}")
    command = [sys.executable, "train.py", *overrides, *quiet]
    print(*command[1:], flush=True)
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")


def append_lines(path: Path, names: Mapping[str, str], lines: Iterable[Mapping[str, Any]]) -> None:
    """Append the lines of one finished cell in one piece, and have the system put them on the disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = [*names, "task", VERSION, *NUMBERS]
    begins = not path.is_file()
    with path.open("a", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        rows = [[{**line, **names, VERSION: __version__}.get(column, "") for column in columns] for line in lines]
        writer.writerows([columns, *rows] if begins else rows)
        file.flush()
        os.fsync(file.fileno())


def read_lines(path: Path) -> list[Line]:
    """Read a study's CSV; what can be a number is one, but for the names of cells."""
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    return [
        {key: float(value) if key in NUMBERS else value for key, value in line.items() if value != ""} for line in lines
    ]


def table_of(
    lines: Sequence[Line], down: str, across: str, cell: Callable[[list[Line]], object]
) -> tuple[list[str], list[list[object]]]:
    """Lay lines out as a table.

    Args:
        lines: From :func:`run_study`.
        down: The key whose values are the rows.
        across: The key whose values are the columns.
        cell: Makes the content of a cell from its lines.

    Returns:
        Header and rows.
    """
    columns = list(dict.fromkeys(line[across] for line in lines))
    rows: list[list[object]] = []
    for value in dict.fromkeys(line[down] for line in lines):
        of_row = [line for line in lines if line[down] == value]
        found = [[line for line in of_row if line[across] == column] for column in columns]
        rows.append([value, *(cell(each) if each else "–" for each in found)])
    return [down, *columns], rows


def _key(line: Mapping[str, Any], names: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    return tuple((name, str(line.get(name, ""))) for name in names)
