"""How long does a method adapt? `python experiments/few_shot/speed.py`, on a machine that does nothing else.

Each method adapts to one target alone, the methods in turn, several rounds: so a ratio to plain prompt tuning is
taken within a round, and what slows the machine for a while slows both sides of it.
"""

import argparse
import json
from pathlib import Path

from few_shot import HERE, METHODS, ROOT, RUNS, Cell, train, train_source, tuned

from mpt.report import estimate, markdown
from mpt.run.record import write_csv

BASE = "plain"
STEPS, TARGET = 100, "reply_polite"


def fit_seconds(runs: Path, method: str, round_: int) -> float:
    """Train one adaptation with the tuned setting; the seconds of its steps, without set-up and scoring."""
    cell = Cell(runs, method, "all", "16", (round_,), (TARGET,), tuned()[method])
    folder = runs / "speed" / f"round{round_}" / method
    # Only the numbers of the run are wanted: one validation at the end.
    train([
        *cell.overrides()[:-1], f"trainer.max_steps={STEPS}", f"evaluation.validate_every={STEPS}",
        "evaluation.validation_rows=1", "evaluation.test_rows=1", "evaluation.before=false",
        f"hydra.run.dir={folder}",
    ])  # fmt: skip
    return float(json.loads((ROOT / folder / "metrics.json").read_text(encoding="utf-8"))["seconds"]["fit"])


def main() -> None:
    """Measure, and write results/speed.csv and results/speed.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--runs", type=Path, default=RUNS, help="where runs lie, from the project's root")
    told = parser.parse_args()
    for kind in {method.kind for method in METHODS.values()} - {None}:
        train_source(told.runs, str(kind), "all")
    seconds: dict[str, list[float]] = {method: [] for method in METHODS}
    for round_ in range(told.rounds):
        for method in METHODS:
            seconds[method].append(fit_seconds(told.runs, method, round_))
    write_csv(
        HERE / "results" / "speed.csv",
        ["method", "round", "seconds"],
        (
            [method, round_, f"{taken:.3f}"]
            for method in METHODS
            for round_, taken in enumerate(seconds[method])
        ),
    )
    rows = []
    for method in METHODS:
        pairs = zip(seconds[method], seconds[BASE], strict=True)
        ratio = "1" if method == BASE else str(estimate([taken / base for taken, base in pairs]))
        rows.append([f"`{method}`", f"{1000 * estimate(seconds[method]).mean / STEPS:.0f}", ratio])
    table = markdown(["method", "ms a step", f"time, as a ratio to `{BASE}`"], rows)
    (HERE / "results" / "speed.md").write_text(table + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
