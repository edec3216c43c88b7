"""Read the rows of a task, from the embedded world to the hub, each with its place for error messages."""

import hashlib
from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from mpt import world
from mpt.config import PAPER_SPLITS, RowsConfig, TaskConfig
from mpt.errors import UserError
from mpt.metrics import METRICS
from mpt.tasks.carve import Part, carve, parse
from mpt.tasks.files import Row, find_file, list_files, read_file
from mpt.tasks.held import read_held
from mpt.tasks.preprocess import preprocess
from mpt.tasks.readers import read_own
from mpt.tasks.template import read_template

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
        UserError: A file is damaged; the message says where.
    """
    source = config.rows
    if source.world is not None:
        for number, values in enumerate(world.rows(source.world, split)):
            yield Row(number, f"world task {source.world}, {split} row {number}", values)
        return
    root = source.root or data_root
    if source.held is not None:
        rows = _read_python(name, config, split)
    elif root is not None:
        path = Path(root) / name / f"{split}.jsonl"
        if not path.is_file():
            key = f"tasks.{name}.rows.root" if source.root else "data_root"
            raise FileNotFoundError(f"tasks.{name}: no file {path}; {key} needs one for each split")
        rows = rename_columns(source.rename, read_file(path, RowsConfig()))
    elif source.files is not None:
        rows = _read_files(name, config, split)
    elif source.reader is not None:
        rows = _read_python(name, config, split)
    else:
        rows = _read_hub(name, config, split)
    if source.turns is not None:
        rows = _unfolded(source.turns, rows)
    yield from rows if source.preprocess is None else preprocess(source.preprocess, rows, split)


def list_sources(name: str, config: TaskConfig, data_root: str | None) -> list[Path]:
    """List the files of a task's rows that are there; of the embedded world and the hub there are none."""
    source = config.rows
    if source.world is not None or source.held is not None:
        return []
    if (root := source.root or data_root) is not None:
        paths = [Path(root) / name / f"{split}.jsonl" for split in SPLITS]
        return [path for path in paths if path.is_file()]
    if source.files is None:
        return []
    return [path for paths in list_files(Path(source.files)).values() for path in paths]


def stamp_rows(name: str, config: TaskConfig, data_root: str | None) -> str | None:
    """Hash the sizes and times of the files of a task's rows; None of the hub and of readers, which have none here.

    While it stays the same, nobody has to read the rows to know that they are the same.
    """
    source = config.rows
    if source.held is not None:
        return source.held
    if any((source.hub, source.reader)) and not (source.root or data_root):
        return None
    found = [
        (path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in list_sources(name, config, data_root)
    ]
    return hashlib.sha256(repr(sorted(found)).encode()).hexdigest()[:16]


def _read_files(name: str, config: TaskConfig, split: str) -> Iterator[Row]:
    """Read a split that is a file of its own, or that is carved out of one."""
    source = config.rows
    assert source.files is not None
    parts = {each: parse(source.splits.get(each, each)) for each in SPLITS}
    try:
        path = find_file(Path(source.files), parts[split].name)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"tasks.{name}.rows.files: {error}") from error
    except UserError as error:
        raise UserError(f"tasks.{name}.rows.files: {error}") from error
    return _carved(name, config, split, parts, rename_columns(source.rename, read_file(path, source)))


def _read_python(name: str, config: TaskConfig, split: str) -> Iterator[Row]:
    """Read a split from a plugin's reader, or of rows in memory."""
    source, where = config.rows, f"tasks.{name}"
    parts = {each: parse(source.splits.get(each, each)) for each in SPLITS}
    if source.reader is not None:
        rows = read_own(source.reader, parts[split].name, source.options, f"{where}.rows.reader")
    else:
        assert source.held is not None
        rows = read_held(source.held, parts[split].name, where)
    return _carved(name, config, split, parts, rename_columns(source.rename, rows))


def _carved(name: str, config: TaskConfig, split: str, parts: Mapping[str, Part], rows: Iterator[Row]) -> Iterator[Row]:
    """Take a split's part of the rows of its file."""
    of_file = {each: part for each, part in parts.items() if part.name == parts[split].name}
    if parts[split].is_whole and len(of_file) == 1:
        yield from rows
        return
    listed = list(rows)
    classes = [_class_of(config, row) for row in listed]
    try:
        chosen = carve(split, of_file, classes, config.rows.split_seed)
    except UserError as error:
        raise UserError(f"tasks.{name}.{error}") from error
    yield from (listed[position] for position in chosen)


def _class_of(config: TaskConfig, row: Row) -> Hashable:
    """The class that a row belongs to; None where the task has none."""
    first = METRICS.get(config.metrics[0]) if config.metrics else None
    if first is None or not first.needs_classes:
        return None
    return tuple(str(row.values.get(column)) for column in read_template(config.target).columns)


def rename_columns(rename: Mapping[str, str], rows: Iterable[Row]) -> Iterator[Row]:
    """Give columns the names of the templates; a column that has such a name already stays."""
    for row in rows:
        values = dict(row.values)
        for old, new in rename.items():
            value: Any = row.values.get(old)
            if value is None:
                value = row.values
                for key in old.split("."):
                    value = _reach(value, key)
            if value is not None:
                values[new] = value
        yield Row(row.number, row.where, values)


def _reach(value: Any, key: str) -> Any:
    """Take a key of a mapping, or of each mapping of a list."""
    if isinstance(value, list) and value and all(isinstance(item, Mapping) for item in value):
        return [item.get(key) for item in value]
    return value.get(key) if isinstance(value, Mapping) else None


def _unfolded(column: str, rows: Iterable[Row]) -> Iterator[Row]:
    """Make one row of each turn but the first of a dialogue."""
    for row in rows:
        turns = row.values.get(column)
        if "context" in row.values and "response" in row.values:
            yield row
            continue
        if not isinstance(turns, list):
            raise UserError(
                f"{row.where}: column {column!r} is not a list of turns; the row has {', '.join(row.values)}"
            )
        for index in range(1, len(turns)):
            values = {**row.values, "context": turns[:index], "response": turns[index]}
            yield replace(row, values=values, part=index)


def _read_hub(name: str, config: TaskConfig, split: str) -> Iterator[Row]:
    import datasets  # a second of imports that only hub data needs

    source = config.rows
    assert source.hub is not None
    paper = PAPER_SPLITS[source.paper_split] if source.paper_split else {}
    named = {each: (paper | source.splits).get(each, each) for each in SPLITS}
    parts = {each: _parse_hub(text) for each, text in named.items()}
    where = parts[split].name
    datasets.disable_progress_bars()
    try:
        data = datasets.load_dataset(source.hub, source.subset, split=where, revision=source.revision)
    # A RuntimeError where the data set is a script, which is never run.
    except (OSError, RuntimeError, ValueError, datasets.exceptions.DatasetsError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise FileNotFoundError(
            f"tasks.{name}: the hub does not give {source.hub} {source.subset or ''} {where} ({reason}); "
            f"use data_root=FOLDER with {name}/{split}.jsonl"
        ) from error
    rows = (Row(number, f"{source.hub} {where} row {number}", values) for number, values in enumerate(data))
    yield from _carved(name, config, split, parts, rename_columns(source.rename, rows))


def _parse_hub(text: str) -> Part:
    """A part of a hub split; what only the hub's own library understands is one whole."""
    try:
        return parse(text)
    except UserError:
        return Part(text)
