"""Which parts of multitask prompt tuning matter? `python experiments/ablations/ablations.py`.

One factor at a time is changed against MPT as the few-shot study tuned it: all sources, all targets, k = 16.
"""

import argparse
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "few_shot"))

from few_shot import MIXTURES, ROOT, ROWS, STEPS, TEST_ROWS, VALIDATE_EVERY, train  # noqa: E402

from mpt.report import compare, estimate, gather, markdown  # noqa: E402
from mpt.run.record import write_csv  # noqa: E402
from mpt.world.tasks import TARGET_TASKS  # noqa: E402

RUNS = Path("runs") / "ablations"
BASE = "base"


@dataclass(frozen=True)
class Variant:
    """What one variant changes.

    Attributes:
        factor: The part of the method.
        both: Overrides of both stages.
        source: Overrides of the source training.
        target: Overrides of the adaptation.
    """

    factor: str = "–"
    both: tuple[str, ...] = ()
    source: tuple[str, ...] = ()
    target: tuple[str, ...] = ()


VARIANTS = {
    BASE: Variant(),
    "rank 4": Variant("rank", both=("prompt.num_ranks=4",)),
    "rank 16": Variant("rank", both=("prompt.num_ranks=16",)),
    "5 tokens": Variant("prompt length", both=("prompt.num_virtual_tokens=5",)),
    "50 tokens": Variant("prompt length", both=("prompt.num_virtual_tokens=50",)),
    "residual": Variant("form", both=("prompt=residual",)),
    "additive": Variant("form", both=("prompt=additive",)),
    "average of W": Variant("start", target=("prompt.init=AVERAGE_PRODUCT",)),
    "nearest task": Variant("start", target=("prompt.init=NEAREST_SOURCE_TASK",)),
    "weighted tasks": Variant("start", target=("prompt.init=WEIGHTED_SOURCE_TASKS",)),
    "P alone": Variant("start", target=("prompt.init=ONLY_SOURCE_SHARED",)),
    "stochastic": Variant("sampling", source=("mixture=stochastic",)),
    "λ of dlg is 10": Variant("λ", source=("tasks.dlg.weight=10",)),
    "P frozen, rank 1": Variant("P frozen", target=("prompt.freeze_shared=true",)),
    "P frozen, rank 4": Variant(
        "P frozen", both=("prompt.num_ranks=4",), target=("prompt.freeze_shared=true",)
    ),
    "P frozen, rank 16": Variant(
        "P frozen", both=("prompt.num_ranks=16",), target=("prompt.freeze_shared=true",)
    ),
}


def named(overrides: tuple[str, ...]) -> str:
    """A folder's name for overrides."""
    return "_".join(text.replace(".", "-").replace("=", "-") for text in overrides) or BASE


def source_folder(variant: Variant) -> Path:
    """Where a variant's source lies; variants of the adaptation alone share one."""
    return RUNS / "source" / named((*variant.both, *variant.source))


def train_source(variant: Variant) -> None:
    """Train a source as the few-shot study does."""
    tasks, steps = MIXTURES["all"]
    train([
        "task=source", f"tasks=[{','.join(tasks)}]", "mixture=equal", *variant.both, *variant.source,
        f"trainer.max_steps={steps}", "evaluation.validation_rows=20", "evaluation.validate_every=100",
        "evaluation.test_rows=50", "evaluation.before=false", f"hydra.run.dir={source_folder(variant)}",
    ])  # fmt: skip


def adapt(name: str, draws: int, rate: float) -> None:
    """Adapt to all targets side by side, a run per draw."""
    variant = VARIANTS[name]
    own = [] if "prompt.freeze_shared=true" in variant.target else [
        f"prompt.groups=[{','.join(f'[{task}]' for task in TARGET_TASKS)}]"
    ]  # fmt: skip
    train([
        "-m", "task=target", f"tasks=[{','.join(TARGET_TASKS)}]", "mixture=each", "evaluation.best=task", *own,
        f"source={source_folder(variant)}", *variant.both, *variant.target, f"optim.lr_prompt={rate}",
        f"optim.lr_factors={rate}", "few_shot.k=16", f"few_shot.seed={','.join(map(str, range(draws)))}",
        "seed=${few_shot.seed}", f"trainer.batch_size={ROWS}", f"trainer.max_steps={STEPS}",
        f"evaluation.validate_every={VALIDATE_EVERY}", "evaluation.oracle=false",
        f"evaluation.test_rows={TEST_ROWS}", f"output_root={target_folder(name)}",
    ])  # fmt: skip


def target_folder(name: str) -> Path:
    """Where a variant's adaptations lie."""
    return RUNS / "target" / name.replace(" ", "_").replace(",", "").replace("λ", "weight")


def report(names: list[str]) -> None:
    """Write results/: a line per run and target, and the table."""
    lines = []
    for name in names:
        for line in gather([ROOT / target_folder(name)])[0]:
            kept = {key: line[key] for key in ("run", "task", "seed", "n", "score", "before", "curve_mean")}
            lines.append(kept | {"variant": name, "run": str(Path(line["run"]).relative_to(ROOT))})
    columns = ["variant", "task", "seed", "n", "score", "before", "curve_mean"]
    write_csv(HERE / "results" / "runs.csv", columns, ([line[key] for key in columns] for line in lines))
    slim = [{key: line[key] for key in ("run", "task", "variant", "seed", "score")} for line in lines]
    pairs = compare(slim, "variant", BASE, "score")[1]
    rows = []
    for name in names:
        averages = [line for line in lines if (line["variant"], line["task"]) == (name, "average")]
        numbers = [estimate([line[key] for line in averages]) for key in ("before", "score", "curve_mean")]
        difference = "–" if name == BASE else pairs["all tasks", name]
        rows.append([VARIANTS[name].factor, name, *numbers, difference])
    header = [
        "factor",
        "variant",
        "before",
        "score",
        "mean of the validation curve",
        f"score minus {BASE}, over targets",
    ]
    (HERE / "results" / "table.md").write_text(markdown(header, rows) + "\n", encoding="utf-8")


def main() -> None:
    """Train the sources, adapt, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=VARIANTS)
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--rate", type=float, default=0.3, help="learning rate of P and the factors")
    parser.add_argument("--jobs", type=int, default=2, help="runs side by side, each with one thread")
    told = parser.parse_args()
    with ThreadPoolExecutor(told.jobs) as pool:
        sources = {source_folder(VARIANTS[name]): VARIANTS[name] for name in told.variants}
        list(pool.map(train_source, sources.values()))
        list(pool.map(lambda name: adapt(name, told.draws, told.rate), told.variants))
    report(told.variants)


if __name__ == "__main__":
    main()
