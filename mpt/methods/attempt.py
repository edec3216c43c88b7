"""ATTEMPT: an input attends over the prompts of other tasks.

Shape legend: B examples in a batch, S input tokens, T tasks, C source prompts, N virtual tokens, D token_dim, R ranks.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm, silu

from mpt.adapter import LearnerGroup, TensorBaseline
from mpt.config import RunConfig
from mpt.errors import UserError
from mpt.inputs import Inputs
from mpt.methods import Method, Start, method


@method
class Attempt(TensorBaseline, Method):
    """Attend over frozen source prompts by the input (ATTEMPT, Asai et al. 2022, section 3).

    An example with the embedded tokens ``X`` has the prompt ``P_t + sum_j a_j P_j`` over the C source prompts and the
    target's own ``P_t``, where ``a = softmax(k_j . q / temperature)``, the key ``k_j`` is the largest value of ``P_j``
    over its tokens, and ``q = LayerNorm(SiLU(max(X) down) up)``. Each task has its own attention network, so several
    tasks in a run do not touch each other.

    Args:
        task_names: The T tasks.
        sources: The frozen prompts, ``(C, N, D)``.
        start: First values of the tasks' own prompts, ``(T, N, D)``.
        num_ranks: Width of the attention network; the paper uses 100.
        temperature: None: ``D * e``, the paper's.

    Raises:
        UserError: The prompts differ in shape.
    """

    sources: Tensor

    name = "attempt"
    keys = ("num_ranks", "temperature")
    required = ("num_ranks",)
    source = "always"
    tasks_are_separate = True

    def __init__(
        self,
        task_names: Sequence[str],
        sources: Tensor,
        start: Tensor,
        num_ranks: int,
        temperature: float | None = None,
    ) -> None:
        T, N, D = start.shape
        super().__init__(task_names, N * D)
        if sources.shape[1:] != start.shape[1:]:
            raise UserError(
                f"source: its prompts have shape {tuple(sources.shape[1:])}, the target's {tuple(start.shape[1:])}; "
                "give both the same num_virtual_tokens and token_dim"
            )
        self.register_buffer("sources", sources.detach().clone())  # C N D
        self.prompt = nn.Parameter(start.detach().clone())  # T N D
        # As torch.nn.Linear starts, without biases as in the authors' code.
        self.down = nn.Parameter(torch.empty(T, D, num_ranks).uniform_(-1, 1) / math.sqrt(D))  # T D R
        self.up = nn.Parameter(torch.empty(T, num_ranks, D).uniform_(-1, 1) / math.sqrt(num_ranks))  # T R D
        self.scale, self.bias = nn.Parameter(torch.ones(T, D)), nn.Parameter(torch.zeros(T, D))
        self.temperature = D * math.e if temperature is None else temperature

    @property
    def num_virtual_tokens(self) -> int:
        """N."""
        return self.prompt.shape[1]

    def attention(self, inputs: Inputs, task_ids: Tensor, word_embeddings: nn.Module) -> Tensor:
        """Return how much each example takes of the C source prompts and, last, of its task's own, ``(B, C + 1)``."""
        embeds = word_embeddings(inputs.input_ids).detach().to(self.prompt.dtype)  # B S D
        pads = (inputs.attention_mask == 0)[:, :, None]
        pooled = embeds.masked_fill(pads, -math.inf).amax(1)  # B D
        down, up = self.down.index_select(0, task_ids), self.up.index_select(0, task_ids)
        query = layer_norm((silu(pooled[:, None] @ down) @ up)[:, 0], pooled.shape[1:])  # B D
        query = query * self.scale.index_select(0, task_ids) + self.bias.index_select(0, task_ids)
        own = self.prompt.amax(1).index_select(0, task_ids)  # B D
        near = torch.cat([query @ self.sources.amax(1).T, (query * own).sum(1, keepdim=True)], dim=1)  # B C+1
        return torch.softmax(near / self.temperature, dim=1)

    def condition(self, inputs: Inputs, task_ids: Tensor, word_embeddings: nn.Module) -> Inputs:
        """Mix the prompts of each example, ``(B, N, D)``."""
        with torch.autocast(self.prompt.device.type, enabled=False):
            shares = self.attention(inputs, task_ids, word_embeddings)  # B C+1
            own = self.prompt.index_select(0, task_ids)  # B N D
            mixed = torch.einsum("bc,cnd->bnd", shares[:, :-1], self.sources)
            return replace(inputs, prompts=own * (1 + shares[:, -1, None, None]) + mixed)

    def learner_groups(self) -> list[LearnerGroup]:
        """The tasks' own prompts, and their attention networks."""
        network = [self.down, self.up, self.scale, self.bias]
        T = len(self.task_names)
        return [LearnerGroup("prompt", [self.prompt], T), LearnerGroup("weights", network, T)]

    def storage(self) -> tuple[int, int]:
        """The source prompts, and a task's own prompt with its network."""
        return self.sources.numel(), sum(param[0].numel() for param in self.parameters())

    def settings(self) -> dict[str, Any]:
        """Collect the arguments that rebuild it beside its tensors."""
        return {"num_ranks": self.down.shape[2], "temperature": self.temperature}

    @classmethod
    def from_saved(cls, task_names: Sequence[str], tensors: Mapping[str, Tensor], settings: Mapping[str, Any]) -> Self:
        """Build one of the shape of saved tensors."""
        return cls(task_names, tensors["sources"], tensors["prompt"], **settings)

    @classmethod
    def build(cls, start: Start) -> Self:
        """Attend over the source's prompts; a task's own starts as ``start.prompt``."""
        assert start.source is not None
        assert start.settings.num_ranks is not None
        sources, own = start.source.prompts().detach(), start.prompt.prompts().detach()
        return cls(list(start.tasks), sources, own, start.settings.num_ranks, start.settings.temperature)

    @classmethod
    def check(cls, config: RunConfig) -> Iterator[str]:
        """As for every method; it always needs a source."""
        yield from super().check(config)
        if config.source is None:
            yield "source: is missing, and method=attempt attends to the prompts of a source run; add source=RUN_FOLDER"
