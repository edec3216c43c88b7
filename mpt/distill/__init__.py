"""Prompt distillation: a student prompt learns from teacher prompts, token distributions and hidden states.

Wang et al. 2023, section 3.2: ``L_t + weight_logits * KL + weight_hidden * squared error``. The teachers are prompts,
so they add no second copy of the backbone; what they answer can be kept on disk.
"""

from mpt.distill.cache import AnswerCache
from mpt.distill.distiller import Distiller
from mpt.distill.losses import hidden_losses, logit_losses

__all__ = ["AnswerCache", "Distiller", "hidden_losses", "logit_losses"]
