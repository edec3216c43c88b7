"""Paired differences between methods, and whether one may be called a difference."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from mpt.errors import UserError
from mpt.report.estimate import Estimate, bounds, estimate, order
from mpt.report.gather import REPLICATES, Line, distinguish, varying_within
from mpt.report.row_scores import stack
from mpt.report.statistics import Matrix, average_tasks, draws_needed, fewest_draws, flip_signs, holm, of_draws

FEWEST_PAIRS = fewest_draws(1)
"""Pairs below which no difference is called one: a two-sided sign-flip test of five cannot reach p < .05."""
Pairs = Mapping[tuple[Any, ...], tuple[Line, Line]]
"""Draw to a run's line and that of its partner."""
ALL_TASKS = "all tasks"
LEVEL = 0.05


@dataclass(frozen=True)
class Difference(Estimate):
    """A mean of paired differences.

    Attributes:
        p: Two-sided p of the difference being 0, the larger of two: by flips of the signs of the draws, which hold the
            test rows fixed (so that they reject a true 0 in up to 34 % of families, docs/statistics.md), and by the
            interval; 1 where nothing is known.
        by_draw: The difference on each draw.
    """

    p: float = 1.0
    by_draw: tuple[float, ...] = ()

    @property
    def needed(self) -> int | None:
        """Draws that would show a difference of this size in four of five studies; None where it is not known."""
        if not self.has_interval or self.mean == 0:
            return None
        return draws_needed(self.by_draw, self.mean)


MOST_DRAWS = 1000
"""Draws above which it is of no use how many a difference needs."""


class Verdict(NamedTuple):
    """What a difference shows."""

    p: float
    """Holm's, over the family; NaN outside of it."""
    reading: str


def estimate_difference(
    by_draw: Sequence[float],
    limits: tuple[float, float],
    rows: Sequence[int] = (),
    matrices: Sequence[Matrix] | None = None,
) -> Difference:
    """Estimate a mean paired difference; arguments as of :func:`mpt.report.estimate.estimate`, one value a draw."""
    found = estimate(by_draw, limits, (), rows, matrices)
    known = average_tasks(matrices) if matrices else of_draws(by_draw)
    p = max(flip_signs(by_draw), known._replace(mean=found.mean).p()) if len(by_draw) > 1 else 1.0
    return Difference(**vars(found), p=p, by_draw=tuple(by_draw))


def judge(differences: Mapping[tuple[Any, ...], Difference]) -> dict[tuple[Any, ...], Verdict]:
    """Decide which differences may be called so: those whose p is below .05 after Holm's correction over their family.

    The family is the differences over all tasks, at each level that varies; where there are none, those of the tasks.
    A single task among several is described, and no more.

    Args:
        differences: (task, ..., value) to its difference.
    """
    over_all = [group for group in differences if group[0] == ALL_TASKS]
    family = over_all or [*differences]
    adjusted = dict(zip(family, holm([differences[group].p for group in family]), strict=True))
    return {
        group: Verdict(adjusted.get(group, math.nan), _read(found, adjusted.get(group)))
        for group, found in differences.items()
    }


def show_needed(needed: int | None) -> str:
    """Write how many draws a difference needs; a dash where that is not known."""
    return "–" if needed is None else f"{needed:,d}" if needed <= MOST_DRAWS else f"> {MOST_DRAWS:,d}"


def show_p(p: float) -> str:
    """Write a p; a dash where there is none."""
    return "–" if math.isnan(p) else "< .001" if p < 0.001 else f"{p:.3f}"


def _read(difference: Difference, p: float | None) -> str:
    if difference.runs < FEWEST_PAIRS:
        return f"fewer than {FEWEST_PAIRS} pairs"
    if not difference.has_interval:
        return "all equal"
    if p is None:
        return "described only"
    if p >= LEVEL:
        return "not distinguished"
    return "higher" if difference.mean > 0 else "lower"


def is_of_method(key: str) -> bool:
    """Tell whether a key belongs to the method of a run, its form, start and rates, and not to what it is asked."""
    return key in ("source", "distill") or key.startswith(("prompt.", "method.", "optim.", "distillation."))


def compare(
    lines: Sequence[Line], key: str, base: str, metric: str
) -> tuple[list[str], dict[tuple[Any, ...], Difference]]:
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
        to the estimate of ``value - base``. Under ``all tasks`` each draw's is
        averaged over the tasks, at the draws that all of them have.

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
    pairs: dict[tuple[Any, ...], dict[tuple[str, tuple[Any, ...]], Line]] = {}
    for line in used:
        at = (line["task"], *settings(line, asked), *settings(line, repeats))
        who = (str(line[key]), settings(line, methods))
        if who in pairs.setdefault(at, {}):
            raise UserError(
                f"--against: two runs of {line['task']} are alike in everything ({line['run']} is one); give one of "
                "them"
            )
        pairs[at][who] = line
    found: dict[tuple[Any, ...], dict[tuple[Any, ...], tuple[Line, Line]]] = {}
    for at, of_methods in pairs.items():
        group, draw = at[: 1 + len(asked)], at[1 + len(asked) :]
        only = len(bases.get((*group, base), ())) == 1
        for (value, method), line in of_methods.items():
            partner = next(iter(bases[(*group, base)])) if only else method
            if value == base or (base, partner) not in of_methods:
                continue
            shown = (*group, *(method if several else ()), value)
            found.setdefault(shown, {})[draw] = (line, of_methods[base, partner])
    if not found:
        values = sorted({str(line.get(key)) for line in lines})
        raise UserError(
            f"--against: no pair with {key}={base}; its values are {', '.join(values)}, and the runs of one "
            f"value also differ in {', '.join(varying) or 'nothing'}"
        )
    low, high = bounds(used, metric)
    limits = (low - high, high - low)
    estimates = {
        group: _over_tasks([of_draws], metric, limits)
        for group, of_draws in sorted(found.items(), key=lambda item: order(item[0]))
    }
    by_setting: dict[tuple[Any, ...], list[Pairs]] = {}
    for (task, *rest), of_task in found.items():
        if task != "average":
            by_setting.setdefault((ALL_TASKS, *rest), []).append(of_task)
    for group, of_tasks in sorted(by_setting.items(), key=lambda item: order(item[0])):
        if len(of_tasks) > 1 and set.intersection(*(set(of_task) for of_task in of_tasks)):
            estimates[group] = _over_tasks(of_tasks, metric, limits)
    return grouping, estimates


def _over_tasks(of_tasks: Sequence[Pairs], metric: str, limits: tuple[float, float]) -> Difference:
    """Average the differences of some tasks over the draws that all of them have."""
    draws = [draw for draw in of_tasks[0] if all(draw in pairs for pairs in of_tasks)]
    by_draw = [
        statistics.fmean(float(pairs[draw][0][metric]) - float(pairs[draw][1][metric]) for pairs in of_tasks)
        for draw in draws
    ]
    rows = [sum(int(pairs[draw][0].get("n", 0)) for pairs in of_tasks) for draw in draws]
    matrices: list[Matrix] = []
    for pairs in of_tasks:
        both = stack([line for side in (0, 1) for line in (pairs[draw][side] for draw in draws)], metric)
        if both is None:
            return estimate_difference(by_draw, limits, [each for each in rows if each])
        matrices.append(both[: len(draws)] - both[len(draws) :])
    return estimate_difference(by_draw, limits, [each for each in rows if each], matrices)
