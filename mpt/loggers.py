"""Where curves go: metrics.csv always, W&B (offline without an account), TensorBoard as an option."""

import csv
import netrc
import os
import re
import time
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import wandb
from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only, rank_zero_warn

from mpt import results
from mpt.config import LoggerConfig

SECONDS_BETWEEN_WRITES = 5.0


class CurvesFile(Logger):
    """``metrics.csv``: one line per step, one column per metric, and no line twice after a resume.

    Args:
        path: The file; lines that are in it already up to ``step`` stay.
        step: Optimiser steps that the run has behind it.
    """

    def __init__(self, path: Path, step: int = 0) -> None:
        super().__init__()
        self.path = path
        self._lines: dict[int, dict[str, float | str]] = {}
        self._written = time.monotonic()
        if step and path.is_file():
            with path.open(encoding="utf-8", newline="") as file:
                for line in csv.DictReader(file):
                    if int(line["step"]) <= step:
                        kept = {key: value for key, value in line.items() if value != "" and key != "step"}
                        self._lines[int(line["step"])] = dict(kept)

    @property
    def name(self) -> str:
        """A name that Lightning asks for."""
        return "curves"

    @property
    def version(self) -> str:
        """A version that Lightning asks for."""
        return ""

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Do nothing: ``config.yaml`` holds them."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Add numbers to the line of a step."""
        told = {key: value for key, value in metrics.items() if key != "epoch"}
        if told:
            self._lines.setdefault(step or 0, {}).update(told)

    @rank_zero_only
    def save(self) -> None:
        """Write the file, at most every few seconds."""
        if time.monotonic() - self._written > SECONDS_BETWEEN_WRITES:
            self._write()

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Write the file; Lightning calls this at the end, an error's included."""
        self._write()

    def _write(self) -> None:
        self._written = time.monotonic()
        columns = sorted({key for line in self._lines.values() for key in line})
        rows = ([step, *(line.get(key, "") for key in columns)] for step, line in sorted(self._lines.items()))
        results.write_csv(self.path, ["step", *columns], rows)


def wandb_mode(config: LoggerConfig) -> str:
    """Decide between online, offline and disabled, so that W&B never asks for a login.

    Raises:
        ValueError: Online is asked for and no API key is at hand.
    """
    if not config.wandb:
        return "disabled"
    mode = config.wandb_mode
    if mode == "auto":
        told = os.environ.get("WANDB_MODE", "")
        mode = told if told in ("online", "offline", "disabled") else "online" if _has_key() else "offline"
        return "offline" if mode == "online" and not _has_key() else mode
    if mode == "online" and not _has_key():
        raise ValueError(
            "logger.wandb_mode: online, but no API key is at hand; "
            "run `wandb login`, set WANDB_API_KEY, or use logger.wandb_mode=offline"
        )
    return mode


def _has_key() -> bool:
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = re.sub(r"^https?://", "", os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).split("/")[0]
    try:
        return netrc.netrc().authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False


def open_loggers(
    config: LoggerConfig, folder: Path, *, run_id: str, stage: str, values: Mapping[str, Any], step: int = 0
) -> list[Logger]:
    """Open the loggers of one run.

    Args:
        config: Which ones.
        folder: The run folder, where all of them write.
        run_id: Identity of the run for W&B; a resumed run goes on under the same one.
        stage: source or target, W&B's job type.
        values: The whole configuration.
        step: Optimiser steps that the run has behind it.

    Raises:
        ValueError: TensorBoard is not installed, or W&B should be online without a key.
    """
    loggers: list[Logger] = [CurvesFile(folder / "metrics.csv", step)]
    mode = wandb_mode(config)
    if mode != "disabled":
        loggers.append(_open_wandb(config, folder, mode, run_id, stage, values))
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


def _open_wandb(
    config: LoggerConfig, folder: Path, mode: str, run_id: str, stage: str, values: Mapping[str, Any]
) -> WandbLogger:
    def opened(mode: str) -> WandbLogger:
        run = wandb.init(
            name=folder.name,
            dir=str(folder),
            id=run_id,
            resume="allow",
            project=config.project,
            entity=config.entity,
            config=dict(values),
            job_type=stage,
            mode="offline" if mode == "offline" else "online",
            settings=wandb.Settings(silent=mode == "offline", console="off", init_timeout=60),
        )
        run.define_metric("trainer/global_step")
        run.define_metric("*", step_metric="trainer/global_step", step_sync=True)
        return WandbLogger(experiment=run, save_dir=str(folder), project=config.project)

    try:
        return opened(mode)
    except wandb.errors.Error as error:
        if config.wandb_mode != "auto" or mode == "offline":
            raise
        rank_zero_warn(f"W&B cannot be reached ({error}); the run is logged offline in {folder / 'wandb'}")
        return opened("offline")


@rank_zero_only
def log_results(
    loggers: Sequence[Logger],
    numbers: Mapping[str, float],
    predictions: Sequence[Mapping[str, str]],
    folder: Path,
) -> None:
    """Give the loggers what a finished run has beyond its curves.

    Args:
        loggers: From :func:`open_loggers`.
        numbers: Final metrics.
        predictions: Rows of the table of sample predictions, all with the same keys.
        folder: The run folder; its prompt becomes W&B's artifact, its heat map of the tasks an image.
    """
    for logger in loggers:
        if not isinstance(logger, WandbLogger):
            continue
        run = logger.experiment
        run.summary.update(dict(numbers))
        if predictions:
            rows = [list(row.values()) for row in predictions]
            run.log({"test/predictions": wandb.Table([*predictions[0]], rows)})
        if (folder / "similarity.png").is_file():
            run.log({"similarity": wandb.Image(str(folder / "similarity.png"))})
        artifact = wandb.Artifact(re.sub(r"[^\w.-]", "-", f"prompt-{folder.name}"), type="prompt")
        for path in sorted((folder / "prompt").iterdir()):
            artifact.add_file(str(path))
        run.log_artifact(artifact)


def close_loggers(loggers: Sequence[Logger], status: str) -> None:
    """Write what is left, and finish the W&B run so that the next job of a sweep gets its own."""
    for logger in loggers:
        logger.finalize(status)
    if any(isinstance(logger, WandbLogger) for logger in loggers) and wandb.run is not None:
        wandb.finish(exit_code=0 if status == "success" else 1)
