"""Results over runs: `python -m mpt.report FOLDER...` makes one table of many run folders, with intervals.

It reads what runs left, and nothing else: config.yaml and metrics.json, and the records of sweeps.
"""

import argparse
import csv
import math
import statistics
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scipy.stats import t as student_t

from mpt.atomic import write_atomically
from mpt.run.folder import read_config
from mpt.run.identity import flatten, identity
from mpt.run.record import read_metrics, write_csv
from mpt.sweep import read_record

Line = dict[str, Any]
"""One task of one run: ``run``, ``task``, ``n``, its metrics, and the configuration keys that differ between runs."""

REPLICATES = ("seed", "few_shot.seed")
"""Keys over which runs repeat each other, unless they are asked for."""
OWN = ("run", "task", "n", "n_available")


@dataclass(frozen=True)
class Estimate:
    """A mean over runs.

    Attributes:
        mean: The mean.
        sd: Sample standard deviation; NaN of a single run.
        half_width: Half of the 95 % interval of the mean, by Student's t; NaN of a single run.
        runs: How many runs.
    """

    mean: float
    sd: float
    half_width: float
    runs: int

    def __str__(self) -> str:
        spread = "" if math.isnan(self.half_width) else f" ± {self.half_width:.3f}"
        return f"{self.mean:.3f}{spread} ({self.runs})"


def estimate(values: Sequence[float]) -> Estimate:
    """Estimate a mean from independent runs.

    Raises:
        ValueError: There is no value.
    """
    if not values:
        raise ValueError("estimate: no values")
    mean, count = statistics.fmean(values), len(values)
    if count == 1:
        return Estimate(mean, math.nan, math.nan, 1)
    sd = statistics.stdev(values)
    return Estimate(mean, sd, float(student_t.ppf(0.975, count - 1)) * sd / math.sqrt(count), count)


def gather(folders: Iterable[Path], split: str = "test") -> tuple[list[Line], list[Path]]:
    """Read the runs in and below some folders.

    Args:
        folders: Run folders, folders of them, or records of sweeps (``sweeps/NAME.jsonl``).
        split: test or validation.

    Returns:
        A line per run and task, the average of several tasks among them, and the folders of runs that are not
        finished. With several folders, the key ``folder`` says which of them a run was found in.

    Raises:
        FileNotFoundError: A folder is not there, or there is no finished run.
        ValueError: A run's files are damaged.
    """
    configs: dict[Path, dict[str, Any]] = {}
    unfinished = []
    folders = list(folders)
    for folder in folders:
        for run in _runs_in(folder):
            read = read_config(run)
            if read is None or run in configs:
                continue
            if (run / "metrics.json").is_file():
                where = {"folder": str(folder)} if len(folders) > 1 else {}
                configs[run] = where | flatten(identity(read[0]))
            else:
                unfinished.append(run)
    if not configs:
        raise FileNotFoundError(
            f"{', '.join(map(str, folders))}: no finished run (no metrics.json beside a config.yaml)"
        )
    differing, of_tasks = _differing(list(configs.values()))
    lines: list[Line] = []
    for run, config in configs.items():
        metrics = read_metrics(run) or {}
        if split not in metrics:
            raise ValueError(f"{run}/metrics.json: has no {split!r}; choose one of test, validation")
        told = {key: _plain(config.get(key)) for key in differing}
        told |= {key: _plain(config[key]) for key in of_tasks if key in config}
        scores = metrics[split]
        if len(scores) == 2:  # the average of one task is that task once more
            scores = {task: row for task, row in scores.items() if task != "average"}
        lines += [
            {"run": str(run), "task": task} | told | row | _costs(run, metrics, task)
            for task, row in scores.items()
        ]
    return lines, unfinished


def _runs_in(folder: Path) -> list[Path]:
    """The runs in a folder, or of the record of a sweep."""
    if folder.is_file() and folder.suffix == ".jsonl":
        runs = dict.fromkeys(Path(outcome.folder) for outcome in read_record(folder))
        return [run for run in runs if (run / "config.yaml").is_file()]
    if not folder.is_dir():
        raise FileNotFoundError(
            f"{folder}: no such folder; give run folders, folders of them, or a sweep's record"
        )
    return [path.parent for path in sorted(folder.rglob("config.yaml"))]


def learning_curve(run: Path, task: str) -> dict[int, float]:
    """The validation score of a task after each number of steps at which a run was validated.

    Args:
        run: A run folder; one without ``metrics.csv`` has no curve.
        task: A task, or ``average``.
    """
    if not (run / "metrics.csv").is_file():
        return {}
    with (run / "metrics.csv").open(encoding="utf-8", newline="") as file:
        told = ((row["step"], row.get(f"validation/{task}/score")) for row in csv.DictReader(file))
        return {int(float(step)): float(score) for step, score in told if score}


def _costs(run: Path, metrics: Mapping[str, Any], task: str) -> dict[str, float]:
    """What a run took, as metrics beside its scores."""
    curve = learning_curve(run, task).values()
    costs = {
        "curve_mean": statistics.fmean(curve) if curve else None,
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


def summarise(lines: Sequence[Line], by: Sequence[str], metric: str) -> dict[tuple[Any, ...], Estimate]:
    """Mean and interval of a metric in each group of runs, in the order in which the groups come.

    Args:
        lines: From :func:`gather`.
        by: Keys whose values make a group.
        metric: ``score``, ``before``, ``oracle``, or a metric's name.

    Raises:
        ValueError: No line has such a key, or none such a metric.
    """
    for key in by:
        if not any(key in line for line in lines):
            raise ValueError(
                f"--by: no key {key!r}; the runs differ in {', '.join(_keys(lines)) or 'nothing'}"
            )
    groups: dict[tuple[Any, ...], list[float]] = {}
    for line in lines:
        if metric in line:
            groups.setdefault(tuple(line.get(key) for key in by), []).append(float(line[metric]))
    if not groups:
        raise ValueError(f"--metric: no run has {metric!r}; choose one of {', '.join(_metrics(lines))}")
    return {
        group: estimate(values) for group, values in sorted(groups.items(), key=lambda item: _order(item[0]))
    }


def compare(
    lines: Sequence[Line], key: str, base: str, metric: str
) -> tuple[list[str], dict[tuple[Any, ...], Estimate]]:
    """Paired differences to a base: of runs that differ in one key, and in what comes with it.

    Two runs are a pair where they have the same task, draw and seed, and agree in every other key that varies among
    the runs of one value (k, for example). Each setting of these other keys is a group of its own: its pairs are not
    pooled with another group's. What is the same for all runs of a value belongs to that value.

    Args:
        lines: From :func:`gather`.
        key: The key that distinguishes the methods, such as ``prompt.init``.
        base: Its value that the others are compared with.
        metric: As in :func:`summarise`.

    Returns:
        The keys that make the groups; and (task, values of these keys, value of ``key``) to the estimate of
        ``value - base``. Under ``all tasks`` the tasks are what is sampled: the mean of their mean differences.

    Raises:
        ValueError: No pair can be made, or two runs are alike in everything.
    """
    varying = _varying_within(lines, key)
    grouping = [name for name in varying if name not in REPLICATES]
    repeats = [name for name in varying if name in REPLICATES]
    pairs: dict[tuple[tuple[Any, ...], tuple[Any, ...]], dict[str, float]] = {}
    for line in lines:
        if metric in line and key in line:
            group = (line["task"], *(line.get(name) for name in grouping))
            scores = pairs.setdefault((group, tuple(line.get(name) for name in repeats)), {})
            if str(line[key]) in scores:
                raise ValueError(
                    f"--against: two runs of {line['task']} are alike in everything; give one of them"
                )
            scores[str(line[key])] = float(line[metric])
    differences: dict[tuple[Any, ...], list[float]] = {}
    for (group, _), scores in pairs.items():
        for value, score in scores.items():
            if value != base and base in scores:
                differences.setdefault((*group, value), []).append(score - scores[base])
    if not differences:
        values = sorted({str(line.get(key)) for line in lines})
        raise ValueError(
            f"--against: no pair with {key}={base}; its values are {', '.join(values)}, and the runs of one "
            f"value also differ in {', '.join(varying) or 'nothing'}"
        )
    estimates = {
        group: estimate(values)
        for group, values in sorted(differences.items(), key=lambda item: _order(item[0]))
    }
    over_tasks: dict[tuple[Any, ...], list[float]] = {}
    for (task, *rest), difference in estimates.items():
        if task != "average":
            over_tasks.setdefault(("all tasks", *rest), []).append(difference.mean)
    return grouping, estimates | {
        group: estimate(means) for group, means in over_tasks.items() if len(means) > 1
    }


def _keys(lines: Sequence[Line]) -> list[str]:
    """Configuration keys that the lines hold, ``task`` first."""
    metrics = set(_metrics(lines))
    return [
        "task",
        *dict.fromkeys(key for line in lines for key in line if key not in metrics and key not in OWN),
    ]


def _default_groups(lines: Sequence[Line]) -> list[str]:
    """What a reader tells runs apart by: the folder where several were given, and all that varies but seeds."""
    keys = _keys(lines)
    if "folder" in keys:
        keys = ["task", "folder", *_varying_within(lines, "folder")]
    return [key for key in keys if key not in REPLICATES]


def _varying_within(lines: Sequence[Line], key: str) -> list[str]:
    """The other keys, but ``task``, that take several values among the lines of one value of ``key``."""
    names = _keys(lines)
    values: dict[tuple[str, str], set[str]] = {}
    for line in lines:
        for name in names:
            values.setdefault((name, repr(line.get(key))), set()).add(repr(line.get(name)))
    return list(
        dict.fromkeys(
            name for (name, _), found in values.items() if len(found) > 1 and name not in ("task", key)
        )
    )


def _metrics(lines: Sequence[Line]) -> list[str]:
    """What can be averaged: numbers that do not come from a configuration, which names its keys with dots."""
    return list(
        dict.fromkeys(
            key
            for line in lines
            for key, value in line.items()
            if isinstance(value, (int, float)) and "." not in key and key not in (*OWN, *REPLICATES)
        )
    )


def _order(group: Iterable[Any]) -> tuple[Any, ...]:
    return tuple((0, value, "") if isinstance(value, (int, float)) else (1, 0, str(value)) for value in group)


def markdown(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A table in Markdown."""
    told = ["| " + " | ".join(map(str, row)) + " |" for row in (header, *rows)]
    return "\n".join([told[0], "|" + "---|" * len(header), *told[1:]])


def pivot(
    groups: Mapping[tuple[Any, ...], Estimate], by: Sequence[str], across: str
) -> tuple[list[str], list[list[str]]]:
    """Put the values of one key side by side.

    Returns:
        Header and rows of a table.
    """
    place = list(by).index(across)
    columns = list(
        dict.fromkeys(
            group[place] for group in sorted(groups, key=lambda group: _order(group[place : place + 1]))
        )
    )
    found: dict[tuple[Any, ...], dict[Any, Estimate]] = {}
    for group, told in groups.items():
        found.setdefault((*group[:place], *group[place + 1 :]), {})[group[place]] = told
    header = [*(key for key in by if key != across), *(f"{across}={column}" for column in columns)]
    return header, [
        [*map(str, group), *(str(row.get(column, "–")) for column in columns)] for group, row in found.items()
    ]


def draw(
    groups: Mapping[tuple[Any, ...], Estimate], by: Sequence[str], x: str, metric: str, path: Path
) -> None:
    """Draw means and intervals over one key: a panel per task, a line per group of the other keys."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    place = list(by).index(x)
    task_place = list(by).index("task") if "task" in by else None
    panels: dict[str, dict[str, list[tuple[Any, Estimate]]]] = {}
    for group, told in groups.items():
        task = str(group[task_place]) if task_place is not None else metric
        rest = ", ".join(
            f"{key}={value}" for key, value in zip(by, group, strict=True) if key not in (x, "task")
        )
        panels.setdefault(task, {}).setdefault(rest, []).append((group[place], told))
    width = min(4, len(panels))
    height = -(-len(panels) // width)
    figure, axes = pyplot.subplots(height, width, figsize=(4 * width, 3 * height), squeeze=False, sharey=True)
    for axis, (task, drawn) in zip(axes.flat, panels.items(), strict=False):
        for rest, points in drawn.items():
            spread = [0.0 if math.isnan(told.half_width) else told.half_width for _, told in points]
            places = [value if isinstance(value, (int, float)) else str(value) for value, _ in points]
            axis.errorbar(
                places, [told.mean for _, told in points], spread, marker="o", capsize=3, label=rest
            )
        axis.set(title=task, xlabel=x)
    for axis in axes.flat[len(panels) :]:
        axis.axis("off")
    axes[0, 0].set_ylabel(f"{metric}, mean and 95 % interval")
    if any(rest for drawn in panels.values() for rest in drawn):
        axes[0, 0].legend(fontsize="x-small")
    figure.tight_layout()
    with write_atomically(path) as temporary:
        figure.savefig(temporary, format=path.suffix.lstrip("."), dpi=120)
    pyplot.close(figure)


def report(arguments: argparse.Namespace) -> str:
    """Carry out one command line.

    Returns:
        What it prints.

    Raises:
        FileNotFoundError: As :func:`gather`.
        ValueError: As :func:`summarise` and :func:`compare`.
    """
    lines, unfinished = gather(arguments.folders, arguments.split)
    told = [f"{len({line['run'] for line in lines})} finished runs"]
    told += [f"left out, not finished: {run}" for run in unfinished]
    by = arguments.by or _default_groups(lines)
    by += [key for key in (arguments.across, arguments.x) if key and key not in by]
    groups = summarise(lines, by, arguments.metric)
    header = [*by, "mean", "sd", "half_width", "runs"]
    rows = [[*group, found.mean, found.sd, found.half_width, found.runs] for group, found in groups.items()]
    listed = [[*map(str, group), str(found)] for group, found in groups.items()]
    shown = pivot(groups, by, arguments.across) if arguments.across else ([*by, arguments.metric], listed)
    told.append(
        f"{arguments.metric}: mean ± half of the 95 % interval over runs (number of runs)\n"
        + markdown(*shown)
    )
    if arguments.against:
        key, _, base = arguments.against.partition("=")
        grouping, pairs = compare(lines, key, base, arguments.metric)
        told.append(
            f"{arguments.metric} minus that of {key}={base} on the same draws and seeds (number of pairs)\n"
            + markdown(
                ["task", *grouping, key, "difference"], [[*pair, found] for pair, found in pairs.items()]
            )
        )
    text = "\n\n".join(told) + "\n"
    if arguments.output:
        columns = list(dict.fromkeys(key for line in lines for key in line))
        write_csv(
            arguments.output / "runs.csv", columns, ([line.get(key, "") for key in columns] for line in lines)
        )
        write_csv(arguments.output / "table.csv", header, rows)
        with write_atomically(arguments.output / "table.md") as temporary:
            temporary.write_text(text, encoding="utf-8")
        if arguments.x:
            draw(groups, by, arguments.x, arguments.metric, arguments.output / "figure.svg")
    return text


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; 2 and one message where it asks for something wrong."""
    parser = argparse.ArgumentParser(
        "python -m mpt.report", description="One table of many run folders, with intervals."
    )
    parser.add_argument(
        "folders", nargs="+", type=Path, help="run folders, folders of them, or sweeps/NAME.jsonl"
    )
    parser.add_argument(
        "--by", nargs="+", metavar="KEY", help="group by these; default: all that differs but the seeds"
    )
    parser.add_argument("--across", metavar="KEY", help="put this key's values side by side")
    parser.add_argument(
        "--against", metavar="KEY=VALUE", help="paired differences to the runs with this value"
    )
    parser.add_argument("--x", metavar="KEY", help="draw figure.svg over this key; needs --output")
    parser.add_argument(
        "--metric",
        default="score",
        help="score, before, best_step, curve_mean (of all validations: who learns sooner has more), fit_seconds, "
        "trained_parameters, or a metric's name",
    )
    parser.add_argument("--split", default="test", choices=("test", "validation"))
    parser.add_argument(
        "--output", type=Path, metavar="FOLDER", help="also write runs.csv, table.csv and table.md there"
    )
    arguments = parser.parse_args(argv)
    if arguments.x and not arguments.output:
        parser.error("--x: draws a figure, so give --output FOLDER")
    if arguments.against and "=" not in arguments.against:
        parser.error("--against: write KEY=VALUE, as in prompt.init=RANDOM")
    try:
        print(report(arguments), end="")
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
