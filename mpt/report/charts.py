"""Interactive charts of runs as Vega-Lite specifications, written with Altair."""

import json
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import altair

from mpt.report.estimate import Estimate, estimate, order
from mpt.report.labels import Labels
from mpt.report.runs import Heat
from mpt.report.style import MARKERS, PALETTE

Spec = dict[str, Any]
Points = Mapping[str, Sequence[tuple[Any, Estimate]]]
"""Method to its values on the axis, each with the estimate there."""
DODGE = 0.02
"""Distance between the intervals of two methods at one value, as a share of the axis."""
MOST_STEPS = 200
"""Points of a learning curve; of more every second, third, ... is drawn."""
MOST_NUMBERS = 12
"""Tasks up to which the cells of a heat map have room for their numbers."""

INK = "currentColor"  # the page's text color, in light, in dark and on paper
CONFIG = {
    "background": None,
    "view": {"stroke": None},
    "axis": {
        "labelColor": INK,
        "titleColor": INK,
        "domainColor": INK,
        "tickColor": INK,
        "gridColor": INK,
        "gridOpacity": 0.15,
        "titleFontWeight": "normal",
        "labelLimit": 140,
    },
    "legend": {"labelColor": INK, "titleColor": INK, "titleFontWeight": "normal"},
    "title": {"color": INK},
}


def score_over(
    points: Points, names: Sequence[str], *, x: str, y: str, bounds: tuple[float, float], labels: Labels | None = None
) -> altair.LayerChart:
    """Draw means and intervals over one key.

    Positive numbers, such as k, lie on an axis where each step doubles them, a line through those of a method; anything
    else side by side. A point stands
    at its value, and beside it only where it would hide another one.

    Args:
        points: Method to its values, each with the estimate there.
        names: All methods, so that each keeps its color in every chart.
        x: Title of the axis.
        y: Title of the other.
        bounds: What the metric can be; the intervals end there.
        labels: What to show in place of values.
    """
    labels = labels or Labels()
    found = {value for of_method in points.values() for value, _ in of_method}
    places = sorted(found, key=lambda value: order((value,)))
    doubling = all(isinstance(value, (int, float)) and value > 0 for value in places)
    connected = doubling and any(len(of_method) > 1 for of_method in points.values())
    ends = [end for of_method in points.values() for _, found in of_method for end in found.interval]
    moved = dodge(points, max(ends) - min(ends))
    values = [
        {
            "method": name,
            "x": shift(value, moved[name, value], places)
            if doubling
            else places.index(value) + 4 * DODGE * moved[name, value],
            "at": value if doubling else labels.show(value),
            "mean": found.mean,
            "low": found.interval[0],
            "high": found.interval[1],
            "runs": found.runs,
        }
        for name, of_method in points.items()
        for value, found in of_method
    ]
    scale: dict[str, Any] = {"type": "log", "base": 2} if doubling else {"domain": [-0.5, len(places) - 0.5]}
    axis: dict[str, Any] = {"grid": False, "labelOverlap": True}
    if connected:
        axis["values"] = places
    if not doubling:
        shown = json.dumps([labels.show(value) for value in places])
        axis |= {
            "values": [*range(len(places))],
            "labelExpr": f"{shown}[datum.value]",
            "labelOverlap": False,
            "labelAngle": -30,
        }
    base = altair.Chart(altair.Data(values=values)).encode(
        x=altair.X("x:Q", scale=altair.Scale(nice=False, padding=20, **scale), axis=altair.Axis(**axis), title=x),
        color=_color(names),
        tooltip=_tooltip("method:N", ("at:Q", x, ",.6~g") if doubling else ("at:N", x, ""), *_means(y), "runs:Q"),
    )
    y_scale = altair.Scale(domain=[*bounds]) if bounds[1] == 1.0 else altair.Scale(zero=True)
    interval = base.mark_rule(strokeWidth=1.5).encode(
        y=altair.Y("low:Q", scale=y_scale, title=y), y2=altair.Y2("high:Q")
    )
    line = [base.mark_line(strokeWidth=1.5).encode(y="mean:Q")] if connected else []
    marks = base.mark_point(filled=True, size=70, opacity=1).encode(y="mean:Q", shape=_shape(names))
    return altair.layer(interval, *line, marks)


def panels(points: Mapping[str, Points], *, x: str, y: str, labels: Labels) -> Spec:
    """Put a chart per panel side by side, with one legend, for paper.

    Args:
        points: Panel to what :func:`score_over` takes.
        x: Title of each axis.
        y: Title of the other, which the panels share.
        labels: What to show in place of values.
    """
    names = list(dict.fromkeys(name for of_panel in points.values() for name in of_panel))
    limits = [found.bounds for of_panel in points.values() for of_method in of_panel.values() for _, found in of_method]
    bounds = min(low for low, _ in limits), max(high for _, high in limits)
    drawn = [
        score_over(of_panel, names, x=x, y=y, bounds=bounds, labels=labels).properties(
            width=170, height=140, title=title
        )
        for title, of_panel in points.items()
    ]
    spec: Spec = altair.concat(*drawn, columns=4).resolve_scale(y="shared").to_dict()
    if names != [""]:
        legend = {"orient": "bottom", "title": None}
        for layer in (layer for chart in spec["concat"] for layer in chart["layer"]):
            layer["encoding"]["color"]["legend"] = legend
            if "shape" in layer["encoding"]:
                layer["encoding"]["shape"]["legend"] = legend
    return spec | {"config": {"view": {"stroke": None}, "axis": {"gridOpacity": 0.3, "titleFontWeight": "normal"}}}


def dodge(points: Points, span: float) -> dict[tuple[str, Any], float]:
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


def learning_curves(
    curves: Mapping[str, Sequence[Mapping[int, float]]],
    names: Sequence[str],
    *,
    y: str,
    bounds: tuple[float, float] | None,
) -> Spec:
    """Draw the mean curve of each method over the steps, in a band as wide as the interval.

    Args:
        curves: Method to the curves of its runs, each step to value.
        names: All methods of the page, so that each keeps its color.
        y: Title of the axis.
        bounds: What the value can be; None: anything.
    """
    values = []
    for name, of_runs in curves.items():
        for step, found in _mean_curve(of_runs, bounds or (float("-inf"), float("inf"))):
            low, high = found.interval
            values.append(
                {"method": name, "step": step, "mean": found.mean, "low": low, "high": high, "runs": found.runs}
            )
    scale = altair.Scale(domain=[*bounds]) if bounds else altair.Scale(zero=False)
    base = altair.Chart(altair.Data(values=values)).encode(
        x=altair.X("step:Q", title="optimizer steps", axis=altair.Axis(grid=False)),
        color=_color(names),
        tooltip=_tooltip("method:N", "step:Q", *_means(y), "runs:Q"),
    )
    band = base.mark_area(opacity=0.15).encode(y=altair.Y("low:Q", scale=scale, title=y), y2=altair.Y2("high:Q"))
    line = base.mark_line(strokeWidth=1.75, point={"size": 18}).encode(y="mean:Q")
    return framed(altair.layer(band, line))


def heat_map(heat: Heat, show: Mapping[str, str]) -> Spec:
    """Draw the cosines of every two tasks, each with its value on hover, and in its cell where there is room."""
    order = [show[task] for task in heat.tasks]
    values = [
        {"one": show[one], "other": show[other], "cosine": cosine}
        for one, row in zip(heat.tasks, heat.cosines, strict=True)
        for other, cosine in zip(heat.tasks, row, strict=True)
    ]
    axis = altair.Axis(grid=False, ticks=False, domain=False, labelAngle=-40, labelLimit=110)
    base = altair.Chart(altair.Data(values=values)).encode(
        x=altair.X("other:N", sort=order, title=None, axis=axis),
        y=altair.Y("one:N", sort=order, title=None, axis=altair.Axis(grid=False, ticks=False, domain=False)),
        tooltip=_tooltip("one:N", "other:N", ("cosine:Q", "cosine", ".3f")),
    )
    colors = altair.Scale(domain=[-1, 0, 1], range=["#2166ac", "#f7f7f7", "#b2182b"], type="linear")
    cells = base.mark_rect().encode(
        color=altair.Color("cosine:Q", scale=colors, legend=altair.Legend(title="cosine of W", gradientLength=120))
    )
    size = max(220, 26 * len(order))
    if len(order) > MOST_NUMBERS:
        return framed(cells, height=size)
    numbers = base.mark_text(fontSize=11).encode(
        text=altair.Text("cosine:Q", format=".2f"),
        color=altair.condition("abs(datum.cosine) > 0.6", altair.value("white"), altair.value("#222")),
    )
    return framed(altair.layer(cells, numbers), height=max(size, 40 * len(order)))


def _mean_curve(curves: Sequence[Mapping[int, float]], bounds: tuple[float, float]) -> Iterator[tuple[int, Estimate]]:
    """The mean of some curves at each step that all of those that come so far have."""
    at: dict[int, list[float]] = defaultdict(list)
    for curve in curves:
        for step, value in curve.items():
            at[step].append(value)
    whole = max((len(found) for found in at.values()), default=0)
    steps = [step for step in sorted(at) if len(at[step]) == whole]
    every = -(-len(steps) // MOST_STEPS) or 1
    for step in sorted({*steps[::every], *steps[-1:]}):
        yield step, estimate(at[step], bounds)


def _color(names: Sequence[str]) -> altair.Color:
    colors = [PALETTE[index % len(PALETTE)] for index in range(len(names))]
    return altair.Color("method:N", scale=altair.Scale(domain=[*names], range=colors), legend=None)


def _shape(names: Sequence[str]) -> altair.Shape:
    shapes = [MARKERS[index % len(MARKERS)].vega for index in range(len(names))]
    return altair.Shape("method:N", scale=altair.Scale(domain=[*names], range=shapes), legend=None)


def _means(y: str) -> list[tuple[str, str, str]]:
    return [("mean:Q", y, ".4~g"), ("low:Q", "95 % interval from", ".4~g"), ("high:Q", "to", ".4~g")]


def _tooltip(*fields: str | tuple[str, str, str]) -> list[altair.Tooltip]:
    return [
        altair.Tooltip(each) if isinstance(each, str) else altair.Tooltip(each[0], title=each[1], format=each[2])
        for each in fields
    ]


def framed(chart: Any, height: int = 240) -> Spec:
    """Fit a chart into the page, in the page's colors."""
    spec = chart.properties(width="container", height=height).to_dict()
    spec["config"] = CONFIG
    spec["autosize"] = {"type": "fit", "contains": "padding"}
    return dict(spec)
