"""The time of a whole few-shot sweep, fused and otherwise: `python experiments/benchmarks/makespan.py`."""

import argparse
import csv
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(ROOT))

from mpt.report.tables import markdown  # noqa: E402

KS = (4, 16, 32)
TASK = "reply_polite"
QUIET = ("logger=csv", "trainer.progress_bar=false", "trainer.accelerator=cpu")
COLUMNS = ("mode", "repeat", "jobs", "steps", "seconds", "examples_per_second", "peak_mib")


class Sweep:
    """A grid of k and draws, and the ways to run it.

    Args:
        source: Run folder that all jobs start from.
        draws: Seeds of each k.
        steps: Of each job.
        folder: Where runs go; each call of a way gets an empty folder below it.
    """

    def __init__(self, source: Path, draws: int, steps: int, folder: Path) -> None:
        self.source, self.draws, self.steps, self.folder = source, draws, steps, folder
        self.peak = 0.0

    @property
    def jobs(self) -> int:
        """How many jobs it has."""
        return len(KS) * self.draws

    def command(self, ks: Sequence[int], seeds: Sequence[int], *overrides: str) -> list[str]:
        """The command line of a part of the grid."""
        return [
            *(sys.executable, "train.py", "task=target", f"source={self.source}", f"+tasks=[{TASK}]"),
            *(f"few_shot.k={','.join(map(str, ks))}", f"seed={','.join(map(str, seeds))}"),
            *(f"trainer.max_steps={self.steps}", "evaluation.validate_every=20", "evaluation.test_rows=100"),
            *(f"output_root={self.folder}", *QUIET, *overrides),
        ]

    def ways(self, sizes: Sequence[int]) -> dict[str, Callable[[], None]]:
        """The ways to run it, by name."""
        seeds = range(self.draws)
        pairs = [(k, seed) for k in KS for seed in seeds]
        halves = [list(seeds)[::2], list(seeds)[1::2]]
        fused = {
            f"fused, at most {size}": lambda size=size: self.run(
                [*self.command(KS, seeds, "hydra/launcher=fused", f"fused.max_runs={size}"), "-m"]
            )
            for size in sizes
        }
        return {
            "a process for each job": lambda: self.run(*(self.command([k], [seed]) for k, seed in pairs)),
            "one by one in a process": lambda: self.run([*self.command(KS, seeds), "-m"]),
            "two processes, one thread each": lambda: self.run(
                *([*self.command(KS, half, "trainer.threads=1"), "-m"] for half in halves if half), at_once=2
            ),
            **fused,
            "PEFT, one by one in a process": lambda: self.run(
                [sys.executable, str(HERE / "peft_sweep.py"), *map(str, (self.source, self.draws, self.steps))]
            ),
            "one job with the rows of all": lambda: self.run(
                self.command([32], [0], f"trainer.batch_size={32 * self.jobs}")
            ),
        }

    def run(self, *commands: list[str], at_once: int = 1) -> None:
        """Run command lines after each other, or several at once."""
        with ThreadPoolExecutor(at_once) as pool:
            self.peak = max(pool.map(_run, commands)) * (at_once if len(commands) > 1 else 1)


def _run(command: list[str]) -> float:
    """Run one command line to its end; its peak memory in MiB."""
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    errors = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command)}\n{errors[-2000:]}")
    return usage.ru_maxrss / 1024


def measure(sweep: Sweep, sizes: Sequence[int], repeats: int, path: Path) -> None:
    """Time every way, one after the other in every repeat; each time goes to the CSV at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    begins = not path.is_file()
    with path.open("a", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        if begins:
            writer.writerow(COLUMNS)
        for repeat in range(repeats):
            for name, way in sweep.ways(sizes).items():
                shutil.rmtree(sweep.folder, ignore_errors=True)
                began = time.monotonic()
                way()
                seconds = time.monotonic() - began
                rows = sweep.jobs * sweep.steps * 32
                line = (name, repeat, sweep.jobs, sweep.steps, f"{seconds:.1f}", f"{rows / seconds:.0f}")
                writer.writerow([*line, f"{sweep.peak:.0f}"])
                file.flush()
                print(*line, flush=True)


def table(path: Path) -> str:
    """Lay out the CSV: mean seconds, their range, and ratios within each repeat."""
    with path.open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    seconds = {(line["mode"], line["repeat"]): float(line["seconds"]) for line in lines}
    repeats = sorted({line["repeat"] for line in lines})
    rows = []
    for mode in dict.fromkeys(line["mode"] for line in lines):
        own = [seconds[mode, repeat] for repeat in repeats if (mode, repeat) in seconds]
        peak = max(float(line["peak_mib"]) for line in lines if line["mode"] == mode)
        ratios = []
        for base in ("one by one in a process", "a process for each job"):
            found = [
                seconds[base, repeat] / seconds[mode, repeat]
                for repeat in repeats
                if (mode, repeat) in seconds and (base, repeat) in seconds
            ]
            ratios.append(f"{min(found):.2f} – {max(found):.2f}" if found else "–")
        speed = statistics.fmean(float(line["examples_per_second"]) for line in lines if line["mode"] == mode)
        rows.append([mode, f"{statistics.fmean(own):.0f}", *ratios, f"{speed:.0f}", f"{peak:.0f}"])
    header = [
        *("way", "seconds", "times faster than one by one", "than a process for each job"),
        *("examples a second", "peak MiB"),
    ]
    first = lines[0]
    return (
        f"{first['jobs']} jobs of {first['steps']} steps, {len(repeats)} repeats, every way once in each; "
        f"{os.cpu_count()} cores, {platform.machine()}\n\n{markdown(header, rows)}\n"
    )


def main() -> None:
    """Train the source where it is not there, time every way, write results/makespan.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=4)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1, 4, 12], help="of fused groups")
    parser.add_argument("--table", action="store_true", help="only lay out what was measured")
    arguments = parser.parse_args()
    path = HERE / "results" / "makespan.csv"
    if not arguments.table:
        source = ROOT / "runs" / "benchmarks" / "source"
        tasks = ("task=source", "tasks=[sum,mt,dlg]", "trainer.max_steps=100", "evaluation.test_rows=20")
        _run([sys.executable, "train.py", *tasks, f"hydra.run.dir={source}", *QUIET])
        with tempfile.TemporaryDirectory() as folder:
            sweep = Sweep(source, arguments.draws, arguments.steps, Path(folder) / "runs")
            measure(sweep, arguments.sizes, arguments.repeats, path)
    text = table(path)
    (HERE / "results" / "makespan.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
