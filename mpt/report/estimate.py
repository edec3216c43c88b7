"""Means with intervals over runs, and paired differences between them."""

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from scipy.stats import t as student_t

from mpt.report.gather import REPLICATES, Line, distinguish, keys_of, metrics_of, varying_within

FEWEST_PAIRS = 6
"""Pairs below which no difference is called one: a two-sided sign-flip test of five cannot reach p < .05."""
CORRELATIONS = ("matthews", "pearson", "spearman")
UNBOUNDED = ("best_step", "fit_seconds", "trained_parameters", "nist", "ter")
"""Metrics and costs that may exceed 1."""


@dataclass(frozen=True)
class Estimate:
    """A mean over runs.

    Attributes:
        mean: The mean.
        sd: Sample standard deviation; NaN of a single run.
        half_width: Half of the 95 % interval of the mean, by Student's t; NaN of a single run.
        runs: How many runs.
    """

    mean: float
    sd: float
    half_width: float
    runs: int

    def interval(self, bounds: tuple[float, float]) -> tuple[float, float]:
        """The 95 % interval, within what the metric can be; the mean itself of a single run."""
        half = 0.0 if math.isnan(self.half_width) else self.half_width
        low, high = bounds
        return min(self.mean, max(low, self.mean - half)), max(self.mean, min(high, self.mean + half))

    def __str__(self) -> str:
        spread = "" if math.isnan(self.half_width) else f" ± {self.half_width:.3f}"
        return f"{self.mean:.3f}{spread} ({self.runs})"


def bounds(lines: Iterable[Line], metric: str) -> tuple[float, float]:
    """The least and the greatest value that a metric of some lines can have: shares, correlations and costs differ."""
    of_task = metric in ("score", "before", "oracle", "curve_mean")
    primary = {str(line.get("metric")) for line in lines} if of_task else {metric}
    if primary & set(UNBOUNDED):
        return 0.0, math.inf
    return (-1.0 if primary & set(CORRELATIONS) else 0.0), 1.0


def estimate(values: Sequence[float]) -> Estimate:
    """Estimate a mean from independent runs.

    Raises:
        ValueError: There is no value.
    """
    if not values:
        raise ValueError("estimate: no values")
    mean, count = statistics.fmean(values), len(values)
    if count == 1:
        return Estimate(mean, math.nan, math.nan, 1)
    sd = statistics.stdev(values)
    return Estimate(mean, sd, float(student_t.ppf(0.975, count - 1)) * sd / math.sqrt(count), count)


def summarize(lines: Sequence[Line], by: Sequence[str], metric: str) -> dict[tuple[Any, ...], Estimate]:
    """Mean and interval of a metric in each group of runs, in the order in which the groups come.

    Args:
        lines: From :func:`gather`.
        by: Keys whose values make a group.
        metric: ``score``, ``before``, ``oracle``, or a metric's name.

    Raises:
        ValueError: No line has such a key, or none such a metric.
    """
    for key in by:
        if not any(key in line for line in lines):
            raise ValueError(
                f"--by: no key {key!r}; the runs differ in {', '.join(keys_of(lines)) or 'nothing'}"
            )
    groups: dict[tuple[Any, ...], list[float]] = {}
    for line in lines:
        if metric in line:
            groups.setdefault(tuple(line.get(key) for key in by), []).append(float(line[metric]))
    if not groups:
        raise ValueError(f"--metric: no run has {metric!r}; choose one of {', '.join(metrics_of(lines))}")
    return {
        group: estimate(values) for group, values in sorted(groups.items(), key=lambda item: order(item[0]))
    }


def compare(
    lines: Sequence[Line], key: str, base: str, metric: str
) -> tuple[list[str], dict[tuple[Any, ...], Estimate]]:
    """Paired differences to a base: of runs that differ in one key, and in what comes with it.

    Two runs are a pair where they have the same task, draw and seed, and agree in every other key that varies among
    the runs of one value (k, for example). Each setting of these other keys is a group of its own: its pairs are not
    pooled with another group's. What is the same for all runs of a value belongs to that value.

    Args:
        lines: From :func:`gather`.
        key: The key that distinguishes the methods, such as ``prompt.init``.
        base: Its value that the others are compared with.
        metric: As in :func:`summarize`.

    Returns:
        The keys that make the groups, as few as tell them apart; and (task, values of these keys, value of ``key``)
        to the estimate of ``value - base``. Under ``all tasks`` the tasks are what is sampled: the mean of their mean
        differences.

    Raises:
        ValueError: No pair can be made, or two runs are alike in everything.
    """
    varying = varying_within(lines, key)
    grouping = distinguish(lines, [name for name in varying if name not in REPLICATES])
    repeats = [name for name in varying if name in REPLICATES]
    pairs: dict[tuple[tuple[Any, ...], tuple[Any, ...]], dict[str, float]] = {}
    for line in lines:
        if metric in line and key in line:
            group = (line["task"], *(line.get(name) for name in grouping))
            scores = pairs.setdefault((group, tuple(line.get(name) for name in repeats)), {})
            if str(line[key]) in scores:
                raise ValueError(
                    f"--against: two runs of {line['task']} are alike in everything; give one of them"
                )
            scores[str(line[key])] = float(line[metric])
    differences: dict[tuple[Any, ...], list[float]] = {}
    for (group, _), scores in pairs.items():
        for value, score in scores.items():
            if value != base and base in scores:
                differences.setdefault((*group, value), []).append(score - scores[base])
    if not differences:
        values = sorted({str(line.get(key)) for line in lines})
        raise ValueError(
            f"--against: no pair with {key}={base}; its values are {', '.join(values)}, and the runs of one "
            f"value also differ in {', '.join(varying) or 'nothing'}"
        )
    estimates = {
        group: estimate(values)
        for group, values in sorted(differences.items(), key=lambda item: order(item[0]))
    }
    over_tasks: dict[tuple[Any, ...], list[float]] = {}
    for (task, *rest), difference in estimates.items():
        if task != "average":
            over_tasks.setdefault(("all tasks", *rest), []).append(difference.mean)
    return grouping, estimates | {
        group: estimate(means) for group, means in over_tasks.items() if len(means) > 1
    }


def order(group: Iterable[Any]) -> tuple[Any, ...]:
    """Sort key of a group: numbers by value, before texts."""
    return tuple((0, value, "") if isinstance(value, (int, float)) else (1, 0, str(value)) for value in group)


def read_difference(difference: Estimate) -> str:
    """Say in words what a paired difference shows."""
    if difference.runs < FEWEST_PAIRS:
        return f"fewer than {FEWEST_PAIRS} pairs"
    if abs(difference.mean) <= difference.half_width:
        return "not distinguished"
    return "higher" if difference.mean > 0 else "lower"
