"""Baselines that train within the backbone: LoRA, and full fine-tuning."""

from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from mpt.adapter import LearnerGroup
from mpt.backbone import Backbone
from mpt.baselines.baseline import Baseline
from mpt.config import MethodConfig
from mpt.errors import UserError
from mpt.inputs import Inputs


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
    def write(self, folder: Path, backbone: Backbone) -> None:
        """Write what was trained into an empty folder, as its library does."""


class LoRA(WithinBackbone):
    """Low-rank updates of the backbone's weights (Hu et al. 2022), through peft; all tasks of a run share them.

    Args:
        task_names: The tasks.
        backbone: Its model gets the updates; it must not be used for anything else.
        method: ``num_ranks``, ``alpha`` and ``modules``.
        independent: Numbers of a plain prompt.

    Raises:
        UserError: peft is not there, or the model has no such modules.
    """

    def __init__(
        self, task_names: Sequence[str], backbone: Backbone, method: MethodConfig, independent: int
    ) -> None:
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


def _attention_modules(backbone: Backbone) -> list[str] | None:
    """Names of the weights that an architecture updates which peft has no choice for; None: it has one."""
    from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as KNOWN

    settings: Any = backbone.model.config
    if settings.model_type in KNOWN:
        return None
    names = {
        name.rpartition(".")[2]
        for name, module in backbone.model.named_modules()
        if isinstance(module, nn.Linear)
    }
    for usual in (["q_proj", "v_proj"], ["qkv_proj"]):
        if names.issuperset(usual):
            return usual
    raise UserError(
        f"method.modules: peft has no choice for a {settings.model_type!r} model; name some of "
        f"{', '.join(sorted(names))}"
    )


class FullFineTuning(WithinBackbone):
    """All weights of the backbone are trained; all tasks of a run share them.

    Args:
        task_names: The tasks.
        backbone: Is trained; it must not be used for anything else.
        independent: Numbers of a plain prompt.
    """

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
