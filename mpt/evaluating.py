"""Score what a run has trained, on any tasks and splits: ``task=evaluate``, which leaves a run folder."""

import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mpt.adapter import Conditions
from mpt.backbone import Backbone, load_backbone
from mpt.batches import EvalLoader, TokenizedExamples, tokenize
from mpt.config import BackboneConfig, RunConfig, TaskConfig
from mpt.data import generation_settings
from mpt.hub import local_copy
from mpt.predict import Conditioner, Predictions, predict, score
from mpt.progress import track_batches
from mpt.prompted import PromptedModel
from mpt.run import console
from mpt.run import folder as run_folder
from mpt.run.predictions import write_predictions
from mpt.run.record import add_average, write_metrics
from mpt.tasks import Example, load_split
from mpt.trainer import silence_libraries


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

    def condition(
        self, input_ids: Tensor, attention_mask: Tensor, task_ids: Tensor, word_embeddings: nn.Module
    ) -> Conditions:
        """Condition each example as the adapter does for the task that stands for its own."""
        return self.adapter.condition(input_ids, attention_mask, self.positions[task_ids], word_embeddings)


def evaluate(config: RunConfig, folder: Path) -> dict[str, Any]:
    """Score a trained prompt or baseline on some splits of some tasks.

    Args:
        config: The checked configuration; ``config.source`` is what is scored.
        folder: The run folder; made where it is not there.

    Returns:
        What ``metrics.json`` holds: ``test``, ``validation`` or ``train`` where they are asked for.

    Raises:
        FileNotFoundError: Something that the configuration names is not there.
        ValueError: What was trained has no prompt for a task, or the data are broken.
    """
    began = time.monotonic()
    silence_libraries()
    if config.trainer.threads is not None:
        torch.set_num_threads(config.trainer.threads)
    assert config.source is not None
    examples = {
        split: {name: load_split(name, task, split, config.data_root) for name, task in config.tasks.items()}
        for split in config.evaluate.splits
    }
    adapter, backbone = load_trained(local_copy(config.source), config.backbone)
    if adapter is not None:
        adapter = Renumbered(adapter, find_prompts(config, adapter.task_names))
    if config.trainer.accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        backbone.to("cuda")
    run_folder.begin(folder, dataclasses.asdict(config), fingerprint=backbone.fingerprint)
    metrics: dict[str, Any] = {
        "stage": config.stage,
        "metric": {name: task.metrics[0] for name, task in config.tasks.items()},
    }
    limits = {"test": config.evaluation.test_rows, "validation": config.evaluation.validation_rows}
    for split, of_split in examples.items():
        scored = {name: rows[: limits.get(split)] for name, rows in of_split.items()}
        predictions = answer(config, adapter, backbone, scored, prefixed=False)
        scores = score(config.tasks, predictions)
        if config.evaluation.oracle:
            unprompted = answer(config, None, backbone, scored, prefixed=True)
            for name, found in score(config.tasks, unprompted).items():
                scores[name]["oracle"] = found["score"]
        for name, rows in of_split.items():
            scores[name]["n_available"] = len(rows)
        write_predictions(folder, config.tasks, predictions, split)
        metrics[split] = add_average(scores)
    metrics["seconds"] = {"all": time.monotonic() - began}
    write_metrics(folder, metrics)
    console.say_tables(metrics)
    console.say(f"run folder: {console.relative(folder)}")
    return metrics


def load_trained(source: Path, backbone: BackboneConfig) -> tuple[Any, Backbone]:
    """Load what a run has trained, whatever it is.

    Args:
        source: Run folder, or what :meth:`mpt.PromptedModel.load` takes.
        backbone: For the dtype, and a path in place of the backbone that the run names.

    Returns:
        The adapter, and the backbone that it was trained with; None with LoRA and full fine-tuning, which are within
        the backbone.

    Raises:
        FileNotFoundError: There is nothing trained, or no such backbone.
        ValueError: They do not fit each other.
    """
    weights = source / "adapter"
    if (weights / "config.json").is_file():
        own = _backbone_of(source, backbone)
        path = str(weights)
        return None, load_backbone(dataclasses.replace(own, name=path, path=path, revision=None))
    if (weights / "adapter_config.json").is_file():
        from peft import PeftModel

        own = _backbone_of(source, backbone)
        loaded = load_backbone(own)
        _, run = run_folder.read_config(source) or ({}, {})
        if run.get("fingerprint") not in (None, loaded.fingerprint):
            raise ValueError(
                f"{weights}: was trained with fingerprint {run['fingerprint']}; {loaded.name} has other weights, "
                f"fingerprint {loaded.fingerprint}; use it only with the backbone it was trained with"
            )
        PeftModel.from_pretrained(loaded.model, weights)  # puts the updates into the model itself
        return None, loaded.eval()
    model = PromptedModel.load(source, backbone.path, dtype=backbone.dtype)
    return model.adapter, model.backbone


def _backbone_of(source: Path, backbone: BackboneConfig) -> BackboneConfig:
    """The backbone that a run names in its ``config.yaml``, or that of ``backbone.path``."""
    values, _ = run_folder.read_config(source) or ({}, {})
    if "backbone" not in values:
        base = json.loads((source / "adapter" / "adapter_config.json").read_text(encoding="utf-8"))
        values = {"backbone": {"name": base["base_model_name_or_path"]}}
    known = {field.name for field in dataclasses.fields(BackboneConfig)}
    own = BackboneConfig(**{key: value for key, value in values["backbone"].items() if key in known})
    return dataclasses.replace(own, path=backbone.path or own.path, dtype=backbone.dtype)


def find_prompts(config: RunConfig, trained: list[str]) -> list[int]:
    """Find the prompt that answers each task: that of its own name, or the one that ``evaluate.prompt_of`` names.

    Raises:
        ValueError: There is none.
    """
    positions = []
    for name in config.tasks:
        wanted = config.evaluate.prompt_of.get(name, name)
        if wanted not in trained:
            raise ValueError(
                f"tasks.{name}: {config.source} has no prompt for {wanted!r}; it has {', '.join(trained)}; choose "
                f"one as evaluate.prompt_of.{name}=TASK"
            )
        positions.append(trained.index(wanted))
    return positions


def answer(
    config: RunConfig,
    adapter: Conditioner | None,
    backbone: Backbone,
    examples: dict[str, list[Example]],
    *,
    prefixed: bool,
) -> Predictions:
    """Answer the examples of every task; ``prefixed`` ones behind the task's natural prefix, if it has one."""

    def tokens_of(name: str, task: TaskConfig) -> TokenizedExamples:
        if prefixed and task.prefix is None:
            return TokenizedExamples([], [], 0, 0)
        prefix = (task.prefix or "") if prefixed else ""
        return tokenize(examples[name], backbone.tokenization, task, prefix)

    loader = EvalLoader(
        [tokens_of(name, task) for name, task in config.tasks.items()],
        [generation_settings(task) for task in config.tasks.values()],
        batch_size=config.evaluation.batch_size,
        pad_token_id=backbone.tokenization.pad_token_id,
    )
    batches = track_batches(loader, "scoring the oracle" if prefixed else "scoring", len(loader))
    return predict(adapter, backbone, batches, examples)
