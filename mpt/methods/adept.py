"""ADePT: a short prompt, and a small network that moves every input embedding by what it is.

Shape legend: B examples in a batch, S input tokens, T tasks, N virtual tokens, D token_dim, R ranks.
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
class ADePT(TensorBaseline, Method):
    """A short prompt and ``e + ReLU(e A_t + a_t) B_t + b_t`` for every embedding (ADePT, Tang et al. 2025, section 3).

    ``B``, ``a`` and ``b`` start at zero, so a task starts from only its prompt; ``A`` starts uniformly within
    ``1 / sqrt(R)``, as in the authors' code. The prompt and the network have a learning rate each.

    Args:
        task_names: The T tasks.
        start: First values of the prompts, ``(T, N, D)``.
        num_ranks: R, width of the network; with ``N D + (2 D + 1) R + D`` numbers a task.
    """

    name = "adept"
    keys = ("num_ranks",)
    required = ("num_ranks",)
    tasks_are_separate = True

    def __init__(self, task_names: Sequence[str], start: Tensor, num_ranks: int) -> None:
        T, N, D = start.shape
        super().__init__(task_names, N * D)
        self.prompt = nn.Parameter(start.detach().clone())  # T N D
        self.A = nn.Parameter(torch.empty(T, D, num_ranks).uniform_(-1, 1) / math.sqrt(num_ranks))
        self.B = nn.Parameter(torch.zeros(T, num_ranks, D))
        self.a, self.b = nn.Parameter(torch.zeros(T, num_ranks)), nn.Parameter(torch.zeros(T, D))

    @property
    def num_virtual_tokens(self) -> int:
        """N."""
        return self.prompt.shape[1]

    def condition(self, inputs: Inputs, task_ids: Tensor, word_embeddings: nn.Module) -> Inputs:
        """``prompts`` ``(B, N, D)`` and ``shifts`` ``(B, S, D)``."""
        embeds = word_embeddings(inputs.input_ids).detach().to(self.prompt.dtype)  # B S D
        A, B, a, b = (each.index_select(0, task_ids) for each in (self.A, self.B, self.a, self.b))
        with torch.autocast(A.device.type, enabled=False):
            shifts = torch.relu(embeds @ A + a[:, None]) @ B + b[:, None]
        return replace(inputs, prompts=self.prompt.index_select(0, task_ids), shifts=shifts)

    def learner_groups(self) -> list[LearnerGroup]:
        """The prompts, and the networks."""
        T = len(self.task_names)
        network = [self.A, self.B, self.a, self.b]
        return [LearnerGroup("prompt", [self.prompt], T), LearnerGroup("weights", network, T)]

    def storage(self) -> tuple[int, int]:
        """Nothing together; a task's prompt and network."""
        return 0, sum(param[0].numel() for param in self.parameters())

    def settings(self) -> dict[str, Any]:
        """Collect the arguments that rebuild it beside its tensors."""
        return {"num_ranks": self.A.shape[2]}

    @classmethod
    def from_saved(cls, task_names: Sequence[str], tensors: Mapping[str, Tensor], settings: Mapping[str, Any]) -> Self:
        """Build one of the shape of saved tensors."""
        return cls(task_names, tensors["prompt"], **settings)

    @classmethod
    def build(cls, start: Start) -> Self:
        """Start the prompts as ``start.prompt``."""
        assert start.settings.num_ranks is not None
        return cls(list(start.tasks), start.prompt.prompts().detach(), start.settings.num_ranks)
