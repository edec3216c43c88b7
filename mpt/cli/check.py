"""Everything in a configuration that is wrong by itself, found before a model is loaded."""

import math
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mpt.config import (
    BEST,
    DTYPES,
    FACTOR_INITS,
    FEW_SHOT_VALIDATIONS,
    FORMS,
    HIDDEN_PARTS,
    OF_SOURCE,
    PLAIN,
    QUANTIZATIONS,
    RESUME,
    SAMPLINGS,
    SCHEDULES,
    SOURCE_SCORES,
    WANDB_MODES,
    MultitaskPromptTuningInit,
    RunConfig,
)
from mpt.errors import unknown
from mpt.hub import is_on_hub
from mpt.methods import METHODS, find_method
from mpt.metrics import METRICS, Rules
from mpt.stages import STAGES, Stage, find_stage
from mpt.tasks import check_task
from mpt.training.own_callbacks import CALLBACKS

AVERAGED = ("score", "before", "oracle", "loss", "n")
"""Numbers of an average in metrics.json."""
OF_TASK = (*AVERAGED, "n_available")
"""Those of a task besides those of its metrics."""


def check(config: RunConfig) -> list[str]:
    """Find every error of a configuration.

    Args:
        config: A composed configuration without missing values.

    Returns:
        One sentence per error; empty where the run may start.
    """
    if config.stage not in STAGES:
        return [unknown("task", config.stage, STAGES)]
    stage = find_stage(config.stage)
    found = list(stage.check(config))
    if stage.leaves_folder:
        found += [*_choices(config), *_ranges(config), *_tasks(config), *_places(config)]
    if stage.trains:
        found += [*_prompt(config, stage), *_method(config), *_distillation(config, stage)]
    return found


def _choices(config: RunConfig) -> Iterator[str]:
    """Keys that take one of a few words."""
    words = {
        "backbone.dtype": (config.backbone.dtype, DTYPES),
        "prompt.form": (config.prompt.form, FORMS),
        "prompt.init": (config.prompt.init, tuple(MultitaskPromptTuningInit)),
        "prompt.factor_init": (config.prompt.factor_init, FACTOR_INITS),
        "prompt.source_scores": (config.prompt.source_scores, SOURCE_SCORES),
        "method.name": (config.method.name, METHODS),
        "mixture.sampling": (config.mixture.sampling, SAMPLINGS),
        "evaluation.best": (config.evaluation.best, BEST),
        "optim.schedule": (config.optim.schedule, SCHEDULES),
        "logger.wandb_mode": (config.logger.wandb_mode, WANDB_MODES),
        "few_shot.validation": (config.few_shot.validation, FEW_SHOT_VALIDATIONS),
        "resume": (config.resume, RESUME),
    }
    if config.backbone.quantize is not None:
        words["backbone.quantize"] = (config.backbone.quantize, QUANTIZATIONS)
    for key, (value, options) in words.items():
        if value not in options:
            yield unknown(key, value, options)

    for name in config.callbacks:
        if name not in CALLBACKS:
            known = f"choose one of {', '.join(CALLBACKS)}" if len(CALLBACKS) else "there are none"
            yield f"callbacks: unknown {name!r}; {known}, or name the module that brings it in plugins="


def _ranges(config: RunConfig) -> Iterator[str]:
    """Numbers with a lower bound."""
    at_least_one = {
        "prompt.num_virtual_tokens": config.prompt.num_virtual_tokens,
        "prompt.num_ranks": config.prompt.num_ranks,
        "prompt.embedding_steps": config.prompt.embedding_steps,
        "method.num_ranks": config.method.num_ranks,
        "distillation.top_k": config.distillation.top_k,
        "mixture.cap": config.mixture.cap,
        "few_shot.k": config.few_shot.k,
        "evaluation.batch_size": config.evaluation.batch_size,
        "evaluation.validate_every": config.evaluation.validate_every,
        "evaluation.validation_rows": config.evaluation.validation_rows,
        "evaluation.test_rows": config.evaluation.test_rows,
        "evaluation.patience": config.evaluation.patience,
        "trainer.max_steps": config.trainer.max_steps,
        "trainer.batch_size": config.trainer.batch_size,
        "trainer.accumulate_grad_batches": config.trainer.accumulate_grad_batches,
        "trainer.num_nodes": config.trainer.num_nodes,
        "trainer.threads": config.trainer.threads,
        "fused.max_runs": config.fused.max_runs,
    }
    positive = {
        "mixture.temperature": config.mixture.temperature,
        "prompt.weight_temperature": config.prompt.weight_temperature,
        "method.temperature": config.method.temperature,
        "distillation.temperature": config.distillation.temperature,
        "method.alpha": config.method.alpha,
        "optim.clip": config.optim.clip,
        "optim.eps": config.optim.eps,
    }
    not_negative = {
        "prompt.init_std": config.prompt.init_std,
        "prompt.factor_std": config.prompt.factor_std,
        "optim.lr_prompt": config.optim.lr_prompt,
        "optim.lr_factors": config.optim.lr_factors,
        "optim.lr_weights": config.optim.lr_weights,
        "optim.weight_decay": config.optim.weight_decay,
        "distillation.weight_logits": config.distillation.weight_logits,
        "distillation.weight_hidden": config.distillation.weight_hidden,
        "optim.warmup": config.optim.warmup,
    }
    seeds = {
        "seed": config.seed,
        "few_shot.seed": config.few_shot.seed,
        "evaluation.rows_seed": config.evaluation.rows_seed,
        "seeds.first_values": config.seeds.first_values,
        "seeds.order": config.seeds.order,
        "seeds.dropout": config.seeds.dropout,
    }
    for key, count in at_least_one.items():
        if count is not None and count < 1:
            yield f"{key}: is {count}; it must be at least 1"
    for key, number in positive.items():
        if number is not None and not 0 < number < math.inf:
            yield f"{key}: is {number}; it must be a number above 0"
    for key, number in not_negative.items():
        if not 0 <= number < math.inf:
            yield f"{key}: is {number}; it must be a number, and not negative"
    for key, seed in seeds.items():
        if seed is not None and not 0 <= seed < 2**32:
            yield f"{key}: is {seed}; a seed is a whole number from 0 to {2**32 - 1}"
    threads, most = config.trainer.threads or 0, max(64, 4 * (os.cpu_count() or 1))
    if threads > most:
        yield f"trainer.threads: is {threads}, and this machine has {os.cpu_count()} CPUs; take at most {most}"
    if config.prompt.form not in PLAIN and config.prompt.num_ranks > max(1, config.prompt.num_virtual_tokens):
        yield (
            f"prompt.num_ranks: is {config.prompt.num_ranks}, and cols @ rows over {config.prompt.num_virtual_tokens} "
            "tokens has at most that rank; take a smaller one"
        )
    parts = config.trainer.accumulate_grad_batches
    if isinstance(config.trainer.devices, int):
        parts *= max(1, config.trainer.devices) * config.trainer.num_nodes
    if config.trainer.batch_size < parts:
        yield (
            f"trainer.batch_size: is {config.trainer.batch_size}, for {parts} processes and micro-batches; it is the "
            "size of a whole step, so give each at least one row"
        )
    yield from _devices(config.trainer.devices)
    yield from _optimized(config)
    if any(word in config.trainer.strategy for word in ("fork", "spawn", "notebook")):
        yield (
            f"trainer.strategy: is {config.trainer.strategy}, whose processes do not hand back what they trained; "
            "use ddp"
        )
    yield from _sharded(config)
    if config.logger.samples < 0:
        yield f"logger.samples: is {config.logger.samples}; it must not be negative"
    if config.logger.wandb and not config.logger.project:
        yield "logger.project: is empty; W&B's runs are of a project, such as mpt"
    if config.optim.warmup > 1:
        yield f"optim.warmup: is {config.optim.warmup}; it is a share of max_steps, at most 1"
    if len(config.optim.betas) != 2 or not all(0 <= beta < 1 for beta in config.optim.betas):
        yield f"optim.betas: is {config.optim.betas}; it must be two numbers from 0 to below 1"


def _sharded(config: RunConfig) -> Iterator[str]:
    """Check that what is cut among processes is frozen, and that each of them computes as often as the others."""
    strategy = config.trainer.strategy
    if strategy != "fsdp":
        if any(word in strategy for word in ("fsdp", "deepspeed", "model_parallel")):
            yield f"trainer.strategy: is {strategy}, which would cut the prompt too; use fsdp, which cuts the backbone"
        return
    if config.method.name in METHODS and find_method(config.method.name).is_within_backbone:
        yield f"trainer.strategy: fsdp cuts what is frozen, and method={config.method.name} trains within it; use ddp"
    elif config.method.name in METHODS and not find_method(config.method.name).learns:
        yield f"trainer.strategy: fsdp is of a training, and method={config.method.name} trains nothing; leave it out"
    if config.backbone.quantize is not None:
        yield (
            f"trainer.strategy: fsdp cuts layers of whole numbers, and backbone.quantize={config.backbone.quantize} "
            "packs them; use ddp, or leave out backbone.quantize"
        )
    if config.distill is not None and config.distillation.cache is not None:
        yield (
            "distillation.cache: spares a process the teachers that it has asked, and under trainer.strategy=fsdp all "
            "have to compute as often; leave it out"
        )


def _devices(devices: Any) -> Iterator[str]:
    """Check the number or the list of devices, which a command line writes as texts too."""
    listed = devices if isinstance(devices, (list, tuple)) else str(devices).split(",")
    numbers = [text for each in listed if re.fullmatch(r"\d+", text := str(each).strip())]
    alone = len(listed) == 1 and not isinstance(devices, (list, tuple))
    is_count = alone and (str(devices) in ("auto", "-1") or (len(numbers) == 1 and int(numbers[0]) > 0))
    if not is_count and (alone or not listed or len(set(numbers)) < len(listed)):
        yield f"trainer.devices: is {devices!r}; it must be a number from 1, auto, or a list of different ones, [0,1]"


def _optimized(config: RunConfig) -> Iterator[str]:
    """Check that the run will have the number that a sweeper looks for."""
    split, _, rest = config.optimized_metric.partition("/")
    task, _, metric = rest.partition("/")
    splits = find_stage(config.stage).scored_splits(config)
    if split not in splits or task not in (*config.tasks, "average") or not metric:
        yield (
            f"optimized_metric: is {config.optimized_metric!r}; it must be a path in metrics.json such as "
            f"{[*splits, 'test'][0]}/average/score or test/TASK/score"
        )
    elif task == "average" and metric not in AVERAGED:
        yield unknown("optimized_metric", metric, AVERAGED, "an average has no")
    elif task in config.tasks and metric not in OF_TASK:
        names = [name for name in config.tasks[task].metrics if name in METRICS]
        # What a metric counts does not depend on the rows.
        numbers = [key for name in names for key in METRICS[name].compute(["1", "2"], [("1",), ("2",)], Rules())]
        if metric not in numbers:
            yield unknown("optimized_metric", metric, [*OF_TASK, *numbers], f"{task} has no")


def _tasks(config: RunConfig) -> Iterator[str]:
    if not config.tasks:
        yield "tasks: there are none; name at least one, as in '+tasks=[sum,mt,dlg]' (tasks=list prints them)"
    for name, task in config.tasks.items():
        yield from check_task(name, task)
    if config.few_shot.draws is not None and config.few_shot.k is None:
        yield "few_shot.k: is missing, and few_shot.draws replays a draw; give the k of that run"
    if config.evaluation.best == "task" and not independent(config):
        yield (
            "evaluation.best: task keeps each task at another step, and these tasks train something together; use "
            "average, or prompt=plain, prompt.freeze_shared=true or a group of its own for each task"
        )
    no_share = [
        name
        for name, task in config.tasks.items()
        if (first := METRICS.get((task.metrics or [""])[0])) and first.higher_is_better and math.isinf(first.range[1])
    ]
    if no_share and len(config.tasks) > 1:
        yield (
            f"tasks.{no_share[0]}.metrics: {config.tasks[no_share[0]].metrics[0]} has a range of its own, so it can "
            "be no part of an average over tasks, by which the best step is chosen; put another metric first"
        )
    if config.mixture.sampling == "stochastic" and len(config.tasks) == 1:
        yield "mixture.sampling: stochastic draws from two tasks or more, and there is one; use mixture=equal"


def _prompt(config: RunConfig, stage: type[Stage]) -> Iterator[str]:
    """Check what the prompt starts from, against the stage."""
    prompt = config.prompt
    if prompt.init == "TEXT" and not prompt.init_text:
        yield "prompt.init_text: empty; prompt.init=TEXT starts from the embeddings of this text"
    if prompt.form in PLAIN and prompt.freeze_shared:
        yield f"prompt.freeze_shared: leaves nothing to train with prompt.form={prompt.form}; set it to false"
    yield from _groups(config)
    if prompt.extend and (stage.source == "never" or config.source is None):
        yield "prompt.extend: adds tasks to those of a source run; use task=target source=RUN_FOLDER"
    elif prompt.extend and not (prompt.freeze_shared or prompt.form == "independent"):
        yield "prompt.extend: the source's tasks need P as it is; use prompt.freeze_shared=true with it"
    if stage.source == "never":
        if config.source is not None:
            yield f"source: is {config.source!r}, but a {config.stage} run starts from nothing; use task=target"
        if prompt.init in OF_SOURCE:
            yield f"prompt.init: {prompt.init} starts from a source run; use task=target source=RUN_FOLDER"
        return
    name = config.method.name
    starts_from_source = name in METHODS and find_method(name).source == "to start"
    if prompt.init == "DEMONSTRATIONS" and config.few_shot.k is None:
        yield "few_shot.k: is null, and prompt.init=DEMONSTRATIONS starts from the k examples; set it, such as 4"
    if prompt.init in OF_SOURCE and config.source is None and starts_from_source:
        yield f"source: is missing, and prompt.init={prompt.init} starts from it; add source=RUN_FOLDER"
    needs_task = name in METHODS and find_method(name).has_factors
    if prompt.init == "EXACT_SOURCE_TASK" and not prompt.init_task and needs_task:
        yield "prompt.init_task: empty; name the source task that EXACT_SOURCE_TASK starts from"
    if prompt.init_task and prompt.init != "EXACT_SOURCE_TASK":
        yield f"prompt.init_task: is {prompt.init_task!r}, but only prompt.init=EXACT_SOURCE_TASK uses it"


def independent(config: RunConfig) -> bool:
    """Tell whether the tasks of a run share nothing that is trained."""
    if len(config.tasks) == 1:
        return True
    name = config.method.name
    return name in METHODS and find_method(name).separates_tasks(config)


def _groups(config: RunConfig) -> Iterator[str]:
    """Groups of tasks that share a P."""
    groups = config.prompt.groups
    if groups is None:
        return
    if config.prompt.form == "independent":
        yield "prompt.groups: prompt.form=independent gives each task a prompt of its own; leave the groups out"
    named = [name for group in groups for name in group]
    if sorted(named) != sorted(config.tasks) or not all(groups):
        yield (
            f"prompt.groups: is {groups}; it must name each of {', '.join(config.tasks)} once, in groups of at least "
            "one"
        )
    if config.prompt.extend:
        yield "prompt.groups: a prompt that is extended has one P; leave the groups out"


def _method(config: RunConfig) -> Iterator[str]:
    """Check what the method says of itself."""
    if config.method.name in METHODS:
        yield from find_method(config.method.name).check(config)


def _distillation(config: RunConfig, stage: type[Stage]) -> Iterator[str]:
    """Check how a source learns from teachers."""
    distillation = config.distillation
    if unknown_parts := sorted(set(distillation.hidden) - set(HIDDEN_PARTS)):
        yield f"distillation.hidden: unknown {', '.join(unknown_parts)}; choose from {', '.join(HIDDEN_PARTS)}"
    if distillation.weight_hidden > 0 and not (distillation.hidden and distillation.layers):
        yield "distillation.weight_hidden: there are no hidden states to compare; set it to 0"
    if config.distill is None:
        return
    has_factors = config.method.name in METHODS and find_method(config.method.name).has_factors
    if not stage.takes_teachers or not has_factors:
        yield f"distill: is {config.distill!r}, but only a source run of a prompt distills; use task=source"
    if distillation.weight_logits == 0 and distillation.weight_hidden == 0:
        yield "distill: both weights of distillation are 0, so the teachers say nothing; leave distill out"


def _places(config: RunConfig) -> Iterator[str]:
    """Folders that have to be there."""
    folders = {
        "data_root": config.data_root,
        "backbone.path": config.backbone.path,
        "distill": config.distill,
        **{f"tasks.{name}.rows.root": task.rows.root for name, task in config.tasks.items()},
    }
    for key, folder in folders.items():
        if key == "backbone.path" and str(folder).endswith(".gguf"):
            if not Path(str(folder)).is_file():
                yield f"backbone.path: no file {folder!r}; give one that is there"
        elif folder is not None and not Path(folder).is_dir():
            yield f"{key}: no folder {folder!r}; give one that is there"
    revision, is_local = config.backbone.revision, config.backbone.path is not None or config.backbone.name == "tiny"
    if revision is not None and is_local:
        yield f"backbone.revision: is {revision!r}, and only models of the hub have revisions; leave it out"
    if not config.output_root:
        yield "output_root: is empty; give the folder that holds the runs, such as runs"
    if config.source is not None and not is_on_hub(config.source) and not Path(config.source).exists():
        yield f"source: no folder or file {config.source!r}; give one that is there"
