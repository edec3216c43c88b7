"""The stages of a run, each a staircase to read aloud: load, build, train, test, record."""

import dataclasses
import time
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.loggers import Logger
from torch import Tensor

from mpt.artifact import SavedPrompt
from mpt.backbone import Backbone, load_backbone
from mpt.config import RunConfig
from mpt.data.data_module import MixtureDataModule
from mpt.data.few_shot import row_ids
from mpt.loggers import check_tensorboard, close_loggers, tags, wandb_mode
from mpt.methods import find_method
from mpt.run import console
from mpt.run.console import silence_libraries
from mpt.run.group_member import GroupMember
from mpt.run.interrupt import StopSignals
from mpt.tasks import load_split
from mpt.training import build
from mpt.training.begin import announce, begin, start_loggers, warn_of_other_rows
from mpt.training.module import MPTModule
from mpt.training.results import answer_splits, measure, name_weights, record, show
from mpt.training.start_scores import StartScores
from mpt.training.trainer import TrainerParts, build_trainer, supervise


@dataclasses.dataclass(frozen=True)
class Loaded:
    """Everything that a stage reads.

    Attributes:
        examples: Split to task to examples.
        available: Of validation and test, by split and task, how many examples the data have.
        digests: Task to split to the digest of its rows.
        backbone: The frozen model.
        source: The trained prompt to start from; None: none.
        data: The examples, tokenized.
    """

    examples: build.Examples
    available: dict[str, dict[str, int]]
    digests: dict[str, dict[str, str]]
    backbone: Backbone
    source: SavedPrompt | None
    data: MixtureDataModule


def train(config: RunConfig, folder: Path, member: GroupMember | None = None) -> dict[str, Any]:
    """Load, build, train, test and record; a signal stops it where it can go on. A run of a group is its member."""
    clock = time.monotonic if member is None else member.clock
    began = clock()
    wandb_mode(config.logger)
    check_tensorboard(config.logger)
    silence_libraries()
    with StopSignals() if member is None else member.signals as signals:
        start = StartScores(config.tasks, config.evaluation, folder, clock)
        trainer = (
            config.trainer if member is None else dataclasses.replace(config.trainer, progress_bar=False)
        )
        parts = build_trainer(trainer, config.evaluation, folder, signals, start.compute, clock)
        with supervise(parts, signals, folder):
            loaded = load(config, member)
            loaded.data.before_step = signals.check
            module, weights = build_module(config, loaded)
            draws = None
            if config.few_shot.k is not None:
                draws = row_ids(loaded.examples, config.few_shot.validation)
            go_on = config.resume == "auto" and not config.overwrite
            checkpoint = begin(folder, config, loaded.backbone, loaded.digests, draws, go_on=go_on)
            labels = tags(config.tasks, config.method.name, config.few_shot.k)
            loggers = start_loggers(config.logger, folder, config.stage, labels, checkpoint, parts)
            status = "failed"
            try:
                announce(folder, config.stage, module, parts)
                if config.distill is not None:
                    warn_of_other_rows(config.distill, loaded.digests)
                start.read()
                setup_seconds = clock() - began
                fit(config, module, parts, loggers, checkpoint)
                signals.check()
                signals.training = False
                tests_began = clock()
                tested, validated = answer_splits(module, parts)
                if not console.is_main():
                    return {}
                metrics = {"stage": config.stage} | measure(
                    config.tasks, module, parts, tested, validated, start.scores, loaded.available
                )
                if loaded.source is not None and weights is not None:
                    metrics["source_weights"] = name_weights(loaded.source, list(config.tasks), weights)
                metrics["seconds"] = {
                    "setup": setup_seconds,
                    "before": start.seconds,
                    "fit": parts.stopwatch.elapsed(),
                    "validation": parts.stopwatch.validation,
                    "test": clock() - tests_began,
                }
                extends = loaded.source if config.prompt.extend else None
                record(folder, config.tasks, module.adapter, loaded.backbone, extends, tested, metrics)
                show(folder, loggers, tested, metrics, config.logger.samples)
                status = "success"
                return metrics
            finally:
                close_loggers(loggers, status)


def load(config: RunConfig, member: GroupMember | None = None) -> Loaded:
    """Read the examples, the backbone, and the source where the start needs one."""
    if config.trainer.threads is not None and member is None:
        torch.set_num_threads(config.trainer.threads)
    lightning.seed_everything(config.seed, verbose=False)
    examples, available, digests = build.load_examples(
        config.tasks,
        config.few_shot,
        config.evaluation,
        config.data_root,
        load_split if member is None else member.load_split,
    )
    backbone = load_backbone(config.backbone) if member is None else member.backbone
    source = None
    prompt = config.prompt
    reads = config.stage == "target" and find_method(config.method.name).reads_source(
        prompt.init, prompt.extend
    )
    if config.source is not None and reads:
        source = build.load_source(config.source, backbone, config.prompt.num_virtual_tokens)
    data = build.build_data(
        config.tasks,
        examples,
        backbone,
        trainer=config.trainer,
        evaluation=config.evaluation,
        mixture=config.mixture,
        seed=config.seed,
    )
    build.check_lengths(data, backbone, config.prompt.num_virtual_tokens)
    return Loaded(examples, available, digests, backbone, source, data)


def build_module(config: RunConfig, loaded: Loaded) -> tuple[MPTModule, Tensor | None]:
    """Build the adapter with its first values, and the module that trains it.

    Returns:
        The module, and how much of each source task each target started from, ``(T, S)``, where the init weighs them.
    """
    tasks, backbone, source, data = config.tasks, loaded.backbone, loaded.source, loaded.data
    weights = None
    if source is not None:
        library = build.library_start(config.source, config.prompt.num_virtual_tokens, config.seed)
        weights = build.weigh_source_tasks(
            tasks, config.prompt, backbone, source, data, config.optim, config.trainer, library
        )
    # Plain prompts of one run start alike, as those of several runs with one seed do: SPoT compares them.
    if config.mixture.sampling == "each" or (
        find_method(config.method.name).has_factors and config.prompt.form == "independent"
    ):
        adapter = build.build_adapter_as_separate_runs(
            tasks, config.prompt, config.method, backbone, config.seed, source, weights
        )
    else:
        lightning.seed_everything(config.seed, verbose=False)
        adapter = build.build_adapter(tasks, config.prompt, config.method, backbone, source, weights)
    distiller = build.build_distiller(
        config.distill, config.distillation, backbone, data, config.trainer.precision
    )
    module = MPTModule(
        backbone, adapter, data, list(tasks.values()), config.optim, config.trainer.max_steps, distiller
    )
    return module, weights


def fit(
    config: RunConfig, module: MPTModule, parts: TrainerParts, loggers: list[Logger], checkpoint: Path | None
) -> None:
    """Train to the end, and put the best step back."""
    trainer = parts.trainer
    trainer.loggers = loggers
    module.train()  # Lightning leaves the mode as it is; whether dropout is on is the backbone's to say
    trainer.fit(module, module.data, ckpt_path=checkpoint)
    if parts.best.last != trainer.global_step:  # the end is a candidate as well
        trainer.validate(module, module.data, verbose=False)
    parts.best.restore(module)
