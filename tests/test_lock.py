"""One process at a time: the second is refused with the first's number, and a dead one holds nothing."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mpt import lock
from mpt.atomic import write_atomically, write_folder_atomically
from mpt.errors import UserError
from mpt.run.checkpoint import AtomicCheckpointIO
from mpt.run.record import write_csv, write_lines
from mpt.study import __main__ as study
from tests.runs import run_cli

HOLD = """import sys, time
from pathlib import Path
from mpt.lock import hold_folder
with hold_folder(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the lock of a folder."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path / "run")], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def test_second_process_is_refused_with_the_number_of_the_first(tmp_path, holder):
    with (
        pytest.raises(UserError, match=rf"run: process {holder.pid} on .+, since .+ UTC, is at work on it; wait until"),
        lock.hold_folder(tmp_path / "run"),
    ):
        pass
    assert (tmp_path / "run" / lock.NAME).is_file()  # the first one's, still


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM])
def test_dead_process_holds_nothing_and_leaves_nothing_once_another_has_been_there(tmp_path, holder, signum):
    holder.send_signal(signum)
    holder.wait()
    with lock.hold_folder(tmp_path / "run"):
        pass
    assert list((tmp_path / "run").iterdir()) == []


def test_two_files_of_a_folder_are_held_apart_and_one_of_them_once(tmp_path):
    with (
        lock.hold_file(tmp_path / "a"),
        lock.hold_file(tmp_path / "b"),
        pytest.raises(UserError, match=f"a: process {os.getpid()} on "),
        lock.hold_file(tmp_path / "a"),
    ):
        pass
    assert list(tmp_path.iterdir()) == []


def test_commands_hold_what_they_write(tmp_path, monkeypatch, capsys, source_run):
    monkeypatch.chdir(tmp_path)
    with lock.hold_folder(tmp_path / "run"):
        assert run_cli(monkeypatch, "task=source", "+tasks=[sum]", "logger=csv", "hydra.run.dir=run") == 2
    assert f"run: process {os.getpid()} on " in capsys.readouterr().err
    (tmp_path / "in.txt").write_text("a b\n")
    answer = ["task=predict", f"source={source_run}", "predict.task=one", "predict.input=in.txt", "predict.output=out"]
    with lock.hold_file(tmp_path / "out"):
        assert run_cli(monkeypatch, *answer) == 2
    assert f"out: process {os.getpid()} on " in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    (tmp_path / "study.yaml").write_text(
        "question: Is it held?\ntargets: [sum]\ndraws: 2\nmethods: {plain: {overrides: [prompt.init=VOCABULARY]}}\n"
    )
    with lock.hold_file(tmp_path / "results" / "cells.jsonl"):
        assert study.main(["study.yaml"]) == 2
    assert f"cells.jsonl: process {os.getpid()} on " in capsys.readouterr().err


def test_error_within_lets_go(tmp_path):
    with pytest.raises(KeyError, match="mine"), lock.hold_folder(tmp_path / "run"):
        raise KeyError("mine")
    with lock.hold_folder(tmp_path / "run"):
        pass


KILLED = """import sys, time
from pathlib import Path
from mpt.atomic import {0}
with {0}(Path(sys.argv[1])) as path:
    {1}
    print("begun", flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize(
    ("write", "code"),
    [
        (write_atomically, KILLED.format("write_atomically", "path.write_text('half')")),
        (write_folder_atomically, KILLED.format("write_folder_atomically", "(path / 'part').write_text('half')")),
    ],
    ids=["file", "folder"],
)
def test_what_a_killed_process_left_goes_when_the_name_is_written_again(tmp_path, write, code):
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "out")], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    (left,) = tmp_path.iterdir()
    (tmp_path / ".0123456789ab.other").touch()  # another name's, which is not ours to remove
    with write(tmp_path / "out") as path:  # while the other one lives, its file stays
        (path / "part").write_text("whole") if write is write_folder_atomically else path.write_text("whole")
    assert left.exists()
    process.kill()
    process.wait()
    with write(tmp_path / "out") as path:
        (path / "part").write_text("whole") if write is write_folder_atomically else path.write_text("whole")
    assert sorted(item.name for item in tmp_path.iterdir()) == [".0123456789ab.other", "out"]


COMMANDS = {
    "train": ["train.py", "task=source", "+tasks=[sum]", "logger=csv", "trainer=cpu"],
    "report": ["-m", "mpt.report", "runs"],
    "export": ["-m", "mpt.export", "card", "runs", "--to", "card.md"],
    "study": ["-m", "mpt.study", "study.yaml"],
}
ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
@pytest.mark.parametrize("command", COMMANDS)
def test_signal_during_imports_ends_in_one_line(tmp_path, command, signum, code):
    words = [str(ROOT / word) if word == "train.py" else word for word in COMMANDS[command]]
    # Something that is imported late waits, so that the signal falls into the imports on any machine.
    (tmp_path / "sitecustomize.py").write_text(
        "import sys, time\n"
        "class Wait:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name in ('omegaconf', 'mpt.report.reporting', 'mpt.export.exporting', 'mpt.study.studying'):\n"
        "            sys.meta_path.remove(self); print('importing', flush=True); time.sleep(30)\n"
        "sys.meta_path.insert(0, Wait())\n"
    )
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    process = subprocess.Popen(
        [sys.executable, *words], cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "importing\n"
    time.sleep(0.1)
    process.send_signal(signum)
    _, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    assert err.startswith("stopped")
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize("linked", [False, True])
def test_folder_that_moved_under_its_holder_is_not_made_again(tmp_path, linked):
    real, run = tmp_path / "disk", tmp_path / "runs" / "a"
    real.mkdir()
    (tmp_path / "runs").symlink_to(real) if linked else (tmp_path / "runs").mkdir()
    with lock.hold_folder(run):
        write_csv(run / "metrics.csv", ["step"], [[1]])
        run.rename(tmp_path / "b")
        writes = [
            lambda: write_csv(run / "metrics.csv", ["step"], [[2]]),
            lambda: write_lines(run / "predictions" / "sum.jsonl", [{}]),
            lambda: AtomicCheckpointIO().save_checkpoint({}, run / "checkpoints" / "last.ckpt"),
            lambda: write_folder_atomically(run / "prompt").__enter__(),
        ]
        for write in writes:
            with pytest.raises(UserError, match=r"a: was moved or removed while it was written to; move it back, then"):
                write()
        assert not run.exists()
        run.mkdir()  # somebody else's, under the same name
        with pytest.raises(UserError, match="was moved or removed"):
            writes[0]()
        run.rmdir()
        (tmp_path / "b").rename(run)
        writes[0]()
    assert (run / "metrics.csv").read_text() == "step\n2\n"
    assert not (run / lock.NAME).exists()


def test_folder_that_nobody_holds_is_made_again(tmp_path):
    with lock.hold_folder(tmp_path / "run"):
        pass
    shutil.rmtree(tmp_path / "run")
    write_csv(tmp_path / "run" / "metrics.csv", ["step"], [])
    assert (tmp_path / "run" / "metrics.csv").is_file()
