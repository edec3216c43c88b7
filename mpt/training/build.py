"""Build what a stage needs, each from its part of the configuration: examples, data, adapter, teachers.

Shape legend: T tasks, S source tasks, N virtual tokens, D token_dim.
"""

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import lightning
import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from mpt.adapter import Adapter
from mpt.artifact import SavedPrompt, check_fits, load_prompt
from mpt.backbone import Backbone
from mpt.config import OF_SOURCE, DistillationConfig, MethodConfig, OptimConfig, PromptConfig, TaskConfig, TrainerConfig
from mpt.data.data_module import MixtureDataModule
from mpt.distill import Distiller
from mpt.errors import UserError
from mpt.methods import Start, find_method
from mpt.prompt import MultitaskPromptEmbedding, MultitaskPromptTuningConfig
from mpt.prompt.extend import join
from mpt.prompt.initialize import embed_text
from mpt.run.folder import read_config
from mpt.training.module import MPTModule
from mpt.training.similarity import prompt_cosines, source_losses, source_weights, task_embeddings

Tasks = Mapping[str, TaskConfig]


@dataclasses.dataclass(frozen=True)
class Plan:
    """Everything that the first values of an adapter follow from, but the seed.

    Attributes:
        tasks: The T tasks.
        prompt: Shape, form and first values of the prompt.
        method: What is trained.
        backbone: The frozen model.
        source: The trained prompt to start from; None: none.
        weights: The parts of the S source tasks in each task, ``(T, S)``, where the init asks for them.
        demonstrations: Task to its examples as one text, where the init asks for them.
    """

    tasks: Tasks
    prompt: PromptConfig
    method: MethodConfig
    backbone: Backbone
    source: SavedPrompt | None = None
    weights: Tensor | None = None
    demonstrations: Mapping[str, str] | None = None


def build_prompt(
    task_names: Sequence[str],
    prompt: PromptConfig,
    backbone: Backbone,
    source: SavedPrompt | None = None,
    weights: Tensor | None = None,
    demonstrations: Mapping[str, str] | None = None,
) -> MultitaskPromptEmbedding:
    """Build a prompt with its first values.

    Args:
        task_names: The T tasks.
        prompt: Shape, form and first values.
        backbone: For its word embeddings and tokenizer.
        source: The trained prompt to start from.
        weights: The parts of the S source tasks in each task, ``(T, S)``, where the init asks for them.
        demonstrations: Under DEMONSTRATIONS, task to its examples as one text.

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
        prompt_tuning_init="VOCABULARY" if demonstrations else prompt.init,  # in whose place the texts are put
        prompt_tuning_init_text=prompt.init_text,
        prompt_tuning_init_task=prompt.init_task or 0,
        tokenizer=backbone.tokenizer,
        init_std=prompt.init_std,
        factor_init=prompt.factor_init,
        factor_std=prompt.factor_std,
        token_dim=backbone.token_dim,
    )
    built = MultitaskPromptEmbedding(settings, backbone.word_embeddings, source.prompt if source else None, weights)
    if demonstrations is not None:
        for group in range(built.config.num_groups):
            of_tasks = zip(task_names, built.config.task_groups or [], strict=True)
            text = "".join(demonstrations[name] for name, of_task in of_tasks if of_task == group)
            _start_from_text(built, group, text, backbone)
    if source is not None and prompt.extend:
        try:  # now, not when the training is over
            join(copy.deepcopy(source.prompt), built)
        except ValueError as error:
            raise UserError(f"prompt.extend: the source cannot take the new tasks: {error}") from error
    built.embedding.weight.requires_grad_(not prompt.freeze_shared)
    return built


@torch.no_grad()
def _start_from_text(prompt: MultitaskPromptEmbedding, group: int, text: str, backbone: Backbone) -> None:
    """Start one group of P, of plain prompts that of one task, from the embeddings of a text."""
    N = prompt.num_virtual_tokens
    tokens = len(backbone.tokenizer(text)["input_ids"])
    if tokens > N:
        rank_zero_warn(
            f"prompt.init=DEMONSTRATIONS: the examples have {tokens} tokens, of which the first {N} start the prompt; "
            f"prompt.num_virtual_tokens={tokens} takes them all"
        )
    own = embed_text(text, backbone.tokenizer, N, backbone.word_embeddings)
    prompt.embedding.weight.view(-1, N, prompt.shape[3])[group].copy_(own)


def build_adapter(plan: Plan) -> Adapter:
    """Build what is trained, with its first values: a prompt, or a baseline in its place.

    Raises:
        UserError: As :func:`build_prompt`, or the baseline does not fit.
    """
    prompt, source = plan.prompt, plan.source
    if source is None and prompt.init in OF_SOURCE:  # LoRA and full fine-tuning have no prompt to start
        prompt = dataclasses.replace(prompt, init="VOCABULARY", init_task=None)
    first = build_prompt(list(plan.tasks), prompt, plan.backbone, source, plan.weights, plan.demonstrations)
    start = Start(first, plan.method, plan.backbone, plan.tasks, source.prompt if source else None)
    return find_method(plan.method.name).build(start)


def build_adapter_as_separate_runs(plan: Plan, seed: int) -> Adapter:
    """Build an adapter each of whose tasks starts with the numbers that a run of only this task would draw.

    Raises:
        UserError: As :func:`build_adapter`.
    """
    lightning.seed_everything(seed, verbose=False)
    adapter = build_adapter(plan)
    # LoRA and full fine-tuning hold no numbers of their own; those are the backbone's.
    if len(plan.tasks) == 1 or not list(adapter.parameters()):
        return adapter
    parameters = dict(adapter.named_parameters())
    ungrouped = dataclasses.replace(plan.prompt, groups=None)
    for task_id, (name, task) in enumerate(plan.tasks.items()):
        lightning.seed_everything(seed, verbose=False)
        weights = None if plan.weights is None else plan.weights[task_id : task_id + 1]
        single = dataclasses.replace(plan, tasks={name: task}, prompt=ungrouped, weights=weights)
        drawn = dict(build_adapter(single).named_parameters())
        with torch.no_grad():
            for parameter, learner in adapter.learners_of(task_id).items():
                learner.part_of(parameters[parameter]).copy_(drawn[parameter].flatten())
    return adapter


def extend_source(source: SavedPrompt, adapter: Adapter) -> Adapter:
    """Join a source's prompt with the tasks trained over its P: what ``prompt.extend`` saves."""
    assert isinstance(adapter, MultitaskPromptEmbedding)  # refused earlier for every other method
    joined = copy.deepcopy(source.prompt)
    joined.began_with = None
    join(joined, adapter)
    return joined


class LibraryStart(NamedTuple):
    """The first values of a library's prompts."""

    prompt: PromptConfig
    seed: int
    is_known: bool


def library_start(source: str | None, num_virtual_tokens: int, seed: int) -> LibraryStart:
    """Read from a source run where its plain prompts started.

    Args:
        source: The run's folder.
        num_virtual_tokens: Length of its prompts.
        seed: Used where the source does not record one.
    """
    values, _ = (read_config(Path(source)) if source and Path(source).is_dir() else None) or ({}, {})
    prompt = values.get("prompt") or {}
    plain = PromptConfig(num_virtual_tokens, form="independent")
    if prompt.get("form") != "independent" or prompt.get("init") in (None, *OF_SOURCE):
        return LibraryStart(plain, seed, False)
    started = {key: prompt[key] for key in ("init", "init_text", "init_std") if key in prompt}
    own = (values.get("seeds") or {}).get("first_values")
    seed = int(values.get("seed", seed) if own is None else own)
    return LibraryStart(dataclasses.replace(plain, **started), seed, True)


def weigh_source_tasks(
    plan: Plan, data: MixtureDataModule, optim: OptimConfig, trainer: TrainerConfig, library: LibraryStart
) -> Tensor | None:
    """Decide how much of each source task each target starts from, ``(T, S)``, by the targets' training examples.

    Returns:
        None where the init does not ask.
    """
    prompt, source = plan.prompt, plan.source
    if source is None or prompt.init not in ("NEAREST_SOURCE_TASK", "WEIGHTED_SOURCE_TASKS"):
        return None
    if prompt.source_scores == "similarity":
        embeddings = _embed_tasks(plan, data, optim, trainer, library)
        scores = prompt_cosines(embeddings, source.prompt.prompts())
    else:
        losses = [
            source_losses(plan.backbone, source.prompt, data.eval_loader("train", tasks=[name]), data.eval_batch_size)
            for name in plan.tasks
        ]
        scores = -torch.stack(losses)
    return source_weights(prompt.init, scores, prompt.weight_temperature)


def _embed_tasks(
    plan: Plan, data: MixtureDataModule, optim: OptimConfig, trainer: TrainerConfig, library: LibraryStart
) -> Tensor:
    """Train a plain prompt for each target for a few steps on its training examples: SPoT's task embeddings.

    They start where the prompts of the library did; otherwise their cosines would compare the starts.
    """
    if not library.is_known:
        rank_zero_warn(
            "prompt.source_scores=similarity: the source does not say how its prompts started, so the targets' start "
            "elsewhere, and the cosines measure the starts as well as the tasks; use a source run of prompt=plain"
        )
    steps = plan.prompt.embedding_steps
    of_library = Plan(plan.tasks, library.prompt, MethodConfig(), plan.backbone)
    plain = build_adapter_as_separate_runs(of_library, library.seed)
    few = data.with_max_steps(steps)
    few.before_step = None
    module = MPTModule(plan.backbone, plain, few, list(plan.tasks.values()), optim, steps)
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
