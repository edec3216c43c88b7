"""Row changes that T5's own code makes to three data sets before its templates (Raffel et al. 2020, appendix D).

The code of ATTEMPT and of what builds on it does the same, so scores of the paper's lineage are of such texts.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

from mpt.errors import UserError
from mpt.tasks.files import Row


def preprocess(name: str, rows: Iterable[Row], split: str) -> Iterator[Row]:
    """Change the rows of a set.

    Args:
        name: One of :data:`mpt.config.PREPROCESSINGS`.
        rows: With the set's own columns.
        split: train, validation or test.

    Raises:
        UserError: A row lacks a column, or a span does not lie where the row says.
    """
    change = _CHANGES[name]
    for row in rows:
        try:
            yield from change(row, split)
        except KeyError as error:
            raise UserError(
                f"{row.where}: no column {error.args[0]!r}, which rows.preprocess={name} needs; the row has "
                f"{', '.join(row.values)}"
            ) from error


def _multirc(row: Row, split: str) -> Iterator[Row]:
    """Take ``<br>`` and ``<b>`` out of question, answer and paragraph."""
    texts = {
        column: re.sub("</?b>", "", re.sub("<br>", " ", row.values[column]))
        for column in ("question", "answer", "paragraph")
    }
    yield replace(row, values={**row.values, **texts})


def _record(row: Row, split: str) -> Iterator[Row]:
    """Join the highlights to the passage; a training row for each answer, and one with all of them elsewhere."""
    passage = re.sub(r"([.?!\"'])\n@highlight\n", r"\1 ", row.values["passage"])
    values = {**row.values, "passage": re.sub(r"\n@highlight\n", ". ", passage)}
    answers = list(row.values["answers"])
    if split != "train" or len(answers) < 2:
        yield replace(row, values=values)
        return
    for part, answer in enumerate(answers, start=1):
        yield replace(row, values={**values, "answers": [answer]}, part=part)


def _wsc(row: Row, split: str) -> Iterator[Row]:
    """Put ``* *`` around the first span and ``# #`` around the second, each where its index says."""
    text = str(row.values["text"])
    words = [found.span() for found in re.finditer(r"\S+", text)]
    marks = []
    for number, mark in ((1, "*"), (2, "#")):
        span, index = str(row.values[f"span{number}_text"]), int(row.values[f"span{number}_index"])
        last = index + len(span.split()) - 1
        if not span or not 0 <= index <= last < len(words):
            raise UserError(
                f"{row.where}: span{number}_index is {index}, and the text has {len(words)} words; a span has to lie "
                "in it"
            )
        begin, end = words[index][0], words[last][1]
        if text[begin:].startswith(span):
            end = begin + len(span)  # without the comma behind it
        marks.append((begin, end, mark))
    for begin, end, mark in sorted(marks, reverse=True):
        text = f"{text[:begin]}{mark} {text[begin:end]} {mark}{text[end:]}"
    yield replace(row, values={**row.values, "text": text})


_CHANGES: dict[str, Callable[[Row, str], Iterator[Row]]] = {"multirc": _multirc, "record": _record, "wsc": _wsc}
