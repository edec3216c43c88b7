"""The data of one run, as Lightning takes it: tokenized once, handed out as training and evaluation batches."""

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lightning import LightningDataModule

from mpt.backbone import Tokenization
from mpt.config import MixtureConfig, TaskConfig
from mpt.data.batches import EvalLoader, TrainLoader
from mpt.data.mixture import Mixture
from mpt.data.token_rows import TokenizedExamples, TokenRows
from mpt.data.tokenize import check_labels, tokenize
from mpt.errors import UserError
from mpt.tasks import Example, Surround, label_words


def generation_settings(config: TaskConfig, seed: int = 0) -> dict[str, Any]:
    """Collect the arguments of :meth:`mpt.backbone.Backbone.generate` for the answers of a task."""
    settings = {"max_new_tokens": config.max_target_tokens} | dict(config.generation)
    if settings.get("do_sample"):
        settings["seed"] = seed
    if config.answers != "generation":
        return settings | {"choices": label_words(config), "answers": config.answers}
    return settings | ({"choices": label_words(config)} if config.constrained else {})


def check_positives(name: str, split: str, examples: Sequence[Example], config: TaskConfig) -> None:
    """Refuse a split whose F1 of the class ``true`` would be 0 whatever is answered.

    Raises:
        UserError: None of its examples is of that class.
    """
    if "f1_true" in config.metrics and not any(
        "true" in (reference.strip() for reference in each.references) for each in examples
    ):
        raise UserError(
            f"tasks.{name}: no row of the {split} split has the target 'true', whose F1 is f1_true, so the score "
            "would be 0 whatever is answered; choose macro_f1 or accuracy, or other rows"
        )


class MixtureDataModule(LightningDataModule):
    """The data of one run, tokenized once.

    Args:
        task_names: T names; position i is ``task_ids == i``.
        examples: Split (train, validation, test) to the examples of each task.
        tokenization: The backbone's.
        configs: Configuration of each task.
        batch_size: Examples of an optimizer step, over all processes and micro-batches.
        accumulate: Micro-batches of a step.
        eval_batch_size: Examples of an evaluation batch.
        max_steps: Optimizer steps in all.
        mixture: How tasks are sampled.
        seed: Seed of the mixture.
        answer_seed: Seed of answers that are sampled; None: that of the mixture.
        surrounds: Task to the text around its inputs, but those that are trained on; a task that is not in it has none.
        keep_tokens: Keep the token ids of large tasks in the cache, and take them from there.

    Attributes:
        truncation: Split to task to the share of cut inputs and targets.
        unknown: Task to the share of its training tokens, in inputs and in targets, that the tokenizer does not know.
        kept: Task to split to the share of targets that the tokenizer gives back, which bounds an exact match.
        classes: Task to the classes that its examples have; empty where it has none.
        before_step: Called between training steps, as by :class:`TrainLoader`.
    """

    def __init__(
        self,
        task_names: Sequence[str],
        examples: Mapping[str, Sequence[Sequence[Example]]],
        tokenization: Tokenization,
        configs: Sequence[TaskConfig],
        *,
        batch_size: int,
        accumulate: int,
        eval_batch_size: int,
        max_steps: int,
        mixture: MixtureConfig,
        seed: int,
        answer_seed: int | None = None,
        surrounds: Mapping[str, Surround] | None = None,
        keep_tokens: bool = False,
    ) -> None:
        super().__init__()
        self.before_step: Callable[[], None] | None = None
        self.task_names, self.configs, self.tokenization = list(task_names), list(configs), tokenization
        self.examples = dict(examples)
        self.batch_size, self.accumulate, self.eval_batch_size = batch_size, accumulate, eval_batch_size
        self.max_steps, self.mixture, self.seed = max_steps, mixture, seed
        self.answer_seed = seed if answer_seed is None else answer_seed
        for task_id, (name, config) in enumerate(zip(self.task_names, self.configs, strict=True)):
            of_task = [example for of_split in examples.values() for example in of_split[task_id]]
            check_labels(name, of_task, tokenization, config)
            for split in examples:
                check_positives(name, split, examples[split][task_id], config)
        self.classes: dict[str, list[str]] = {
            name: sorted({each.label for of_split in examples.values() for each in of_split[task_id] if each.label})
            for task_id, name in enumerate(self.task_names)
        }
        self._tokenized = {
            split: [
                tokenize(
                    examples,
                    tokenization,
                    config,
                    surround=None if split == "train" else (surrounds or {}).get(name),
                    keep=keep_tokens,
                )
                for name, examples, config in zip(self.task_names, of_tasks, self.configs, strict=True)
            ]
            for split, of_tasks in self.examples.items()
        }
        self.kept: dict[str, dict[str, float]] = {
            name: {split: of_tasks[task].kept_targets for split, of_tasks in self._tokenized.items()}
            for task, name in enumerate(self.task_names)
        }
        self.truncation: dict[str, dict[str, dict[str, float]]] = {
            split: {name: of_task.shares for name, of_task in zip(self.task_names, of_tasks, strict=True)}
            for split, of_tasks in self._tokenized.items()
        }
        self.unknown: dict[str, dict[str, float]] = {
            name: {"input": of_task.unknown_inputs, "target": of_task.unknown_targets}
            for name, of_task in zip(self.task_names, self._tokenized["train"], strict=True)
        }

    def with_max_steps(self, max_steps: int) -> "MixtureDataModule":
        """The same data for a training of another length."""
        shorter = copy.copy(self)
        shorter.max_steps = max_steps
        return shorter

    @property
    def examples_per_step(self) -> int:
        """Examples in an optimizer step; under ``each`` every task has ``batch_size`` of them."""
        return self.batch_size * (len(self.task_names) if self.mixture.sampling == "each" else 1)

    def train_dataloader(self) -> TrainLoader:
        """The training batches of this process."""
        tokenized = self._tokenized["train"]
        rank, world_size = self._place()
        sizes = [len(of_task.inputs) for of_task in tokenized]
        return TrainLoader(
            tokenized,
            Mixture(sizes, self.batch_size, self.mixture, self.seed),
            max_steps=self.max_steps,
            accumulate=self.accumulate,
            pad_token_id=self.tokenization.pad_token_id,
            rank=rank,
            world_size=world_size,
            before_step=self.before_step,
        )

    @property
    def training_examples(self) -> list[TokenizedExamples]:
        """The tokenized training examples of each task."""
        return self._tokenized["train"]

    def longest(self) -> list[tuple[str, int, int]]:
        """List each task's name, the tokens of its longest input in any split, and the limit of its targets."""
        return [
            (
                name,
                max(of_tasks[task].inputs.longest for of_tasks in self._tokenized.values()),
                self.configs[task].max_target_tokens,
            )
            for task, name in enumerate(self.task_names)
        ]

    def examples_of(self, split: str) -> dict[str, Sequence[Example]]:
        """The examples of a split by task, in the order of the task ids."""
        return dict(zip(self.task_names, self.examples[split], strict=True))

    def val_dataloader(self) -> EvalLoader:
        """The validation examples of this process."""
        return self.eval_loader("validation", shared_out=True)

    def test_dataloader(self) -> EvalLoader:
        """The test examples of this process."""
        return self.eval_loader("test", shared_out=True)

    def eval_loader(
        self, split: str, *, prefixed: bool = False, tasks: Sequence[str] | None = None, shared_out: bool = False
    ) -> EvalLoader:
        """All examples of a split, or this process's share of them.

        Args:
            split: train, validation or test.
            prefixed: Put each task's natural prefix before its input, for the oracle; a task without one is left
                out.
            tasks: Names of the tasks that are wanted; None: all.
            shared_out: Give this process's share, where a Trainer runs several.
        """
        rank, world_size = self._place() if shared_out else (0, 1)
        tokenized = []
        for task, (name, config) in enumerate(zip(self.task_names, self.configs, strict=True)):
            if (tasks is not None and name not in tasks) or (prefixed and config.prefix is None):
                tokenized.append(TokenizedExamples(TokenRows(), TokenRows(), 0, 0))
            elif prefixed:
                tokenized.append(tokenize(self.examples[split][task], self.tokenization, config, config.prefix or ""))
            else:
                tokenized.append(self._tokenized[split][task])
        return EvalLoader(
            tokenized,
            [generation_settings(config, self.answer_seed) for config in self.configs],
            batch_size=self.eval_batch_size,
            pad_token_id=self.tokenization.pad_token_id,
            rank=rank,
            world_size=world_size,
        )

    def _place(self) -> tuple[int, int]:
        """The rank of this process and how many there are."""
        return (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)
