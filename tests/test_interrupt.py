"""Stopping and going on: wherever a signal or a failure falls, the resumed run ends as an uninterrupted one."""

import csv
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from mpt.errors import UserError
from mpt.run.checkpoint import AtomicCheckpointIO, read_checkpoint
from mpt.run.interrupt import Interrupted, StopSignals
from mpt.run.record import read_metrics
from mpt.training.module import MPTModule
from mpt.training.train import train
from tests.runs import curves, tensors

ROOT = Path(__file__).resolve().parent.parent


def assert_same_run(first, second):
    ours, theirs = tensors(first), tensors(second)
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert torch.equal(ours[name], theirs[name]), name
    assert curves(first) == curves(second)
    metrics = [read_metrics(folder) for folder in (first, second)]
    assert metrics[0]["test"] == metrics[1]["test"]
    assert metrics[0]["best_step"] == metrics[1]["best_step"]


@pytest.fixture
def whole_accumulated(make_config, tmp_path):
    """An uninterrupted run with three micro-batches in a step."""
    train(make_config(trainer__accumulate_grad_batches=3), tmp_path / "whole")
    return tmp_path / "whole"


def at_batch(monkeypatch, number, act):
    """Call ``act`` in the training step of the batch with this number, once."""
    step, seen = MPTModule.training_step, []

    def watched(self, batch, batch_idx):
        seen.append(batch_idx)
        if len(seen) == number + 1:
            act()
        return step(self, batch, batch_idx)

    monkeypatch.setattr(MPTModule, "training_step", watched)


class TestSignals:
    # 2: the last before a validation; 5: the last of all.
    @pytest.mark.parametrize(("signum", "batch"), [(signal.SIGINT, 1), (signal.SIGTERM, 2), (signal.SIGINT, 5)])
    def test_a_signal_within_a_step(self, signum, batch, make_config, source_run, tmp_path, monkeypatch, capfd):
        with monkeypatch.context() as patch:
            at_batch(patch, batch, lambda: signal.raise_signal(signum))
            with pytest.raises(SystemExit) as stop:
                train(make_config(), tmp_path / "run")
        assert stop.value.code == 128 + signum
        line = capfd.readouterr().err.strip().splitlines()[-1]
        assert f"stopped after step {batch + 1}, which is saved; the same command goes on from there" in line
        assert read_checkpoint(tmp_path / "run" / "checkpoints" / "last.ckpt")["global_step"] == batch + 1
        train(make_config(), tmp_path / "run")
        assert_same_run(tmp_path / "run", source_run)

    @pytest.mark.parametrize("batch", [4, 5, 16])
    def test_a_signal_within_an_accumulated_step(self, batch, whole_accumulated, make_config, tmp_path, monkeypatch):
        config = make_config(trainer__accumulate_grad_batches=3)
        with monkeypatch.context() as patch:
            at_batch(patch, batch, lambda: signal.raise_signal(signal.SIGTERM))
            with pytest.raises(Interrupted):
                train(config, tmp_path / "run")
        train(config, tmp_path / "run")
        assert_same_run(tmp_path / "run", whole_accumulated)

    def test_a_signal_within_a_validation(self, make_config, source_run, tmp_path, monkeypatch):
        validation_step = MPTModule.validation_step

        def interrupted(self, batch, batch_idx):
            if self.global_step == 3 and batch_idx == 0:  # a second signal would end the process
                signal.raise_signal(signal.SIGINT)
            return validation_step(self, batch, batch_idx)

        with monkeypatch.context() as patch:
            patch.setattr(MPTModule, "validation_step", interrupted)
            with pytest.raises(Interrupted):
                train(make_config(), tmp_path / "run")
        train(make_config(), tmp_path / "run")
        assert_same_run(tmp_path / "run", source_run)

    def test_a_signal_before_the_first_step_starts_again(self, make_config, source_run, tmp_path, monkeypatch, capfd):
        with monkeypatch.context() as patch:
            patch.setattr("mpt.training.start_scores.predict", lambda *_, **__: signal.raise_signal(signal.SIGINT))
            with pytest.raises(Interrupted):
                train(make_config(), tmp_path / "run")
        assert "stopped before anything was trained" in capfd.readouterr().err
        assert not (tmp_path / "run" / "checkpoints" / "last.ckpt").exists()
        train(make_config(), tmp_path / "run")
        assert_same_run(tmp_path / "run", source_run)

    def test_handlers_of_before_are_back(self):
        before = signal.getsignal(signal.SIGINT)
        with StopSignals():
            assert signal.getsignal(signal.SIGINT) != before
        assert signal.getsignal(signal.SIGINT) == before


BUSY = """import hashlib
from mpt.run.interrupt import StopSignals
with StopSignals() as signals:
    signals.training = True
    print("busy", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)  # minutes in which Python runs no handler
"""


@pytest.mark.parametrize(("signum", "pauses", "code"), [(signal.SIGINT, [0.2], 130), (signal.SIGTERM, [0.2, 1.2], 143)])
def test_a_second_signal_ends_the_process_within_a_step(signum, pauses, code):
    process = subprocess.Popen([sys.executable, "-c", BUSY], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "busy\n"
    process.send_signal(signum)
    for pause in pauses:
        time.sleep(pause)
        assert process.poll() is None  # SIGTERM that comes twice at once is one
        process.send_signal(signum)
    assert process.wait(timeout=20) == code


class TestFailures:
    def test_what_fails_within_a_step_goes_on_from_the_last_validation(
        self, whole_accumulated, make_config, tmp_path, monkeypatch
    ):
        def out_of_memory():
            raise torch.OutOfMemoryError("no memory")

        config = make_config(trainer__accumulate_grad_batches=3)
        with monkeypatch.context() as patch:
            at_batch(patch, 13, out_of_memory)
            with pytest.raises(torch.OutOfMemoryError):
                train(config, tmp_path / "run")
        assert read_checkpoint(tmp_path / "run" / "checkpoints" / "last.ckpt")["global_step"] == 3
        train(config, tmp_path / "run")
        assert_same_run(tmp_path / "run", whole_accumulated)

    def test_a_loss_that_is_not_finite_is_met_again(self, make_config, tmp_path, monkeypatch):
        losses = MPTModule.losses

        def broken(self, batch):
            if self.global_step == 4:
                with torch.no_grad():
                    self.adapter.embedding.weight.mul_(float("nan"))
            return losses(self, batch)

        monkeypatch.setattr(MPTModule, "losses", broken)
        for _ in range(2):
            with pytest.raises(ValueError, match="step 4: the loss is not finite"):
                train(make_config(), tmp_path / "run")
            checkpoint = read_checkpoint(tmp_path / "run" / "checkpoints" / "last.ckpt")
            assert checkpoint["global_step"] == 3
            assert all(tensor.isfinite().all() for tensor in checkpoint["adapter"].values())

    def test_a_kill_loses_no_line_of_the_curves(self, make_config, source_run, tmp_path):
        # A run that was killed right after its checkpoint: what is on the disk then.
        code = (
            "import os, signal, sys\n"
            "from mpt.training import callbacks\n"
            "save = callbacks.LastCheckpoint._save\n"
            "def killed(self, trainer):\n"
            "    save(self, trainer)\n"
            "    os.kill(os.getpid(), signal.SIGKILL)\n"
            "callbacks.LastCheckpoint._save = killed\n"
            "from mpt.training.train import train\n"
            "import pathlib, pickle\n"
            "train(pickle.load(open(sys.argv[1], 'rb')), pathlib.Path(sys.argv[2]))\n"
        )
        (tmp_path / "config.pickle").write_bytes(pickle.dumps(make_config()))
        command = [sys.executable, "-c", code, tmp_path / "config.pickle", tmp_path / "run"]
        killed = subprocess.run(list(map(str, command)), cwd=ROOT, capture_output=True, timeout=120)
        assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
        train(make_config(), tmp_path / "run")
        assert_same_run(tmp_path / "run", source_run)

    def test_seconds_of_training_add_up(self, make_config, tmp_path, monkeypatch):
        def slowly():
            time.sleep(1.0)
            signal.raise_signal(signal.SIGINT)

        with monkeypatch.context() as patch:
            at_batch(patch, 3, slowly)
            with pytest.raises(Interrupted):
                train(make_config(), tmp_path / "run")
        metrics = train(make_config(), tmp_path / "run")
        assert metrics["seconds"]["fit"] > 1.0
        with (tmp_path / "run" / "metrics.csv").open() as file:
            seconds = [float(line["seconds"]) for line in csv.DictReader(file)]
        assert seconds == sorted(seconds)
        assert seconds[-1] > 1.0


class TestFiles:
    def test_a_full_disk_leaves_the_checkpoint_before(self, tmp_path):
        path = tmp_path / "last.ckpt"
        AtomicCheckpointIO().save_checkpoint({"global_step": 3}, path)
        good = path.read_bytes()
        code = (
            "import resource, sys, torch\n"
            "from mpt.run.checkpoint import AtomicCheckpointIO\n"
            "resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))\n"
            "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
            "try:\n"
            "    AtomicCheckpointIO().save_checkpoint({'global_step': 4, 't': torch.zeros(1 << 20)}, sys.argv[1])\n"
            "except OSError as error:\n"
            "    print(error)\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, str(path)], cwd=ROOT, capture_output=True, text=True, timeout=120
        )
        assert f"{path}: cannot be written" in done.stdout, done.stderr
        assert path.read_bytes() == good
        assert os.listdir(tmp_path) == ["last.ckpt"]

    @pytest.mark.parametrize(
        "name", ["checkpoints/last.ckpt", "checkpoints/best.safetensors", "checkpoints/before.json", "metrics.csv"]
    )
    def test_a_damaged_file_is_one_line(self, name, make_config, tmp_path, monkeypatch):
        with monkeypatch.context() as patch:
            at_batch(patch, 4, lambda: signal.raise_signal(signal.SIGINT))
            with pytest.raises(Interrupted):
                train(make_config(), tmp_path / "run")
        path = tmp_path / "run" / name
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2] + b"\x00{")
        with pytest.raises(ValueError, match=rf"{path}: damaged, .*; resume=never starts the run again") as found:
            train(make_config(), tmp_path / "run")
        assert "\n" not in str(found.value)
        train(make_config(resume="never"), tmp_path / "run")

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda parts: parts.pop("adapter"), "its adapter is missing"),
            (lambda parts: parts.update(global_step="x"), "its global_step is str"),
            (lambda parts: parts.update(global_step=-5), "its global_step is -5"),
            (lambda parts: parts.update(global_step=10**6), "is of step 1,000,000, and the run has"),
            (lambda parts: parts.update(loops={}), "its loops have no fit_loop"),
            (lambda parts: parts.update(optimizer_states=[]), "its optimizer_states are empty"),
            (lambda parts: parts.update(callbacks=3), "its callbacks is int"),
            (
                lambda parts: parts["adapter"].update({name: each / 0 for name, each in parts["adapter"].items()}),
                "of its adapter has numbers that are not finite",
            ),
            (
                lambda parts: parts["adapter"].update({name: each[:1] for name, each in parts["adapter"].items()}),
                "the checkpoint has .* with shape .*, and the run has it with shape",
            ),
        ],
    )
    def test_a_checkpoint_without_its_parts_is_refused(self, change, message, stopped, make_config, tmp_path):
        shutil.copytree(stopped, tmp_path / "run")
        path = tmp_path / "run" / "checkpoints" / "last.ckpt"
        parts = torch.load(path, weights_only=True)
        change(parts)
        torch.save(parts, path)
        with pytest.raises(UserError, match=rf"{message}.*resume=never starts the run again"):
            train(make_config(), tmp_path / "run")

    @pytest.fixture(scope="class")
    def stopped(self, make_config, tmp_path_factory):
        """A run that was stopped after its fourth batch."""
        folder = tmp_path_factory.mktemp("stopped") / "run"
        with pytest.MonkeyPatch.context() as patch:
            at_batch(patch, 4, lambda: signal.raise_signal(signal.SIGINT))
            with pytest.raises(Interrupted):
                train(make_config(), folder)
        return folder

    def test_early_stopping_stays_stopped(self, make_config, tmp_path, monkeypatch):
        changes = {"trainer__max_steps": 60, "evaluation__patience": 1, "optim__lr_prompt": 0.0}
        config = make_config(**changes, optim__lr_factors=0.0)

        def stopped(*_, **__):
            raise KeyError("after the training")

        with monkeypatch.context() as patch:
            patch.setattr("mpt.training.train.measure", stopped)
            with pytest.raises(KeyError):
                train(config, tmp_path / "run")
        assert train(config, tmp_path / "run")["steps"] == 6


@pytest.mark.slow
def test_ctrl_c_of_the_command_line(tiny_t5_folder, rows_folder, tmp_path):
    for name in ("one", "two"):
        (tmp_path / "conf" / "tasks").mkdir(parents=True, exist_ok=True)
        task = {"rows": {"files": str(rows_folder / name)}, "input": "{text}", "target": "{target}"}
        text = json.dumps(task | {"metrics": ["exact_match"], "max_source_tokens": 16, "max_target_tokens": 8})
        (tmp_path / "conf" / "tasks" / f"{name}.yaml").write_text(f"# @package tasks.{name}\n{text}\n")
    command = [
        sys.executable, ROOT / "train.py", "--config-dir", tmp_path / "conf", "tasks=[one,two]", "trainer=cpu",
        f"backbone.path={tiny_t5_folder}", "trainer.max_steps=60", "evaluation.validate_every=60",
    ]  # fmt: skip

    def start():
        arguments = list(map(str, command))
        return subprocess.Popen(arguments, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def wait_for_steps(minimum):
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            files = list(tmp_path.glob("runs/source/*/checkpoints/before.json"))
            if files and time.time() - files[0].stat().st_mtime > minimum:
                return
            time.sleep(0.05)
        raise AssertionError("the training did not begin")

    process = start()
    wait_for_steps(0.5)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "the same command goes on" in err.strip().splitlines()[-1]
    assert "Traceback" not in err
    done = subprocess.run(list(map(str, command)), cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    (prompt,) = tmp_path.glob("runs/source/*/prompt/adapter_model.safetensors")
    resumed = load_file(prompt)
    whole = subprocess.run(
        list(map(str, [*command, "overwrite=true"])), cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert whole.returncode == 0, whole.stderr
    for name, tensor in load_file(prompt).items():
        assert torch.equal(tensor, resumed[name])


@pytest.mark.ddp
@pytest.mark.slow
def test_a_lost_process_ends_the_run_in_one_line(tmp_path):
    command = [
        sys.executable, str(ROOT / "train.py"), "task=source", "+tasks=[sum]", "logger=csv", "trainer.accelerator=cpu",
        "trainer.devices=2", "trainer.strategy=ddp", "trainer.threads=1", "trainer.max_steps=100000",
        "evaluation.validate_every=100000", "evaluation.before=false", "evaluation.oracle=false", "hydra.run.dir=run",
    ]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        log, until = tmp_path / "run" / "metrics.csv", time.monotonic() + 200
        while not log.is_file() or len(log.read_text().splitlines()) < 3:
            assert process.poll() is None
            assert time.monotonic() < until
            time.sleep(0.2)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        workers = [pid for pid in children if b"train.py" in Path(f"/proc/{pid}/cmdline").read_bytes()]
        os.kill(int(workers[0]), signal.SIGKILL)
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 2, err
    errors = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert f"another process of the run ended (process {workers[0]} with -9), and the rest was stopped" in errors[0]
    assert "Traceback" not in err
