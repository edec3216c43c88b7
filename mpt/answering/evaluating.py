"""Score what a run has trained, on any tasks and splits: ``task=evaluate``, which leaves a run folder."""

import dataclasses
import json
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning
import torch
from torch import Tensor, nn

from mpt.answering.answers import Conditioner, Predictions, predict, score_answers
from mpt.answering.predictions import write_predictions
from mpt.answering.prompted import PromptedModel
from mpt.artifact.find import Kind, find
from mpt.backbone import Backbone, load_backbone
from mpt.config import BackboneConfig, RunConfig, TaskConfig
from mpt.data.batches import EvalLoader
from mpt.data.data_module import check_positives, generation_settings
from mpt.data.token_rows import TokenizedExamples, TokenRows
from mpt.data.tokenize import tokenize
from mpt.errors import UserError
from mpt.hub import local_copy
from mpt.inputs import Inputs
from mpt.run import console
from mpt.run.console import silence_libraries
from mpt.run.folder import RunFolder, read_config
from mpt.run.progress import track_batches
from mpt.run.record import add_average
from mpt.tasks import AnswerSettings, Example, Surround, choose_rows, digest_examples, load_split, stamp_rows


class Renumbered(nn.Module):
    """Answers the tasks of an evaluation with the prompts of a trained adapter, which numbers its own otherwise.

    Args:
        adapter: The trained one.
        positions: For each task of the evaluation the position of its prompt.
    """

    positions: Tensor

    def __init__(self, adapter: Conditioner, positions: list[int]) -> None:
        super().__init__()
        self.adapter = adapter
        self.register_buffer("positions", torch.tensor(positions))

    def condition(self, inputs: Inputs, task_ids: Tensor, word_embeddings: nn.Module) -> Inputs:
        """Condition each example as the adapter does for the task that stands for its own."""
        return self.adapter.condition(inputs, self.positions[task_ids], word_embeddings)


def evaluate(config: RunConfig, folder: Path, explicit: Collection[str] = ()) -> dict[str, Any]:
    """Score a trained prompt or baseline on some splits of some tasks.

    Args:
        config: The checked configuration; ``config.source`` is what is scored.
        folder: The run folder; made where it is not there.
        explicit: Dotted keys that the command line sets: these are not taken from the saved prompt.

    Returns:
        What ``metrics.json`` holds: ``test``, ``validation`` or ``train`` where they are asked for.

    Raises:
        FileNotFoundError: Something that the configuration names is not there.
        UserError: What was trained has no prompt for a task, or the data are broken.
    """
    began = time.monotonic()
    silence_libraries()
    lightning.seed_everything(config.seed, verbose=False)
    if config.trainer.threads is not None:
        torch.set_num_threads(config.trainer.threads)
    assert config.source is not None
    adapter, backbone, answers = load_trained(local_copy(config.source), config.backbone)
    prompt_of = config.evaluate.prompt_of
    own = {name: answer for name, answer in answers.items() if name not in prompt_of}
    tasks = answer_as_trained(config.tasks, own, explicit)
    if adapter is not None:
        positions = find_prompts(list(tasks), prompt_of, adapter.task_names, config.source)
        adapter = Renumbered(adapter, positions)
    examples = {
        split: {name: load_split(name, task, split, config.data_root) for name, task in tasks.items()}
        for split in config.evaluate.splits
    }
    classes = {
        name: sorted({each.label for of_split in examples.values() for each in of_split[name] if each.label})
        for name in tasks
    }
    for split, of_split in examples.items():
        for name, rows in of_split.items():
            check_positives(name, split, rows, tasks[name])
    if config.trainer.accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        backbone.to("cuda")
    digests = {
        name: {split: digest_examples(of_split[name]) for split, of_split in examples.items()} for name in config.tasks
    }
    stamps = {name: stamp_rows(name, task, config.data_root) for name, task in config.tasks.items()}
    run = RunFolder(folder)
    run.begin(dataclasses.asdict(config), fingerprint=backbone.fingerprint, rows={"digests": digests, "stamps": stamps})
    metrics: dict[str, Any] = {
        "stage": config.stage,
        "metric": {name: task.metrics[0] for name, task in config.tasks.items()},
    }
    decoding: dict[str, Any] = {"batch_size": config.evaluation.batch_size, "seed": config.seed}
    around = {name: Surround(saved.before, saved.after) for name, saved in own.items() if name in tasks}
    limits = {"test": config.evaluation.test_rows, "validation": config.evaluation.validation_rows}
    for split, of_split in examples.items():
        scored = {
            name: choose_rows(rows, limits.get(split), config.evaluation.rows_seed) for name, rows in of_split.items()
        }
        predictions = answer_tasks(tasks, adapter, backbone, scored, **decoding, surrounds=around)
        scores = score_answers(tasks, predictions, classes)
        if config.evaluation.oracle:
            unprompted = answer_tasks(tasks, None, backbone, scored, **decoding, prefixed=True)
            for name, found in score_answers(tasks, unprompted, classes).items():
                scores[name]["oracle"] = found["score"]
        for name, rows in of_split.items():
            scores[name]["n_available"] = len(rows)
        write_predictions(folder, tasks, predictions, split)
        metrics[split] = add_average(scores)
    metrics["seconds"] = {"all": time.monotonic() - began}
    run.finish(metrics)
    console.say_tables(metrics)
    console.say(f"run folder: {console.relative(folder)}")
    return metrics


def answer_as_trained(
    tasks: Mapping[str, TaskConfig], answers: Mapping[str, AnswerSettings], explicit: Collection[str]
) -> dict[str, TaskConfig]:
    """Answer each task as its prompt was trained and scored, whatever the task's file says today; a line says so.

    What the command line sets counts, and so does the file of a task that another task's prompt answers.

    Args:
        tasks: As their files say.
        answers: What the saved prompt knows of those that it was trained on.
        explicit: As of :func:`evaluate`.

    Returns:
        The tasks.
    """
    answered = {}
    for name, task in tasks.items():
        saved = answers.get(name)
        changes: dict[str, Any] = {}
        if saved is not None:
            kept = ("input", "join", "max_source_tokens", "max_target_tokens", "generation", "answers")
            changes = {key: getattr(saved, key) for key in kept}
            changes["constrained"] = saved.choices is not None and (saved.answers == "generation" or task.constrained)
        differing = {
            key: value
            for key, value in changes.items()
            if value != getattr(task, key)
            and not any(each == f"tasks.{name}.{key}" or each.startswith(f"tasks.{name}.{key}.") for each in explicit)
        }
        if differing:
            shown = ", ".join(f"{key}={value!r} ({getattr(task, key)!r} here)" for key, value in differing.items())
            console.say(f"tasks.{name}: answered as it was trained, with {shown}")
        answered[name] = dataclasses.replace(task, **differing)
    return answered


def load_trained(source: Path, backbone: BackboneConfig) -> tuple[Any, Backbone, Mapping[str, AnswerSettings]]:
    """Load what a run has trained, whatever it is.

    Args:
        source: Run folder, or what :meth:`mpt.PromptedModel.load` takes.
        backbone: For the dtype, and a path in place of the backbone that the run names.

    Returns:
        The adapter, and the backbone that it was trained with; None with LoRA and full fine-tuning, which are within
        the backbone. And how each task's answers are made, where the folder says so.

    Raises:
        FileNotFoundError: There is nothing trained, or no such backbone.
        UserError: They do not fit each other.
    """
    kind, weights = find(source) or (None, source)
    if kind is Kind.MODEL:
        own = _backbone_of(source, backbone)
        path = str(weights)
        return (None, load_backbone(dataclasses.replace(own, name=path, path=path, revision=None)), _answers_of(source))
    if kind is Kind.UPDATES:
        from peft import PeftModel

        own = _backbone_of(source, backbone)
        loaded = load_backbone(own)
        _, run = read_config(source) or ({}, {})
        if run.get("fingerprint") not in (None, loaded.fingerprint):
            raise UserError(
                f"{weights}: was trained with fingerprint {run['fingerprint']}; {loaded.name} has other weights, "
                f"fingerprint {loaded.fingerprint}; use it only with the backbone it was trained with"
            )
        PeftModel.from_pretrained(loaded.model, weights)  # puts the updates into the model itself
        return None, loaded.eval(), _answers_of(source)
    model = PromptedModel.load(source, backbone.path, dtype=backbone.dtype)
    return model.adapter, model.backbone, model.known_answers


def _answers_of(source: Path) -> dict[str, AnswerSettings]:
    """Read decoding settings from ``config.yaml``, for a run whose folder keeps no prompt."""
    values, _ = read_config(source) or ({}, {})
    known = {item.name for item in dataclasses.fields(TaskConfig)} - {"rows"}
    return {
        name: AnswerSettings.of_task(TaskConfig(**{key: value for key, value in task.items() if key in known}))
        for name, task in (values.get("tasks") or {}).items()
    }


def _backbone_of(source: Path, backbone: BackboneConfig) -> BackboneConfig:
    """The backbone that a run names in its ``config.yaml``, or that of ``backbone.path``."""
    values, _ = read_config(source) or ({}, {})
    if "backbone" not in values:
        base = json.loads((RunFolder(source).adapter / "adapter_config.json").read_text(encoding="utf-8"))
        values = {"backbone": {"name": base["base_model_name_or_path"]}}
    known = {field.name for field in dataclasses.fields(BackboneConfig)}
    own = BackboneConfig(**{key: value for key, value in values["backbone"].items() if key in known})
    return dataclasses.replace(own, path=backbone.path or own.path, dtype=backbone.dtype)


def find_prompts(tasks: Sequence[str], prompt_of: Mapping[str, str], trained: Sequence[str], source: str) -> list[int]:
    """Find the prompt that answers each task: that of its own name, or the one that ``evaluate.prompt_of`` names.

    Args:
        tasks: To be answered.
        prompt_of: ``evaluate.prompt_of``.
        trained: The tasks that there are prompts for, by task id.
        source: What was trained, for errors.

    Raises:
        UserError: There is none.
    """
    positions = []
    for name in tasks:
        wanted = prompt_of.get(name, name)
        if wanted not in trained:
            raise UserError(
                f"tasks.{name}: {source} has no prompt for {wanted!r}; it has {', '.join(trained)}; choose "
                f"one as evaluate.prompt_of.{name}=TASK"
            )
        positions.append(trained.index(wanted))
    return positions


def answer_tasks(
    tasks: Mapping[str, TaskConfig],
    adapter: Conditioner | None,
    backbone: Backbone,
    examples: dict[str, list[Example]],
    *,
    batch_size: int,
    seed: int,
    prefixed: bool = False,
    surrounds: Mapping[str, Surround] | None = None,
) -> Predictions:
    """Answer the examples of every task.

    Args:
        tasks: The tasks.
        adapter: None: no prompt.
        backbone: The frozen model.
        examples: Task to the examples.
        batch_size: Examples at a time.
        seed: Of sampled answers.
        prefixed: Put each task's natural prefix before its inputs; a task without one is left out.
        surrounds: Task to the text around its inputs.
    """

    def tokens_of(name: str, task: TaskConfig) -> TokenizedExamples:
        if prefixed and task.prefix is None:
            return TokenizedExamples(TokenRows(), TokenRows(), 0, 0)
        prefix = (task.prefix or "") if prefixed else ""
        return tokenize(examples[name], backbone.tokenization, task, prefix, (surrounds or {}).get(name))

    loader = EvalLoader(
        [tokens_of(name, task) for name, task in tasks.items()],
        [generation_settings(task, seed) for task in tasks.values()],
        batch_size=batch_size,
        pad_token_id=backbone.tokenization.pad_token_id,
    )
    batches = track_batches(loader, "scoring the oracle" if prefixed else "scoring", len(loader))
    return predict(adapter, backbone, batches, examples)
