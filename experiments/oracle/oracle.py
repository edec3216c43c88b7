"""Does the shared prompt find the skills? `python experiments/oracle/oracle.py`: source training over three seeds."""

import csv
import statistics
import subprocess
import sys
from pathlib import Path

from mpt.run.folder import read_config
from mpt.run.record import read_metrics

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
RUNS = ROOT / "runs" / "oracle"
TASKS = ("sum", "mt", "dlg")
COMMAND = (
    "train.py", "-m", "task=source", "tasks=[sum,mt,dlg]", "seed=0,1,2", f"output_root={RUNS}", "logger=csv",
)  # fmt: skip


def main() -> None:
    """Train, gather results/oracle.csv from the run folders, and print the table."""
    subprocess.run([sys.executable, *COMMAND], cwd=ROOT, check=True)
    lines = []
    for folder in sorted(path.parent for path in RUNS.glob("source/*/metrics.json")):
        config, run = read_config(folder) or ({}, {})
        told = read_metrics(folder) or {}
        for task in TASKS:
            row = told["test"][task]
            lines.append(
                {
                    "task": task,
                    "seed": config["seed"],
                    "n": row["n"],
                    "before": row["before"],
                    "score": row["score"],
                    "oracle": row["oracle"],
                    "share_of_oracle": round(row["score"] / row["oracle"], 4),
                    "steps": told["steps"],
                    "fit_seconds": round(told["seconds"]["fit"], 1),
                    "moved_prompt": round(told["moved"]["prompt"], 3),
                    "fingerprint": run["fingerprint"],
                }
            )
    (HERE / "results").mkdir(exist_ok=True)
    with (HERE / "results" / "oracle.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, lines[0])
        writer.writeheader()
        writer.writerows(sorted(lines, key=lambda line: (TASKS.index(line["task"]), line["seed"])))
    print("| task | oracle | before | after, mean (lowest) of 3 seeds | lowest share of the oracle |")
    print("|---|---|---|---|---|")
    for task in TASKS:
        of_task = [line for line in lines if line["task"] == task]
        scores = [line["score"] for line in of_task]
        print(
            f"| {task} | {of_task[0]['oracle']:.3f} | {max(line['before'] for line in of_task):.3f} "
            f"| {statistics.mean(scores):.3f} ({min(scores):.3f}) "
            f"| {min(line['share_of_oracle'] for line in of_task):.1%} |"
        )
    print(f"slowest fit: {max(line['fit_seconds'] for line in lines)} s")


if __name__ == "__main__":
    main()
