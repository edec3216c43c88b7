"""Classifications by class: who is taken for whom, precision, recall and F1, over all runs of a group."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mpt.metrics import METRICS
from mpt.report.estimate import order
from mpt.report.gather import Line
from mpt.report.row_scores import read_answers

NO_CLASS = "(no class)"
"""Answers that are none of the classes."""


class OfClass(NamedTuple):
    """How the rows of one class were answered, in all runs of a group together."""

    name: str
    rows: int
    precision: float
    recall: float
    f1: float
    answered: Mapping[str, int]
    """Class, or :data:`NO_CLASS`, to how many of the rows were answered so: a line of the confusion matrix."""


def read_classes(lines: Sequence[Line], by: Sequence[str]) -> dict[tuple[Any, ...], list[OfClass]]:
    """Read the classes of the tasks whose first metric is one of classes.

    Args:
        lines: From :func:`mpt.report.gather.gather`.
        by: Keys whose values make a group; the task is always one.

    Returns:
        (task, values of the other keys) to its classes, which are those of the rows.

    Raises:
        UserError: A run's predictions are damaged.
    """
    keys = ["task", *(key for key in by if key != "task")]
    pairs: dict[tuple[Any, ...], list[tuple[str, str]]] = {}
    for line in lines:
        metric = METRICS.get(str(line.get("metric", "")))
        if metric is None or not metric.needs_classes:
            continue
        if (found := read_answers(Path(line["run"]), line["task"], line["split"])) is not None:
            of_run = zip((accepted[0].strip() for accepted in found.references), found.answers, strict=True)
            pairs.setdefault(tuple(line.get(key) for key in keys), []).extend(of_run)
    return {group: list(_of_classes(found)) for group, found in sorted(pairs.items(), key=lambda item: order(item[0]))}


def _of_classes(pairs: Sequence[tuple[str, str]]) -> list[OfClass]:
    from sklearn.metrics import precision_recall_fscore_support

    wanted = [each for each, _ in pairs]
    classes = sorted(set(wanted))
    answered = [answer.strip() if answer.strip() in classes else NO_CLASS for _, answer in pairs]
    columns = precision_recall_fscore_support(wanted, answered, labels=classes, zero_division=0.0)
    confusion = Counter(zip(wanted, answered, strict=True))
    return [
        OfClass(name, int(rows), float(precision), float(recall), float(f1), _line(confusion, name, classes))
        for name, precision, recall, f1, rows in zip(classes, *columns, strict=True)
    ]


def _line(confusion: Mapping[tuple[str, str], int], name: str, classes: Sequence[str]) -> dict[str, int]:
    return {other: confusion[name, other] for other in (*classes, NO_CLASS) if (name, other) in confusion}
