"""Predict, score, save and show a trained run."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from mpt.adapter import Adapter
from mpt.answering.answers import Predictions, predict, put_beside, score_answers
from mpt.answering.kept import predict_once
from mpt.answering.predictions import sample_predictions, write_predictions
from mpt.artifact import save
from mpt.loggers import log_results
from mpt.methods import find_method
from mpt.prompt import MultitaskPromptEmbedding
from mpt.run import console
from mpt.run.progress import track_batches
from mpt.run.record import add_average
from mpt.tasks import AnswerSettings
from mpt.training import build
from mpt.training.loading import Loaded
from mpt.training.module import MPTModule
from mpt.training.running import Run
from mpt.training.similarity import write_task_similarity


class SplitPredictions(NamedTuple):
    """Predictions of both splits that a run is scored on."""

    test: Predictions
    validation: Predictions


def answer_splits(run: Run, module: MPTModule) -> SplitPredictions:
    """Answer the test and the validation split; every process answers its share and gets all."""
    began = run.clock()
    # Outside of the Trainer's loops the model lies on the CPU.
    module.to(run.parts.trainer.strategy.root_device)
    keep = run.config.evaluation.keep_answers and not find_method(run.config.method.name).learns
    test = _answer(module, "test", "testing", keep)
    validation = kept_answers(run, module) or _answer(module, "validation", "validating", keep)
    run.seconds["test"] = run.clock() - began
    return SplitPredictions(test, validation)


def kept_answers(run: Run, module: MPTModule) -> Predictions | None:
    """The answers that the validation of the kept step has given; None where they have to be given again.

    Outside of the Trainer's loops nothing is computed in mixed precision, so there the answers may be others.
    """
    texts, examples = run.parts.best.texts, module.data.examples_of("validation")
    if run.config.trainer.precision not in ("32-true", "32") or texts.keys() != examples.keys():
        return None
    return {name: put_beside(name, examples[name], texts[name]) for name in examples}


def _answer(module: MPTModule, split: str, doing: str, keep: bool) -> Predictions:
    loader = module.data.eval_loader(split, shared_out=True)
    batches, examples = track_batches(loader, doing, len(loader)), module.data.examples_of(split)
    if keep:
        return predict_once(module.adapter, module.backbone, loader, batches, examples, split)
    return predict(module.adapter, module.backbone, batches, examples)


def measure(
    run: Run, loaded: Loaded, module: MPTModule, answers: SplitPredictions, weights: Tensor | None
) -> dict[str, Any]:
    """Compute what ``metrics.json`` says of the best step.

    Args:
        run: For the steps and the seconds of training, of which those of the validations do not count for the speed.
        loaded: For how many examples each task has.
        module: With the best step's numbers.
        answers: From :func:`answer_splits`.
        weights: How much of each of the S source tasks each target started from, ``(T, S)``; None: the start does not
            weigh them.
    """
    tasks, classes, parts = run.config.tasks, module.data.classes, run.parts
    began = run.clock()
    tests, validations = (
        score_answers(tasks, answers.test, classes),
        score_answers(tasks, answers.validation, classes),
    )
    for name in tasks:
        tests[name] |= run.start.scores[name] | {"n_available": loaded.available["test"][name]}
        validations[name]["n_available"] = loaded.available["validation"][name]
    steps, elapsed, validating = (parts.trainer.global_step, parts.stopwatch.elapsed(), parts.stopwatch.validation)
    metrics = {
        "stage": run.config.stage,
        "metric": {name: task.metrics[0] for name, task in tasks.items()},
        "test": add_average(tests),
        "validation": add_average(validations),
        "moved": module.adapter.displacement(module.start),
        "parameters": build.count_parameters(module),
        "truncated": module.data.truncation,
        "unknown": module.data.unknown,
        "targets_kept": module.data.kept,
        "examples_per_second": steps * module.data.examples_per_step / max(elapsed - validating, 1e-9),
        "steps": steps,
        "best_step": parts.best.steps_of(module.task_names),
    }
    if loaded.source is not None and weights is not None:
        metrics["source_weights"] = {
            name: dict(zip(loaded.source.task_names, of_task, strict=True))
            for name, of_task in zip(tasks, weights.tolist(), strict=True)
        }
    run.seconds["test"] += run.clock() - began
    run.seconds |= {"before": run.start.seconds, "fit": elapsed, "validation": validating}
    return metrics | {"seconds": {key: run.seconds[key] for key in ("setup", "before", "fit", "validation", "test")}}


def record_run(
    run: Run, loaded: Loaded, module: MPTModule, answers: SplitPredictions, metrics: Mapping[str, Any]
) -> None:
    """Save the predictions and what was trained, then the numbers, with which the run is finished."""
    tasks, adapter = run.config.tasks, module.adapter
    write_predictions(run.folder.path, tasks, answers.test)
    task_weights = {name: task.weight for name, task in tasks.items()}
    settings = {name: AnswerSettings.of_task(task, loaded.surrounds.get(name)) for name, task in tasks.items()}
    if run.config.prompt.extend and loaded.source is not None:
        adapter = build.extend_source(loaded.source, adapter)
        task_weights, settings = (loaded.source.task_weights | task_weights, loaded.source.answers | settings)
    if run.config.stage == "source" and run.config.prompt.form == "independent":
        keep_start(adapter, module.start)
    save(adapter, run.folder.path, loaded.backbone, task_weights, settings)
    run.folder.finish(metrics)


def keep_start(adapter: Adapter, start: Mapping[str, Tensor]) -> None:
    """Keep beside plain prompts those that the training began with, for SOURCE_TASK_VECTORS."""
    if isinstance(adapter, MultitaskPromptEmbedding):
        T, N, _, D = adapter.shape
        adapter.began_with = start["embedding.weight"].view(T, N, D)


def show(run: Run, answers: SplitPredictions, metrics: Mapping[str, Any]) -> None:
    """Draw, log and print a finished run; what fails here is a warning, since its results are on the disk."""
    folder, count = run.folder.path, run.config.logger.samples
    steps: dict[str, Callable[[], None]] = {
        "similarity of the tasks": lambda: write_task_similarity(folder),
        "loggers": lambda: log_results(run.loggers, metrics, sample_predictions(answers.test, count), folder),
        "table": lambda: console.say_results(folder, metrics),
    }
    for name, step in steps.items():
        try:
            step()
        except Exception as error:
            rank_zero_warn(f"{name}: {type(error).__name__}: {error}; the results in {folder} are complete")
