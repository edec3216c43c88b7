"""The distance of a student from its teacher: token distributions and hidden states.

Shape legend: B examples in a batch, S input tokens, L target tokens, V vocabulary, K kept logits, H layers,
D token_dim, T tasks.
"""

import torch
from torch import Tensor
from torch.nn.functional import log_softmax


def logit_losses(
    student: Tensor, teacher: Tensor, labels: Tensor, temperature: float, kept: Tensor | None = None
) -> Tensor:
    """``temperature^2 * KL(teacher || student)`` of each example, summed over its target tokens (Hinton et al. 2015).

    Args:
        student: Logits, ``(B, L, V)``.
        teacher: Log probabilities at the temperature: of all tokens ``(B, L, V)``, or of the K kept ones and, last, of
            all others together, ``(B, L, K + 1)``. The divergence of such coarser distributions is never larger.
        labels: ``(B, L)``; -100 pads, which do not count.
        temperature: Both distributions are ``softmax(logits / temperature)``.
        kept: Ids of the kept tokens, ``(B, L, K)``; None: all.

    Returns:
        float32 ``(B,)``, in nats; 0 where student and teacher agree.
    """
    log_student = log_softmax(student.float() / temperature, dim=-1)
    if kept is not None:
        log_student = coarsened(log_student, kept)
    teacher = teacher.float()
    # A token that the teacher rules out adds nothing; 0 * -inf would be no number.
    terms = torch.where(teacher == -torch.inf, 0.0, teacher.exp() * (teacher - log_student))  # B L V
    return temperature**2 * terms.sum(-1).masked_fill(labels == -100, 0.0).sum(1)


def coarsened(log_probabilities: Tensor, kept: Tensor) -> Tensor:
    """Log probabilities of the kept tokens and, last, of all others together, ``(B, L, K + 1)``."""
    rest = log_probabilities.scatter(-1, kept, -torch.inf).logsumexp(-1, keepdim=True)
    return torch.cat([log_probabilities.gather(-1, kept), rest], dim=-1)


def hidden_losses(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """Squared error of hidden states of each example: summed over tokens, mean over layers and dimensions.

    Args:
        student: ``(B, S, H, D)``.
        teacher: ``(B, S, H, D)``.
        mask: ``(B, S)``, true on the tokens that count.

    Returns:
        float32 ``(B,)``.
    """
    error = (student.float() - teacher.float()).square().mean((-1, -2))  # B S
    return error.masked_fill(~mask, 0.0).sum(1)
