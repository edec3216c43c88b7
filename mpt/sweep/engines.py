"""Where the pieces of a sweep run: processes of this machine, jobs of SLURM by submitit, or tasks of Ray."""

import importlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from contextvars import ContextVar
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from loky import ProcessPoolExecutor  # type: ignore[import-untyped]

from mpt.command import environment
from mpt.config import FusedConfig
from mpt.errors import UserError, unknown
from mpt.run.interrupt import StopSignals
from mpt.run.progress import print_line
from mpt.sweep.schedule import LostWorkerError, Piece

Work = Callable[[Piece], tuple[Callable[..., list[Any]], tuple[Any, ...]]]
"""What a worker calls for a piece, and with what: both can be sent to another machine."""
MOMENT = 0.2
"""Seconds between two looks at what has ended."""
DAY = 24 * 60
"""Minutes that a job of SLURM may take unless ``fused.options`` says otherwise."""


_KEPT: ContextVar[dict[int, ProcessPoolExecutor] | None] = ContextVar("_KEPT", default=None)


@contextmanager
def keep_workers() -> Iterator[None]:
    """Keep the processes of :class:`LocalEngine` from one call of the launcher to the next, within a block."""
    pools: dict[int, ProcessPoolExecutor] = {}
    token = _KEPT.set(pools)
    try:
        yield
    finally:
        _KEPT.reset(token)
        _end_all(pools)


def _end_all(pools: dict[int, ProcessPoolExecutor]) -> None:
    for pool in pools.values():
        pool.shutdown(wait=False, kill_workers=True)


class _Engine:
    """What all engines share."""

    at_once: int | None

    def __init__(self, work: Work, fused: FusedConfig, signals: StopSignals, jobs: int) -> None:
        self.work, self.fused, self.signals, self.jobs, self.done = work, fused, signals, jobs, 0
        self.at_once = fused.workers

    def is_stopped(self) -> bool:
        """Tell whether a signal has come."""
        return bool(self.signals.received)

    def lost(self, piece: Piece, error: LostWorkerError) -> None:
        """Print a line."""
        print_line(f"a worker was lost with {len(piece.jobs)} jobs ({error}); they are run again where they stopped")

    def count(self, results: list[Any]) -> list[Any]:
        """Print how many jobs have ended."""
        self.done += len(results)
        print_line(f"{self.done} of {self.jobs} jobs have ended, on {self.fused.workers} workers")
        return results


class LocalEngine(_Engine):
    """Processes of this machine, each with its share of the cores, and its GPU where there are any.

    Each worker is a pool of its own, since a pool of which one process is lost is given up. It is loky's, whose
    processes do not run the program's main module again, as the standard library's would.
    """

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        kept = _KEPT.get()
        self.is_mine, self.pools = kept is None, {} if kept is None else kept
        self.pids: dict[int, Future[int]] = {}
        self.slots: dict[Future[Any], int] = {}

    def send(self, pieces: Sequence[Piece]) -> list[Any]:
        """Give each piece to a free worker."""
        handles: list[Any] = []
        for piece in pieces:
            slot = next(slot for slot in range(self.fused.workers) if slot not in self.slots.values())
            self.pids[slot] = self._ask_for_pid(slot)
            call, values = self.work(piece)
            handles.append(self.pools[slot].submit(call, *values))
            self.slots[handles[-1]] = slot
        return handles

    def _ask_for_pid(self, slot: int) -> Future[int]:
        """Let a worker say its number; one that is not there, or has ended since the last call, is started."""
        if slot in self.pools:
            try:
                asked: Future[int] = self.pools[slot].submit(os.getpid)
                return asked
            except BrokenProcessPool:
                self.pools.pop(slot).shutdown(wait=False, kill_workers=True)
        self.pools[slot] = ProcessPoolExecutor(
            1, initializer=_begin_worker, initargs=(os.getpid(),), env=self._variables(slot)
        )
        asked = self.pools[slot].submit(os.getpid)
        return asked

    def _variables(self, slot: int) -> dict[str, str]:
        """Its share of the machine; read when a process starts."""
        threads = max(1, (os.cpu_count() or 1) // self.fused.workers)
        found = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(threads))}
        if devices := _gpus():
            found["CUDA_VISIBLE_DEVICES"] = devices[slot % len(devices)]
        return found

    def ended(self, handles: Sequence[Any]) -> list[Any]:
        """Wait a moment for the first to end."""
        return list(futures.wait(handles, timeout=MOMENT, return_when=futures.FIRST_COMPLETED).done)

    def result(self, handle: Any) -> list[Any]:
        """Return what the worker did; one that is lost is replaced when the next piece is sent."""
        slot = self.slots.pop(handle)
        try:
            return self.count(handle.result())
        except (BrokenProcessPool, SystemExit) as error:
            self.pools.pop(slot).shutdown(wait=False, kill_workers=True)
            raise LostWorkerError("its process has ended") from error

    def stop(self, handles: Sequence[Any]) -> None:
        """Send the workers a SIGTERM, which ends one that has nothing to do."""
        for pid in self.pids.values():
            if pid.done() and pid.exception() is None:
                try:
                    os.kill(pid.result(), signal.SIGTERM)
                except ProcessLookupError:
                    continue
            else:
                pid.add_done_callback(lambda pid: os.kill(pid.result(), signal.SIGTERM))

    def close(self) -> None:
        """End the workers, but those that :func:`keep_workers` keeps."""
        if self.is_mine:
            _end_all(self.pools)


class SubmititEngine(_Engine):
    """Jobs of SLURM, those that are sent at once as one array; without SLURM submitit's own processes."""

    def __init__(self, work: Work, fused: FusedConfig, signals: StopSignals, jobs: int, folder: Path) -> None:
        super().__init__(work, fused, signals, jobs)
        self.submitit = _library("submitit")
        self.executor = self.submitit.AutoExecutor(folder=folder)
        if self.executor.cluster == "slurm":
            self.at_once = None
        options = {"timeout_min": DAY, "name": "mpt", "slurm_array_parallelism": fused.workers, **fused.options}
        try:
            self.executor.update_parameters(**options)
        except (NameError, TypeError, ValueError) as error:
            raise UserError(f"fused.options: submitit refuses them: {error}") from error

    def send(self, pieces: Sequence[Piece]) -> list[Any]:
        """Submit pieces, as one array."""
        threads = max(1, (os.cpu_count() or 1) // self.fused.workers)
        of_local = {} if self.at_once is None else {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(threads))}
        handles = []
        with environment(**of_local), self.executor.batch():
            for piece in pieces:
                call, values = self.work(piece)
                handles.append(self.executor.submit(call, *values))
        return handles

    def ended(self, handles: Sequence[Any]) -> list[Any]:
        """Look whether jobs have ended."""
        time.sleep(MOMENT)
        return [handle for handle in handles if handle.done()]

    def result(self, handle: Any) -> list[Any]:
        """Return what the job did."""
        try:
            return self.count(handle.result())
        except self.submitit.core.utils.FailedJobError as error:
            raise RuntimeError(f"submitit's job {handle.job_id}: {error}") from error
        except self.submitit.core.utils.UncompletedJobError as error:
            raise LostWorkerError(f"submitit's job {handle.job_id} left no result") from error

    def stop(self, handles: Sequence[Any]) -> None:
        """Cancel the jobs, which sends each a signal."""
        for handle in handles:
            handle.cancel(check=False)

    def close(self) -> None:
        """Leave nothing: jobs have ended."""


class RayEngine(_Engine):
    """Tasks of Ray: of the cluster that ``RAY_ADDRESS`` names, or of one that is started on this machine."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.ray = _library("ray")
        self.is_mine = not self.ray.is_initialized()
        if self.is_mine:
            # Its workers would give way to whatever else the machine is at; importing torch took minutes so.
            os.environ.setdefault("RAY_worker_niceness", "0")
            self.ray.init(include_dashboard=False, log_to_driver=True, logging_level="error")

    def send(self, pieces: Sequence[Piece]) -> list[Any]:
        """Send each piece as a task that is not retried by Ray: what has to be run again is decided here."""
        options = {"num_cpus": 1, "max_retries": 0, "max_calls": 1, **self.fused.options}
        if "num_gpus" not in options and self.ray.cluster_resources().get("GPU"):
            options["num_gpus"] = 1
        handles = []
        for piece in pieces:
            call, values = self.work(piece)
            handles.append(self.ray.remote(**options)(call).remote(*values))
        return handles

    def ended(self, handles: Sequence[Any]) -> list[Any]:
        """Wait a moment for the first to end."""
        return list(self.ray.wait(list(handles), timeout=MOMENT)[0]) if handles else []

    def result(self, handle: Any) -> list[Any]:
        """Return what the task did."""
        names = ("WorkerCrashedError", "NodeDiedError", "TaskCancelledError", "OutOfMemoryError")
        lost = tuple(getattr(self.ray.exceptions, name) for name in names)
        try:
            return self.count(self.ray.get(handle))
        except lost as error:
            raise LostWorkerError(type(error).__name__) from error

    def stop(self, handles: Sequence[Any]) -> None:
        """Cancel the tasks, which raises KeyboardInterrupt in each."""
        for handle in handles:
            self.ray.cancel(handle)

    def close(self) -> None:
        """End a cluster that was started here."""
        if self.is_mine:
            self.ray.shutdown()


ENGINES = ("local", "submitit", "ray")


def check_engine(fused: FusedConfig) -> None:
    """Refuse an engine that is not there.

    Raises:
        UserError: It is unknown, not installed, or the number of workers is none.
    """
    if fused.engine not in ENGINES:
        raise UserError(unknown("fused.engine", fused.engine, ENGINES))
    if fused.workers < 1:
        raise UserError(f"fused.workers: is {fused.workers}; it must be at least 1")
    if fused.engine == "local" and fused.options:
        raise UserError("fused.options: are for submitit and ray; leave them out, or set fused.engine")
    if fused.engine != "local" and find_spec(fused.engine) is None:
        raise UserError(f"fused.engine: {fused.engine} is not installed; pip install 'mpt[{fused.engine}]'")


@contextmanager
def open_engine(work: Work, fused: FusedConfig, folder: Path, jobs: int) -> Iterator[Any]:
    """Open an engine, and close it whatever happens.

    Args:
        work: What a worker calls for a piece.
        fused: Which engine, and how many workers.
        folder: For what submitit writes.
        jobs: Of the sweep, for messages.
    """
    with StopSignals() as signals:
        signals.training = True  # a signal is noted, and stops the workers first
        engine: Any
        if fused.engine == "submitit":
            engine = SubmititEngine(work, fused, signals, jobs, folder)
        else:
            engine = (RayEngine if fused.engine == "ray" else LocalEngine)(work, fused, signals, jobs)
        try:
            yield engine
        finally:
            engine.close()


def _library(name: str) -> Any:
    return importlib.import_module(name)


def _gpus() -> list[str]:
    """Numbers of the GPUs that this process may use, found without starting CUDA in it."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [text for text in named.split(",") if text.strip()]
    import torch

    return [str(number) for number in range(torch.cuda.device_count())]


def _begin_worker(parent: int) -> None:
    """End with the process that sends the pieces, however that one ends."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # where nothing is under way there is nothing to say

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        print("the sweep's own process has ended; the same command goes on", file=sys.stderr)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="mpt-parent", daemon=True).start()
