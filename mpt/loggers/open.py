"""Open the loggers of a run, and close them."""

from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger
from lightning.pytorch.utilities import rank_zero_warn

from mpt.config import LoggerConfig
from mpt.errors import UserError
from mpt.loggers.curves import CurvesFile, without_gaps
from mpt.loggers.wandb_run import open_wandb, reason_of, wandb_mode
from mpt.run.folder import RunFolder


def open_loggers(
    config: LoggerConfig,
    folder: Path,
    *,
    run_id: str,
    stage: str,
    tags: Sequence[str],
    values: Mapping[str, Any],
    step: int = 0,
    clock: Callable[[], float] | None = None,
) -> list[Logger]:
    """Open the loggers of one run.

    Args:
        config: Which ones.
        folder: The run folder, where all of them write.
        run_id: Identity of the run for W&B; a resumed run goes on under the same one.
        stage: source, target or teachers: W&B's job type.
        tags: From :func:`tags`.
        values: The whole configuration as plain values, with what else describes the run under ``run``.
        step: Optimizer steps that the run has behind it.
        clock: Seconds that the run has trained for.

    Raises:
        UserError: TensorBoard is not installed, W&B should be online and cannot, or metrics.csv is damaged.
    """
    curves = CurvesFile(RunFolder(folder).curves, step, clock)
    loggers: list[Logger] = [curves]
    mode = wandb_mode(config)
    if mode != "disabled" and (opened := open_wandb(config, folder, mode, run_id, stage, tags, values)):
        loggers.append(opened)
        if opened.is_offline:
            # An offline run is a folder of its own each time, and a sync of the last one takes the place of the others
            # under the same id: so each of them has all curves.
            for line in curves.lines():
                opened.log_metrics(line, int(line["trainer/global_step"]))
    if config.tensorboard:
        check_tensorboard(config)
        loggers.append(GaplessTensorBoard(str(folder), name="", version="tensorboard"))
    return loggers


class GaplessTensorBoard(TensorBoardLogger):
    """Lightning's TensorBoard logger, without a point where there is no value."""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Send numbers."""
        super().log_metrics(without_gaps(metrics), step)


def check_tensorboard(config: LoggerConfig) -> None:
    """Refuse early where TensorBoard is asked for and not there.

    Raises:
        UserError: As said.
    """
    if config.tensorboard and not (find_spec("tensorboard") or find_spec("tensorboardX")):
        raise UserError("logger.tensorboard: not installed; pip install 'mpt[tensorboard]', or use logger=csv")


def close_loggers(loggers: Sequence[Logger], status: str) -> None:
    """Write what is left, and finish the W&B run so that the next job of a sweep gets its own."""
    for logger in loggers:
        if isinstance(logger, CurvesFile):
            logger.finalize(status)
            continue
        try:
            logger.finalize(status)
            if isinstance(logger, WandbLogger):
                import wandb  # half a second, in runs that log there

                wandb.finish(exit_code=0 if status == "success" else 1)
        except Exception as error:
            rank_zero_warn(f"{type(logger).__name__}: {reason_of(error)}; the results are on the disk")
