"""Loggers: metrics.csv always, W&B (offline without an account), TensorBoard as an option."""

import csv
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import wandb
from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only, rank_zero_warn

from mpt.checkpoint import RESUME_NEVER
from mpt.config import LoggerConfig
from mpt.run.identity import flatten
from mpt.run.record import write_csv

SECONDS_BETWEEN_WRITES = 5.0
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
INIT_TIMEOUT = 15
"""Seconds after which W&B counts as out of reach."""
MOST_TASK_TAGS, LONGEST_TAG = 20, 64  # W&B refuses longer tags


class CurvesFile(Logger):
    """``metrics.csv``: one line per step, one column per metric, and no line twice after a resume.

    Args:
        path: The file; lines that are in it already up to ``step`` stay.
        step: Optimizer steps that the run has behind it.
        clock: Seconds that the run has trained for; the column ``seconds`` of each line.

    Raises:
        ValueError: The file is damaged.
    """

    def __init__(self, path: Path, step: int = 0, clock: Callable[[], float] | None = None) -> None:
        super().__init__()
        self.path, self.clock = path, clock
        self._lines: dict[int, dict[str, float | str]] = {}
        self._written = time.monotonic()
        if step and path.is_file():
            try:
                self._lines = _read_lines(path, step)
            except (ValueError, KeyError, TypeError, csv.Error) as error:
                raise ValueError(f"{path}: damaged, so the run cannot go on; {RESUME_NEVER}") from error

    @property
    def name(self) -> str:
        """The name that Lightning asks for."""
        return "curves"

    @property
    def version(self) -> str:
        """The version that Lightning asks for."""
        return ""

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Do nothing: ``config.yaml`` holds them."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Add numbers to the line of a step."""
        numbers = {key: value for key, value in metrics.items() if key != "epoch"}
        if numbers:
            line = self._lines.setdefault(step or 0, {})
            if self.clock is not None:
                line.setdefault("seconds", round(self.clock(), 3))
            line.update(numbers)

    @rank_zero_only
    def save(self) -> None:
        """Write the file, at most every few seconds."""
        if time.monotonic() - self._written > SECONDS_BETWEEN_WRITES:
            self.write()

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Write the file; Lightning calls this at the end, an error's included."""
        self.write()

    @rank_zero_only
    def write(self) -> None:
        """Write the file now."""
        self._written = time.monotonic()
        # The seconds come right after the step.
        columns = sorted(
            {key for line in self._lines.values() for key in line}, key=lambda key: (key != "seconds", key)
        )
        rows = ([step, *(line.get(key, "") for key in columns)] for step, line in sorted(self._lines.items()))
        write_csv(self.path, ["step", *columns], rows)


def _read_lines(path: Path, step: int) -> dict[int, dict[str, float | str]]:
    """The lines of a file of curves up to a step."""
    found: dict[int, dict[str, float | str]] = {}
    with path.open(encoding="utf-8", newline="") as file:
        for line in csv.DictReader(file, strict=True):
            if None in line or None in line.values():
                raise ValueError("a line has not as many values as the header has names")
            numbers: dict[str, float | str] = {key: value for key, value in line.items() if value != ""}
            for value in numbers.values():
                float(value)
            if (number := int(numbers.pop("step"))) <= step:
                found[number] = numbers
    return found


def wandb_mode(config: LoggerConfig) -> str:
    """Decide between online, offline and disabled, so that W&B never asks for a login.

    Raises:
        ValueError: Online is asked for and no API key is at hand.
    """
    if not config.wandb:
        return "disabled"
    mode = config.wandb_mode
    if mode == "auto":
        mode = os.environ.get("WANDB_MODE", "")
        if mode not in ("online", "offline", "disabled"):
            mode = "online"
        return "offline" if mode == "online" and not _has_key() else mode
    if mode == "online" and not _has_key():
        raise ValueError(
            "logger.wandb_mode: online, but no API key is at hand; "
            "run `wandb login`, set WANDB_API_KEY, or use logger.wandb_mode=offline"
        )
    return mode


def _has_key() -> bool:
    """Tell whether W&B finds an API key, wherever `wandb login` keeps it; asks nobody and needs no network."""
    try:
        with _environment(WANDB_MODE="online", WANDB_SILENT="true"):
            wandb.setup(wandb.Settings(silent=True))
            return bool(wandb.login(prompt=False, verify=False))
    except Exception:  # W&B's own; a key that cannot be read is no key
        return False


@contextmanager
def _environment(**values: str) -> Iterator[None]:
    """Set environment variables for a while: W&B reads some of its settings nowhere else."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


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
    if mode != "disabled" and (opened := _open_wandb(config, folder, mode, run_id, stage, tags, values)):
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


class SafeWandbLogger(WandbLogger):
    """Lightning's W&B logger; where W&B fails in the middle of a run it falls silent, and the run goes on."""

    _failed = False

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Send numbers, or warn once."""
        if self._failed:
            return
        try:
            super().log_metrics(dict(metrics), step)
        except Exception as error:
            self._failed = True
            rank_zero_warn(f"W&B failed ({_reason(error)}); metrics.csv has the curves, and the run goes on")


def _open_wandb(
    config: LoggerConfig,
    folder: Path,
    mode: str,
    run_id: str,
    stage: str,
    tags: Sequence[str],
    values: Mapping[str, Any],
) -> WandbLogger | None:
    """Open W&B; where it may choose, go offline when it cannot be reached, and go without when that fails too."""
    start = partial(_start_wandb, config, folder, run_id, stage, tags, values)
    try:
        return start(mode)
    except Exception as error:
        if config.wandb_mode == "online":
            raise ValueError(
                f"logger.wandb_mode: online, but W&B cannot be reached ({_reason(error)}); use offline or auto"
            ) from error
        failure = error
    where = "offline" if mode == "online" else "nowhere"
    try:
        wandb.teardown()  # its service still holds the id of the run that failed
        opened = start("offline") if mode == "online" else None
    except Exception:
        opened, where = None, "nowhere"
    os.environ["WANDB_MODE"] = "offline"  # the other jobs of a sweep do not wait again
    rank_zero_warn(f"W&B cannot be used as asked ({_reason(failure)}); this run is logged {where} in W&B")
    return opened


def _start_wandb(
    config: LoggerConfig,
    folder: Path,
    run_id: str,
    stage: str,
    tags: Sequence[str],
    values: Mapping[str, Any],
    mode: str,
) -> WandbLogger:
    with _environment(WANDB_MODE=mode):
        run = wandb.init(
            name=folder.name,
            dir=str(folder),
            id=run_id,
            resume="allow",
            project=config.project,
            entity=config.entity,
            group=config.group or os.environ.get("WANDB_RUN_GROUP"),
            job_type=stage,
            tags=list(tags),
            notes=os.environ.get("WANDB_NOTES") or values.get("run", {}).get("command"),
            config=dict(values),
            mode="offline" if mode == "offline" else "online",
            settings=wandb.Settings(silent=mode == "offline", console="off", init_timeout=INIT_TIMEOUT),
        )
    run.define_metric("trainer/global_step")
    run.define_metric("*", step_metric="trainer/global_step", step_sync=True)
    return SafeWandbLogger(experiment=run, save_dir=str(folder), project=config.project)


def tags(tasks: Iterable[str], method: str, k: int | None) -> list[str]:
    """Tag a run with its tasks, method and k, by which W&B finds it again, and with those of ``WANDB_TAGS``."""
    own = [*list(tasks)[:MOST_TASK_TAGS], method, *([f"k={k}"] if k is not None else [])]
    others = [tag for tag in os.environ.get("WANDB_TAGS", "").split(",") if tag]
    return list(dict.fromkeys(tag[:LONGEST_TAG] for tag in (*own, *others)))


def _reason(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


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
        with _environment(WANDB_DATA_DIR=staging):
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
            rank_zero_warn(f"{type(logger).__name__}: {_reason(error)}; the results are on the disk")
