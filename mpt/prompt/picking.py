"""Pick the factors of a batch's tasks; the gradient of many tasks' factors names the few that it is of.

Shape legend: T tasks, B examples in a batch.
"""

from typing import Any

import torch
from torch import Tensor, distributed
from torch.autograd.function import once_differentiable

SPARSE_FROM = 64
"""Tasks beyond which a gradient holds only those of the batch: all of 10,000 would be written and read in each step."""


def pick(factors: Tensor, task_ids: Tensor) -> Tensor:
    """Return the factors of each example's task.

    Args:
        factors: Of all tasks, ``(T, ...)``.
        task_ids: ``(B,)``.

    Returns:
        ``(B, ...)``. Of many tasks the gradient is sparse over the first dimension, as
        :class:`mpt.training.optim.PerLearnerAdamW` takes it; between processes, which add dense ones, it is not.
    """
    shared_out = distributed.is_available() and distributed.is_initialized()
    if len(factors) <= SPARSE_FROM or shared_out or not (factors.requires_grad and torch.is_grad_enabled()):
        return factors.index_select(0, task_ids)  # not [task_ids]: indexing would read a negative id as the last task
    picked: Tensor = _Pick.apply(factors, task_ids)  # type: ignore[no-untyped-call]
    return picked


class _Pick(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, factors: Tensor, task_ids: Tensor) -> Tensor:
        ctx.save_for_backward(task_ids)
        ctx.shape = factors.shape
        return factors.index_select(0, task_ids)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        [task_ids] = ctx.saved_tensors
        return torch.sparse_coo_tensor(task_ids[None], grads[0], ctx.shape, check_invariants=False), None
