"""One self-contained HTML page of a study: tables, charts and sample answers, to read without a network."""

import base64
import hashlib
import math
from collections import defaultdict
from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import resources
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from mpt import __version__
from mpt.atomic import write_atomically
from mpt.report.estimate import Estimate, bounds, compare, order, read_difference, summarize
from mpt.report.gather import Line, read_curve
from mpt.report.labels import Labels
from mpt.report.study import Sample, Study, read_samples, read_similarities
from mpt.report.style import MARKERS, PALETTE

LIBRARIES = {"altair": "altair", "jinja2": "jinja2", "vl_convert": "vl-convert-python"}
"""What a page needs beyond the package's own libraries: the extra ``mpt[report]``."""
SAMPLES_EACH, MOST_SAMPLES = 20, 2000
"""Predictions of a task of a run on the page, and of all of them."""
LONGEST_TEXT = 2000
"""Characters of an input, a reference or an answer on the page."""
MOST_METHODS = 12
"""Methods up to which each is compared with each; of more, all with the first."""
MOST_HEAT_MAPS = 12
METHOD = "method"
"""The key that page and comparison add to a line: the label of what distinguishes its run, but for k."""
K, COST = "few_shot.k", "trained_parameters"


class Cell(NamedTuple):
    """A cell of a table: what it shows, and by what it is sorted."""

    text: str
    value: float | str
    hint: str = ""


@dataclass(frozen=True)
class Table:
    """A table that can be sorted.

    Attributes:
        header: Names of the columns.
        rows: Cells, as many in each row as the header has names.
        note: What stands below.
    """

    header: list[str]
    rows: list[list[Cell]]
    note: str = ""


class Chart(NamedTuple):
    """A chart and its caption."""

    title: str
    spec: Mapping[str, Any]


@dataclass
class Section:
    """A part of the page.

    Attributes:
        anchor: Its id.
        title: Its heading.
        about: One sentence on how to read it.
        legend: Of its charts: name, color and mark.
        charts: Its charts.
        table: Its table.
    """

    anchor: str
    title: str
    about: str = ""
    legend: list[tuple[str, str, str]] = field(default_factory=list)
    charts: list[Chart] = field(default_factory=list)
    table: Table | None = None


def check_libraries() -> None:
    """Refuse early where the libraries of a page are missing.

    Raises:
        ValueError: As said.
    """
    if missing := [package for name, package in LIBRARIES.items() if find_spec(name) is None]:
        raise ValueError(f"--html: {', '.join(missing)} is not installed; pip install 'mpt[report]'")


def write_page(
    study: Study, path: Path, *, by: Sequence[str], metric: str, labels: Labels, base: str | None, title: str
) -> None:
    """Write the page.

    Args:
        study: The runs.
        path: The file.
        by: The keys that make groups of runs.
        metric: What is averaged.
        labels: What to show in place of keys, values and tasks.
        base: ``KEY=VALUE`` of the method that the others are compared with; None: the reader chooses.
        title: Of the page.

    Raises:
        ValueError: As :func:`mpt.report.estimate.summarize`; or a run's files are damaged.
    """
    import altair
    import vl_convert
    from jinja2 import Environment, PackageLoader, StrictUndefined

    lines = add_method(study.lines, by, labels)
    sections = [*_sections(study, lines, by, metric, labels)]
    samples = _samples(study, labels)
    differences = _differences(study.lines if base else lines, metric, labels, base)
    assets = resources.files("mpt.report") / "assets"
    scripts = [
        vl_convert.javascript_bundle(  # type: ignore[call-arg]  # its stub lacks a default
            vl_version=altair.SCHEMA_VERSION.removeprefix("v").rpartition(".")[0]
        ),
        (assets / "page.js").read_text(encoding="utf-8"),
    ]
    environment = Environment(
        loader=PackageLoader("mpt.report", "assets"), autoescape=True, undefined=StrictUndefined
    )
    text = environment.get_template("page.html").render(
        title=title,
        written=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        version=__version__,
        metric=labels.show(metric),
        study=study,
        sections=sections,
        differences=differences,
        samples=samples,
        samples_are_cut=len(samples) == MOST_SAMPLES,
        tasks=list(dict.fromkeys(sample.task for sample in samples)),
        runs_table=_runs_table(study),
        machines=sorted({origin.machine for origin in study.origins if origin.machine}),
        backbones=sorted({origin.backbone for origin in study.origins if origin.backbone}),
        style=(assets / "page.css").read_text(encoding="utf-8"),
        scripts=scripts,
        # Nothing but these two scripts may run, and nothing may be fetched, whatever text the runs bring along.
        policy=" ".join(f"'sha256-{_digest(script)}'" for script in scripts),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    with write_atomically(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def add_method(lines: Sequence[Line], by: Sequence[str], labels: Labels) -> list[Line]:
    """Add to each line the label of its method: all that distinguishes its run, but for task and k."""
    keys = [key for key in by if key not in ("task", K)]
    return [
        {**line, METHOD: labels.show_group((key, line.get(key)) for key in keys) or "all runs"}
        for line in sorted(lines, key=lambda line: order(line.get(key) for key in keys))
    ]


def _digest(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def _sections(
    study: Study, lines: Sequence[Line], by: Sequence[str], metric: str, labels: Labels
) -> Iterator[Section]:
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
    yield from _curves(lines, labels, methods, [K] if K in by else [])
    yield from _heat_maps(study, labels)


def _results(lines: Sequence[Line], by: Sequence[str], metric: str, labels: Labels) -> Section:
    groups = summarize(lines, by, metric)
    rows = [
        [
            *(_cell(key, value, labels) for key, value in zip(by, group, strict=True)),
            Cell(f"{found.mean:.3f}", found.mean),
            Cell(_half(found), -1.0 if math.isnan(found.half_width) else found.half_width),
            Cell(
                "–" if math.isnan(found.sd) else f"{found.sd:.3f}", -1.0 if math.isnan(found.sd) else found.sd
            ),
            Cell(str(found.runs), found.runs),
        ]
        for group, found in groups.items()
    ]
    header = [*(labels.show(key) for key in by), labels.show(metric), "± 95 %", "sd", "runs"]
    return Section(
        "results",
        "Results",
        "Mean over runs, half of its 95 % interval by Student's t, standard deviation, number of runs. "
        "Click a column to sort by it.",
        table=Table(header, rows),
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


def _over(
    points: Points, title: str, x: str, y: str, limits: tuple[float, float], methods: Sequence[str]
) -> Section:
    from mpt.report import charts

    drawn = [
        Chart(name, charts.score_over(of_panel, methods, x=x, y=y, bounds=limits))
        for name, of_panel in points.items()
    ]
    about = "Mean and 95 % interval over runs; each step of the axis doubles."
    shown = {method for of_panel in points.values() for method in of_panel}
    return Section("over-" + x.split()[0], title, about, _legend(methods, shown), drawn)


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
            about = "Mean over runs, in a band as wide as its 95 % interval."
            shown = {method for of_methods in curves.values() for method in of_methods}
            yield Section(f"curves-{number}", title, about, _legend(methods, shown), drawn)


def _heat_maps(study: Study, labels: Labels) -> Iterator[Section]:
    from mpt.report import charts

    heats = read_similarities(study.runs)
    drawn = [
        Chart(Path(heat.run).name, charts.heat_map(heat, {task: labels.show(task) for task in heat.tasks}))
        for heat in heats[:MOST_HEAT_MAPS]
    ]
    if drawn:
        about = "Cosine of W = cols · rows of every two tasks; point at a cell for its value."
        if len(heats) > MOST_HEAT_MAPS:
            about += f" The first {MOST_HEAT_MAPS} of {len(heats)} runs."
        yield Section("similarity", "Similarity of the tasks", about, charts=drawn)


def _differences(lines: Sequence[Line], metric: str, labels: Labels, base: str | None) -> dict[str, Table]:
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
    rows = [
        [
            *(_cell(name, part, labels) for name, part in zip(keys, group, strict=True)),
            Cell(f"{found.mean:+.3f}", found.mean),
            Cell(_half(found), -1.0 if math.isnan(found.half_width) else found.half_width),
            Cell(str(found.runs), found.runs),
            Cell(read_difference(found), read_difference(found)),
        ]
        for group, found in pairs.items()
    ]
    return Table([*map(labels.show, keys), "difference", "± 95 %", "pairs", "reading"], rows)


def _samples(study: Study, labels: Labels) -> list[Sample]:
    files = len({(line["run"], line["task"]) for line in study.lines if line["task"] != "average"})
    each = max(1, min(SAMPLES_EACH, MOST_SAMPLES // max(1, files)))
    shown: list[Sample] = []
    for sample in read_samples(study.runs, each):
        if len(shown) == MOST_SAMPLES:
            break
        shown.append(
            sample._replace(
                run=Path(sample.run).name,
                task=labels.show(sample.task),
                input=_cut(sample.input),
                references=[_cut(reference) for reference in sample.references[:5]],
                prediction=_cut(sample.prediction),
            )
        )
    return shown


def _runs_table(study: Study) -> Table:
    rows = [
        [
            Cell(Path(origin.run).name, origin.run, origin.run),
            Cell(origin.stage, origin.stage),
            Cell(origin.tasks, origin.tasks),
            Cell(
                "–" if origin.score is None else f"{origin.score:.3f}",
                -1.0 if origin.score is None else origin.score,
            ),
            Cell("–" if origin.trained is None else f"{origin.trained:,}", origin.trained or -1.0),
            Cell("–" if origin.seconds is None else f"{origin.seconds:.0f}", origin.seconds or -1.0),
            Cell(origin.started, origin.started),
            Cell(origin.git[:10] + ("+" if origin.git.endswith("+changes") else ""), origin.git, origin.git),
            Cell(origin.command, origin.command),
        ]
        for origin in study.origins
    ]
    return Table(
        ["run", "stage", "tasks", "average", "trained", "seconds", "started", "revision", "command"], rows
    )


def _legend(methods: Sequence[str], shown: Container[str]) -> list[tuple[str, str, str]]:
    """Name, color and mark of the methods that some charts show; each has the same in all charts of the page."""
    return [
        (method, PALETTE[index % len(PALETTE)], MARKERS[index % len(MARKERS)].character)
        for index, method in enumerate(methods)
        if method in shown
    ]


def _cell(key: str, value: Any, labels: Labels) -> Cell:
    text = "–" if value is None or value == "None" else labels.show_value(key, value)
    return Cell(text, value if isinstance(value, (int, float)) else text)


def _half(found: Estimate) -> str:
    return "–" if math.isnan(found.half_width) else f"{found.half_width:.3f}"


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST_TEXT else f"{text[:LONGEST_TEXT]} … ({len(text):,} characters)"
