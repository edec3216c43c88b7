"""What a report reads of each run, kept in one file: of thousands of runs on a slow, shared disk it then opens none.

An entry counts only while the files that it was read from have the size and the time that they had; whatever is wrong
with the index, the runs themselves are read.
"""

import hashlib
import json
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mpt import __version__
from mpt.atomic import write_atomically
from mpt.cache import cache_folder
from mpt.run.folder import RunFolder, read_config
from mpt.run.record import read_metrics

FEWEST = 16
"""Runs from which an index is written: fewer are read as fast."""
SPLITS = ("test", "validation")


@dataclass(frozen=True)
class RunFiles:
    """What a report reads of a run.

    Attributes:
        values: Its configuration.
        about: The ``run`` part of its ``config.yaml``.
        metrics: Its ``metrics.json``; None: it is not finished.
        curve_means: Task to the mean of its validation scores over the steps; of tasks that have a curve.
    """

    values: dict[str, Any]
    about: dict[str, Any]
    metrics: dict[str, Any] | None
    curve_means: dict[str, float] = field(default_factory=dict)


class RunIndex:
    """The runs of some folders, as they were read the last time, and as they are.

    Args:
        folders: As of :func:`mpt.report.gather.gather`; the index is theirs.
        curve: Reads a task's validation scores by steps.
    """

    def __init__(self, folders: Sequence[Path], curve: Callable[[Path, str], dict[int, float]]) -> None:
        named = json.dumps([__version__, *(str(folder.absolute()) for folder in folders)])
        self.path = cache_folder("index") / f"{hashlib.sha256(named.encode()).hexdigest()[:32]}.json"
        self.curve = curve
        self._kept: dict[str, Any] = {}
        self._found: dict[str, Any] = {}
        try:
            kept = json.loads(self.path.read_text(encoding="utf-8"))
            self._kept = kept if isinstance(kept, dict) else {}
        except (OSError, ValueError):
            self._kept = {}

    def read(self, run: Path) -> RunFiles | None:
        """Return what a report reads of a run; None where the folder is none.

        Raises:
            UserError: A file is damaged.
        """
        key, stamp = str(run.absolute()), _stamp(run)
        if stamp[0] is None:
            return None
        entry = self._kept.get(key)
        if isinstance(entry, dict) and entry.get("stamp") == stamp and (kept := _as_read(entry.get("files"))):
            self._found[key] = entry
            return kept
        read = read_config(run)
        if read is None:
            return None
        metrics = read_metrics(run)
        tasks = dict.fromkeys(task for split in SPLITS for task in (metrics or {}).get(split) or {})
        curves = {task: values for task in tasks if (values := self.curve(run, task).values())}
        files = RunFiles(*read, metrics, {task: statistics.fmean(values) for task, values in curves.items()})
        self._found[key] = {"stamp": stamp, "files": asdict(files)}
        return files

    def save(self) -> None:
        """Write the index where it is worth it and has changed; one that cannot be written costs time, not a report."""
        if len(self._found) < FEWEST or self._found == self._kept:
            return
        whole = {key: entry for key, entry in self._found.items() if _survives(entry)}
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with write_atomically(self.path) as temporary:
                temporary.write_text(json.dumps(whole), encoding="utf-8")
        except OSError:
            return


def _stamp(run: Path) -> list[list[int] | None]:
    """Size and time of the files that an entry is read from; None of one that is not there."""
    folder = RunFolder(run)
    found: list[list[int] | None] = []
    for path in (folder.config, folder.metrics, folder.curves):
        try:
            about = path.stat()
            found.append([about.st_mtime_ns, about.st_size])
        except OSError:
            found.append(None)
    return found


def _as_read(kept: Any) -> RunFiles | None:
    """What an entry says; None where it is damaged."""
    try:
        files = RunFiles(**kept)
    except TypeError:
        return None
    mappings = [files.values, files.about, files.curve_means, files.metrics or {}]
    return files if all(isinstance(each, dict) for each in mappings) else None


def _survives(entry: dict[str, Any]) -> bool:
    """Tell whether an entry comes back from JSON as it was."""
    try:
        return bool(json.loads(json.dumps(entry)) == entry)
    except (TypeError, ValueError):
        return False
