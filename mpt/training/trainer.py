"""Lightning's Trainer as a run needs it: validation by steps, the best and the last prompt, and little noise."""

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import Callback, LambdaCallback
from lightning.pytorch.utilities.exceptions import SIGTERMException

from mpt.config import EvaluationConfig, TrainerConfig
from mpt.errors import UserError
from mpt.run.checkpoint import AtomicCheckpointIO
from mpt.run.console import is_main, say_stopped
from mpt.run.folder import RunFolder
from mpt.run.interrupt import Interrupted, StopSignals
from mpt.run.progress import on_terminal
from mpt.training.callbacks import BestPrompt, EarlyStop, LastCheckpoint, build_progress
from mpt.training.own_objects import NONE, OwnObjects, as_list
from mpt.training.sharded import FSDP, ShardedStrategy
from mpt.training.stopwatch import Stopwatch


@dataclass(frozen=True)
class TrainerParts:
    """A Trainer and the callbacks that a stage asks things of.

    Attributes:
        trainer: Still without loggers.
        best: Keeps the best prompt.
        last: Writes the checkpoint.
        stopwatch: Seconds of training, also of before an interruption.
    """

    trainer: lightning.Trainer
    best: BestPrompt
    last: LastCheckpoint
    stopwatch: Stopwatch


def build_trainer(
    config: TrainerConfig,
    evaluation: EvaluationConfig,
    folder: Path,
    signals: StopSignals,
    at_start: Callable[[lightning.Trainer, lightning.LightningModule], None],
    clock: Callable[[], float] = time.monotonic,
    own: OwnObjects = NONE,
) -> TrainerParts:
    """Build the Trainer of a run, before anything long or written: Lightning refuses what the machine lacks.

    Args:
        config: Devices, steps, precision.
        evaluation: When to validate, and when to stop early.
        folder: The run folder; nothing is written to it yet.
        signals: The run's.
        at_start: Called when every process is up and before the first step.
        clock: Seconds that the run has used.
        own: What the user adds: callbacks, and arguments of the Trainer.

    Raises:
        UserError: Lightning does not know a word, or the machine has no such device.
    """
    best = BestPrompt(RunFolder(folder).best_step, per_task=evaluation.best == "task")
    last = LastCheckpoint(RunFolder(folder).last_checkpoint, signals)
    stopwatch = Stopwatch(clock)
    # Stopwatch and progress count from where at_start ends; the stopwatch stops before a checkpoint is written.
    callbacks: list[Callback] = [LambdaCallback(on_train_start=at_start), stopwatch, best, last]
    if config.progress_bar:
        callbacks.append(build_progress())
    if evaluation.patience is not None:
        callbacks.append(EarlyStop("validation/average/score", mode="max", patience=evaluation.patience))
    others = {key: value for key, value in own.trainer.items() if key not in ("plugins", "logger")}
    # Where it is off and stays off nothing is set: to set it, PyTorch imports its compiler.
    deterministic = config.deterministic or (False if torch.are_deterministic_algorithms_enabled() else None)
    strategy = ShardedStrategy() if config.strategy == FSDP else config.strategy
    settings: dict[str, Any] = {"accelerator": config.accelerator, "strategy": strategy, **others}
    try:
        trainer = lightning.Trainer(
            devices=config.devices,
            num_nodes=config.num_nodes,
            precision=config.precision,  # type: ignore[arg-type]  # Lightning checks the word
            max_steps=config.max_steps,
            accumulate_grad_batches=config.accumulate_grad_batches,
            # In micro-batches; a run shorter than that is validated once, at its end.
            val_check_interval=min(evaluation.validate_every, config.max_steps) * config.accumulate_grad_batches,
            check_val_every_n_epoch=None,
            num_sanity_val_steps=0,
            log_every_n_steps=1,
            logger=False,
            callbacks=[*callbacks, *own.callbacks],
            default_root_dir=folder,
            enable_progress_bar=config.progress_bar and on_terminal(),  # elsewhere our own lines
            enable_model_summary=False,
            use_distributed_sampler=False,
            deterministic=deterministic,
            plugins=[AtomicCheckpointIO(), *as_list(own.trainer.get("plugins"))],
            **settings,
        )
    except (ImportError, TypeError, ValueError, MisconfigurationException) as error:
        wants_gpu = config.accelerator in ("gpu", "cuda", "mps") or "gpu" in str(error).lower()
        way_out = "; without a GPU use trainer=cpu" if wants_gpu and not torch.cuda.is_available() else ""
        raise UserError(f"trainer: {' '.join(str(error).split()).rstrip('.')}{way_out}") from error
    return TrainerParts(trainer, best, last, stopwatch)


@contextmanager
def supervise(parts: TrainerParts, signals: StopSignals, folder: Path) -> Iterator[None]:
    """Say how a stopped run goes on, and end its other processes whatever happens.

    Raises:
        Interrupted: In the main process of a stopped run; the others end with 0, since Lightning kills the main process
            where another one fails.
    """
    kill = False
    try:
        yield
    except (Interrupted, SIGTERMException) as stop:
        if not is_main():
            sys.exit(0)
        kill = not signals.training  # the others may be waiting for this one
        say_stopped(folder, parts.last.step)
        raise stop if isinstance(stop, Interrupted) else Interrupted(signal.SIGTERM) from stop
    except RuntimeError as error:
        if not _is_of_a_lost_process(error):
            raise
        kill = True
        if not is_main():
            if os.getppid() == 1:  # it is the main process that has ended, and nobody else says so
                print("error: the main process of the run has ended; the same command goes on", file=sys.stderr)
            sys.exit(0)
        step = f" from step {parts.last.step}" if parts.last.step else ""
        raise UserError(
            f"{folder}: another process of the run ended ({_describe_dead(parts.trainer)}), and the rest was stopped; "
            f"the same command goes on{step}"
        ) from error
    finally:
        close_processes(parts.trainer, kill=kill)


def _is_of_a_lost_process(error: RuntimeError) -> bool:
    """Tell whether an error is what collective operations raise where a process of the run is gone."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return False
    signs = ("Connection closed by peer", "Connection reset", "Broken pipe", "gloo", "NCCL", "Socket Timeout")
    return isinstance(error, torch.distributed.DistError) or any(sign in str(error) for sign in signs)


def _describe_dead(trainer: lightning.Trainer) -> str:
    """Name the processes of this machine that have ended."""
    others = getattr(trainer.strategy.launcher, "procs", [])
    ended = [f"{process.pid} with {process.returncode}" for process in others if process.poll() is not None]
    return f"process {', '.join(ended)}" if ended else "on this machine or another"


def close_processes(trainer: lightning.Trainer, *, kill: bool) -> None:
    """End the other processes of a run and forget them, so that the next job of a sweep starts its own.

    Args:
        trainer: The run's.
        kill: Do not wait for them: they may be waiting for this one.
    """
    others = getattr(trainer.strategy.launcher, "procs", [])
    if kill:
        for process in others:
            process.send_signal(signal.SIGKILL)
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    for process in others:
        process.wait()
    if others:
        # Lightning set these; where they stand, the next Trainer takes its processes for started.
        for name in ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK", "LOCAL_RANK", "WORLD_SIZE"):
            os.environ.pop(name, None)
