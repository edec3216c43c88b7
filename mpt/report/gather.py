"""Read what runs left: a line for each task of each run, with its scores, its costs and what it differs in."""

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mpt.errors import UserError
from mpt.report.index import RunFiles, RunIndex
from mpt.run.folder import RunFolder
from mpt.run.identity import flatten, identity
from mpt.sweep.sweep_record import Outcome, read_record

Line = dict[str, Any]
"""One task of one run: ``run``, ``task``, ``n``, its metrics, and the configuration keys that differ between runs."""

REPLICATES = ("seed", "few_shot.seed", "seeds.first_values", "seeds.order", "seeds.dropout")
"""Keys over which runs repeat each other, unless they are asked for."""
TELLING = ("stage", "folder", "method.name", "prompt.init", "prompt.form", "few_shot.k", "backbone.name")
"""Keys by which people tell runs apart, the first ones first."""
OWN = ("run", "task", "split", "metric", "n", "n_available")
"""Keys of a line besides its metrics and its configuration; ``metric`` is the one that ``score`` is."""


def gather(
    folders: Iterable[Path], split: str = "test", copies: list[Path] | None = None
) -> tuple[list[Line], list[Path]]:
    """Read the runs in and below some folders.

    Args:
        folders: Run folders, folders of them, or records of sweeps (``sweeps/NAME.jsonl``).
        split: test or validation.
        copies: Takes the folders of runs that are left out, since another one has the same configuration, data and
            version: one run says what it says once.

    Returns:
        A line per run and task, the average of several tasks among them, and the folders of runs that are not
        finished. With several folders, the key ``folder`` says which of them a run was found in.

    Raises:
        FileNotFoundError: A folder is not there, or there is no finished run.
        UserError: A run's files are damaged.
    """
    configs: dict[Path, dict[str, Any]] = {}
    known: dict[str, Path] = {}
    unfinished = []
    folders = list(folders)
    index, files = RunIndex(folders, learning_curve), dict[Path, RunFiles]()
    for folder in folders:
        for run in find_runs(folder):
            if run in configs or (read := index.read(run)) is None:
                continue
            if read.metrics is not None:
                values, about, files[run] = read.values, read.about, read
                where = {"folder": str(folder)} if len(folders) > 1 else {}
                if values.get("experiment_name"):
                    where["experiment"] = str(values["experiment_name"])
                decisive = flatten(identity(values))
                if (first := known.setdefault(_key_of(decisive, about), run)) != run:
                    if copies is not None and run.resolve() != first.resolve():
                        copies.append(run)
                    continue
                configs[run] = where | decisive
            else:
                unfinished.append(run)
    index.save()
    if not configs:
        raise FileNotFoundError(
            f"{', '.join(map(str, folders))}: no finished run (no metrics.json beside a config.yaml)"
        )
    differing, of_tasks = _differing(list(configs.values()))
    lines: list[Line] = []
    for run, config in configs.items():
        metrics = files[run].metrics or {}
        if split not in metrics:
            raise UserError(f"{run}/metrics.json: has no {split!r}; choose one of test, validation")
        keys = {key: _plain(config.get(key)) for key in differing}
        keys |= {key: _plain(config[key]) for key in of_tasks if key in config}
        scores, named = metrics[split], metrics.get("metric", {})
        if len(scores) == 2:  # the average of one task is that task once more
            scores = {task: row for task, row in scores.items() if task != "average"}
        lines += [
            {"run": str(run), "task": task, "metric": named.get(task, ""), "split": split}
            | keys
            | row
            | _costs(files[run], task)
            for task, row in scores.items()
        ]
    return lines, unfinished


def _key_of(decisive: Mapping[str, Any], about: Mapping[str, Any]) -> str:
    """Build the key that equal runs share: configuration, rows and code."""
    code = (about.get("versions") or {}).get("mpt"), about.get("git")
    return json.dumps([decisive, (about.get("rows") or {}).get("digests"), code], sort_keys=True, default=str)


def find_runs(folder: Path) -> list[Path]:
    """Find the runs in and below a folder, or those of the record of a sweep.

    Raises:
        FileNotFoundError: There is no such folder.
        UserError: The file is not the record of a sweep.
    """
    if folder.is_file() and folder.suffix == ".jsonl":
        runs = dict.fromkeys(Path(outcome.folder) for outcome in read_record(folder))
        return [run for run in runs if RunFolder(run).config.is_file()]
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder; give run folders, folders of them, or a sweep's record")
    inside = (path.parent for path in sorted(folder.rglob("config.yaml")))
    return [run for run in inside if "wandb" not in run.relative_to(folder).parts]  # W&B has files of that name


def find_failures(folders: Iterable[Path]) -> list[Outcome]:
    """Find the jobs of the sweeps in and below some folders that failed, and whose run was not finished later.

    Raises:
        UserError: A record is damaged.
    """
    records: dict[Path, None] = {}
    for folder in folders:
        found = [folder] if folder.is_file() else sorted(folder.rglob("sweeps/*.jsonl"))
        records |= dict.fromkeys(path.resolve() for path in found)
    failures = [outcome for record in records for outcome in read_record(record) if outcome.error is not None]
    by_folder = {outcome.folder: outcome for outcome in failures}
    return [outcome for outcome in by_folder.values() if not RunFolder(Path(outcome.folder)).metrics.is_file()]


def learning_curve(run: Path, task: str) -> dict[int, float]:
    """The validation score of a task after each number of steps at which a run was validated.

    Args:
        run: A run folder; one without ``metrics.csv`` has no curve.
        task: A task, or ``average``.
    """
    return read_curve(run, f"validation/{task}/score")


def read_curve(run: Path, column: str) -> dict[int, float]:
    """One column of a run's ``metrics.csv``, by steps; empty where the run has none.

    Raises:
        UserError: The file is damaged.
    """
    path = RunFolder(run).curves
    if not path.is_file():
        return {}
    try:
        with path.open(encoding="utf-8", newline="") as file:
            values = ((row["step"], row.get(column)) for row in csv.DictReader(file))
            return {int(float(step)): float(value) for step, value in values if value}
    except (ValueError, TypeError, KeyError, csv.Error) as error:
        raise UserError(f"{path}: damaged ({error}); overwrite=true runs the run again") from error


def _costs(files: RunFiles, task: str) -> dict[str, float]:
    """Return the costs of a run, as metrics beside its scores."""
    metrics = files.metrics or {}
    costs = {
        "curve_mean": files.curve_means.get(task),
        "best_step": metrics.get("best_step", {}).get(task),
        "fit_seconds": metrics.get("seconds", {}).get("fit"),
        "trained_parameters": metrics.get("parameters", {}).get("trained"),
    }
    return {name: value for name, value in costs.items() if value is not None}


def _differing(configs: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[str]]:
    """The keys whose values are not the same in all configurations.

    Returns:
        Keys of the run, and keys of its tasks (``tasks.sum.weight``). These differ where the runs that have the task
        say different things; that a run lacks the task is no difference.
    """
    values: dict[str, set[str]] = {}
    for config in configs:
        for key in config:
            values.setdefault(key, set()).add(repr(config[key]))
    for key, found in values.items():
        if not key.startswith("tasks.") and any(key not in config for config in configs):
            found.add("absent")
    differing = [key for key, found in values.items() if len(found) > 1]
    of_tasks = [key for key in differing if key.startswith("tasks.")]
    return [key for key in differing if key not in of_tasks], of_tasks


def _plain(value: Any) -> Any:
    return value if isinstance(value, (int, float, str)) and not isinstance(value, bool) else str(value)


def keys_of(lines: Sequence[Line]) -> list[str]:
    """List the configuration keys that the lines hold, ``task`` first."""
    metrics = set(metrics_of(lines))
    return ["task", *dict.fromkeys(key for line in lines for key in line if key not in metrics and key not in OWN)]


def metrics_of(lines: Sequence[Line]) -> list[str]:
    """List what can be averaged: numbers that do not come from a configuration, which names its keys with dots."""
    return list(
        dict.fromkeys(
            key
            for line in lines
            for key, value in line.items()
            if isinstance(value, (int, float)) and "." not in key and key not in (*OWN, *REPLICATES)
        )
    )


def varying_within(lines: Sequence[Line], key: str) -> list[str]:
    """List the other keys, but ``task``, that take several values among the lines of one value of ``key``."""
    names = keys_of(lines)
    values: dict[tuple[str, str], set[str]] = {}
    for line in lines:
        for name in names:
            values.setdefault((name, repr(line.get(key))), set()).add(repr(line.get(name)))
    return list(
        dict.fromkeys(name for (name, _), found in values.items() if len(found) > 1 and name not in ("task", key))
    )


def distinguish(lines: Sequence[Line], keys: Sequence[str]) -> list[str]:
    """Keep of some keys as few as tell the runs apart just as well.

    A method brings learning rates, ranks and forms along; one key of those that always change together is enough.
    Keys of :data:`TELLING` are kept before others.
    """
    kept: list[str] = []
    settings = 1
    for key in sorted(keys, key=lambda key: TELLING.index(key) if key in TELLING else len(TELLING)):
        found = len({tuple(repr(line.get(name)) for name in (*kept, key)) for line in lines})
        if found > settings:
            kept, settings = [*kept, key], found
    return kept


def default_groups(lines: Sequence[Line]) -> list[str]:
    """List what distinguishes runs: the folder where there are several, and what varies but seeds."""
    keys = keys_of(lines)
    if "folder" in keys:
        keys = ["stage", "folder", *varying_within(lines, "folder")]
    return ["task", *distinguish(lines, [key for key in keys if key not in (*REPLICATES, "task", "experiment")])]
