"""Write a run's metrics and tables, each file whole or not at all, and read them back."""

import csv
import io
import json
import math
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mpt.atomic import make_folder, write_atomically
from mpt.errors import UserError
from mpt.tasks import SPLITS

NUMBER = re.compile(r"[-+]?[\d.,]+(e[-+]?\d+)?%?", re.IGNORECASE)
METRICS = "metrics.json"
Scores = dict[str, dict[str, float]]
"""Task (or ``average``) to its numbers."""


def add_average(scores: Scores) -> Scores:
    """Add ``average``: the mean over tasks of score, before and oracle, each where all tasks have it."""
    average: dict[str, float] = {"n": sum(int(task["n"]) for task in scores.values())}
    if all("n_available" in task for task in scores.values()):
        average["n_available"] = sum(int(task["n_available"]) for task in scores.values())
    for key in ("score", "before", "oracle"):
        values = [task[key] for task in scores.values() if key in task]
        if len(values) == len(scores):
            average[key] = sum(values) / len(values)
    return {**scores, "average": average}


def write_metrics(folder: Path, metrics: Mapping[str, Any]) -> None:
    """Write ``metrics.json``; it stands only when the run is finished.

    A side figure that is no finite number becomes null, with a warning: it never costs the result.
    """
    lost: list[str] = []
    finite = _finite(metrics, "", lost)
    if lost:
        warnings.warn(f"{folder}/metrics.json: {', '.join(lost)} is not finite, and null there", stacklevel=2)
    write_json(folder / METRICS, finite)


def _finite(value: Any, path: str, lost: list[str]) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(item, f"{path}/{key}" if path else str(key), lost) for key, item in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        lost.append(path)
        return None
    return value


def read_metrics(folder: Path) -> dict[str, Any] | None:
    """Read ``metrics.json``; None where the run is not finished.

    Raises:
        UserError: The file is damaged.
    """
    path = folder / METRICS
    if not path.is_file():
        return None
    try:
        metrics = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error}); overwrite=true runs the run again") from error
    if not isinstance(metrics, dict):
        raise UserError(f"{path}: not the metrics of a run; overwrite=true runs the run again")
    for split in SPLITS:
        _check_scores(metrics.get(split), f"{path}: {split}")
    return metrics


def _check_scores(of_tasks: Any, where: str) -> None:
    """Refuse scores that are none; the split may be missing."""
    if of_tasks is None:
        return
    tasks = of_tasks if isinstance(of_tasks, dict) else {"it": of_tasks}
    for task, scores in tasks.items():
        if not isinstance(scores, dict):
            raise UserError(f"{where}: {task} is {scores!r}, not scores by their names; overwrite=true runs it again")
        for name in ("score", "n"):
            value = scores.get(name)
            number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
            if value is not None and (not number or (name == "n" and value < 0)):
                raise UserError(f"{where}: {task}: {name} is {value!r}, which none is; overwrite=true runs it again")


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write a JSON object, whole or not at all."""
    with write_atomically(path) as temporary:
        temporary.write_text(json.dumps(values, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write a table, whole or not at all."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(map(as_cell, header))
    writer.writerows(map(as_cell, row) for row in rows)
    make_folder(path.parent)
    with write_atomically(path) as temporary:
        temporary.write_text(text.getvalue(), encoding="utf-8")


def as_cell(value: Any) -> Any:
    """Put a quote before a text that a spreadsheet would compute: data bring texts such as ``=HYPERLINK(...)``."""
    if isinstance(value, str) and len(value) > 1 and value[0] in "=+-@\t\r" and not NUMBER.fullmatch(value):
        return f"'{value}"
    return value


def write_lines(path: Path, objects: Iterable[Mapping[str, Any]]) -> None:
    """Write one JSON object per line, making the folder that the file lies in."""
    make_folder(path.parent)
    lines = [json.dumps(dict(row), ensure_ascii=False) + "\n" for row in objects]
    with write_atomically(path) as temporary:
        temporary.write_text("".join(lines), encoding="utf-8")
