"""What every baseline answers, so that it can stand where a multitask prompt stands.

Shape legend: B rows in a batch, S input tokens, T tasks, C source prompts, N virtual tokens, D token_dim, R ranks.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from mpt.backbone import Backbone
from mpt.prompt import LearnerGroup, ParameterCount


class Baseline(nn.Module, ABC):
    """Stands where a multitask prompt stands, and answers the same calls.

    Args:
        task_names: The T tasks, by task id.
        independent: Numbers of a plain prompt, N times D, which storage is compared with.
    """

    def __init__(self, task_names: Sequence[str], independent: int) -> None:
        super().__init__()
        self.task_names, self._independent = list(task_names), independent

    def conditions(
        self, input_ids: Tensor, attention_mask: Tensor, task_ids: Tensor, word_embeddings: nn.Module
    ) -> dict[str, Tensor]:
        """What the backbone reads besides each row's own tokens.

        Args:
            input_ids: ``(B, S)``.
            attention_mask: ``(B, S)``, 1 on tokens.
            task_ids: ``(B,)``.
            word_embeddings: The backbone's.

        Returns:
            ``prompts`` ``(B, N, D)`` and ``shifts`` ``(B, S, D)``, each where the method has it.
        """
        return {}

    def learned(self) -> dict[str, nn.Parameter]:
        """What is trained, by name; also where it lies within the backbone."""
        return dict(self.named_parameters())

    @abstractmethod
    def learner_groups(self) -> list[LearnerGroup]:
        """The trained parameters by learning rate, with how many independent learners each holds."""

    def numbers_of(self, task: int) -> dict[str, tuple[int, int]]:
        """Where a task's own numbers lie: of each parameter, how many tasks it holds, and which one this is."""
        return dict.fromkeys(dict(self.named_parameters()), (len(self.task_names), task))

    @abstractmethod
    def storage(self) -> tuple[int, int]:
        """Numbers to store for all tasks together, and for each task besides."""

    @abstractmethod
    def save(self, folder: Path, backbone: Backbone) -> None:
        """Write a folder that holds what was trained, whole or not at all."""

    def snapshot(self) -> dict[str, Tensor]:
        """A copy of what is trained that later steps do not touch."""
        return {name: param.detach().cpu().clone() for name, param in self.learned().items()}

    @torch.no_grad()
    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Put back what :meth:`snapshot` gave."""
        for name, param in self.learned().items():
            param.copy_(tensors[name])

    @torch.no_grad()
    def displacement(self, start: Mapping[str, Tensor]) -> dict[str, float]:
        """``||now - start|| / ||start||`` (Frobenius) of each learner group, all tasks together."""
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
