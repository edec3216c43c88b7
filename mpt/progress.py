"""Show how far a run is: a bar on a terminal, elsewhere a line every so often."""

import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback, RichProgressBar
from lightning.pytorch.utilities import rank_zero_only
from rich.console import Console
from rich.progress import track

from mpt.data import Batch

SECONDS_BETWEEN_LINES = 10.0


def on_terminal() -> bool:
    """Whether a person is likely to look at the output as it comes."""
    return Console().is_terminal


def build_progress() -> Callback:
    """The callback that shows the progress of a training here."""
    return StepBar() if on_terminal() else StepLines()


def track_batches(batches: Iterable[Batch], doing: str, total: int) -> Iterator[Batch]:
    """Pass batches through, and show how many of their examples are done.

    Args:
        batches: Of an evaluation.
        doing: What is done with them, as a reader of the bar should see it.
        total: Number of batches.

    Yields:
        The batches.
    """
    if getattr(rank_zero_only, "rank", 0) != 0:
        yield from batches
    elif on_terminal():
        yield from track(batches, doing, total, transient=True)
    else:
        yield from _with_lines(batches, doing, total)


def _with_lines(batches: Iterable[Batch], doing: str, total: int) -> Iterator[Batch]:
    pace, examples = Pace(), 0
    for done, batch in enumerate(batches, start=1):
        yield batch
        examples += len(batch["task_ids"])
        if pace.is_due():
            speed, left = pace.estimate(examples, done / total)
            _print_line(f"{doing}: {done} of {total} batches, {speed} rows/s, {left} left")


class Pace:
    """When the next line is due, and what it says of speed and time left.

    Args:
        every: Seconds between lines.
    """

    def __init__(self, every: float | None = None) -> None:
        self.every = SECONDS_BETWEEN_LINES if every is None else every
        self.started = self._last = time.monotonic()

    def is_due(self) -> bool:
        """Whether the last line is long enough ago; then it counts as printed."""
        if time.monotonic() - self._last < self.every:
            return False
        self._last = time.monotonic()
        return True

    def estimate(self, examples: int, share: float) -> tuple[str, str]:
        """Examples per second, and the time left when ``share`` of the work, above 0, is done."""
        elapsed = time.monotonic() - self.started
        left = elapsed * (1 - share) / share
        speed = examples / max(elapsed, 1e-9)
        return (f"{speed:.0f}" if speed >= 10 else f"{speed:.1f}"), format_seconds(left)


def format_seconds(seconds: float) -> str:
    """A duration for people: ``45 s``, ``3 min 20 s``, ``2 h 5 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def _print_line(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


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
            _print_line(f"step {step} of {trainer.max_steps}: loss {loss:.4f}, {speed} rows/s, {left} left")

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Print the average score."""
        if trainer.is_global_zero:
            score = float(trainer.callback_metrics["validation/average/score"])
            _print_line(f"step {trainer.global_step} of {trainer.max_steps}: validation score {score:.3f}")
