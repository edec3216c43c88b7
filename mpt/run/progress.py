"""Show how far a run is: a bar on a terminal, elsewhere a line every so often."""

import sys
import time
from collections.abc import Iterable, Iterator

from rich.console import Console
from rich.progress import track
from torch import distributed

from mpt.data.batches import Batch
from mpt.run.group_member import QUIET

SECONDS_BETWEEN_LINES = 10.0


def on_terminal() -> bool:
    """Tell whether a person is likely to look at the output as it comes."""
    return Console().is_terminal


def track_batches(batches: Iterable[Batch], doing: str, total: int) -> Iterator[Batch]:
    """Pass batches through, and show how many of their examples are done.

    Args:
        batches: The batches of an evaluation.
        doing: What is done with them, as a reader of the bar should see it.
        total: Number of batches.

    Yields:
        The batches.
    """
    other = distributed.is_available() and distributed.is_initialized() and distributed.get_rank() != 0
    if other or QUIET.get():
        yield from batches
    elif on_terminal():
        yield from track(batches, doing, total, transient=True)
    else:
        yield from _with_lines(batches, doing, total)


def _with_lines(batches: Iterable[Batch], doing: str, total: int) -> Iterator[Batch]:
    pace, examples = Pace(), 0
    for done, batch in enumerate(batches, start=1):
        yield batch
        examples += len(batch["task_ids"])
        if pace.is_due():
            speed, left = pace.estimate(examples, done / total)
            print_line(f"{doing}: {done} of {total} batches, {speed} rows/s, {left} left")


class Pace:
    """When the next line is due, and what it says of speed and time left.

    Args:
        every: Seconds between lines.
    """

    def __init__(self, every: float | None = None) -> None:
        self.every = SECONDS_BETWEEN_LINES if every is None else every
        self.started = self._last = time.monotonic()

    @property
    def elapsed(self) -> float:
        """Seconds since it began."""
        return max(time.monotonic() - self.started, 1e-9)

    def is_due(self) -> bool:
        """Tell whether the last line is long enough ago; if so, a line counts as printed now."""
        if time.monotonic() - self._last < self.every:
            return False
        self._last = time.monotonic()
        return True

    def estimate(self, examples: int, share: float) -> tuple[str, str]:
        """Examples per second, and the time left when ``share`` of the work, above 0, is done."""
        elapsed = time.monotonic() - self.started
        left = elapsed * (1 - share) / share
        speed = examples / max(elapsed, 1e-9)
        return (f"{speed:.0f}" if speed >= 10 else f"{speed:.1f}"), format_seconds(left)


def format_seconds(seconds: float) -> str:
    """A duration for people: ``45 s``, ``3 min 20 s``, ``2 h 5 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def print_line(text: str) -> None:
    """Print a line of progress on stderr, at once."""
    print(text, file=sys.stderr, flush=True)
