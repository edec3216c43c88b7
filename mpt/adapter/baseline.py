"""The common part of the baselines: they are restored, measured and counted by their parameters.

Shape legend: B examples in a batch, S input tokens, T tasks, N virtual tokens, D token_dim.
"""

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from torch import Tensor, nn

from mpt.adapter.contract import Adapter, ParameterCount
from mpt.adapter.learner import Learner
from mpt.inputs import Inputs

if TYPE_CHECKING:
    from mpt.backbone import Backbone


class Baseline(Adapter):
    """An adapter that multitask prompt tuning is compared with.

    Args:
        task_names: The T tasks, by task id.
        independent: Numbers of a plain prompt, N times D, which storage is compared with.
    """

    def __init__(self, task_names: Sequence[str], independent: int) -> None:
        super().__init__()
        self._task_names, self._independent = list(task_names), independent

    @property
    def task_names(self) -> list[str]:
        """The T names."""
        return list(self._task_names)

    @abstractmethod
    def learned(self) -> dict[str, nn.Parameter]:
        """Return the trained parameters by name, also those within the backbone."""

    @abstractmethod
    def storage(self) -> tuple[int, int]:
        """Count the numbers to store for all tasks together, and for each task besides."""

    def learners_of(self, task: int) -> dict[str, Learner]:
        """Locate the numbers of one task: a part of each parameter that the baseline itself holds."""
        return dict.fromkeys(dict(self.named_parameters()), Learner(len(self._task_names), task))

    def snapshot(self) -> dict[str, Tensor]:
        """Copy what is trained to the CPU."""
        return {name: param.detach().cpu().clone() for name, param in self.learned().items()}

    @torch.no_grad()
    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Put back what :meth:`snapshot` returned."""
        for name, param in self.learned().items():
            param.copy_(tensors[name])

    @torch.no_grad()
    def displacement(self, start: Mapping[str, Tensor]) -> dict[str, float]:
        """Return ``||now - start|| / ||start||`` (Frobenius) of each learner group, all tasks together."""
        names = {id(param): name for name, param in self.learned().items()}
        moved = {}
        for group in self.learner_groups():
            pairs = [(param.detach().cpu(), start[names[id(param)]]) for param in group.params]
            distance = math.hypot(*(float((now - then).norm()) for now, then in pairs))
            moved[group.name] = distance / (math.hypot(*(float(then.norm()) for _, then in pairs)) or 1.0)
        return moved

    def count_parameters(self) -> ParameterCount:
        """Count the numbers to store, against one plain prompt per task."""
        shared, per_task = self.storage()
        factors = len(self.task_names) * per_task
        independent = len(self.task_names) * self._independent
        total = shared + factors
        return ParameterCount(shared, per_task, factors, total, independent, total / independent)


class TensorBaseline(Baseline):
    """A baseline that holds its own tensors, whose state dict and settings build it again."""

    name: ClassVar[str]
    """As ``method=`` and ``adapter.json`` call it."""

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """Collect what builds it again beside its tensors."""

    @classmethod
    @abstractmethod
    def from_saved(cls, task_names: Sequence[str], tensors: Mapping[str, Tensor], settings: Mapping[str, Any]) -> Self:
        """Build one of the shape of saved tensors; their values are put in afterwards."""

    def learned(self) -> dict[str, nn.Parameter]:
        """Return all parameters."""
        return dict(self.named_parameters())


class WithinBackbone(Baseline):
    """Trains the backbone's own weights, so the backbone reads nothing else than its tokens."""

    @property
    def num_virtual_tokens(self) -> int:
        """None."""
        return 0

    def condition(self, inputs: Inputs, task_ids: Tensor, word_embeddings: nn.Module) -> Inputs:
        """Add nothing to the input."""
        return inputs

    @abstractmethod
    def write(self, folder: Path, backbone: "Backbone") -> None:
        """Write what was trained into an empty folder, as its library does."""
