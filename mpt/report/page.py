"""One self-contained HTML page of runs: tables, charts and sample answers, to read without a network."""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path

from mpt import __version__
from mpt.atomic import write_atomically
from mpt.report.labels import Labels
from mpt.report.runs import Runs, Sample, read_samples
from mpt.report.section import Section, Table
from mpt.report.sections import add_method, build_differences, build_runs_table, build_sections

SAMPLES_EACH, MOST_SAMPLES = 20, 2000
"""Predictions of a task of a run on the page, and of all of them."""
LONGEST_TEXT = 2000
"""Characters of an input, a reference or an answer on the page."""


def write_page(
    runs: Runs, path: Path, *, by: Sequence[str], metric: str, labels: Labels, base: str | None, title: str
) -> None:
    """Write the page of some runs.

    Args:
        runs: The runs.
        path: The file.
        by: The keys that make groups of runs.
        metric: What is averaged.
        labels: What to show in place of keys, values and tasks.
        base: ``KEY=VALUE`` of the method that the others are compared with; None: the reader chooses.
        title: Title of the page.

    Raises:
        UserError: As :func:`mpt.report.estimate.summarize`; or a run's files are damaged.
    """
    lines = add_method(runs.lines, by, labels)
    sections = [*build_sections(runs, lines, by, metric, labels)]
    files = len({(line["run"], line["task"]) for line in runs.lines if line["task"] != "average"})
    samples = sample_answers(runs.folders, files, labels)
    differences = build_differences(runs.lines if base else lines, metric, labels, base)
    render_page(path, title, runs, sections, samples, differences, labels.show(metric))


def render_page(
    path: Path,
    title: str,
    runs: Runs,
    sections: Sequence[Section],
    samples: Sequence[Sample],
    differences: Mapping[str, Table],
    metric: str = "score",
) -> None:
    """Write sections, answers and the table of runs as one file that needs no network.

    Args:
        path: The file.
        title: Title of the page.
        runs: The runs that it is of.
        sections: Its parts, in their order.
        samples: Answers to show.
        differences: Base to a table of differences to it, among which the reader chooses.
        metric: What the differences are of.
    """
    import altair
    import vl_convert
    from jinja2 import Environment, PackageLoader, StrictUndefined

    assets = resources.files("mpt.report") / "assets"
    scripts = [
        vl_convert.javascript_bundle(  # type: ignore[call-arg]  # its stub lacks a default
            vl_version=altair.SCHEMA_VERSION.removeprefix("v").rpartition(".")[0]
        ),
        (assets / "page.js").read_text(encoding="utf-8"),
    ]
    environment = Environment(loader=PackageLoader("mpt.report", "assets"), autoescape=True, undefined=StrictUndefined)
    text = environment.get_template("page.html").render(
        title=title,
        written=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        version=__version__,
        metric=metric,
        runs=runs,
        sections=sections,
        differences=differences,
        samples=samples,
        samples_are_cut=len(samples) == MOST_SAMPLES,
        tasks=list(dict.fromkeys(sample.task for sample in samples)),
        runs_table=build_runs_table(runs),
        machines=sorted({origin.machine for origin in runs.origins if origin.machine}),
        backbones=sorted({origin.backbone for origin in runs.origins if origin.backbone}),
        style=(assets / "page.css").read_text(encoding="utf-8"),
        scripts=scripts,
        # Nothing but these two scripts may run, and nothing may be fetched, whatever text the runs bring along.
        policy=" ".join(f"'sha256-{_digest(script)}'" for script in scripts),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    with write_atomically(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _digest(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def sample_answers(folders: Sequence[Path], files: int, labels: Labels) -> list[Sample]:
    """Take the first answers of each task of each run, cut to what a page has room for.

    Args:
        folders: Run folders.
        files: How many files of predictions they have.
        labels: What to show in place of tasks.
    """
    each = max(1, min(SAMPLES_EACH, MOST_SAMPLES // max(1, files)))
    shown: list[Sample] = []
    for sample in read_samples(folders, each):
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


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST_TEXT else f"{text[:LONGEST_TEXT]} … ({len(text):,} characters)"
