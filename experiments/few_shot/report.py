"""Tables and a figure of what `few_shot.py` has run: `python experiments/few_shot/report.py`."""

import argparse
import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from few_shot import HERE, METHODS
from study import Line, read_lines

from mpt.report.estimate import Estimate, estimate
from mpt.report.pairs import compare
from mpt.report.tables import markdown

matplotlib.use("Agg")
from matplotlib import pyplot

BASES = ("plain", "untrained")


def over_draws(lines: Iterable[Line], metric: str) -> Estimate | None:
    """The mean over targets, with its interval over draws."""
    by_draw: dict[Any, list[float]] = defaultdict(list)
    for line in lines:
        if metric in line:
            by_draw[line["seed"]].append(line[metric])
    return estimate([statistics.fmean(values) for values in by_draw.values()]) if by_draw else None


def cells(lines: Sequence[Line]) -> dict[tuple[str, str], list[Line]]:
    """The lines of each mixture and k, with those of the methods that start from nothing."""
    without_source = [line for line in lines if line["mixture"] == "none"]
    found = {}
    for mixture in ("all", "family", "three"):
        for k in ("4", "16", "32", "all"):
            here = [line for line in lines if (line["mixture"], line["k"]) == (mixture, k)]
            if here:
                found[mixture, k] = here + [line for line in without_source if line["k"] == k]
    return found


def overview(lines: Sequence[Line]) -> str:
    """A table per mixture and k: score, differences, speed, score before, numbers trained."""
    parts = []
    for (mixture, k), here in cells(lines).items():
        slim = [{key: line[key] for key in ("run", "task", "method", "seed", "score")} for line in here]
        # Over targets: the draws of a target are averaged first, so the targets are what is sampled.
        against = {base: compare(slim, "method", base, "score")[1] for base in BASES}
        rows = []
        for method in METHODS:
            of = [line for line in here if line["method"] == method]
            if not of:
                continue
            differences = ["–" if base == method else str(against[base]["all tasks", method]) for base in BASES]
            sizes = statistics.fmean(line["trained_parameters"] for line in of) / (
                1 if METHODS[method].separate else len({line["task"] for line in of})
            )
            numbers = [over_draws(of, metric) for metric in ("before", "score", "curve_mean")]
            rows.append([f"`{method}`", *numbers, *differences, f"{sizes:,.0f}"])
        header = ["method", "before", "score", "mean of the validation curve"]
        header += [*(f"score minus {base}" for base in BASES), "trained"]
        parts.append(f"### Sources: {mixture}; k = {k}\n{markdown(header, rows)}")
    return "\n\n".join(parts) + "\n"


def by_target(lines: Sequence[Line], mixture: str, k: str) -> str:
    """Targets down, methods across."""
    here = cells(lines)[mixture, k]
    targets = dict.fromkeys(line["task"] for line in here)
    methods = [method for method in METHODS if any(line["method"] == method for line in here)]
    rows = []
    for task in targets:
        scores = {
            method: [line["score"] for line in here if (line["task"], line["method"]) == (task, method)]
            for method in methods
        }
        estimates = [estimate(values) if values else None for values in scores.values()]
        rows.append([f"`{task}`", *(str(found or "–") for found in estimates)])
    return markdown(["target", *(f"`{method}`" for method in methods)], rows) + "\n"


def draw_quality(lines: Sequence[Line], output: Path) -> None:
    """Quality over k, a line per method, and over trained parameters at k = 16, sources: all."""
    found = {k: here for (mixture, k), here in cells(lines).items() if mixture == "all"}
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(13, 5), sharey=True)
    for number, method in enumerate(METHODS):
        estimates = {
            k: over_draws([line for line in here if line["method"] == method], "score") for k, here in found.items()
        }
        points = {k: score for k, score in estimates.items() if score is not None}
        style: dict[str, Any] = {
            "marker": "o",
            "capsize": 3,
            "color": f"C{number % 10}",
            "linestyle": "-" if number < 10 else "--",
        }
        places = [list(found).index(k) + 0.03 * (number - 6) for k in points]
        left.errorbar(
            places,
            [score.mean for score in points.values()],
            [
                [score.mean - score.interval[0] for score in points.values()],
                [score.interval[1] - score.mean for score in points.values()],
            ],
            label=method,
            **style,
        )
        if "16" in points:
            of = [line for line in found["16"] if line["method"] == method]
            size = of[0]["trained_parameters"] / (1 if METHODS[method].separate else len({line["task"] for line in of}))
            score = points["16"]
            low, high = score.interval
            right.errorbar([size], [score.mean], [[score.mean - low], [high - score.mean]], **style)
            right.annotate(method, (size, score.mean), textcoords="offset points", xytext=(5, 4), fontsize="small")
    left.set_xticks(range(len(found)), found)
    left.set(xlabel="k", ylabel="score: mean over targets, 95 % interval over draws", title="sources: all")
    left.legend(fontsize="small", ncols=2)
    right.set(xlabel="numbers trained for a target", xscale="log", title="sources: all, k = 16")
    figure.tight_layout()
    figure.savefig(output / "quality.svg")
    pyplot.close(figure)


def main() -> None:
    """Write tables and a figure of the runs that are finished."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=HERE / "results")
    output: Path = parser.parse_args().output
    lines = read_lines(HERE / "results" / "runs.csv")
    if not lines:
        raise SystemExit(f"{HERE / 'results' / 'runs.csv'}: no runs yet; run few_shot.py first")
    (output / "table.md").write_text(overview(lines), encoding="utf-8")
    if ("all", "16") in cells(lines):
        (output / "targets.md").write_text(by_target(lines, "all", "16"), encoding="utf-8")
        draw_quality(lines, output)


if __name__ == "__main__":
    main()
