"""The equation: how a task's prompt comes of the shared prompt and the task's two factors."""

from torch import Tensor


def compose(form: str, shared: Tensor, cols: Tensor, rows: Tensor) -> Tensor:
    """Compose the prompt of a task (Wang et al. 2023, section 3.1, where the rank is one).

    Args:
        form: product (the paper's), residual or additive (ours).
        shared: P, ``(..., N, D)``.
        cols: ``(..., N, R)``.
        rows: ``(..., R, D)``.

    Returns:
        The prompt, ``(..., N, D)``.
    """
    W = cols @ rows  # (..., N, D)
    if form == "product":
        return shared * W
    if form == "residual":
        return shared * (1 + W)
    return shared + W
