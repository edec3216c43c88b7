"""The stages of a run, each a staircase to read aloud: load, build, train, test, record."""

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.loggers import Logger
from torch import Tensor

from mpt import build, opening, outcome
from mpt.artifact import SavedPrompt
from mpt.backbone import Backbone, load_backbone
from mpt.before import StartScores
from mpt.config import RunConfig, uses_source
from mpt.data import MixtureDataModule
from mpt.few_shot import row_ids
from mpt.host import Host
from mpt.interrupt import StopSignals
from mpt.loggers import check_tensorboard, close_loggers, tags, wandb_mode
from mpt.module import MPTModule
from mpt.run import console
from mpt.tasks import load_split
from mpt.trainer import TrainerParts, build_trainer, silence_libraries, supervise


def source(config: RunConfig, folder: Path, host: Host | None = None) -> dict[str, Any]:
    """Train one shared prompt, and a factor pair for each task, on several tasks at once.

    Args:
        config: The checked configuration.
        folder: The run folder; made where it is not there.
        host: The group that the run is a part of; None: none.

    Returns:
        What ``metrics.json`` holds; empty in all but the main process.

    Raises:
        ValueError: The data, the backbone or the folder does not fit the configuration.
        FileNotFoundError: Something that the configuration names is not there.
    """
    return train(config, folder, host)


def target(config: RunConfig, folder: Path, host: Host | None = None) -> dict[str, Any]:
    """Adapt the prompt of ``config.source``, or as a control a fresh one, to new tasks; else as :func:`source`."""
    return train(config, folder, host)


def teachers(config: RunConfig, folder: Path, host: Host | None = None) -> dict[str, Any]:
    """Train one plain prompt per task, each as in a run of its own, for a source to learn from; as :func:`source`."""
    return train(config, folder, host)


STAGES: dict[str, Callable[[RunConfig, Path, Host | None], dict[str, Any]]] = {
    "source": source,
    "target": target,
    "teachers": teachers,
}


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


def train(config: RunConfig, folder: Path, host: Host | None = None) -> dict[str, Any]:
    """Load, build, train, test and record; a signal stops it where it can go on. A run of a group has a host."""
    clock = time.monotonic if host is None else host.clock
    began = clock()
    wandb_mode(config.logger)
    check_tensorboard(config.logger)
    silence_libraries()
    with StopSignals() if host is None else host.signals as signals:
        start = StartScores(config.tasks, config.evaluation, folder, clock)
        trainer = config.trainer if host is None else dataclasses.replace(config.trainer, progress_bar=False)
        parts = build_trainer(trainer, config.evaluation, folder, signals, start.compute, clock)
        with supervise(parts, signals, folder):
            loaded = load(config, host)
            loaded.data.before_step = signals.check
            module, weights = build_module(config, loaded)
            draws = None
            if config.few_shot.k is not None:
                draws = row_ids(loaded.examples, config.few_shot.validation)
            go_on = config.resume == "auto" and not config.overwrite
            checkpoint = opening.begin(folder, config, loaded.backbone, loaded.digests, draws, go_on=go_on)
            labels = tags(config.tasks, config.method.name, config.few_shot.k)
            loggers = opening.start_loggers(config.logger, folder, config.stage, labels, checkpoint, parts)
            status = "failed"
            try:
                opening.announce(folder, config.stage, module, parts)
                if config.distill is not None:
                    opening.warn_of_other_rows(config.distill, loaded.digests)
                start.read()
                setup_seconds = clock() - began
                fit(config, module, parts, loggers, checkpoint)
                signals.check()
                signals.training = False
                tests_began = clock()
                tested, validated = outcome.answer_splits(module, parts)
                if not console.is_main():
                    return {}
                metrics = {"stage": config.stage} | outcome.measure(
                    config.tasks, module, parts, tested, validated, start.scores, loaded.available
                )
                if loaded.source is not None and weights is not None:
                    metrics["source_weights"] = outcome.name_weights(
                        loaded.source, list(config.tasks), weights
                    )
                metrics["seconds"] = {
                    "setup": setup_seconds,
                    "before": start.seconds,
                    "fit": parts.stopwatch.elapsed(),
                    "validation": parts.stopwatch.validation,
                    "test": clock() - tests_began,
                }
                extends = loaded.source if config.prompt.extend else None
                outcome.record(
                    folder, config.tasks, module.adapter, loaded.backbone, extends, tested, metrics
                )
                outcome.show(folder, loggers, tested, metrics, config.logger.samples)
                status = "success"
                return metrics
            finally:
                close_loggers(loggers, status)


def load(config: RunConfig, host: Host | None = None) -> Loaded:
    """Read the examples, the backbone, and the source where the start needs one."""
    if config.trainer.threads is not None and host is None:
        torch.set_num_threads(config.trainer.threads)
    lightning.seed_everything(config.seed, verbose=False)
    examples, available, digests = build.load_examples(
        config.tasks,
        config.few_shot,
        config.evaluation,
        config.data_root,
        load_split if host is None else host.load_split,
    )
    backbone = load_backbone(config.backbone) if host is None else host.backbone
    source = None
    prompt = config.prompt
    if config.source is not None and uses_source(
        config.stage, config.method.name, prompt.init, prompt.extend
    ):
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
        config.method.name == "prompt" and config.prompt.form == "independent"
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
