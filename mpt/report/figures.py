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
"""How far apart the intervals of two groups stand at one value, as a share of the axis."""


def dodge(value: float, index: int, count: int, values: Sequence[float]) -> float:
    """Shift one of several groups at the same value aside, on an axis where each step doubles the value.

    Args:
        value: Where the group stands.
        index: Which of the groups it is.
        count: How many there are.
        values: All values on the axis.
    """
    doublings = max(1.0, math.log2(max(values) / min(values)))
    return float(value * 2 ** (DODGE * doublings * (index - (count - 1) / 2)))


def draw(
    groups: Mapping[tuple[Any, ...], Estimate],
    by: Sequence[str],
    x: str,
    metric: str,
    paths: Iterable[Path],
    labels: Labels | None = None,
    bounds: tuple[float, float] = (0.0, 1.0),
) -> None:
    """Draw means and intervals over one key: a panel per task, a line per group of the other keys.

    Numbers that double, such as k, lie on an axis of their logarithms; the intervals of several groups stand side by
    side, and end where the metric does.

    Args:
        groups: From :func:`mpt.report.estimate.summarize`.
        by: The keys that make the groups.
        x: The one of them to draw over.
        metric: What the estimates are of.
        paths: Files to write; the kind follows from the ending.
        labels: What to show in place of keys, values and tasks.
        bounds: What the metric can be.
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
            for name, points in drawn.items():
                index = names.index(name)
                _draw_group(axis, points, name, index, len(names), values, doubling, bounds)
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
    count: int,
    values: Sequence[Any],
    doubling: bool,
    bounds: tuple[float, float],
) -> None:
    if doubling:
        places = [dodge(value, index, count, values) for value, _ in points]
    else:
        places = [values.index(value) + 4 * DODGE * (index - (count - 1) / 2) for value, _ in points]
    means = [found.mean for _, found in points]
    intervals = [found.interval(bounds) for _, found in points]
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
