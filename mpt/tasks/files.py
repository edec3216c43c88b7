"""Read rows from files: JSON lines, CSV and its kin, Parquet; compressed or not; each row with its place."""

import codecs
import csv
import gzip
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from mpt.config import RowsConfig

KINDS = ("jsonl", "csv", "tsv", "parquet")
ENDINGS = tuple(
    f".{kind}{packed}" for kind in KINDS for packed in ("", ".gz") if (kind, packed) != ("parquet", ".gz")
)
DELIMITERS = {",": "a comma", ";": "a semicolon", "\t": "a tab", "|": "a bar"}
LONGEST_FIELD = 2**24
"""Characters of one CSV field; Python's own limit is 131,072."""


@dataclass(frozen=True)
class Row:
    """One row of data, and where it stands."""

    number: int
    where: str
    values: Mapping[str, Any]


def stem(path: Path) -> str:
    """The name of a data file without its ending: ``tickets`` of ``tickets.csv.gz``."""
    return next(
        (path.name.removesuffix(ending) for ending in ENDINGS if path.name.endswith(ending)), path.name
    )


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
        ValueError: There are several.
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
        raise ValueError(
            f"{where} has {' and '.join(path.name for path in paths)}; keep the one that is meant"
        )
    return paths[0]


def read_file(path: Path, source: RowsConfig) -> Iterator[Row]:
    """Read the rows of a file.

    Args:
        path: A file of one of :data:`ENDINGS`.
        source: For ``delimiter`` and ``encoding``.

    Raises:
        ValueError: The file is damaged, or the delimiter or the encoding does not fit; the message says where.
    """
    name = path.name.removesuffix(".gz")
    try:
        if name.endswith(".parquet"):
            yield from _read_parquet(path)
        elif name.endswith((".csv", ".tsv")):
            yield from _read_csv(
                path, source.delimiter or ("\t" if name.endswith(".tsv") else ","), source.encoding
            )
        else:
            yield from _read_jsonl(path, source.encoding)
    except (gzip.BadGzipFile, EOFError) as error:
        raise ValueError(f"{path}: not a whole gzip file ({error})") from error


def _open(path: Path, encoding: str) -> IO[str]:
    # With this codec a byte-order mark is no part of the first column's name.
    encoding = "utf-8-sig" if codecs.lookup(encoding).name == "utf-8" else encoding
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding=encoding, newline="")
    return path.open(encoding=encoding, newline="")


def _read_parquet(path: Path) -> Iterator[Row]:
    from pyarrow import parquet  # takes a moment to import, and few files need it

    try:
        table = parquet.read_table(path).to_pylist()
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: not a Parquet file ({error})") from error
    for number, values in enumerate(table):
        yield Row(number, f"{path} row {number + 1}", values)


def _read_csv(path: Path, delimiter: str, encoding: str) -> Iterator[Row]:
    csv.field_size_limit(LONGEST_FIELD)
    with _open(path, encoding) as file:
        reader = csv.DictReader(file, delimiter=delimiter, strict=True)
        try:
            _check_header(path, list(reader.fieldnames or []), delimiter)
            for number, values in enumerate(reader):
                if None in values or None in values.values():
                    raise ValueError(
                        f"{path}:{reader.line_num}: the row has not as many values as the header has names; fields "
                        f"are separated by {DELIMITERS.get(delimiter, repr(delimiter))}, and one that contains it "
                        "needs quotes"
                    )
                yield Row(number, f"{path}:{reader.line_num}", values)
        except UnicodeError as error:
            raise _wrong_encoding(path, encoding, error) from error
        except csv.Error as error:
            raise ValueError(f"{path}:{reader.line_num}: not CSV ({error})") from error


def _check_header(path: Path, names: list[str], delimiter: str) -> None:
    if len(names) == 1:
        for other, words in DELIMITERS.items():
            if other != delimiter and other in names[0]:
                raise ValueError(
                    f"{path}:1: the header is one column, {names[0]!r}, and has {words} in it; if that separates the "
                    f"columns, set rows.delimiter: {json.dumps(other)}"
                )
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(
            f"{path}:1: the header has {', '.join(map(repr, twice))} twice; name each column once"
        )


def _read_jsonl(path: Path, encoding: str) -> Iterator[Row]:
    with _open(path, encoding) as file:
        number, line = 0, 0
        try:
            for line, text in enumerate(file, start=1):
                if not text.strip():
                    continue
                try:
                    values = json.loads(text)
                except ValueError as error:
                    raise ValueError(f"{path}:{line}: not JSON ({error}); each line is one object") from error
                if not isinstance(values, dict):
                    raise ValueError(
                        f"{path}:{line}: is a {type(values).__name__}; each line is one object with columns"
                    )
                yield Row(number, f"{path}:{line}", values)
                number += 1
        except UnicodeError as error:
            raise _wrong_encoding(path, encoding, error) from error


def _wrong_encoding(path: Path, encoding: str, error: UnicodeError) -> ValueError:
    """Say on which line the first bytes lie that are no text, and what may be meant."""
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        content = file.read()
    line = 1
    for number, raw in enumerate(content.splitlines(), start=1):
        try:
            raw.decode(encoding)
        except UnicodeError:
            line = number
            break
    utf16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    hint = "set rows.encoding: utf-16" if utf16 else "set rows.encoding, such as cp1252 or latin-1"
    return ValueError(f"{path}:{line}: not {encoding} ({error}); {hint}")
