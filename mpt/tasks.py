"""Tasks: data sets told as text to text; their rows, templates and catalogue."""

import csv
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml

from mpt import world
from mpt.config import TaskConfig
from mpt.metrics import METRICS

SPLITS = ("train", "validation", "test")
FILE_KINDS = ("jsonl", "csv", "parquet")
# Tasks whose first metric is one of these have classes: a few-shot draw is balanced over their targets.
OF_CLASSES = ("accuracy", "f1_true", "matthews")
# What metrics.json keeps beside the names of tasks.
RESERVED_NAMES = ("average", "prompt")


@dataclass(frozen=True)
class Example:
    """One row as text."""

    row_id: str
    """Split and 0-based row in the data: ``train:17``."""
    input: str
    target: str
    references: tuple[str, ...]
    """Every accepted target; never empty."""
    label: str | None = None
    """The class, for a classification."""


@dataclass(frozen=True)
class Row:
    """One row of data, and where it stands."""

    number: int
    where: str
    values: Mapping[str, Any]


class Template:
    """A text with ``{column}`` in it; ``{{`` and ``}}`` are braces.

    A template is data: it reaches into no attribute, index or format.

    Raises:
        ValueError: A brace without its partner, or more than a column's name between braces.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self._parts: list[tuple[str, str | None]] = []
        position = 0
        while position < len(text):
            found = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]").search(text, position)
            if found is None:
                self._parts.append((text[position:], None))
                break
            literal, column = text[position : found.start()], found.group(1)
            if found.group() in ("{{", "}}"):
                self._parts.append((literal + found.group()[0], None))
            elif column is None:
                raise ValueError(
                    f"{text!r}: a lone {found.group()!r}; write {found.group() * 2!r} for the character"
                )
            elif not re.fullmatch(r"[A-Za-z_]\w*", column):
                raise ValueError(
                    f"{text!r}: '{{{column}}}' is not the name of a column; write {{column}} alone"
                )
            else:
                self._parts.append((literal, column))
            position = found.end()

    @property
    def columns(self) -> list[str]:
        """The columns that it names, in order."""
        return [column for _, column in self._parts if column is not None]

    def fill(self, values: Mapping[str, str]) -> str:
        """Put the columns' texts in their places."""
        return "".join(
            literal + (values[column] if column is not None else "") for literal, column in self._parts
        )


def check_task(name: str, config: TaskConfig) -> list[str]:
    """Find everything that is wrong with a task's configuration by itself.

    Returns:
        One sentence per error.
    """
    return [f"tasks.{name}{error}" for error in [*_name_errors(name), *_errors(config)]]


def _name_errors(name: str) -> Iterator[str]:
    if name in RESERVED_NAMES:
        yield f": metrics.json keeps the name {name!r} for its own; give the task another"
    if not re.fullmatch(r"\w[\w.-]*", name):
        yield ": the name becomes a file's name; use letters, digits, '_', '-' and '.'"


def _errors(config: TaskConfig) -> Iterator[str]:
    given = [key for key in ("world", "files", "hub") if getattr(config.rows, key) is not None]
    if len(given) != 1:
        yield f".rows: has {', '.join(given) or 'no source'}; give exactly one of world, files and hub"
    if config.rows.world is not None and config.rows.world not in world.TASKS:
        close = get_close_matches(config.rows.world, world.TASKS, n=1)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        yield f".rows.world: no task {config.rows.world!r} in the embedded world{hint}"
    if unknown := sorted(set(config.rows.splits) - set(SPLITS)):
        yield f".rows.splits: unknown split {', '.join(map(repr, unknown))}; choose from {', '.join(SPLITS)}"
    for key in ("input", "target"):
        try:
            if not Template(getattr(config, key)).columns:
                yield f".{key}: {getattr(config, key)!r} names no column; every row would be the same"
        except ValueError as error:
            yield f".{key}: {error}"
    if not config.metrics:
        yield f".metrics: none given; choose from {', '.join(METRICS)}"
    for metric in config.metrics:
        if metric not in METRICS:
            close = get_close_matches(metric, METRICS, n=1)
            hint = f" (did you mean {close[0]!r}?)" if close else ""
            yield f".metrics: unknown metric {metric!r}; choose one of {', '.join(METRICS)}{hint}"
    if not config.weight > 0 or config.weight == float("inf"):
        yield f".weight: is {config.weight}; λ must be a number above 0"
    for key in ("max_source_tokens", "max_target_tokens"):
        if getattr(config, key) < 2:
            yield f".{key}: is {getattr(config, key)}; it must be at least 2, a token and the end"


def load_split(name: str, config: TaskConfig, split: str, data_root: str | None = None) -> list[Example]:
    """Read one split of a task.

    Args:
        name: The task's name.
        config: Its configuration.
        split: train, validation or test.
        data_root: Read ``data_root/<name>/<split>.jsonl`` in place of files or the hub.

    Returns:
        At least one example.

    Raises:
        FileNotFoundError: There is no such file or hub data set.
        ValueError: A row is broken; the message says which line of which file, and what would be right.
    """
    templates = Template(config.input), Template(config.target)
    rows = _rows(name, config, split, data_root)
    examples = [_example(name, config, templates, split, row) for row in rows]
    if not examples:
        raise ValueError(f"tasks.{name}: the {split} split has no rows; give at least one")
    return examples


def catalogue(folder: Path) -> list[tuple[str, str, str, str, str]]:
    """The tasks that a folder of configurations holds.

    Returns:
        Name, family, where the rows come from, metrics, and the one-line description of each, by source and name.
    """
    found = []
    for path in sorted(folder.glob("*.yaml")):
        text = path.read_text(encoding="utf-8")
        config = yaml.safe_load(text)
        comments = [line[1:].strip() for line in text.splitlines() if line[:1] == "#"]
        described = next((line for line in comments if not line.startswith("@package")), "")
        rows = config["rows"]
        if rows.get("world") is not None:
            source = "world, held out" if config.get("held_out") else "world"
        else:
            source = " ".join(filter(None, (rows.get("hub") or rows.get("files"), rows.get("subset"))))
        description = described.partition(" Embedded world;")[0].partition("; python train.py")[0]
        family, metrics = config.get("family", ""), ", ".join(config["metrics"])
        found.append((path.stem, family, source, metrics, description))
    return sorted(
        found, key=lambda task: (not task[2].startswith("world"), task[2] == "world, held out", task[1])
    )


def _example(
    name: str, config: TaskConfig, templates: tuple[Template, Template], split: str, row: Row
) -> Example:
    values = {column: _labelled(config, column, value, row) for column, value in row.values.items()}
    for key, template in zip(("input", "target"), templates, strict=True):
        for column in template.columns:
            if values.get(column) is None:
                has = "is empty" if column in values else "is missing"
                raise ValueError(
                    f"{row.where}: column {column!r} of tasks.{name}.{key} {has}; the row has "
                    f"{', '.join(sorted(values)) or 'no columns'}"
                )
    text = templates[0].fill({c: _text(values[c], config.join) for c in templates[0].columns}).strip()
    target = templates[1].fill({c: _text(_first(values[c]), " ") for c in templates[1].columns}).strip()
    if not target:
        raise ValueError(f"{row.where}: the target of tasks.{name} is empty; every row needs one")
    if not text:
        raise ValueError(f"{row.where}: the input of tasks.{name} is empty; every row needs one")
    references: tuple[str, ...] = ()
    if config.references is not None and values.get(config.references):
        listed = values[config.references]
        references = tuple(
            _text(item, " ").strip() for item in (listed if isinstance(listed, list) else [listed])
        )
    label = target if config.metrics and config.metrics[0] in OF_CLASSES else None
    return Example(f"{split}:{row.number}", text, target, references or (target,), label)


def _labelled(config: TaskConfig, column: str, value: Any, row: Row) -> Any:
    """The label word of a value; a value that is one already stays."""
    words = config.labels.get(column)
    if words is None or value is None:
        return value
    told = _text(value, " ")
    if told in words:
        return words[told]
    if told in words.values():
        return told
    raise ValueError(
        f"{row.where}: column {column!r} is {told!r}, which has no label word; the values are {', '.join(words)}"
    )


def _first(value: Any) -> Any:
    return (value[0] if value else "") if isinstance(value, list) else value


def _text(value: Any, join: str) -> str:
    if isinstance(value, list):
        return join.join(_text(item, join) for item in value)
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        # Single precision told as double has many digits: 3.799999952316284.
        return str(round(value, 4))
    return str(value)


def _rows(name: str, config: TaskConfig, split: str, data_root: str | None) -> Iterator[Row]:
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
    there = source.splits.get(split, split)
    datasets.disable_progress_bars()
    try:
        data = datasets.load_dataset(source.hub, source.subset, split=there, revision=source.revision)
    # A RuntimeError where the data set is a script, which is never run.
    except (OSError, RuntimeError, ValueError, datasets.exceptions.DatasetsError) as error:
        told = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise FileNotFoundError(
            f"tasks.{name}: the hub does not give {source.hub} {source.subset or ''} {there} ({told}); "
            f"use data_root=FOLDER with {name}/{split}.jsonl"
        ) from error
    for number, values in enumerate(data):
        yield Row(number, f"{source.hub} {there} row {number}", values)
