"""What scores of draws x test rows say: intervals, tests, and how many draws a difference needs.

A method on a task is a matrix of n draws x m test rows. Both are samples: other draws train other prompts, other rows
are other questions. docs/statistics.md has the coverage of each interval by simulation.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest, norm
from scipy.stats import t as student_t

from mpt.errors import UserError

Matrix = NDArray[np.float64]
LEVEL = 0.95
MOST_FLIPS = 2**16
"""Sign flips that are all tried; of more draws as many are drawn."""
EQUAL = 1e-9
"""Values nearer than this are equal but for rounding."""


class Uncertain(NamedTuple):
    """A mean and how well it is known."""

    mean: float
    variance: float
    """Of the mean; NaN where nothing is known of it."""
    freedom: float
    """Degrees of freedom of the variance."""

    def interval(self, bounds: tuple[float, float] = (-math.inf, math.inf)) -> tuple[float, float]:
        """The interval of the mean by Student's t, within what the value can be; NaN where there is none."""
        half = float(student_t.ppf(0.5 + LEVEL / 2, self.freedom)) * math.sqrt(self.variance)
        if math.isnan(half):
            return math.nan, math.nan
        return min(self.mean, max(bounds[0], self.mean - half)), max(self.mean, min(bounds[1], self.mean + half))

    def p(self) -> float:
        """Two-sided p of the mean being 0, by Student's t; 1 where nothing is known of its variance."""
        if math.isnan(self.variance):
            return 1.0
        return float(2 * student_t.sf(abs(self.mean) / math.sqrt(self.variance), self.freedom))


class MeanSquares(NamedTuple):
    """Mean squares of a two-way layout without repetitions."""

    draws: float
    rows: float
    rest: float


def mean_squares(values: Matrix) -> MeanSquares:
    """Mean squares of draws, of rows, and of what is left, of ``values (n, m)``, n and m at least 2."""
    n, m = values.shape
    mean, of_draws, of_rows = values.mean(), values.mean(1, keepdims=True), values.mean(0, keepdims=True)
    rest = values - of_draws - of_rows + mean
    return MeanSquares(
        float(m * np.square(of_draws - mean).sum() / (n - 1)),
        float(n * np.square(of_rows - mean).sum() / (m - 1)),
        float(np.square(rest).sum() / ((n - 1) * (m - 1))),
    )


def cross(values: Matrix) -> Uncertain:
    """Mean of a matrix of draws x rows, with both as samples.

    ``S = MS_d + MS_r - MS_e`` at least the larger of ``MS_d`` and ``MS_r``, variance ``S / (n m)``, degrees of freedom
    by Satterthwaite, at least n - 1: without the two floors three draws without effects cover .88.

    Args:
        values: ``(n, m)``, row scores or pseudo-values. One draw, or values that are all equal, have no variance.
    """
    n, m = values.shape
    if n < 2 or np.ptp(values) < EQUAL:
        return Uncertain(float(values.mean()), math.nan, math.nan)
    if m < 2:
        return of_draws(values[:, 0])
    draws, rows, rest = mean_squares(values)
    S = max(draws + rows - rest, draws, rows)
    freedom = S**2 / (draws**2 / (n - 1) + rows**2 / (m - 1) + rest**2 / ((n - 1) * (m - 1)))
    return Uncertain(float(values.mean()), S / (n * m), max(freedom, n - 1))


def of_draws(values: Sequence[float] | Matrix) -> Uncertain:
    """Mean of one value per draw: the test rows are held fixed."""
    values = np.asarray(values, dtype=float)
    n = len(values)
    if n < 2 or np.ptp(values) < EQUAL:
        return Uncertain(float(values.mean()), math.nan, math.nan)
    return Uncertain(float(values.mean()), float(values.var(ddof=1)) / n, n - 1)


def average_tasks(matrices: Sequence[Matrix]) -> Uncertain:
    """Average over T tasks, which are what is asked for and no sample; their draws are the same n, their rows others.

    The variance is ``s^2(averages of the draws) / n + sum_t max(0, MS_r - MS_e)_t / (n m_t) / T^2``, on n - 1 degrees
    of freedom.

    Args:
        matrices: ``(n, m_t)`` of each task.
    """
    averages = np.mean([values.mean(1) for values in matrices], axis=0)
    n, T = len(averages), len(matrices)
    if T == 1:
        return cross(matrices[0])
    if n < 2 or all(np.ptp(values) < EQUAL for values in matrices):
        return Uncertain(float(averages.mean()), math.nan, math.nan)
    of_rows = 0.0
    for values in matrices:
        if values.shape[1] > 1:
            squares = mean_squares(values)
            of_rows += max(0.0, squares.rows - squares.rest) / values.size
    return Uncertain(float(averages.mean()), float(averages.var(ddof=1)) / n + of_rows / T**2, n - 1)


def pseudo_values(score: Callable[[list[int]], float], rows: int) -> Matrix:
    """Delete-one jackknife pseudo-values ``m s - (m - 1) s_(-i)`` of a score that no single row has.

    They stand in the place of row scores in :func:`cross`; for a mean they are the row scores.

    Args:
        score: Of the rows with some indices.
        rows: m, at least 2.

    Returns:
        ``(m,)``.
    """
    every = list(range(rows))
    whole = score(every)
    without = np.array([score(every[:row] + every[row + 1 :]) for row in every])
    return rows * whole - (rows - 1) * without


def flip_signs(differences: Sequence[float] | Matrix) -> float:
    """Two-sided p of paired differences whose signs are arbitrary if neither side is better; draws are the blocks.

    Exact up to 16 draws; of more, 65,536 flips drawn with a fixed seed. It holds the test rows fixed.

    Args:
        differences: One a draw.
    """
    values = np.asarray(differences, dtype=float)
    n = len(values)
    if 2**n <= MOST_FLIPS:
        signs = 1 - 2 * ((np.arange(2**n)[:, None] >> np.arange(n)) & 1)
    else:
        signs = np.random.default_rng(0).choice([-1, 1], (MOST_FLIPS, n))
        signs[0] = 1
    sums = np.abs(signs @ values)
    return float(np.mean(sums >= abs(values.sum()) - EQUAL))


def holm(p: Sequence[float]) -> list[float]:
    """Holm's (1979) adjusted p of a family of comparisons, in its order."""
    adjusted, largest = [0.0] * len(p), 0.0
    for rank, index in enumerate(sorted(range(len(p)), key=lambda index: p[index])):
        largest = max(largest, min(1.0, (len(p) - rank) * p[index]))
        adjusted[index] = largest
    return adjusted


def fewest_draws(comparisons: int) -> int:
    """Draws from which the smallest p that sign flips can give passes Holm's first threshold at .05."""
    return math.ceil(math.log2(40 * comparisons))


def share(successes: int, draws: int) -> tuple[float, float, float]:
    """Share of draws that succeed, with its exact binomial interval (Clopper and Pearson 1934).

    For tasks that are all or nothing, where an interval of the mean does not hold what it promises.
    """
    found = binomtest(successes, draws).proportion_ci(LEVEL, method="exact")
    return successes / draws, float(found.low), float(found.high)


def draws_needed(differences: Sequence[float] | Matrix, difference: float, power: float = 0.8) -> int:
    """Draws that a paired difference needs to be found at level .05, with the spread of those at hand.

    Args:
        differences: One a draw, at least 2.
        difference: The true difference that should be found, not 0.
        power: Probability of finding it.

    Raises:
        UserError: The difference is 0.
    """
    if difference == 0:
        raise UserError("draws_needed: the difference is 0, which no number of draws shows")
    effect = float(np.std(np.asarray(differences, dtype=float), ddof=1)) / abs(difference)
    n = max(2, math.ceil(((norm.ppf(0.975) + norm.ppf(power)) * effect) ** 2))
    while math.sqrt(n) < (student_t.ppf(0.975, n - 1) + student_t.ppf(power, n - 1)) * effect:
        n += 1
    return int(max(n, fewest_draws(1)))
