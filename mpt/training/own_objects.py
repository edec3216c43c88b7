"""Callbacks and Trainer arguments of the user's own: objects that Python hands over, and callbacks by name."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger

from mpt.errors import UserError
from mpt.training.own_callbacks import CALLBACKS

FREE = ("accelerator", "benchmark", "detect_anomaly", "logger", "plugins", "profiler", "strategy")
"""Arguments of Lightning's Trainer that a program may hand over; what the others do is a key or the run's own."""
OF_KEYS = {
    "devices": "trainer.devices",
    "num_nodes": "trainer.num_nodes",
    "precision": "trainer.precision",
    "max_steps": "trainer.max_steps",
    "accumulate_grad_batches": "trainer.accumulate_grad_batches",
    "deterministic": "trainer.deterministic",
    "gradient_clip_val": "optim.clip",
    "val_check_interval": "evaluation.validate_every",
    "limit_val_batches": "evaluation.validation_rows",
    "limit_test_batches": "evaluation.test_rows",
    "enable_progress_bar": "trainer.progress_bar",
    "default_root_dir": "hydra.run.dir",
}
"""Those that are a key of the configuration."""


@dataclass(frozen=True)
class OwnObjects:
    """What a user adds to a run as objects.

    Attributes:
        callbacks: Lightning's, called after those of the run.
        trainer: Arguments of the Trainer, of :data:`FREE`; ``plugins`` and ``logger`` come beside the run's own.
    """

    callbacks: Sequence[Callback] = ()
    trainer: Mapping[str, Any] = field(default_factory=dict)

    @property
    def loggers(self) -> list[Logger]:
        """The loggers among the arguments."""
        return as_list(self.trainer.get("logger"))

    @property
    def names(self) -> list[str]:
        """What the run's configuration says of them."""
        return [type(each).__name__ for each in self.callbacks] + [f"trainer.{key}" for key in self.trainer]

    def check(self) -> None:
        """Refuse what would not do what it says.

        Raises:
            UserError: As said.
        """
        for each in self.callbacks:
            if not isinstance(each, Callback):
                raise UserError(f"callbacks: {each!r} is no callback; give objects of lightning.pytorch.callbacks")
        for key in self.trainer:
            if key in OF_KEYS:
                raise UserError(f"trainer: {key} is a key of the configuration; set {OF_KEYS[key]}")
            if key not in FREE:
                raise UserError(f"trainer: {key} is not free; choose from {', '.join(FREE)}")
        for logger in self.loggers:
            if not isinstance(logger, Logger):
                raise UserError(f"trainer: logger {logger!r} is none of Lightning's; give objects of them")


NONE = OwnObjects()


def as_list(value: Any) -> list[Any]:
    """Make a list of one object, of several, or of none."""
    if value is None:
        return []
    return list(value) if isinstance(value, (list, tuple)) else [value]


def make_callbacks(names: Iterable[str]) -> list[Callback]:
    """Make the callbacks that ``callbacks`` names, new ones for each run.

    Raises:
        UserError: One cannot be made, or is no callback.
    """
    made = []
    for name in names:
        try:
            found = CALLBACKS[name]()
        except UserError:
            raise
        except Exception as error:
            raise UserError(f"callbacks: {name!r} cannot be made ({type(error).__name__}: {error})") from error
        if not isinstance(found, Callback):
            raise UserError(f"callbacks: {name!r} makes a {type(found).__name__}, which is no callback of Lightning's")
        made.append(found)
    return made
