"""What the file of a study says: what it asks, what it compares, how it is tuned."""

import itertools
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Level = tuple[tuple[str, Any], ...]
"""A value of each key of ``vary``."""


@dataclass(frozen=True)
class Source:
    """A source run that methods start from, trained once for each of its seeds."""

    overrides: tuple[str, ...] = ()
    """Its part of the command line, after ``common``."""
    seeds: int = 1
    """How many, from 0; draw d starts from seed d mod seeds."""


@dataclass(frozen=True)
class Method:
    """One side of a comparison."""

    overrides: tuple[str, ...] = ()
    """Its part of the command line, after ``common``."""
    source: str | None = None
    """Name of the source that it starts from; None: none."""
    grid: tuple[tuple[str, ...], ...] = ()
    """Overrides of each candidate that tuning tries, in the place of factors of its own learning rates."""
    draws: int | None = None
    """Fewer draws than the study's, for a costly method; None: the study's."""


@dataclass(frozen=True)
class Tune:
    """How each method's setting is chosen: on draws that do not count, by validation scores."""

    draws: int = 1
    """Draws of each target, with seeds from 1000."""
    rates: tuple[float, ...] = ()
    """Candidates: factors of the method's own learning rates."""


@dataclass(frozen=True)
class Study:
    """A study, as its file says."""

    path: Path
    """The file."""
    question: str
    """What it asks, in a sentence."""
    targets: tuple[str, ...]
    """Tasks that every method is adapted to, each by itself."""
    methods: Mapping[str, Method]
    """Name, as tables and figures say it, to method."""
    draws: int
    """Draws of the few-shot examples: first values and order follow the draw."""
    common: tuple[str, ...] = ()
    """Overrides of every run."""
    target_overrides: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Target to overrides of its own runs, such as the instruction that it is asked by."""
    sources: Mapping[str, Source] = field(default_factory=dict)
    """Name to source."""
    vary: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    """Key to the values at which methods are compared apart, such as k."""
    compare: tuple[tuple[str, str], ...] = ()
    """Pairs of methods, the first minus the second: the comparisons that count."""
    tune: Tune | None = None
    """None: every method as it is."""
    success: float | None = None
    """Score from which a draw counts as a success."""
    plugins: tuple[str, ...] = ()
    """Python modules that bring parts of their own, named in every run."""
    config_dir: tuple[str, ...] = ()
    """The user's own folders of choices, from the file's folder."""

    @property
    def name(self) -> str:
        """Name of the study: the folder of a ``study.yaml``, otherwise the file's."""
        return self.path.resolve().parent.name if self.path.stem == "study" else self.path.stem

    @property
    def results(self) -> Path:
        """Folder of its results: ``results`` beside a ``study.yaml``, otherwise ``NAME-results``."""
        return self.path.parent / ("results" if self.path.stem == "study" else f"{self.path.stem}-results")

    @property
    def runs(self) -> Path:
        """Folder of its runs, from the working folder."""
        return Path("runs") / "study" / re.sub(r"[^\w.-]", "_", self.name)

    @property
    def levels(self) -> list[Level]:
        """Every setting of the keys that vary; one empty setting where none does."""
        return list(itertools.product(*([(key, value) for value in values] for key, values in self.vary.items())))

    @property
    def folders(self) -> list[Path]:
        """The user's own folders of choices."""
        return [self.path.parent / folder for folder in self.config_dir]

    def draws_of(self, method: str) -> int:
        """Return how many draws a method has."""
        own = self.methods[method].draws
        return self.draws if own is None else own

    def candidates(self, method: str) -> int:
        """Return how many settings tuning tries for each method."""
        if self.tune is None:
            return 0
        return len(self.methods[method].grid or self.tune.rates)


def level_overrides(level: Level) -> list[str]:
    """Write a level as overrides; none where nothing varies."""
    return [f"{key}={_write(value)}" for key, value in level]


def show_level(level: Level) -> str:
    """Write a level in one text; empty where nothing varies."""
    return " ".join(level_overrides(level))


def _write(value: Any) -> str:
    """Write a value as Hydra reads it."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and math.isfinite(value):
        return f"{value:g}"
    if isinstance(value, list):
        return f"[{','.join(_write(each) for each in value)}]"
    return str(value)
