"""Read the rows of a task from the embedded world, files or the hub, each with its place for error messages."""

from collections.abc import Hashable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from mpt import world
from mpt.config import PAPER_SPLITS, RowsConfig, TaskConfig
from mpt.metrics import OF_CLASSES
from mpt.tasks.carve import carve, parse
from mpt.tasks.files import Row, find_file, read_file
from mpt.tasks.template import Template

SPLITS = ("train", "validation", "test")


def read_rows(name: str, config: TaskConfig, split: str, data_root: str | None) -> Iterator[Row]:
    """Read the rows of one split of a task.

    Args:
        name: The task's name.
        config: Its configuration.
        split: train, validation or test.
        data_root: Read ``data_root/<name>/<split>.jsonl`` in place of files or the hub; the task's own ``rows.root``
            goes before it.

    Raises:
        FileNotFoundError: There is no such file or hub data set.
        ValueError: A file is damaged; the message says where.
    """
    source = config.rows
    root = source.root or data_root
    if source.world is not None:
        for number, values in enumerate(world.rows(source.world, split)):
            yield Row(number, f"world task {source.world}, {split} row {number}", values)
        return
    if root is not None:
        path = Path(root) / name / f"{split}.jsonl"
        if not path.is_file():
            key = f"tasks.{name}.rows.root" if source.root else "data_root"
            raise FileNotFoundError(f"tasks.{name}: no file {path}; {key} needs one for each split")
        rows = _renamed(source.rename, read_file(path, RowsConfig()))
    elif source.files is not None:
        rows = _read_files(name, config, split)
    else:
        rows = _renamed(source.rename, _read_hub(name, config, split))
    yield from rows if source.turns is None else _unfolded(source.turns, rows)


def _read_files(name: str, config: TaskConfig, split: str) -> Iterator[Row]:
    """Read a split that is a file of its own, or that is carved out of one."""
    source = config.rows
    assert source.files is not None
    parts = {each: parse(source.splits.get(each, each)) for each in SPLITS}
    part = parts[split]
    try:
        path = find_file(Path(source.files), part.name)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"tasks.{name}.rows.files: {error}") from error
    except ValueError as error:
        raise ValueError(f"tasks.{name}.rows.files: {error}") from error
    rows = _renamed(source.rename, read_file(path, source))
    of_file = {each: found for each, found in parts.items() if found.name == part.name}
    if part.is_whole and len(of_file) == 1:
        yield from rows
        return
    listed = list(rows)
    try:
        chosen = carve(split, of_file, [_class_of(config, row) for row in listed], source.split_seed)
    except ValueError as error:
        raise ValueError(f"tasks.{name}.{error}") from error
    yield from (listed[position] for position in chosen)


def _class_of(config: TaskConfig, row: Row) -> Hashable:
    """The class that a row belongs to; None where the task has none."""
    if not config.metrics or config.metrics[0] not in OF_CLASSES:
        return None
    return tuple(str(row.values.get(column)) for column in Template(config.target).columns)


def _renamed(rename: Mapping[str, str], rows: Iterable[Row]) -> Iterator[Row]:
    """Give columns the names of the templates; a column that has such a name already stays."""
    for row in rows:
        values = dict(row.values)
        for old, new in rename.items():
            value: Any = row.values.get(old)
            if value is None:
                value = row.values
                for key in old.split("."):
                    value = value.get(key) if isinstance(value, Mapping) else None
            if value is not None:
                values[new] = value
        yield Row(row.number, row.where, values)


def _unfolded(column: str, rows: Iterable[Row]) -> Iterator[Row]:
    """Make one row of each turn but the first of a dialogue."""
    number = 0
    for row in rows:
        turns = row.values.get(column)
        if "context" in row.values and "response" in row.values:
            turns = [row.values["context"], row.values["response"]]
        elif not isinstance(turns, list):
            raise ValueError(
                f"{row.where}: column {column!r} is not a list of turns; the row has {', '.join(row.values)}"
            )
        for index in range(1, len(turns)):
            before = turns[0] if isinstance(turns[0], list) else turns[:index]
            yield Row(number, row.where, {**row.values, "context": before, "response": turns[index]})
            number += 1


def _read_hub(name: str, config: TaskConfig, split: str) -> Iterator[Row]:
    import datasets  # a second of imports that only hub data needs

    source = config.rows
    assert source.hub is not None
    splits = PAPER_SPLITS[source.paper_split] if source.paper_split else {}
    there = (splits | source.splits).get(split, split)
    datasets.disable_progress_bars()
    try:
        data = datasets.load_dataset(source.hub, source.subset, split=there, revision=source.revision)
    # A RuntimeError where the data set is a script, which is never run.
    except (OSError, RuntimeError, ValueError, datasets.exceptions.DatasetsError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise FileNotFoundError(
            f"tasks.{name}: the hub does not give {source.hub} {source.subset or ''} {there} ({reason}); "
            f"use data_root=FOLDER with {name}/{split}.jsonl"
        ) from error
    for number, values in enumerate(data):
        yield Row(number, f"{source.hub} {there} row {number}", values)
