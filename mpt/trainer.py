"""Lightning's Trainer as a run needs it: validation by steps, the best and the last prompt, and little noise."""

import logging
import warnings
from pathlib import Path

import lightning
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint

from mpt.callbacks import BestPrompt, StepBar
from mpt.config import RunConfig


def build_trainer(config: RunConfig, folder: Path) -> tuple[lightning.Trainer, BestPrompt]:
    """Build the Trainer of a run, before anything long or written: Lightning refuses what the machine lacks.

    Args:
        config: The configuration.
        folder: The run folder; nothing is written to it yet.

    Returns:
        The Trainer, still without loggers, and the callback that keeps the best prompt.

    Raises:
        ValueError: Lightning does not know a word, or the machine has no such device.
    """
    best = BestPrompt(folder / "checkpoints" / "best.safetensors", by_task=config.evaluation.best == "task")
    told = config.trainer
    last = ModelCheckpoint(
        folder / "checkpoints",
        filename="last",
        enable_version_counter=False,
        save_on_exception=True,
        save_on_train_epoch_end=False,
    )
    callbacks: list[Callback] = [best, last]
    if told.progress_bar:
        callbacks.append(StepBar())
    if config.evaluation.patience is not None:
        callbacks.append(
            EarlyStopping("validation/average/score", mode="max", patience=config.evaluation.patience)
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
            enable_progress_bar=told.progress_bar,
            enable_model_summary=False,
            use_distributed_sampler=False,
        )
    except (ValueError, MisconfigurationException) as error:
        raise ValueError(f"trainer: {' '.join(str(error).split())}") from error
    return trainer, best


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
