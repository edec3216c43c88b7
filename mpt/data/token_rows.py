"""Token ids of many texts in two flat arrays: 4 bytes a token, where lists of numbers take 8 to 36."""

from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
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

    @classmethod
    def of(cls, tokens: NDArray[np.int32], ends: NDArray[np.int64]) -> "TokenRows":
        """Make rows of what :attr:`tokens` and :attr:`ends` give.

        Raises:
            ValueError: The ends are not those of texts that follow each other.
        """
        if not len(ends) or ends[0] != 0 or ends[-1] != len(tokens) or (np.diff(ends) < 0).any():
            raise ValueError("the ends of the texts do not fit their tokens")
        rows = cls()
        rows._ends = array("q", ends.tobytes())
        if len(tokens):  # which a view cannot be cast without
            rows._tokens.frombytes(tokens.data.cast("B"))
        return rows

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


@dataclass(frozen=True)
class TokenizedExamples:
    """The examples of one task as token ids."""

    inputs: TokenRows
    targets: TokenRows
    cut_inputs: int
    """Inputs that were longer than ``max_source_tokens`` and lost their end."""
    cut_targets: int
    unknown_inputs: float = 0.0
    """Share of the input tokens that stand for text which the tokenizer does not know."""
    unknown_targets: float = 0.0
    kept_targets: float = 1.0
    """Share of the targets that the token ids give back, of some that stand for all."""

    @property
    def shares(self) -> dict[str, float]:
        """Share of the inputs and of the targets that were cut."""
        return {"input": self.cut_inputs / len(self.inputs), "target": self.cut_targets / len(self.targets)}
