"""The stages of a run, each a staircase to read aloud: source trains a shared prompt, target adapts one."""

import copy
import dataclasses
import json
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only, rank_zero_warn
from lightning.pytorch.utilities.exceptions import SIGTERMException
from rich.console import Console

from mpt import results
from mpt.answers import Predictions, answered, samples, scored, write_predictions
from mpt.artifact import SavedPrompt, check_fits, load_prompt, save_prompt
from mpt.backbone import Backbone
from mpt.baselines import Adapter, build_baseline
from mpt.checkpoint import RESUME_NEVER, read_checkpoint
from mpt.config import PromptConfig, RunConfig, uses_source
from mpt.data import MixtureDataModule
from mpt.distill import Distiller
from mpt.few_shot import DRAWS, draw, replay, row_ids
from mpt.interrupt import Interrupted, StopSignals
from mpt.loggers import check_tensorboard, close_loggers, log_results, open_loggers, wandb_mode
from mpt.module import MPTModule
from mpt.prompt import MultitaskPromptEmbedding, MultitaskPromptTuningConfig
from mpt.prompt.extend import join
from mpt.similarity import (
    prompt_cosines,
    source_losses,
    source_weights,
    task_cosines,
    task_embeddings,
    write_similarity,
)
from mpt.summary import parameters, shortest, summary, unknown_tokens
from mpt.tasks import Example, load_split
from mpt.trainer import TrainerParts, build_trainer, close_processes, hush

RESULTS_TO_LOG = (
    "test",
    "validation",
    "moved",
    "parameters",
    "seconds",
    "examples_per_second",
    "best_step",
    "steps",
)
Examples = dict[str, dict[str, list[Example]]]
"""Split to task to examples."""


def source(config: RunConfig, folder: Path) -> dict[str, Any]:
    """Train one shared prompt, and a factor pair for each task, on several tasks at once.

    Args:
        config: The checked configuration.
        folder: The run folder; made where it is not there.

    Returns:
        What ``metrics.json`` holds.

    Raises:
        ValueError: The data, the backbone or the folder does not fit the configuration.
        FileNotFoundError: Something that the configuration names is not there.
    """
    return _train(config, folder)


def target(config: RunConfig, folder: Path) -> dict[str, Any]:
    """Adapt a source run's prompt to new tasks, or, as a baseline, a fresh prompt.

    Args:
        config: The checked configuration; ``config.source`` is the run to start from.
        folder: The run folder; made where it is not there.

    Returns:
        What ``metrics.json`` holds.

    Raises:
        ValueError: As :func:`source`, or the source does not fit the backbone.
        FileNotFoundError: As :func:`source`.
    """
    return _train(config, folder)


def teachers(config: RunConfig, folder: Path) -> dict[str, Any]:
    """Train one plain prompt per task, each as if it were alone: what a source distils from.

    Args:
        config: The checked configuration; of form none, with ``mixture=each`` and ``evaluation.best=task``.
        folder: The run folder; made where it is not there.

    Returns:
        What ``metrics.json`` holds.

    Raises:
        ValueError: As :func:`source`.
        FileNotFoundError: As :func:`source`.
    """
    return _train(config, folder)


STAGES: dict[str, Callable[[RunConfig, Path], dict[str, Any]]] = {
    "source": source,
    "target": target,
    "teachers": teachers,
}


def load_examples(config: RunConfig) -> tuple[Examples, dict[str, dict[str, int]]]:
    """Read every split of every task, with the few-shot draw in place of what it stands for.

    Returns:
        The examples, and of validation and test, by split and task, how many the data have.
    """
    shots = config.few_shot
    limits = {
        "train": None,
        "validation": config.evaluation.validation_rows,
        "test": config.evaluation.test_rows,
    }
    examples: Examples = {split: {} for split in limits}
    available: dict[str, dict[str, int]] = {"validation": {}, "test": {}}
    for name, task in config.tasks.items():
        train = load_split(name, task, "train", config.data_root)
        drawn = {"train": train}
        if shots.k is not None:
            drawn = (draw if shots.draws is None else replay)(name, train, shots)
        for split, limit in limits.items():
            whole = drawn[split] if split in drawn else load_split(name, task, split, config.data_root)
            examples[split][name] = whole if split in drawn else whole[:limit]
            if split in available:
                available[split][name] = len(whole)
    return examples, available


def start_prompt(
    config: RunConfig, backbone: Backbone, given: SavedPrompt | None, weights: torch.Tensor | None = None
) -> MultitaskPromptEmbedding:
    """Build the prompt as it starts.

    Args:
        config: The configuration.
        backbone: For its word embeddings and tokenizer.
        given: The trained prompt that a target starts from.
        weights: The parts of its S tasks in each of the T targets, ``(T, S)``, where the init asks for them.

    Raises:
        ValueError: The given prompt was trained on another backbone, or has another shape.
    """
    told = config.prompt
    if given is not None:
        check_fits(given, backbone.name, backbone.fingerprint, backbone.token_dim)
        there = given.prompt.config.num_virtual_tokens
        if there != told.num_virtual_tokens:
            raise ValueError(
                f"{config.source}: its prompt has {there} tokens, prompt.num_virtual_tokens is "
                f"{told.num_virtual_tokens}; use prompt.num_virtual_tokens={there}"
            )
    names = list(config.tasks)
    groups = told.groups or [names]
    settings = MultitaskPromptTuningConfig(
        task_names=names,
        num_groups=len(groups),
        task_groups=None
        if told.groups is None
        else [next(place for place, group in enumerate(groups) if name in group) for name in names],
        num_virtual_tokens=told.num_virtual_tokens,
        num_ranks=told.num_ranks,
        form=told.form,
        prompt_tuning_init=told.init,
        prompt_tuning_init_text=told.init_text,
        prompt_tuning_init_task=told.init_task or 0,
        tokenizer=backbone.tokenizer,
        init_std=told.init_std,
        factor_init=told.factor_init,
        factor_std=told.factor_std,
        token_dim=backbone.token_dim,
    )
    prompt = MultitaskPromptEmbedding(
        settings, backbone.word_embeddings, given.prompt if given else None, weights
    )
    if given is not None and told.extend:
        try:  # now, not when the training is over
            join(copy.deepcopy(given.prompt), prompt)
        except ValueError as error:
            raise ValueError(f"prompt.extend: {config.source} cannot take the new tasks: {error}") from error
    prompt.embedding.weight.requires_grad_(not told.freeze_shared)
    return prompt


def start_adapter(
    config: RunConfig, backbone: Backbone, given: SavedPrompt | None, weights: torch.Tensor | None = None
) -> Adapter:
    """Build what is trained, as it starts: the prompt of :func:`start_prompt`, or a baseline in its place.

    Under ``mixture=each`` every task starts from the numbers that a run of it alone would draw with this seed.

    Raises:
        ValueError: As :func:`start_prompt`, or the baseline does not fit.
    """
    lightning.seed_everything(config.seed, verbose=False)
    adapter = _started(config, backbone, given, weights)
    # LoRA and full fine-tuning hold no numbers of their own; those are the backbone's.
    if config.mixture.sampling == "each" and len(config.tasks) > 1 and list(adapter.parameters()):
        for place, (name, task) in enumerate(config.tasks.items()):
            prompt = dataclasses.replace(config.prompt, groups=None)
            lightning.seed_everything(config.seed, verbose=False)
            alone = _started(
                dataclasses.replace(config, tasks={name: task}, prompt=prompt),
                backbone,
                given,
                None if weights is None else weights[place : place + 1],
            )
            copy_numbers(adapter, place, alone)
    return adapter


@torch.no_grad()
def copy_numbers(adapter: Adapter, place: int, alone: Adapter) -> None:
    """Give a task the numbers of an adapter that holds one task."""
    there, here = dict(alone.named_parameters()), dict(adapter.named_parameters())
    for name, (learners, index) in adapter.numbers_of(place).items():
        here[name].view(learners, -1)[index] = there[name].flatten()


def _started(
    config: RunConfig, backbone: Backbone, given: SavedPrompt | None, weights: torch.Tensor | None
) -> Adapter:
    prompt = start_prompt(config, backbone, given, weights)
    if config.method.name == "prompt":
        return prompt
    sources = None if given is None else given.prompt.prompts().detach()
    longest = max(task.max_source_tokens for task in config.tasks.values())
    return build_baseline(config.method, backbone, prompt, sources, longest)


def _train(config: RunConfig, folder: Path) -> dict[str, Any]:
    """The staircase of all stages; a signal stops it where it can go on."""
    wandb_mode(config.logger)
    check_tensorboard(config.logger)
    hush()
    with StopSignals() as signals:
        start = _Start(config, folder)
        parts = build_trainer(config, folder, signals, start.score)
        interrupted = False
        try:
            return _run(config, folder, signals, parts, start)
        except (Interrupted, SIGTERMException) as stop:
            interrupted = True
            if not _is_main():
                sys.exit(0)  # Lightning kills the main process where another one of its own fails
            _explain_stop(folder, parts.last.step)
            raise stop if isinstance(stop, Interrupted) else Interrupted(signal.SIGTERM) from stop
        finally:
            close_processes(parts.trainer, kill=interrupted and not signals.training)


def _run(
    config: RunConfig, folder: Path, signals: StopSignals, parts: TrainerParts, start: "_Start"
) -> dict[str, Any]:
    """Load, build, train, test, record."""
    began = time.monotonic()
    trainer, best = parts.trainer, parts.best
    if config.trainer.threads is not None:
        torch.set_num_threads(config.trainer.threads)
    lightning.seed_everything(config.seed, verbose=False)
    given = load_prompt(Path(config.source)) if config.source and uses_source(config) else None
    examples, available = load_examples(config)
    backbone = Backbone.load(config.backbone)
    data = _data(config, examples, backbone)
    data.before_step = signals.check
    weights = _source_weights(config, backbone, given, examples, data)
    adapter = start_adapter(config, backbone, given, weights)
    tasks = list(config.tasks.values())
    distiller = _distiller(config, backbone, data)
    module = MPTModule(backbone, adapter, data, tasks, config.optim, config.trainer.max_steps, distiller)
    checkpoint = _begin(config, folder, examples, backbone)
    loggers = _loggers(config, folder, checkpoint, parts.timer.time_elapsed)
    status = "failed"
    try:
        trainer.loggers = loggers
        for part in summary(config, folder, module, data, trainer.world_size, trainer.strategy.root_device):
            _say(part)
        for warning in unknown_tokens(data, backbone.name):
            rank_zero_warn(warning)
        start.read()
        setup_seconds = time.monotonic() - began
        module.train()  # Lightning leaves the mode as it is; whether dropout is on is the backbone's to say
        trainer.fit(module, data, ckpt_path=checkpoint)
        if trainer.global_step % config.evaluation.validate_every:  # the end is a candidate as well
            trainer.validate(module, data, verbose=False)
        signals.check()
        signals.training = False
        best.restore(module)
        # Outside of the Trainer's loops the model lies on the CPU.
        module.to(trainer.strategy.root_device)
        tests_began = time.monotonic()
        tested = answered(module, data, "test", doing="testing")
        validated = answered(module, data, "validation", doing="validating")
        if not _is_main():
            return {}
        write_predictions(folder, config.tasks, tested)
        fit_seconds = parts.timer.time_elapsed()
        result = _result(config, module, data, tested, validated, start.scores, available)
        result["seconds"] = {
            "setup": setup_seconds,
            "before": start.seconds,
            "fit": fit_seconds,
            "test": time.monotonic() - tests_began,
        }
        rows_per_step = config.trainer.batch_size * (len(tasks) if config.mixture.sampling == "each" else 1)
        result["examples_per_second"] = trainer.global_step * rows_per_step / max(fit_seconds, 1e-9)
        if given is not None and weights is not None:
            result["source_weights"] = {
                name: dict(zip(given.task_names, row, strict=True))
                for name, row in zip(config.tasks, weights.tolist(), strict=True)
            }
        result |= {"steps": trainer.global_step, "best_step": best.steps_of(module.task_names)}
        _record(config, folder, module, given, result)
        _show(folder, module, loggers, result, samples(tested, config.logger.samples))
        status = "success"
        return result
    finally:
        close_loggers(loggers, status)


class _Start:
    """Scores the start and the natural prefixes when all processes are up, once: a resumed run reads it back.

    Attributes:
        scores: Task to ``before`` and ``oracle``, each where it is wanted and there is one.
        seconds: How long it took.
    """

    def __init__(self, config: RunConfig, folder: Path) -> None:
        self.config, self.path = config, folder / "checkpoints" / "before.json"
        self.scores: results.Scores = {}
        self.seconds = 0.0

    def read(self) -> None:
        """Read the scores of a run that is resumed.

        Raises:
            ValueError: The file is damaged.
        """
        if self.path.is_file():
            try:
                self.scores = json.loads(self.path.read_text(encoding="utf-8"))
            except ValueError as error:
                raise ValueError(f"{self.path}: damaged, so the run cannot go on; {RESUME_NEVER}") from error

    def score(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        """Score, and leave no trace in the training: the random state is that of a run that scores nothing."""
        assert isinstance(module, MPTModule)
        began = time.monotonic()
        if not self.scores:
            self.scores = self._answer(module)
            if _is_main():
                results.write_json(self.path, self.scores)
        lightning.seed_everything(self.config.seed, verbose=False)
        self.seconds = time.monotonic() - began

    def _answer(self, module: MPTModule) -> results.Scores:
        config = self.config
        scores: results.Scores = {name: {} for name in config.tasks}
        if config.evaluation.before:
            answers = answered(module, module.data, "test", doing="scoring the start")
            for name, row in scored(config.tasks, answers).items():
                scores[name]["before"] = row["score"]
        if config.evaluation.oracle:
            answers = answered(module, module.data, "test", oracle=True, doing="scoring the oracle")
            for name, row in scored(config.tasks, answers).items():
                scores[name]["oracle"] = row["score"]
        return scores


def _explain_stop(folder: Path, step: int) -> None:
    """Say in one line how the run goes on."""
    where = shortest(folder)
    if step:
        how = f"stopped after step {step}, which is saved; the same command goes on from there"
    elif (folder / "checkpoints" / "last.ckpt").is_file():
        how = "stopped; the same command goes on from the last checkpoint"
    else:
        how = "stopped before anything was trained; the same command starts again"
    print(f"{where}: {how}", file=sys.stderr)


def _data(
    config: RunConfig, examples: Examples, backbone: Backbone, max_steps: int | None = None
) -> MixtureDataModule:
    return MixtureDataModule(
        list(config.tasks),
        list(examples["train"].values()),
        list(examples["validation"].values()),
        list(examples["test"].values()),
        backbone.tokenizer,
        list(config.tasks.values()),
        batch_size=config.trainer.batch_size,
        accumulate=config.trainer.accumulate_grad_batches,
        eval_batch_size=config.evaluation.batch_size,
        max_steps=max_steps or config.trainer.max_steps,
        mixture=config.mixture,
        seed=config.seed,
    )


def _source_weights(
    config: RunConfig,
    backbone: Backbone,
    given: SavedPrompt | None,
    examples: Examples,
    data: MixtureDataModule,
) -> torch.Tensor | None:
    """How much of each source task each target starts from, ``(T, S)``, by what its training rows tell."""
    init = config.prompt.init
    if given is None or init not in ("NEAREST_SOURCE_TASK", "WEIGHTED_SOURCE_TASKS"):
        return None
    check_fits(given, backbone.name, backbone.fingerprint, backbone.token_dim)
    if config.prompt.source_scores == "similarity":
        scores = prompt_cosines(_task_embeddings(config, backbone, examples), given.prompt.prompts())
    else:
        losses = [
            source_losses(
                backbone, given.prompt, data.eval_loader("train", tasks=[name]), config.evaluation.batch_size
            )
            for name in config.tasks
        ]
        scores = -torch.stack(losses)
    return source_weights(init, scores, config.prompt.weight_temperature)


def _task_embeddings(config: RunConfig, backbone: Backbone, examples: Examples) -> torch.Tensor:
    """A plain prompt for each target, trained for a few steps on its training rows."""
    told = PromptConfig(config.prompt.num_virtual_tokens, form="none")
    plain = dataclasses.replace(config, prompt=told)
    prompt, steps = start_prompt(plain, backbone, None), config.prompt.embedding_steps
    data = _data(config, examples, backbone, steps)
    module = MPTModule(backbone, prompt, data, list(config.tasks.values()), config.optim, steps)
    return task_embeddings(module, config.trainer)


def _distiller(config: RunConfig, backbone: Backbone, data: MixtureDataModule) -> Distiller | None:
    """The teachers that a source learns from."""
    if config.distill is None:
        return None
    saved = load_prompt(Path(config.distill))
    check_fits(saved, backbone.name, backbone.fingerprint, backbone.token_dim)
    return Distiller(config.distillation, backbone, saved.prompt, list(config.tasks), data.training_rows)


def _begin(config: RunConfig, folder: Path, examples: Examples, backbone: Backbone) -> Path | None:
    """Make the run folder ours: the first thing that a run writes, after all that can be refused.

    Returns:
        The checkpoint to go on from; None for a new run.

    Raises:
        ValueError: The checkpoint is of a run with other weights of the backbone.
    """
    checkpoint = folder / "checkpoints" / "last.ckpt"
    if not _is_main():  # the main process has been here
        return checkpoint if checkpoint.is_file() else None
    if checkpoint.is_file() and config.resume == "auto" and not config.overwrite:
        _, run = results.read_config(folder) or ({}, {})
        if run.get("fingerprint") != backbone.fingerprint:
            raise ValueError(
                f"{folder}: began with other weights of {backbone.name}, fingerprint {run.get('fingerprint')}, "
                f"not {backbone.fingerprint}; resume=never starts again"
            )
        _say(f"{shortest(folder)}: goes on from {checkpoint.name}; resume=never starts again")
        return checkpoint
    results.begin(folder, dataclasses.asdict(config), fingerprint=backbone.fingerprint)
    if config.few_shot.k is not None:
        results.write_json(folder / DRAWS, row_ids(examples, config.few_shot.validation))
    return None


def _loggers(
    config: RunConfig, folder: Path, checkpoint: Path | None, clock: Callable[[], float]
) -> list[Logger]:
    if not _is_main():
        return []
    values, run = results.read_config(folder) or ({}, {})
    step = 0 if checkpoint is None else int(read_checkpoint(checkpoint)["global_step"])
    values["run"] = run
    return open_loggers(config, folder, run_id=run["id"], values=values, step=step, clock=clock)


def _result(
    config: RunConfig,
    module: MPTModule,
    data: MixtureDataModule,
    tested: Predictions,
    validated: Predictions,
    start: results.Scores,
    available: dict[str, dict[str, int]],
) -> dict[str, Any]:
    """What ``metrics.json`` says of the best step."""
    test, validation = scored(config.tasks, tested), scored(config.tasks, validated)
    for name in config.tasks:
        test[name] |= start[name] | {"n_available": available["test"][name]}
        validation[name]["n_available"] = available["validation"][name]
    return {
        "stage": config.stage,
        "metric": {name: task.metrics[0] for name, task in config.tasks.items()},
        "test": results.averaged(test),
        "validation": results.averaged(validation),
        "moved": module.adapter.displacement(module.start),
        "parameters": parameters(module),
        "truncated": data.truncation,
        "unknown": data.unknown,
    }


def _record(
    config: RunConfig, folder: Path, module: MPTModule, given: SavedPrompt | None, result: dict[str, Any]
) -> None:
    """Save what was trained, then the numbers, with which the run is finished."""
    if isinstance(module.adapter, MultitaskPromptEmbedding):
        _save_prompt(config, folder, module.adapter, module.backbone, given)
    else:
        module.adapter.save(folder / "adapter", module.backbone)
    results.write_metrics(folder, result)


def _show(
    folder: Path,
    module: MPTModule,
    loggers: Sequence[Logger],
    result: dict[str, Any],
    sampled: list[dict[str, str]],
) -> None:
    """Draw, log and print a finished run; what fails here is a warning, since its results are on the disk."""
    numbers = {
        key.replace(".", "/"): value
        for key, value in results.flatten({key: result[key] for key in RESULTS_TO_LOG}).items()
    }

    def print_table() -> None:
        moved = ", ".join(f"{name} {share:.0%}" for name, share in result["moved"].items())
        _say(results.table(result))
        _say(f"moved from the start: {moved}\nrun folder: {shortest(folder)}")

    steps: dict[str, Callable[[], None]] = {
        "similarity of the tasks": lambda: _write_similarity(folder),
        "loggers": lambda: log_results(loggers, numbers, sampled, folder),
        "table": print_table,
    }
    for name, step in steps.items():
        try:
            step()
        except Exception as error:
            rank_zero_warn(f"{name}: {type(error).__name__}: {error}; the results in {folder} are complete")


def _write_similarity(folder: Path) -> None:
    """Write how near the tasks of the saved prompt are to each other, where it holds several."""
    if not (folder / "prompt").is_dir():
        return
    prompt = load_prompt(folder).prompt
    if len(prompt.task_names) > 1 and prompt.config.form != "shared":
        write_similarity(folder, prompt.task_names, task_cosines(prompt))


def _save_prompt(
    config: RunConfig,
    folder: Path,
    prompt: MultitaskPromptEmbedding,
    backbone: Backbone,
    given: SavedPrompt | None,
) -> None:
    """Save a prompt, together with the source's where it extends that."""
    weights = {name: task.weight for name, task in config.tasks.items()}
    if given is not None and config.prompt.extend:
        join(given.prompt, prompt)
        prompt, weights = given.prompt, given.task_weights | weights
    save_prompt(
        folder / "prompt",
        prompt,
        task_weights=weights,
        backbone_name=backbone.name,
        backbone_location=backbone.location,
        fingerprint=backbone.fingerprint,
    )


def _is_main() -> bool:
    return getattr(rank_zero_only, "rank", 0) == 0


def _say(what: Any) -> None:
    """Print from the main process alone."""
    if _is_main():
        Console().print(what, highlight=False, soft_wrap=isinstance(what, str))
