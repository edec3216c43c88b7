"""Token ids of many texts in two flat arrays: 4 bytes a token, where lists of numbers take 8 to 36."""

from array import array
from collections.abc import Iterable, Sequence
from typing import overload

import numpy as np
from numpy.typing import NDArray


class TokenRows(Sequence[list[int]]):
    """Texts as token ids, of any lengths; each is a list when it is asked for.

    Args:
        rows: The first texts; :meth:`extend` adds others.
    """

    def __init__(self, rows: Iterable[Sequence[int]] = ()) -> None:
        self._tokens, self._ends = array("i"), array("q", [0])
        self.extend(rows)

    def extend(self, rows: Iterable[Sequence[int]]) -> None:
        """Add texts behind the others."""
        for ids in rows:
            self._tokens.extend(ids)
            self._ends.append(len(self._tokens))

    @property
    def tokens(self) -> NDArray[np.int32]:
        """The ids of all texts, one after the other, int32."""
        return np.array(self._tokens, dtype=np.int32)

    @property
    def ends(self) -> NDArray[np.int64]:
        """Where each text ends among them, behind a 0: R + 1 numbers for R texts."""
        return np.array(self._ends, dtype=np.int64)

    def length(self, row: int) -> int:
        """Tokens of a text."""
        return self._ends[row + 1] - self._ends[row]

    @property
    def longest(self) -> int:
        """Tokens of the longest text; 0 where there are no texts."""
        return int(np.diff(self.ends).max(initial=0))

    def __len__(self) -> int:
        return len(self._ends) - 1

    @overload
    def __getitem__(self, row: int) -> list[int]: ...
    @overload
    def __getitem__(self, row: slice) -> list[list[int]]: ...
    def __getitem__(self, row: int | slice) -> list[int] | list[list[int]]:
        if isinstance(row, slice):
            return [self[each] for each in range(len(self))[row]]
        position = range(len(self))[row]  # counts from the end, and refuses what is beyond it
        return self._tokens[self._ends[position] : self._ends[position + 1]].tolist()
