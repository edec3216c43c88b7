"""The contract of everything that is trained: the multitask prompt, and every method that it is compared with.

Shape legend: B examples in a batch, S input tokens, T tasks, N virtual tokens, D token_dim.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from mpt.adapter.learner import Learner, LearnerGroup
from mpt.inputs import Inputs


@dataclass(frozen=True)
class ParameterCount:
    """The size of an adapter; printed as a table."""

    shared: int
    """Numbers that all tasks share: of a prompt those of P, all groups."""
    per_task: int
    """Numbers of one task besides: of a prompt its cols and rows."""
    factors: int
    """Those of all tasks."""
    total: int
    independent: int
    """Numbers of one plain prompt per task."""
    ratio: float
    """``total / independent``."""

    def __str__(self) -> str:
        lines = {
            "shared prompt": f"{self.shared:,}",
            "factors, per task": f"{self.per_task:,}",
            "factors, all tasks": f"{self.factors:,}",
            "total": f"{self.total:,}",
            "independent prompts": f"{self.independent:,}",
            "total / independent": f"{self.ratio:.3f}",
        }
        width = max(len(number) for number in lines.values())
        return "\n".join(f"{name:<20}{number:>{width + 1}}" for name, number in lines.items())


class Adapter(nn.Module, ABC):
    """Everything that is trained beside the frozen backbone, or, for some baselines, within it."""

    @property
    @abstractmethod
    def task_names(self) -> list[str]:
        """The T names; position i is ``task_ids == i``."""

    @property
    @abstractmethod
    def num_virtual_tokens(self) -> int:
        """N, the tokens that it puts before each input; 0 where it puts none."""

    @abstractmethod
    def condition(self, inputs: Inputs, task_ids: Tensor, word_embeddings: nn.Module) -> Inputs:
        """Add to the tokens of a batch what the backbone reads besides them.

        Args:
            inputs: The tokens of B examples.
            task_ids: ``(B,)``.
            word_embeddings: The backbone's.
        """

    @abstractmethod
    def learner_groups(self) -> list[LearnerGroup]:
        """The trained parameters by learning rate, with how many independent learners each holds."""

    @abstractmethod
    def learners_of(self, task: int) -> dict[str, Learner]:
        """Locate the numbers of one task in each parameter, by the parameter's name."""

    @abstractmethod
    def snapshot(self) -> dict[str, Tensor]:
        """Copy what is trained to the CPU; later steps do not touch the copy."""

    @abstractmethod
    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Put back what :meth:`snapshot` returned."""

    @abstractmethod
    def displacement(self, start: Mapping[str, Tensor]) -> dict[str, float]:
        """Measure how far each part has moved since ``start``, relative to its norm; an adapter says which parts."""

    @abstractmethod
    def count_parameters(self) -> ParameterCount:
        """Count the numbers to store, against one plain prompt per task."""
