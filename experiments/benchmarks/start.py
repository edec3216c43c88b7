"""From a command to its first step: `python experiments/benchmarks/start.py`.

A 16-shot run of one step on the embedded backbone, with what a run does not use put off as in every command
(`mpt/deferred.py`) and with everything imported at once, in turn. Seconds to the end of the first step by the clock,
and CPU seconds of the whole run; the first round fills the disk's cache and does not count.
"""

import argparse
import csv
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(ROOT))

from mpt.report.tables import markdown  # noqa: E402

RUN = """
import os, sys, threading, time
{before}
def watch():
    while not hasattr(sys.modules.get("mpt.training.train"), "fit"):
        time.sleep(0.005)
    module = sys.modules["mpt.training.module"].MPTModule
    step = module.training_step
    def timed(*args):
        loss = step(*args)
        print("first step", time.time() - float(os.environ["BEGAN"]), len(sys.modules), file=sys.stderr)
        return loss
    module.training_step = timed
threading.Thread(target=watch, daemon=True).start()
from mpt.__main__ import main
main()
"""
WAYS = {"put off": "", "all at once": "import mpt.deferred; mpt.deferred.defer = lambda: None"}
COLUMNS = ("way", "round", "seconds_to_first_step", "cpu_seconds", "modules")


def run(way: str, number: int) -> list[Any]:
    """Run one command; a line of the table."""
    with tempfile.TemporaryDirectory() as folder:
        words = [
            "task=target", "tasks=[mt]", "few_shot.k=16", "prompt.init=VOCABULARY", "logger=csv",
            "trainer.max_steps=1", "trainer.progress_bar=false", "trainer.accelerator=cpu", "evaluation.before=false",
            "evaluation.oracle=false", "evaluation.test_rows=1", "evaluation.validation_rows=1",
            f"hydra.run.dir={folder}/run",
        ]  # fmt: skip
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", RUN.format(before=WAYS[way]), *words],
            cwd=ROOT, capture_output=True, text=True, check=True,
            env=os.environ | {"BEGAN": str(time.time()), "HF_HUB_OFFLINE": "1"},
        )  # fmt: skip
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    [said] = [line.split() for line in done.stderr.splitlines() if line.startswith("first step")]
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return [way, number, round(float(said[2]), 2), round(used, 2), int(said[3])]


def main() -> None:
    """Run rounds, write the lines and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    lines = [[run(way, number) for way in WAYS] for number in range(rounds + 1)][1:]
    flat = [line for pair in lines for line in pair]
    with (HERE / "results" / "start.csv").open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([COLUMNS, *flat])
    print(markdown(COLUMNS, flat))
    for place, what in ((2, "seconds to the first step"), (3, "CPU seconds")):
        ratios = sorted(late[place] / early[place] for late, early in lines)
        middle = statistics.median(ratios)
        print(f"put off / all at once, {what}: {ratios[0]:.2f} to {ratios[-1]:.2f}, median {middle:.2f}")


if __name__ == "__main__":
    main()
