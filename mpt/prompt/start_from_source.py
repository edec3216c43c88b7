"""First values from a trained prompt: averages, mixtures and single tasks of a source, in any rank.

Shape legend: T target tasks, S source tasks, G groups of P, N virtual tokens, R ranks, D token_dim.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from mpt.errors import UserError
from mpt.prompt.form import compose
from mpt.prompt.prompt_config import MultitaskPromptTuningConfig


@dataclass(frozen=True)
class Source:
    """A trained prompt to start from.

    Attributes:
        where: What to call it in an error.
        form: product, residual, additive, independent or single.
        prompts: The groups of P, ``(G, N, D)``.
        task_groups: Group of each task, ``(T,)``.
        cols: ``(T, N, R)``; None where the form has no factors.
        rows: ``(T, R, D)``; None where the form has no factors.
        task_names: The T names; None where the source knows none.
        start: The prompts that its training began with, ``(T, N, D)``; None where they were not kept.
    """

    where: str
    form: str
    prompts: Tensor
    task_groups: Tensor
    cols: Tensor | None = None
    rows: Tensor | None = None
    task_names: list[str] | None = None
    start: Tensor | None = None

    def shared(self) -> Tensor:
        """P, shape ``(N, D)``.

        Raises:
            UserError: The source has several groups.
        """
        if len(self.prompts) != 1:
            raise UserError(
                f"{self.where}: has {len(self.prompts)} groups of P, so no one shared prompt; use EXACT_SOURCE_TASK"
            )
        return self.prompts[0]

    def effective(self) -> Tensor:
        """The whole prompt of each task, ``P * W``, shape ``(T, N, D)``."""
        prompts = self.prompts[self.task_groups]
        if self.cols is None or self.rows is None:
            return prompts
        return compose(self.form, prompts, self.cols, self.rows)


def start_from_source(
    config: MultitaskPromptTuningConfig, source: Source, source_weights: Tensor | None, fresh: Tensor | None
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Choose the first values that a config asks for; as :func:`from_source`.

    Args:
        config: Configuration of the T target tasks.
        source: A prompt of S source tasks.
        source_weights: Under NEAREST_SOURCE_TASK and WEIGHTED_SOURCE_TASKS, ``(T, S)``.
        fresh: The targets' rows as drawn, ``(T, R, D)``; None where the targets' form has no factors.

    Raises:
        UserError: As :func:`from_source`, or the weights or the task do not fit the source.
    """
    weights = _weights(config, source, source_weights)
    return from_source(config.prompt_tuning_init, source, weights, config.form, fresh)


def _weights(config: MultitaskPromptTuningConfig, source: Source, weights: Tensor | None) -> Tensor | None:
    """The parts of S source tasks in each of the T tasks, ``(T, S)``; None where the init has no say in them."""
    S = len(source.task_groups)
    init, shape = config.prompt_tuning_init, (config.num_tasks, S)
    if init in ("NEAREST_SOURCE_TASK", "WEIGHTED_SOURCE_TASKS"):
        if weights is None or weights.shape != shape or (weights.sum(1) - 1).abs().max() > 1e-4:
            found = "missing"
            if weights is not None:
                found = f"of shape {tuple(weights.shape)}, sums {weights.sum(1).tolist()}"
            raise UserError(
                f"source_weights: are {found}; {init} needs shape {shape}, each row summing to 1, as "
                "mpt.training.similarity.source_weights gives them"
            )
        return weights.float()
    if init != "EXACT_SOURCE_TASK":
        return None
    task = config.prompt_tuning_init_task
    if isinstance(task, str) and source.task_names is not None:
        if task not in source.task_names:
            raise UserError(f"prompt: no task {task!r}; choose one of {', '.join(source.task_names)}")
        task = source.task_names.index(task)
    if not isinstance(task, int) or not 0 <= task < S:
        raise UserError(f"prompt_tuning_init_task: is {task}; {source.where} has the tasks 0 to {S - 1}")
    return torch.nn.functional.one_hot(torch.tensor([task]), S).float().expand(shape)


def factorize(product: Tensor, fresh: Tensor) -> tuple[Tensor, Tensor]:
    """Find the cols and rows whose product is nearest to another one (Eckart and Young 1936).

    Where the product has a lower rank than R, the columns that are left over are zero and their rows ``fresh``: they
    change nothing, and can learn, which a zero column on a zero row could not.

    Args:
        product: ``(T, N, D)``.
        fresh: Rows as drawn, ``(T, R, D)``.

    Returns:
        cols ``(T, N, R)`` and rows ``(T, R, D)``; the same for every way to write ``product``.
    """
    R = fresh.shape[1]
    left, values, right = torch.linalg.svd(product.double(), full_matrices=False)  # T N K, T K, T K D
    kept = min(R, values.shape[1])
    left, values, right = left[:, :, :kept], values[:, :kept], right[:, :kept]
    used = values > 1e-6 * values[:, :1]
    cols = product.new_zeros(len(product), product.shape[1], R)
    rows = fresh.clone()
    root = values.sqrt()
    cols[:, :, :kept] = torch.where(used[:, None, :], left * root[:, None, :], 0.0).float()
    rows[:, :kept] = torch.where(used[:, :, None], right * root[:, :, None], rows[:, :kept].double()).float()
    return cols, rows


def fit_rank(cols: Tensor, rows: Tensor, fresh: Tensor) -> tuple[Tensor, Tensor]:
    """Write factors in another rank: padded without a change of the product, or cut to the nearest one.

    Args:
        cols: ``(T, N, K)``.
        rows: ``(T, K, D)``.
        fresh: Rows as drawn, ``(T, R, D)``; those beyond K stay, on columns of zeros.

    Returns:
        cols ``(T, N, R)`` and rows ``(T, R, D)``.
    """
    K, R = rows.shape[1], fresh.shape[1]
    if K > R:
        return factorize(cols @ rows, fresh)
    padding = cols.new_zeros(len(cols), cols.shape[1], R - K)
    return torch.cat([cols, padding], dim=2), torch.cat([rows, fresh[:, K:]], dim=1)


def from_source(
    init: str, source: Source, weights: Tensor | None, form: str, fresh: Tensor | None
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Choose the start of targets from a source.

    Between prompts with factors, P is the source's, and the factors are

    - ONLY_SOURCE_SHARED: fresh;
    - AVERAGE_SOURCE_TASKS: the mean of all cols and the mean of all rows (Wang et al. 2023 and PEFT), which
      depends on how each W is written: ``cols @ rows = (-cols) @ (-rows)``;
    - AVERAGE_PRODUCT: those nearest to the mean of all W;
    - EXACT_SOURCE_TASK, NEAREST_SOURCE_TASK, WEIGHTED_SOURCE_TASKS: those nearest to the mixture of W that
      ``weights`` says; of a single task its own.

    SOURCE_TASK_VECTORS starts P with the source's own start plus the sum of what each source task learned,
    ``P0 + sum_i (P_i - P0_i)`` (Belanec et al. 2024, arXiv 2408.01119); factors are fresh.

    A plain prompt, on either side, stands for the whole prompt ``P * W`` of a task, and it is these that are mixed.

    Args:
        init: One of the above.
        source: Where to start from, of S tasks.
        weights: Parts of the source tasks in each target, ``(T, S)``, each row summing to 1; None for the first three.
        form: The targets' form.
        fresh: The targets' rows as drawn, ``(T, R, D)``; None where the targets' form has no factors.

    Returns:
        P ``(N, D)`` (of plain targets ``(T, N, D)``), cols ``(T, N, R)`` and rows ``(T, R, D)``; the last two are None
        where the factors stay fresh.

    Raises:
        UserError: The source does not have what the init takes, or the average is a start that cannot learn.
    """
    if init == "ONLY_SOURCE_SHARED":
        return source.shared(), None, None
    if init == "SOURCE_TASK_VECTORS":
        if source.start is None:
            raise UserError(
                f"{source.where}: does not keep the prompts that its training began with, which SOURCE_TASK_VECTORS "
                "subtracts; train it with this version, as task=source prompt=plain"
            )
        summed = source.start.mean(0, keepdim=True) + (source.effective() - source.start).sum(0, keepdim=True)
        return (summed if form == "independent" else summed[0]), None, None
    S = len(source.task_groups)
    if weights is None:
        weights = torch.full((1, S), 1 / S)
    if source.cols is None or source.rows is None or fresh is None:
        mixed = torch.einsum("ts,snd->tnd", weights, source.effective())
        return (mixed if form == "independent" else _one_of(mixed, source.where)), None, None
    if source.form != form:
        raise UserError(f"{source.where}: its form is {source.form!r}, the target's {form!r}; give both the same")
    if fresh.shape[2] != source.rows.shape[2]:
        raise UserError(
            f"{source.where}: has token_dim {source.rows.shape[2]}, the target {fresh.shape[2]}; give both the same"
        )
    if init == "AVERAGE_SOURCE_TASKS":
        cols, rows = source.cols.mean(0, keepdim=True), source.rows.mean(0, keepdim=True)
        if not cols.any() and not rows.any():
            raise UserError(
                f"{source.where}: the factors of its tasks average to exactly 0, where every gradient is 0; "
                "use AVERAGE_PRODUCT, EXACT_SOURCE_TASK or ONLY_SOURCE_SHARED"
            )
        return source.shared(), *fit_rank(cols.expand(len(fresh), -1, -1), rows.expand(len(fresh), -1, -1), fresh)
    weights = weights.expand(len(fresh), S)
    single, nearest = weights.amax(1) == 1.0, weights.argmax(1)
    groups = source.task_groups[nearest]
    shared = source.prompts[groups[0]] if (single & (groups == groups[0])).all() else source.shared()
    cols, rows = factorize(torch.einsum("ts,snd->tnd", weights, source.cols @ source.rows), fresh)
    own_cols, own_rows = fit_rank(source.cols[nearest], source.rows[nearest], fresh)
    return (
        shared,
        torch.where(single[:, None, None], own_cols, cols),
        torch.where(single[:, None, None], own_rows, rows),
    )


def _one_of(prompts: Tensor, where: str) -> Tensor:
    """The one P ``(N, D)`` of several targets, which can only share what is the same for all, ``(T, N, D)``."""
    if not (prompts == prompts[:1]).all():
        raise UserError(
            f"{where}: its plain prompts give each target another P, and the targets share one; adapt them one by one, "
            "or with form=independent"
        )
    return prompts[0]
