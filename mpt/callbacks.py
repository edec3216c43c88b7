"""What happens around the training loop: the best prompt is kept, and a bar shows the steps."""

from pathlib import Path
from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback, RichProgressBar
from lightning.pytorch.utilities import rank_zero_only
from safetensors.torch import load_file, save_file
from torch import Tensor

from mpt.atomic import write_atomically
from mpt.module import MPTModule


class StepBar(RichProgressBar):
    """Lightning's bar over all steps of a run, which knows no epochs."""

    def _get_train_description(self, current_epoch: int) -> str:
        return f"{'Training':{len(self.validation_description)}}"

    @property
    def total_train_batches(self) -> int | float:
        """All of a resumed run's, as the bar starts where the run stopped."""
        return self.trainer.num_training_batches

    def get_metrics(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> Any:
        """The weighted loss of the step, and the average score of the last validation."""
        told = super().get_metrics(trainer, pl_module)
        short = {"train/loss": "loss", "validation/average/score": "score"}
        return {short[key]: value for key, value in told.items() if key in short}


class BestPrompt(Callback):
    """Keeps the prompt with the best average validation score, the first one of equals.

    Args:
        path: Where it is kept, a safetensors file; replaced atomically.

    Attributes:
        score: Its ``validation/average/score``; None before the first validation.
        step: Optimiser steps that it has behind it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.score: float | None = None
        self.step = 0
        self._tensors: dict[str, Tensor] = {}

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Compare, and keep the prompt where it is better."""
        assert isinstance(pl_module, MPTModule)
        if trainer.sanity_checking:
            return
        score = float(trainer.callback_metrics["validation/average/score"])
        if self.score is None or score > self.score:
            self.score, self.step = score, trainer.global_step
            self._tensors = pl_module.prompt.snapshot()
            self._write()

    def restore(self, module: MPTModule) -> None:
        """Put the best prompt back, where a validation has found one."""
        if self._tensors:
            module.prompt.load_state_dict(self._tensors)

    def state_dict(self) -> dict[str, Any]:
        """For the checkpoint; the tensors are in the file."""
        return {"score": self.score, "step": self.step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with the best prompt of an interrupted run.

        Raises:
            FileNotFoundError: The file has gone.
        """
        self.score, self.step = state_dict["score"], state_dict["step"]
        if self.score is None:
            return
        if not self.path.is_file():
            raise FileNotFoundError(f"{self.path}: has gone, and the run cannot go on; use resume=never")
        self._tensors = load_file(self.path)

    @rank_zero_only
    def _write(self) -> None:
        with write_atomically(self.path) as temporary:
            save_file(self._tensors, temporary, metadata={"format": "pt"})
