"""Kill every command at any moment, run it again, and compare with a run that nothing interrupted.

    python experiments/reliability/faults.py [KILLS [COMMAND ...]]

A child of this process runs each command, so that the imports are paid once; a signal reaches it after a share of the
time that the command takes, drawn evenly. What its second (or third) start leaves has to equal what one start leaves:
prompts, answers, scores and curves to the last bit, and no other file.
"""

import csv
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "WANDB_MODE": "offline"}

import torch
from safetensors.torch import load_file

SMALL = [
    "logger=csv", "trainer=cpu", "trainer.progress_bar=false", "trainer.max_steps=12", "trainer.batch_size=8",
    "evaluation.validate_every=4", "evaluation.validation_rows=4", "evaluation.test_rows=6", "evaluation.before=false",
    "evaluation.oracle=false", "output_root=runs",
]  # fmt: skip
TARGET = ["task=target", "tasks=[dlg]", "source=../base/source", "few_shot.k=4", *SMALL]
STUDY = """question: Does it survive?
common: [trainer=cpu, trainer.max_steps=12, trainer.batch_size=8, evaluation.validate_every=4, evaluation.test_rows=6]
targets: [dlg]
vary: {few_shot.k: [4]}
draws: 2
methods:
  MPT: {overrides: [prompt.init=VOCABULARY]}
  plain: {overrides: [prompt=plain, prompt.init=VOCABULARY]}
compare: [[MPT, plain]]
"""
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
CODES = {signal.SIGKILL: -9, signal.SIGTERM: 143, signal.SIGINT: 130}
TIMES = ("seconds", "cost", "time", "duration", "_per_second", "memory", "created", "started", "finished")
"""Parts of the names of columns and keys whose values are no part of a result."""


@dataclass
class Outcome:
    """The row of a command in the table."""

    injected: int = 0
    late: int = 0
    """Signals that came after the command's end."""
    lost: int = 0
    unclear: int = 0
    seconds: float = 0.0
    """What the command takes by itself."""


def commands() -> dict[str, list[str]]:
    """Each command of the package that writes something, by what the table calls it."""
    mixture = ["+tasks=[sum,mt]", *SMALL]
    return {
        "source": ["task=source", *mixture],
        "target": TARGET,
        "fused sweep": ["-m", *TARGET, "seed=0,1,2", "hydra/launcher=fused"],
        "teachers": ["task=teachers", *mixture],
        "distillation": ["task=source", *mixture, "distill=../base/teachers"],
        "evaluate": ["task=evaluate", "source=../base/source", *mixture],
        "predict": [
            "task=predict", "source=../base/source", "predict.input=../base/texts.txt", "predict.task=sum",
            "predict.output=answers.jsonl", "predict.batch_size=1",
        ],
        "study": ["study", "small/study.yaml"],
        "export": ["export", "bake", "../base/source", "--to", "exported", "--task", "sum"],
        "report": ["report", "../base/source", "--html", "page.html"],
    }  # fmt: skip


def import_all() -> None:
    """Import what the commands use, so that a child has it from its first moment."""
    import mpt.answering.answer_file
    import mpt.answering.evaluating
    import mpt.cli.main
    import mpt.distill.distiller
    import mpt.export.exporting
    import mpt.report.reporting
    import mpt.study.studying
    import mpt.sweep.group
    import mpt.training.train  # noqa: F401


def start(words: Sequence[str], place: Path) -> int:
    """Start a command in a child of this process; what it prints goes to ``place.log``.

    Returns:
        The child's process id.
    """
    pid = os.fork()
    if pid:
        return pid
    code = 70
    try:
        place.mkdir(parents=True, exist_ok=True)
        os.chdir(place)
        log = os.open(place.with_suffix(".log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        sys.argv = ["mpt", *words]
        from mpt.__main__ import main

        main()
    except SystemExit as end:
        code = int(end.code or 0)
    except BaseException:
        traceback.print_exc()
        code = 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def finish(pid: int, patience: float = 300) -> int:
    """Wait for a child.

    Returns:
        Its exit code, below 0 where a signal ended it, as of :mod:`subprocess`; 124 where it hung.
    """
    until = time.monotonic() + patience
    while time.monotonic() < until:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return 124


def results_of(place: Path) -> dict[str, Any]:
    """Read everything that a command left and that is a result: by file, without times and places."""
    found: dict[str, Any] = {}
    for path in sorted(each for each in place.rglob("*") if each.is_file()):
        name = str(path.relative_to(place))
        if path.suffix == ".safetensors":
            found[name] = {key: tensor.tolist() for key, tensor in load_file(path).items()}
        elif path.name == "metrics.json":
            found[name] = _without_times(json.loads(path.read_text()))
        elif path.suffix == ".csv":
            with path.open(encoding="utf-8", newline="") as file:
                found[name] = [_without_times(row) for row in csv.DictReader(file)]
        elif path.suffix == ".jsonl" and path.parent.name != "sweeps":
            found[name] = [_without_times(json.loads(line)) for line in path.read_text().splitlines()]
        else:
            found[name] = None  # that it is there
        if path.stem == "cells":  # in the order in which jobs ended
            found[name].sort(key=str)
    return found


def _without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_times(each) for key, each in value.items() if not any(t in key for t in TIMES)}
    return [_without_times(each) for each in value] if isinstance(value, list) else value


def _first_difference(left: Any, expected: Any, where: str = "") -> str:
    if isinstance(left, dict) and isinstance(expected, dict) and set(left) == set(expected):
        key = next(each for each in left if left[each] != expected[each])
        return _first_difference(left[key], expected[key], f"{where}.{key}")
    if isinstance(left, list) and isinstance(expected, list) and len(left) == len(expected):
        row = next(each for each in range(len(left)) if left[each] != expected[each])
        return _first_difference(left[row], expected[row], f"{where}[{row}]")
    return f"{where} is {str(left)[:200]} in place of {str(expected)[:200]}"


def is_clear(code: int, signum: signal.Signals, said: str) -> bool:
    """Tell whether a command that was stopped ended as it should: its code, and no traceback."""
    return code in (0, CODES[signum]) and "Traceback" not in said


def inject(
    words: Sequence[str],
    place: Path,
    expected: Mapping[str, Any],
    moments: Sequence[float],
    signums: Sequence[signal.Signals],
) -> tuple[int, list[str]]:
    """Kill a command at some moments, one start after the other, and let its last start end.

    Args:
        words: The command line.
        place: An empty folder for it.
        expected: From :func:`results_of` of a run that nothing interrupted.
        moments: Seconds after each start.
        signums: The signal of each.

    Returns:
        How many signals came too late, and what went wrong, a line each.
    """
    late, wrong, log = 0, [], place.with_suffix(".log")
    for moment, signum in zip(moments, signums, strict=True):
        before = log.stat().st_size if log.exists() else 0
        pid = start(words, place)
        time.sleep(moment)
        os.kill(pid, signum)  # not waited for so far, so the number is still its own
        code = finish(pid)
        late += code == 0
        said = log.read_text()[before:] if log.exists() else ""
        if not is_clear(code, signum, said):
            wrong.append(f"unclear: {signum.name} after {moment:.2f} s: code {code}: {said[-300:]!r}")
    code = finish(start(words, place))
    if code != 0:
        return late, [*wrong, f"lost: the last start ended with {code}: {log.read_text()[-600:]!r}"]
    left = results_of(place)
    for name in sorted(set(left) | set(expected)):
        if name not in left or name not in expected or left[name] != expected[name]:
            what = "is left over" if name not in expected else "is missing"
            if name in left and name in expected:
                what = f"differs: {_first_difference(left[name], expected[name])}"
            wrong.append(f"lost: after {[each.name for each in signums]} at {moments}: {name} {what}")
    return late, wrong


def prepare(place: Path, names: Collection[str]) -> None:
    """Train the source, and the teachers where they are needed, and write texts to answer."""
    base = place / "base"
    mixture = ["+tasks=[sum,mt]", *SMALL]
    for stage in ("source", "teachers") if "distillation" in names else ("source",):
        words = [f"task={stage}", *mixture, f"hydra.run.dir={stage}"]
        if code := finish(start(words, base)):
            raise RuntimeError(f"{words}: ended with {code}: {base.with_suffix('.log').read_text()[-2000:]}")
    (base / "texts.txt").write_text("".join(f"anna sold {n} hats .\n" for n in range(40)))


def run(kills: int, seed: int = 0, names: Sequence[str] | None = None) -> dict[str, Outcome]:
    """Kill commands, one after the other, until the kills are used up; print what went wrong as it comes.

    Args:
        kills: Signals in all.
        seed: Of the moments and the signals.
        names: Commands; None: all.

    Returns:
        The outcome of each command.
    """
    random_ = random.Random(seed)
    import_all()
    torch.set_num_threads(1)
    outcomes: dict[str, Outcome] = {}
    place = Path(tempfile.mkdtemp(prefix="mpt-faults-"))
    try:
        wanted = {name: words for name, words in commands().items() if names is None or name in names}
        if not wanted:
            raise SystemExit(f"no command {names}; choose some of {', '.join(commands())}")
        prepare(place, wanted)
        expected: dict[str, dict[str, Any]] = {}
        for name, words in wanted.items():
            whole = place / "whole"
            _begin(whole)
            began = time.monotonic()
            if code := finish(start(words, whole)):
                raise RuntimeError(f"{name}: ended with {code}: {whole.with_suffix('.log').read_text()[-2000:]}")
            outcomes[name] = Outcome(seconds=time.monotonic() - began)
            expected[name] = results_of(whole)
        while sum(each.injected for each in outcomes.values()) < kills:
            for name, words in wanted.items():
                rest = kills - sum(each.injected for each in outcomes.values())
                if rest <= 0:
                    break
                count = min(rest, random_.choice((1, 2)))
                trial, outcome = place / "trial", outcomes[name]
                _begin(trial)
                moments = [random_.uniform(0, outcome.seconds) for _ in range(count)]
                late, wrong = inject(words, trial, expected[name], moments, random_.choices(SIGNALS, k=count))
                outcome.injected += count
                outcome.late += late
                outcome.lost += any(each.startswith("lost") for each in wrong)
                outcome.unclear += sum(each.startswith("unclear") for each in wrong)
                for each in wrong:
                    print(f"{name}: {each}", file=sys.stderr, flush=True)
    finally:
        shutil.rmtree(place, ignore_errors=True)
    return outcomes


def _begin(place: Path) -> None:
    """An empty folder with the study's file in it, and no log."""
    shutil.rmtree(place, ignore_errors=True)
    place.with_suffix(".log").unlink(missing_ok=True)
    (place / "small").mkdir(parents=True)  # a study is called after its folder
    (place / "small" / "study.yaml").write_text(STUDY)


def main() -> int:
    """Kill as often as the command line says, and print the table; 1 where anything was lost or unclear."""
    outcomes = run(int(sys.argv[1]) if len(sys.argv) > 1 else 200, names=sys.argv[2:] or None)
    print("| command | takes | kills | of them too late | results lost | unclear ends |\n|---|---|---|---|---|---|")
    for name, each in outcomes.items():
        print(f"| {name} | {each.seconds:.1f} s | {each.injected} | {each.late} | {each.lost} | {each.unclear} |")
    total = [sum(getattr(each, key) for each in outcomes.values()) for key in ("injected", "late", "lost", "unclear")]
    print(f"| all | | {' | '.join(map(str, total))} |")
    return int(total[2] + total[3] > 0)


if __name__ == "__main__":
    sys.exit(main())
