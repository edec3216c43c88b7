"""Which start of a target? `python experiments/starts/starts.py`: three and a control, k = 16."""

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
RUNS = Path("runs") / "starts"
SOURCE = (
    "task=source",
    "tasks=[sum,mt,dlg,sum_lumi,mt_taro,keywords,question,where_kesh,list_who_what,feeling,intent,polite]",
    "trainer.max_steps=400",
    "evaluation.test_rows=100",
)
# Targets that the room study found to have room at k = 16.
TARGET = (
    "task=target",
    "tasks=[color_else],[future_question],[mt_kesh_lumi],[reply_polite]",
    "few_shot.k=16",
    "few_shot.seed=0,1,2",
    "evaluation.oracle=false",
    "evaluation.test_rows=300",
)
STARTS = ("AVERAGE_SOURCE_TASKS", "AVERAGE_PRODUCT", "NEAREST_SOURCE_TASK")
CONTROL = "VOCABULARY"
"""MPT's form without anything from a source."""


def train(*overrides: str) -> None:
    """Run `train.py`; runs that are finished already only print their tables."""
    subprocess.run([sys.executable, "train.py", *overrides, "logger=csv"], cwd=ROOT, check=True)


def main() -> None:
    """Train the source, adapt from every start, and leave the report under results/."""
    train(*SOURCE, f"output_root={RUNS}")
    (source,) = (path.parent for path in (ROOT / RUNS).glob("source/*/metrics.json"))
    for start in STARTS:
        train(
            "-m", *TARGET, f"prompt.init={start}", f"source={source.relative_to(ROOT)}", f"output_root={RUNS}"
        )
    train("-m", *TARGET, f"prompt.init={CONTROL}", f"output_root={RUNS}")
    command = (
        "-m", "mpt.report", str(RUNS / "target"), "--by", "task", "prompt.init", "--across", "prompt.init",
        "--against", f"prompt.init={CONTROL}",
        "--output", str(HERE.relative_to(ROOT) / "results"),
    )  # fmt: skip
    subprocess.run([sys.executable, *command], cwd=ROOT, check=True)


if __name__ == "__main__":
    main()
