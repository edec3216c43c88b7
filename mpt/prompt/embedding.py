"""The multitask prompt: one shared soft prompt and a low-rank factor per task.

Shape legend: B rows in a batch, T tasks, G groups of P, N virtual tokens, R ranks, D token_dim.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mpt import initialize
from mpt.config import OF_SOURCE, MultitaskPromptTuningInit
from mpt.prompt.config import MultitaskPromptTuningConfig
from mpt.prompt.count import ParameterCount
from mpt.prompt.start import start_shared, width


class LearnerGroup(NamedTuple):
    """Tensors whose first dimension holds the same independent learners."""

    name: str
    """``prompt`` (P) or ``factors`` (cols and rows)."""
    params: list[nn.Parameter]
    learners: int
    """Each parameter can be viewed as ``(learners, -1)``: one row per group of P, or per task."""


class MultitaskPromptEmbedding(nn.Module):
    """One shared soft prompt P and a low-rank factor pair per task (Wang et al. 2023, section 3.1).

    Task t has the prompt ``P[group(t)] * W_t`` with ``W_t = cols_t @ rows_t``: what tasks have in common is
    stored once, what differs costs ``N * R + R * D`` numbers a task. The other forms, groups of P, and the
    form without factors are ours. All parameters are float32, whatever the backbone is.

    Attributes:
        embedding: P, weight ``(G * N, D)``.
        prefix_task_cols: ``(T, N, R)``; absent under the forms none and shared.
        prefix_task_rows: ``(T, R, D)``; absent under the forms none and shared.

    Args:
        config: Shape, composition and first values.
        word_embeddings: The backbone's; TEXT and VOCABULARY start from them, otherwise it may be None when
            the config has ``token_dim``.
        source: A trained prompt for the inits that start from one; None: the config's file.
        source_weights: Under NEAREST_SOURCE_TASK and WEIGHTED_SOURCE_TASKS, the parts of the S source tasks in each of
            the T tasks, ``(T, S)``, each row summing to 1.

    Raises:
        ValueError: The config lacks what its init needs, or the source does not fit.
        FileNotFoundError: There is no file of the source.
    """

    task_groups: Tensor

    def __init__(
        self,
        config: MultitaskPromptTuningConfig,
        word_embeddings: nn.Embedding | None = None,
        source: "MultitaskPromptEmbedding | None" = None,
        source_weights: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.config = replace(config, token_dim=width(config, word_embeddings))
        T, N, R, D = self.shape
        G = self.config.num_groups
        # The order of the draws is PEFT's, so the same seed gives the same numbers.
        self.embedding = nn.Embedding(G * N, D)
        with torch.no_grad():
            self.embedding.weight.copy_(start_shared(self.config, self.embedding.weight, word_embeddings))
        if self.config.has_factors:
            cols, rows = initialize.start_factors(
                (T, N, R, D), self.config.form, self.config.factor_init, self.config.factor_std
            )
            self.prefix_task_cols = nn.Parameter(cols)  # T N R
            self.prefix_task_rows = nn.Parameter(rows)  # T R D
        self.register_buffer("task_groups", torch.tensor(self.config.task_groups), persistent=False)  # T
        if self.config.prompt_tuning_init in OF_SOURCE and not self.config.inference_mode:
            self._start_from(source, source_weights)

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

    def task_id(self, name: str) -> int:
        """Return the index of the task called ``name``.

        Raises:
            ValueError: The prompt holds no such task.
        """
        if name not in self.config.task_names:
            raise ValueError(f"prompt: no task {name!r}; choose one of {', '.join(self.config.task_names)}")
        return self.config.task_names.index(name)

    def forward(self, indices: Tensor | None, task_ids: Tensor) -> Tensor:
        """Build the prompt of each row, in float32 also under autocast.

        Args:
            indices: Positions in the prompt, long, ``(B, N)``; None: 0 to N - 1 for every row.
            task_ids: Positions in ``task_names``, long, ``(B,)``.

        Returns:
            Prompts, ``(B, N, D)``.

        Raises:
            IndexError: A task id is not in 0..T-1, or an index not in 0..N-1 (on a GPU: an assert there).
            ValueError: ``task_ids`` is None or not one number per row.
        """
        if task_ids is None or task_ids.dim() != 1:
            given = None if task_ids is None else f"of shape {tuple(task_ids.shape)}"
            raise ValueError(f"task_ids: is {given}; it must hold one task per row, shape (B,)")
        N = self.config.num_virtual_tokens
        if indices is None:
            indices = torch.arange(N, device=task_ids.device).expand(len(task_ids), N)
        elif indices.device.type == "cpu" and indices.numel() and not 0 <= indices.min() <= indices.max() < N:
            # With several groups such an index would silently read another group's prompt.
            raise IndexError(
                f"indices: run from {indices.min()} to {indices.max()}; they must be in 0..{N - 1}"
            )
        # index_select, not [task_ids]: indexing would read a negative id as the last task.
        groups = self.task_groups.index_select(0, task_ids)  # B
        prompts: Tensor = self.embedding(groups[:, None] * N + indices)  # B N D
        if not self.config.has_factors:
            return prompts
        cols = self.prefix_task_cols.index_select(0, task_ids)  # B N R
        rows = self.prefix_task_rows.index_select(0, task_ids)  # B R D
        with torch.autocast(cols.device.type, enabled=False):
            return initialize.compose(self.config.form, prompts, cols @ rows)

    def prompts(self) -> Tensor:
        """The prompt of every task, ``(T, N, D)``."""
        prompts: Tensor = self(None, torch.arange(len(self.task_groups), device=self.task_groups.device))
        return prompts

    def add_tasks(
        self,
        names: Sequence[str],
        *,
        groups: Sequence[int] | None = None,
        like: Sequence[str] = (),
        word_embeddings: nn.Embedding | None = None,
    ) -> None:
        """Extend the prompt; every number that it holds stays bit for bit as it is.

        The parameters are replaced by longer ones, so build the optimiser after this.

        Args:
            names: The new tasks.
            groups: Existing group of each new task; None: the only one. Not for form none, where each new
                task gets a group of its own.
            like: Tasks of this prompt, from the mean of whose factors (under form none, prompts) the new
                tasks start; empty: from the config's start, with a source-based init from RANDOM.
            word_embeddings: For new plain prompts under TEXT and VOCABULARY.

        Raises:
            ValueError: A name is taken or unknown, or a group is not there.
        """
        extended = self._extended_config(names, groups)
        ids = torch.tensor([self.task_id(name) for name in like], dtype=torch.long)
        # The new tasks' part, drawn as a prompt of its own.
        part = replace(extended, num_tasks=len(names), task_names=list(names), task_groups=None, num_groups=1)
        if part.prompt_tuning_init in OF_SOURCE or extended.form != "none" or like:
            part.prompt_tuning_init = MultitaskPromptTuningInit.RANDOM
        fresh = MultitaskPromptEmbedding(part, word_embeddings).to(self.embedding.weight.device)
        for name in self._by_task():
            old, new = self.get_parameter(name), fresh.get_parameter(name).detach()
            if like:
                mean = old.detach().view(len(self.task_groups), -1)[ids.to(old.device)].mean(0)
                new = mean.expand(len(names), -1).reshape_as(new)
            longer = nn.Parameter(torch.cat([old.detach(), new]), requires_grad=old.requires_grad)
            if name == "embedding.weight":
                self.embedding.weight, self.embedding.num_embeddings = longer, len(longer)
            else:
                setattr(self, name, longer)
        self.task_groups = torch.tensor(extended.task_groups, device=self.task_groups.device)
        self.config = extended

    def join(self, other: "MultitaskPromptEmbedding") -> None:
        """Append the tasks of another prompt with the same P; every number of both stays bit for bit as it is.

        Args:
            other: Such as the one that an adaptation with a frozen P has trained.

        Raises:
            ValueError: The two differ in form, rank, length or P, have several groups, or share a name.
        """
        mine, theirs = self.config, other.config
        for key in ("form", "num_ranks", "num_virtual_tokens", "token_dim"):
            if getattr(mine, key) != getattr(theirs, key) and not (
                key == "num_ranks" and not mine.has_factors
            ):
                raise ValueError(
                    f"{key}: is {getattr(mine, key)} in one prompt and {getattr(theirs, key)} in the other; prompts "
                    "that are joined must have the same"
                )
        if mine.form != "none":
            if mine.num_groups > 1 or theirs.num_groups > 1:
                raise ValueError("num_groups: is more than 1; only prompts with one P can be joined")
            if not torch.equal(self.embedding.weight.cpu(), other.embedding.weight.cpu()):
                raise ValueError("embedding: the two prompts have another P; train the second with P frozen")
        names = self._by_task()
        kept = {name: len(self.get_parameter(name)) for name in names}
        # What they start from is replaced at once, so it needs no word embeddings.
        self.add_tasks(theirs.task_names, like=mine.task_names[:1])
        with torch.no_grad():
            for name in names:
                self.get_parameter(name)[kept[name] :].copy_(other.get_parameter(name))

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

    def numbers_of(self, task: int) -> dict[str, tuple[int, int]]:
        """Where the numbers of a task lie: of each parameter, how many learners it holds, and which is the task's."""
        config = self.config
        assert config.task_groups is not None
        found = {"embedding.weight": (config.num_groups, config.task_groups[task])}
        if config.has_factors:
            found |= dict.fromkeys(("prefix_task_cols", "prefix_task_rows"), (config.num_tasks, task))
        return found

    def conditions(
        self, input_ids: Tensor, attention_mask: Tensor, task_ids: Tensor, word_embeddings: nn.Module
    ) -> dict[str, Tensor]:
        """What the backbone reads besides each row's own tokens: its task's prompt, whatever the tokens are.

        Args:
            input_ids: ``(B, S)``.
            attention_mask: ``(B, S)``.
            task_ids: ``(B,)``.
            word_embeddings: The backbone's.

        Returns:
            ``prompts``, ``(B, N, D)``.
        """
        return {"prompts": self(None, task_ids)}

    def snapshot(self) -> dict[str, Tensor]:
        """A copy of the parameters, under the names of the state dict, that later steps do not touch."""
        return {name: param.detach().cpu().clone() for name, param in self.named_parameters()}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Put back what :meth:`snapshot` gave."""
        self.load_state_dict(dict(tensors))

    @torch.no_grad()
    def displacement(self, start: Mapping[str, Tensor]) -> dict[str, float]:
        """Tell how far the prompt has moved since ``start``.

        Args:
            start: What :meth:`snapshot` gave, of a prompt with the same tasks.

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

    def _by_task(self) -> list[str]:
        """The parameters whose first dimension grows with the tasks."""
        if self.config.has_factors:
            return ["prefix_task_cols", "prefix_task_rows"]
        return ["embedding.weight"] if self.config.form == "none" else []

    def _of_tasks(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """What is each task's own, ``(T, N, D)``: W; in the additive form and without factors the whole prompt."""
        form, (_, N, _, D) = self.config.form, self.shape
        shared = tensors["embedding.weight"].view(-1, N, D)  # G N D
        if not self.config.has_factors:
            return shared[self.task_groups]
        product = tensors["prefix_task_cols"] @ tensors["prefix_task_rows"]
        if form == "additive":
            return initialize.compose(form, shared[self.task_groups], product)
        return initialize.compose(form, torch.ones_like(product), product)

    def _as_source(self) -> initialize.Source:
        tensors, groups = self.snapshot(), self.task_groups.cpu()
        shared = tensors["embedding.weight"].view(self.config.num_groups, self.config.num_virtual_tokens, -1)
        cols, rows = tensors.get("prefix_task_cols"), tensors.get("prefix_task_rows")
        return initialize.Source("source", self.config.form, shared, groups, cols, rows)

    def _start_from(self, source: "MultitaskPromptEmbedding | None", source_weights: Tensor | None) -> None:
        """Put the source's values in the place of the drawn ones."""
        config, init = self.config, self.config.prompt_tuning_init
        task = config.prompt_tuning_init_task
        if source is not None:
            given = source._as_source()
            task = source.task_id(task) if init == "EXACT_SOURCE_TASK" and isinstance(task, str) else task
        elif config.prompt_tuning_init_state_dict_path is None:
            raise ValueError(
                f"prompt_tuning_init_state_dict_path: not given, and {init} starts from it; give the file of "
                "a source prompt, or pass the source"
            )
        elif isinstance(task, str):
            raise ValueError(
                f"prompt_tuning_init_task: is {task!r}; a file knows no names, so give the position"
            )
        else:
            path, only_shared = config.prompt_tuning_init_state_dict_path, init == "ONLY_SOURCE_SHARED"
            given = initialize.from_file(path, config.num_virtual_tokens, config.form, only_shared)
        weights = self._source_weights(len(given.task_groups), task, source_weights, given.where)
        fresh = self.prefix_task_rows.detach() if config.has_factors else None
        shared, cols, rows = initialize.from_source(init, given, weights, config.form, fresh)
        P = self.embedding.weight.view(config.num_groups, config.num_virtual_tokens, -1)
        _copy(P, shared, given.where)
        if cols is not None and rows is not None:
            _copy(self.prefix_task_cols, cols, given.where)
            _copy(self.prefix_task_rows, rows, given.where)

    def _source_weights(
        self, num_sources: int, task: int | str, given: Tensor | None, where: str
    ) -> Tensor | None:
        """The parts of S source tasks in each of the T tasks, ``(T, S)``; None where the init has no say in them."""
        init, shape = self.config.prompt_tuning_init, (self.config.num_tasks, num_sources)
        if init in ("NEAREST_SOURCE_TASK", "WEIGHTED_SOURCE_TASKS"):
            told = (
                "not given"
                if given is None
                else f"of shape {tuple(given.shape)}, sums {given.sum(1).tolist()}"
            )
            if given is None or given.shape != shape or (given.sum(1) - 1).abs().max() > 1e-4:
                raise ValueError(
                    f"source_weights: {told}; {init} needs shape {shape}, each row summing to 1, as "
                    "mpt.similarity.source_weights gives them"
                )
            return given.float()
        if init != "EXACT_SOURCE_TASK":
            return None
        if not isinstance(task, int) or not 0 <= task < num_sources:
            raise ValueError(
                f"prompt_tuning_init_task: is {task}; {where} has the tasks 0 to {num_sources - 1}"
            )
        return torch.nn.functional.one_hot(torch.tensor([task]), num_sources).float().expand(shape)

    def _extended_config(
        self, names: Sequence[str], groups: Sequence[int] | None
    ) -> MultitaskPromptTuningConfig:
        config = self.config
        if not names or isinstance(names, str):
            raise ValueError(f"names: is {names!r}; it must be a list of at least one new task")
        every = [*config.task_names, *names]
        if config.form == "none":
            if groups is not None:
                raise ValueError(
                    f"groups: is {list(groups)}; form=none gives each new task its own, so leave it out"
                )
            return replace(config, task_names=every, num_tasks=len(every), num_groups=1, task_groups=None)
        if groups is None and config.num_groups > 1:
            raise ValueError(
                f"groups: not given; the prompt has {config.num_groups} groups, so name one per new task"
            )
        assert config.task_groups is not None
        joined = [*config.task_groups, *(groups if groups is not None else [0] * len(names))]
        return replace(config, task_names=every, num_tasks=len(every), task_groups=joined)


@torch.no_grad()
def _copy(target: Tensor, value: Tensor, where: str) -> None:
    """Give each part of ``target``, ``(parts, ...)``, its own value, or all the same."""
    if target.shape[1:] != value.shape[-2:]:
        raise ValueError(
            f"{where}: has a tensor of shape {tuple(value.shape[-2:])} where the target has "
            f"{tuple(target.shape[1:])}; give both the same num_virtual_tokens and token_dim"
        )
    target.copy_(value.expand_as(target))


def _relative_move(now: Tensor, then: Tensor) -> Tensor:
    """Relative Frobenius distance of each part of ``(parts, ...)``, shape ``(parts,)``."""
    distance = (now - then).flatten(1).norm(dim=1)
    length = then.flatten(1).norm(dim=1)
    relative: Tensor = distance / torch.where(length > 0, length, 1.0)
    return relative
