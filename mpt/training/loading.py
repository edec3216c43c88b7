"""Read everything that a run needs: examples, the backbone, the source that it starts from."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import NamedTuple

import lightning
import torch

from mpt.artifact import SavedPrompt, check_fits, load_prompt
from mpt.backbone import Backbone
from mpt.backbone.kept import load_or_copy
from mpt.config import EvaluationConfig, FewShotConfig, MixtureConfig, RunConfig, TaskConfig, TrainerConfig
from mpt.data.data_module import MixtureDataModule
from mpt.data.few_shot import draw_examples, replay
from mpt.errors import UserError
from mpt.methods import Written, find_method
from mpt.run.group_member import GroupMember
from mpt.run.identity import reads_source
from mpt.seeds import seeds_of
from mpt.tasks import Example, Surround, choose_rows, digest_examples, load_split

Tasks = Mapping[str, TaskConfig]
Examples = dict[str, dict[str, list[Example]]]
"""Split to task to examples."""


class LoadedExamples(NamedTuple):
    """The tasks' data."""

    examples: Examples
    available: dict[str, dict[str, int]]
    """Number of examples that the data have, by split (validation, test) and task."""
    digests: dict[str, dict[str, str]]
    """Task to split to the digest of all that was read of it, before any draw or choice."""


@dataclasses.dataclass(frozen=True)
class Loaded:
    """Everything that a stage reads.

    Attributes:
        examples: Split to task to examples.
        available: Number of examples that the data have, by split (validation, test) and task.
        digests: Task to split to the digest of its rows.
        backbone: The frozen model.
        source: The trained prompt to start from; None: none.
        data: The examples, tokenized.
        surrounds: Task to the text around its inputs, where the method writes one.
    """

    examples: Examples
    available: dict[str, dict[str, int]]
    digests: dict[str, dict[str, str]]
    backbone: Backbone
    source: SavedPrompt | None
    data: MixtureDataModule
    surrounds: dict[str, Surround]


def load(config: RunConfig, member: GroupMember | None = None) -> Loaded:
    """Read the examples, the backbone, and the source where the start needs one."""
    if config.trainer.threads is not None and member is None:
        torch.set_num_threads(config.trainer.threads)
    seeds = seeds_of(config)
    lightning.seed_everything(seeds.first_values, verbose=False)
    examples, available, digests = load_examples(
        config.tasks,
        config.few_shot,
        config.evaluation,
        config.data_root,
        load_split if member is None else member.load_split,
    )
    backbone = load_or_copy(config.backbone) if member is None else member.backbone
    source = None
    if config.source is not None and reads_source(dataclasses.asdict(config)):
        source = load_source(config.source, backbone, config.prompt.num_virtual_tokens)
    surrounds = write_around(config, examples, backbone, seeds.order)
    data = build_data(
        config.tasks,
        examples,
        backbone,
        trainer=config.trainer,
        evaluation=config.evaluation,
        mixture=config.mixture,
        seed=seeds.order,
        answer_seed=config.seed,
        surrounds=surrounds,
    )
    check_lengths(data, backbone, config.prompt.num_virtual_tokens)
    return Loaded(examples, available, digests, backbone, source, data, surrounds)


def write_around(config: RunConfig, examples: Examples, backbone: Backbone, seed: int) -> dict[str, Surround]:
    """Let the method write around the inputs that are answered: an instruction, or examples."""
    inputs = {
        name: [each.input for split in ("validation", "test") for each in examples[split][name]]
        for name in config.tasks
    }
    targets = max(task.max_target_tokens for task in config.tasks.values())
    room = None if backbone.max_positions is None else backbone.max_positions - targets
    written = Written(examples["train"], inputs, backbone.tokenization, room, seed)
    return find_method(config.method.name).surround(config, written)


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
        evaluation: Number and choice of the rows to score.
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
            drawn = (draw_examples if few_shot.draws is None else replay)(name, train, few_shot)
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
    answer_seed: int,
    surrounds: Mapping[str, Surround] | None = None,
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
        answer_seed=answer_seed,
        surrounds=surrounds,
        keep_tokens=trainer.keep_tokens,
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
