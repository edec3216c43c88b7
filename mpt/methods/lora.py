"""LoRA: low-rank updates of the backbone's weights, through peft."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from torch import nn

from mpt.adapter import LearnerGroup, WithinBackbone
from mpt.backbone import Backbone
from mpt.config import MethodConfig
from mpt.errors import UserError
from mpt.methods import Method, Start, method


@method
class LoRA(WithinBackbone, Method):
    """Low-rank updates of the backbone's weights (Hu et al. 2022), through peft; all tasks of a run share them.

    Args:
        task_names: The tasks.
        backbone: Its model gets the updates; it must not be used for anything else.
        method: ``num_ranks``, ``alpha`` and ``modules``.
        independent: Numbers of a plain prompt.

    Raises:
        UserError: peft is not there, or the model has no such modules.
    """

    name = "lora"
    keys = ("num_ranks", "alpha", "modules")
    required = ("num_ranks",)
    source = "never"
    is_within_backbone = True

    def __init__(self, task_names: Sequence[str], backbone: Backbone, method: MethodConfig, independent: int) -> None:
        super().__init__(task_names, independent)
        try:
            import peft
        except ImportError as error:
            raise UserError("method: lora needs peft; pip install 'mpt[lora]'") from error
        assert method.num_ranks is not None
        settings = peft.LoraConfig(
            task_type=backbone.task_type,
            r=method.num_ranks,
            lora_alpha=method.num_ranks if method.alpha is None else method.alpha,
            target_modules=method.modules or _attention_modules(backbone),
        )
        try:
            # In a tuple, so that the backbone is not part of this module a second time.
            self._peft = (peft.get_peft_model(backbone.model, settings),)
        except ValueError as error:
            raise UserError(f"method.modules: {' '.join(str(error).split())}") from error

    def learned(self) -> dict[str, nn.Parameter]:
        """Return LoRA's A and B of every updated weight."""
        return {name: param for name, param in self._peft[0].named_parameters() if "lora_" in name}

    def learner_groups(self) -> list[LearnerGroup]:
        """All updates together."""
        return [LearnerGroup("weights", list(self.learned().values()), 1)]

    def storage(self) -> tuple[int, int]:
        """All updates, which the tasks of a run share."""
        return sum(param.numel() for param in self.learned().values()), 0

    def write(self, folder: Path, backbone: Backbone) -> None:
        """Write a PEFT adapter."""
        self._peft[0].save_pretrained(folder)

    @classmethod
    def build(cls, start: Start) -> Self:
        """Put updates into the backbone; ``start.prompt`` is just the size that they are compared with."""
        return cls(list(start.tasks), start.backbone, start.settings, start.prompt.prompts()[0].numel())


def _attention_modules(backbone: Backbone) -> list[str] | None:
    """Names of the weights that an architecture updates which peft has no choice for; None: it has one."""
    from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as KNOWN

    settings: Any = backbone.model.config
    if settings.model_type in KNOWN:
        return None
    names = {
        name.rpartition(".")[2] for name, module in backbone.model.named_modules() if isinstance(module, nn.Linear)
    }
    for usual in (["q_proj", "v_proj"], ["qkv_proj"]):
        if names.issuperset(usual):
            return usual
    raise UserError(
        f"method.modules: peft has no choice for a {settings.model_type!r} model; name some of "
        f"{', '.join(sorted(names))}"
    )
