"""Begin a run: its folder, its loggers, and what it prints before it trains."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_warn

from mpt.backbone import Backbone
from mpt.config import LoggerConfig, RunConfig
from mpt.data.few_shot import DRAWS
from mpt.loggers import open_loggers
from mpt.run import console
from mpt.run import folder as run_folder
from mpt.run.checkpoint import read_checkpoint
from mpt.run.record import write_json
from mpt.tasks import stamp_rows
from mpt.training import build
from mpt.training.module import MPTModule
from mpt.training.trainer import TrainerParts


def begin(
    folder: Path,
    config: RunConfig,
    backbone: Backbone,
    digests: Mapping[str, Mapping[str, str]],
    draws: Mapping[str, Any] | None,
    *,
    go_on: bool,
) -> Path | None:
    """Make the run folder ours: the first thing that a run writes, after all that can be refused.

    Args:
        folder: The run folder.
        config: The whole configuration, for ``config.yaml``.
        backbone: The frozen model.
        digests: Task to split to the digest of its rows.
        draws: What ``draws.json`` holds; None where nothing was drawn.
        go_on: Go on from a checkpoint where there is one.

    Returns:
        The checkpoint to go on from; None for a new run.

    Raises:
        ValueError: The checkpoint is of a run with other weights of the backbone.
    """
    checkpoint = folder / "checkpoints" / "last.ckpt"
    if not console.is_main():  # the main process has been here
        return checkpoint if checkpoint.is_file() else None
    if checkpoint.is_file() and go_on:
        run_folder.check_backbone(folder, backbone.name, backbone.fingerprint)
        run_folder.check_others(folder, dataclasses.asdict(config), "resume=never starts again")
        run_folder.check_rows(folder, digests, "resume=never starts again")
        console.say(f"{console.relative(folder)}: goes on from {checkpoint.name}; resume=never starts again")
        return checkpoint
    stamps = {name: stamp_rows(name, task, config.data_root) for name, task in config.tasks.items()}
    run_folder.begin(
        folder,
        dataclasses.asdict(config),
        fingerprint=backbone.fingerprint,
        rows={"digests": {name: dict(splits) for name, splits in digests.items()}, "stamps": stamps},
    )
    if draws is not None:
        write_json(folder / DRAWS, draws)
    return None


def start_loggers(
    config: LoggerConfig,
    folder: Path,
    stage: str,
    labels: Sequence[str],
    checkpoint: Path | None,
    parts: TrainerParts,
) -> list[Logger]:
    """Open the loggers, which only the main process has.

    Args:
        config: Which ones.
        folder: The run folder.
        stage: source, target or teachers.
        labels: From :func:`mpt.loggers.tags`.
        checkpoint: What the run goes on from; None: a new run.
        parts: For the seconds of training.
    """
    if not console.is_main():
        return []
    values, run = run_folder.read_config(folder) or ({}, {})
    return open_loggers(
        config,
        folder,
        run_id=run["id"],
        stage=stage,
        tags=labels,
        values=values | {"run": run},
        step=0 if checkpoint is None else int(read_checkpoint(checkpoint)["global_step"]),
        clock=parts.stopwatch.elapsed,
    )


def warn_of_other_rows(distill: str, digests: Mapping[str, Mapping[str, str]]) -> None:
    """Warn where teachers were trained on other rows of a task than a source learns from.

    Args:
        distill: The teachers' run folder.
        digests: Task to split to the digest of its rows.
    """
    _, run = run_folder.read_config(Path(distill)) or ({}, {})
    theirs = (run.get("rows") or {}).get("digests") or {}
    others = [
        name
        for name, splits in digests.items()
        if theirs.get(name, {}).get("train", splits["train"]) != splits["train"]
    ]
    if others:
        rank_zero_warn(
            f"distill: the teachers of {', '.join(others)} were trained on other rows than are there now; train them "
            "anew, "
            "unless that is meant"
        )


def announce(folder: Path, stage: str, module: MPTModule, parts: TrainerParts) -> None:
    """Print what is about to be trained, and warn of words that the backbone does not know."""
    trainer, backbone, data = parts.trainer, module.backbone.name, module.data
    devices = f"{trainer.world_size} x {trainer.strategy.root_device.type}"
    plan = (
        f"{data.max_steps} steps of {data.batch_size} examples, "
        f"{data.mixture.sampling} mixture, {devices}, seed {data.seed}"
    )
    console.say_what_starts(stage, folder, backbone, build.count_parameters(module), plan)
    console.say_tasks(data)
    warnings = console.warn_of_unknown_tokens(data.unknown, backbone)
    warnings += console.warn_of_lost_targets(data.kept, backbone)
    if "prompt" in {group.name for group in module.adapter.learner_groups()}:
        scale = float(module.backbone.word_embeddings.weight.float().std())
        warnings += console.warn_of_learning_rate(module.optim.lr_prompt, scale, backbone)
    for warning in warnings:
        rank_zero_warn(warning)
