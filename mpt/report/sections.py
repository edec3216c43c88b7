"""The sections of a page of runs: what its tables and charts show."""

import math
from collections import defaultdict
from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from mpt.report.classes import read_classes
from mpt.report.estimate import Estimate, bounds, order, show_sampled, summarize
from mpt.report.explained import build_explained
from mpt.report.gather import Line, read_curve
from mpt.report.labels import Labels
from mpt.report.pairs import compare, judge, show_needed, show_p
from mpt.report.runs import Runs, read_similarities
from mpt.report.section import Cell, Chart, Section, Table, interval_cell, number_cell, value_cell
from mpt.report.style import MARKERS, PALETTE

MOST_METHODS = 12
"""Methods up to which each is compared with each; of more, all with the first."""
MOST_HEAT_MAPS = 12
METHOD = "method"
"""The key that page and comparison add to a line: the label of what distinguishes its run, but for k."""
K, COST = "few_shot.k", "trained_parameters"


def add_method(lines: Sequence[Line], by: Sequence[str], labels: Labels) -> list[Line]:
    """Add to each line the label of its method: all that distinguishes its run, but for task and k."""
    keys = [key for key in by if key not in ("task", K)]
    return [
        {**line, METHOD: labels.show_group((key, line.get(key)) for key in keys) or "all runs"}
        for line in sorted(lines, key=lambda line: order(line.get(key) for key in keys))
    ]


def build_sections(
    runs: Runs, lines: Sequence[Line], by: Sequence[str], metric: str, labels: Labels
) -> Iterator[Section]:
    """Build the results, and the charts that the runs have something for.

    Args:
        runs: The runs.
        lines: Its lines, from :func:`add_method`.
        by: The keys that make groups of runs.
        metric: What is averaged.
        labels: What to show in place of keys, values and tasks.

    Raises:
        ValueError: As :func:`mpt.report.estimate.summarize`; or a run's files are damaged.
    """
    yield _results(lines, by, metric, labels)
    methods = list(dict.fromkeys(line[METHOD] for line in lines))
    name = labels.show(metric)
    numbered = [line for line in lines if isinstance(line.get(K), int)]
    if len({line[K] for line in numbered}) > 1:
        points = _points(numbered, K, ["task"], metric, labels)
        yield _over(points, f"{name} over k", "labeled examples, k", name, bounds(lines, metric), methods)
    priced = [line for line in lines if line.get(COST)]
    if len({line[COST] for line in priced}) > 1 and metric != COST:
        points = _points(priced, COST, ["task", *([K] if K in by else [])], metric, labels)
        points = {panel: found for panel, found in points.items() if _several_at(found)}
        title = f"{name} over trained parameters"
        if points:
            yield _over(points, title, "trained parameters", name, bounds(lines, metric), methods)
    yield from build_classes(runs.lines, by, labels)
    yield from _curves(lines, labels, methods, [K] if K in by else [])
    yield from _heat_maps(runs, labels)
    yield from build_explained(runs.folders, labels)


def _results(lines: Sequence[Line], by: Sequence[str], metric: str, labels: Labels) -> Section:
    groups = summarize(lines, by, metric)
    rows = [
        [
            *(value_cell(key, value, labels) for key, value in zip(by, group, strict=True)),
            Cell(f"{found.mean:.3f}", found.mean),
            interval_cell(found),
            number_cell(found.sd),
            Cell(str(found.runs), found.runs),
            Cell(found.tested, found.rows[0] if found.rows else -1),
        ]
        for group, found in groups.items()
    ]
    header = [*(labels.show(key) for key in by), labels.show(metric), "95 % interval", "sd", "runs", "rows"]
    pooled = list(dict.fromkeys(key for found in groups.values() if found.runs > 1 for key in found.pooled))
    note = f"Pooled: runs that differ in {', '.join(pooled)}, so their mean has no interval." if pooled else ""
    return Section(
        "results",
        "Results",
        f"Mean over runs, its 95 % interval over {show_sampled(groups.values())} within what the metric can be, "
        "standard deviation of the runs, their number, and that of the rows that each was scored on. Click a column to "
        "sort by it.",
        table=Table(header, rows, note),
    )


Points = dict[str, dict[str, list[tuple[float, Estimate]]]]
"""Of each chart, of each method: where a point lies, and the estimate there."""


def _points(lines: Sequence[Line], x: str, panel: Sequence[str], metric: str, labels: Labels) -> Points:
    """Estimate each method at each value of a key, for a chart of each task (and k)."""
    points: Points = {}
    for (*of_panel, method, value), found in summarize(lines, [*panel, METHOD, x], metric).items():
        name = labels.show_group(zip(panel, of_panel, strict=True))
        points.setdefault(name, {}).setdefault(method, []).append((float(value), found))
    return points


def _several_at(points: Mapping[str, Sequence[tuple[float, Estimate]]]) -> bool:
    return len({at for of_method in points.values() for at, _ in of_method}) > 1


def _over(points: Points, title: str, x: str, y: str, limits: tuple[float, float], methods: Sequence[str]) -> Section:
    from mpt.report import charts

    drawn = [
        Chart(name, charts.framed(charts.score_over(of_panel, methods, x=x, y=y, bounds=limits)))
        for name, of_panel in points.items()
    ]
    about = (
        "Mean and 95 % interval over runs; each step of the axis doubles. Points stand at their value; those that "
        "would hide each other stand side by side."
    )
    shown = {method for of_panel in points.values() for method in of_panel}
    return Section("over-" + x.split()[0], title, about, legend_of(methods, shown), drawn)


def _curves(
    lines: Sequence[Line], labels: Labels, methods: Sequence[str], of_panel: Sequence[str]
) -> Iterator[Section]:
    """The validation score and the training loss over the steps, a chart per task (and k)."""
    from mpt.report import charts

    kinds = (
        ("validation", "score", "Validation score", bounds(lines, "score")),
        ("train", "loss", "Training loss", None),
    )
    panel = ["task", *of_panel]
    sorted_lines = sorted(lines, key=lambda line: order(line.get(key) for key in panel))
    for split, number, title, limits in kinds:
        curves: dict[str, dict[str, list[dict[int, float]]]] = defaultdict(lambda: defaultdict(list))
        for line in sorted_lines:
            name = labels.show_group((key, line.get(key)) for key in panel)
            if curve := read_curve(Path(line["run"]), f"{split}/{line['task']}/{number}"):
                curves[name][line[METHOD]].append(curve)
        drawn = [
            Chart(name, charts.learning_curves(of_methods, methods, y=title.lower(), bounds=limits))
            for name, of_methods in curves.items()
        ]
        if drawn:
            about = "Mean over runs, in a band as wide as its 95 % interval, at the steps that all runs have."
            shown = {method for of_methods in curves.values() for method in of_methods}
            yield Section(f"curves-{number}", title, about, legend_of(methods, shown), drawn)


def build_classes(lines: Sequence[Line], by: Sequence[str], labels: Labels) -> Iterator[Section]:
    """Build the table of classes; what each was answered as is its line of the confusion matrix."""
    keys = ["task", *(key for key in by if key != "task")]
    rows = [
        [
            *(value_cell(key, value, labels) for key, value in zip(keys, group, strict=True)),
            Cell(of_class.name, of_class.name),
            Cell(f"{of_class.rows:,d}", of_class.rows),
            *(number_cell(value) for value in (of_class.precision, of_class.recall, of_class.f1)),
            Cell(", ".join(f"{name} {count:,d}" for name, count in of_class.answered.items()), of_class.recall),
        ]
        for group, classes in read_classes(lines, by).items()
        for of_class in classes
    ]
    if rows:
        header = [*map(labels.show, keys), "class", "rows", "precision", "recall", "F1", "answered as"]
        about = "Test rows of all runs of a group together; “answered as” is a class's line of the confusion matrix."
        yield Section("classes", "Classes", about, table=Table(header, rows))


def _heat_maps(runs: Runs, labels: Labels) -> Iterator[Section]:
    from mpt.report import charts

    heats = read_similarities(runs.folders)
    drawn = [
        Chart(Path(heat.run).name, charts.heat_map(heat, {task: labels.show(task) for task in heat.tasks}))
        for heat in heats[:MOST_HEAT_MAPS]
    ]
    if drawn:
        about = "Cosine of W = cols · rows of every two tasks; point at a cell for its value."
        if len(heats) > MOST_HEAT_MAPS:
            about += f" The first {MOST_HEAT_MAPS} of {len(heats)} runs."
        yield Section("similarity", "Similarity of the tasks", about, charts=drawn)


def build_differences(lines: Sequence[Line], metric: str, labels: Labels, base: str | None) -> dict[str, Table]:
    """The paired differences to ``base``, or to each method that the reader may choose."""
    if base is not None:
        key, _, value = base.partition("=")
        return {labels.show_pair(key, value): _differences_to(lines, key, value, metric, labels)}
    methods = list(dict.fromkeys(line[METHOD] for line in lines))
    tables = {}
    for method in (methods if len(methods) <= MOST_METHODS else methods[:1]) if len(methods) > 1 else []:
        with suppress(ValueError):  # its runs have no partner on the same draw
            tables[method] = _differences_to(lines, METHOD, method, metric, labels)
    return tables


def _differences_to(lines: Sequence[Line], key: str, base: str, metric: str, labels: Labels) -> Table:
    grouping, pairs = compare(lines, key, base, metric)
    keys = ["task", *grouping, key]
    verdicts = judge(pairs)
    rows = [
        [
            *(value_cell(name, part, labels) for name, part in zip(keys, group, strict=True)),
            Cell(f"{found.mean:+.3f}", found.mean),
            interval_cell(found),
            Cell(str(found.runs), found.runs),
            Cell(found.tested, found.rows[0] if found.rows else -1),
            Cell(show_p(verdicts[group].p), -1.0 if math.isnan(verdicts[group].p) else verdicts[group].p),
            Cell(verdicts[group].reading, verdicts[group].reading),
            Cell(show_needed(found.needed), found.needed or -1),
        ]
        for group, found in pairs.items()
    ]
    header = [*map(labels.show, keys), "difference", "95 % interval", "pairs", "rows", "p (Holm)", "reading"]
    return Table([*header, "draws needed"], rows, f"Intervals over {show_sampled(pairs.values())}.")


def build_runs_table(runs: Runs) -> Table:
    """Build the table of the finished runs: what they were, and what they took."""
    rows = [
        [
            Cell(Path(origin.run).name, origin.run, origin.run),
            Cell(origin.stage, origin.stage),
            Cell(origin.tasks, origin.tasks),
            number_cell(origin.score),
            number_cell(origin.rows, ",d"),
            number_cell(origin.trained, ",d"),
            number_cell(origin.seconds, ".0f"),
            Cell(origin.started, origin.started),
            Cell(origin.git[:10] + ("+" if origin.git.endswith("+changes") else ""), origin.git, origin.git),
            Cell(origin.command, origin.command),
        ]
        for origin in runs.origins
    ]
    return Table(
        ["run", "stage", "tasks", "average", "rows", "trained", "seconds", "started", "revision", "command"], rows
    )


def legend_of(methods: Sequence[str], shown: Container[str]) -> list[tuple[str, str, str]]:
    """Name, color and mark of the methods that some charts show; each has the same in all charts of the page."""
    return [
        (method, PALETTE[index % len(PALETTE)], MARKERS[index % len(MARKERS)].character)
        for index, method in enumerate(methods)
        if method in shown
    ]
