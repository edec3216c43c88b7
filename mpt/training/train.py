"""A training run, a staircase to read aloud: load, build, begin, train, answer, measure, record, show."""

import dataclasses
from pathlib import Path
from typing import Any

import lightning
from torch import Tensor

from mpt.config import RunConfig
from mpt.loggers import check_tensorboard, wandb_mode
from mpt.methods import find_method
from mpt.run import console
from mpt.run.group_member import GroupMember
from mpt.seeds import seeds_of
from mpt.training import build
from mpt.training.begin import announce, begin_run, start_loggers, warn_of_other_rows
from mpt.training.loading import Loaded, load
from mpt.training.memory import refuse_what_cannot_fit, say_needs
from mpt.training.module import MPTModule
from mpt.training.own_objects import NONE, OwnObjects
from mpt.training.results import answer_splits, measure, record_run, show
from mpt.training.running import Run, running


def train(
    config: RunConfig, folder: Path, member: GroupMember | None = None, own: OwnObjects | None = None
) -> dict[str, Any]:
    """Train a prompt or a baseline, test it, and leave its run folder; a signal stops it where it can go on.

    Args:
        config: The checked configuration.
        folder: The run folder; made where it is not there.
        member: What the run takes from the group that it is a part of; None: it is alone.
        own: Callbacks and arguments of the Trainer that a program adds; None: none.

    Returns:
        What ``metrics.json`` holds; empty in all but the main process.

    Raises:
        UserError: The data, the backbone or the folder does not fit the configuration.
        FileNotFoundError: Something that the configuration names is not there.
        Interrupted: A signal stopped the run; the same command goes on.
    """
    wandb_mode(config.logger)
    check_tensorboard(config.logger)
    console.silence_libraries()
    with running(config, folder, member, own or NONE) as run:
        loaded = load(config, member)
        trainer = run.parts.trainer
        refuse_what_cannot_fit(config, loaded.backbone, trainer.strategy.root_device)
        if member is None:  # a group's backbone is loaded once
            say_needs(config, loaded.backbone, loaded.data, trainer.strategy.root_device, trainer.world_size)
        module, weights = build_module(config, loaded)
        checkpoint = begin_run(run, loaded)
        start_loggers(run, checkpoint)
        announce(run, module, loaded.surrounds)
        warn_of_other_rows(config.distill, loaded.digests)
        if find_method(config.method.name).learns:
            fit(run, module, checkpoint)
        else:
            skip_training(run, module)
        answers = answer_splits(run, module)
        if not console.is_main():
            return {}
        metrics = measure(run, loaded, module, answers, weights)
        record_run(run, loaded, module, answers, metrics)
        show(run, answers, metrics)
        return metrics


def build_module(config: RunConfig, loaded: Loaded) -> tuple[MPTModule, Tensor | None]:
    """Build the adapter with its first values, and the module that trains it.

    Returns:
        The module, and how much of each source task each target started from, ``(T, S)``, where the init weighs them.
    """
    seeds = seeds_of(config)
    tasks, backbone, data = config.tasks, loaded.backbone, loaded.data
    plan = build.Plan(tasks, config.prompt, config.method, backbone, loaded.source)
    source = config.source if loaded.source else None
    library = build.library_start(source, config.prompt.num_virtual_tokens, seeds.first_values)
    weights = build.weigh_source_tasks(plan, data, config.optim, config.trainer, library)
    plan = dataclasses.replace(plan, weights=weights, demonstrations=write_demonstrations(config, loaded))
    # Plain prompts of one run start alike, as those of several runs with one seed do: SPoT compares them.
    plain = find_method(config.method.name).has_factors and config.prompt.form == "independent"
    if config.mixture.sampling == "each" or plain:
        adapter = build.build_adapter_as_separate_runs(plan, seeds.first_values)
    else:
        lightning.seed_everything(seeds.first_values, verbose=False)
        adapter = build.build_adapter(plan)
    distiller = build.build_distiller(config.distill, config.distillation, backbone, data, config.trainer.precision)
    module = MPTModule(
        backbone,
        adapter,
        data,
        list(tasks.values()),
        config.optim,
        config.trainer.max_steps,
        distiller=distiller,
        dropout_seed=seeds.dropout,
    )
    return module, weights


def write_demonstrations(config: RunConfig, loaded: Loaded) -> dict[str, str] | None:
    """Write each task's few examples as one text, where the prompt starts from them (Context Tuning, 2507.04221)."""
    if config.prompt.init != "DEMONSTRATIONS":
        return None
    return {
        name: "".join(f"{each.input}\n{each.target}\n\n" for each in examples)
        for name, examples in loaded.examples["train"].items()
    }


def skip_training(run: Run, module: MPTModule) -> None:
    """Score the oracle, and nothing of before: a method without training starts as it ends."""
    run.seconds["setup"] = run.clock() - run.began
    module.to(run.parts.trainer.strategy.root_device)
    run.start.evaluation = dataclasses.replace(run.start.evaluation, before=False)
    run.start.compute(run.parts.trainer, module)
    run.signals.check()


def fit(run: Run, module: MPTModule, checkpoint: Path | None) -> None:
    """Train to the end, and put the best step back."""
    run.start.read()
    run.seconds["setup"] = run.clock() - run.began
    trainer, best = run.parts.trainer, run.parts.best
    trainer.loggers = run.loggers
    module.data.before_step = run.signals.check
    module.train()  # Lightning leaves the mode as it is; whether dropout is on is the backbone's to say
    trainer.fit(module, module.data, ckpt_path=checkpoint)
    if best.last != trainer.global_step:  # the end is a candidate as well
        trainer.validate(module, module.data, verbose=False)
    best.restore(module)
    run.signals.check()
    run.signals.training = False
