"""A learner: numbers that are trained by themselves, whatever lies beside them in the same tensor.

The first dimension of every trained tensor counts learners: groups of P, tasks of cols and rows. A learner has its own
step count, moments and clipping (:class:`mpt.training.optim.PerLearnerAdamW`), starts as in a run of its own where
``mixture=each`` asks for it, and keeps its own best step under ``evaluation.best=task``.
"""

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor, nn


class LearnerGroup(NamedTuple):
    """Tensors whose first dimension holds the same independent learners, with a learning rate of their own."""

    name: str
    """``prompt``, ``factors`` or ``weights``: the part of ``optim.lr_<name>``."""
    params: list[nn.Parameter]
    learners: int
    """Each parameter can be viewed as ``(learners, -1)``: one part per group of P, or per task."""


@dataclass(frozen=True)
class Learner:
    """The place of one learner in a parameter.

    Attributes:
        learners: How many learners the parameter holds.
        position: Which of them it is.
    """

    learners: int
    position: int

    def part_of(self, parameter: Tensor) -> Tensor:
        """The numbers of this learner in a parameter, as a view."""
        return parameter.view(self.learners, -1)[self.position]
