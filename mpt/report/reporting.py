"""``python -m mpt.report FOLDER...``: many run folders as tables with intervals, figures, and one page to look at.

It reads what runs left, and nothing else: config.yaml and metrics.json, and the records of sweeps.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mpt.atomic import check_file_replaceable, write_atomically
from mpt.errors import UserError
from mpt.report.classes import read_classes
from mpt.report.estimate import Estimate, show_sampled, summarize
from mpt.report.figures import KINDS, draw_figure
from mpt.report.gather import Line, default_groups
from mpt.report.labels import Labels
from mpt.report.page import write_page
from mpt.report.pairs import compare, judge, show_needed, show_p
from mpt.report.runs import Runs, read_runs
from mpt.report.tables import latex, markdown, pivot
from mpt.run.record import write_csv

WRITTEN = ("table.csv", "table.md", "table.tex", "classes.csv", "confusion.csv", *(f"figure.{kind}" for kind in KINDS))
"""Files that ``--output`` writes beside runs.csv, by which it knows its own."""


def report(arguments: argparse.Namespace) -> str:
    """Carry out one command line.

    Returns:
        What it prints.

    Raises:
        FileNotFoundError: As :func:`mpt.report.gather.gather`.
        ValueError: As :func:`mpt.report.estimate.summarize` and :func:`mpt.report.estimate.compare`; a label is for
            nothing.
    """
    labels = Labels(arguments.label)
    if arguments.html:
        check_file_replaceable(arguments.html, b'name="generator" content="mpt', "a page")
    if arguments.output:
        check_file_replaceable(arguments.output / "runs.csv", b"run,task,metric,", "a report's table")
        written = [name for name in WRITTEN if (arguments.output / name).exists()]
        if written and not (arguments.output / "runs.csv").is_file():
            raise UserError(
                f"--output: {arguments.output} has a {written[0]} that no report wrote; give another folder"
            )
    runs = read_runs(arguments.folders, arguments.split)
    lines, metric = runs.lines, arguments.metric
    labels.check(lines, metric)
    by = arguments.by or default_groups(lines)
    by += [key for key in (arguments.across, arguments.x) if key and key not in by]
    groups = summarize(lines, by, metric)
    table = _table(groups, by, arguments.across, metric, labels)
    parts = [*_notes(runs)]
    parts.append(
        f"{labels.show(metric)}: mean [95 % interval over {show_sampled(groups.values())}] (number of runs); rows are "
        "those that a run was scored on\n" + markdown(*table)
    )
    parts += _pooled_notes(groups, by)
    if arguments.against:
        key, _, base = arguments.against.partition("=")
        grouping, pairs = compare(lines, key, base, metric)
        keys = ["task", *grouping, key]
        header = [*map(labels.show, keys), "difference", "rows", "p (Holm)", "reading", "draws needed"]
        verdicts = judge(pairs)
        rows = [
            [
                *map(labels.show_value, keys, pair),
                found,
                found.tested,
                show_p(verdicts[pair].p),
                verdicts[pair].reading,
                show_needed(found.needed),
            ]
            for pair, found in pairs.items()
        ]
        parts.append(
            f"{labels.show(metric)} minus that of {labels.show_pair(key, base)} on the same draws and seeds: mean "
            f"[95 % interval] (number of pairs); p: the larger of sign flips' and the interval's, corrected over "
            "the differences that it stands beside; draws needed: to find a difference of this size in four of five "
            "studies\n" + markdown(header, rows)
        )
    text = "\n\n".join(parts) + "\n"
    if arguments.output:
        _write_files(arguments.output, lines, groups, by, text, latex(*table))
        write_classes(arguments.output, lines, by)
    if arguments.x:
        figures = [arguments.output / f"figure.{kind}" for kind in KINDS]
        draw_figure(groups, by, arguments.x, metric, figures, labels)
    if arguments.html:
        title = arguments.title or f"{', '.join(map(str, arguments.folders))}"
        write_page(runs, arguments.html, by=by, metric=metric, labels=labels, base=arguments.against, title=title)
        text += f"\npage: {arguments.html}\n"
    return text


def _folder(text: str) -> Path:
    """A folder's name on the command line; an empty one would be the working folder."""
    if not text.strip():
        raise argparse.ArgumentTypeError("a folder's name is empty; give a run folder, or . for this one")
    return Path(text)


def _pooled_notes(groups: Mapping[tuple[Any, ...], Estimate], by: Sequence[str]) -> list[str]:
    """Name what groups pool that are no repetitions of one run."""
    pooled = list(dict.fromkeys(key for found in groups.values() if found.runs > 1 for key in found.pooled))
    if not pooled:
        return []
    return [
        f"pooled: runs that differ in {', '.join(pooled)}, so their mean has no interval; add these keys: --by "
        f"{' '.join([*by, *pooled])}"
    ]


def _notes(runs: Runs) -> list[str]:
    """Collect the warnings that a reader needs before the numbers."""
    notes = [f"{len(runs.origins)} finished runs"]
    if len(runs.versions) > 1:
        notes.append(f"of different versions: {'; '.join(runs.versions)}; what differs may be the code")
    notes += [f"left out, not finished: {run}" for run in runs.unfinished]
    notes += [f"left out, a copy of another run: {run}" for run in runs.copies]
    notes += [f"failed: {' '.join(failure.overrides)}: {failure.error}" for failure in runs.failures]
    return notes


def _table(
    groups: Mapping[tuple[Any, ...], Estimate], by: Sequence[str], across: str | None, metric: str, labels: Labels
) -> tuple[list[str], list[list[str]]]:
    """The table of all groups, with the values of one key side by side where one is asked for."""
    if across is None:
        header = [*map(labels.show, by), labels.show(metric), "rows"]
        return header, [
            [*map(labels.show_value, by, group), str(found), found.tested] for group, found in groups.items()
        ]
    columns, rows = pivot(groups, by, across)
    others = [key for key in by if key != across]
    header = [*map(labels.show, others), *(labels.show_pair(across, each) for each in columns), "rows"]
    count = len(others)
    return header, [
        [
            *map(labels.show_value, others, row[:count]),
            *("–" if found is None else str(found) for found in row[count:]),
            ", ".join(dict.fromkeys(found.tested for found in row[count:] if found is not None)),
        ]
        for row in rows
    ]


def _write_files(
    folder: Path,
    lines: Sequence[Line],
    groups: Mapping[tuple[Any, ...], Estimate],
    by: Sequence[str],
    text: str,
    latex_table: str,
) -> None:
    """Write runs.csv and table.csv, .md and .tex."""
    columns = list(dict.fromkeys(key for line in lines for key in line))
    write_csv(folder / "runs.csv", columns, ([line.get(key, "") for key in columns] for line in lines))
    header = [*by, "mean", "sd", "low", "high", "runs", "rows", "interval_over", "pooled"]
    rows = (
        [
            *group,
            found.mean,
            found.sd,
            found.low,
            found.high,
            found.runs,
            found.tested,
            show_sampled([found]),
            " ".join(found.pooled),
        ]
        for group, found in groups.items()
    )
    write_csv(folder / "table.csv", header, rows)
    for name, content in {"table.md": text, "table.tex": latex_table}.items():
        with write_atomically(folder / name) as temporary:
            temporary.write_text(content, encoding="utf-8")


def write_classes(folder: Path, lines: Sequence[Line], by: Sequence[str]) -> None:
    """Write classes.csv and confusion.csv, where there are classes."""
    if not (found := read_classes(lines, by)):
        return
    keys = ["task", *(key for key in by if key != "task")]
    rows = [[*group, *of_class[:5]] for group, classes in found.items() for of_class in classes]
    write_csv(folder / "classes.csv", [*keys, "class", "rows", "precision", "recall", "f1"], rows)
    cells = [
        [*group, of_class.name, answered, count]
        for group, classes in found.items()
        for of_class in classes
        for answered, count in of_class.answered.items()
    ]
    write_csv(folder / "confusion.csv", [*keys, "class", "answered", "rows"], cells)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Raises:
        OSError: A file or folder is not there, or cannot be written.
        UserError: The command line or what it names is wrong.
    """
    parser = argparse.ArgumentParser(
        "python -m mpt.report", description="Many run folders as tables with intervals, figures, and one page."
    )
    parser.add_argument("folders", nargs="+", type=_folder, help="run folders, folders of them, or sweeps/NAME.jsonl")
    parser.add_argument(
        "--html", type=Path, metavar="FILE", help="write a page that needs no network: tables, charts, answers"
    )
    parser.add_argument("--title", help="of the page; default: the folders")
    parser.add_argument(
        "--by", nargs="+", metavar="KEY", help="group by these; default: what tells the runs apart, but the seeds"
    )
    parser.add_argument("--across", metavar="KEY", help="put this key's values side by side")
    parser.add_argument("--against", metavar="KEY=VALUE", help="paired differences to the runs with this value")
    parser.add_argument("--x", metavar="KEY", help="draw figure.pdf, .png and .svg over this key; needs --output")
    parser.add_argument(
        "--label",
        action="append",
        default=[],
        metavar="NAME=TEXT",
        help="show TEXT for a key, a value, a task or KEY=VALUE; may be repeated",
    )
    parser.add_argument(
        "--metric",
        default="score",
        help="score, before, best_step, curve_mean (of all validations: who learns sooner has more), fit_seconds, "
        "trained_parameters, or a metric's name",
    )
    parser.add_argument("--split", default="test", choices=("test", "validation"))
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FOLDER",
        help="also write runs.csv, the table as table.csv, .md and .tex, and classes.csv and confusion.csv, there",
    )
    arguments = parser.parse_args(argv)
    if arguments.x and not arguments.output:
        parser.error("--x: draws a figure, so give --output FOLDER")
    if arguments.title and not arguments.html:
        parser.error("--title: is that of the page, so give --html FILE")
    if arguments.against and "=" not in arguments.against:
        parser.error("--against: write KEY=VALUE, as in prompt.init=RANDOM")
    print(report(arguments), end="")
    return 0
