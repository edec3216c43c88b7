"""Everything in a configuration that is wrong by itself, found before a model is loaded."""

from collections.abc import Iterator
from pathlib import Path

from mpt.complaints import unknown
from mpt.config import RunConfig
from mpt.prompt import MultitaskPromptTuningInit
from mpt.prompt.config import FORMS, OF_SOURCE
from mpt.tasks import check_task

FROM_SOURCE = tuple(init.value for init in OF_SOURCE)
"""Inits that start from the prompt of a source run."""


def check(config: RunConfig) -> list[str]:
    """Find every error of a configuration.

    Args:
        config: A composed configuration without missing values.

    Returns:
        One sentence per error; empty where the run may start.
    """
    return [
        *_choices(config),
        *_ranges(config),
        *_tasks(config),
        *_prompt(config),
        *_places(config),
    ]


def _choices(config: RunConfig) -> Iterator[str]:
    """Keys that take one of a few words."""
    words = {
        "task": (config.stage, ("source", "target")),
        "backbone.dtype": (config.backbone.dtype, ("float32", "bfloat16", "float16")),
        "prompt.form": (config.prompt.form, FORMS),
        "prompt.init": (config.prompt.init, tuple(init.value for init in MultitaskPromptTuningInit)),
        "prompt.factor_init": (config.prompt.factor_init, ("ones", "normal")),
        "mixture.sampling": (
            config.mixture.sampling,
            ("proportional", "equal", "temperature", "log_size", "stochastic"),
        ),
        "optim.schedule": (config.optim.schedule, ("linear", "constant")),
        "logger.wandb_mode": (config.logger.wandb_mode, ("auto", "online", "offline", "disabled")),
        "few_shot.validation": (config.few_shot.validation, ("draw", "split")),
        "resume": (config.resume, ("auto", "never")),
    }
    for key, (value, options) in words.items():
        if value not in options:
            yield unknown(key, value, options)


def _ranges(config: RunConfig) -> Iterator[str]:
    """Numbers with a lower bound."""
    at_least_one = {
        "prompt.num_virtual_tokens": config.prompt.num_virtual_tokens,
        "prompt.num_ranks": config.prompt.num_ranks,
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
    }
    positive = {
        "mixture.temperature": config.mixture.temperature,
        "prompt.weight_temperature": config.prompt.weight_temperature,
        "optim.clip": config.optim.clip,
        "optim.eps": config.optim.eps,
    }
    not_negative = {
        "prompt.init_std": config.prompt.init_std,
        "prompt.factor_std": config.prompt.factor_std,
        "optim.lr_prompt": config.optim.lr_prompt,
        "optim.lr_factors": config.optim.lr_factors,
        "optim.weight_decay": config.optim.weight_decay,
        "optim.warmup": config.optim.warmup,
    }
    for key, count in at_least_one.items():
        if count is not None and count < 1:
            yield f"{key}: is {count}; it must be at least 1"
    for key, number in positive.items():
        if number is not None and not number > 0:
            yield f"{key}: is {number}; it must be above 0"
    for key, number in not_negative.items():
        if not number >= 0:
            yield f"{key}: is {number}; it must not be negative"
    parts = config.trainer.accumulate_grad_batches
    if isinstance(config.trainer.devices, int):
        parts *= max(1, config.trainer.devices) * config.trainer.num_nodes
    if config.trainer.batch_size < parts:
        yield (
            f"trainer.batch_size: is {config.trainer.batch_size}, for {parts} processes and micro-batches; it is the "
            "size of a whole step, so give each at least one row"
        )
    if config.optim.warmup > 1:
        yield f"optim.warmup: is {config.optim.warmup}; it is a share of max_steps, at most 1"
    if len(config.optim.betas) != 2 or not all(0 <= beta < 1 for beta in config.optim.betas):
        yield f"optim.betas: is {config.optim.betas}; it must be two numbers from 0 to below 1"


def _tasks(config: RunConfig) -> Iterator[str]:
    if not config.tasks:
        yield "tasks: none given; name at least one, as in '+tasks=[sum,mt,dlg]' (tasks=list prints them)"
    for name, task in config.tasks.items():
        yield from check_task(name, task)
    if config.few_shot.draws is not None and config.few_shot.k is None:
        yield "few_shot.k: not given, and few_shot.draws replays a draw; give the k of that run"
    if config.mixture.sampling == "stochastic" and len(config.tasks) == 1:
        yield "mixture.sampling: stochastic draws from two tasks or more, and there is one; use mixture=equal"


def _prompt(config: RunConfig) -> Iterator[str]:
    """What the prompt starts from, against the stage."""
    prompt = config.prompt
    if prompt.init == "TEXT" and not prompt.init_text:
        yield "prompt.init_text: empty; prompt.init=TEXT starts from the embeddings of this text"
    if prompt.form == "none" and prompt.freeze_shared:
        yield "prompt.freeze_shared: leaves nothing to train with prompt.form=none; set it to false"
    if prompt.extend and (config.stage != "target" or config.source is None):
        yield "prompt.extend: adds tasks to those of a source run; use task=target source=RUN_FOLDER"
    elif prompt.extend and not (prompt.freeze_shared or prompt.form == "none"):
        yield "prompt.extend: the source's tasks need P as it is; use prompt.freeze_shared=true with it"
    if config.stage == "source":
        if config.source is not None:
            yield f"source: is {config.source!r}, but a source run starts from nothing; use task=target"
        if prompt.init in FROM_SOURCE:
            yield f"prompt.init: {prompt.init} starts from a source run; use task=target source=RUN_FOLDER"
        return
    if prompt.init in FROM_SOURCE and config.source is None:
        yield f"source: not given, and prompt.init={prompt.init} starts from it; add source=RUN_FOLDER"
    if prompt.init not in FROM_SOURCE and config.source is not None:
        inits = " or ".join(FROM_SOURCE)
        yield f"source: is {config.source!r}, but prompt.init={prompt.init} does not use it; use {inits}"
    if prompt.init == "EXACT_SOURCE_TASK" and not prompt.init_task:
        yield "prompt.init_task: empty; name the source task that EXACT_SOURCE_TASK starts from"
    if prompt.init_task and prompt.init != "EXACT_SOURCE_TASK":
        yield f"prompt.init_task: is {prompt.init_task!r}, but only prompt.init=EXACT_SOURCE_TASK uses it"


def _places(config: RunConfig) -> Iterator[str]:
    """Folders that have to be there."""
    folders = {"data_root": config.data_root, "backbone.path": config.backbone.path, "source": config.source}
    for key, folder in folders.items():
        if folder is not None and not Path(folder).is_dir():
            yield f"{key}: no folder {folder!r}; give one that is there"
