"""What writes around the inputs and trains nothing: a backbone reads its tokens, and no number is added."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

from torch import Tensor, nn

from mpt.adapter.baseline import TensorBaseline
from mpt.adapter.learner import LearnerGroup
from mpt.inputs import Inputs

if TYPE_CHECKING:
    from mpt.methods import Start


class WrittenAround(TensorBaseline):
    """No numbers at all; the text is saved with the settings of each task's answers."""

    @classmethod
    def build(cls, start: "Start") -> Self:
        """Train nothing; ``start.prompt`` is just the size that it is compared with."""
        return cls(list(start.tasks), start.prompt.prompts()[0].numel())

    @property
    def num_virtual_tokens(self) -> int:
        """None."""
        return 0

    def condition(self, inputs: Inputs, task_ids: Tensor, word_embeddings: nn.Module) -> Inputs:
        """Add nothing: the text stands in the tokens."""
        return inputs

    def learner_groups(self) -> list[LearnerGroup]:
        """None."""
        return []

    def storage(self) -> tuple[int, int]:
        """No numbers."""
        return 0, 0

    def settings(self) -> dict[str, Any]:
        """Count what a plain prompt would store."""
        return {"independent": self._independent}

    @classmethod
    def from_saved(cls, task_names: Sequence[str], tensors: Mapping[str, Tensor], settings: Mapping[str, Any]) -> Self:
        """Build one again."""
        return cls(task_names, **settings)
