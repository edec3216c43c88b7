"""Run a group of jobs over one backbone: which can be in one, and how they end, stop and go on."""

import dataclasses
import signal
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from mpt.backbone import load_backbone
from mpt.config import FusedConfig, RunConfig
from mpt.methods import find_method
from mpt.run.group_member import QUIET, GroupMember
from mpt.run.interrupt import Interrupted, StopSignals
from mpt.run.progress import Pace, on_terminal, print_line
from mpt.stages import find_stage
from mpt.sweep.fused_backbone import Computation, FusedBackbone
from mpt.sweep.turns import Turn
from mpt.tasks import load_split


@dataclass
class Job:
    """A run of a group.

    Attributes:
        name: Its folder's, for messages.
        config: Its configuration.
        run: Carries it out within the group, and returns what it returns.
    """

    name: str
    config: RunConfig
    run: Callable[[GroupMember], Any]


FUSED_PRECISIONS = ("32-true", "32", "bf16-mixed")
"""Precisions that runs can have beside each other: each computation is in that of its runs."""


class CrowdedError(OSError):
    """The memory did not suffice for the gradients of several runs; each goes on beside fewer others."""


def reason_to_run_alone(config: RunConfig) -> str | None:
    """Say why a job cannot share a training with others; None where it can."""
    trainer = config.trainer
    if not find_stage(config.stage).trains:
        return f"task={config.stage} trains nothing"
    if find_method(config.method.name).is_within_backbone:
        return f"method={config.method.name} trains within the backbone"
    if takes_several_devices(config):
        return "it may use several devices"
    if config.backbone.quantize == "int8":
        return "backbone.quantize=int8 looks for outliers in the whole batch, where the neighbors would count"
    if trainer.precision not in FUSED_PRECISIONS:
        return f"trainer.precision={trainer.precision} would change the group's weights, or scales its losses"
    return None


def takes_several_devices(config: RunConfig | None) -> bool:
    """Tell whether a job may start processes of its own; one without a configuration starts nothing."""
    if config is None:
        return False
    trainer = config.trainer
    return trainer.strategy != "auto" or trainer.num_nodes > 1 or trainer.devices not in ("auto", 1, "1")


def group_of(config: RunConfig) -> tuple[Any, ...]:
    """Build the key that jobs of one group share: weights, device, threads and torch's choice of algorithms."""
    weights = dataclasses.replace(config.backbone, dropout=True)
    return (
        *dataclasses.astuple(weights),
        config.trainer.accelerator,
        config.trainer.threads,
        config.trainer.deterministic,
    )


class RunSignals(StopSignals):
    """The signals of one run of a group, which only the group itself receives.

    Args:
        group: The group's.
    """

    def __init__(self, group: StopSignals) -> None:
        self.group = group
        super().__init__()

    @property
    def received(self) -> int:
        """The group's signal; 0 before there is one."""
        return self.group.received

    @received.setter
    def received(self, value: int) -> None:
        """Leave it to the group."""

    def __enter__(self) -> "RunSignals":
        return self

    def install(self) -> None:
        """Leave the handling to the group."""


def run_group(jobs: Sequence[Job], fused: FusedConfig) -> list[Any]:
    """Run jobs side by side, at most ``fused.max_runs`` at a time; one that ends makes room for the next.

    Args:
        jobs: Jobs with one :func:`group_of`.
        fused: Bounds.

    Returns:
        Of each job what it returned, or the exception that ended it.

    Raises:
        Interrupted: A signal stopped them; each has a checkpoint, and the same command goes on.
        FileNotFoundError: There is no such backbone.
        ValueError: The backbone does not fit.
    """
    config = jobs[0].config
    if config.trainer.threads is not None:
        torch.set_num_threads(config.trainer.threads)
    threads = torch.get_num_threads()
    shared = load_backbone(config.backbone)
    if config.trainer.accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        shared.to("cuda")
    computation = Computation(shared, fused.max_runs)
    splits: dict[str, Any] = {}

    def read_once(*arguments: Any) -> Any:
        key = repr(arguments)
        if key not in splits:
            splits[key] = load_split(*arguments)
        return splits[key]

    with StopSignals() as signals, Shown(jobs) as shown:
        signals.training = True  # a signal is noted here, and stops each run where it can go on

        def start(job: Job) -> Turn:
            turn, own = Turn(job.name), RunSignals(signals)

            def run(turn: Turn) -> Any:
                QUIET.set(True)
                torch.set_num_threads(1)  # of this thread, which computes next to nothing
                backbone = FusedBackbone(shared, turn, job.config.backbone.dropout)
                return job.run(GroupMember(backbone, own, read_once, turn.used))

            turn.stops_anywhere = lambda: bool(signals.received) and not own.training
            turn.start(run)
            return turn

        waiting = deque(enumerate(jobs))
        live: list[tuple[int, Turn]] = []
        results: list[Any] = [None] * len(jobs)
        while waiting or live:
            while waiting and len(live) < fused.max_runs and not signals.received:
                position, job = waiting.popleft()
                live.append((position, start(job)))
            if not live:
                break
            for position, turn in [each for each in live if each[1].request is None]:
                live.remove((position, turn))
                if _was_crowded(turn.error):
                    waiting.append((position, jobs[position]))
                    continue
                results[position] = turn.result if turn.error is None else turn.error
                shown.finished()
            _compute_next([turn for _, turn in live], computation, shown)
        torch.set_num_threads(threads)
        if signals.received:
            done = sum(not isinstance(result, BaseException) and result is not None for result in results)
            print_line(f"stopped; {done} of {len(jobs)} jobs are finished, and the same command goes on")
            raise Interrupted(signals.received or signal.SIGINT)
    return results


def _compute_next(turns: Sequence[Turn], computation: Computation, shown: "Shown") -> None:
    """Compute what some of the runs wait for, and let each of them go on until it asks again."""
    for turn in turns:
        if turn.request is not None and turn.stops_anywhere():
            turn.answer(Interrupted(signal.SIGINT))
            return
    chosen = computation.choose(turns)
    if not chosen:
        return
    requests = [turn.request for turn in chosen if turn.request is not None]
    began = time.monotonic()
    try:
        answers = computation.compute(requests)
    except Exception as error:
        if _is_out_of_memory(error) and len(chosen) > 1:
            computation.most_together = max(1, len(chosen) // 2)
            print_line(f"out of memory with {len(chosen)} runs at once; goes on with {computation.most_together}")
            if requests[0].kind != "backward":
                return
            # Some gradients may be there and others not, so these steps cannot be repeated.
            error = CrowdedError("out of memory beside other runs; goes on from its last checkpoint")
        answers = [error] * len(chosen)
    took, rows = time.monotonic() - began, [request.rows for request in requests]
    for turn, share in zip(chosen, rows, strict=True):
        turn.seconds += took * share / sum(rows)
    if requests[0].kind == "backward":
        shown.trained(len(chosen))
    del requests
    for turn, answer in zip(chosen, answers, strict=True):
        turn.answer(answer)


def _was_crowded(error: BaseException | None) -> bool:
    """Tell whether a run ended only because others ran beside it; the command line wraps what ended a job."""
    return isinstance(error, CrowdedError) or (error is not None and isinstance(error.__cause__, CrowdedError))


def _is_out_of_memory(error: Exception) -> bool:
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "not enough memory" in str(error)


class Shown:
    """The progress of a group: a bar over all steps on a terminal, elsewhere a line every ten seconds.

    Args:
        jobs: All of them.
    """

    def __init__(self, jobs: Sequence[Job]) -> None:
        self.jobs, self.pace, self.steps, self.done = len(jobs), Pace(), 0, 0
        self.bar: Progress | None = None
        self.total = sum(job.config.trainer.max_steps * job.config.trainer.accumulate_grad_batches for job in jobs)

    def __enter__(self) -> "Shown":
        if on_terminal():
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self.bar = Progress(*columns, transient=True)
            self.bar.start()
            self._task = self.bar.add_task(f"{self.jobs} jobs, steps", total=self.total)
        else:
            print_line(f"{self.jobs} jobs in one training")
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.stop()

    def trained(self, runs: int) -> None:
        """Count a step of some runs."""
        self.steps += runs
        if self.bar is not None:
            self.bar.update(self._task, completed=self.steps)
        elif self.pace.is_due():
            speed = self.steps / self.pace.elapsed
            print_line(f"{self.done} of {self.jobs} jobs finished; {self.steps:,} steps, {speed:.1f} a second")

    def finished(self) -> None:
        """Count a job that has ended."""
        self.done += 1
        if self.bar is not None:
            self.bar.update(self._task, description=f"{self.done} of {self.jobs} jobs finished, steps")
