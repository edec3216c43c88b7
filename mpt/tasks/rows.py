"""Read the rows of a task from the embedded world, files or the hub, each with its place for error messages."""

import csv
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mpt import world
from mpt.config import PAPER_SPLITS, TaskConfig

FILE_KINDS = ("jsonl", "csv", "parquet")


@dataclass(frozen=True)
class Row:
    """One row of data, and where it stands."""

    number: int
    where: str
    values: Mapping[str, Any]


def read_rows(name: str, config: TaskConfig, split: str, data_root: str | None) -> Iterator[Row]:
    """Read the rows of one split of a task.

    Args:
        name: The task's name.
        config: Its configuration.
        split: train, validation or test.
        data_root: Read ``data_root/<name>/<split>.jsonl`` in place of files or the hub.

    Raises:
        FileNotFoundError: There is no such file or hub data set.
        ValueError: A file is damaged; the message says where.
    """
    source = config.rows
    if source.world is not None:
        for number, values in enumerate(world.rows(source.world, split)):
            yield Row(number, f"world task {source.world}, {split} row {number}", values)
        return
    if data_root is not None:
        path = Path(data_root) / name / f"{split}.jsonl"
        if not path.is_file():
            raise FileNotFoundError(f"tasks.{name}: no file {path}; data_root needs one for each split")
        rows = _read_file(path)
    elif source.files is not None:
        rows = _read_file(_find_file(name, Path(source.files), split))
    else:
        rows = _read_hub(name, config, split)
    rows = _renamed(source.rename, rows)
    yield from rows if source.turns is None else _unfolded(source.turns, rows)


def _renamed(rename: Mapping[str, str], rows: Iterable[Row]) -> Iterator[Row]:
    """Give columns the names of the templates; a column that has such a name already stays."""
    for row in rows:
        values = dict(row.values)
        for old, new in rename.items():
            value: Any = row.values
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


def _find_file(name: str, folder: Path, split: str) -> Path:
    for kind in FILE_KINDS:
        if (folder / f"{split}.{kind}").is_file():
            return folder / f"{split}.{kind}"
    raise FileNotFoundError(
        f"tasks.{name}.rows.files: no {split} split in {folder}; it needs {split}.jsonl, .csv or .parquet"
    )


def _read_file(path: Path) -> Iterator[Row]:
    if path.suffix == ".parquet":
        from pyarrow import parquet  # takes a moment to import, and few files need it

        try:
            table = parquet.read_table(path).to_pylist()
        except (OSError, ValueError) as error:
            raise ValueError(f"{path}: not a Parquet file ({error})") from error
        for number, values in enumerate(table):
            yield Row(number, f"{path} row {number + 1}", values)
    elif path.suffix == ".csv":
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            try:
                for number, values in enumerate(reader):
                    if None in values or None in values.values():
                        raise ValueError(
                            f"{path}:{reader.line_num}: the row has not as many values as the header has names"
                        )
                    yield Row(number, f"{path}:{reader.line_num}", values)
            except (csv.Error, UnicodeDecodeError) as error:
                raise ValueError(f"{path}:{reader.line_num}: not CSV ({error})") from error
    else:
        yield from _read_jsonl(path)


def _read_jsonl(path: Path) -> Iterator[Row]:
    with path.open("rb") as file:
        number = 0
        for line, raw in enumerate(file, start=1):
            if not raw.strip():
                continue
            try:
                values = json.loads(raw.decode("utf-8"))
            except ValueError as error:
                raise ValueError(f"{path}:{line}: not JSON ({error}); each line is one object") from error
            if not isinstance(values, dict):
                raise ValueError(
                    f"{path}:{line}: is a {type(values).__name__}; each line is one object with columns"
                )
            yield Row(number, f"{path}:{line}", values)
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
