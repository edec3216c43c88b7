"""W&B: online with an account, offline without one, and never the end of a run."""

import os
import shlex
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_only, rank_zero_warn

from mpt.command import environment
from mpt.config import LoggerConfig
from mpt.errors import UserError, unknown
from mpt.loggers.curves import without_gaps
from mpt.run.origin import describe_command

INIT_TIMEOUT = 15
"""Seconds after which W&B counts as out of reach."""
MODES = {"online": "online", "offline": "offline", "disabled": "disabled", "run": "online", "dryrun": "offline"}
"""What ``WANDB_MODE`` may be, with W&B's older names."""
MOST_TASK_TAGS, LONGEST_TAG = 20, 64  # W&B refuses longer tags


def wandb_mode(config: LoggerConfig) -> str:
    """Decide between online, offline and disabled, so that W&B never asks for a login.

    Raises:
        UserError: Online is asked for and no API key is at hand, or ``WANDB_MODE`` is none of W&B's.
    """
    if not config.wandb:
        return "disabled"
    mode = config.wandb_mode
    if mode == "auto":
        named = os.environ.get("WANDB_MODE") or "online"
        if named not in MODES:
            raise UserError(unknown("WANDB_MODE", named, MODES))
        mode = MODES[named]
        return "offline" if mode == "online" and not _has_key() else mode
    if mode == "online" and not _has_key():
        raise UserError(
            "logger.wandb_mode: online, but no API key is at hand; "
            "run `wandb login`, set WANDB_API_KEY, or use logger.wandb_mode=offline"
        )
    return mode


def _has_key() -> bool:
    """Tell whether W&B finds an API key, wherever `wandb login` keeps it; asks nobody and needs no network."""
    import wandb  # half a second, in runs that log there

    try:
        with environment(WANDB_MODE="online", WANDB_SILENT="true"):
            wandb.setup(wandb.Settings(silent=True))
            return bool(wandb.login(prompt=False, verify=False))
    except Exception:  # W&B's own; a key that cannot be read is no key
        return False


def tags(tasks: Iterable[str], method: str, k: int | None, more: Iterable[str] = ()) -> list[str]:
    """Tag a run with its tasks, method and k, by which W&B finds it again, and with more, as with ``WANDB_TAGS``."""
    own = [*list(tasks)[:MOST_TASK_TAGS], method, *([f"k={k}"] if k is not None else [])]
    others = [tag for tag in os.environ.get("WANDB_TAGS", "").split(",") if tag]
    return list(dict.fromkeys(tag[:LONGEST_TAG] for tag in (*own, *more, *others)))


class SafeWandbLogger(WandbLogger):
    """Lightning's W&B logger; where W&B fails in the middle of a run it falls silent, and the run goes on."""

    _failed = False
    is_offline = False
    """True where nothing is sent until somebody syncs the folder."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Send numbers, or warn once."""
        if self._failed:
            return
        try:
            super().log_metrics(without_gaps(metrics), step)
        except Exception as error:
            self._failed = True
            rank_zero_warn(f"W&B failed ({reason_of(error)}); metrics.csv has the curves, and the run goes on")


def open_wandb(
    config: LoggerConfig,
    folder: Path,
    mode: str,
    run_id: str,
    stage: str,
    tags: Sequence[str],
    values: Mapping[str, Any],
) -> "SafeWandbLogger | None":
    """Open W&B; where it may choose, go offline when it cannot be reached, and go without when that fails too."""
    import wandb

    start = partial(_start_wandb, config, folder, run_id, stage, tags, values)
    try:
        return start(mode)
    except Exception as error:
        if config.wandb_mode == "online":
            with suppress(Exception):
                wandb.teardown()  # it still writes into the folder of the run
            raise UserError(
                f"logger.wandb_mode: online, but W&B cannot be reached ({reason_of(error)}); use offline or auto"
            ) from error
        failure = error
    where = "offline" if mode == "online" else "nowhere"
    try:
        wandb.teardown()  # its service still holds the id of the run that failed
        opened = start("offline") if mode == "online" else None
    except Exception:
        opened, where = None, "nowhere"
    os.environ["WANDB_MODE"] = "offline"  # the other jobs of a sweep do not wait again
    rank_zero_warn(f"W&B cannot be used as asked ({reason_of(failure)}); this run is logged {where} in W&B")
    return opened


def _start_wandb(
    config: LoggerConfig,
    folder: Path,
    run_id: str,
    stage: str,
    tags: Sequence[str],
    values: Mapping[str, Any],
    mode: str,
) -> SafeWandbLogger:
    import wandb

    if os.environ.get("WANDB_SWEEP_ID"):  # an agent waits for the results of the run that it has announced
        run_id = os.environ.get("WANDB_RUN_ID", run_id)
    with environment(WANDB_MODE=mode), public_arguments():
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
            settings=wandb.Settings(
                silent=mode == "offline",
                console="off",
                init_timeout=INIT_TIMEOUT,
                reinit="create_new",  # runs of a group are open side by side
            ),
        )
    run.define_metric("trainer/global_step")
    run.define_metric("*", step_metric="trainer/global_step", step_sync=True)
    logger = SafeWandbLogger(experiment=run, save_dir=str(folder), project=config.project)
    logger.is_offline = mode == "offline"
    return logger


@contextmanager
def public_arguments() -> Iterator[None]:
    """Show W&B, which records the command line, the one that others may see."""
    before = sys.argv
    sys.argv = shlex.split(describe_command(before))[1:] or before
    try:
        yield
    finally:
        sys.argv = before


def reason_of(error: Exception) -> str:
    """Return the first line of an error's message, or its type."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
