"""Lightning's Trainer as a run needs it: validation by steps, the best and the last prompt, and little noise."""

import logging
import os
import signal
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import lightning
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import Callback, LambdaCallback, Timer

from mpt.callbacks import BestPrompt, EarlyStop, LastCheckpoint
from mpt.checkpoint import AtomicCheckpointIO
from mpt.config import RunConfig
from mpt.interrupt import StopSignals
from mpt.progress import build_progress, on_terminal


@dataclass(frozen=True)
class TrainerParts:
    """A Trainer and the callbacks that a stage asks things of.

    Attributes:
        trainer: Still without loggers.
        best: Keeps the best prompt.
        last: Writes the checkpoint.
        timer: Seconds of training, also of before an interruption.
    """

    trainer: lightning.Trainer
    best: BestPrompt
    last: LastCheckpoint
    timer: Timer


def build_trainer(
    config: RunConfig,
    folder: Path,
    signals: StopSignals,
    at_start: Callable[[lightning.Trainer, lightning.LightningModule], None],
) -> TrainerParts:
    """Build the Trainer of a run, before anything long or written: Lightning refuses what the machine lacks.

    Args:
        config: The configuration.
        folder: The run folder; nothing is written to it yet.
        signals: The run's.
        at_start: Called when every process is up and before the first step.

    Raises:
        ValueError: Lightning does not know a word, or the machine has no such device.
    """
    best = BestPrompt(folder / "checkpoints" / "best.safetensors", by_task=config.evaluation.best == "task")
    last = LastCheckpoint(folder / "checkpoints" / "last.ckpt", signals)
    timer = Timer()
    told = config.trainer
    # The timer and the progress count from where at_start ends.
    callbacks: list[Callback] = [LambdaCallback(on_train_start=at_start), timer, best, last]
    if told.progress_bar:
        callbacks.append(build_progress())
    if config.evaluation.patience is not None:
        callbacks.append(
            EarlyStop("validation/average/score", mode="max", patience=config.evaluation.patience)
        )
    try:
        trainer = lightning.Trainer(
            accelerator=told.accelerator,
            devices=told.devices,
            num_nodes=told.num_nodes,
            strategy=told.strategy,
            precision=told.precision,  # type: ignore[arg-type]  # Lightning checks the word
            max_steps=told.max_steps,
            accumulate_grad_batches=told.accumulate_grad_batches,
            # In micro-batches; a run shorter than that is validated once, at its end.
            val_check_interval=min(config.evaluation.validate_every, told.max_steps)
            * told.accumulate_grad_batches,
            check_val_every_n_epoch=None,
            num_sanity_val_steps=0,
            log_every_n_steps=1,
            logger=False,
            callbacks=callbacks,
            default_root_dir=folder,
            enable_progress_bar=told.progress_bar and on_terminal(),  # elsewhere our own lines
            enable_model_summary=False,
            use_distributed_sampler=False,
            plugins=[AtomicCheckpointIO()],
        )
    except (ValueError, MisconfigurationException) as error:
        raise ValueError(f"trainer: {' '.join(str(error).split())}") from error
    return TrainerParts(trainer, best, last, timer)


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


def hush() -> None:
    """Silence what libraries say of every run like ours."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    logging.getLogger("lightning.fabric").setLevel(logging.WARNING)
    logging.getLogger("absl").setLevel(logging.WARNING)
    logging.getLogger("sacrebleu").setLevel(logging.ERROR)
    for message in (
        "Checkpoint directory .* exists and is not empty",
        "Found .* in eval mode at the start of training",
        "`isinstance\\(treespec, LeafSpec\\)` is deprecated",
        "The dataloader, .*, does not have many workers",
        "It is recommended to use `self.log",
        "`is_gradient_checkpointing` is deprecated",
    ):
        warnings.filterwarnings("ignore", message)
