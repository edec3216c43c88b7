"""Do the held-out targets leave room between methods? `python experiments/room/room.py`: k = 16, three draws."""

import subprocess
import sys
from pathlib import Path

from mpt.world.tasks import TARGET_TASKS

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
RUNS = Path("runs") / "room"
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
    """Train the source, adapt by every method, and leave the report under results/."""
    train(*SOURCE, f"output_root={RUNS}")
    (source,) = (path.parent for path in (ROOT / RUNS).glob("source/*/metrics.json"))
    for method, changes in METHODS.items():
        told = [change.format(source=source.relative_to(ROOT)) for change in changes]
        train("-m", *TARGET, *told, f"output_root={RUNS / method}")
    command = (
        "-m", "mpt.report", *(str(RUNS / method) for method in METHODS), "--across", "folder",
        "--against", f"folder={RUNS / 'plain'}", "--output", str(HERE.relative_to(ROOT) / "results"),
    )  # fmt: skip
    subprocess.run([sys.executable, *command], cwd=ROOT, check=True)


if __name__ == "__main__":
    main()
