"""The multitask prompt: one shared soft prompt and a low-rank factor per task.

Shape legend: B examples in a batch, T tasks, G groups of P, N virtual tokens, R ranks, D token_dim.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from mpt.adapter import Adapter, Learner, LearnerGroup, ParameterCount
from mpt.config import OF_SOURCE
from mpt.errors import UserError
from mpt.inputs import Inputs
from mpt.prompt.form import compose
from mpt.prompt.initialize import start_factors, start_shared, width
from mpt.prompt.picking import pick
from mpt.prompt.prompt_config import MultitaskPromptTuningConfig
from mpt.prompt.source_file import open_source
from mpt.prompt.start_from_source import Source, start_from_source


class MultitaskPromptEmbedding(Adapter):
    """One shared soft prompt P and a low-rank factor pair per task (Wang et al. 2023, section 3.1).

    Task t has the prompt ``P[group(t)] * W_t`` with ``W_t = cols_t @ rows_t``: what tasks have in common is
    stored once, what differs costs ``N * R + R * D`` numbers a task. The other forms, groups of P, and the
    form without factors are ours. All parameters are float32, whatever the backbone is.

    Attributes:
        embedding: P, weight ``(G * N, D)``.
        prefix_task_cols: ``(T, N, R)``; absent under the forms independent and single.
        prefix_task_rows: ``(T, R, D)``; absent under the forms independent and single.

        began_with: The prompts that a training began with, ``(T, N, D)``; None where they were not kept.

    Args:
        config: Shape, composition and first values; PEFT's own config object serves as well.
        word_embeddings: The backbone's; TEXT and VOCABULARY start from them, otherwise it may be None when
            the config has ``token_dim``.
        source: A trained prompt for the inits that start from one; None: the config's file.
        source_weights: Under NEAREST_SOURCE_TASK and WEIGHTED_SOURCE_TASKS, the parts of the S source tasks in each of
            the T tasks, ``(T, S)``, each row summing to 1.

    Raises:
        UserError: The config lacks what its init needs, or the source does not fit.
        FileNotFoundError: There is no file of the source.
    """

    task_groups: Tensor

    def __init__(
        self,
        config: MultitaskPromptTuningConfig | Any,
        word_embeddings: nn.Embedding | None = None,
        source: "MultitaskPromptEmbedding | None" = None,
        source_weights: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.began_with: Tensor | None = None
        if not isinstance(config, MultitaskPromptTuningConfig):
            config = MultitaskPromptTuningConfig.from_peft(config)
        self.config = replace(config, token_dim=width(config, word_embeddings))
        T, N, R, D = self.shape
        G = self.config.num_groups
        # The order of the draws is PEFT's, so the same seed gives the same numbers.
        self.embedding = nn.Embedding(G * N, D)
        with torch.no_grad():
            self.embedding.weight.copy_(start_shared(self.config, self.embedding.weight, word_embeddings))
        if self.config.has_factors:
            cols, rows = start_factors((T, N, R, D), self.config.form, self.config.factor_init, self.config.factor_std)
            self.prefix_task_cols = nn.Parameter(cols)  # T N R
            self.prefix_task_rows = nn.Parameter(rows)  # T R D
        self.register_buffer("task_groups", torch.tensor(self.config.task_groups), persistent=False)  # T
        if self.config.prompt_tuning_init in OF_SOURCE and not self.config.inference_mode:
            opened = source.as_source() if source is not None else open_source(self.config)
            self._start_from(opened, source_weights)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """T, N, R and D."""
        config = self.config
        assert config.token_dim is not None
        return config.num_tasks, config.num_virtual_tokens, config.num_ranks, config.token_dim

    @property
    def task_names(self) -> list[str]:
        """The T names; position i is ``task_ids == i``."""
        return list(self.config.task_names)

    @property
    def num_virtual_tokens(self) -> int:
        """N."""
        return self.config.num_virtual_tokens

    def task_id(self, name: str) -> int:
        """Return the index of the task called ``name``.

        Raises:
            UserError: The prompt holds no such task.
        """
        if name not in self.config.task_names:
            raise UserError(f"prompt: no task {name!r}; choose one of {', '.join(self.config.task_names)}")
        return self.config.task_names.index(name)

    def forward(self, indices: Tensor | None, task_ids: Tensor) -> Tensor:
        """Build the prompt of each example, in float32 also under autocast.

        Args:
            indices: Positions in the prompt, long, ``(B, N)``; None: 0 to N - 1 for every example.
            task_ids: Positions in ``task_names``, long, ``(B,)``.

        Returns:
            Prompts, ``(B, N, D)``.

        Raises:
            IndexError: A task id is not in 0..T-1, or an index not in 0..N-1 (on a GPU: an assert there).
            UserError: ``task_ids`` is None or not one number per example.
        """
        if task_ids is None:
            raise UserError("task_ids cannot be None; it must hold one task per example, shape (B,)")
        if task_ids.dim() != 1:
            found = tuple(task_ids.shape)
            raise UserError(f"task_ids: is of shape {found}; it must hold one task per example, shape (B,)")
        N = self.config.num_virtual_tokens
        if indices is None:
            indices = torch.arange(N, device=task_ids.device).expand(len(task_ids), N)
        elif indices.device.type == "cpu" and indices.numel() and not 0 <= indices.min() <= indices.max() < N:
            # With several groups such an index would silently read another group's prompt.
            raise IndexError(f"indices: run from {indices.min()} to {indices.max()}; they must be in 0..{N - 1}")
        # index_select, not [task_ids]: indexing would read a negative id as the last task.
        groups = self.task_groups.index_select(0, task_ids)  # B
        prompts: Tensor = self.embedding(groups[:, None] * N + indices)  # B N D
        if not self.config.has_factors:
            return prompts
        cols = pick(self.prefix_task_cols, task_ids)  # B N R
        rows = pick(self.prefix_task_rows, task_ids)  # B R D
        with torch.autocast(cols.device.type, enabled=False):
            return compose(self.config.form, prompts, cols, rows)

    def prompts(self) -> Tensor:
        """The prompt of every task, ``(T, N, D)``."""
        prompts: Tensor = self(None, torch.arange(len(self.task_groups), device=self.task_groups.device))
        return prompts

    def count_parameters(self) -> ParameterCount:
        """Count the numbers that the prompt holds, against one plain prompt per task."""
        T, N, R, D = self.shape
        shared = self.config.num_groups * N * D
        per_task = N * R + R * D if self.config.has_factors else 0
        total = shared + T * per_task
        return ParameterCount(shared, per_task, T * per_task, total, T * N * D, total / (T * N * D))

    def learner_groups(self) -> list[LearnerGroup]:
        """The parameters with their number of learners: G for P, T for the factors."""
        groups = [LearnerGroup("prompt", [self.get_parameter("embedding.weight")], self.config.num_groups)]
        if self.config.has_factors:
            factors = [self.prefix_task_cols, self.prefix_task_rows]
            groups.append(LearnerGroup("factors", factors, self.config.num_tasks))
        return groups

    def learners_of(self, task: int) -> dict[str, Learner]:
        """Locate the numbers of one task: its group of P, and its cols and rows."""
        config = self.config
        assert config.task_groups is not None
        learners = {"embedding.weight": Learner(config.num_groups, config.task_groups[task])}
        if config.has_factors:
            factors = ("prefix_task_cols", "prefix_task_rows")
            learners |= dict.fromkeys(factors, Learner(config.num_tasks, task))
        return learners

    def condition(self, inputs: Inputs, task_ids: Tensor, word_embeddings: nn.Module) -> Inputs:
        """Put the prompt of each example's task before it, whatever its tokens are."""
        return replace(inputs, prompts=self(None, task_ids))

    def snapshot(self) -> dict[str, Tensor]:
        """Copy the parameters, under the names of the state dict; later steps do not touch the copy."""
        return {name: param.detach().cpu().clone() for name, param in self.named_parameters()}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Put back what :meth:`snapshot` returned."""
        self.load_state_dict(dict(tensors))

    @torch.no_grad()
    def displacement(self, start: Mapping[str, Tensor]) -> dict[str, float]:
        """Measure how far the prompt has moved since ``start``.

        Args:
            start: What :meth:`snapshot` returned, of a prompt with the same tasks.

        Returns:
            ``||now - start|| / ||start||`` (Frobenius) of P under ``prompt``, and of each task's W under its
            name; in the additive form and without factors of each task's prompt. The plain distance where the start is
            zero.
        """
        device = self.embedding.weight.device
        before = {name: tensor.to(device) for name, tensor in start.items()}
        now = dict(self.named_parameters())
        moved = _relative_move(now["embedding.weight"][None], before["embedding.weight"][None])
        by_task = _relative_move(self._of_tasks(now), self._of_tasks(before))
        return {"prompt": moved.item()} | dict(zip(self.config.task_names, by_task.tolist(), strict=True))

    def names_by_task(self) -> list[str]:
        """The parameters whose first dimension grows with the tasks."""
        if self.config.has_factors:
            return ["prefix_task_cols", "prefix_task_rows"]
        return ["embedding.weight"] if self.config.form == "independent" else []

    def _of_tasks(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """Compute each task's own part, ``(T, N, D)``: W; in the additive form and without factors the prompt."""
        form, (_, N, _, D) = self.config.form, self.shape
        shared = tensors["embedding.weight"].view(-1, N, D)  # G N D
        if not self.config.has_factors:
            return shared[self.task_groups]
        cols, rows = tensors["prefix_task_cols"], tensors["prefix_task_rows"]
        own = shared[self.task_groups] if form == "additive" else torch.ones_like(shared[self.task_groups])
        return compose(form, own, cols, rows)

    def as_source(self) -> Source:
        """This prompt as one that others start from; a copy."""
        tensors, groups = self.snapshot(), self.task_groups.cpu()
        shared = tensors["embedding.weight"].view(self.config.num_groups, self.config.num_virtual_tokens, -1)
        cols, rows = tensors.get("prefix_task_cols"), tensors.get("prefix_task_rows")
        return Source("source", self.config.form, shared, groups, cols, rows, self.task_names, self.began_with)

    def _start_from(self, source: Source, source_weights: Tensor | None) -> None:
        """Put the source's values in the place of the drawn ones."""
        config = self.config
        fresh = self.prefix_task_rows.detach() if config.has_factors else None
        shared, cols, rows = start_from_source(config, source, source_weights, fresh)
        P = self.embedding.weight.view(config.num_groups, config.num_virtual_tokens, -1)
        _copy(P, shared, source.where)
        if cols is not None and rows is not None:
            _copy(self.prefix_task_cols, cols, source.where)
            _copy(self.prefix_task_rows, rows, source.where)


@torch.no_grad()
def _copy(target: Tensor, value: Tensor, where: str) -> None:
    """Give each part of ``target``, ``(parts, ...)``, its own value, or all the same."""
    if target.shape[1:] != value.shape[-2:]:
        raise UserError(
            f"{where}: has a tensor of shape {tuple(value.shape[-2:])} where the target has "
            f"{tuple(target.shape[1:])}; give both the same num_virtual_tokens and token_dim"
        )
    target.copy_(value.expand_as(target))


def _relative_move(now: Tensor, then: Tensor) -> Tensor:
    """Relative Frobenius distance of each part of ``(parts, ...)``, shape ``(parts,)``."""
    now, then = now.double(), then.double()  # large numbers have squares that float32 does not hold
    distance = (now - then).flatten(1).norm(dim=1)
    length = then.flatten(1).norm(dim=1)
    relative: Tensor = distance / torch.where(length > 0, length, 1.0)
    return relative
