"""A task over rows that a Python program hands over in memory, which a run finds by their digest."""

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from mpt.config import TaskConfig
from mpt.errors import UserError, unknown
from mpt.tasks.files import Row

Rows = Sequence[Mapping[str, Any]]
_HELD: dict[str, Mapping[str, Rows]] = {}


def hold(rows: Mapping[str, Rows]) -> str:
    """Keep the splits of a task while this process lives.

    Args:
        rows: Split to rows.

    Returns:
        Their digest, 16 hexadecimal digits, which is part of a run's name.
    """
    digest = hashlib.sha256()
    for split in sorted(rows):
        digest.update(split.encode() + b"\0")
        for values in rows[split]:
            line = json.dumps(values, ensure_ascii=False, default=repr)
            digest.update(line.encode("utf-8", "surrogatepass") + b"\n")
    name = digest.hexdigest()[:16]
    _HELD[name] = rows
    return name


def read_held(digest: str, split: str, where: str) -> Iterator[Row]:
    """Read a split of rows that were handed over.

    Args:
        digest: From :func:`hold`.
        split: Which one.
        where: The task, for errors.

    Raises:
        UserError: They were handed over in another process, or there is no such split.
    """
    if digest not in _HELD:
        raise UserError(
            f"{where}: its rows lay in the memory of another process; hand them over again as an mpt.Task, or keep "
            "them in files"
        )
    if split not in _HELD[digest]:
        raise UserError(f"{where}: has no {split} rows; give mpt.Task {split}=, or a slice of train in splits=")
    for number, values in enumerate(_HELD[digest][split]):
        yield Row(number, f"{where}, {split} row {number}", dict(values))


class Task:
    """A data set in memory, cast as text-to-text; ``mpt.train(tasks=[Task(...)])`` takes it beside names of tasks.

    Its rows are lists of mappings, a frame of pandas, or a ``datasets.Dataset``, of which a ClassLabel column holds the
    names of its classes.

    Args:
        name: The task's; none that ships.
        train: Training rows.
        validation: Validation rows; None: a slice of ``train`` by ``splits``.
        test: Test rows; None: a slice of ``train`` by ``splits``.
        input: Template of the input over the columns of a row, such as ``"question: {question}"``.
        target: Template of the target.
        metrics: Metrics, the first of which is the score.
        splits: Split to a slice of other rows, such as ``{"validation": "train[:10%]", "test": "train[10%:30%]",
            "train": "train[30%:]"}``.
        settings: Further keys of ``tasks.NAME``, such as ``constrained=True`` or ``prefix="..."``.

    Raises:
        UserError: A row is no mapping, a split has none, or a key is unknown.
    """

    def __init__(
        self,
        name: str,
        *,
        train: Any,
        validation: Any = None,
        test: Any = None,
        input: str,
        target: str,
        metrics: Sequence[str] = ("exact_match",),
        splits: Mapping[str, str] | None = None,
        **settings: Any,
    ) -> None:
        keys = [each.name for each in dataclasses.fields(TaskConfig) if each.name != "rows"]
        if wrong := [key for key in settings if key not in keys]:
            raise UserError(unknown(f"mpt.Task {name}", wrong[0], keys, "no key"))
        given = {"train": train, "validation": validation, "test": test}
        given = {split: found for split, found in given.items() if found is not None}
        rows = {split: _list_rows(found, f"mpt.Task {name}, {split}") for split, found in given.items()}
        if empty := [split for split, found in rows.items() if not found]:
            raise UserError(f"mpt.Task {name}: {empty[0]} has no rows; give at least one")
        names = {column: found for each in (train, validation, test) for column, found in _class_names(each).items()}
        if settings.get("constrained") and "labels" not in settings and target.strip("{}") in names:
            column = target.strip("{}")
            settings["labels"] = {column: {each: each for each in names[column]}}
        self.name = name
        self.rows = rows
        self.values: dict[str, Any] = {
            "rows": {"held": hold(rows), "splits": dict(splits or {})},
            "input": input,
            "target": target,
            "metrics": list(metrics),
            **settings,
        }
        """What ``tasks.NAME`` holds."""

    def __repr__(self) -> str:
        counts = ", ".join(f"{len(found):,} {split}" for split, found in self.rows.items())
        return f"Task({self.name!r}: {counts})"


def _list_rows(rows: Any, where: str) -> list[dict[str, Any]]:
    """Make a list of mappings of plain values out of what a program has."""
    names = _class_names(rows)
    if hasattr(rows, "columns") and hasattr(rows, "to_dict"):  # a frame of pandas
        rows = rows.to_dict("records")
    if isinstance(rows, (str, bytes, Mapping)) or not isinstance(rows, Iterable):
        raise UserError(f"{where}: is a {type(rows).__name__}; give a list of mappings, a frame, or a datasets.Dataset")
    listed = []
    for number, row in enumerate(rows):
        if not isinstance(row, Mapping):
            raise UserError(f"{where} row {number}: is a {type(row).__name__}; a row is a mapping of columns to values")
        values = {str(column): _to_plain(value) for column, value in row.items()}
        for column, classes in names.items():
            values[column] = _name_class(values[column], classes, f"{where} row {number}: column {column!r}")
        listed.append(values)
    return listed


def _class_names(rows: Any) -> dict[str, list[str]]:
    """The names of the classes of each ClassLabel column of a ``datasets.Dataset``."""
    features = getattr(rows, "features", None)
    found = features.items() if isinstance(features, Mapping) else ()
    return {column: list(feature.names) for column, feature in found if type(feature).__name__ == "ClassLabel"}


def _name_class(value: Any, classes: Sequence[str], where: str) -> Any:
    if not isinstance(value, int):
        return value
    if not 0 <= value < len(classes):
        raise UserError(
            f"{where}: is {value}, and there are {len(classes)} classes; -1 hides the labels of a test split"
        )
    return classes[value]


def _to_plain(value: Any) -> Any:
    """A value of numpy's as one of Python's."""
    return value.tolist() if hasattr(value, "tolist") else value
