"""Means of groups of runs, with intervals over draws and test rows."""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mpt.errors import UserError
from mpt.metrics import METRICS
from mpt.report.gather import REPLICATES, Line, distinguish, keys_of, metrics_of
from mpt.report.row_scores import stack
from mpt.report.statistics import Matrix, average_tasks, of_draws

UNBOUNDED = ("best_step", "fit_seconds", "trained_parameters")
"""Numbers of a run that are no metric, and may exceed 1."""


@dataclass(frozen=True)
class Estimate:
    """A mean over runs.

    Attributes:
        mean: The mean.
        sd: Sample standard deviation of the runs; NaN of a single run.
        low: Lower end of the 95 % interval, within what the value can be; NaN where there is none: of a single run, of
            runs that are all equal, and of runs that are no repetitions of each other.
        high: Its upper end.
        runs: How many runs.
        bounds: What the value can be.
        pooled: Keys other than seeds in which the runs differ: they do not repeat each other.
        rows: The least and the greatest number of rows that a run was scored on; None where it is not known.
        has_rows: True where the interval is over draws and test rows, False where it is over draws only, the rows being
            held fixed.
    """

    mean: float
    sd: float
    low: float
    high: float
    runs: int
    bounds: tuple[float, float] = (-math.inf, math.inf)
    pooled: tuple[str, ...] = ()
    rows: tuple[int, int] | None = None
    has_rows: bool = False

    @property
    def has_interval(self) -> bool:
        """Tell whether anything is known of how far the mean may be off."""
        return not math.isnan(self.low)

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval; the mean itself where there is none."""
        return (self.low, self.high) if self.has_interval else (self.mean, self.mean)

    @property
    def spread(self) -> str:
        """The interval in words: ``[0.412, 0.518]``, or why there is none."""
        if self.has_interval:
            return f"[{self.low:.3f}, {self.high:.3f}]"
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
    matrices: Sequence[Matrix] | None = None,
) -> Estimate:
    """Estimate a mean from runs that repeat each other.

    Args:
        values: One of each run.
        bounds: What a value can be.
        pooled: Keys in which the runs differ otherwise: then there is no interval.
        rows: How many rows each run was scored on.
        matrices: What the runs score on each test row, ``(n, m)`` of each of the tasks whose average the values are;
            None: not known, so that the interval is over draws only.

    Raises:
        UserError: There is no value.
    """
    if not values:
        raise UserError("estimate: no values")
    mean = statistics.fmean(values)  # the mean of pseudo-values may be another one
    sd = statistics.stdev(values) if len(values) > 1 else math.nan
    known = (average_tasks(matrices) if matrices else of_draws(values))._replace(mean=mean)
    low, high = (math.nan, math.nan) if pooled else known.interval(bounds)
    tested = (min(rows), max(rows)) if rows else None
    return Estimate(mean, sd, low, high, len(values), bounds, tuple(pooled), tested, bool(matrices))


def show_sampled(estimates: Iterable[Estimate]) -> str:
    """Say what intervals are over: the draws, and the test rows where they are known."""
    kinds = {found.has_rows for found in estimates if found.has_interval}
    if kinds == {True}:
        return "draws and test rows"
    return "draws, and test rows where every run has the same" if kinds == {True, False} else "draws"


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
        pooled = _pooled(lines, runs, by)
        matrices = None if pooled or len(runs) < 2 else stack_tasks([*runs.values()], lines, metric)
        found[group] = estimate(values, bounds(members, metric), pooled, rows, matrices)
    return found


def stack_tasks(runs: Sequence[Sequence[Line]], lines: Sequence[Line], metric: str) -> list[Matrix] | None:
    """The matrices of the tasks that the runs of a group have, the runs in the same order in each.

    Args:
        runs: The lines of each run; that of its average stands for all of its tasks.
        lines: All lines, those of the tasks of an average among them.
        metric: As in :func:`summarize`.

    Returns:
        None where a run has no row scores of a task, or was scored on other rows.
    """
    of_tasks: dict[str, list[Line]] = {}
    for of_run in runs:
        averaged = of_run[0]["task"] == "average"
        members = [each for each in lines if each["run"] == of_run[0]["run"]] if averaged else of_run
        for line in members:
            if line["task"] != "average":
                of_tasks.setdefault(line["task"], []).append(line)
    if any(len(members) != len(runs) for members in of_tasks.values()):
        return None
    found = [stack(members, metric) for members in of_tasks.values()]
    matrices = [matrix for matrix in found if matrix is not None]
    return matrices if matrices and len(matrices) == len(found) else None


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


def order(group: Iterable[Any]) -> tuple[Any, ...]:
    """Sort key of a group: numbers by value, before texts."""
    return tuple((0, value, "") if isinstance(value, (int, float)) else (1, 0, str(value)) for value in group)
