"""Open the loggers of a run, give them its results, close them."""

import os
import re
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import wandb
from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only, rank_zero_warn

from mpt.config import LoggerConfig
from mpt.loggers.curves import CurvesFile
from mpt.loggers.wandb_run import environment, open_wandb, reason_of, wandb_mode
from mpt.run.identity import flatten

SUMMARIZED = (
    "test",
    "validation",
    "moved",
    "parameters",
    "seconds",
    "examples_per_second",
    "best_step",
    "steps",
)
"""Parts of ``metrics.json`` that become W&B's summary."""


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
        ValueError: TensorBoard is not installed, W&B should be online and cannot, or metrics.csv is damaged.
    """
    loggers: list[Logger] = [CurvesFile(folder / "metrics.csv", step, clock)]
    mode = wandb_mode(config)
    if mode != "disabled" and (opened := open_wandb(config, folder, mode, run_id, stage, tags, values)):
        loggers.append(opened)
    if config.tensorboard:
        check_tensorboard(config)
        loggers.append(TensorBoardLogger(str(folder), name="", version="tensorboard"))
    return loggers


def check_tensorboard(config: LoggerConfig) -> None:
    """Refuse early where TensorBoard is asked for and not there.

    Raises:
        ValueError: As said.
    """
    if config.tensorboard and not (find_spec("tensorboard") or find_spec("tensorboardX")):
        raise ValueError(
            "logger.tensorboard: not installed; pip install 'mpt[tensorboard]', or use logger=csv"
        )


@rank_zero_only
def log_results(
    loggers: Sequence[Logger],
    metrics: Mapping[str, Any],
    predictions: Sequence[Mapping[str, str]],
    folder: Path,
) -> None:
    """Give the loggers what a finished run has beyond its curves.

    Args:
        loggers: From :func:`open_loggers`.
        metrics: What ``metrics.json`` holds.
        predictions: Rows of the table of sample predictions, all with the same keys.
        folder: The run folder; its prompt or adapter becomes W&B's artifact, its heat map of the tasks an image.
    """
    numbers = flatten({key: metrics[key] for key in SUMMARIZED if key in metrics})
    for logger in loggers:
        if not isinstance(logger, WandbLogger):
            continue
        run = logger.experiment
        run.summary.update({key.replace(".", "/"): value for key, value in numbers.items()})
        # W&B stages an artifact's files in the user's home; there they would not travel with the run.
        staging = os.environ.get("WANDB_DATA_DIR", str(folder / "wandb"))
        with environment(WANDB_DATA_DIR=staging):
            if predictions:
                rows = [list(row.values()) for row in predictions]
                run.log({"test/predictions": wandb.Table([*predictions[0]], rows)})
            if (folder / "similarity.png").is_file():
                run.log({"similarity": wandb.Image(str(folder / "similarity.png"))})
            for kind in ("prompt", "adapter"):
                if (folder / kind).is_dir():
                    artifact = wandb.Artifact(re.sub(r"[^\w.-]", "-", f"{kind}-{folder.name}"), type=kind)
                    for path in sorted((folder / kind).rglob("*")):
                        if path.is_file():
                            artifact.add_file(str(path), name=str(path.relative_to(folder / kind)))
                    run.log_artifact(artifact)


def close_loggers(loggers: Sequence[Logger], status: str) -> None:
    """Write what is left, and finish the W&B run so that the next job of a sweep gets its own."""
    for logger in loggers:
        if isinstance(logger, CurvesFile):
            logger.finalize(status)
            continue
        try:
            logger.finalize(status)
            if isinstance(logger, WandbLogger):
                wandb.finish(exit_code=0 if status == "success" else 1)
        except Exception as error:
            rank_zero_warn(f"{type(logger).__name__}: {reason_of(error)}; the results are on the disk")
