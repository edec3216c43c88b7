"""A sweep on several workers: ends as on one; a worker that is killed costs nothing; a stop stops all."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from safetensors.torch import load_file

from mpt.config import FusedConfig
from mpt.errors import UserError
from mpt.sweep.engines import check_engine, keep_workers, open_engine
from mpt.sweep.schedule import Piece, run_pieces

ROOT = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.timeout(900)  # several processes, beside those of other tests


def command(place: Path, root: str, *changes: str) -> list[str]:
    """A sweep of few-shot jobs of 40 steps on the embedded backbone, and one of LoRA, which is by itself."""
    return list(map(str, [
        sys.executable, "-W", "ignore", ROOT / "train.py", "-m", "hydra/launcher=fused", "task=target", "+tasks=[mt]",
        "few_shot.k=4", "prompt.init=VOCABULARY", "trainer=cpu", "trainer.threads=1",
        "trainer.batch_size=4", "evaluation.validate_every=20", "evaluation.test_rows=12",
        "evaluation.oracle=false", "evaluation.before=false", "logger=csv", "fused.max_runs=2",
        f"output_root={root}", *changes,
    ]))  # fmt: skip


def outcome(place: Path, root: str) -> dict[str, tuple[dict[str, torch.Tensor], str, list[str]]]:
    """Of each run folder the prompt, the answers, and what the record of the sweep says."""
    lines = [
        json.loads(line)
        for path in (place / root).glob("target/sweeps/*.jsonl")
        for line in path.read_text().splitlines()
    ]
    found = {}
    for folder in (place / root).glob("target/mt-*"):
        of_run = [line for line in lines if Path(line["folder"]).name == folder.name]
        assert of_run
        assert all(line["error"] is None for line in of_run)
        saved = [path for path in folder.rglob("*.safetensors") if path.parent.name != "checkpoints"]
        prompt = {name: tensor for path in saved for name, tensor in load_file(path).items()}
        assert prompt
        answers = (folder / "predictions" / "mt.jsonl").read_text()
        found[folder.name] = prompt, answers, of_run[-1]["overrides"]
    return found


def assert_same(first: dict[str, tuple[dict[str, torch.Tensor], str, list[str]]], place: Path, root: str) -> None:
    second = outcome(place, root)
    assert first.keys() == second.keys()
    for name, (prompt, answers, _) in first.items():
        for tensor in prompt:
            torch.testing.assert_close(second[name][0][tensor], prompt[tensor], rtol=1e-4, atol=1e-4)
        assert second[name][1] == answers


def run(place: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(place, *arguments), cwd=place, capture_output=True, text=True, timeout=600)


JOBS = ("seed=0,1", "method=prompt,lora", "trainer.max_steps=40")


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[dict[str, torch.Tensor], str, list[str]]]:
    """What one process leaves of the jobs."""
    place = tmp_path_factory.mktemp("alone")
    done = run(place, "one", *JOBS)
    assert done.returncode == 0, done.stderr
    return outcome(place, "one")


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["local", "submitit", "ray"])
def test_two_workers_end_as_one(engine: str, alone: Any, tmp_path: Path) -> None:
    shared = run(tmp_path, "two", *JOBS, "fused.workers=2", f"fused.engine={engine}")
    assert shared.returncode == 0, shared.stderr
    assert "4 of 4 jobs have ended, on 2 workers" in shared.stderr
    assert "4 jobs, 0 failed" in shared.stdout
    assert len(alone) == 4
    assert_same(alone, tmp_path, "two")


def workers_of(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """Processes of a sweep that have loaded a backbone's library: its workers."""
    found = []
    for child in psutil.Process(process.pid).children():
        if any("loky" in word for word in child.cmdline()) and child.memory_info().rss > 200 * 2**20:
            found.append(child)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM])
def test_a_worker_that_is_killed_and_a_sweep_that_is_stopped_lose_nothing(signum: int, tmp_path: Path) -> None:
    jobs = ["seed=0,1,2,3", "trainer.max_steps=120", "fused.workers=2"]
    process = subprocess.Popen(
        command(tmp_path, "two", *jobs), cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("two/target/*/checkpoints/last.ckpt")) and time.monotonic() < deadline:
        time.sleep(0.1)
    if signum == signal.SIGKILL:
        os.kill(workers_of(process)[0].pid, signum)
    else:
        process.send_signal(signum)
    out, err = process.communicate(timeout=400)
    if signum == signal.SIGKILL:
        assert process.returncode == 0, err
        assert "a worker was lost with 2 jobs" in err
        assert "4 jobs, 0 failed" in out
    else:
        assert process.returncode == 143, err
        assert "the same command goes on" in err
        again = run(tmp_path, "two", *jobs)
        assert again.returncode == 0, again.stderr
    assert run(tmp_path, "one", *jobs[:2]).returncode == 0
    assert_same(outcome(tmp_path, "one"), tmp_path, "two")


def own_pid(jobs: tuple[int, ...]) -> list[int]:
    return [os.getpid() for _ in jobs]


def pids_of(calls: int, kills: bool = False) -> list[int]:
    """The process that each call's piece ran in; ``kills`` ends it after the first."""
    found = []
    for call in range(calls):
        with open_engine(lambda piece: (own_pid, (piece.jobs,)), FusedConfig(), Path(), 1) as engine:
            found.append(run_pieces([Piece((0,))], engine)[0])
        if kills and call == 0:
            os.kill(found[0], signal.SIGKILL)
            psutil.Process(found[0]).wait(10)
    return found


def test_workers_are_kept_within_a_block_and_replaced_where_they_have_ended() -> None:
    with keep_workers():
        first, second = pids_of(2)
        assert first == second != os.getpid()
        assert psutil.pid_exists(first)
    psutil.wait_procs([psutil.Process(first)] if psutil.pid_exists(first) else [], timeout=10)
    assert not psutil.pid_exists(first)
    apart = pids_of(2)
    assert apart[0] != apart[1]
    with keep_workers():
        killed = pids_of(2, kills=True)
        assert killed[0] != killed[1]


STUDY = """\
question: Do two workers end as one?
common: [trainer=cpu, trainer.threads=1, trainer.max_steps=40, trainer.batch_size=4, evaluation.validate_every=20,
  evaluation.test_rows=12, evaluation.oracle=false, evaluation.before=false]
targets: [mt]
vary: {few_shot.k: [4]}
draws: 5
methods:
  MPT: {overrides: [prompt.init=VOCABULARY]}
  plain prompt: {overrides: [prompt=plain, prompt.init=VOCABULARY]}
compare: [[MPT, plain prompt]]
"""


@pytest.mark.slow
def test_a_study_on_two_workers_ends_as_on_one(tmp_path: Path) -> None:
    scores = []
    for workers in ("1", "2"):
        place = tmp_path / workers
        place.mkdir()
        (place / "study.yaml").write_text(STUDY)
        words = [sys.executable, "-W", "ignore", "-m", "mpt", "study", "study.yaml", "--workers", workers]
        done = subprocess.run(words, cwd=place, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stderr
        scores.append((place / "results" / "scores.csv").read_text())
    assert scores[0] == scores[1]
    assert "on 2 workers" in done.stderr


def test_a_job_that_is_wrong_fails_by_itself_on_a_worker_too(tmp_path: Path) -> None:
    done = run(tmp_path, "two", "prompt.num_ranks=1,50000", "trainer.max_steps=2", "fused.workers=2")
    assert done.returncode == 2, done.stderr
    assert "2 jobs, 1 failed" in done.stdout
    assert "prompt.num_ranks: is 50000" in done.stdout


@pytest.mark.parametrize(
    ("fused", "message"),
    [
        (FusedConfig(engine="slurm"), "unknown 'slurm'; choose one of local, submitit, ray"),
        (FusedConfig(workers=0), "fused.workers: is 0; it must be at least 1"),
        (FusedConfig(workers=2, options={"num_gpus": 1}), "fused.options: are for submitit and ray"),
    ],
)
def test_an_engine_that_is_not_there_is_refused(fused: FusedConfig, message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_engine(fused)


def test_an_engine_that_is_not_installed_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mpt.sweep.engines.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"ray is not installed; pip install 'mpt\[ray\]'"):
        check_engine(FusedConfig(engine="ray"))
