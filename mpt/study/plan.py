"""From a study to its jobs, and what they cost: pure functions, no run and no disk."""

import dataclasses
import hashlib
import json
import statistics
from bisect import bisect_left
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from mpt.study.file import Level, Study, level_overrides, show_level

Phase = Literal["source", "tuning", "final"]
FIRST_TUNING_SEED = 1000
"""Tuning's draws are others than those that count, whose seeds begin at 0."""
LIGHT = ("evaluation.test_rows=1", "evaluation.before=false", "evaluation.oracle=false")
"""Overrides of tuning runs, of which only the validation scores are read: a run tests at least one row."""
FINAL_TO_TUNING = 2.0
"""What a final run is taken to cost, in tuning runs of the same method, until one has run."""
DEFAULTS = ("logger=csv", "trainer.progress_bar=false")
"""Of every run, unless ``common`` says otherwise."""


@dataclass(frozen=True)
class Job:
    """One run of a study.

    Attributes:
        phase: source, tuning or final.
        method: Its method; of a source run the source's name.
        level: The values of what varies.
        target: Its task; empty for a source run.
        draw: Seed of its draw, first values and order.
        candidate: Which of tuning's settings it tries; of a final run that was tuned, the chosen one; else None.
        overrides: Its part of the command line.
    """

    phase: Phase
    method: str
    level: Level
    target: str
    draw: int
    candidate: int | None
    overrides: tuple[str, ...]

    @property
    def place(self) -> tuple[Any, ...]:
        """What the job is in the study, whatever its overrides."""
        candidate = self.candidate if self.phase == "tuning" else None
        return self.phase, self.method, show_level(self.level), self.target, self.draw, candidate

    @property
    def hash(self) -> str:
        """Twelve digits that its overrides make."""
        return hashlib.sha256(json.dumps(self.overrides).encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Start:
    """What jobs start from, which a composition has to say.

    Attributes:
        sources: (source, seed) to the run folder.
        rates: (method, level) to each of its learning rates by key.
    """

    sources: Mapping[tuple[str, int], str]
    rates: Mapping[tuple[str, Level], Mapping[str, float]]


def source_jobs(study: Study) -> list[Job]:
    """Plan the source runs, one for each seed of each source."""
    return [
        Job("source", name, (), "", seed, None, _overrides(study, "task=source", *source.overrides, f"seed={seed}"))
        for name, source in study.sources.items()
        for seed in range(source.seeds)
    ]


def tuning_jobs(study: Study, start: Start) -> list[Job]:
    """Plan the tuning runs: every candidate of every method at every level, on draws of their own."""
    if study.tune is None:
        return []
    seeds = range(FIRST_TUNING_SEED, FIRST_TUNING_SEED + study.tune.draws)
    # Levels and targets change fastest, so that the first few jobs of a method cost what all of them do.
    return [
        job_of(study, start, "tuning", method, level, target, seed, candidate)
        for method in study.methods
        for seed in seeds
        for candidate in range(study.candidates(method))
        for target in study.targets
        for level in study.levels
    ]


def final_jobs(study: Study, start: Start, chosen: Mapping[tuple[str, Level], int]) -> list[Job]:
    """Plan the runs that count.

    Args:
        study: The study.
        start: What they start from.
        chosen: (method, level) to the candidate that tuning chose; empty where nothing is tuned.
    """
    return [
        job_of(study, start, "final", method, level, target, draw, chosen.get((method, level)))
        for method in study.methods
        for draw in range(study.draws_of(method))
        for target in study.targets
        for level in study.levels
    ]


def job_of(
    study: Study, start: Start, phase: Phase, method: str, level: Level, target: str, draw: int, candidate: int | None
) -> Job:
    """Plan one run of a method on a draw of a target."""
    source = study.methods[method].source
    of_target = study.target_overrides.get(target, ())
    words = ["task=target", f"tasks=[{target}]", *of_target, *study.methods[method].overrides]
    if source is not None:
        words.append(f"source={start.sources[source, draw % study.sources[source].seeds]}")
    words += level_overrides(level)
    if candidate is not None:
        words += candidate_overrides(study, start, method, level, candidate)
    words += LIGHT if phase == "tuning" else ()
    return Job(phase, method, level, target, draw, candidate, _overrides(study, *words, f"seed={draw}"))


def candidate_overrides(study: Study, start: Start, method: str, level: Level, candidate: int) -> tuple[str, ...]:
    """Return the overrides of one of tuning's settings: of the method's grid, or its own rates times a factor."""
    grid = study.methods[method].grid
    if grid:
        return grid[candidate]
    assert study.tune is not None
    factor = study.tune.rates[candidate]
    if factor == 1:
        return ()
    return tuple(f"{key}={rate * factor:.6g}" for key, rate in start.rates[method, level].items())


def _overrides(study: Study, *words: str) -> tuple[str, ...]:
    """The words of a job: those of every run first, so that its own come after them."""
    defaults = [text for text in DEFAULTS if not any(_key(text) == _key(word) for word in (*study.common, *words))]
    plugins = (f"plugins=[{','.join(study.plugins)}]",) if study.plugins else ()
    return (*defaults, *plugins, f"output_root={study.runs}", f"logger.group={study.runs.name}", *study.common, *words)


def _key(override: str) -> str:
    return override.partition("=")[0].lstrip("+~")


def choose(study: Study, scores: Mapping[tuple[Any, ...], float]) -> dict[tuple[str, Level], int]:
    """Choose each method's setting at each level: the best mean validation score over targets and tuning draws.

    Ties go to the candidate nearest to the middle, of two the first.

    Args:
        study: The study.
        scores: :attr:`Job.place` of tuning runs to validation scores; a candidate with a failed run is out.

    Raises:
        KeyError: All candidates of a method failed.
    """
    if study.tune is None:
        return {}
    found = {}
    for method in study.methods:
        for level in study.levels:
            means = candidate_scores(study, scores, method, level)
            best = max(mean for mean in means if mean is not None)
            middle = (len(means) - 1) / 2
            tied = [index for index, mean in enumerate(means) if mean is not None and best - mean < 1e-9]
            found[method, level] = min(tied, key=lambda index: (abs(index - middle), index))
    return found


def candidate_scores(
    study: Study, scores: Mapping[tuple[Any, ...], float], method: str, level: Level
) -> list[float | None]:
    """Mean validation score of each candidate; None where one of its runs failed."""
    assert study.tune is not None
    means: list[float | None] = []
    for candidate in range(study.candidates(method)):
        places = [
            ("tuning", method, show_level(level), target, FIRST_TUNING_SEED + draw, candidate)
            for target in study.targets
            for draw in range(study.tune.draws)
        ]
        complete = all(place in scores for place in places)
        means.append(statistics.fmean(scores[place] for place in places) if complete else None)
    return means


@dataclass(frozen=True)
class Costs:
    """Seconds that a job takes, by phase and method, as far as they are known."""

    seconds: Mapping[tuple[str, str], float]

    def of(self, job: Job) -> float | None:
        """Return what a job takes; None where nothing of its kind has run."""
        known = self.seconds.get((job.phase, job.method))
        if known is None and job.phase == "final":
            tuning = self.seconds.get(("tuning", job.method))
            known = None if tuning is None else FINAL_TO_TUNING * tuning
        return known

    def total(self, jobs: Sequence[Job]) -> float:
        """Add up what jobs take; a method of which none has run counts as the dearest of the others."""
        dearest = {
            is_source: max(
                (each for (phase, _), each in self.seconds.items() if (phase == "source") == is_source), default=0.0
            )
            for is_source in (True, False)
        }
        costs = ((job, self.of(job)) for job in jobs)
        return sum(dearest[job.phase == "source"] if cost is None else cost for job, cost in costs)


def all_jobs(study: Study) -> list[Job]:
    """Plan every job of a study, for counting: with places, and without what only a composition knows."""
    sources = {(name, seed): "" for name, source in study.sources.items() for seed in range(source.seeds)}
    start = Start(sources, {(method, level): {} for method in study.methods for level in study.levels})
    return [*source_jobs(study), *tuning_jobs(study, start), *final_jobs(study, start, {})]


def remaining(study: Study, finished: Collection[tuple[Any, ...]]) -> list[Job]:
    """The jobs of a study whose places are not among the finished ones."""
    return [job for job in all_jobs(study) if job.place not in finished]


def cuts(study: Study, finished: Collection[tuple[Any, ...]], costs: Costs, seconds: float) -> Iterator[str]:
    """Name the smallest cut of each kind after which what remains fits into some seconds."""

    def fits(smaller: Study) -> bool:
        return costs.total(remaining(smaller, finished)) <= seconds

    def largest(values: Sequence[Any], cut: Any) -> Any:
        # The values fall, and what a smaller one needs is less: by halves.
        first = bisect_left(values, True, key=lambda value: fits(cut(value)))
        return values[first] if first < len(values) else None

    fewest = max([1, *(source.seeds for source in study.sources.values())])
    draws = largest(range(study.draws - 1, fewest - 1, -1), lambda n: _with_draws(study, n))
    if draws is not None:
        yield f"draws: {draws} in place of {study.draws}"
    if study.tune is not None:
        tune = study.tune
        n = largest(range(tune.draws - 1, 0, -1), lambda n: _replace(study, tune=dataclasses.replace(tune, draws=n)))
        if n is not None:
            yield f"tune.draws: {n} in place of {tune.draws}"
        if fits(_replace(study, tune=None)):
            yield "no tune"
    n = largest(range(len(study.targets) - 1, 0, -1), lambda n: _replace(study, targets=study.targets[:n]))
    if n is not None:
        yield f"{n} of the {len(study.targets)} targets"
    for key, values in study.vary.items():
        n = largest(range(len(values) - 1, 0, -1), lambda n: _replace(study, vary={**study.vary, key: values[:n]}))  # noqa: B023
        if n is not None:
            yield f"{n} of the {len(values)} values of {key}"


def _with_draws(study: Study, n: int) -> Study:
    """A study with fewer draws, of its costly methods too."""
    methods = {
        name: dataclasses.replace(method, draws=None if method.draws is None else min(n, method.draws))
        for name, method in study.methods.items()
    }
    return _replace(study, draws=n, methods=methods)


def _replace(study: Study, **changes: Any) -> Study:
    return dataclasses.replace(study, **changes)
