"""Predict, score, save and show a trained run."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from mpt.adapter import Adapter
from mpt.answering.answers import Predictions, Scores, predict, score
from mpt.answering.predictions import sample_predictions, write_predictions
from mpt.artifact import SavedPrompt, save
from mpt.backbone import Backbone
from mpt.config import TaskConfig
from mpt.loggers import log_results
from mpt.run import console
from mpt.run.progress import track_batches
from mpt.run.record import add_average, write_metrics
from mpt.tasks import AnswerSettings
from mpt.training import build
from mpt.training.module import MPTModule
from mpt.training.similarity import write_task_similarity
from mpt.training.trainer import TrainerParts

Tasks = Mapping[str, TaskConfig]


def answer_splits(module: MPTModule, parts: TrainerParts) -> tuple[Predictions, Predictions]:
    """Answer the test and the validation split; every process answers its share and gets all."""
    # Outside of the Trainer's loops the model lies on the CPU.
    module.to(parts.trainer.strategy.root_device)
    found = []
    for split, doing in (("test", "testing"), ("validation", "validating")):
        loader = module.data.eval_loader(split, shared_out=True)
        batches = track_batches(loader, doing, len(loader))
        found.append(predict(module.adapter, module.backbone, batches, module.data.examples_of(split)))
    return found[0], found[1]


def measure(
    tasks: Tasks,
    module: MPTModule,
    parts: TrainerParts,
    tested: Predictions,
    validated: Predictions,
    start: Scores,
    available: Mapping[str, Mapping[str, int]],
) -> dict[str, Any]:
    """Compute what ``metrics.json`` says of the best step.

    Args:
        tasks: The tasks.
        module: With the best step's numbers.
        parts: For the steps and the seconds of training, of which those of the validations do not count for the speed.
        tested: Predictions of the test split.
        validated: Predictions of the validation split.
        start: Task to its scores before the training.
        available: Of both splits, how many examples each task has.
    """
    classes = module.data.classes
    tests, validations = score(tasks, tested, classes), score(tasks, validated, classes)
    for name in tasks:
        tests[name] |= start[name] | {"n_available": available["test"][name]}
        validations[name]["n_available"] = available["validation"][name]
    steps = parts.trainer.global_step
    seconds = parts.stopwatch.elapsed() - parts.stopwatch.validation
    return {
        "metric": {name: task.metrics[0] for name, task in tasks.items()},
        "test": add_average(tests),
        "validation": add_average(validations),
        "moved": module.adapter.displacement(module.start),
        "parameters": build.count_parameters(module),
        "truncated": module.data.truncation,
        "unknown": module.data.unknown,
        "targets_kept": module.data.kept,
        "examples_per_second": steps * module.data.examples_per_step / max(seconds, 1e-9),
        "steps": steps,
        "best_step": parts.best.steps_of(module.task_names),
    }


def name_weights(source: SavedPrompt, tasks: Sequence[str], weights: Tensor) -> dict[str, dict[str, float]]:
    """Write the weights of a start, ``(T, S)``, as target task to source task to weight."""
    return {
        name: dict(zip(source.task_names, of_task, strict=True))
        for name, of_task in zip(tasks, weights.tolist(), strict=True)
    }


def record(
    folder: Path,
    tasks: Tasks,
    adapter: Adapter,
    backbone: Backbone,
    extends: SavedPrompt | None,
    tested: Predictions,
    metrics: Mapping[str, Any],
) -> None:
    """Save the predictions and what was trained, then the numbers, with which the run is finished.

    Args:
        folder: The run folder.
        tasks: The tasks.
        adapter: What was trained.
        backbone: What it was trained with.
        extends: The source whose tasks are saved with the new ones; None: just the new ones.
        tested: Predictions of the test split.
        metrics: From :func:`measure`.
    """
    write_predictions(folder, tasks, tested)
    task_weights = {name: task.weight for name, task in tasks.items()}
    answers = {name: AnswerSettings.of_task(task) for name, task in tasks.items()}
    if extends is not None:
        adapter = build.extend_source(extends, adapter)
        task_weights, answers = extends.task_weights | task_weights, extends.answers | answers
    save(adapter, folder, backbone, task_weights, answers)
    write_metrics(folder, metrics)


def show(
    folder: Path, loggers: Sequence[Logger], tested: Predictions, metrics: Mapping[str, Any], samples: int
) -> None:
    """Draw, log and print a finished run; what fails here is a warning, since its results are on the disk.

    Args:
        folder: The run folder.
        loggers: The open loggers.
        tested: Predictions of the test split.
        metrics: What ``metrics.json`` holds.
        samples: Predictions of each task in a logger's table.
    """
    steps: dict[str, Callable[[], None]] = {
        "similarity of the tasks": lambda: write_task_similarity(folder),
        "loggers": lambda: log_results(loggers, metrics, sample_predictions(tested, samples), folder),
        "table": lambda: console.say_results(folder, metrics),
    }
    for name, step in steps.items():
        try:
            step()
        except Exception as error:
            rank_zero_warn(f"{name}: {type(error).__name__}: {error}; the results in {folder} are complete")
