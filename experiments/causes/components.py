"""How much of a few-shot score's variance each cause carries: examples, first values, order, and what they do together.

    python experiments/causes/components.py

Every draw of examples meets every first value and every order, so the design is crossed with one score a cell. The
components are those of the random-effects analysis of variance, by the method of moments (Searle, Casella and
McCulloch, Variance Components, 1992, chapter 4): each effect's mean square, less those of the effects that contain it.
A negative estimate stands as it comes.
"""

import json
import math
from itertools import combinations
from pathlib import Path

import numpy as np

CELLS = Path(__file__).parent / "results" / "cells.jsonl"
CAUSES = ("examples", "first values", "order")


def read_scores(path: Path) -> dict[tuple[str, str], np.ndarray]:
    """Read the scores of each method and target, over examples × first values × order."""
    cells = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    cells = [cell for cell in cells if cell["phase"] == "final"]
    scores = {}
    for key in sorted({(cell["method"], cell["target"]) for cell in cells}):
        found = {(int(c["draw"]), *_seeds(c["level"])): c["score"] for c in cells if (c["method"], c["target"]) == key}
        axes = [sorted({place[axis] for place in found}) for axis in range(3)]
        scores[key] = np.array([[[found[d, f, o] for o in axes[2]] for f in axes[1]] for d in axes[0]])
    return scores


def _seeds(level: str) -> tuple[int, int]:
    """The seeds of first values and order that a level names."""
    named = dict(word.split("=") for word in level.split())
    return int(named["seeds.first_values"]), int(named["seeds.order"])


def components(scores: np.ndarray) -> dict[tuple[int, ...], float]:
    """Estimate the variance that each set of causes carries, by the axes of the scores."""
    sets = [axes for size in (1, 2, 3) for axes in combinations(range(3), size)]
    squares, mean = {}, scores.mean()
    effects: dict[tuple[int, ...], np.ndarray] = {}
    for axes in sets:
        others = tuple(set(range(3)) - set(axes))
        within = [effects[each] for each in effects if set(each) < set(axes)]
        effects[axes] = scores.mean(axis=others, keepdims=True) - mean - sum(within)
        degrees = np.prod([scores.shape[axis] - 1 for axis in axes])
        squares[axes] = float((effects[axes] ** 2).sum() * _repeats(scores, axes) / degrees)
    found: dict[tuple[int, ...], float] = {}
    for axes in reversed(sets):  # a mean square holds, besides its own, the components of all sets around it
        around = sum(found[each] * _repeats(scores, each) for each in found if set(axes) < set(each))
        found[axes] = float((squares[axes] - around) / _repeats(scores, axes))
    return found


def _repeats(scores: np.ndarray, axes: tuple[int, ...]) -> int:
    """Scores that one level of a set of causes has."""
    return math.prod(size for axis, size in enumerate(scores.shape) if axis not in axes)


def main() -> None:
    """Print the table: the standard deviation of a single score, and each component's share of its variance."""
    rows = {key: components(table) for key, table in read_scores(CELLS).items()}
    names = {axes: " × ".join(CAUSES[axis] for axis in axes) for axes in sorted(next(iter(rows.values())), key=len)}
    names[0, 1, 2] = "all three, and rounding"
    print(f"| method | target | sd | {' | '.join(names.values())} |\n|{'---|' * (len(names) + 3)}")
    for (method, target), found in rows.items():
        total = sum(found.values())
        shares = " | ".join(f"{found[axes] / total:.0%}" if total else "–" for axes in names)
        print(f"| {method} | {target} | {max(total, 0) ** 0.5:.3f} | {shares} |")
    pooled = {axes: sum(found[axes] for found in rows.values()) / len(rows) for axes in names}
    total = sum(pooled.values())
    print(f"| all | | {total**0.5:.3f} | {' | '.join(f'{pooled[axes] / total:.0%}' for axes in names)} |")


if __name__ == "__main__":
    main()
