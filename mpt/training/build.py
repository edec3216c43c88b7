"""Build what a stage needs, each from its part of the configuration: examples, data, adapter, teachers.

Shape legend: T tasks, S source tasks, N virtual tokens, D token_dim.
"""

import copy
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import lightning
import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from mpt.adapter import Adapter
from mpt.artifact import SavedPrompt, check_fits, load_prompt
from mpt.backbone import Backbone
from mpt.config import (
    OF_SOURCE,
    DistillationConfig,
    EvaluationConfig,
    FewShotConfig,
    MethodConfig,
    MixtureConfig,
    OptimConfig,
    PromptConfig,
    TaskConfig,
    TrainerConfig,
)
from mpt.data.data_module import MixtureDataModule
from mpt.data.few_shot import draw, replay
from mpt.distill import Distiller
from mpt.errors import UserError
from mpt.methods import find_method
from mpt.prompt import MultitaskPromptEmbedding, MultitaskPromptTuningConfig
from mpt.prompt.extend import join
from mpt.run.folder import read_config
from mpt.tasks import Example, choose_rows, digest_examples, load_split
from mpt.training.module import MPTModule
from mpt.training.similarity import prompt_cosines, source_losses, source_weights, task_embeddings

Examples = dict[str, dict[str, list[Example]]]
"""Split to task to examples."""


class LoadedExamples(NamedTuple):
    """What was read of the tasks' data."""

    examples: Examples
    available: dict[str, dict[str, int]]
    """Of validation and test, by split and task, how many examples the data have."""
    digests: dict[str, dict[str, str]]
    """Task to split to the digest of all that was read of it, before any draw or choice."""


Tasks = Mapping[str, TaskConfig]


def load_examples(
    tasks: Tasks,
    few_shot: FewShotConfig,
    evaluation: EvaluationConfig,
    data_root: str | None,
    read: Callable[..., list[Example]] = load_split,
) -> LoadedExamples:
    """Read every split of every task, with the few-shot draw in place of what it stands for.

    Args:
        tasks: The tasks.
        few_shot: The draw.
        evaluation: How many rows are wanted, and which.
        data_root: As :func:`mpt.tasks.load_split`.
        read: Reads a split.
    """
    limits = {"train": None, "validation": evaluation.validation_rows, "test": evaluation.test_rows}
    examples: Examples = {split: {} for split in limits}
    available: dict[str, dict[str, int]] = {"validation": {}, "test": {}}
    digests: dict[str, dict[str, str]] = {}
    for name, task in tasks.items():
        train = read(name, task, "train", data_root)
        digests[name] = {"train": digest_examples(train)}
        drawn = {"train": train}
        if few_shot.k is not None:
            drawn = (draw if few_shot.draws is None else replay)(name, train, few_shot)
        for split, limit in limits.items():
            if split in drawn:
                examples[split][name] = whole = drawn[split]
            else:
                whole = read(name, task, split, data_root)
                digests[name][split] = digest_examples(whole)
                examples[split][name] = choose_rows(whole, limit, evaluation.rows_seed)
            if split in available:
                available[split][name] = len(whole)
    return LoadedExamples(examples, available, digests)


def build_data(
    tasks: Tasks,
    examples: Examples,
    backbone: Backbone,
    *,
    trainer: TrainerConfig,
    evaluation: EvaluationConfig,
    mixture: MixtureConfig,
    seed: int,
) -> MixtureDataModule:
    """Tokenize the examples for the backbone."""
    return MixtureDataModule(
        list(tasks),
        {split: list(of_split.values()) for split, of_split in examples.items()},
        backbone.tokenization,
        list(tasks.values()),
        batch_size=trainer.batch_size,
        accumulate=trainer.accumulate_grad_batches,
        eval_batch_size=evaluation.batch_size,
        max_steps=trainer.max_steps,
        mixture=mixture,
        seed=seed,
    )


def check_lengths(data: MixtureDataModule, backbone: Backbone, num_virtual_tokens: int) -> None:
    """Refuse tasks whose examples are longer than the backbone has positions for.

    Raises:
        UserError: One is; its task is named.
    """
    if backbone.max_positions is None:
        return
    for name, inputs, targets in data.longest():
        if num_virtual_tokens + inputs + targets > backbone.max_positions:
            raise UserError(
                f"tasks.{name}: an input of {inputs} tokens, a target of up to {targets} and {num_virtual_tokens} "
                f"virtual tokens are more than the {backbone.max_positions} that {backbone.name} takes; lower "
                f"tasks.{name}.max_source_tokens to {backbone.max_positions - num_virtual_tokens - targets}"
            )


def load_source(source: str, backbone: Backbone, num_virtual_tokens: int) -> SavedPrompt:
    """Load the trained prompt that a target starts from.

    Raises:
        UserError: It was trained on another backbone, or has another length.
        FileNotFoundError: There is none.
    """
    saved = load_prompt(source)
    check_fits(saved, backbone)
    found = saved.prompt.config.num_virtual_tokens
    if found != num_virtual_tokens:
        raise UserError(
            f"{source}: its prompt has {found} tokens, prompt.num_virtual_tokens is {num_virtual_tokens}; "
            f"use prompt.num_virtual_tokens={found}"
        )
    return saved


def build_prompt(
    task_names: Sequence[str],
    prompt: PromptConfig,
    backbone: Backbone,
    source: SavedPrompt | None = None,
    weights: Tensor | None = None,
) -> MultitaskPromptEmbedding:
    """Build a prompt with its first values.

    Args:
        task_names: The T tasks.
        prompt: Shape, form and first values.
        backbone: For its word embeddings and tokenizer.
        source: The trained prompt to start from.
        weights: The parts of the S source tasks in each task, ``(T, S)``, where the init asks for them.

    Raises:
        UserError: The source does not fit, or cannot take the new tasks.
    """
    groups = prompt.groups or [list(task_names)]
    task_groups = None
    if prompt.groups is not None:
        task_groups = [next(g for g, group in enumerate(groups) if name in group) for name in task_names]
    settings = MultitaskPromptTuningConfig(
        task_type=backbone.task_type,
        task_names=list(task_names),
        num_groups=len(groups),
        task_groups=task_groups,
        num_virtual_tokens=prompt.num_virtual_tokens,
        num_ranks=prompt.num_ranks,
        form=prompt.form,
        prompt_tuning_init=prompt.init,
        prompt_tuning_init_text=prompt.init_text,
        prompt_tuning_init_task=prompt.init_task or 0,
        tokenizer=backbone.tokenizer,
        init_std=prompt.init_std,
        factor_init=prompt.factor_init,
        factor_std=prompt.factor_std,
        token_dim=backbone.token_dim,
    )
    built = MultitaskPromptEmbedding(
        settings, backbone.word_embeddings, source.prompt if source else None, weights
    )
    if source is not None and prompt.extend:
        try:  # now, not when the training is over
            join(copy.deepcopy(source.prompt), built)
        except ValueError as error:
            raise UserError(f"prompt.extend: the source cannot take the new tasks: {error}") from error
    built.embedding.weight.requires_grad_(not prompt.freeze_shared)
    return built


def build_adapter(
    tasks: Tasks,
    prompt: PromptConfig,
    method: MethodConfig,
    backbone: Backbone,
    source: SavedPrompt | None = None,
    weights: Tensor | None = None,
) -> Adapter:
    """Build what is trained, with its first values: a prompt, or a baseline in its place.

    Raises:
        UserError: As :func:`build_prompt`, or the baseline does not fit.
    """
    if source is None and prompt.init in OF_SOURCE:  # LoRA and full fine-tuning have no prompt to start
        prompt = dataclasses.replace(prompt, init="VOCABULARY", init_task=None)
    start = build_prompt(list(tasks), prompt, backbone, source, weights)
    return find_method(method.name).build(start, method, backbone, tasks, source.prompt if source else None)


def build_adapter_as_separate_runs(
    tasks: Tasks,
    prompt: PromptConfig,
    method: MethodConfig,
    backbone: Backbone,
    seed: int,
    source: SavedPrompt | None = None,
    weights: Tensor | None = None,
) -> Adapter:
    """Build an adapter each of whose tasks starts with the numbers that a run of only this task would draw.

    Raises:
        UserError: As :func:`build_adapter`.
    """
    lightning.seed_everything(seed, verbose=False)
    adapter = build_adapter(tasks, prompt, method, backbone, source, weights)
    # LoRA and full fine-tuning hold no numbers of their own; those are the backbone's.
    if len(tasks) == 1 or not list(adapter.parameters()):
        return adapter
    parameters = dict(adapter.named_parameters())
    for task_id, (name, task) in enumerate(tasks.items()):
        lightning.seed_everything(seed, verbose=False)
        own_weights = None if weights is None else weights[task_id : task_id + 1]
        own_prompt = dataclasses.replace(prompt, groups=None)
        single = build_adapter({name: task}, own_prompt, method, backbone, source, own_weights)
        drawn = dict(single.named_parameters())
        with torch.no_grad():
            for parameter, learner in adapter.learners_of(task_id).items():
                learner.part_of(parameters[parameter]).copy_(drawn[parameter].flatten())
    return adapter


def extend_source(source: SavedPrompt, adapter: Adapter) -> Adapter:
    """Join a source's prompt with the tasks trained over its P: what ``prompt.extend`` saves."""
    assert isinstance(adapter, MultitaskPromptEmbedding)  # refused earlier for every other method
    joined = copy.deepcopy(source.prompt)
    join(joined, adapter)
    return joined


class LibraryStart(NamedTuple):
    """Where the prompts of a library started."""

    prompt: PromptConfig
    seed: int
    is_known: bool


def library_start(source: str | None, num_virtual_tokens: int, seed: int) -> LibraryStart:
    """Read from a source run where its plain prompts started.

    Args:
        source: The run's folder.
        num_virtual_tokens: Of its prompts.
        seed: Of a start where the source says nothing.
    """
    values, _ = (read_config(Path(source)) if source and Path(source).is_dir() else None) or ({}, {})
    prompt = values.get("prompt") or {}
    plain = PromptConfig(num_virtual_tokens, form="independent")
    if prompt.get("form") != "independent" or prompt.get("init") in (None, *OF_SOURCE):
        return LibraryStart(plain, seed, False)
    started = {key: prompt[key] for key in ("init", "init_text", "init_std") if key in prompt}
    return LibraryStart(dataclasses.replace(plain, **started), int(values.get("seed", seed)), True)


def weigh_source_tasks(
    tasks: Tasks,
    prompt: PromptConfig,
    backbone: Backbone,
    source: SavedPrompt,
    data: MixtureDataModule,
    optim: OptimConfig,
    trainer: TrainerConfig,
    library: LibraryStart,
) -> Tensor | None:
    """Decide how much of each source task each target starts from, ``(T, S)``, by the targets' training examples.

    Returns:
        None where the init does not ask.
    """
    if prompt.init not in ("NEAREST_SOURCE_TASK", "WEIGHTED_SOURCE_TASKS"):
        return None
    if prompt.source_scores == "similarity":
        embeddings = _embed_tasks(tasks, prompt, backbone, data, optim, trainer, library)
        scores = prompt_cosines(embeddings, source.prompt.prompts())
    else:
        losses = [
            source_losses(
                backbone, source.prompt, data.eval_loader("train", tasks=[name]), data.eval_batch_size
            )
            for name in tasks
        ]
        scores = -torch.stack(losses)
    return source_weights(prompt.init, scores, prompt.weight_temperature)


def _embed_tasks(
    tasks: Tasks,
    prompt: PromptConfig,
    backbone: Backbone,
    data: MixtureDataModule,
    optim: OptimConfig,
    trainer: TrainerConfig,
    library: LibraryStart,
) -> Tensor:
    """Train a plain prompt for each target for a few steps on its training examples: SPoT's task embeddings.

    They start where the prompts of the library did; otherwise their cosines would compare the starts.
    """
    if not library.is_known:
        rank_zero_warn(
            "prompt.source_scores=similarity: the source does not say how its prompts started, so the targets' start "
            "elsewhere, and the cosines measure the starts as well as the tasks; use a source run of prompt=plain"
        )
    steps = prompt.embedding_steps
    plain = build_adapter_as_separate_runs(tasks, library.prompt, MethodConfig(), backbone, library.seed)
    few = data.with_max_steps(steps)
    few.before_step = None
    module = MPTModule(backbone, plain, few, list(tasks.values()), optim, steps)
    return task_embeddings(module, trainer)


def build_distiller(
    distill: str | None,
    distillation: DistillationConfig,
    backbone: Backbone,
    data: MixtureDataModule,
    precision: str = "32-true",
) -> Distiller | None:
    """Load the teachers that a source learns from; None to train without.

    Raises:
        UserError: They were trained on another backbone, or a task has none.
    """
    if distill is None:
        return None
    saved = load_prompt(distill)
    check_fits(saved, backbone)
    return Distiller(distillation, backbone, saved.prompt, data.task_names, data.training_examples, precision)


def count_parameters(module: MPTModule) -> dict[str, float]:
    """Count the numbers that are trained, those of the backbone that are frozen, and those to store."""
    backbone = module.backbone.parameters()
    return {
        "trained": sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad),
        "frozen": sum(parameter.numel() for parameter in backbone if not parameter.requires_grad),
        **dataclasses.asdict(module.adapter.count_parameters()),
    }
