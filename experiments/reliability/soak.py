"""Run jobs, answers and pages in one process for half an hour, and look at what its memory does.

    python experiments/reliability/soak.py [MINUTES]

A round is a fused group of four few-shot jobs, one job by itself, 500 answers and a page of the last runs. The first
three rounds fill caches and are left out; of the rest, a line through the memory after each round is the growth.
"""

import contextlib
import os
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

os.environ |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "WANDB_MODE": "offline"}

import psutil

import mpt
from mpt.report.reporting import main as report

MINUTES = 30.0
WARM_UP = 3
"""Rounds that are left out."""
MOST = 0.3
"""Megabytes of growth a job that are taken for flat."""
KEYS = {
    "logger": "csv", "trainer": "cpu", "trainer.progress_bar": False, "trainer.max_steps": 10, "trainer.batch_size": 4,
    "evaluation.validate_every": 5, "evaluation.validation_rows": 4, "evaluation.test_rows": 8,
    "evaluation.before": False, "evaluation.oracle": False, "prompt.num_virtual_tokens": 5,
    "prompt.init": "VOCABULARY", "few_shot.k": 4,
}  # fmt: skip
JOBS_A_ROUND = 5


def one_round(number: int, source: mpt.Run) -> None:
    """Train five jobs whose names are new, answer, and write a page."""
    seeds = range(number * JOBS_A_ROUND, (number + 1) * JOBS_A_ROUND)
    root = f"round{number}"
    runs = mpt.train_many(
        [{"seed": seed} for seed in seeds[:-1]], task="target", tasks=["dlg"], output_root=root, **KEYS
    )
    runs.append(mpt.train("task=target", tasks=["dlg"], seed=seeds[-1], output_root=root, **KEYS))
    if failed := [each.error for each in runs if each.error]:
        raise RuntimeError(failed[0])
    source.prompt().generate([f"anna sold {n} hats ." for n in range(500)], "sum", max_new_tokens=8)
    if report([*(str(each.folder) for each in runs), "--html", "page.html"]) != 0:
        raise RuntimeError("the page was not written")
    shutil.rmtree(root)


def main() -> int:
    """Print the memory after each round, and the table; 1 where it grows."""
    minutes = float(sys.argv[1]) if len(sys.argv) > 1 else MINUTES
    here, place = Path.cwd(), Path(tempfile.mkdtemp(prefix="mpt-soak-"))
    os.chdir(place)
    try:
        source = mpt.train("task=source", tasks=["sum", "mt"], **{key: KEYS[key] for key in list(KEYS)[:-2]})
        until, memory = time.monotonic() + 60 * minutes, list[float]()
        while time.monotonic() < until or len(memory) < WARM_UP + 2:
            with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
                one_round(len(memory), source)
            memory.append(psutil.Process().memory_info().rss / 1e6)
            print(f"round {len(memory)}: {memory[-1]:,.0f} MB", file=sys.stderr, flush=True)
    finally:
        os.chdir(here)
        shutil.rmtree(place, ignore_errors=True)
    counted = memory[WARM_UP:]
    growth = statistics.linear_regression(range(len(counted)), counted).slope / JOBS_A_ROUND
    print("| rounds | jobs | answers | pages | memory after round 3 | at the end | growth a job |")
    print("|---|---|---|---|---|---|---|")
    rounds = len(memory)
    print(
        f"| {rounds} | {rounds * JOBS_A_ROUND} | {rounds * 500:,} | {rounds} | {counted[0]:,.0f} MB | "
        f"{counted[-1]:,.0f} MB | {growth:+.2f} MB |"
    )
    return int(growth > MOST)


if __name__ == "__main__":
    sys.exit(main())
