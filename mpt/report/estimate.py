"""Means with intervals over runs, and paired differences between them."""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from scipy.stats import t as student_t

from mpt.errors import UserError
from mpt.metrics import METRICS
from mpt.report.gather import REPLICATES, Line, distinguish, keys_of, metrics_of, varying_within

FEWEST_PAIRS = 6
"""Pairs below which no difference is called one: a two-sided sign-flip test of five cannot reach p < .05."""
UNBOUNDED = ("best_step", "fit_seconds", "trained_parameters")
"""Numbers of a run that are no metric, and may exceed 1."""


@dataclass(frozen=True)
class Estimate:
    """A mean over runs.

    Attributes:
        mean: The mean.
        sd: Sample standard deviation; NaN of a single run.
        half_width: Half of the 95 % interval of the mean, by Student's t, before it is cut at the bounds; NaN of a
            single run, of runs that all have one value, and of runs that are no repetitions of each other.
        runs: How many runs.
        bounds: What the value can be.
        pooled: Keys other than seeds in which the runs differ: they do not repeat each other.
        rows: The least and the greatest number of rows that a run was scored on; None where it is not known.
    """

    mean: float
    sd: float
    half_width: float
    runs: int
    bounds: tuple[float, float] = (-math.inf, math.inf)
    pooled: tuple[str, ...] = ()
    rows: tuple[int, int] | None = None

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval, within what the value can be; the mean itself where there is none."""
        half = 0.0 if math.isnan(self.half_width) else self.half_width
        low, high = self.bounds
        return min(self.mean, max(low, self.mean - half)), max(self.mean, min(high, self.mean + half))

    @property
    def spread(self) -> str:
        """The interval in words: ``[0.412, 0.518]``, or why there is none."""
        if not math.isnan(self.half_width):
            low, high = self.interval
            return f"[{low:.3f}, {high:.3f}]"
        if self.pooled:
            return "pooled"
        return "all equal" if self.runs > 1 else ""

    @property
    def tested(self) -> str:
        """The number of rows in words: ``200``, or ``180-200``."""
        if self.rows is None:
            return "–"
        return f"{self.rows[0]}" if self.rows[0] == self.rows[1] else f"{self.rows[0]}-{self.rows[1]}"

    def __str__(self) -> str:
        mean = f"{round(self.mean, 3) + 0.0:.3f}"  # no minus before a zero
        return " ".join(filter(None, (mean, self.spread, f"({self.runs})")))


def bounds(lines: Iterable[Line], metric: str) -> tuple[float, float]:
    """The least and the greatest value that a metric of some lines can have: shares, correlations and costs differ.

    A value above 1 shows that the metric is no share, whatever it is called.
    """
    lines = list(lines)
    of_task = metric in ("score", "before", "oracle", "curve_mean")
    primary = {str(line.get("metric")) for line in lines} if of_task else {metric}
    values = [float(line[metric]) for line in lines if isinstance(line.get(metric), (int, float))]
    ranges = [METRICS[name].range for name in primary if name in METRICS] or [(0.0, 1.0)]
    low, high = min(least for least, _ in ranges), max(greatest for _, greatest in ranges)
    if primary & set(UNBOUNDED) or math.isinf(high) or any(value > 1 or value < low for value in values):
        return (0.0 if min(values, default=0.0) >= 0 else -math.inf), math.inf
    return low, 1.0


def estimate(
    values: Sequence[float],
    bounds: tuple[float, float] = (-math.inf, math.inf),
    pooled: Sequence[str] = (),
    rows: Sequence[int] = (),
) -> Estimate:
    """Estimate a mean from runs that repeat each other.

    Args:
        values: One of each run.
        bounds: What a value can be.
        pooled: Keys in which the runs differ otherwise: then there is no interval.
        rows: How many rows each run was scored on.

    Raises:
        UserError: There is no value.
    """
    if not values:
        raise UserError("estimate: no values")
    mean, count = statistics.fmean(values), len(values)
    tested = (min(rows), max(rows)) if rows else None
    if count == 1:
        return Estimate(mean, math.nan, math.nan, 1, bounds, tuple(pooled), tested)
    sd = statistics.stdev(values)
    half = float(student_t.ppf(0.975, count - 1)) * sd / math.sqrt(count)
    # Values that are all equal, but for rounding, say nothing of how far others may lie.
    if pooled or max(values) - min(values) < 1e-9:
        half = math.nan
    return Estimate(mean, sd, half, count, bounds, tuple(pooled), tested)


def summarize(lines: Sequence[Line], by: Sequence[str], metric: str) -> dict[tuple[Any, ...], Estimate]:
    """Mean and interval of a metric in each group of runs, in the order in which the groups come.

    A run counts once: where its tasks are no groups, their mean is its value. Runs of a group that differ in more than
    seeds are no repetitions of each other, so their mean has no interval, and names in what they differ.

    Args:
        lines: From :func:`gather`.
        by: Keys whose values make a group.
        metric: ``score``, ``before``, ``oracle``, or a metric's name.

    Raises:
        UserError: No line has such a key, or none such a metric.
    """
    for key in by:
        if not any(key in line for line in lines):
            raise UserError(f"--by: no key {key!r}; the runs differ in {', '.join(keys_of(lines)) or 'nothing'}")
    groups: dict[tuple[Any, ...], dict[str, list[Line]]] = {}
    for line in lines:
        if metric in line and ("task" in by or line["task"] != "average"):
            runs = groups.setdefault(tuple(line.get(key) for key in by), {})
            runs.setdefault(str(line["run"]), []).append(line)
    if not groups:
        raise UserError(f"--metric: no run has {metric!r}; choose one of {', '.join(metrics_of(lines))}")
    found = {}
    for group, runs in sorted(groups.items(), key=lambda item: order(item[0])):
        members = [line for of_run in runs.values() for line in of_run]
        values = [statistics.fmean(float(line[metric]) for line in of_run) for of_run in runs.values()]
        rows = [sum(int(line["n"]) for line in of_run) for of_run in runs.values() if "n" in of_run[0]]
        found[group] = estimate(values, bounds(members, metric), _pooled(lines, runs, by), rows)
    return found


def _pooled(lines: Sequence[Line], runs: Mapping[str, Sequence[Line]], by: Sequence[str]) -> list[str]:
    """The keys, but seeds, in which the runs of a group differ, as few as tell them apart; tasks among them."""
    members = [line for of_run in runs.values() for line in of_run]
    differing = [
        key
        for key in keys_of(lines)
        if key not in (*REPLICATES, *by, "task", "experiment") and len({repr(line.get(key)) for line in members}) > 1
    ]
    if "task" not in by and len({tuple(sorted(line["task"] for line in of_run)) for of_run in runs.values()}) > 1:
        return ["task", *distinguish(members, differing)]
    if "task" not in by:  # a setting of one of its tasks tells no run from another
        differing = [key for key in differing if len({repr(of_run[0].get(key)) for of_run in runs.values()}) > 1]
    return distinguish(members, differing)


def is_of_method(key: str) -> bool:
    """Tell whether a key belongs to the method of a run, its form, start and rates, and not to what it is asked."""
    return key in ("source", "distill") or key.startswith(("prompt.", "method.", "optim.", "distillation."))


def compare(
    lines: Sequence[Line], key: str, base: str, metric: str
) -> tuple[list[str], dict[tuple[Any, ...], Estimate]]:
    """Paired differences to a base, which is a method: the runs in which a key has a value.

    Two runs are a pair where they have the same task, draw and seed, and agree in every key that varies and does not
    belong to the method (k, for example). Each setting of these keys is a group of its own: its pairs are not pooled
    with another group's. A method brings its form, its start and its rates along; where a group has the base with
    several of them, as in a grid of rates, runs pair with the one that agrees in these as well.

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
        UserError: No pair can be made, or two runs are alike in everything.
    """
    varying = [name for name in varying_within(lines, key) if name != "experiment"]
    repeats = [name for name in varying if name in REPLICATES]
    asked = distinguish(lines, [name for name in varying if name not in REPLICATES and not is_of_method(name)])
    methods = distinguish(lines, [*asked, *(name for name in varying if is_of_method(name))])
    methods = [name for name in methods if name not in asked]
    used = [line for line in lines if metric in line and key in line]

    def settings(line: Line, names: Sequence[str]) -> tuple[Any, ...]:
        return tuple(line.get(name) for name in names)

    bases: dict[tuple[Any, ...], set[tuple[Any, ...]]] = {}
    several: set[tuple[Any, ...]] = set()
    for line in used:
        group = (line["task"], *settings(line, asked))
        own = bases.setdefault((*group, str(line[key])), set())
        own.add(settings(line, methods))
        if len(own) > 1:
            several.add(group)
    # Where a value stands for several methods, these are kept apart.
    grouping = [*asked, *methods] if several else asked
    pairs: dict[tuple[Any, ...], dict[tuple[str, tuple[Any, ...]], tuple[float, int]]] = {}
    for line in used:
        at = (line["task"], *settings(line, asked), *settings(line, repeats))
        who = (str(line[key]), settings(line, methods))
        if who in pairs.setdefault(at, {}):
            raise UserError(
                f"--against: two runs of {line['task']} are alike in everything ({line['run']} is one); give one of "
                "them"
            )
        pairs[at][who] = (float(line[metric]), int(line.get("n", 0)))
    differences: dict[tuple[Any, ...], list[tuple[float, int]]] = {}
    for at, scores in pairs.items():
        group = at[: 1 + len(asked)]
        alone = len(bases.get((*group, base), ())) == 1
        for (value, method), (score, rows) in scores.items():
            partner = next(iter(bases[(*group, base)])) if alone else method
            if value == base or (base, partner) not in scores:
                continue
            shown = (*group, *(method if several else ()), value)
            differences.setdefault(shown, []).append((score - scores[base, partner][0], rows))
    if not differences:
        values = sorted({str(line.get(key)) for line in lines})
        raise UserError(
            f"--against: no pair with {key}={base}; its values are {', '.join(values)}, and the runs of one "
            f"value also differ in {', '.join(varying) or 'nothing'}"
        )
    low, high = bounds(used, metric)
    limits = (low - high, high - low)
    estimates = {
        group: estimate([value for value, _ in found], limits, (), [rows for _, rows in found if rows])
        for group, found in sorted(differences.items(), key=lambda item: order(item[0]))
    }
    over_tasks: dict[tuple[Any, ...], list[float]] = {}
    for (task, *rest), difference in estimates.items():
        if task != "average":
            over_tasks.setdefault(("all tasks", *rest), []).append(difference.mean)
    return grouping, estimates | {
        group: estimate(means, limits) for group, means in over_tasks.items() if len(means) > 1
    }


def order(group: Iterable[Any]) -> tuple[Any, ...]:
    """Sort key of a group: numbers by value, before texts."""
    return tuple((0, value, "") if isinstance(value, (int, float)) else (1, 0, str(value)) for value in group)


def read_difference(difference: Estimate) -> str:
    """Say in words what a paired difference shows."""
    if difference.runs < FEWEST_PAIRS:
        return f"fewer than {FEWEST_PAIRS} pairs"
    if math.isnan(difference.half_width):
        return "all equal"
    if abs(difference.mean) <= difference.half_width:
        return "not distinguished"
    return "higher" if difference.mean > 0 else "lower"
