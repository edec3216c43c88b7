"""Which parts of multitask prompt tuning matter? `python experiments/ablations/ablations.py`.

One factor at a time is changed against MPT as the few-shot study tuned it: all sources, all targets, k = 16.
"""

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent / "few_shot")]

from few_shot import MIXTURES, ROWS, STEPS, TEST_ROWS, VALIDATE_EVERY  # noqa: E402
from study import Cell, Line, Source, run_study  # noqa: E402

from mpt.report.estimate import estimate  # noqa: E402
from mpt.report.pairs import compare  # noqa: E402
from mpt.report.tables import markdown  # noqa: E402
from mpt.world.tasks import TARGET_TASKS  # noqa: E402

RUNS = Path("runs") / "ablations"
BASE = "base"


@dataclass(frozen=True)
class Variant:
    """The changes of one variant.

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
    "P only": Variant("start", target=("prompt.init=ONLY_SOURCE_SHARED",)),
    "stochastic": Variant("sampling", source=("mixture=stochastic",)),
    "λ of dlg is 10": Variant("λ", source=("tasks.dlg.weight=10",)),
    "P frozen, rank 1": Variant("P frozen", target=("prompt.freeze_shared=true",)),
    "P frozen, rank 4": Variant("P frozen", both=("prompt.num_ranks=4",), target=("prompt.freeze_shared=true",)),
    "P frozen, rank 16": Variant("P frozen", both=("prompt.num_ranks=16",), target=("prompt.freeze_shared=true",)),
}


def named(overrides: tuple[str, ...]) -> str:
    """A folder's name for overrides."""
    return "_".join(text.replace(".", "-").replace("=", "-") for text in overrides) or BASE


def source_of(variant: Variant) -> Source:
    """A variant's source, trained as the few-shot study does; variants of the adaptation only share one."""
    tasks, steps = MIXTURES["all"]
    return Source(
        RUNS / "source" / named((*variant.both, *variant.source)),
        (
            *("task=source", f"tasks=[{','.join(tasks)}]", "mixture=equal", *variant.both, *variant.source),
            *(f"trainer.max_steps={steps}", "evaluation.validation_rows=20", "evaluation.validate_every=100"),
            *("evaluation.test_rows=50", "evaluation.before=false"),
        ),
    )


def cells(names: list[str], draws: int, rate: float) -> list[Cell]:
    """A run for each variant and draw, which adapts to all targets side by side."""
    found = []
    groups = f"prompt.groups=[{','.join(f'[{task}]' for task in TARGET_TASKS)}]"
    for name in names:
        variant = VARIANTS[name]
        own = () if "prompt.freeze_shared=true" in variant.target else (groups,)
        source = source_of(variant)
        for draw in range(draws):
            overrides = (
                *("task=target", f"tasks=[{','.join(TARGET_TASKS)}]", "mixture=each", "evaluation.best=task", *own),
                *(f"source={source.folder}", *variant.both, *variant.target, f"optim.lr_prompt={rate}"),
                *(f"optim.lr_factors={rate}", "few_shot.k=16", f"seed={draw}", f"trainer.batch_size={ROWS}"),
                *(f"trainer.max_steps={STEPS}", f"evaluation.validate_every={VALIDATE_EVERY}"),
                *("evaluation.oracle=false", f"evaluation.test_rows={TEST_ROWS}"),
            )
            folder = RUNS / "target" / f"{name.replace(' ', '_').replace(',', '').replace('λ', 'weight')}-{draw}"
            found.append(Cell({"variant": name, "seed": str(draw)}, overrides, folder, source))
    return found


def table(lines: list[Line], names: list[str]) -> str:
    """A row for each variant: the mean over targets with its interval over draws, the difference over targets."""
    slim = [{key: line[key] for key in ("task", "variant", "seed", "score")} for line in lines]
    _, pairs = compare(slim, "variant", BASE, "score")
    rows = []
    for name in names:
        of_variant = [line for line in lines if line["variant"] == name]
        by_draw = [
            [line for line in of_variant if line["seed"] == seed] for seed in {line["seed"] for line in of_variant}
        ]
        numbers = [
            estimate([sum(line[key] for line in of_draw) / len(of_draw) for of_draw in by_draw])
            for key in ("before", "score", "curve_mean")
        ]
        rows.append([VARIANTS[name].factor, name, *numbers, "–" if name == BASE else pairs["all tasks", name]])
    header = ["factor", "variant", "before", "score", "mean of the validation curve"]
    return markdown([*header, f"score minus {BASE}, over targets"], rows) + "\n"


def main() -> None:
    """Run what is missing, and write results/table.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=VARIANTS)
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--rate", type=float, default=0.3, help="learning rate of P and the factors")
    parser.add_argument("--jobs", type=int, default=2, help="runs side by side, each with one thread")
    arguments = parser.parse_args()
    names = list(dict.fromkeys([BASE, *arguments.variants]))
    every = cells(names, arguments.draws, arguments.rate)
    lines = run_study(HERE / "results" / "runs.csv", every, jobs=arguments.jobs)
    (HERE / "results" / "table.md").write_text(table(lines, names), encoding="utf-8")


if __name__ == "__main__":
    main()
