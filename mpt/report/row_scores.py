"""Scores of single test rows, from the predictions that a run left; pseudo-values where a metric has none."""

import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mpt.errors import UserError
from mpt.metrics import METRICS, TOKENIZERS, Rules, choose_tokenizer
from mpt.report.gather import Line
from mpt.report.statistics import Matrix, pseudo_values
from mpt.run.folder import RunFolder, read_config

EXACT = 1e-6
"""How far the rows may be from the recorded number, which is the same one but for rounding."""
MOST_ROWS = 2000
"""Rows up to which pseudo-values are computed: each of them scores all the others."""


class Answered(NamedTuple):
    """The test predictions of one task of a run."""

    row_ids: tuple[str, ...]
    answers: tuple[str, ...]
    references: tuple[tuple[str, ...], ...]
    scores: tuple[dict[str, float], ...]
    """What each row scores by itself, in the metrics that one example has."""


class RowScores(NamedTuple):
    """What each test row of a run scores, or its pseudo-value."""

    row_ids: tuple[str, ...]
    values: Matrix  # (m,)


def read_answers(run: Path, task: str, split: str = "test") -> Answered | None:
    """Read what a run answered to a task; None where it left no predictions.

    Raises:
        UserError: The file is damaged.
    """
    path = RunFolder(run).predictions_of(split) / f"{task}.jsonl"
    if not path.is_file():
        return None
    return _read(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=4096)
def _read(path: Path, changed: int) -> Answered | None:
    """Read a file of predictions, anew where it has changed: several tables of a page ask for the same ones."""
    found: list[Any] = []
    with path.open(encoding="utf-8") as file:
        for number, text in enumerate(file, start=1):
            try:
                line = json.loads(text)
                references, scores = tuple(line["references"]), dict(line.get("scores") or {})
                found.append((str(line["row_id"]), line["prediction"], references, scores))
            except (ValueError, KeyError, TypeError) as error:
                raise UserError(f"{path}:{number}: not a prediction ({error})") from error
    return Answered(*(tuple(column) for column in zip(*found, strict=True))) if found else None


def read_row_scores(line: Line, metric: str) -> RowScores | None:
    """Read what the test rows of one task of a run score.

    Args:
        line: From :func:`mpt.report.gather.gather`.
        metric: ``score``, or the name of a number of one of the task's metrics.

    Returns:
        None where the number is none of the rows' (a cost, the score before training), there are no predictions, or
        they do not give the recorded number again.
    """
    if line["task"] == "average" or metric not in line:
        return None
    answered = read_answers(Path(line["run"]), line["task"], line["split"])
    if answered is None:
        return None
    name = str(line.get("metric", "")) if metric == "score" else metric
    values = row_scores(answered, name, _rules(Path(line["run"]), line["task"], answered), float(line[metric]))
    return None if values is None else RowScores(answered.row_ids, values)


def row_scores(answered: Answered, name: str, rules: Rules, recorded: float) -> Matrix | None:
    """Scores of single rows whose mean is a recorded number; else the pseudo-values of the metric that gives it.

    Args:
        answered: The predictions.
        name: A metric, or one of the numbers of one.
        rules: What the metric has to know.
        recorded: The number over all rows.

    Returns:
        ``(m,)``; None where the predictions do not give the number again.
    """
    metric = METRICS.get(name)
    key = name
    if metric is not None and name not in answered.scores[0]:  # such as rouge, whose numbers have names of their own
        key = next(iter(metric.compute(answered.answers[:1], answered.references[:1], rules)))
    if all(key in scores for scores in answered.scores):
        values = np.array([scores[key] for scores in answered.scores], dtype=float)
        if abs(values.mean() - recorded) < EXACT:
            return values
    if metric is None or not 2 <= len(answered.row_ids) <= MOST_ROWS:
        return None

    def score(rows: list[int]) -> float:
        answers, references = [answered.answers[row] for row in rows], [answered.references[row] for row in rows]
        return next(iter(metric.compute(answers, references, rules).values()))

    if abs(score([*range(len(answered.row_ids))]) - recorded) > EXACT:
        return None
    return pseudo_values(score, len(answered.row_ids))


def _rules(run: Path, task: str, answered: Answered) -> Rules:
    """The label words of the task, as far as its configuration names them, and its tokenizer."""
    config = ((read_config(run) or ({}, {}))[0].get("tasks") or {}).get(task) or {}
    words = [str(word) for of_column in (config.get("labels") or {}).values() for word in of_column.values()]
    named = str(config.get("metric_tokenizer", "auto"))
    tokenizer = choose_tokenizer(named if named in ("auto", *TOKENIZERS) else "auto", answered.references)
    return Rules(tuple(dict.fromkeys(words)), tokenizer)


def stack(lines: Sequence[Line], metric: str) -> Matrix | None:
    """The matrix of one task, a row for each line's run and a column for each test row, ``(n, m)``.

    Returns:
        None where some run has no row scores, or was scored on other rows.
    """
    found = [read_row_scores(line, metric) for line in lines]
    known = [each for each in found if each is not None]
    if not known or len(known) < len(found) or any(each.row_ids != known[0].row_ids for each in known):
        return None
    return np.stack([each.values for each in known])
