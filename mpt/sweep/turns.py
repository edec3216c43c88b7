"""Runs that take turns: one at a time goes on until it needs the backbone, which then computes for all that wait.

Each run has a thread, but only so that it can stop in the middle: never do two of them run at once, and the order is
always the same, so a group of runs is as deterministic as a single one.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from typing import Any


@dataclass
class Request:
    """A call of the backbone that a run waits for.

    Attributes:
        kind: Which call.
        key: What calls that are computed together have in common.
        values: Its arguments.
        seed: Seed of the dropout masks, where there are any.
    """

    kind: str
    key: tuple[Any, ...]
    values: dict[str, Any]
    seed: int = 0
    rows: int = 1
    """Rows of the batch; of gradients, those of the step that they are of. What is computed is shared out by them."""
    number: int = field(default_factory=count().__next__)
    """Requests are numbered as they come."""


@dataclass(eq=False)
class Turn:
    """A run, as the others see it.

    Attributes:
        name: For messages.
        request: What it waits for; None where it has ended.
        result: What it returned; None before.
        error: What ended it otherwise.
    """

    name: str
    request: Request | None = None
    result: Any = None
    error: BaseException | None = None
    stops_anywhere: Callable[[], bool] = lambda: False
    """True where the run has to stop here: a signal came, and none of its steps is under way."""
    seconds: float = 0.0
    """Seconds that the run has used so far: its own work, and its share of shared computations."""
    _resumed: float = 0.0
    _answer: Any = None
    _mine: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    _theirs: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))

    def start(self, job: Callable[["Turn"], Any]) -> None:
        """Run ``job`` until it needs the backbone or ends."""

        def run() -> None:
            self._mine.acquire()
            try:
                self.result = job(self)
            except BaseException as error:
                self.error = error
            self.request = None
            self._theirs.release()

        # A daemon, so that an error of the group itself ends the process.
        threading.Thread(target=run, name=self.name, daemon=True).start()
        self._resume()

    def ask(self, request: Request) -> Any:
        """Wait, in the run's own thread, for the answer to a request.

        Raises:
            BaseException: What the computation raised.
        """
        self.request = request
        self._theirs.release()
        self._mine.acquire()
        answer, self._answer = self._answer, None
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def answer(self, value: Any) -> None:
        """Give the run what it waits for, an exception to be raised there included, and let it go on."""
        self.request, self._answer = None, value
        self._resume()

    def used(self) -> float:
        """Return the seconds that the run has used, asked from within it."""
        return self.seconds + time.monotonic() - self._resumed

    def _resume(self) -> None:
        self._resumed = time.monotonic()
        self._mine.release()
        self._theirs.acquire()
        self.seconds += time.monotonic() - self._resumed
