"""Which method adapts best from few examples? `python experiments/few_shot/few_shot.py`.

Every cell is an ordinary sweep of `train.py`: all targets side by side in a run, as if each were trained alone
(mixture=each, evaluation.best=task). Runs that are finished are not run again, so a stopped study goes on.
The learning rates and starts are those of results/tuning.csv; `--tune` chooses them anew and writes that file.
"""

import argparse
import csv
import json
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from mpt.run.record import write_csv
from mpt.world.tasks import SOURCE_TASKS, TARGET_TASKS

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
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
"""How a source is trained."""
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
        own_shared: Each target has a P of its own, as if it were alone.
        alone: All tasks of a run would share what is trained, so each target is a run of its own.
    """

    overrides: tuple[str, ...]
    rates: tuple[str, ...] = ("optim.lr_prompt={0}", "optim.lr_factors={0}")
    kind: str | None = None
    starts: tuple[tuple[str, ...], ...] = ((),)
    own_shared: bool = False
    alone: bool = False


FRESH = (("prompt.init=VOCABULARY",), ("prompt.init=RANDOM",))
OF_SOURCE = (("prompt.init=AVERAGE_SOURCE_TASKS",), ("prompt.init=NEAREST_SOURCE_TASK",))
METHODS = {
    "mpt": Method((), kind="mpt", starts=OF_SOURCE, own_shared=True),
    "mpt_frozen": Method(("prompt.freeze_shared=true", "prompt.init=AVERAGE_SOURCE_TASKS"), kind="mpt"),
    "untrained": Method((), starts=FRESH, own_shared=True),
    "plain": Method(("prompt=plain",), starts=FRESH),
    "additive": Method(
        ("prompt=additive", "prompt.init=AVERAGE_SOURCE_TASKS"), kind="additive", own_shared=True
    ),
    "spot": Method(
        ("prompt=plain", "prompt.init=NEAREST_SOURCE_TASK", "prompt.source_scores=similarity"), kind="library"
    ),
    "spot_generic": Method(("prompt=plain", "prompt.init=ONLY_SOURCE_SHARED"), kind="generic"),
    "weighted": Method(("prompt=plain", "prompt.init=WEIGHTED_SOURCE_TASKS"), kind="library"),
    "attempt": Method(("method=attempt",), rates=("optim.lr_prompt={0}",), kind="library"),
    "dept": Method(("method=dept",), rates=("optim.lr_prompt={0}", "optim.lr_factors={1}")),
    "lora": Method(("method=lora",), rates=("optim.lr_weights={0}",), alone=True),
    "full": Method(("method=full",), rates=("optim.lr_weights={0}",), alone=True),
}


@dataclass(frozen=True)
class Cell:
    """One line of the study: runs that differ in draw, and for some methods in target."""

    runs: Path
    method: str
    mixture: str
    k: str
    draws: tuple[int, ...]
    targets: tuple[str, ...]
    told: tuple[str, ...]
    """Learning rate and start."""
    tuning: bool = False

    @property
    def folder(self) -> Path:
        """Where its runs lie."""
        if self.tuning:
            named = "_".join(text.split(".", 1)[1].replace("=", "-") for text in self.told)
            return self.runs / "tuning" / self.method / named
        return self.runs / "target" / self.mixture / f"k{self.k}" / self.method

    def overrides(self) -> list[str]:
        """The command line of the sweep."""
        method = METHODS[self.method]
        told = ["task=target", *method.overrides, *self.told]
        if method.kind is not None:
            told.append(f"source={source_folder(self.runs, method.kind, self.mixture)}")
        if method.alone:
            told.append(f"tasks={','.join(f'[{name}]' for name in self.targets)}")
        else:
            told += [f"tasks=[{','.join(self.targets)}]", "mixture=each", "evaluation.best=task"]
        if method.own_shared:
            told.append(f"prompt.groups=[{','.join(f'[{name}]' for name in self.targets)}]")
        draws = ",".join(map(str, self.draws))
        # With all rows there is no draw; a draw's number is also the seed of everything else.
        shots = [f"few_shot.k={self.k}", f"few_shot.seed={draws}", "seed=${few_shot.seed}"]
        if self.k == "all":
            shots = [f"seed={draws}"]
        tested = ["evaluation.before=false", "evaluation.test_rows=1"] if self.tuning else [
            f"evaluation.test_rows={TEST_ROWS}"
        ]  # fmt: skip
        return [
            *told, *shots, f"trainer.batch_size={ROWS}",
            f"trainer.max_steps={STEPS}", f"evaluation.validate_every={VALIDATE_EVERY}",
            "evaluation.validation_rows=50", "evaluation.oracle=false", *tested, f"output_root={self.folder}",
        ]  # fmt: skip


def source_folder(runs: Path, kind: str, mixture: str) -> Path:
    """Where the source run lies; its only run."""
    return runs / "source" / mixture / kind / "run"


def candidates(name: str) -> Iterator[tuple[str, ...]]:
    """The learning rates and starts that are tried for a method."""
    method = METHODS[name]
    for start in method.starts:
        for rate in WEIGHT_RATES if method.alone else RATES:
            yield (*(text.format(rate, round(rate / 10, 6)) for text in method.rates), *start)


def train(overrides: Sequence[str]) -> None:
    """Run `train.py` with one thread; finished runs only print their tables."""
    command = [sys.executable, "train.py", *overrides]
    told = ["logger=csv", "trainer.progress_bar=false", "trainer.threads=1", "trainer.accelerator=cpu"]
    print("train.py", *overrides, flush=True)
    done = subprocess.run([*command, *told], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")


def train_source(runs: Path, kind: str, mixture: str) -> None:
    """Train one source, unless it is there."""
    tasks, steps = MIXTURES[mixture]
    train([
        "task=source", f"tasks=[{','.join(tasks)}]", *KINDS[kind], "mixture=equal", f"trainer.max_steps={steps}",
        "evaluation.validation_rows=20", "evaluation.validate_every=100", "evaluation.test_rows=50",
        "evaluation.before=false", f"hydra.run.dir={source_folder(runs, kind, mixture)}",
    ])  # fmt: skip


def trial(runs: Path, name: str, told: tuple[str, ...]) -> Cell:
    """The cell that tries a candidate: mixture of all sources, k = 16, one draw of its own."""
    return Cell(runs, name, "all", "16", (TUNING_DRAW,), tuple(TARGET_TASKS), told, tuning=True)


def tune(runs: Path, names: Sequence[str], pool: ThreadPoolExecutor) -> None:
    """Try every candidate of some methods, and put their mean validation scores over targets into `TUNING`."""
    cells = [trial(runs, name, told) for name in names for told in candidates(name)]
    list(pool.map(lambda cell: train(["-m", *cell.overrides()]), cells))
    rows = [row for row in read_tuning() if row[0] not in names]
    for cell in cells:
        scores = []
        for path in sorted((ROOT / cell.folder).rglob("metrics.json")):
            found = json.loads(path.read_text(encoding="utf-8"))["validation"]
            scores += [row["score"] for task, row in found.items() if task != "average"]
        rows.append([cell.method, " ".join(cell.told), f"{statistics.fmean(scores):.4f}"])
    write_csv(TUNING, TUNING_HEADER, sorted(rows, key=lambda row: list(METHODS).index(row[0])))


def read_tuning() -> list[list[str]]:
    """The rows of `TUNING`."""
    if not TUNING.is_file():
        return []
    with TUNING.open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file))[1:]


def tuned() -> dict[str, tuple[str, ...]]:
    """The candidate of each method with the best mean validation score; the first one of equals."""
    best: dict[str, tuple[float, str]] = {}
    for name, candidate, score in read_tuning():
        if name not in best or float(score) > best[name][0]:
            best[name] = float(score), candidate
    return {name: tuple(candidate.split()) for name, (_, candidate) in best.items()}


def grid(text: str) -> tuple[str, str]:
    """A mixture and a k from the command line."""
    mixture, _, k = text.partition(":")
    if mixture not in MIXTURES or not (k == "all" or (k.isdecimal() and int(k) > 0)):
        raise argparse.ArgumentTypeError(
            f"{text!r}: give MIXTURE:K, a mixture of {', '.join(MIXTURES)} and a number or all, such as all:16"
        )
    return mixture, k


def main() -> None:
    """Train the sources, choose learning rates, adapt; `report.py` beside this file writes the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--cells", nargs="+", default=[grid(text) for text in GRID], type=grid,
                        metavar="MIXTURE:K", help=f"{', '.join(MIXTURES)}; 4, 16, 32, all, ...")  # fmt: skip
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--targets", nargs="+", default=list(TARGET_TASKS), choices=TARGET_TASKS)
    parser.add_argument("--tune", action="store_true", help="choose learning rates and starts anew")
    parser.add_argument("--runs", type=Path, default=RUNS, help="where runs lie, from the project's root")
    parser.add_argument("--jobs", type=int, default=2, help="sweeps side by side, each with one thread")
    told = parser.parse_args()
    kinds = dict.fromkeys(METHODS[name].kind for name in told.methods)
    # The rates are chosen on the mixture of all sources.
    mixtures = dict.fromkeys((["all"] if told.tune else []) + [mixture for mixture, _ in told.cells])
    with ThreadPoolExecutor(told.jobs) as pool:
        sources = [(kind, mixture) for mixture in mixtures for kind in kinds if kind]
        list(pool.map(lambda pair: train_source(told.runs, *pair), sources))
        if told.tune:
            tune(told.runs, told.methods, pool)
        chosen = tuned()
        missing = [name for name in told.methods if name not in chosen]
        if missing:
            raise SystemExit(f"{TUNING}: no line for {', '.join(missing)}; give --tune")
        cells = [
            # What starts from nothing has no mixture.
            Cell(told.runs, name, mixture if METHODS[name].kind else "none", k, tuple(range(told.draws)),
                 tuple(told.targets), chosen[name])
            for mixture, k in told.cells for name in told.methods
        ]  # fmt: skip
        list(pool.map(lambda cell: train(["-m", *cell.overrides()]), dict.fromkeys(cells)))


if __name__ == "__main__":
    main()
