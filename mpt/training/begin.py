"""Begin a run: its folder, its loggers, and what it prints before it trains."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from lightning.pytorch.utilities import rank_zero_warn

from mpt.data.few_shot import row_ids
from mpt.errors import UserError
from mpt.loggers import open_loggers, tags
from mpt.methods import find_method
from mpt.run import console
from mpt.run.checkpoint import RESUME_NEVER, read_checkpoint
from mpt.run.folder import read_config
from mpt.run.record import write_json
from mpt.tasks import Surround, stamp_rows
from mpt.training import build
from mpt.training.loading import Loaded
from mpt.training.module import MPTModule
from mpt.training.running import Run


def begin_run(run: Run, loaded: Loaded) -> Path | None:
    """Make the run folder ours: the first thing that a run writes, after all that can be refused.

    Returns:
        The checkpoint to go on from; None for a new run.

    Raises:
        UserError: The checkpoint is of a run with other weights of the backbone, or over other rows.
    """
    config, folder, backbone, digests = run.config, run.folder, loaded.backbone, loaded.digests
    checkpoint = folder.last_checkpoint
    if not console.is_main():  # the main process has been here
        return checkpoint if checkpoint.is_file() else None
    if checkpoint.is_file() and config.resume == "auto" and not config.overwrite:
        folder.check_backbone(backbone.name, backbone.fingerprint)
        folder.check_others(dataclasses.asdict(config), "resume=never starts again")
        folder.check_rows(digests, "resume=never starts again")
        step, last = read_checkpoint(checkpoint)["global_step"], config.trainer.max_steps
        if step > last:
            raise UserError(f"{checkpoint}: is of step {step:,}, and the run has {last:,}; {RESUME_NEVER}")
        console.say(f"{console.relative(folder.path)}: goes on from {checkpoint.name}; resume=never starts again")
        return checkpoint
    stamps = {name: stamp_rows(name, task, config.data_root) for name, task in config.tasks.items()}
    folder.begin(
        dataclasses.asdict(config), fingerprint=backbone.fingerprint, rows={"digests": digests, "stamps": stamps}
    )
    if config.few_shot.k is not None:
        write_json(folder.draws, row_ids(loaded.examples, config.few_shot.validation))
    return None


def start_loggers(run: Run, checkpoint: Path | None) -> None:
    """Open the loggers, which only the main process has; they go on from a checkpoint.

    Raises:
        UserError: As :func:`mpt.loggers.open.open_loggers`; of a new run nothing is left behind.
    """
    if not console.is_main():
        return
    config = run.config
    values, recorded = read_config(run.folder.path) or ({}, {})
    run.loggers = [*run.own.loggers]
    try:
        run.loggers += open_loggers(
            config.logger,
            run.folder.path,
            run_id=recorded["id"],
            stage=config.stage,
            tags=tags(config.tasks, config.method.name, config.few_shot.k, config.logger.tags),
            values=values | {"run": recorded},
            step=0 if checkpoint is None else int(read_checkpoint(checkpoint)["global_step"]),
            clock=run.parts.stopwatch.elapsed,
        )
    except UserError:
        if checkpoint is None:
            run.folder.clear()
        raise


def warn_of_other_rows(distill: str | None, digests: Mapping[str, Mapping[str, str]]) -> None:
    """Warn where teachers were trained on other rows of a task than a source learns from.

    Args:
        distill: The teachers' run folder; None: there are no teachers.
        digests: Task to split to the digest of its rows.
    """
    if distill is None:
        return
    _, run = read_config(Path(distill)) or ({}, {})
    theirs = (run.get("rows") or {}).get("digests") or {}
    others = [
        name
        for name, splits in digests.items()
        if theirs.get(name, {}).get("train", splits["train"]) != splits["train"]
    ]
    if others:
        rank_zero_warn(
            f"distill: the teachers of {', '.join(others)} were trained on other rows than are there now; train them "
            "anew, unless that is meant"
        )


def announce(run: Run, module: MPTModule, surrounds: Mapping[str, Surround]) -> None:
    """Print what is about to be trained, or written around inputs, and warn of words that the backbone does not know.

    Args:
        run: The run.
        module: What is trained.
        surrounds: Task to what the method writes around its inputs.
    """
    trainer, backbone, data = run.parts.trainer, module.backbone.name, module.data
    devices = f"{trainer.world_size} x {trainer.strategy.root_device.type}"
    plan = (
        f"{data.max_steps} steps of {data.batch_size} examples, "
        f"{data.mixture.sampling} mixture, {devices}, seed {run.config.seed}"
    )
    if not find_method(run.config.method.name).learns:
        plan = f"nothing is trained, {devices}, seed {run.config.seed}"
    console.say_what_starts(run.config.stage, run.folder.path, backbone, build.count_parameters(module), plan)
    for name, surround in surrounds.items():
        console.say(f"tasks.{name}: {surround.said}")
    console.say_tasks(data)
    warnings = console.warn_of_unknown_tokens(data.unknown, backbone)
    warnings += console.warn_of_lost_targets(data.kept, backbone)
    if "prompt" in {group.name for group in module.adapter.learner_groups()}:
        scale = float(module.backbone.word_embeddings.weight.float().std())
        warnings += console.warn_of_learning_rate(module.optim.lr_prompt, scale, backbone)
    for warning in warnings:
        rank_zero_warn(warning)
