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
    """Keeps what is trained at the step with the best validation score, the first one of equals.

    Args:
        path: Where it is kept, a safetensors file; replaced atomically.
        by_task: Keep the numbers of each task at the best step of that task, instead of all at that of the average.

    Attributes:
        scores: Best score of each part: of ``average``, or of every task.
        steps: Optimiser steps that each part has behind it.
    """

    def __init__(self, path: Path, by_task: bool = False) -> None:
        self.path, self.by_task = path, by_task
        self.scores: dict[str, float] = {}
        self.steps: dict[str, int] = {}
        self._tensors: dict[str, Tensor] = {}

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Compare, and keep what is better."""
        assert isinstance(pl_module, MPTModule)
        if trainer.sanity_checking:
            return
        parts = pl_module.task_names if self.by_task else ["average"]
        now = {part: float(trainer.callback_metrics[f"validation/{part}/score"]) for part in parts}
        better = [part for part in parts if part not in self.scores or now[part] > self.scores[part]]
        if better:
            self._keep(pl_module, better)
            self.scores |= {part: now[part] for part in better}
            self.steps |= dict.fromkeys(better, trainer.global_step)
            self._write()

    def _keep(self, module: MPTModule, parts: list[str]) -> None:
        now = module.adapter.snapshot()
        if not self._tensors or not self.by_task:
            self._tensors = now
            return
        for part in parts:
            for name, (learners, index) in module.adapter.numbers_of(module.task_names.index(part)).items():
                self._tensors[name].view(learners, -1)[index] = now[name].view(learners, -1)[index]

    def steps_of(self, task_names: list[str]) -> dict[str, int]:
        """The step at which each task is kept; 0 before the first validation."""
        return {name: self.steps.get(name if self.by_task else "average", 0) for name in task_names}

    def restore(self, module: MPTModule) -> None:
        """Put the best back, where a validation has found one."""
        if self._tensors:
            module.adapter.restore(self._tensors)

    def state_dict(self) -> dict[str, Any]:
        """For the checkpoint; the tensors are in the file."""
        return {"scores": dict(self.scores), "steps": dict(self.steps)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with the best of an interrupted run.

        Raises:
            FileNotFoundError: The file has gone.
        """
        self.scores, self.steps = dict(state_dict["scores"]), dict(state_dict["steps"])
        if not self.scores:
            return
        if not self.path.is_file():
            raise FileNotFoundError(f"{self.path}: has gone, and the run cannot go on; use resume=never")
        self._tensors = load_file(self.path)

    @rank_zero_only
    def _write(self) -> None:
        with write_atomically(self.path) as temporary:
            save_file(self._tensors, temporary, metadata={"format": "pt"})
