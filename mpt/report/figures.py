"""Figures of estimates over one key, for papers."""

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mpt.atomic import write_atomically
from mpt.report.estimate import Estimate, order
from mpt.report.labels import Labels
from mpt.report.style import MARKERS, PALETTE

KINDS = ("pdf", "png", "svg")
STYLE: Any = {
    "font.size": 8,
    "axes.titlesize": 8,
    "legend.fontsize": 7,
    "pdf.fonttype": 42,
    "svg.fonttype": "none",
}
"""For a column of a paper, with text that stays text."""
DODGE = 0.02
"""Distance between the intervals of two groups at one value, as a share of the axis."""


def dodge(points: Mapping[str, Sequence[tuple[Any, Estimate]]], span: float) -> dict[tuple[str, Any], float]:
    """Decide how far each point is moved aside: not at all, unless it would hide another one at the same value.

    Args:
        points: Group to its values on the axis, each with the estimate there.
        span: Length of the other axis; means nearer than a fiftieth of it hide each other.

    Returns:
        (group, value) to the steps to the right, around 0.
    """
    at: dict[Any, list[tuple[float, str]]] = {}
    for name, of_group in points.items():
        for value, found in of_group:
            at.setdefault(value, []).append((found.mean, name))
    moved: dict[tuple[str, Any], float] = {}
    for value, found_there in at.items():
        clusters: list[list[tuple[float, str]]] = []
        for mean, name in sorted(found_there):
            if clusters and mean - clusters[-1][-1][0] < span / 50:
                clusters[-1].append((mean, name))
            else:
                clusters.append([(mean, name)])
        for cluster in clusters:
            names = sorted((name for _, name in cluster), key=list(points).index)
            for index, name in enumerate(names):
                moved[name, value] = index - (len(names) - 1) / 2
    return moved


def shift(value: float, steps: float, values: Sequence[float]) -> float:
    """Move a point on an axis where each step doubles the value, by some steps of :data:`DODGE` of the axis."""
    doublings = max(1.0, math.log2(max(values) / min(values)))
    return float(value * 2 ** (DODGE * doublings * steps))


def draw_figure(
    groups: Mapping[tuple[Any, ...], Estimate],
    by: Sequence[str],
    x: str,
    metric: str,
    paths: Iterable[Path],
    labels: Labels | None = None,
) -> None:
    """Draw means and intervals over one key: a panel per task, a line per group of the other keys.

    Numbers that double, such as k, lie on an axis of their logarithms. A point stands at its value, and beside it only
    where it would hide another one. Intervals end where the metric does.

    Args:
        groups: From :func:`mpt.report.estimate.summarize`.
        by: The keys that make the groups.
        x: The one of them to draw over.
        metric: What the estimates are of.
        paths: Files to write; the kind follows from the ending.
        labels: What to show in place of keys, values and tasks.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    labels = labels or Labels()
    panels = _panels(groups, by, x, metric, labels)
    names = list(dict.fromkeys(name for drawn in panels.values() for name in drawn))
    found = {value for drawn in panels.values() for points in drawn.values() for value, _ in points}
    values = sorted(found, key=lambda value: order((value,)))
    doubling = len(values) > 1 and all(isinstance(value, (int, float)) and value > 0 for value in values)
    width = min(4, len(panels))
    height = -(-len(panels) // width)
    size = (2.4 * width + 0.6, 2.0 * height + 0.4)
    with pyplot.rc_context(STYLE):
        figure, axes = pyplot.subplots(
            height, width, figsize=size, squeeze=False, sharey=True, layout="constrained"
        )
        for axis, (task, drawn) in zip(axes.flat, panels.items(), strict=False):
            ends = [end for points in drawn.values() for _, found in points for end in found.interval]
            moved = dodge(drawn, max(ends) - min(ends))
            for name, points in drawn.items():
                _draw_group(axis, points, name, names.index(name), moved, values, doubling)
            axis.set(title=task, xlabel=labels.show(x))
            axis.spines[["top", "right"]].set_visible(False)
            if doubling:
                axis.set_xscale("log", base=2)
                axis.set_xticks(values, [f"{value:g}" for value in values])
                axis.minorticks_off()
            else:
                axis.set_xticks(range(len(values)), [labels.show(value) for value in values])
        for axis in axes.flat[len(panels) :]:
            axis.axis("off")
        for row in axes:
            row[0].set_ylabel(labels.show(metric))
        if names != [""]:
            handles, texts = axes[0, 0].get_legend_handles_labels()
            legend = dict(zip(texts, handles, strict=True))
            for axis in axes.flat[1 : len(panels)]:
                legend |= dict(zip(*reversed(axis.get_legend_handles_labels()), strict=True))
            figure.legend(
                legend.values(), legend.keys(), loc="outside lower center", ncols=width, frameon=False
            )
        for path in paths:
            with write_atomically(path) as temporary:
                figure.savefig(temporary, format=path.suffix.lstrip("."), dpi=300, bbox_inches="tight")
        pyplot.close(figure)


def _panels(
    groups: Mapping[tuple[Any, ...], Estimate], by: Sequence[str], x: str, metric: str, labels: Labels
) -> dict[str, dict[str, list[tuple[Any, Estimate]]]]:
    """Sort the estimates by task, and by what else distinguishes them."""
    position = list(by).index(x)
    panels: dict[str, dict[str, list[tuple[Any, Estimate]]]] = {}
    for group, found in groups.items():
        of = dict(zip(by, group, strict=True))
        name = labels.show_group((key, value) for key, value in of.items() if key not in (x, "task"))
        task = labels.show(of.get("task", metric))
        panels.setdefault(task, {}).setdefault(name, []).append((group[position], found))
    return panels


def _draw_group(
    axis: Any,
    points: Sequence[tuple[Any, Estimate]],
    name: str,
    index: int,
    moved: Mapping[tuple[str, Any], float],
    values: Sequence[Any],
    doubling: bool,
) -> None:
    if doubling:
        places = [shift(value, moved[name, value], values) for value, _ in points]
    else:
        places = [values.index(value) + 4 * DODGE * moved[name, value] for value, _ in points]
    means = [found.mean for _, found in points]
    intervals = [found.interval for _, found in points]
    spread = [
        [mean - low for mean, (low, _) in zip(means, intervals, strict=True)],
        [high - mean for mean, (_, high) in zip(means, intervals, strict=True)],
    ]
    axis.errorbar(
        places,
        means,
        spread if any(not math.isnan(found.half_width) for _, found in points) else None,
        marker=MARKERS[index % len(MARKERS)].matplotlib,
        color=PALETTE[index % len(PALETTE)],
        markersize=4,
        linewidth=1,
        capsize=2,
        label=name,
    )
