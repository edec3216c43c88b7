"""Which method adapts best from few examples? `python experiments/few_shot/few_shot.py`.

A run adapts to all targets side by side, each as in a run of its own (mixture=each, evaluation.best=task). What
results/runs.csv has is not run again, so a stopped study goes on. The learning rates and starts are those of
results/tuning.csv; `--tune` chooses them anew and writes that file. `report.py` beside this file makes the tables.
"""

import argparse
import csv
import statistics
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from study import Cell, Source, run_study  # noqa: E402

from mpt.run.record import write_csv  # noqa: E402
from mpt.world.tasks import SOURCE_TASKS, TARGET_TASKS  # noqa: E402

RUNS = Path("runs") / "few_shot"
TUNING = HERE / "results" / "tuning.csv"
TUNING_HEADER = ("method", "candidate", "mean validation score")
# Source tasks, and the steps of their training.
MIXTURES = {
    "three": (("sum", "mt", "dlg"), 300),
    "family": (("mt", "mt_taro", "mt_kesh", "mt_lumi_en", "mt_lumi_taro"), 400),
    "all": (tuple(SOURCE_TASKS), 1000),
}
KINDS = {
    "mpt": ("prompt=product",),
    "additive": ("prompt=additive",),
    "library": ("prompt=plain",),
    "generic": ("prompt=shared",),
}
"""Kinds of source runs."""
GRID = ("all:4", "all:16", "all:32", "all:all", "three:16", "family:16")
"""Source mixtures and numbers of examples that the study fills."""
STEPS, ROWS, VALIDATE_EVERY, TEST_ROWS = 60, 4, 10, 100
"""Of a run: steps, rows of a task in each, steps between validations; test rows of a task."""
TUNING_DRAW = 100
"""Draw on which the learning rates and starts are chosen; none of those that count."""
RATES = (0.1, 0.3, 1.0)
WEIGHT_RATES = (3e-4, 1e-3, 3e-3, 1e-2)


@dataclass(frozen=True)
class Method:
    """A method of adaptation, and what is tuned of it on one grid of learning rates.

    Attributes:
        overrides: What makes it what it is.
        rates: What a learning rate of the grid sets.
        kind: Kind of source that it starts from; None: it starts from nothing.
        starts: Starts that are tuned together with the learning rate.
        own_shared: Each target has a P of its own, as in a run of its own.
        separate: All tasks of a run would share what is trained, so each target is a run of its own.
    """

    overrides: tuple[str, ...]
    rates: tuple[str, ...] = ("optim.lr_prompt={0}", "optim.lr_factors={0}")
    kind: str | None = None
    starts: tuple[tuple[str, ...], ...] = ((),)
    own_shared: bool = False
    separate: bool = False


FRESH = (("prompt.init=VOCABULARY",), ("prompt.init=RANDOM",))
OF_SOURCE = (("prompt.init=AVERAGE_SOURCE_TASKS",), ("prompt.init=NEAREST_SOURCE_TASK",))
METHODS = {
    "mpt": Method((), kind="mpt", starts=OF_SOURCE, own_shared=True),
    "mpt_frozen": Method(("prompt.freeze_shared=true", "prompt.init=AVERAGE_SOURCE_TASKS"), kind="mpt"),
    "untrained": Method((), starts=FRESH, own_shared=True),
    "plain": Method(("prompt=plain",), starts=FRESH),
    "additive": Method(("prompt=additive", "prompt.init=AVERAGE_SOURCE_TASKS"), kind="additive", own_shared=True),
    "spot": Method(
        ("prompt=plain", "prompt.init=NEAREST_SOURCE_TASK", "prompt.source_scores=similarity"), kind="library"
    ),
    "spot_generic": Method(("prompt=plain", "prompt.init=ONLY_SOURCE_SHARED"), kind="generic"),
    "weighted": Method(("prompt=plain", "prompt.init=WEIGHTED_SOURCE_TASKS"), kind="library"),
    "attempt": Method(("method=attempt",), rates=("optim.lr_prompt={0}",), kind="library"),
    "dept": Method(("method=dept",), rates=("optim.lr_prompt={0}", "optim.lr_factors={1}")),
    "lora": Method(("method=lora",), rates=("optim.lr_weights={0}",), separate=True),
    "full": Method(("method=full",), rates=("optim.lr_weights={0}",), separate=True),
}


def source_of(kind: str, mixture: str) -> Source:
    """The source run of a kind on a mixture."""
    tasks, steps = MIXTURES[mixture]
    return Source(
        RUNS / "source" / mixture / kind,
        (
            *("task=source", f"tasks=[{','.join(tasks)}]", *KINDS[kind], "mixture=equal"),
            *(f"trainer.max_steps={steps}", "evaluation.validation_rows=20", "evaluation.validate_every=100"),
            *("evaluation.test_rows=50", "evaluation.before=false"),
        ),
    )


def adaptation(
    method: str,
    mixture: str,
    k: str,
    draw: int,
    targets: Sequence[str],
    setting: Sequence[str],
    names: dict[str, str],
    tuning: bool = False,
) -> Cell:
    """One run: a method with its setting, on one draw, on one or all targets.

    Args:
        method: Of :data:`METHODS`.
        mixture: Source tasks; without consequence for a method that starts from nothing.
        k: Examples of a target, or all.
        draw: Seed of the draw and of everything else.
        targets: Side by side, each as in a run of its own.
        setting: Learning rate and start.
        names: What the run is called in its CSV.
        tuning: Validate, and do not touch the test split.
    """
    parts = METHODS[method]
    source = source_of(parts.kind, mixture) if parts.kind is not None else None
    overrides = ["task=target", *parts.overrides, *setting, f"tasks=[{','.join(targets)}]", f"seed={draw}"]
    if source is not None:
        overrides.append(f"source={source.folder}")
    if not parts.separate:
        overrides += ["mixture=each", "evaluation.best=task"]
    if parts.own_shared:
        overrides.append(f"prompt.groups=[{','.join(f'[{name}]' for name in targets)}]")
    if k != "all":
        overrides.append(f"few_shot.k={k}")
    tested = ("evaluation.before=false", "evaluation.test_rows=1") if tuning else ()
    overrides += [
        f"trainer.batch_size={ROWS}", f"trainer.max_steps={STEPS}", f"evaluation.validate_every={VALIDATE_EVERY}",
        "evaluation.validation_rows=50", "evaluation.oracle=false", *(tested or (f"evaluation.test_rows={TEST_ROWS}",)),
    ]  # fmt: skip
    folder = "_".join(names.values()).replace("optim.", "").replace("prompt.", "").replace(" ", "_").replace("=", "-")
    return Cell(names, tuple(overrides), RUNS / ("tuning" if tuning else "target") / folder, source)


def cells(
    grid: Sequence[tuple[str, str]],
    methods: Sequence[str],
    draws: int,
    targets: Sequence[str],
    settings: dict[str, tuple[str, ...]],
) -> list[Cell]:
    """All runs of the study; a method that starts from nothing has no mixture."""
    found: dict[tuple[str, ...], Cell] = {}
    for mixture, k in grid:
        for method in methods:
            named = mixture if METHODS[method].kind else "none"
            parts = [[target] for target in targets] if METHODS[method].separate else [list(targets)]
            for draw in range(draws):
                for part in parts:
                    names = {"method": method, "mixture": named, "k": k, "seed": str(draw), "targets": "+".join(part)}
                    cell = adaptation(method, mixture, k, draw, part, settings[method], names)
                    found[tuple(names.values())] = cell
    return list(found.values())


def candidates(name: str) -> Iterator[tuple[str, ...]]:
    """The learning rates and starts that are tried for a method."""
    method = METHODS[name]
    for start in method.starts:
        for rate in WEIGHT_RATES if method.separate else RATES:
            yield (*(text.format(rate, round(rate / 10, 6)) for text in method.rates), *start)


def tune(names: Sequence[str], jobs: int) -> None:
    """Try every candidate of some methods, and put their mean validation scores over targets into `TUNING`."""
    tried = []
    for method in names:
        parts = [[target] for target in TARGET_TASKS] if METHODS[method].separate else [list(TARGET_TASKS)]
        tried += [
            adaptation(
                method, "all", "16", TUNING_DRAW, part, candidate,
                {"method": method, "candidate": " ".join(candidate), "targets": "+".join(part)}, tuning=True,
            )
            for candidate in candidates(method) for part in parts
        ]  # fmt: skip
    lines = run_study(HERE / "results" / "tuning_runs.csv", tried, split="validation", jobs=jobs)
    rows = [row for row in read_tuning() if row[0] not in names]
    for method, candidate in dict.fromkeys((cell.names["method"], cell.names["candidate"]) for cell in tried):
        scores = [line["score"] for line in lines if (line["method"], line["candidate"]) == (method, candidate)]
        rows.append([method, candidate, f"{statistics.fmean(scores):.4f}"])
    write_csv(TUNING, TUNING_HEADER, sorted(rows, key=lambda row: list(METHODS).index(row[0])))


def read_tuning() -> list[list[str]]:
    """The rows of `TUNING`."""
    if not TUNING.is_file():
        return []
    with TUNING.open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file))[1:]


def best_settings() -> dict[str, tuple[str, ...]]:
    """The candidate of each method with the best mean validation score; the first one of equals."""
    best: dict[str, tuple[float, str]] = {}
    for name, candidate, score in read_tuning():
        if name not in best or float(score) > best[name][0]:
            best[name] = float(score), candidate
    return {name: tuple(candidate.split()) for name, (_, candidate) in best.items()}


def parse_grid(text: str) -> tuple[str, str]:
    """A mixture and a k from the command line."""
    mixture, _, k = text.partition(":")
    if mixture not in MIXTURES or not (k == "all" or (k.isdecimal() and int(k) > 0)):
        raise argparse.ArgumentTypeError(
            f"{text!r}: give MIXTURE:K, a mixture of {', '.join(MIXTURES)} and a number or all, such as all:16"
        )
    return mixture, k


def main() -> None:
    """Train the sources that are missing, choose learning rates where asked, adapt."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--cells", nargs="+", default=[parse_grid(text) for text in GRID], type=parse_grid,
                        metavar="MIXTURE:K", help=f"{', '.join(MIXTURES)}; 4, 16, 32, all, ...")  # fmt: skip
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--targets", nargs="+", default=list(TARGET_TASKS), choices=TARGET_TASKS)
    parser.add_argument("--tune", action="store_true", help="choose learning rates and starts anew")
    parser.add_argument("--jobs", type=int, default=2, help="runs side by side, each with one thread")
    arguments = parser.parse_args()
    if arguments.tune:
        tune(arguments.methods, arguments.jobs)
    settings = best_settings()
    if missing := [name for name in arguments.methods if name not in settings]:
        raise SystemExit(f"{TUNING}: no line for {', '.join(missing)}; give --tune")
    every = cells(arguments.cells, arguments.methods, arguments.draws, arguments.targets, settings)
    run_study(HERE / "results" / "runs.csv", every, jobs=arguments.jobs)


if __name__ == "__main__":
    main()
