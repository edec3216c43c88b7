"""How much memory and time do a million rows, a thousand tasks, runs and lines take, beside a hundredth of them?

    python experiments/reliability/load.py [SHARE [PART ...]]

Each part is a command in a process of its own, once with a hundredth of its load and once with SHARE of all of it
(1: everything). Memory is the most that the process held at one time.
"""

import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

MPT = [sys.executable, "-W", "ignore", "-m", "mpt"]
SMALL = [
    "logger=csv", "trainer=cpu", "trainer.progress_bar=false", "trainer.max_steps=1", "trainer.batch_size=8",
    "evaluation.validation_rows=4", "evaluation.test_rows=4", "evaluation.before=false", "evaluation.oracle=false",
    "prompt.init=VOCABULARY", "output_root=runs",
]  # fmt: skip
WORDS = ["anna", "ben", "the", "red", "hat", "drum", "mill", "sold", "found", "in", "park", "bought", "lost", "near"]
TASK = """# @package tasks.{name}
rows: {{files: {files}}}
input: "{{text}}"
target: "{{kind}}"
metrics: [accuracy]
max_target_tokens: 8
"""
Command = list[str]


def texts(count: int) -> Iterable[dict[str, str]]:
    """Rows of twenty words and a class."""
    draw = random.Random(0)
    for _ in range(count):
        yield {"text": " ".join(draw.choices(WORDS, k=20)), "kind": draw.choice(["red", "hat"])}


def write_task(place: Path, name: str, files: Path) -> None:
    """Write the configuration of a task over some files."""
    folder = place / "mine" / "tasks"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.yaml").write_text(TASK.format(name=name, files=files))


def write_jsonl(path: Path, count: int) -> None:
    """Write so many rows."""
    with path.open("w") as file:
        file.writelines(json.dumps(row) + "\n" for row in texts(count))


def jsonl(place: Path, count: int) -> Command:
    """Source training over a file of JSON lines, to the end of its first step."""
    files = place / "rows"
    files.mkdir()
    for split, rows in (("train", count), ("validation", 20), ("test", 20)):
        write_jsonl(files / f"{split}.jsonl", rows)
    write_task(place, "many", files)
    return ["task=source", "tasks=[many]", "--config-dir", "mine", *SMALL]


def again(place: Path, count: int) -> Command:
    """The same once more with another seed, when the tokens are kept."""
    command = jsonl(place, count)
    subprocess.run([*MPT, *command], cwd=place, check=True, capture_output=True, env=environment(place))
    return [*command, "seed=1"]


def parquet(place: Path, count: int) -> Command:
    """The same over a Parquet file."""
    import pyarrow
    from pyarrow import parquet as files

    command = jsonl(place, 1)
    (place / "rows" / "train.jsonl").unlink()
    columns = ["text", "kind"]
    with files.ParquetWriter(place / "rows" / "train.parquet", pyarrow.schema(dict.fromkeys(columns, "string"))) as out:
        rows = list(texts(count))
        out.write_table(pyarrow.table({column: [row[column] for row in rows] for column in columns}))
    return command


def tasks(place: Path, count: int) -> Command:
    """Source training on so many tasks, to the end of its first step."""
    files = place / "rows"
    files.mkdir()
    for split in ("train", "validation", "test"):
        write_jsonl(files / f"{split}.jsonl", 10)
    for number in range(count):
        write_task(place, f"t{number}", files)
    named = ",".join(f"t{number}" for number in range(count))
    return ["task=source", f"tasks=[{named}]", "--config-dir", "mine", *SMALL]


def runs(place: Path, count: int) -> Command:
    """A page of so many runs."""
    import yaml

    first = ["task=source", "tasks=[sum]", *SMALL[:-1], "hydra.run.dir=runs/0"]
    subprocess.run([*MPT, *first], cwd=place, check=True, capture_output=True)
    config = yaml.safe_load((place / "runs" / "0" / "config.yaml").read_text())
    for number in range(1, count):
        shutil.copytree(place / "runs" / "0", place / "runs" / str(number))
        (place / "runs" / str(number) / "config.yaml").write_text(yaml.safe_dump(config | {"seed": number}))
    return ["report", "runs", "--html", "page.html"]


def predict(place: Path, count: int) -> Command:
    """Answers to so many lines."""
    first = ["task=source", "tasks=[sum]", *SMALL[:-1], "hydra.run.dir=source"]
    subprocess.run([*MPT, *first], cwd=place, check=True, capture_output=True)
    (place / "lines.txt").write_text("".join(row["text"] + "\n" for row in texts(count)))
    return ["task=predict", "source=source", "predict.input=lines.txt", "predict.task=sum",
            "predict.output=answers.jsonl", "predict.batch_size=256", "predict.max_new_tokens=2"]  # fmt: skip


def tokens(place: Path, count: int) -> Command:
    """Source training with so many virtual tokens, to the end of its first step."""
    return ["task=source", "tasks=[sum,mt]", f"prompt.num_virtual_tokens={count}", *SMALL]


PARTS: dict[str, tuple[Callable[[Path, int], Command], int, str]] = {
    "jsonl": (jsonl, 1_000_000, "rows of JSON lines"),
    "again": (again, 1_000_000, "rows of JSON lines, tokenized before"),
    "parquet": (parquet, 1_000_000, "rows of Parquet"),
    "tasks": (tasks, 1_000, "tasks in a mixture"),
    "runs": (runs, 1_000, "runs on a page"),
    "predict": (predict, 100_000, "lines to answer"),
    "tokens": (tokens, 500, "virtual tokens"),
}


def environment(place: Path) -> dict[str, str]:
    """Variables with a cache of its own, which nothing is in."""
    return os.environ | {"MPT_CACHE": str(place / "cache")}


def measure(command: Command, place: Path) -> tuple[float, float, float]:
    """Run a command.

    Returns:
        Seconds, CPU seconds, and the most megabytes.

    Raises:
        RuntimeError: It failed.
    """
    begin = time.monotonic()
    with (place / "log").open("w") as log:
        process = subprocess.Popen([*MPT, *command], cwd=place, stdout=log, stderr=log, env=environment(place))
        _, status, used = os.wait4(process.pid, 0)
    if status:
        raise RuntimeError((place / "log").read_text()[-2000:])
    scale = 1e6 if sys.platform == "darwin" else 1e3  # macOS counts bytes, others kilobytes
    return time.monotonic() - begin, used.ru_utime + used.ru_stime, used.ru_maxrss / scale


def main() -> int:
    """Print a line for each part and size."""
    os.environ |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "WANDB_MODE": "offline"}
    share = float(sys.argv[1]) if len(sys.argv) > 1 else 1.0
    named = sys.argv[2:] or list(PARTS)
    if unknown := [name for name in named if name not in PARTS]:
        print(f"load.py: {unknown[0]!r} is no part; there are {', '.join(PARTS)}", file=sys.stderr)
        return 2
    print("| load | seconds | CPU seconds | most memory |\n|---|---|---|---|", flush=True)
    for name in named:
        build, most, what = PARTS[name]
        for count in (max(1, most // 100), max(1, round(share * most))):
            place = Path(tempfile.mkdtemp(prefix="mpt-load-"))
            try:
                # In a process of its own: what a parent holds counts as its child's, until that runs its program.
                with ProcessPoolExecutor(1) as pool:
                    command = pool.submit(build, place, count).result()
                seconds, cpu, memory = measure(command, place)
            finally:
                shutil.rmtree(place, ignore_errors=True)
            print(f"| {count:,} {what} | {seconds:.0f} | {cpu:.0f} | {memory:,.0f} MB |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
