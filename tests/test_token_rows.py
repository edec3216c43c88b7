"""Token ids in flat arrays are the lists that went in."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpt.data.token_rows import TokenRows

TEXTS = st.lists(st.lists(st.integers(-100, 2**31 - 1), max_size=6), max_size=8)


@given(TEXTS, TEXTS)
def test_holds_what_was_put_in(first: list[list[int]], more: list[list[int]]) -> None:
    rows, texts = TokenRows(first), first + more
    rows.extend(more)
    assert list(rows) == texts
    assert rows[::2] == texts[::2]
    assert rows[-3:] == texts[-3:]
    assert [rows.length(row) for row in range(len(rows))] == list(map(len, texts))
    assert rows.longest == max(map(len, texts), default=0)
    assert rows.tokens.tolist() == [token for text in texts for token in text]
    assert np.diff(rows.ends).tolist() == list(map(len, texts))


def test_refuses_a_row_that_is_not_there() -> None:
    rows = TokenRows([[1], [2, 3]])
    assert rows[-1] == [2, 3]
    with pytest.raises(IndexError):
        rows[2]


def test_takes_four_bytes_a_token() -> None:
    rows = TokenRows([list(range(50_000, 50_100))] * 100)
    assert rows.tokens.nbytes == 4 * 100 * 100


@pytest.mark.parametrize("texts", [[], [[]], [[3, 4, 5], [], [7]]])
def test_rows_are_those_of_their_arrays(texts):
    rows = TokenRows(texts)
    assert list(TokenRows.of(rows.tokens, rows.ends)) == texts


@pytest.mark.parametrize("ends", [[], [1, 3], [0, 2], [0, 3, 2, 3]])
def test_ends_that_fit_no_tokens_are_refused(ends):
    with pytest.raises(ValueError, match="the ends of the texts do not fit their tokens"):
        TokenRows.of(np.array([1, 2, 3], dtype=np.int32), np.array(ends, dtype=np.int64))
