"""A run while it is computed: its clock, its signals, the Trainer, and the loggers once they are open."""

import dataclasses
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from lightning.pytorch.loggers import Logger

from mpt.config import RunConfig
from mpt.errors import UserError
from mpt.loggers import close_loggers
from mpt.run.folder import RunFolder
from mpt.run.group_member import GroupMember
from mpt.run.interrupt import StopSignals
from mpt.training.own_objects import NONE, OwnObjects, make_callbacks
from mpt.training.start_scores import StartScores
from mpt.training.trainer import TrainerParts, build_trainer, supervise


@dataclasses.dataclass
class Run:
    """State that the steps of a run share.

    Attributes:
        config: The checked configuration.
        folder: The run folder.
        clock: Seconds that the run has used.
        began: When it began, by its clock.
        signals: Stop it between two steps.
        start: Scores the start, when all processes are up.
        parts: The Trainer and the callbacks that are asked things.
        own: What the user adds.
        loggers: Those that are open.
        seconds: How long each part took, as ``metrics.json`` says it.
    """

    config: RunConfig
    folder: RunFolder
    clock: Callable[[], float]
    began: float
    signals: StopSignals
    start: StartScores
    parts: TrainerParts
    own: OwnObjects = NONE
    loggers: list[Logger] = dataclasses.field(default_factory=list)
    seconds: dict[str, float] = dataclasses.field(default_factory=dict)


@contextmanager
def running(config: RunConfig, folder: Path, member: GroupMember | None, own: OwnObjects = NONE) -> Iterator[Run]:
    """Set a run up before anything long, and leave nothing open when it ends, however it does.

    Raises:
        UserError: Lightning does not know a word, the machine has no such device, or several processes would need what
            only this one has.
        Interrupted: A signal stopped it.
    """
    clock = time.monotonic if member is None else member.clock
    began = clock()
    trainer = config.trainer if member is None else dataclasses.replace(config.trainer, progress_bar=False)
    with StopSignals() if member is None else member.signals as signals:
        start = StartScores(config.tasks, config.evaluation, folder, clock)
        own = dataclasses.replace(own, callbacks=[*own.callbacks, *make_callbacks(config.callbacks)])
        parts = build_trainer(trainer, config.evaluation, folder, signals, start.compute, clock, own)
        if parts.trainer.world_size > 1:
            refuse_several_processes(config, parts.trainer.world_size)
        run = Run(config, RunFolder(folder), clock, began, signals, start, parts, own)
        with supervise(parts, signals, folder):
            status = "failed"
            try:
                yield run
                status = "success"
            finally:
                close_loggers(run.loggers, status)


def refuse_several_processes(config: RunConfig, processes: int) -> None:
    """Refuse what lies in the memory of this process alone.

    Raises:
        UserError: Rows or objects were handed over in Python.
    """
    held = [name for name, task in config.tasks.items() if task.rows.held is not None]
    if held:
        raise UserError(
            f"tasks.{held[0]}: its rows lie in the memory of this process, and the run has {processes}; keep them in "
            "files, or use trainer.devices=1"
        )
    if config.objects:
        raise UserError(
            f"{config.objects[0]}: was handed over as an object, and the run has {processes} processes, which start by "
            "a command line; bring callbacks by a plugin, or use trainer.devices=1"
        )
