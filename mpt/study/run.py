"""Run a study: its sources, its tuning runs, and the runs that count, as far as the budget reaches."""

import shlex
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from mpt import plugins
from mpt.cli.check import check
from mpt.cli.many import Composed, Jobs, open_jobs
from mpt.config import RunConfig
from mpt.errors import UserError
from mpt.lock import hold_file
from mpt.methods import METHODS as METHOD_NAMES
from mpt.methods import find_method
from mpt.phrase import phrase
from mpt.run.record import METRICS
from mpt.study.answer import Answer
from mpt.study.cells import Cell, Memory, failed_cell, read_cell
from mpt.study.file import Level, Study, show_level
from mpt.study.plan import (
    Costs,
    Job,
    Phase,
    Start,
    choose,
    cuts,
    final_jobs,
    job_of,
    remaining,
    source_jobs,
    tuning_jobs,
)
from mpt.sweep.engines import keep_workers

TOGETHER = 64
"""Jobs of one call: so many are composed before the first of them starts."""
FIRST = 16
"""Jobs of a method after which its cost is known."""
LAUNCH = ("hydra/launcher=fused",)
"""Hydra's own options."""
GRID = "give it a grid of its own, such as [[method.own.template=A], [method.own.template=B]]"
RATES = ("lr_prompt", "lr_factors", "lr_weights")


@dataclass(frozen=True)
class Planned:
    """A study whose every part composes.

    Attributes:
        study: The study.
        start: What its jobs start from.
        max_steps: (method, level) to the optimizer steps of its runs.
    """

    study: Study
    start: Start
    max_steps: dict[tuple[str, Level], int]


@contextmanager
def open_study(study: Study) -> Iterator[Jobs]:
    """Import a study's plugins, and initialize Hydra for its jobs.

    Raises:
        UserError: A plugin cannot be imported, or a folder is not there.
    """
    texts = [*study.common, *(text for method in study.methods.values() for text in method.overrides)]
    plugins.begin([*([f"plugins=[{','.join(study.plugins)}]"] if study.plugins else []), *texts], study.folders)
    with open_jobs(study.folders) as jobs:
        yield jobs


def plan_study(study: Study, jobs: Jobs) -> Planned:
    """Compose one job of every source, method, level, candidate and target, and check it.

    Raises:
        UserError: Everything that is wrong with the overrides, with the part of the file that it belongs to.
    """
    errors: dict[str, None] = {}

    def compose(job: Job, where: str) -> Composed | None:
        try:
            composed = jobs.compose(job.overrides)
            found = check(composed.config)
        except (UserError, HydraException, OmegaConfBaseException, OSError) as error:
            found, composed = phrase(error).splitlines(), None
        awaited = study.methods[job.method].source is not None if job.phase != "source" else False
        for text in found:
            if not (awaited and text.startswith("source: no folder")):  # it is trained by then
                errors[f"{study.path}: {where}: {text}"] = None
        return composed

    sources: dict[tuple[str, int], str] = {}
    for job in source_jobs(study):
        composed = compose(job, f"sources: {job.method}")
        sources[job.method, job.draw] = composed.folder.as_posix() if composed else ""
        k = composed.config.few_shot.k if composed else None
        if k is not None and not any("few_shot.k=" in text for text in study.sources[job.method].overrides):
            errors[
                f"{study.path}: sources: {job.method}: learns from few_shot.k={k} examples, since common is of the "
                "sources too; put few_shot.k under vary, or under the source if it is meant"
            ] = None
    rates: dict[tuple[str, Level], dict[str, float]] = {}
    steps: dict[tuple[str, Level], int] = {}
    start = Start(sources, rates)
    for method in study.methods:
        for level in study.levels:
            where = f"methods: {method}" + (f" at {show_level(level)}" if level else "")
            composed = compose(job_of(study, start, "final", method, level, study.targets[0], 0, None), where)
            if composed is None:
                continue
            if study.candidates(method) > 1 and not study.methods[method].grid and not learns(composed.config):
                errors[f"{study.path}: {where}: trains nothing, so factors of its rates are all the same; {GRID}"] = (
                    None
                )
            rates[method, level] = {f"optim.{key}": getattr(composed.config.optim, key) for key in RATES}
            steps[method, level] = composed.config.trainer.max_steps
            for candidate in range(study.candidates(method)):
                job = job_of(study, start, "tuning", method, level, study.targets[0], 0, candidate)
                compose(job, f"{where}: candidate {candidate}")
    for target in study.targets[1:]:
        method, level = next(iter(study.methods)), study.levels[0]
        if (method, level) in rates:
            compose(job_of(study, start, "final", method, level, target, 0, None), f"targets: {target}")
    if errors:
        raise UserError("\n".join(errors))
    return Planned(study, start, steps)


def learns(config: RunConfig) -> bool:
    """Tell whether a run trains anything; an unknown method has been refused."""
    return config.method.name not in METHOD_NAMES or find_method(config.method.name).learns


class OverBudgetError(UserError):
    """The study would take longer than it may; what has run is kept."""


class Runner:
    """Runs the jobs that a study's memory lacks.

    Args:
        planned: The study.
        jobs: Hydra.
        memory: Its cells.
        budget: Seconds that this call may take; None: as many as it needs.
        options: Hydra's, which say how jobs are launched.
    """

    def __init__(
        self, planned: Planned, jobs: Jobs, memory: Memory, budget: float | None, options: Sequence[str] = ()
    ) -> None:
        self.planned, self.study = planned, planned.study
        self.jobs, self.memory, self.budget, self.options = jobs, memory, budget, (*LAUNCH, *options)
        self.began = time.monotonic()
        self.sources = {(job.method, job.draw): job for job in source_jobs(self.study)}

    def run(self) -> None:
        """Run all three phases.

        Raises:
            OverBudgetError: What remains does not fit.
            UserError: Cells are of other code or data; tuning left a method without a setting.
        """
        self.run_phase("tuning", tuning_jobs(self.study, self.planned.start))
        self.run_phase("final", final_jobs(self.study, self.planned.start, self.chosen()))

    def chosen(self) -> dict[tuple[str, Level], int]:
        """Choose each method's setting by the tuning runs.

        Raises:
            UserError: No candidate of a method has all of its runs.
        """
        try:
            return choose(self.study, Answer(self.study, self.memory).validation_scores())
        except ValueError as error:
            raise UserError(f"{self.study.path}: tune: every candidate of a method has a failed run") from error

    def run_phase(self, phase: Phase, jobs: Sequence[Job]) -> None:
        """Run what is missing of a phase: a few jobs of each method first, after which its cost is known."""
        missing = [job for job in jobs if self.memory.finished(job) is None]
        if jobs:
            print(f"{phase}: {len(jobs)} runs, {len(jobs) - len(missing)} finished", flush=True)
        if not missing:
            return
        self.memory.refuse_other_code()
        self.train_sources(missing)
        methods = list(dict.fromkeys(job.method for job in missing))
        first = {method: [job for job in missing if job.method == method][:FIRST] for method in methods}
        for of_method in first.values():
            self.train(of_method)
            self.check_budget()
        begun = {job.place for of_method in first.values() for job in of_method}
        rest = [job for job in missing if job.place not in begun]
        for begin in range(0, len(rest), TOGETHER):
            self.train(rest[begin : begin + TOGETHER])

    def train_sources(self, jobs: Sequence[Job]) -> None:
        """Train the sources that jobs start from, where their folders are not there."""
        names = {method: each.source for method, each in self.study.methods.items()}
        needed = {
            (name, job.draw % self.study.sources[name].seeds) for job in jobs if (name := names[job.method]) is not None
        }
        missing = [
            job
            for key, job in self.sources.items()
            if key in needed and not (Path(self.planned.start.sources[key]) / METRICS).is_file()
        ]
        if missing:
            print(f"source: {len(needed)} runs, {len(needed) - len(missing)} finished", flush=True)
            self.train(missing)
        failed = [cell for job in missing if (cell := self.memory.cells.get(job.place)) is not None and cell.error]
        if failed:
            raise UserError("\n".join(f"sources: {cell.method}, seed {cell.draw}: {cell.error}" for cell in failed))

    def train(self, jobs: Sequence[Job]) -> None:
        """Train jobs side by side, and remember what became of each."""
        began, clock = time.time(), time.monotonic()
        done = self.jobs.train_many([job.overrides for job in jobs], self.study.runs.name, self.options)
        elapsed = time.monotonic() - clock
        is_new = [each.error is not None or (each.folder / METRICS).stat().st_mtime >= began for each in done]
        cost = elapsed / max(1, sum(is_new))
        self.memory.add(
            read_cell(job, each.folder, cost if new else None)
            if each.error is None
            else failed_cell(job, each.folder, each.error)
            for job, each, new in zip(jobs, done, is_new, strict=True)
        )

    def check_budget(self) -> None:
        """Stop where what remains does not fit into what is left of the budget.

        Raises:
            OverBudgetError: As said, with the smallest cuts that would fit.
        """
        if self.budget is None:
            return
        spent = time.monotonic() - self.began
        costs = known_costs(self.memory.cells.values())
        finished = {cell.place for cell in self.memory.cells.values() if cell.error is None}
        needed = costs.total(remaining(self.study, finished))
        if spent + needed <= self.budget:
            return
        found = list(cuts(self.study, finished, costs, self.budget - spent))
        smallest = f"any of these cuts would fit: {'; '.join(found)}" if found else "no single cut would fit"
        raise OverBudgetError(
            f"{self.study.path}: {show_seconds(spent)} have passed and about {show_seconds(needed)} are needed for the "
            f"{len(remaining(self.study, finished))} runs that remain, and the budget is {show_seconds(self.budget)}; "
            f"{smallest}; what has run is kept"
        )


def known_costs(cells: Iterable[Cell]) -> Costs:
    """Mean seconds by the clock of the runs of each phase and method."""
    found: dict[tuple[str, str], list[float]] = {}
    for cell in cells:
        if cell.cost is not None:
            found.setdefault((cell.phase, cell.method), []).append(cell.cost)
    return Costs({key: sum(values) / len(values) for key, values in found.items()})


def show_seconds(seconds: float) -> str:
    """Write a duration: 45 s, 12 min, 3.5 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def run_study(
    study: Study, budget: float | None = None, workers: int = 1, engine: str = "local"
) -> tuple[Planned, Memory]:
    """Run what a study's memory lacks.

    Args:
        study: From :func:`mpt.study.read.load_study`.
        budget: Seconds that it may take; None: as many as it needs.
        workers: Processes that share its jobs.
        engine: Where they run, as :attr:`mpt.config.FusedConfig.engine`.

    Returns:
        The plan, and the cells of all of its jobs.

    Raises:
        UserError: Something is wrong with the study, its memory or its runs; see :class:`Runner`.
        Interrupted: A signal stopped it; the same call goes on.
    """
    with hold_file(study.results / "cells.jsonl"):
        memory = Memory(study.results / "cells.jsonl")
        with open_study(study) as jobs:
            planned = plan_study(study, jobs)
            with keep_workers():
                Runner(planned, jobs, memory, budget, (f"fused.workers={workers}", f"fused.engine={engine}")).run()
        memory.export(study.results / "cells.csv")
    return planned, memory


def describe_plan(study: Study, planned: Planned, memory: Memory) -> str:
    """Say what a study runs: how many jobs, and the command line of each.

    A final run of a tuned method also has the overrides that tuning chooses, which are not known before.
    """
    start = planned.start
    sources, tuning, final = source_jobs(study), tuning_jobs(study, start), final_jobs(study, start, {})
    cells = len(study.methods) * len(study.levels) * len(study.targets)
    lines = [
        study.question,
        f"{len(sources)} source runs, {len(tuning)} tuning runs, {len(final)} runs that count: {cells} cells (methods "
        f"x levels x targets) of {study.draws} draws",
        f"{len(memory.cells)} ended before: {memory.path}",
    ]
    return "\n".join(
        [*lines, *(shlex.join(["python", "train.py", *job.overrides]) for job in (*sources, *tuning, *final))]
    )
