"""A metric: a function over the answers of a task, and the facts about its numbers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mpt.registry import Registry

Texts = Sequence[str]
References = Sequence[tuple[str, ...]]
Scores = dict[str, float]


@dataclass(frozen=True)
class Rules:
    """Facts about a task that a metric needs besides its rows.

    Attributes:
        labels: The words that a class may be; empty where they are not known.
        tokenizer: One of :data:`mpt.metrics.words.TOKENIZERS` but auto.
    """

    labels: tuple[str, ...] = ()
    tokenizer: str = "13a"


@dataclass(frozen=True)
class Metric:
    """A metric and its facts.

    Attributes:
        name: As ``metrics`` of a task calls it.
        compute: From the answers, all accepted targets of each row, and the rules, to its numbers by name; the first
            one is its primary one.
        range: Least and greatest value of its primary number.
        higher_is_better: Whether more is better; otherwise it cannot be a task's first metric.
        needs_classes: Whether a task of which it is the first metric has classes: few-shot draws and carved splits keep
            them in proportion.
        needs_numbers: Whether every target has to be a number.
        scores_one_example: Whether its value over one example says something of that example.
    """

    name: str
    compute: Callable[[Texts, References, Rules], Scores]
    range: tuple[float, float] = (0.0, 1.0)
    higher_is_better: bool = True
    needs_classes: bool = False
    scores_one_example: bool = False
    needs_numbers: bool = False


METRICS: Registry[Metric] = Registry("metric", "mpt.metrics")
"""Name to metric; each file of this folder enters its own, and so do plugins."""


def metric(
    *,
    range: tuple[float, float] = (0.0, 1.0),
    higher_is_better: bool = True,
    needs_classes: bool = False,
    scores_one_example: bool = False,
    needs_numbers: bool = False,
) -> Callable[[Callable[[Texts, References, Rules], Scores]], Callable[[Texts, References, Rules], Scores]]:
    """Enter a function under its name, with the facts of :class:`Metric`.

    Raises:
        UserError: The name is another metric's.
    """

    def enter(compute: Callable[[Texts, References, Rules], Scores]) -> Callable[[Texts, References, Rules], Scores]:
        name = compute.__name__
        entered = Metric(name, compute, range, higher_is_better, needs_classes, scores_one_example, needs_numbers)
        METRICS.enter(name, entered, compute)
        return compute

    return enter


def is_accepted(prediction: str, references: tuple[str, ...]) -> bool:
    """Tell whether an answer is an accepted target, but for spaces around it."""
    return prediction.strip() in {reference.strip() for reference in references}
