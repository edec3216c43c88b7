"""Full fine-tuning: all weights of the backbone are trained."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Self

from torch import nn

from mpt.adapter import LearnerGroup, WithinBackbone
from mpt.backbone import Backbone
from mpt.config import RunConfig
from mpt.methods import Method, Start, method


@method
class FullFineTuning(WithinBackbone, Method):
    """All weights of the backbone are trained; all tasks of a run share them.

    Args:
        task_names: The tasks.
        backbone: Is trained; it must not be used for anything else.
        independent: Numbers of a plain prompt.
    """

    name = "full"
    source = "never"
    is_within_backbone = True

    def __init__(self, task_names: Sequence[str], backbone: Backbone, independent: int) -> None:
        super().__init__(task_names, independent)
        # In a tuple, so that the backbone is not part of this module a second time.
        self._model = (backbone.model.requires_grad_(True),)

    def learned(self) -> dict[str, nn.Parameter]:
        """All weights."""
        return dict(self._model[0].named_parameters())

    def learner_groups(self) -> list[LearnerGroup]:
        """All weights together."""
        return [LearnerGroup("weights", list(self.learned().values()), 1)]

    def storage(self) -> tuple[int, int]:
        """All weights, which the tasks of a run share."""
        return sum(param.numel() for param in self.learned().values()), 0

    def write(self, folder: Path, backbone: Backbone) -> None:
        """Write the model and its tokenizer; ``backbone.path`` takes that folder."""
        self._model[0].save_pretrained(folder)
        backbone.tokenizer.save_pretrained(folder)

    @classmethod
    def build(cls, start: Start) -> Self:
        """Train the backbone; ``start.prompt`` is just the size that it is compared with."""
        return cls(list(start.tasks), start.backbone, start.prompt.prompts()[0].numel())

    @classmethod
    def check(cls, config: RunConfig) -> Iterator[str]:
        """As for every method; small updates need float32."""
        yield from super().check(config)
        if config.backbone.dtype != "float32":
            yield (
                f"backbone.dtype: is {config.backbone.dtype}, in which small updates of all weights are lost; use "
                "backbone.dtype=float32 with method=full"
            )
        if config.backbone.quantize is not None:
            yield f"backbone.quantize: is {config.backbone.quantize}, and method=full trains the weights; leave it out"
