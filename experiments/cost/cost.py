"""What a run costs on this machine: `python experiments/cost/cost.py`; nothing is compared with anything."""

import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TASKS = ("task=source", "tasks=[sum,mt,dlg]", "logger=csv", "trainer.progress_bar=false", "trainer=cpu")
# Nothing but training: one validation row at the end, one test row.
BARE = (
    "evaluation.before=false", "evaluation.oracle=false", "evaluation.validation_rows=1", "evaluation.test_rows=1",
    "evaluation.validate_every=100000",
)  # fmt: skip
REPEATS = 3


def run(root: str, *overrides: str) -> tuple[float, float, float]:
    """Train once.

    Returns:
        Seconds of the process, seconds of the training loop, peak resident MiB.
    """
    began = time.monotonic()
    command = [sys.executable, "train.py", *TASKS, *overrides, f"output_root={root}", "overwrite=true"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command)}: failed")
    seconds = time.monotonic() - began
    newest = max(Path(root).glob("source/*/metrics.json"), key=lambda path: path.stat().st_mtime)
    return seconds, json.loads(newest.read_text())["seconds"]["fit"], usage.ru_maxrss / 1024


def main() -> None:
    """Measure each figure a few times, and print the ranges."""
    found: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as root:
        for _ in range(REPEATS):
            whole, short, _ = run(root, *BARE, "trainer.max_steps=1")
            _, long, _ = run(root, *BARE, "trainer.max_steps=201")
            full, fit, memory = run(root)
            measured = {
                "a run of one step, from the command to its end (s)": whole,
                "a step of 32 rows (ms)": (long - short) / 200 * 1000,
                "300 steps with 6 validations of 600 rows (s)": fit,
                "the whole run, with the test before, after and by the oracle (s)": full,
                "peak memory (MiB)": memory,
            }
            for key, value in measured.items():
                found.setdefault(key, []).append(value)
    print(f"{platform.machine()}, {os.cpu_count()} cores, {REPEATS} repeats, lowest to highest")
    for key, values in found.items():
        print(f"| {key} | {min(values):.1f} – {max(values):.1f} |")


if __name__ == "__main__":
    main()
