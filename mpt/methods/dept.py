"""DePT: part of a prompt is spent on the embeddings of the input.

Shape legend: B examples in a batch, S input tokens, T tasks, C source prompts, N virtual tokens, D token_dim, R ranks.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Self

import torch
from torch import Tensor, nn

from mpt.adapter import LearnerGroup, TensorBaseline
from mpt.errors import UserError
from mpt.inputs import Inputs
from mpt.methods import Method, Start, method


@method
class DePT(TensorBaseline, Method):
    """A short prompt and a low-rank update of the input embeddings (DePT, Shi and Lipani 2024, section 2.2).

    The embedded token at position s of an example of task t is shifted by ``(A_t @ B_t)[s] * alpha / sqrt(R)``. ``B``
    starts at zero, so a task starts from only its prompt; ``A`` starts uniformly within ``1 / sqrt(R)``, both as in the
    authors' code. The prompt and the update have a learning rate each.

    Args:
        task_names: The T tasks.
        start: First values of the prompts, ``(T, N, D)``.
        num_ranks: R of the update; with ``N D + (max_tokens + D) R`` numbers a task.
        max_tokens: Longest input.
        alpha: Scale of the update; the authors' code has 8.
    """

    name = "dept"
    keys = ("num_ranks", "alpha")
    required = ("num_ranks",)
    tasks_are_separate = True

    def __init__(
        self, task_names: Sequence[str], start: Tensor, num_ranks: int, max_tokens: int, alpha: float = 8.0
    ) -> None:
        T, N, D = start.shape
        super().__init__(task_names, N * D)
        self.prompt = nn.Parameter(start.detach().clone())  # T N D
        # Kaiming's uniform start over a matrix (max_tokens, R), whose fan-in is R, and zero on the other side.
        self.A = nn.Parameter(torch.empty(T, max_tokens, num_ranks).uniform_(-1, 1) / math.sqrt(num_ranks))
        self.B = nn.Parameter(torch.zeros(T, num_ranks, D))
        self.alpha, self.scaling = alpha, alpha / math.sqrt(num_ranks)

    @property
    def num_virtual_tokens(self) -> int:
        """N."""
        return self.prompt.shape[1]

    def condition(self, inputs: Inputs, task_ids: Tensor, word_embeddings: nn.Module) -> Inputs:
        """``prompts`` ``(B, N, D)`` and ``shifts`` ``(B, S, D)``.

        Raises:
            UserError: An input is longer than ``max_tokens``.
        """
        length, longest = inputs.input_ids.shape[1], self.A.shape[1]
        if length > longest:
            raise UserError(f"input_ids: have {length} tokens, and DePT has updates for {longest}; cut them")
        A = self.A.index_select(0, task_ids)[:, :length]  # B S R
        with torch.autocast(A.device.type, enabled=False):
            shifts = A @ self.B.index_select(0, task_ids) * self.scaling
        return replace(inputs, prompts=self.prompt.index_select(0, task_ids), shifts=shifts)

    def learner_groups(self) -> list[LearnerGroup]:
        """The prompts, and the updates."""
        T = len(self.task_names)
        return [LearnerGroup("prompt", [self.prompt], T), LearnerGroup("factors", [self.A, self.B], T)]

    def storage(self) -> tuple[int, int]:
        """Nothing together; a task's prompt and update."""
        return 0, sum(param[0].numel() for param in self.parameters())

    def settings(self) -> dict[str, Any]:
        """Collect the arguments that rebuild it beside its tensors."""
        return {"num_ranks": self.A.shape[2], "max_tokens": self.A.shape[1], "alpha": self.alpha}

    @classmethod
    def from_saved(cls, task_names: Sequence[str], tensors: Mapping[str, Tensor], settings: Mapping[str, Any]) -> Self:
        """Build one of the shape of saved tensors."""
        # Before alpha was saved, the update was not scaled: sqrt(R) undoes the scaling.
        old = {"alpha": math.sqrt(settings["num_ranks"])}
        return cls(task_names, tensors["prompt"], **(old | dict(settings)))

    @classmethod
    def build(cls, start: Start) -> Self:
        """Start the prompts as ``start.prompt``; the update is as long as the longest input."""
        assert start.settings.num_ranks is not None
        longest = max(task.max_source_tokens for task in start.tasks.values())
        alpha = 8.0 if start.settings.alpha is None else start.settings.alpha
        return cls(list(start.tasks), start.prompt.prompts().detach(), start.settings.num_ranks, longest, alpha)
