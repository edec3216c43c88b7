"""The loss of each example from its logits."""

from torch import Tensor
from torch.nn.functional import cross_entropy


def token_losses(logits: Tensor, labels: Tensor) -> Tensor:
    """Negative log likelihood of each example's labels, summed over its tokens.

    Args:
        logits: ``(B, L, V)``.
        labels: ``(B, L)``; -100 pads.

    Returns:
        float32, ``(B,)``, in nats.
    """
    return cross_entropy(logits.float().transpose(1, 2), labels, reduction="none").sum(1)
