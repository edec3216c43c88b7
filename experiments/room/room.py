"""Do the held-out targets leave room between methods? `python experiments/room/room.py`: k = 16, three draws."""

import csv
import statistics
import subprocess
import sys
from pathlib import Path

from mpt.results import read_config, read_metrics
from mpt.world.tasks import TARGET_TASKS

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
RUNS = ROOT / "runs" / "room"
SOURCE = (
    "task=source",
    "tasks=[sum,mt,dlg,sum_lumi,mt_taro,keywords,question,where_kesh,list_who_what,feeling,intent,polite]",
    "trainer.max_steps=400",
)
TARGET = (
    "task=target", f"tasks={','.join(f'[{name}]' for name in TARGET_TASKS)}", "few_shot.k=16", "few_shot.seed=0,1,2",
    "evaluation.validation_rows=16", "evaluation.oracle=false", "few_shot.validation=split",
)  # fmt: skip
# What differs between methods; "untrained" is MPT's form without anything that a source has learned.
METHODS = {
    "mpt": ("source={source}",),
    "mpt_frozen": ("source={source}", "prompt.freeze_shared=true"),
    "untrained": ("prompt.init=VOCABULARY",),
    "plain": ("prompt=plain", "prompt.init=VOCABULARY"),
}


def train(*overrides: str) -> None:
    """Run `train.py`; runs that are finished already only print their tables."""
    subprocess.run([sys.executable, "train.py", *overrides, "logger=csv"], cwd=ROOT, check=True)


def main() -> None:
    """Train the source, adapt by every method, gather results/room.csv, and print the table."""
    train(*SOURCE, f"output_root={RUNS}")
    (source,) = (path.parent for path in RUNS.glob("source/*/metrics.json"))
    lines = []
    for method, changes in METHODS.items():
        train(
            "-m",
            *TARGET,
            *(change.format(source=source) for change in changes),
            f"output_root={RUNS / method}",
        )
        for folder in sorted(path.parent for path in (RUNS / method).glob("target/*/metrics.json")):
            config, run = read_config(folder) or ({}, {})
            told = read_metrics(folder) or {}
            ((task, row),) = ((task, row) for task, row in told["test"].items() if task != "average")
            lines.append(
                {
                    "task": task,
                    "method": method,
                    "draw": config["few_shot"]["seed"],
                    "n": row["n"],
                    "before": row["before"],
                    "score": row["score"],
                    "fingerprint": run["fingerprint"],
                }
            )
    lines.sort(key=lambda line: (list(TARGET_TASKS).index(line["task"]), line["method"], line["draw"]))
    (HERE / "results").mkdir(exist_ok=True)
    with (HERE / "results" / "room.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, lines[0])
        writer.writeheader()
        writer.writerows(lines)
    print(f"| task | {' | '.join(METHODS)} |\n|---|{'---|' * len(METHODS)}")
    for task in TARGET_TASKS:
        cells = []
        for method in METHODS:
            scores = [line["score"] for line in lines if (line["task"], line["method"]) == (task, method)]
            cells.append(f"{statistics.mean(scores):.3f} ± {statistics.stdev(scores):.3f}")
        print(f"| {task} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
