"""Carve splits out of one file: ``train: tickets[20%:]``, drawn with a seed, each class in its proportion."""

import re
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from random import Random
from typing import NamedTuple

from mpt.errors import UserError

_BOUND = r"(\d+%?)?"
_PATTERN = re.compile(rf"([^\[\]]+?)(?:\[{_BOUND}:{_BOUND}\])?")


class Part(NamedTuple):
    """A file, or a part of its rows.

    Attributes:
        name: The file's name without its ending.
        start: The first row, or the share of the rows before it; None: from the first.
        stop: The row after the last, or a share; None: to the last.
    """

    name: str
    start: str | None = None
    stop: str | None = None

    @property
    def is_whole(self) -> bool:
        """Tell whether all rows are meant, in their order in the file."""
        return self.start is None and self.stop is None

    def bounds(self, count: int) -> tuple[int, int]:
        """Return the first position and the one after the last, of so many rows."""
        return _position(self.start, count, 0), _position(self.stop, count, count)

    def __str__(self) -> str:
        return self.name if self.is_whole else f"{self.name}[{self.start or ''}:{self.stop or ''}]"


def parse(text: str) -> Part:
    """Read ``NAME``, ``NAME[100:]``, ``NAME[:10%]`` or ``NAME[10%:20%]``.

    Raises:
        UserError: It is none of these.
    """
    found = _PATTERN.fullmatch(text.strip())
    if found is None or any(bound and bound.endswith("%") and int(bound[:-1]) > 100 for bound in found.groups()[1:]):
        raise UserError(f"{text!r} is no part of a file; write NAME, NAME[100:], NAME[:10%] or NAME[10%:20%]")
    return Part(*found.groups())


def carve(split: str, parts: Mapping[str, Part], classes: Sequence[Hashable], seed: int) -> list[int]:
    """Choose the rows of one split.

    All rows are put into an order in which every stretch has the classes in about the proportion of the whole, and
    the split is a stretch of it. So splits of one file share no row where their stretches do not overlap.

    Args:
        split: Which of the splits.
        parts: Split to its part of this file.
        classes: The class of each row of the file; all the same where there are none.
        seed: Seed of the order.

    Returns:
        Positions of rows in the file, in the drawn order, of which every stretch stands for the whole.

    Raises:
        UserError: Two splits overlap, or this one is empty.
    """
    count = len(classes)
    start, stop = parts[split].bounds(count)
    if start >= stop:
        raise UserError(f"rows.splits.{split}: {parts[split]} is empty; the file has {count} rows")
    for other, part in parts.items():
        first, last = part.bounds(count)
        if other != split and max(start, first) < min(stop, last):
            raise UserError(
                f"rows.splits: {split} ({parts[split]}) and {other} ({part}) share "
                f"{min(stop, last) - max(start, first)} of {count} rows; give each rows of its own"
            )
    return spread(classes, f"splits/{seed}")[start:stop]


def spread(classes: Sequence[Hashable], seed: str) -> list[int]:
    """Shuffle positions, and spread each class evenly, so that every stretch has about the proportions of the whole."""
    random = Random(seed)
    sizes = Counter(classes)
    taken: Counter[Hashable] = Counter()
    places = []
    for position in random.sample(range(len(classes)), len(classes)):
        label = classes[position]
        places.append(((taken[label] + random.random()) / sizes[label], position))
        taken[label] += 1
    return [position for _, position in sorted(places)]


def _position(bound: str | None, count: int, default: int) -> int:
    if bound is None:
        return default
    return round(count * int(bound[:-1]) / 100) if bound.endswith("%") else min(int(bound), count)
