"""Answers to scores: each metric from a library, over all rows.

A file holds metrics of one kind, each with its facts beside it (:class:`Metric`). A metric imports its library when it
is used: together they take seconds, and a run uses one or two.
"""

from collections.abc import Sequence
from importlib import import_module
from pkgutil import iter_modules

from mpt.errors import UserError
from mpt.metrics.metric import METRICS, Metric, References, Rules, Scores, Texts
from mpt.metrics.words import TOKENIZERS, choose_tokenizer

__all__ = ["METRICS", "TOKENIZERS", "Metric", "References", "Rules", "Scores", "Texts", "choose_tokenizer", "score"]

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")


def score(names: Sequence[str], predictions: Texts, references: References, rules: Rules | None = None) -> Scores:
    """Score the answers of one task.

    Args:
        names: Metrics; the first one's primary number is the task's score.
        predictions: One answer per row.
        references: All accepted targets of each row.
        rules: Label words and tokenizer; None: no label words, and the tokenizer that fits the references.

    Returns:
        ``n``, ``score``, and each metric's numbers; shares lie in 0..1, correlations in -1..1.

    Raises:
        UserError: No rows, not as many answers as references, a row without a reference, an unknown metric.
    """
    if not predictions:
        raise UserError("metrics: there are no rows to score; give at least one")
    if len(predictions) != len(references):
        raise UserError(f"metrics: {len(predictions)} predictions, but {len(references)} rows of references")
    if empty := [row for row, accepted in enumerate(references) if not accepted]:
        raise UserError(f"metrics: row {empty[0]} has no reference; every row needs one")
    if unknown := [name for name in names if name not in METRICS]:
        raise UserError(f"metrics: unknown metric {unknown[0]!r}; choose one of {', '.join(METRICS)}")
    if not names:
        raise UserError(f"metrics: there are none; choose from {', '.join(METRICS)}")
    rules = rules or Rules(tokenizer=choose_tokenizer("auto", references))
    found: Scores = {}
    primary = None
    for name in names:
        numbers = METRICS[name].compute(predictions, references, rules)
        primary = next(iter(numbers.values())) if primary is None else primary
        found |= numbers
    assert primary is not None
    return {"n": len(predictions), "score": primary, **found}
