"""Draft a task's YAML file from the columns of a data set: a first guess to read, correct and check."""

import json
import math
import os
import re
import statistics
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from mpt.config import RowsConfig
from mpt.errors import UserError
from mpt.tasks.files import DELIMITERS, find_file, list_files, read_file
from mpt.tasks.text import is_missing, to_text

MOST_ROWS = 20_000
"""Rows of the training file that are looked at."""
TARGETS = (
    *("label", "labels", "class", "category", "target", "answer", "answers", "output", "response", "reply"),
    *("summary", "translation", "intent", "sentiment", "topic", "score", "rating", "completion"),
)
"""Names of columns that hold what is to be answered, the likeliest first."""
NO_INPUT = re.compile(r"(?i)(.*[_ ])?(\w?id|idx|index|uuid|guid|url|date|time|timestamp)|unnamed: \d+|")
"""Names of columns that say nothing of the answer."""
MOST_CLASSES = 50
VALIDATIONS = ("validation", "valid", "val", "dev")


class Draft(NamedTuple):
    """A drafted task.

    Attributes:
        text: The YAML file.
        notes: Guesses that need a reader.
    """

    text: str
    notes: list[str]


def draft(
    name: str,
    files: str,
    *,
    target: str | None = None,
    delimiter: str | None = None,
    encoding: str | None = None,
    config_dir: str = "mine",
) -> Draft:
    """Draft the YAML file of a task.

    Args:
        name: The task's name.
        files: A data file, or a folder of them.
        target: The column to answer; None: guessed.
        delimiter: Separates the fields of CSV files; None: guessed from the header.
        encoding: The files'; None: UTF-8, or whichever fits.
        config_dir: The folder that ``--config-dir`` will name.

    Raises:
        FileNotFoundError: There is no data file.
        UserError: It cannot be read, or there is no such column.
    """
    where = Path(files)
    splits = _splits(where)
    path = find_file(where, splits["train"].partition("[")[0])
    source = RowsConfig(files=files)
    source.encoding = encoding or _guess_encoding(path)
    source.delimiter = delimiter or _guess_delimiter(path, source.encoding)
    source.quoting = _guess_quoting(path, source)
    rows = [row.values for row in islice(read_file(path, source), MOST_ROWS)]
    if not rows:
        raise UserError(f"{path}: has no rows; give at least one")
    columns = list(dict.fromkeys(column for row in rows for column in row))
    answer = _target_of(columns, rows, target, path)
    names = _rename(columns)
    references = next((column for column in columns if _holds_all_answers(column, answer, rows)), None)
    inputs = [column for column in columns if column not in (answer, references) and _is_input(column, rows)]
    if not inputs:
        raise UserError(f"{path}: no column that could be an input beside {answer!r}; it has {', '.join(columns)}")
    writer = _Writer(name, source, splits, rows, columns, inputs, answer, references, names, config_dir)
    return Draft("\n".join(writer.lines()) + "\n", writer.notes)


def _splits(where: Path) -> dict[str, str]:
    """Our splits to the files that are there; what is missing is carved out of the training file."""
    found = list_files(where)
    if not found:
        find_file(where, "train")  # says what is wrong
    train = "train" if "train" in found else next(iter(found)) if len(found) == 1 else None
    if train is None:
        raise UserError(
            f"{where}: has {', '.join(found)}, and none is named train; give files=FILE, or name the files train, "
            "validation and test"
        )
    splits = {
        "validation": next((each for each in VALIDATIONS if each in found), None),
        "test": "test" if "test" in found else None,
    }
    start = 0
    carved = {}
    for split, name in splits.items():
        carved[split] = name or f"{train}[{start}%:{start + 10}%]"
        start += 0 if name else 10
    return {"train": f"{train}[{start}%:]" if start else train, **carved}


def _guess_encoding(path: Path) -> str:
    if path.suffix == ".parquet":
        return "utf-8"
    for encoding in ("utf-8", "utf-16", "cp1252"):
        try:
            # Any delimiter will do to find out whether the bytes are text; a ragged row is no matter yet.
            source = RowsConfig(encoding=encoding, delimiter=None)
            for _ in read_file(path, source):
                pass
        except ValueError as error:
            if isinstance(error.__cause__, UnicodeError):
                continue
        return encoding
    return "latin-1"  # in which every byte is a character


def _guess_quoting(path: Path, source: RowsConfig) -> str | None:
    """Quotes are text where a file cannot be read otherwise."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for _ in read_file(path, source):
                pass
    except UserError as error:
        return "none" if "rows.quoting" in str(error) else None
    return None


def _guess_delimiter(path: Path, encoding: str) -> str | None:
    """The delimiter that makes several columns of the header; None where the ending says it already."""
    if ".csv" not in path.name and ".tsv" not in path.name:
        return None
    usual = "\t" if ".tsv" in path.name else ","
    for delimiter in (usual, *DELIMITERS):
        try:
            row = next(iter(read_file(path, RowsConfig(delimiter=delimiter, encoding=encoding))), None)
        except ValueError:
            continue
        if row is not None and len(row.values) > 1:
            return None if delimiter == usual else delimiter
    return None


def _target_of(columns: Sequence[str], rows: Sequence[Mapping[str, Any]], wanted: str | None, path: Path) -> str:
    if wanted is not None:
        if wanted not in columns:
            raise UserError(f"target: {path} has no column {wanted!r}; it has {', '.join(columns)}")
        return wanted
    by_name = {column.lower(): column for column in columns}
    named = next((by_name[name] for name in TARGETS if name in by_name), None)
    return named or next(column for column in reversed(columns) if not NO_INPUT.fullmatch(column))


def _is_input(column: str, rows: Sequence[Mapping[str, Any]]) -> bool:
    """Tell whether every row has a text, or a list of texts, in a column that may matter."""
    values = [row.get(column) for row in rows]
    if NO_INPUT.fullmatch(column) or any(
        value is None or isinstance(value, (Mapping, bytes)) or (isinstance(value, float) and is_missing(value))
        for value in values
    ):
        return False
    return any(isinstance(value, (str, list)) and value for value in values)


def _rename(columns: Sequence[str]) -> dict[str, str]:
    """Names that a template can take, for the columns whose own it cannot."""
    names: dict[str, str] = {}
    for column in columns:
        if not re.fullmatch(r"[A-Za-z_]\w*", column):
            word = re.sub(r"\W+", "_", column).strip("_").lower() or "column"
            word = word if re.match(r"[A-Za-z_]", word) else f"column_{word}"
            while word in columns or word in names.values():
                word += "_"
            names[column] = word
    return names


@dataclass
class _Writer:
    """Writes the lines of the file, and collects what a reader has to look at.

    Attributes:
        name: The task's name.
        source: Where the rows are, and how the files are read.
        splits: Our splits to files, or parts of one.
        rows: Those that are looked at.
        columns: All that the rows have.
        inputs: Columns that the input is made of.
        answer: The column to answer.
        references: The column with every right answer; None: there is none.
        names: Columns whose names a template cannot take, to others.
        config_dir: The folder that ``--config-dir`` will name.
        notes: Guesses that need a reader.
    """

    name: str
    source: RowsConfig
    splits: Mapping[str, str]
    rows: Sequence[Mapping[str, Any]]
    columns: Sequence[str]
    inputs: Sequence[str]
    answer: str
    references: str | None
    names: Mapping[str, str]
    config_dir: str
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.values = [row[self.answer] for row in self.rows if not is_missing(row.get(self.answer))]
        if len(self.values) < len(self.rows):
            missing = len(self.rows) - len(self.values)
            self.notes.append(f"{missing} rows have no {self.answer!r}; a run refuses them")

    def lines(self) -> Iterator[str]:
        """Write the file."""
        answer = self.names.get(self.answer, self.answer)
        yield f"# @package tasks.{self.name}"
        yield f"# python train.py tasks=show name={self.name} --config-dir {self.config_dir}"
        yield f"about: {json.dumps(f'From {self.source.files}')}   # one line for the list of tasks"
        yield "rows:"
        relative = os.path.relpath(str(self.source.files), Path(self.config_dir, "tasks"))
        yield f"  files: {json.dumps(relative, ensure_ascii=False)}   # from where this file lies"
        yield from self._reading()
        used = (*self.inputs, self.answer, self.references)
        left = [column for column in self.columns if column not in used]
        if left:
            yield f"# Columns that are not used: {', '.join(left)}"
        yield f"input: {json.dumps(self._template(), ensure_ascii=False)}   # {{column}} is a column's text"
        yield f'target: "{{{answer}}}"'
        yield from self._kind(answer)
        yield f"max_source_tokens: {_round(self._words(self.inputs) * 2 + 8, 32, 512)}   # a guess from the words"
        yield f"max_target_tokens: {_round(self._words([self.answer]) * 2 + 4, 8, 128)}"

    def _reading(self) -> Iterator[str]:
        if any(split != name for split, name in self.splits.items()):
            yield "  splits:   # slices are of the shuffled rows, each class in its proportion"
            yield from (f"    {split}: {json.dumps(part)}" for split, part in self.splits.items())
        if self.source.delimiter is not None:
            yield f"  delimiter: {json.dumps(self.source.delimiter)}"
        if self.source.quoting is not None:
            yield f"  quoting: {self.source.quoting}"
            self.notes.append("quotes are read as text, since they do not fit together as those of fields")
        if self.source.encoding != "utf-8":
            yield f"  encoding: {self.source.encoding}"
            self.notes.append(f"the file is not UTF-8; read as {self.source.encoding}, so look at its accents")
        used = (*self.inputs, self.answer, self.references or self.answer)
        if renamed := {column: self.names[column] for column in used if column in self.names}:
            yield "  rename:   # a template takes letters, digits and '_'"
            yield from (f"    {json.dumps(old, ensure_ascii=False)}: {new}" for old, new in renamed.items())

    def _template(self) -> str:
        names = [self.names.get(column, column) for column in self.inputs]
        return f"{{{names[0]}}}" if len(names) == 1 else " ".join(f"{name}: {{{name}}}" for name in names)

    def _kind(self, answer: str) -> Iterator[str]:
        """The kind of target, and the metrics and limits that follow from it."""
        listed = self.references or (self.answer if any(isinstance(value, list) for value in self.values) else None)
        if listed is not None:
            name = self.names.get(listed, listed)
            yield f"references: {name}   # every text of the list is right; training takes the first of {answer}"
            short = statistics.fmean(len(_flat(_first(value)).split()) for value in self.values) <= 5
            yield f"metrics: [{'squad' if short else 'rouge'}]   # the first one is the score"
            return
        texts = [_flat(value) for value in self.values]
        counts = Counter(texts)
        if self._are_classes(counts, texts):
            yield from self._classes(answer, counts)
        elif all(_is_number(text) for text in texts):
            yield "metrics: [pearson, spearman]"
        elif self._words([self.answer]) <= 6:
            yield "metrics: [exact_match, token_f1]   # the first one is the score"
        else:
            yield "metrics: [rouge, chrf]   # the first one is the score; of translations: [bleu, chrf]"

    def _are_classes(self, counts: Mapping[str, int], texts: Sequence[str]) -> bool:
        if len(counts) > min(MOST_CLASSES, max(2, len(texts) // 4)):
            return False
        whole = all(_is_number(text) and float(text).is_integer() for text in counts)
        short = statistics.fmean(len(text.split()) for text in counts) <= 4
        return whole or (short and not all(map(_is_number, counts)))

    def _classes(self, answer: str, counts: Mapping[str, int]) -> Iterator[str]:
        yield "labels:   # a value of the data, and the word that stands for it"
        yield f"  {answer}:"
        for value in sorted(counts):
            word = re.sub(r"[_\s]+", " ", value).strip()
            pair = ": ".join(json.dumps(text, ensure_ascii=False) for text in (value, word))
            yield f"    {pair}   # {counts[value]} rows"
        if all(map(_is_number, counts)):
            self.notes.append(f"the classes of {self.answer!r} are numbers; give each a word under labels")
        yield "constrained: true   # an answer is always one of these words"
        yield "metrics: [accuracy, macro_f1]   # the first one is the score; macro_f1 where classes are rare"
        yield "family: classification"

    def _words(self, columns: Sequence[str]) -> int:
        """Words of the longest but one in a hundred of the rows."""
        lengths = sorted(
            sum(len(_flat(row.get(column)).split()) for column in columns) + len(columns) for row in self.rows
        )
        return lengths[math.ceil(0.99 * len(lengths)) - 1]


def _holds_all_answers(column: str, answer: str, rows: Sequence[Mapping[str, Any]]) -> bool:
    """Tell whether a column lists, in every row, the answer and others that are right as well."""
    return column != answer and all(
        isinstance(row.get(column), list) and row.get(answer) in row[column] for row in rows
    )


def _first(value: Any) -> Any:
    return (value[0] if value else "") if isinstance(value, list) else value


def _flat(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(map(_flat, value))
    return str(value) if isinstance(value, (Mapping, bytes)) or is_missing(value) else to_text(value, " ", "")


def _is_number(text: str) -> bool:
    return bool(re.fullmatch(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?", text))


def _round(count: int, step: int, most: int) -> int:
    return min(most, -(-count // step) * step)
