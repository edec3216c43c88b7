"""``metrics.csv``: the learning curves of a run, one line per step."""

import csv
import math
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from mpt.errors import UserError
from mpt.run.checkpoint import RESUME_NEVER
from mpt.run.record import write_csv

SECONDS_BETWEEN_WRITES = 5.0


class CurvesFile(Logger):
    """``metrics.csv``: one line per step, one column per metric, and no line twice after a resume.

    Args:
        path: The file; lines that are in it already up to ``step`` stay.
        step: Optimizer steps that the run has behind it.
        clock: Seconds that the run has trained for; the column ``seconds`` of each line.

    Raises:
        UserError: The file is damaged.
    """

    def __init__(self, path: Path, step: int = 0, clock: Callable[[], float] | None = None) -> None:
        super().__init__()
        self.path, self.clock = path, clock
        self._lines: dict[int, dict[str, float | str]] = {}
        self._written = time.monotonic()
        if step and path.is_file():
            try:
                self._lines = _read_lines(path, step)
            except (ValueError, KeyError, TypeError, csv.Error) as error:
                raise UserError(f"{path}: damaged, so the run cannot go on; {RESUME_NEVER}") from error

    @property
    def name(self) -> str:
        """The name that Lightning asks for."""
        return "curves"

    @property
    def version(self) -> str:
        """The version that Lightning asks for."""
        return ""

    def lines(self) -> Iterator[dict[str, float]]:
        """Give back what was logged so far, step by step, with ``trainer/global_step`` as Lightning writes it."""
        for step, line in sorted(self._lines.items()):
            numbers = {key: float(value) for key, value in line.items() if key != "seconds"}
            yield numbers | {"trainer/global_step": float(step)}

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Do nothing: ``config.yaml`` holds them."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Add numbers to the line of a step."""
        numbers = {key: value for key, value in without_gaps(metrics).items() if key != "epoch"}
        if numbers:
            line = self._lines.setdefault(step or 0, {})
            if self.clock is not None:
                line.setdefault("seconds", round(self.clock(), 3))
            line.update(numbers)

    @rank_zero_only
    def save(self) -> None:
        """Write the file, at most every few seconds."""
        if time.monotonic() - self._written > SECONDS_BETWEEN_WRITES:
            self.write()

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Write the file; Lightning calls this at the end, an error's included."""
        self.write()

    @rank_zero_only
    def write(self) -> None:
        """Write the file now."""
        self._written = time.monotonic()
        # The seconds come right after the step.
        columns = sorted(
            {key for line in self._lines.values() for key in line}, key=lambda key: (key != "seconds", key)
        )
        rows = ([step, *(line.get(key, "") for key in columns)] for step, line in sorted(self._lines.items()))
        write_csv(self.path, ["step", *columns], rows)


def without_gaps(metrics: Mapping[str, float]) -> dict[str, float]:
    """Leave out what has no value at a step, such as the loss of a task without an example."""
    return {key: value for key, value in metrics.items() if not math.isnan(value)}


def _read_lines(path: Path, step: int) -> dict[int, dict[str, float | str]]:
    """The lines of a file of curves up to a step."""
    found: dict[int, dict[str, float | str]] = {}
    with path.open(encoding="utf-8", newline="") as file:
        for line in csv.DictReader(file, strict=True):
            if None in line or None in line.values():
                raise UserError("a line has not as many values as the header has names")
            numbers: dict[str, float | str] = {key: value for key, value in line.items() if value != ""}
            for value in numbers.values():
                float(value)
            if (number := int(numbers.pop("step"))) <= step:
                found[number] = numbers
    return found
