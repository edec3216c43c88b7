"""PEFT's three tensors: checked, and the residual form written as their product.

Shape legend: T tasks, N virtual tokens, R ranks, D token_dim.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from mpt.errors import UserError

NAMES = ["prompt_embeddings", "prefix_task_cols", "prefix_task_rows"]


def check_tensors(
    tensors: Mapping[str, Tensor], wanted: list[str], where: str
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Check that PEFT's tensors are there and fit each other.

    Args:
        tensors: ``prompt_embeddings (N, D)``, ``prefix_task_cols (T, N, R)``, ``prefix_task_rows (T, R, D)``.
        wanted: Those of them that must be there.
        where: What to call their file in an error.

    Returns:
        The three as float32; None in the place of factors that are not wanted.

    Raises:
        UserError: One is missing, or a shape is wrong.
    """
    if missing := [name for name in wanted if name not in tensors]:
        raise UserError(f"{where}: no tensor {', '.join(missing)}; it holds {', '.join(sorted(tensors)) or 'none'}")
    shared = tensors["prompt_embeddings"]
    if shared.dim() != 2:
        raise UserError(f"{where}: prompt_embeddings has shape {tuple(shared.shape)}; it must be (N, D)")
    if len(wanted) == 1:
        return shared.float(), None, None
    cols, rows = tensors["prefix_task_cols"], tensors["prefix_task_rows"]
    (N, D), fits = shared.shape, cols.dim() == rows.dim() == 3
    if not fits or cols.shape[:2] != (len(rows), N) or rows.shape[1:] != (cols.shape[2], D) or 0 in cols.shape:
        raise UserError(
            f"{where}: prefix_task_cols has shape {tuple(cols.shape)}, prefix_task_rows {tuple(rows.shape)}; "
            f"with prompt_embeddings {tuple(shared.shape)} they must be (T, {N}, R) and (T, R, {D})"
        )
    return shared.float(), cols.float(), rows.float()


def as_product(cols: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Write ``1 + cols @ rows`` as a product of one rank more: a last column and a last row of ones.

    Args:
        cols: ``(T, N, R)``.
        rows: ``(T, R, D)``.

    Returns:
        cols ``(T, N, R + 1)`` and rows ``(T, R + 1, D)``.
    """
    return (
        torch.cat([cols, torch.ones_like(cols[:, :, :1])], dim=2),
        torch.cat([rows, torch.ones_like(rows[:, :1, :])], dim=1),
    )


def as_residual(cols: Tensor, rows: Tensor, where: str) -> tuple[Tensor, Tensor]:
    """Undo :func:`as_product`.

    Raises:
        UserError: The last column or the last row is not all ones.
    """
    if cols.shape[2] < 2 or not ((cols[:, :, -1] == 1).all() and (rows[:, -1, :] == 1).all()):
        raise UserError(
            f"{where}: the factors are a product, not 1 plus a product; start form=product from them, "
            "or train the source with form=residual"
        )
    return cols[:, :, :-1].contiguous(), rows[:, :-1, :].contiguous()
