"""ULPT: a prompt in a few dimensions, which a frozen random matrix takes to those of the embeddings.

Shape legend: B examples in a batch, T tasks, N virtual tokens, D token_dim, R ranks.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Self

import torch
from torch import Tensor, nn

from mpt.adapter import LearnerGroup, TensorBaseline
from mpt.inputs import Inputs
from mpt.methods import Method, Start, method


@method
class ULPT(TensorBaseline, Method):
    """A prompt ``(Z_t @ R) * s_t + b_t`` (ULPT, Wu et al. 2025, arXiv 2502.04501, section 3).

    ``R`` is random and stays as it is, Xavier's uniform start; ``Z`` starts from N(0, 1), ``s`` at one and ``b`` at
    zero, all as in the authors' code. The tasks of a run share ``R``, which follows from the seed of the first values.

    Args:
        task_names: The T tasks.
        num_virtual_tokens: N.
        projection: R, ``(R, D)``.
    """

    projection: Tensor

    name = "ulpt"
    keys = ("num_ranks",)
    required = ("num_ranks",)
    tasks_are_separate = True

    def __init__(self, task_names: Sequence[str], num_virtual_tokens: int, projection: Tensor) -> None:
        (R, D), T = projection.shape, len(task_names)
        super().__init__(task_names, num_virtual_tokens * D)
        self.register_buffer("projection", projection.detach().clone())  # R D
        self.Z = nn.Parameter(torch.randn(T, num_virtual_tokens, R))
        self.scale, self.bias = nn.Parameter(torch.ones(T, D)), nn.Parameter(torch.zeros(T, D))

    @property
    def num_virtual_tokens(self) -> int:
        """N."""
        return self.Z.shape[1]

    def condition(self, inputs: Inputs, task_ids: Tensor, word_embeddings: nn.Module) -> Inputs:
        """Compose the prompts, ``(B, N, D)``."""
        Z, scale, bias = (each.index_select(0, task_ids) for each in (self.Z, self.scale, self.bias))
        with torch.autocast(Z.device.type, enabled=False):
            return replace(inputs, prompts=(Z @ self.projection) * scale[:, None] + bias[:, None])

    def learner_groups(self) -> list[LearnerGroup]:
        """Everything, at the prompt's rate, as in the authors' code."""
        return [LearnerGroup("prompt", [self.Z, self.scale, self.bias], len(self.task_names))]

    def storage(self) -> tuple[int, int]:
        """The projection, and a task's numbers."""
        return self.projection.numel(), sum(param[0].numel() for param in self.parameters())

    def settings(self) -> dict[str, Any]:
        """Nothing: the tensors say it all."""
        return {}

    @classmethod
    def from_saved(cls, task_names: Sequence[str], tensors: Mapping[str, Tensor], settings: Mapping[str, Any]) -> Self:
        """Build one of the shape of saved tensors."""
        return cls(task_names, tensors["Z"].shape[1], tensors["projection"])

    @classmethod
    def build(cls, start: Start) -> Self:
        """Draw the projection by itself, so that it is the same whatever tasks the run has."""
        assert start.settings.num_ranks is not None
        R, (N, D) = start.settings.num_ranks, start.prompt.prompts().shape[1:]
        own = torch.Generator().manual_seed(torch.initial_seed())
        projection = torch.empty(R, D).uniform_(-1, 1, generator=own) * math.sqrt(6 / (R + D))
        return cls(list(start.tasks), N, projection)
