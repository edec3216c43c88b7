"""A run's predictions: written beside its metrics, and sampled for loggers."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mpt import metrics
from mpt.answering.answers import Prediction, Predictions, rules_of
from mpt.config import TaskConfig
from mpt.run.folder import RunFolder
from mpt.run.record import write_lines


def write_predictions(
    folder: Path, tasks: Mapping[str, TaskConfig], predictions: Predictions, split: str = "test"
) -> None:
    """Write ``predictions/<task>.jsonl``: input, references, prediction, and the metrics that one example has.

    Those of another split than test lie in ``predictions/<split>/``.
    """
    place = RunFolder(folder).predictions_of(split)
    for name, of_task in predictions.items():
        names = [metric for metric in tasks[name].metrics if metrics.METRICS[metric].scores_one_example]
        rules = rules_of(tasks[name], [each.references for each in of_task])
        write_lines(place / f"{name}.jsonl", (_line(each, names, rules) for each in of_task))


def _line(prediction: Prediction, names: list[str], rules: metrics.Rules) -> dict[str, Any]:
    line = prediction._asdict()
    del line["task"]
    answer, references = [prediction.prediction], [prediction.references]
    scores = metrics.score(names, answer, references, rules) if names else {}
    return line | {"scores": {key: value for key, value in scores.items() if key not in ("n", "score")}}


def sample_predictions(predictions: Predictions, count: int) -> dict[str, list[dict[str, str]]]:
    """Take the first predictions of each task, for a logger's tables."""
    return {
        name: [
            {"input": each.input, "target": each.references[0], "prediction": each.prediction}
            for each in of_task[:count]
        ]
        for name, of_task in predictions.items()
    }
