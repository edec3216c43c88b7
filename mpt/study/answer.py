"""What the cells of a study say: estimates, differences and success, by DESIGN's statistics (docs/statistics.md)."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from mpt.metrics import METRICS
from mpt.report.estimate import Estimate, estimate
from mpt.report.pairs import ALL_TASKS, Difference, Verdict, estimate_difference, judge
from mpt.report.statistics import Matrix, fewest_draws, share
from mpt.study.cells import Cell, Memory
from mpt.study.file import Level, Study, show_level

SOURCES_AS_BLOCKS = 6
"""Seeds of a source from which on the sources are what is sampled, and below which a sentence is of these only."""


class Compared(NamedTuple):
    """A declared comparison at one level."""

    first: str
    second: str
    level: Level
    over_targets: Difference
    by_target: dict[str, Difference]
    verdict: Verdict
    sources: int
    """Seeds of the source that it is of; 0: no source, or from :data:`SOURCES_AS_BLOCKS` on."""


class Success(NamedTuple):
    """The share of the draws of a target that reach the study's ``success``."""

    successes: int
    draws: int
    share: float
    low: float
    high: float


@dataclass(frozen=True)
class Answer:
    """The final cells of a study, and what follows from them.

    Args:
        study: The study.
        memory: Its cells.
    """

    study: Study
    memory: Memory

    def cell(self, method: str, level: Level, target: str, draw: int) -> Cell | None:
        """Return a final cell; None where it has not run, or failed."""
        found = self.memory.cells.get(("final", method, show_level(level), target, draw, None))
        return found if found is not None and found.error is None else None

    def draws(self, methods: Sequence[str], level: Level, targets: Sequence[str]) -> list[int]:
        """List the draws that some methods have on each of some targets."""
        return [
            draw
            for draw in range(min(self.study.draws_of(method) for method in methods))
            if all(self.cell(method, level, target, draw) for method in methods for target in targets)
        ]

    def scores(self, method: str, level: Level, target: str, draws: Sequence[int]) -> list[float]:
        """Test scores of some draws, which are there."""
        cells = [self.cell(method, level, target, draw) for draw in draws]
        return [float(cell.score) for cell in cells if cell is not None and cell.score is not None]

    def matrix(self, method: str, level: Level, target: str, draws: Sequence[int]) -> Matrix | None:
        """Row scores of some draws, ``(n, m)``; None where a cell has none."""
        cells = [self.cell(method, level, target, draw) for draw in draws]
        rows = [cell.row_scores for cell in cells if cell is not None and cell.row_scores is not None]
        return np.array(rows, dtype=float) if len(rows) == len(draws) and rows else None

    def bounds(self, targets: Sequence[str]) -> tuple[float, float]:
        """What the score of some targets can be."""
        names = {cell.metric for cell in self.memory.cells.values() if cell.phase == "final" and cell.target in targets}
        ranges = [METRICS[name].range for name in names if name in METRICS] or [(-math.inf, math.inf)]
        return min(low for low, _ in ranges), max(high for _, high in ranges)

    def blocks(self, methods: Sequence[str], draws: Sequence[int]) -> list[list[int]]:
        """Group draws, by their place among them, into those that are no independent replicates of each other.

        From six seeds of a source on, the source is what is sampled, so that its draws are one block; below, each draw
        is a block, and what is said is of these sources only.
        """
        if self.unit(methods) == "draws":
            return [[place] for place in range(len(draws))]
        seeds = max(map(self.seeds_of, methods))
        found: dict[int, list[int]] = {}
        for place, draw in enumerate(draws):
            found.setdefault(draw % seeds, []).append(place)
        return list(found.values())

    def seeds_of(self, method: str) -> int:
        """Return how many seeds the source of a method has; 0 where it starts from none."""
        source = self.study.methods[method].source
        return 0 if source is None else self.study.sources[source].seeds

    def estimate(self, method: str, level: Level, targets: Sequence[str]) -> Estimate | None:
        """Estimate a method's score: the average over some targets; None where no draw has all of them."""
        draws = self.draws([method], level, targets)
        if not draws:
            return None
        blocks = self.blocks([method], draws)
        scores = [self.scores(method, level, target, draws) for target in targets]
        values = [statistics.fmean(of_target[place] for of_target in scores for place in block) for block in blocks]
        matrices = self._matrices([method], level, targets, draws, blocks)
        rows = sum(
            cell.n or 0 for target in targets if (cell := self.cell(method, level, target, draws[0])) is not None
        )
        return estimate(values, self.bounds(targets), (), [rows], matrices)

    def compare(self) -> list[Compared]:
        """Compare what the study declares, at every level; the family is all of it, on the average over targets."""
        found: dict[tuple[str, str, Level], tuple[Difference, dict[str, Difference]]] = {}
        for first, second in self.study.compare:
            for level in self.study.levels:
                over_all = self.difference(first, second, level, self.study.targets)
                by_target = {
                    target: difference
                    for target in self.study.targets
                    if (difference := self.difference(first, second, level, [target])) is not None
                }
                if over_all is not None:
                    found[first, second, level] = over_all, by_target
        verdicts = judge({(ALL_TASKS, *key): over_all for key, (over_all, _) in found.items()})
        return [
            Compared(*key, over_all, by_target, verdicts[(ALL_TASKS, *key)], self._few_sources(key[:2]))
            for key, (over_all, by_target) in found.items()
        ]

    def _few_sources(self, methods: Sequence[str]) -> int:
        return 0 if self.unit(methods) == "sources" else max(map(self.seeds_of, methods))

    def difference(self, first: str, second: str, level: Level, targets: Sequence[str]) -> Difference | None:
        """Estimate a paired difference over the draws that both methods have; None where there is none."""
        draws = self.draws([first, second], level, targets)
        if not draws:
            return None
        blocks = self.blocks([first, second], draws)
        pairs = [
            (self.scores(first, level, target, draws), self.scores(second, level, target, draws)) for target in targets
        ]
        values = [
            statistics.fmean(ours[place] - theirs[place] for ours, theirs in pairs for place in block)
            for block in blocks
        ]
        ours, theirs = (self._matrices([method], level, targets, draws, blocks) for method in (first, second))
        matrices = None
        if ours is not None and theirs is not None:
            matrices = [a - b for a, b in zip(ours, theirs, strict=True)]
        low, high = self.bounds(targets)
        rows = sum(cell.n or 0 for target in targets if (cell := self.cell(first, level, target, draws[0])) is not None)
        return estimate_difference(values, (low - high, high - low), [rows], matrices)

    def _matrices(
        self,
        methods: Sequence[str],
        level: Level,
        targets: Sequence[str],
        draws: Sequence[int],
        blocks: list[list[int]],
    ) -> list[Matrix] | None:
        """The matrices of some targets, a row for each block."""
        found = [self.matrix(methods[0], level, target, draws) for target in targets]
        whole = [matrix for matrix in found if matrix is not None]
        if len(whole) < len(found):
            return None
        return [np.stack([matrix[block].mean(0) for block in blocks]) for matrix in whole]

    def success(self, method: str, level: Level, target: str) -> Success | None:
        """Count the draws of a target that succeed; None where none has run, or the study does not ask."""
        draws = self.draws([method], level, [target])
        if self.study.success is None or not draws:
            return None
        successes = sum(score >= self.study.success for score in self.scores(method, level, target, draws))
        return Success(successes, len(draws), *share(successes, len(draws)))

    def final(self) -> list[Cell]:
        """List the cells that count, in the order of methods, levels, targets and draws."""
        return [
            cell
            for method in self.study.methods
            for level in self.study.levels
            for cell in self.cells(method, level, self.study.targets)
        ]

    def cells(self, method: str, level: Level, targets: Sequence[str]) -> list[Cell]:
        """List the final cells of a method."""
        draws = range(self.study.draws_of(method))
        found = (self.cell(method, level, target, draw) for target in targets for draw in draws)
        return [cell for cell in found if cell is not None]

    def missing(self) -> int:
        """Count the runs that count and failed."""
        planned = sum(map(self.study.draws_of, self.study.methods)) * len(self.study.levels) * len(self.study.targets)
        return planned - len(self.final())

    def failures(self) -> list[Cell]:
        """List the jobs that failed."""
        return [cell for cell in self.memory.cells.values() if cell.error is not None]

    def validation_scores(self) -> dict[tuple[Any, ...], float]:
        """Place of a tuning run to its validation score."""
        return {
            cell.place: cell.validation
            for cell in self.memory.cells.values()
            if cell.phase == "tuning" and cell.error is None and cell.validation is not None
        }

    def chosen(self, method: str, level: Level) -> int | None:
        """Return the candidate that the runs that count have; None where nothing is tuned, or none has run."""
        cells = self.cells(method, level, self.study.targets)
        return cells[0].candidate if cells else None

    @property
    def comparisons(self) -> int:
        """How many comparisons the family has."""
        return len(self.study.compare) * len(self.study.levels)

    @property
    def fewest(self) -> int:
        """Replicates from which on a difference of the family can be called one."""
        return fewest_draws(max(1, self.comparisons))

    def unit(self, methods: Sequence[str]) -> str:
        """Name the replicates of some methods: draws, or from six seeds of a source on sources."""
        return "sources" if max(map(self.seeds_of, methods)) >= SOURCES_AS_BLOCKS else "draws"
