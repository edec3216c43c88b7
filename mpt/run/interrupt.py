"""Stop a run on Ctrl-C or SIGTERM: between two training steps, so that it resumes exactly."""

import math
import os
import signal
import sys
import threading
import time
from types import FrameType, TracebackType
from typing import Any

import torch
from torch import distributed

CAUGHT = (signal.SIGINT, signal.SIGTERM)
REPEATED_WITHIN = 1.0
"""Seconds within which a second SIGTERM is the first one once more."""


class Interrupted(SystemExit):
    """The run was asked to stop; as the exit code, 128 plus the signal's number (130 for Ctrl-C, 143 for SIGTERM)."""

    def __init__(self, signum: int) -> None:
        super().__init__(128 + signum)


class StopSignals:
    """Turn SIGINT and SIGTERM into :class:`Interrupted`, raised where nothing is lost.

    While a step may be under way, a signal is only noted, and :meth:`check`, which the training loader calls between
    steps, raises. Anywhere else it raises at once. A second Ctrl-C ends the process on the spot, and so
    does a SIGTERM that comes more than a second after the first: launchers send the first one twice. A thread waits
    for it, since Python's own handlers wait for the end of a backward pass, which may take a minute.

    Attributes:
        received: The signal's number; 0 before there is one.
        training: Whether steps are under way.
    """

    def __init__(self) -> None:
        self.received = 0
        self.training = False
        self._previous: dict[signal.Signals, Any] = {}
        self._pipe = (-1, -1, -1)  # its end to read, its end to write, and who was woken before

    def __enter__(self) -> "StopSignals":
        if threading.current_thread() is not threading.main_thread():
            return self  # Python gives signals to the main thread alone, which stops what it has started
        self._previous = {signum: signal.getsignal(signum) for signum in CAUGHT}
        read, write = os.pipe()
        os.set_blocking(write, False)
        self._pipe = read, write, signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        threading.Thread(target=_end_at_the_second, args=(read,), name="mpt-signals", daemon=True).start()
        self.install()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for signum, handler in self._previous.items():
            signal.signal(signum, handler)
        if self._previous:
            _, write, before = self._pipe
            signal.set_wakeup_fd(before, warn_on_full_buffer=False)
            os.close(write)  # which ends the thread

    def install(self) -> None:
        """Handle the signals from here on; Lightning puts its own handler of SIGTERM in place of ours as it starts."""
        if threading.current_thread() is not threading.main_thread():
            return
        for signum in CAUGHT:
            signal.signal(signum, self._handle)

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        first, self.received = not self.received, self.received or signum
        if not self.training:
            raise Interrupted(signum)
        if first:
            print("\nstopping after this step (or validation); Ctrl-C again stops at once", file=sys.stderr)

    def check(self) -> None:
        """Raise where any process of the run has received a signal; every process calls this between the same steps.

        Raises:
            Interrupted: As said.
        """
        signum = self.received
        if distributed.is_available() and distributed.is_initialized():
            on_gpu = distributed.get_backend() == "nccl"
            shared = torch.tensor(signum, device="cuda" if on_gpu else "cpu")
            distributed.all_reduce(shared, op=distributed.ReduceOp.MAX)
            signum = int(shared)
        if signum:
            raise Interrupted(signum)


def _end_at_the_second(read: int) -> None:
    """End the process at the second signal that is meant as one, whatever Python is at work on."""
    since = math.inf
    with os.fdopen(read, "rb", buffering=0) as signals:
        while received := signals.read(1):
            signum = received[0]
            if signum not in CAUGHT:
                continue
            if math.isinf(since):
                since = time.monotonic()
            elif signum == signal.SIGINT or time.monotonic() - since > REPEATED_WITHIN:
                if sys.stderr.isatty():
                    os.write(2, b"\x1b[?25h")  # a progress bar hides the cursor
                os._exit(128 + signum)
