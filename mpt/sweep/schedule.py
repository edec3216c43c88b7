"""Pieces of a sweep, sent to workers as they become free; what a lost worker was at is run again."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

FEWEST = 4
"""Jobs of a piece, where a group has so many: each piece opens a training of its own."""
TRIES = 3
"""How often a job may be alone with a worker that is lost, before it counts as failed."""


class LostWorkerError(Exception):
    """A worker ended without an answer: killed, out of memory, or its machine is gone."""


class StoppedError(Exception):
    """The sweep was asked to stop, and every worker has."""


@dataclass(frozen=True)
class Piece:
    """Jobs that one worker runs in one training.

    Attributes:
        jobs: Their places in the sweep.
        tries: How often a worker has been lost with it.
    """

    jobs: tuple[int, ...]
    tries: int = 0

    def again(self) -> list["Piece"]:
        """What to send after a worker was lost: the same once more, then halves, so that a job that kills is found."""
        if self.tries == 0 or len(self.jobs) == 1:
            return [Piece(self.jobs, self.tries + 1)]
        middle = len(self.jobs) // 2
        halves = self.jobs[:middle], self.jobs[middle:]
        return [Piece(half, self.tries if len(half) > 1 else 0) for half in halves]


class Engine(Protocol):
    """Whatever runs pieces somewhere else; one implementation for each value of ``fused.engine``."""

    at_once: int | None
    """Most pieces under way; None: it has a queue of its own, and takes all."""

    def send(self, pieces: Sequence[Piece]) -> list[Any]:
        """Send pieces out; returns a handle for each."""

    def ended(self, handles: Sequence[Any]) -> list[Any]:
        """Wait a moment, and return the handles whose pieces have ended."""

    def result(self, handle: Any) -> list[Any]:
        """Return what became of each job of an ended piece.

        Raises:
            LostWorkerError: The worker gave no answer.
        """

    def stop(self, handles: Sequence[Any]) -> None:
        """Ask the workers of these pieces to stop where they can go on; returns at once."""

    def is_stopped(self) -> bool:
        """Tell whether the sweep is to stop."""

    def lost(self, piece: Piece, error: LostWorkerError) -> None:
        """Say that a worker was lost."""


def cut(jobs: Sequence[int], most: int, workers: int) -> list[Piece]:
    """Cut the jobs of a group into pieces, large ones first: each takes the 2 W-th part of what is left.

    So workers that are slower, or that got longer jobs, wait little for each other at the end (guided self-scheduling,
    Polychronopoulos and Kuck 1987, with a factor of 2).

    Args:
        jobs: Places in the sweep.
        most: Most jobs of a piece, ``fused.max_runs``.
        workers: W.
    """
    pieces, begin = [], 0
    while begin < len(jobs):
        left = len(jobs) - begin
        size = min(most, max(FEWEST, -(-left // (2 * workers))))
        pieces.append(Piece(tuple(jobs[begin : begin + size])))
        begin += size
    return pieces


def run_pieces(pieces: Sequence[Piece], engine: Engine) -> dict[int, Any]:
    """Run pieces until all have ended.

    Returns:
        What became of each job, by its place; of one that lost its worker :data:`TRIES` times the error.

    Raises:
        StoppedError: The sweep was asked to stop, and every worker has ended.
    """
    waiting = deque(sorted(pieces, key=lambda piece: -len(piece.jobs)))  # small ones fill up the end
    under_way: dict[Any, Piece] = {}
    found: dict[int, Any] = {}
    stopping = False
    while waiting or under_way:
        if engine.is_stopped() and not stopping:
            stopping = True
            engine.stop(list(under_way))
        if stopping and not under_way:
            raise StoppedError
        room = 0 if stopping else len(waiting) if engine.at_once is None else engine.at_once - len(under_way)
        sent = [waiting.popleft() for _ in range(min(room, len(waiting)))]
        if sent:
            under_way |= dict(zip(engine.send(sent), sent, strict=True))
        for handle in engine.ended(list(under_way)):
            piece = under_way.pop(handle)
            try:
                found |= dict(zip(piece.jobs, engine.result(handle), strict=True))
            except Exception as error:
                if stopping:  # whatever a worker says that has been stopped
                    continue
                if not isinstance(error, LostWorkerError):
                    raise
                engine.lost(piece, error)
                if len(piece.jobs) == 1 and piece.tries + 1 >= TRIES:
                    found[piece.jobs[0]] = error
                else:
                    waiting.extendleft(reversed(piece.again()))
    if stopping:
        raise StoppedError
    return found
