"""A sweep of 10,000 made-up jobs through the scheduler, with workers lost: `python experiments/sweeps/workers.py`."""

import argparse
import heapq
import random
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from mpt.sweep.schedule import LostWorkerError, Piece, cut, run_pieces

OPENING = 10.0
"""Seconds to open a piece: the backbone and the first composition."""


class Simulated:
    """An engine whose clock is a number: workers take the seconds of their jobs, and some are lost on the way.

    Args:
        seconds: Of each job.
        workers: How many.
        losses: Chance that a worker is lost with a piece.
        seed: Of the losses.
    """

    def __init__(self, seconds: Sequence[float], workers: int, losses: float, seed: int) -> None:
        self.at_once: int | None = workers
        self.seconds, self.losses, self.random = seconds, losses, random.Random(seed)
        self.now, self.number = 0.0, 0
        self.under_way: list[tuple[float, int]] = []
        self.pieces: dict[int, tuple[Piece, bool]] = {}
        self.finished: set[int] = set()
        self.worked = self.opened = 0.0
        self.lost_workers = 0

    def send(self, pieces: Sequence[Piece]) -> list[int]:
        """Start pieces now; a job that has ended before is not run again, as in a run folder."""
        handles = []
        for piece in pieces:
            todo = [job for job in piece.jobs if job not in self.finished]
            is_lost = self.random.random() < self.losses
            done = todo[: self.random.randrange(len(todo) + 1)] if is_lost else todo
            if set(done) & self.finished:
                raise AssertionError("a job was done twice")
            self.finished |= set(done)
            took = OPENING + sum(self.seconds[job] for job in done)
            self.worked, self.opened = self.worked + took - OPENING, self.opened + OPENING
            self.number += 1
            heapq.heappush(self.under_way, (self.now + took, self.number))
            self.pieces[self.number] = piece, is_lost
            handles.append(self.number)
        return handles

    def ended(self, handles: Sequence[int]) -> list[int]:
        """Go on to when the next piece ends."""
        self.now, handle = heapq.heappop(self.under_way)
        return [handle]

    def result(self, handle: int) -> list[bool]:
        """Return that each job ended."""
        piece, is_lost = self.pieces.pop(handle)
        if is_lost:
            raise LostWorkerError("made up")
        return [True] * len(piece.jobs)

    def stop(self, handles: Sequence[int]) -> None:
        """Never asked to."""

    def is_stopped(self) -> bool:
        """Never."""
        return False

    def lost(self, piece: Piece, error: LostWorkerError) -> None:
        """Count it."""
        self.lost_workers += 1


def simulate(jobs: int, workers: int, losses: float, seed: int, most: int = 16) -> tuple[float, int, int]:
    """Run a sweep of jobs of lognormal length, most 30 to 90 seconds, in groups of one to 1,000 jobs.

    Returns:
        Time to the end over the bound, workers that were lost, and jobs that were given up.
    """
    draws = random.Random(seed)
    seconds = [draws.lognormvariate(4, 0.5) for _ in range(jobs)]
    pieces, begin = list[Piece](), 0
    while begin < jobs:
        size = min(jobs - begin, draws.randint(1, 1000))
        pieces += cut(range(begin, begin + size), most, workers)
        begin += size
    engine = Simulated(seconds, workers, losses, seed)
    found = run_pieces(pieces, engine)
    given_up = sum(isinstance(each, LostWorkerError) for each in found.values())
    if set(found) != set(range(jobs)) or len(engine.finished) + given_up < jobs:
        raise AssertionError("a job was lost")
    # No schedule is faster than the work that was done, shared out evenly, or than the longest job.
    bound = max((engine.worked + engine.opened) / workers, max(seconds))
    return engine.now / bound, engine.lost_workers, given_up


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=10_000)
    parser.add_argument("--seeds", type=int, default=10)
    arguments = parser.parse_args()
    print("| workers | lost pieces | time to the end over the bound, mean (most) | workers lost | jobs given up |")
    print("|---|---|---|---|---|")
    for workers in (2, 8, 64, 256):
        for losses in (0.0, 0.01, 0.1):
            found = [simulate(arguments.jobs, workers, losses, seed) for seed in range(arguments.seeds)]
            ratios = [ratio for ratio, _, _ in found]
            lost, failed = (sum(each[column] for each in found) for column in (1, 2))
            print(
                f"| {workers} | {losses:.0%} | {statistics.mean(ratios):.3f} ({max(ratios):.3f}) | {lost} | {failed} |"
            )


if __name__ == "__main__":
    main()
