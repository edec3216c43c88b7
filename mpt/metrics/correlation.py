"""Correlations of answers that are numbers, through SciPy."""

import math
import re
from collections.abc import Callable

from mpt.errors import UserError
from mpt.metrics.metric import References, Rules, Scores, Texts, metric


@metric(range=(-1.0, 1.0), needs_numbers=True)
def pearson(predictions: Texts, references: References, rules: Rules) -> Scores:
    """Pearson correlation, -1 to 1; see :func:`_numbers` for answers that are no number."""
    from scipy.stats import pearsonr

    return {"pearson": _correlation(pearsonr, predictions, references)}


@metric(range=(-1.0, 1.0), needs_numbers=True)
def spearman(predictions: Texts, references: References, rules: Rules) -> Scores:
    """Spearman rank correlation, -1 to 1; see :func:`_numbers` for answers that are no number."""
    from scipy.stats import spearmanr

    return {"spearman": _correlation(spearmanr, predictions, references)}


def _correlation(measure: Callable[..., object], predictions: Texts, references: References) -> float:
    predicted, wanted = _numbers(predictions, references)
    if len(set(predicted)) < 2 or len(set(wanted)) < 2:
        # Nothing varies, so nothing goes together.
        return 0.0
    return float(measure(predicted, wanted).statistic)  # type: ignore[attr-defined]


def _numbers(predictions: Texts, references: References) -> tuple[list[float], list[float]]:
    """Read answers as numbers.

    An answer that is no number counts as the wanted value that is farthest from the row's own: the worst guess,
    so that a model gains nothing by silence, and no row is skipped.

    Raises:
        UserError: A reference is no number.
    """
    wanted = []
    for accepted in references:
        number = read_number(accepted[0])
        if number is None:
            raise UserError(f"metrics: the target {accepted[0]!r} is no number; pearson and spearman need numbers")
        wanted.append(number)
    low, high = min(wanted), max(wanted)
    predicted = []
    for text, right in zip(predictions, wanted, strict=True):
        number = read_number(text)
        predicted.append(number if number is not None else (high if right - low < high - right else low))
    return predicted, wanted


def read_number(text: str) -> float | None:
    """Read a text as a finite number; None where it is none."""
    if not re.fullmatch(r"\s*[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?\s*", text):
        return None
    number = float(text)
    return number if math.isfinite(number) else None
