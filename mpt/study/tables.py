"""The tables of a study: scores, comparisons, success, sources, tuning, costs."""

import math
import statistics
from collections.abc import Sequence

from mpt.report.pairs import show_needed, show_p
from mpt.report.section import Cell as Shown
from mpt.report.section import Table, interval_cell, number_cell
from mpt.study.answer import Answer
from mpt.study.cells import Cell
from mpt.study.file import Level, show_level
from mpt.study.plan import Start, candidate_overrides, candidate_scores

AVERAGE = "all targets"


def text_cell(text: str) -> Shown:
    """A text, sorted by itself."""
    return Shown(text or "–", text)


def targets_of(answer: Answer) -> list[tuple[str, list[str]]]:
    """The average over targets, where there are several, and each target: its name and its targets."""
    targets = list(answer.study.targets)
    several = [(AVERAGE, targets)] if len(targets) > 1 else []
    return [*several, *((target, [target]) for target in targets)]


def scores_table(answer: Answer) -> Table:
    """Mean score of every method at every level, over all targets and on each."""
    rows = []
    for level in answer.study.levels:
        for name, targets in targets_of(answer):
            for method in answer.study.methods:
                found = answer.estimate(method, level, targets)
                if found is None:
                    continue
                cells = answer.cells(method, level, targets)
                befores = [cell.before for cell in cells if cell.before is not None]
                rows.append(
                    [
                        text_cell(show_level(level)),
                        text_cell(name),
                        text_cell(method),
                        number_cell(found.mean),
                        interval_cell(found),
                        number_cell(found.sd),
                        Shown(f"{found.runs} {answer.unit([method])}", found.runs),
                        Shown(found.tested, found.rows[0] if found.rows else -1),
                        number_cell(statistics.fmean(befores) if befores else None),
                    ]
                )
    header = ["level", "target", "method", "score", "95 % interval", "sd", "replicates", "rows", "before"]
    equal = any(row[4].text == "all equal" for row in rows)
    note = "All equal: every draw scored the same on every row, which says nothing of how far others may lie."
    return Table(header, rows, note if equal else "")


def comparisons_table(answer: Answer) -> Table:
    """The declared comparisons, on the average over targets and, described only, on each target."""
    rows = []
    for compared in answer.compare():
        several = len(answer.study.targets) > 1
        by_target = compared.by_target.items() if several else ()
        shown = [(AVERAGE if several else answer.study.targets[0], compared.over_targets, compared.verdict.p)]
        shown += [(target, difference, math.nan) for target, difference in by_target]
        for name, found, p in shown:
            reading = compared.verdict.reading if not math.isnan(p) else "described only"
            rows.append(
                [
                    text_cell(show_level(compared.level)),
                    text_cell(f"{compared.first} − {compared.second}"),
                    text_cell(name),
                    Shown(f"{found.mean:+.3f}", found.mean),
                    interval_cell(found),
                    Shown(f"{found.runs} {answer.unit([compared.first, compared.second])}", found.runs),
                    Shown(show_p(p), -1.0 if math.isnan(p) else p),
                    text_cell(reading),
                    Shown(show_needed(found.needed), found.needed or -1),
                ]
            )
    header = ["level", "difference", "target", "mean", "95 % interval", "replicates", "p (Holm)", "reading"]
    note = (
        f"The family is {answer.comparisons} comparisons on the average over targets. p is the larger of the sign "
        "flips' and the interval's; a difference is called one below .05 after Holm's correction. Draws needed: to "
        "find a difference of this size in four of five studies."
    )
    return Table([*header, "draws needed"], rows, note if rows else "")


def success_table(answer: Answer) -> Table:
    """The share of draws that succeed on each target."""
    rows = []
    for level in answer.study.levels:
        for target in answer.study.targets:
            for method in answer.study.methods:
                if (found := answer.success(method, level, target)) is not None:
                    rows.append(
                        [
                            *map(text_cell, (show_level(level), target, method)),
                            number_cell(found.share, ".2f"),
                            Shown(f"[{found.low:.2f}, {found.high:.2f}]", found.high - found.low),
                            Shown(f"{found.successes} of {found.draws}", found.successes),
                        ]
                    )
    return Table(["level", "target", "method", "share", "95 % interval", "draws"], rows)


def sources_table(answer: Answer) -> Table:
    """Mean score of the draws that start from each seed of a source, over all targets."""
    rows = []
    for level in answer.study.levels:
        for method in answer.study.methods:
            seeds = answer.seeds_of(method)
            draws = answer.draws([method], level, answer.study.targets)
            for seed in range(seeds):
                scores = [
                    score
                    for target in answer.study.targets
                    for score in answer.scores(method, level, target, [draw for draw in draws if draw % seeds == seed])
                ]
                if scores:
                    count = len(scores) // len(answer.study.targets)
                    row = [text_cell(show_level(level)), text_cell(method), Shown(str(seed), seed)]
                    rows.append([*row, number_cell(statistics.fmean(scores)), Shown(str(count), count)])
    return Table(["level", "method", "source seed", "score", "draws"], rows)


def tuning_table(answer: Answer, start: Start) -> Table:
    """Validation score of each candidate, and the one that was chosen."""
    study, scores = answer.study, answer.validation_scores()
    rows = []
    for level in study.levels:
        for method in study.methods:
            chosen = answer.chosen(method, level)
            last = study.candidates(method) - 1
            for candidate, mean in enumerate(candidate_scores(study, scores, method, level)):
                is_edge = candidate == chosen and last > 0 and candidate in (0, last)
                mark = "chosen, at the edge" if is_edge else "chosen" if candidate == chosen else ""
                overrides = candidate_overrides(study, start, method, level, candidate)
                row = [
                    text_cell(show_level(level)),
                    text_cell(method),
                    text_cell(_name(study.methods[method].grid, answer, candidate)),
                ]
                rows.append([*row, text_cell(" ".join(overrides)), number_cell(mean), Shown(mark, mark)])
    return Table(["level", "method", "candidate", "overrides", "validation score", ""], rows)


def _name(grid: Sequence[Sequence[str]], answer: Answer, candidate: int) -> str:
    """What a candidate is: a factor of the method's own rates, or its place in the grid."""
    if grid or answer.study.tune is None:
        return f"grid {candidate + 1}"
    return f"rates x {answer.study.tune.rates[candidate]:g}"


def costs_table(answer: Answer) -> Table:
    """Trained and stored numbers, and a run's own seconds."""
    rows = []
    for method in answer.study.methods:
        cells = [cell for level in answer.study.levels for cell in answer.cells(method, level, answer.study.targets)]
        if cells:
            seconds = [cell.seconds for cell in cells if cell.seconds is not None]
            rows.append(
                [
                    text_cell(method),
                    *(_range_cell(cells, name) for name in ("trained", "stored")),
                    number_cell(statistics.fmean(seconds) if seconds else None, ".1f"),
                    Shown(str(len(cells)), len(cells)),
                ]
            )
    return Table(["method", "trained", "stored", "seconds a run", "runs"], rows)


def _range_cell(cells: Sequence[Cell], name: str) -> Shown:
    """A number of the cells, or the least and the greatest."""
    values = [value for cell in cells if (value := getattr(cell, name)) is not None]
    if not values:
        return Shown("–", -1.0)
    low, high = min(values), max(values)
    return Shown(f"{low:,d}" if low == high else f"{low:,d}–{high:,d}", high)


def level_value(level: Level) -> object:
    """The value of a level of one key, and the text of one of several."""
    return level[0][1] if len(level) == 1 else show_level(level)
