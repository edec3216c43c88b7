"""What a prompt answers on a split: predictions by task, their scores, and the files that hold them."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mpt import metrics, results
from mpt.config import TaskConfig
from mpt.data import MixtureDataModule
from mpt.module import MPTModule, Prediction
from mpt.progress import track_batches

Predictions = dict[str, list[Prediction]]
"""Task to its answered rows."""

ROW_METRICS = ("accuracy", "exact_match", "token_f1", "rouge", "chrf", "squad")
"""Metrics that mean something for one row."""


def answered(
    module: MPTModule, data: MixtureDataModule, split: str, oracle: bool = False, doing: str = "answering"
) -> Predictions:
    """Answer the rows of a split; of several processes each answers its share, and all get all answers.

    Args:
        module: Backbone and prompt.
        data: The rows.
        split: validation or test.
        oracle: Answer with each task's natural prefix in place of a prompt; tasks without one are left out.
        doing: What the progress says.
    """
    by_task: Predictions = {}
    loader = data.eval_loader(split, prefixed=oracle, shared_out=True)
    batches = track_batches(loader, doing, len(loader))
    for answer in module.evaluate_rows(batches, split, use_prompt=not oracle):
        by_task.setdefault(answer.task, []).append(answer)
    return by_task


def scored(tasks: Mapping[str, TaskConfig], answers: Predictions) -> results.Scores:
    """Score each task's answers, all rows together."""
    return {
        name: metrics.score(
            tasks[name].metrics, [row.prediction for row in rows], [row.references for row in rows]
        )
        for name, rows in answers.items()
    }


def write_predictions(folder: Path, tasks: Mapping[str, TaskConfig], answers: Predictions) -> None:
    """Write ``predictions/<task>.jsonl``: input, references, prediction, and the metrics that one row has."""
    for name, rows in answers.items():
        told = [metric for metric in tasks[name].metrics if metric in ROW_METRICS]
        results.write_rows(folder / "predictions" / f"{name}.jsonl", (_line(row, told) for row in rows))


def _line(row: Prediction, told: list[str]) -> dict[str, Any]:
    line = dataclasses.asdict(row)
    del line["task"]
    scores = metrics.score(told, [row.prediction], [row.references]) if told else {}
    line["scores"] = {key: value for key, value in scores.items() if key not in ("n", "score")}
    return line


def samples(answers: Predictions, count: int) -> list[dict[str, str]]:
    """The first answers of each task, for a logger's table."""
    return [
        {"task": name, "input": row.input, "target": row.references[0], "prediction": row.prediction}
        for name, rows in answers.items()
        for row in rows[:count]
    ]
