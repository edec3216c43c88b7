"""What a study leaves: one page, tables and figures for papers, and a methods paragraph to paste."""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mpt.atomic import check_file_replaceable, write_atomically
from mpt.report import charts
from mpt.report.estimate import Estimate, show_sampled
from mpt.report.figures import KINDS, draw_figure
from mpt.report.labels import Labels
from mpt.report.page import render_page, sample_answers
from mpt.report.pairs import MOST_DRAWS, show_p
from mpt.report.runs import Origin, Runs
from mpt.report.section import Chart, Section, Table
from mpt.report.sections import build_classes, legend_of
from mpt.report.tables import latex, markdown
from mpt.run.folder import RunFolder
from mpt.run.record import write_csv
from mpt.study.answer import SOURCES_AS_BLOCKS, Answer, Compared
from mpt.study.cells import Cell
from mpt.study.file import Study, show_level
from mpt.study.run import Planned
from mpt.study.tables import (
    comparisons_table,
    costs_table,
    level_value,
    scores_table,
    sources_table,
    success_table,
    targets_of,
    tuning_table,
)
from mpt.sweep.sweep_record import Outcome

READINGS = {
    "higher": "{first} is better than {second}",
    "lower": "{first} is worse than {second}",
    "not distinguished": "{first} and {second} are not distinguished",
    "all equal": "{first} and {second} differ alike on every draw and row, so there is no interval",
}


def write_results(planned: Planned, answer: Answer) -> Path:
    """Write page, tables, figures and the methods paragraph into the study's folder of results.

    Returns:
        The page.

    Raises:
        UserError: A page of somebody else would be replaced.
    """
    study, folder = planned.study, planned.study.results
    page = folder / "page.html"
    check_file_replaceable(page, b'name="generator" content="mpt', "a page")
    tables = {"scores": scores_table(answer), "comparisons": comparisons_table(answer), "costs": costs_table(answer)}
    if study.tune is not None:
        tables["tuning"] = tuning_table(answer, planned.start)
    if study.success is not None:
        tables["success"] = success_table(answer)
    for name, table in tables.items():
        texts = [[cell.text for cell in row] for row in table.rows]
        write_csv(folder / f"{name}.csv", table.header, texts)
        _write(folder / f"{name}.md", markdown(table.header, texts) + "\n")
        _write(folder / f"{name}.tex", latex(table.header, texts))
    _write(folder / "methods.md", describe_methods(planned, answer) + "\n")
    estimates = _estimates(answer)
    if estimates:
        by, x = (["task", "method", "level"], "level") if study.vary else (["task", "method"], "method")
        groups = {key if study.vary else key[:2]: found for key, found in estimates.items()}
        labels = Labels([f"level={next(iter(study.vary))}"] if len(study.vary) == 1 else [])
        draw_figure(groups, by, x, "score", [folder / f"scores.{kind}" for kind in KINDS], labels)
    runs = _runs(answer)
    folders = [path for path in runs.folders if RunFolder(path).predictions.is_dir()]
    samples = sample_answers(folders, len(folders), Labels())
    render_page(page, study.question, runs, [*build_page(planned, answer, tables)], samples, {})
    return page


def _write(path: Path, text: str) -> None:
    with write_atomically(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def build_page(planned: Planned, answer: Answer, tables: Mapping[str, Table]) -> Iterator[Section]:
    """Build the sections of the page: what the study says first, then what that rests on."""
    study = answer.study
    yield Section("says", "What it says", items=[*sentences(answer)], table=tables["comparisons"])
    about = (
        f"Test score of the best step, its 95 % interval over {show_sampled(_estimates(answer).values())}, and the "
        "score before any step. A draw has examples, first values and an order of its own."
    )
    yield Section("scores", "Scores", about, table=tables["scores"])
    yield from _charts(answer)
    if "success" in tables:
        about = f"Share of the draws that score at least {study.success:g}, with its exact binomial interval."
        yield Section("success", "Success", about, table=tables["success"])
    if any(answer.seeds_of(method) > 1 for method in study.methods):
        about = "Mean score over targets and over the draws that start from each seed of a method's source."
        yield Section("sources", "Sources", about, table=sources_table(answer))
    lines = [_line(cell) for cell in answer.final() if Path(cell.run).is_dir()]
    yield from build_classes(lines, ["method", "level"], Labels())
    if "tuning" in tables:
        about = (
            "Mean validation score of each candidate over targets and tuning draws, which are others than those that "
            "count. Beyond a choice at the edge a better one may lie."
        )
        yield Section("tuning", "Tuning", about, table=tables["tuning"])
    about = "Trained numbers, numbers to store for a target, and a run's own seconds: of what is shared, its share."
    yield Section("costs", "Costs", about, table=tables["costs"])
    yield Section("methods", "Methods", describe_methods(planned, answer))


def sentences(answer: Answer) -> Iterator[str]:
    """Say what each comparison shows, and what may not be said."""
    study = answer.study
    found = answer.compare()
    for compared in found:
        yield say(compared, answer)
    if not study.compare:
        yield "The study declares no comparison (compare), so nothing is called a difference."
    elif found and max(compared.over_targets.runs for compared in found) < answer.fewest:
        yield (
            f"So few draws cannot show any of {answer.comparisons} comparisons after Holm's correction, however large; "
            f"{answer.fewest} can."
        )
    if missing := answer.missing():
        yield f"{missing} of the runs that count are missing; a comparison is over the draws that both sides have."


def say(compared: Compared, answer: Answer) -> str:
    """Say in a sentence what a comparison shows."""
    found, verdict, unit = compared.over_targets, compared.verdict, answer.unit([compared.first, compared.second])
    reading = READINGS.get(verdict.reading, f"{{first}} and {{second}} are not compared ({verdict.reading})")
    where = f" at {show_level(compared.level)}" if compared.level else ""
    p = "" if math.isnan(verdict.p) else f", p {show_p(verdict.p) if verdict.p < 0.001 else f'= {show_p(verdict.p)}'}"
    few = {0: "", 1: ", of this source"}.get(compared.sources, f", of these {compared.sources} sources")
    needed = ""
    if verdict.reading == "not distinguished" and found.needed is not None:
        draws = f"more than {MOST_DRAWS:,}" if found.needed > MOST_DRAWS else f"about {found.needed:,}"
        needed = f"; {draws} {unit} would show a difference of this size"
    numbers = " ".join(filter(None, (f"{found.mean:+.3f}", found.spread)))
    names = reading.format(first=compared.first, second=compared.second)
    return f"{names}{where}: {numbers} over {found.runs} {unit}{p}{few}{needed}."


def describe_methods(planned: Planned, answer: Answer) -> str:
    """Write the protocol in a paragraph that can be pasted into a paper."""
    study, cells = planned.study, answer.final()
    varied = "; ".join(f"{key} in {{{', '.join(map(str, values))}}}" for key, values in study.vary.items())
    fewer = [f"{name} on {study.draws_of(name)}" for name, method in study.methods.items() if method.draws is not None]
    parts = [
        f"{', '.join(study.methods)} were compared on {_listed('target task', study.targets)} with the backbone "
        f"{', '.join(sorted({cell.backbone for cell in cells}))}{f', at {varied}' if varied else ''}, on {study.draws} "
        f"draws{f' ({chr(44).join(fewer)})' if fewer else ''}.",
        "The seed of a draw chose its examples, the first values and the order, the same for every method.",
        f"Runs had {_span(sorted(set(planned.max_steps.values())))} optimizer steps, of which the validation score on "
        f"held-out examples chose the best, and were scored on {_span(sorted({cell.n or 0 for cell in cells}))} test "
        f"rows, the same in every run, by {', '.join(sorted({cell.metric for cell in cells}))}.",
        *(
            f"The source {name} was trained with {source.seeds} seeds; draw d started from seed d mod {source.seeds}."
            for name, source in study.sources.items()
        ),
        _describe_tuning(study),
        "Intervals are two-way over draws and test rows (variance (MS_d + MS_r - MS_e)/(nm), at least that of either "
        "by itself; Student's t), with delete-one pseudo-values where a metric has no row scores; the average over "
        f"targets holds them fixed; from {SOURCES_AS_BLOCKS} seeds of a source on, these take the place of the draws.",
        "p is the larger of a sign-flip test over the draws and the interval's, corrected by Holm's method over the "
        f"{answer.comparisons} declared comparisons.",
        "; ".join(sorted({f"mpt {cell.mpt} (code {cell.code})" for cell in answer.memory.cells.values()})),
        "; ".join(sorted({cell.machine for cell in cells if cell.machine})) + ".",
    ]
    return " ".join(parts)


def _describe_tuning(study: Study) -> str:
    if study.tune is None:
        return "Every method ran with its own learning rates; nothing was tuned."
    has_grid = any(method.grid for method in study.methods.values())
    return (
        f"Each method had {study.candidates(next(iter(study.methods)))} candidate settings, factors of its own "
        f"learning rates{' or a grid of its own' if has_grid else ''}; for each method and level the one with the best "
        f"mean validation score over the targets on {study.tune.draws} further draws was taken, ties to the middle."
    )


def _listed(what: str, names: Sequence[str]) -> str:
    return f"{len(names)} {what}{'s' if len(names) > 1 else ''} ({', '.join(names)})"


def _span(values: list[int]) -> str:
    return "no" if not values else f"{values[0]:,}" if len(values) == 1 else f"{values[0]:,} to {values[-1]:,}"


def _estimates(answer: Answer) -> dict[tuple[Any, ...], Estimate]:
    """(targets, method, level) to the estimate of its score."""
    return {
        (name, method, level_value(level)): found
        for name, targets in targets_of(answer)
        for method in answer.study.methods
        for level in answer.study.levels
        if (found := answer.estimate(method, level, targets)) is not None
    }


def _charts(answer: Answer) -> Iterator[Section]:
    """The scores over what varies, where one key does."""
    methods, points = list(answer.study.methods), dict[str, dict[str, list[tuple[Any, Estimate]]]]()
    if len(answer.study.vary) != 1:
        return
    for (name, method, value), found in _estimates(answer).items():
        points.setdefault(name, {}).setdefault(method, []).append((value, found))
    (key,) = answer.study.vary
    bounds = answer.bounds(answer.study.targets)
    drawn = [
        Chart(name, charts.framed(charts.score_over(of_panel, methods, x=key, y="score", bounds=bounds)))
        for name, of_panel in points.items()
    ]
    yield Section("over", f"Score over {key}", "Mean and 95 % interval.", legend_of(methods, methods), drawn)


def _line(cell: Cell) -> dict[str, Any]:
    """A cell as a line of a report."""
    own = {"run": cell.run, "task": cell.target, "split": "test", "metric": cell.metric, "score": cell.score}
    return own | {"n": cell.n, "method": cell.method, "level": cell.level}


def _runs(answer: Answer) -> Runs:
    """The cells that count as the runs of a report; failed jobs beside them."""
    origins = [
        Origin(
            run=cell.run,
            stage=cell.method,
            tasks=" ".join(filter(None, (cell.target, cell.level, f"draw {cell.draw}"))),
            backbone=cell.backbone,
            command="",
            started=cell.started,
            mpt=cell.mpt,
            git=cell.git,
            machine=cell.machine,
            seconds=cell.seconds,
            trained=cell.trained,
            score=cell.score,
            rows=cell.n,
        )
        for cell in answer.final()
    ]
    failures = [
        Outcome(number, cell.run, list(map(str, cell.place)), error=cell.error)
        for number, cell in enumerate(answer.failures())
    ]
    return Runs([], origins, [], failures, "test")
