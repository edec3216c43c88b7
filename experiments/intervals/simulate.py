"""How often the intervals of a report hold the true value, and how often a true 0 is called a difference.

python experiments/intervals/simulate.py [REPETITIONS]       # writes results/coverage.csv and results/false_calls.csv
"""

import csv
import itertools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from mpt.report.statistics import cross, flip_signs, holm

RESULTS = Path(__file__).parent / "results"
DRAWS, ROWS = (3, 6, 10), (30, 100, 500)
EFFECTS = ("none", "small", "large", "all or nothing")
Matrix = Any
"""An array of numpy's."""
Data = tuple[Matrix, Matrix]
"""Answers ``(n, m)`` and truths ``(m,)``."""


def draw_effects(effect: str, n: int, random: np.random.Generator) -> Matrix:
    """What the draws add to the log odds of a right answer, ``(n, 1)``."""
    if effect == "all or nothing":
        return np.where(random.random((n, 1)) < 0.6, 4.0, -6.0)
    return {"none": 0.0, "small": 0.4, "large": 1.2}[effect] * random.standard_normal((n, 1))


def answer_classes(effect: str, n: int, m: int, random: np.random.Generator) -> Data:
    """Classes 0 and 1, a third of them 1; rows differ in how hard they are."""
    truths = (random.random(m) < 0.35).astype(int)
    odds = 0.8 + draw_effects(effect, n, random) + random.standard_normal((1, m))
    right = random.random((n, m)) < 1 / (1 + np.exp(-odds))
    return np.where(right, truths, 1 - truths), truths


def answer_numbers(effect: str, n: int, m: int, random: np.random.Generator) -> Data:
    """Numbers that follow the truth more or less closely."""
    truths = random.standard_normal(m)
    closeness = 1 / (1 + np.exp(-(0.5 + draw_effects(effect, n, random))))
    noise = 0.6 * random.standard_normal((1, m)) + 0.8 * random.standard_normal((n, m))
    return closeness * truths + (1 - closeness) * noise, truths


def accuracy(answers: Matrix, truths: Matrix) -> Matrix:
    """Row scores, whose mean is the score, ``(n, m)``."""
    return (answers == truths).astype(float)


def _macro_f1(hits: Matrix, named: Matrix, there: Matrix) -> Matrix:
    with np.errstate(invalid="ignore"):
        return np.nan_to_num(2 * hits / (named + there)).mean(0)


def macro_f1(answers: Matrix, truths: Matrix) -> Matrix:
    """Pseudo-values of macro-F1 of two classes, ``(n, m)``; the counts without a row are those of all less its own."""
    classes = np.arange(2)[:, None, None]
    is_named, is_there = answers == classes, np.broadcast_to(truths, answers.shape) == classes  # (2, n, m)
    counts = [each.astype(float) for each in (is_named & is_there, is_named, is_there)]
    sums = [each.sum(2, keepdims=True) for each in counts]
    m = answers.shape[1]
    return m * _macro_f1(*sums) - (m - 1) * _macro_f1(*(total - each for total, each in zip(sums, counts, strict=True)))


def _pearson(m: Any, x: Matrix, y: Matrix, xx: Matrix, yy: Matrix, xy: Matrix) -> Matrix:
    return (m * xy - x * y) / np.sqrt((m * xx - x * x) * (m * yy - y * y))


def pearson(answers: Matrix, truths: Matrix) -> Matrix:
    """Pseudo-values of Pearson's correlation, ``(n, m)``; the sums without a row are those of all less its own."""
    truths = np.broadcast_to(truths, answers.shape)
    parts = (answers, truths, answers**2, truths**2, answers * truths)
    sums = [each.sum(1, keepdims=True) for each in parts]
    m = answers.shape[1]
    without = _pearson(m - 1, *(total - each for total, each in zip(sums, parts, strict=True)))
    return m * _pearson(m, *sums) - (m - 1) * without


METRICS: dict[str, tuple[Callable[[str, int, int, np.random.Generator], Data], Callable[[Matrix, Matrix], Matrix]]] = {
    "mean": (answer_classes, accuracy),
    "macro-F1": (answer_classes, macro_f1),
    "Pearson": (answer_numbers, pearson),
}


def true_value(metric: str, effect: str, draws: int = 2000) -> float:
    """The score over endless draws and rows: the mean of many draws on 5,000 rows each."""
    answer, values = METRICS[metric]
    random = np.random.default_rng(1)
    return float(np.mean([values(*answer(effect, 1, 5000, random)).mean() for _ in range(draws)]))


def coverage(metric: str, effect: str, n: int, m: int, truth: float, repetitions: int) -> tuple[float, float]:
    """Share of intervals that hold the true value, and their mean width; without one the mean itself has to be it."""
    answer, values = METRICS[metric]
    random = np.random.default_rng([n, m])
    held, widths = 0, 0.0
    for _ in range(repetitions):
        found = cross(values(*answer(effect, n, m, random)))
        low, high = found.interval((-1.0 if metric == "Pearson" else 0.0, 1.0))
        held += low <= truth <= high
        widths += 0.0 if np.isnan(high) else high - low
    return held / repetitions, widths / repetitions


def false_calls(effect: str, n: int, m: int, comparisons: int, repetitions: int) -> tuple[float, float]:
    """Share of families of true zeros in which a difference is called: by sign flips only, and by both tests."""
    random = np.random.default_rng(7)
    flips = both = 0
    for _ in range(repetitions):
        differences = []
        for _ in range(comparisons):
            scores = []
            for _ in range(2):  # two methods, each with rows that it finds hard, and draws that suit it
                odds = 0.8 + draw_effects(effect, n, random) + random.standard_normal((1, m))
                scores.append((random.random((n, m)) < 1 / (1 + np.exp(-odds))).astype(float))
            differences.append(scores[0] - scores[1])
        by_flips = [flip_signs(each.mean(1)) for each in differences]
        flips += min(holm(by_flips)) < 0.05
        both += min(holm([max(p, cross(each).p()) for p, each in zip(by_flips, differences, strict=True)])) < 0.05
    return flips / repetitions, both / repetitions


def write(name: str, header: list[str], rows: list[list[Any]]) -> None:
    """Write one table of the results."""
    RESULTS.mkdir(exist_ok=True)
    with (RESULTS / name).open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


def main(repetitions: int) -> None:
    """Run both simulations."""
    rows: list[list[Any]] = []
    for metric, effect in itertools.product(METRICS, EFFECTS):
        truth = true_value(metric, effect)
        for n, m in itertools.product(DRAWS, ROWS):
            held, width = coverage(metric, effect, n, m, truth, repetitions)
            rows.append([metric, effect, n, m, f"{truth:.4f}", repetitions, f"{held:.3f}", f"{width:.3f}"])
            print(*rows[-1], flush=True)
    write("coverage.csv", ["metric", "draw_effect", "draws", "rows", "truth", "repetitions", "covered", "width"], rows)
    rows = []
    for effect, (n, comparisons) in itertools.product(EFFECTS, ((6, 1), (8, 6), (10, 6))):
        flips, both = false_calls(effect, n, 100, comparisons, repetitions)
        rows.append([effect, n, 100, comparisons, repetitions, f"{flips:.3f}", f"{both:.3f}"])
        print(*rows[-1], flush=True)
    header = ["draw_effect", "draws", "rows", "comparisons", "repetitions", "by_flips_only", "by_both_tests"]
    write("false_calls.csv", header, rows)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1000)
