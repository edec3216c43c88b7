"""Keep what a run needs later, the best prompt and the last checkpoint, and show how far it is."""

import copy
import math
from pathlib import Path
from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback, Checkpoint, EarlyStopping, RichProgressBar
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_only
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from mpt.atomic import write_atomically
from mpt.data.batches import Batch
from mpt.errors import UserError
from mpt.loggers import CurvesFile
from mpt.run.checkpoint import RESUME_NEVER, cannot_write
from mpt.run.interrupt import Interrupted, StopSignals
from mpt.run.progress import Pace, on_terminal, print_line
from mpt.training.module import MPTModule


class BestPrompt(Callback):
    """Keeps what is trained at the step with the best validation score; of equals that with the lowest validation loss.

    Few validation rows give few different scores: of weak runs most have several best steps.

    Args:
        path: Where it is kept, a safetensors file; replaced atomically.
        per_task: Keep the numbers of each task at the best step of that task, instead of all at that of the average.

    Attributes:
        scores: Best score of each part: of ``average``, or of every task.
        losses: Validation loss at that step.
        last: Steps at the last validation.
        steps: Optimizer steps that each part has behind it.
        texts: Task to the answers to its validation examples at the step that is kept.
    """

    def __init__(self, path: Path, per_task: bool = False) -> None:
        self.path, self.per_task = path, per_task
        self.scores: dict[str, float] = {}
        self.losses: dict[str, float] = {}
        self.last = -1
        self.steps: dict[str, int] = {}
        self.texts: dict[str, list[str]] = {}
        self._tensors: dict[str, Tensor] = {}

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Compare, and keep what is better."""
        assert isinstance(pl_module, MPTModule)
        if trainer.sanity_checking:
            return
        parts = pl_module.task_names if self.per_task else ["average"]
        self.last = trainer.global_step
        found = trainer.callback_metrics
        now = {part: float(found[f"validation/{part}/score"]) for part in parts}
        losses = {part: float(found[f"validation/{part}/loss"]) for part in parts}
        better = [part for part in parts if self._is_better(part, now[part], losses[part])]
        if better:
            self._keep(pl_module, better)
            self.scores |= {part: now[part] for part in better}
            self.losses |= {part: losses[part] for part in better}
            self.steps |= dict.fromkeys(better, trainer.global_step)
            self._write()

    def _is_better(self, part: str, score: float, loss: float) -> bool:
        if part not in self.scores:
            return True
        if score != self.scores[part]:
            return score > self.scores[part]
        return loss < self.losses.get(part, -math.inf)

    def _keep(self, module: MPTModule, parts: list[str]) -> None:
        for task_id, name in enumerate(module.task_names):
            if not self.per_task or name in parts:
                self.texts[name] = [each.text for each in module.validated if each.task_id == task_id]
        now = module.adapter.snapshot()
        if not self._tensors or not self.per_task:
            self._tensors = now
            return
        for part in parts:
            for name, learner in module.adapter.learners_of(module.task_names.index(part)).items():
                learner.part_of(self._tensors[name]).copy_(learner.part_of(now[name]))

    def steps_of(self, task_names: list[str]) -> dict[str, int]:
        """The step at which each task is kept; 0 before the first validation."""
        return {name: self.steps.get(name if self.per_task else "average", 0) for name in task_names}

    def restore(self, module: MPTModule) -> None:
        """Put the best back, where a validation has found one."""
        if self._tensors:
            module.adapter.restore(self._tensors)

    def state_dict(self) -> dict[str, Any]:
        """For the checkpoint; the tensors are in the file."""
        kept = {"scores": self.scores, "losses": self.losses, "steps": self.steps, "texts": self.texts}
        return copy.deepcopy(kept)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with the best of an interrupted run.

        Raises:
            FileNotFoundError: The file is missing.
            UserError: The file is damaged.
        """
        self.scores, self.steps = dict(state_dict["scores"]), dict(state_dict["steps"])
        self.losses = dict(state_dict.get("losses", {}))
        self.texts = dict(state_dict.get("texts", {}))
        if not self.scores:
            return
        if not self.path.is_file():
            raise FileNotFoundError(f"{self.path}: is missing, so the run cannot go on; {RESUME_NEVER}")
        try:
            self._tensors = load_file(self.path)
        except (OSError, SafetensorError) as error:
            raise UserError(f"{self.path}: damaged, so the run cannot go on from it; {RESUME_NEVER}") from error

    @rank_zero_only
    def _write(self) -> None:
        try:
            with write_atomically(self.path) as temporary:
                save_file(self._tensors, temporary, metadata={"format": "pt"})
        except (OSError, SafetensorError) as error:
            raise cannot_write(self.path, error) from error


class LastCheckpoint(Checkpoint):
    """Write ``last.ckpt`` after each validation, and between two steps where the run is asked to stop.

    Nowhere else: within a step, what has been drawn and what has been learned do not belong together.

    Args:
        path: The checkpoint.
        signals: The run's.

    Attributes:
        step: Steps that the checkpoint on the disk has behind it; 0 where this process has written none.
    """

    def __init__(self, path: Path, signals: StopSignals) -> None:
        self.path, self.signals = path, signals
        self.step = 0

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """From here on a signal waits for the end of its step."""
        self.signals.install()
        self.signals.training = True

    def on_validation_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Handle the signals again: Lightning took SIGTERM for itself where it validates by itself."""
        self.signals.install()

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Save, in a training."""
        if trainer.state.fn == TrainerFn.FITTING:
            self._save(trainer)

    def on_exception(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, exception: BaseException
    ) -> None:
        """Save where the run was stopped between two steps; what failed goes on from the checkpoint before."""
        if isinstance(exception, Interrupted) and self.signals.training:
            self._save(trainer)

    def _save(self, trainer: lightning.Trainer) -> None:
        for logger in trainer.loggers:
            if isinstance(logger, CurvesFile):
                logger.write()  # the curves on the disk reach at least as far as the checkpoint
        trainer.save_checkpoint(self.path)
        self.step = trainer.global_step


class EarlyStop(EarlyStopping):
    """Lightning's early stopping, which stays stopped when the run is resumed after its last validation."""

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Stop again where the checkpoint was written by the validation that stopped the run."""
        if self.wait_count >= self.patience:
            trainer.should_stop = True


def build_progress() -> Callback:
    """The callback that shows the progress of a training here: a bar on a terminal, lines elsewhere."""
    return StepBar() if on_terminal() else StepLines()


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
        metrics = super().get_metrics(trainer, pl_module)
        short = {"train/loss": "loss", "validation/average/score": "score"}
        return {short[key]: value for key, value in metrics.items() if key in short}


class StepLines(Callback):
    """A line every few seconds: step, loss, rows per second, time left; and one for each validation."""

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Start the clock; steps of before an interruption do not count for the speed."""
        self.pace, self.first, self.examples = Pace(), trainer.global_step, 0

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
    ) -> None:
        """Print a line where one is due."""
        self.examples += len(batch["task_ids"]) * trainer.world_size
        step = trainer.global_step
        if step > self.first and trainer.is_global_zero and self.pace.is_due():
            share = (step - self.first) / (trainer.max_steps - self.first)
            speed, left = self.pace.estimate(self.examples, share)
            loss = float(trainer.callback_metrics["train/loss"])
            print_line(f"step {step} of {trainer.max_steps}: loss {loss:.4f}, {speed} rows/s, {left} left")

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Print the average score."""
        if trainer.is_global_zero:
            score = float(trainer.callback_metrics["validation/average/score"])
            print_line(f"step {trainer.global_step} of {trainer.max_steps}: validation score {score:.3f}")
