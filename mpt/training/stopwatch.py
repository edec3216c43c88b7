"""The seconds that a run trains and validates for, of its own: beside others in one training only its share counts."""

import time
from collections.abc import Callable
from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback


class Stopwatch(Callback):
    """Measures the training of a run, also that of before an interruption.

    Args:
        clock: Seconds that the run has used; of a run by itself the time of day.

    Attributes:
        validation: Seconds of it that went into validations.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.before, self.validation = 0.0, 0.0
        self._began: float | None = None
        self._ended: float | None = None
        self._validation_began = 0.0

    def elapsed(self) -> float:
        """Return the seconds of training so far, validations included."""
        if self._began is None:
            return self.before
        return self.before + (self.clock() if self._ended is None else self._ended) - self._began

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Start."""
        self._began = self.clock()

    def on_train_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Stop."""
        self._ended = self.clock()

    def on_validation_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Note when a validation begins."""
        self._validation_began = self.clock()

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Add what it took."""
        self.validation += self.clock() - self._validation_began

    def state_dict(self) -> dict[str, Any]:
        """For the checkpoint."""
        return {"elapsed": self.elapsed(), "validation": self.validation}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from an interrupted run."""
        self.before, self.validation = state_dict["elapsed"], state_dict["validation"]
