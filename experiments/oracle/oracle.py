"""Does the shared prompt find the skills? `python experiments/oracle/oracle.py`: source training over three seeds."""

import statistics
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from study import Cell, run_study  # noqa: E402

from mpt.report.tables import markdown  # noqa: E402

RUNS = Path("runs") / "oracle"
CELLS = [
    Cell({"seed": str(seed)}, ("task=source", "tasks=[sum,mt,dlg]", f"seed={seed}"), RUNS / str(seed))
    for seed in range(3)
]


def main() -> None:
    """Run what results/oracle.csv lacks, and print the table."""
    lines = run_study(HERE / "results" / "oracle.csv", CELLS)
    rows = []
    for task in dict.fromkeys(line["task"] for line in lines):
        of_task = [line for line in lines if line["task"] == task]
        scores = [line["score"] for line in of_task]
        shares = [line["score"] / line["oracle"] for line in of_task]
        numbers = [of_task[0]["oracle"], max(line["before"] for line in of_task)]
        rows.append([
            task, *(f"{number:.3f}" for number in numbers), f"{statistics.mean(scores):.3f} ({min(scores):.3f})",
            f"{min(shares):.1%}",
        ])  # fmt: skip
    header = ["task", "oracle", "before", "after, mean (lowest) of 3 seeds", "lowest share of the oracle"]
    print(markdown(header, rows))
    print(f"slowest fit: {max(line['fit_seconds'] for line in lines):.1f} s")


if __name__ == "__main__":
    main()
