"""Answers while they are written: what ``generate`` has so far of each row of a batch."""

from collections.abc import Callable, Sequence

from torch import Tensor
from transformers.generation.streamers import BaseStreamer

from mpt.backbone import Tokenization

OnText = Callable[[int, str], None]
"""Called with the position of a text and its answer so far, whenever that has grown."""


class GrowingAnswers(BaseStreamer):  # type: ignore[misc]  # transformers has no types
    """Hands out the answers of a batch after each token; transformers' own streamers take one row.

    Args:
        tokenization: Reads the tokens.
        positions: What each row answers.
        on_text: Is called.
    """

    def __init__(self, tokenization: Tokenization, positions: Sequence[int], on_text: OnText) -> None:
        self.tokenization, self.positions, self.on_text = tokenization, positions, on_text
        self.ids: list[list[int]] = [[] for _ in positions]
        self.texts = [""] * len(positions)

    def put(self, value: Tensor) -> None:
        """Take the next token of each row, ``(B,)``; what ``generate`` starts from, ``(B, any)``, is no answer."""
        if value.dim() > 1:
            return
        for ids, token in zip(self.ids, value.tolist(), strict=True):
            ids.append(token)
        for row, text in enumerate(self.tokenization.decode(self.ids)):
            if text != self.texts[row] and not text.endswith("\N{REPLACEMENT CHARACTER}"):  # half of a character
                self.texts[row] = text
                self.on_text(self.positions[row], text)

    def end(self) -> None:
        """Nothing is left to hand out."""
