"""Read rows from files: JSON lines, CSV and its kin, Parquet; compressed or not; each row with its place."""

import codecs
import csv
import gzip
import json
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from mpt.config import RowsConfig
from mpt.errors import UserError

KINDS = ("jsonl", "csv", "tsv", "parquet")
ENDINGS = tuple(f".{kind}{packed}" for kind in KINDS for packed in ("", ".gz") if (kind, packed) != ("parquet", ".gz"))
DELIMITERS = {",": "a comma", ";": "a semicolon", "\t": "a tab", "|": "a bar"}
LONGEST_FIELD = 2**24
"""Characters of one CSV field; Python's own limit is 131,072."""


NOT_A_NUMBER = ("NaN", "nan", "NAN")
"""Text that programs write into a delimited file for a missing number."""


@dataclass(frozen=True)
class Row:
    """One row of data, and where it stands.

    Attributes:
        number: From 0, in the data.
        where: File and line, for errors.
        values: Column to value.
        part: Which of several examples that one row gives; 0 where it gives one.
    """

    number: int
    where: str
    values: Mapping[str, Any]
    part: int = 0


class Digits(float):
    """A number that remembers how its file writes it."""

    text: str

    def __new__(cls, text: str) -> "Digits":
        """Read the digits of a file."""
        number = super().__new__(cls, text)
        number.text = text
        return number


LONGEST_LINE = 2**24
"""Characters that a line of a file of rows may have: 16 million."""
PARQUET_ROWS = 4096
"""Rows of a Parquet file that are in memory at a time."""


def stem(path: Path) -> str:
    """The name of a data file without its ending: ``tickets`` of ``tickets.csv.gz``."""
    return next((path.name.removesuffix(ending) for ending in ENDINGS if path.name.endswith(ending)), path.name)


def list_files(where: Path) -> dict[str, list[Path]]:
    """The data files of a folder, or the one file, by their names without the endings."""
    paths = [where] if where.is_file() else sorted(where.iterdir()) if where.is_dir() else []
    found: dict[str, list[Path]] = {}
    for path in paths:
        if path.is_file() and path.name.endswith(ENDINGS):
            found.setdefault(stem(path), []).append(path)
    return found


def find_file(where: Path, name: str) -> Path:
    """Find the file of a name in a folder, or check that the one file has it.

    Raises:
        FileNotFoundError: There is none.
        UserError: There are several.
    """
    found = list_files(where)
    if not found:
        what = "no data file in" if where.is_dir() else "no folder or file"
        raise FileNotFoundError(f"{what} {where}; it needs {name}.jsonl, .csv, .tsv or .parquet")
    paths = found.get(name, [])
    if not paths:
        raise FileNotFoundError(
            f"no {name!r} in {where}, which has {', '.join(found)}; give {name}.jsonl, .csv, .tsv or .parquet, or "
            f"carve it out of another: rows.splits: {{{name}: '{next(iter(found))}[:10%]', ...}}"
        )
    if len(paths) > 1:
        raise UserError(f"{where} has {' and '.join(path.name for path in paths)}; keep the one that is meant")
    return paths[0]


def read_file(path: Path, source: RowsConfig) -> Iterator[Row]:
    """Read the rows of a file.

    Args:
        path: A file of one of :data:`ENDINGS`.
        source: For ``delimiter``, ``quoting`` and ``encoding``.

    Raises:
        UserError: The file is damaged, or the delimiter or the encoding does not fit; the message says where.
    """
    name = path.name.removesuffix(".gz")
    try:
        if name.endswith(".parquet"):
            yield from _read_parquet(path)
        elif name.endswith((".csv", ".tsv")):
            delimiter = source.delimiter or ("\t" if name.endswith(".tsv") else ",")
            with _open(path, source.encoding, newline="") as file:
                yield from read_csv(file, str(path), delimiter, source.quoting, source.encoding)
        else:
            yield from _read_jsonl(path, source.encoding)
    except (gzip.BadGzipFile, EOFError) as error:
        raise UserError(f"{path}: not a whole gzip file ({error})") from error


def _open(path: Path, encoding: str, newline: str) -> IO[str]:
    # With this codec a byte-order mark is no part of the first column's name.
    encoding = "utf-8-sig" if codecs.lookup(encoding).name == "utf-8" else encoding
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding=encoding, newline=newline)
    return path.open(encoding=encoding, newline=newline)


def _read_parquet(path: Path) -> Iterator[Row]:
    from pyarrow import parquet  # takes a moment to import, and few files need it

    number = 0
    try:
        with parquet.ParquetFile(path) as file:
            for piece in file.iter_batches(batch_size=PARQUET_ROWS):
                for values in piece.to_pylist():
                    yield Row(number, f"{path} row {number + 1}", values)
                    number += 1
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not a Parquet file ({error})") from error


def read_csv(file: IO[str], path: str, delimiter: str, quoting: str | None, encoding: str = "utf-8") -> Iterator[Row]:
    """Read the rows of a delimited file.

    Args:
        file: Opened with ``newline=""``.
        path: Its name, for errors.
        delimiter: One character.
        quoting: As :attr:`mpt.config.RowsConfig.quoting`.
        encoding: The file's, for errors.

    Raises:
        UserError: The file is damaged, or something does not fit; the message says where.

    Warns:
        UserWarning: A quoted field holds lines that look like rows: its quotes may be text.
    """
    csv.field_size_limit(LONGEST_FIELD)
    style: Any = {"quoting": csv.QUOTE_NONE} if quoting == "none" else {"strict": True}
    reader = csv.DictReader(file, delimiter=delimiter, **style)
    suspicious: list[str] = []
    try:
        names = list(reader.fieldnames or [])
        _check_header(Path(path), names, delimiter)
        before = reader.line_num
        for number, values in enumerate(reader):
            where = f"{path}:{reader.line_num}"
            several = reader.line_num > before + 1 and quoting is None
            if several and any(_looks_like_a_row(value, len(names), delimiter) for value in values.values()):
                lines = f"{path}:{before + 1}-{reader.line_num}"
                if delimiter == "\t":
                    raise UserError(
                        f"{lines}: a field in quotes holds lines that look like rows of their own; where quotes are "
                        "text in "
                        "this file, set rows.quoting: none, and where the field is meant so, rows.quoting: double"
                    )
                suspicious.append(lines)
            before = reader.line_num
            if None in values or None in values.values():
                raise UserError(
                    f"{where}: the row has not as many values as the header has names; fields are separated by "
                    f"{DELIMITERS.get(delimiter, repr(delimiter))}, and one that contains it needs quotes"
                )
            found = {key: None if value in NOT_A_NUMBER else value for key, value in values.items()}
            yield Row(number, where, found)
    except UnicodeError as error:
        raise _wrong_encoding(Path(path), encoding, error) from error
    except csv.Error as error:
        raise UserError(
            f"{path}:{reader.line_num}: not CSV ({error}); where quotes are text in this file, set rows.quoting: none"
        ) from error
    if suspicious:
        warnings.warn(
            f"{suspicious[0]}: a field in quotes holds lines that look like rows of their own ({len(suspicious)} such "
            "fields); where quotes are text in this file, set rows.quoting: none, and where they are meant so, double",
            stacklevel=2,
        )


def _looks_like_a_row(value: Any, columns: int, delimiter: str) -> bool:
    """Tell whether a line within a field has as many fields as a row, or the field begins and ends within rows."""
    if not isinstance(value, str) or columns < 2:
        return False
    return any(line.count(delimiter) >= columns - 1 for line in value.split("\n"))


def _check_header(path: Path, names: list[str], delimiter: str) -> None:
    if len(names) == 1:
        for other, words in DELIMITERS.items():
            if other != delimiter and other in names[0]:
                raise UserError(
                    f"{path}:1: the header is one column, {names[0]!r}, and has {words} in it; if that separates the "
                    f"columns, set rows.delimiter: {json.dumps(other)}"
                )
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(f"{path}:1: the header has {', '.join(map(repr, twice))} twice; name each column once")


def _read_jsonl(path: Path, encoding: str) -> Iterator[Row]:
    with _open(path, encoding, newline="\n") as file:
        number, line = 0, 0
        try:
            for line, text in enumerate(read_lines(file, str(path)), start=1):
                if not text.strip():
                    continue
                values = parse_json(text, f"{path}:{line}", parse_float=Digits)
                if not isinstance(values, dict):
                    raise UserError(
                        f"{path}:{line}: is a {type(values).__name__}; each line is one object with columns"
                    )
                yield Row(number, f"{path}:{line}", values)
                number += 1
        except UnicodeError as error:
            raise _wrong_encoding(path, encoding, error) from error


def read_lines(file: IO[str], path: str) -> Iterator[str]:
    """Read lines of a bounded length, so that a file without line ends does not fill the memory.

    Raises:
        UserError: A line is longer than :data:`LONGEST_LINE`.
    """
    number = 0
    while text := file.readline(LONGEST_LINE + 1):
        number += 1
        if len(text) > LONGEST_LINE:
            raise UserError(f"{path}:{number}: is longer than {LONGEST_LINE:,} characters; write each row on a line")
        yield text


def parse_json(text: str, where: str, **options: Any) -> Any:
    """Parse a line of JSON.

    Raises:
        UserError: It is none, or too deep.
    """
    try:
        return json.loads(text, **options)
    except ValueError as error:
        raise UserError(f"{where}: not JSON ({error}); each line is one object") from error
    except RecursionError as error:
        raise UserError(f"{where}: lists or objects lie too deep in each other; flatten them") from error


def _wrong_encoding(path: Path, encoding: str, error: UnicodeError) -> UserError:
    """Say on which line the first bytes lie that are no text, and what may be meant."""
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        content = file.read()
    line = 1
    for number, raw in enumerate(content.split(b"\n"), start=1):
        try:
            raw.decode(encoding)
        except UnicodeError:
            line = number
            break
    utf16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    hint = "set rows.encoding: utf-16" if utf16 else "set rows.encoding, such as cp1252 or latin-1"
    return UserError(f"{path}:{line}: not {encoding} ({error}); {hint}")
