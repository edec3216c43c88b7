"""Inputs of a backbone: an adapter returns them, a backbone takes them.

Shape legend: B examples in a batch, S input tokens, N virtual tokens, D token_dim, L target tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Inputs:
    """The tokens of some examples, and what is put before and added to them.

    Attributes:
        input_ids: ``(B, S)``.
        attention_mask: ``(B, S)``, 1 on tokens.
        prompts: Put before the embedded tokens, ``(B, N, D)``; None: nothing.
        shifts: Added to the embedded tokens, ``(B, S, D)``; None: nothing.
    """

    input_ids: Tensor
    attention_mask: Tensor
    prompts: Tensor | None = None
    shifts: Tensor | None = None

    def __len__(self) -> int:
        return len(self.input_ids)

    @property
    def num_virtual_tokens(self) -> int:
        """N; 0 without prompts."""
        return 0 if self.prompts is None else self.prompts.shape[1]

    def embed(self, word_embeddings: nn.Module) -> tuple[Tensor, Tensor]:
        """Embed and shift the tokens, and put the prompt before them.

        Returns:
            Embeddings ``(B, N + S, D)`` in the dtype of the word embeddings, and their mask ``(B, N + S)``.
        """
        embeds: Tensor = word_embeddings(self.input_ids)  # B S D
        if self.shifts is not None:
            embeds = embeds + self.shifts.to(embeds.dtype)
        if self.prompts is None:
            return embeds, self.attention_mask
        seen = self.attention_mask.new_ones(self.prompts.shape[:2])  # B N
        return (
            torch.cat([self.prompts.to(embeds.dtype), embeds], dim=1),
            torch.cat([seen, self.attention_mask], dim=1),
        )

    def pick(self, rows: Tensor) -> "Inputs":
        """Take some examples."""
        return Inputs(*(None if each is None else each.index_select(0, rows) for each in self._fields()))  # type: ignore[arg-type]

    def repeat(self, times: int) -> "Inputs":
        """Take each example several times, one after the other."""
        if times == 1:
            return self
        return self.pick(torch.arange(len(self), device=self.input_ids.device).repeat_interleave(times))

    def trim(self) -> "Inputs":
        """Leave out the columns that are padding in every example, of inputs that are padded on the right."""
        length = int(self.attention_mask.sum(1).max())
        shifts = None if self.shifts is None else self.shifts[:, :length]
        return replace(
            self, input_ids=self.input_ids[:, :length], attention_mask=self.attention_mask[:, :length], shifts=shifts
        )

    @staticmethod
    def join(parts: Sequence["Inputs"], pad_token_id: int) -> "Inputs":
        """Put examples below each other, padded on the right to the longest; all with a prompt, or none."""
        fills = (pad_token_id, 0, None, 0.0)
        joined = [
            None if columns[0] is None else torch.cat(columns) if fill is None else pad_to_longest(columns, fill)
            for columns, fill in zip(zip(*(part._fields() for part in parts), strict=True), fills, strict=True)
        ]
        return Inputs(*joined)  # type: ignore[arg-type]

    def _fields(self) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
        return self.input_ids, self.attention_mask, self.prompts, self.shifts


def pad_to_longest(tensors: Sequence[Tensor], value: float) -> Tensor:
    """Put tensors ``(B, L, ...)`` below each other, filled up on the right to the longest L."""
    longest = max(tensor.shape[1] for tensor in tensors)
    return torch.cat(
        [
            torch.cat(
                [tensor, tensor.new_full((len(tensor), longest - tensor.shape[1], *tensor.shape[2:]), value)], dim=1
            )
            for tensor in tensors
        ]
    )
