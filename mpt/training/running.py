"""A run while it is computed: its clock, its signals, the Trainer, and the loggers once they are open."""

import dataclasses
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from lightning.pytorch.loggers import Logger

from mpt.config import RunConfig
from mpt.loggers import close_loggers
from mpt.run.folder import RunFolder
from mpt.run.group_member import GroupMember
from mpt.run.interrupt import StopSignals
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
    loggers: list[Logger] = dataclasses.field(default_factory=list)
    seconds: dict[str, float] = dataclasses.field(default_factory=dict)


@contextmanager
def running(config: RunConfig, folder: Path, member: GroupMember | None) -> Iterator[Run]:
    """Set a run up before anything long, and leave nothing open when it ends, however it does.

    Raises:
        UserError: Lightning does not know a word, or the machine has no such device.
        Interrupted: A signal stopped it.
    """
    clock = time.monotonic if member is None else member.clock
    began = clock()
    trainer = config.trainer if member is None else dataclasses.replace(config.trainer, progress_bar=False)
    with StopSignals() if member is None else member.signals as signals:
        start = StartScores(config.tasks, config.evaluation, folder, clock)
        parts = build_trainer(trainer, config.evaluation, folder, signals, start.compute, clock)
        run = Run(config, RunFolder(folder), clock, began, signals, start, parts)
        with supervise(parts, signals, folder):
            status = "failed"
            try:
                yield run
                status = "success"
            finally:
                close_loggers(run.loggers, status)
