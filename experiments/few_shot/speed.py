"""How long does a method adapt? `python experiments/few_shot/speed.py`, on a machine that does nothing else.

Each method adapts to a single target, the methods in turn, several rounds: so a ratio to plain prompt tuning is
taken within a round, and what slows the machine for a while slows both sides of it.
"""

import argparse
import json

from few_shot import HERE, METHODS, RUNS, adaptation, best_settings, source_of
from study import ROOT, train

from mpt.report.estimate import estimate
from mpt.report.tables import markdown
from mpt.run.record import write_csv

BASE = "plain"
STEPS, TARGET = 100, "reply_polite"


def fit_seconds(method: str, number: int) -> float:
    """Train one adaptation with the tuned setting; the seconds of its steps, without set-up and scoring."""
    names = {"method": method, "round": str(number)}
    cell = adaptation(method, "all", "16", number, [TARGET], best_settings()[method], names)
    folder = RUNS / "speed" / f"round{number}" / method
    # Only the numbers of the run are wanted: one validation at the end.
    train(
        [
            *cell.overrides, f"trainer.max_steps={STEPS}", f"evaluation.validate_every={STEPS}", "overwrite=true",
            "evaluation.validation_rows=1", "evaluation.test_rows=1", "evaluation.before=false",
        ],
        folder,
    )  # fmt: skip
    return float(json.loads((ROOT / folder / "metrics.json").read_text(encoding="utf-8"))["seconds"]["fit"])


def main() -> None:
    """Measure, and write results/speed.csv and results/speed.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds: int = parser.parse_args().rounds
    for kind in {method.kind for method in METHODS.values() if method.kind is not None}:
        source = source_of(kind, "all")
        train(source.overrides, source.folder)
    seconds: dict[str, list[float]] = {method: [] for method in METHODS}
    for number in range(rounds):
        for method in METHODS:
            seconds[method].append(fit_seconds(method, number))
    write_csv(
        HERE / "results" / "speed.csv",
        ["method", "round", "seconds"],
        ([method, round_, f"{taken:.3f}"] for method in METHODS for round_, taken in enumerate(seconds[method])),
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
