"""Loggers: the curves over a resume, W&B with and without an account, and W&B that fails."""

import csv
import subprocess
import sys
import warnings

import pytest
import wandb
from wandb.proto import wandb_internal_pb2
from wandb.sdk.lib.wbauth import unauthenticate_session

from mpt.config import LoggerConfig
from mpt.loggers import CurvesFile, check_tensorboard, close_loggers, open_loggers, tags, wandb_mode

KEY = "0123456789" * 4


def read(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def test_one_line_per_step(tmp_path):
    curves = CurvesFile(tmp_path / "metrics.csv")
    curves.log_metrics({"train/loss": 2.0, "epoch": 0}, step=0)
    curves.log_metrics({"train/loss": 1.0}, step=1)
    curves.log_metrics({"validation/average/score": 0.5}, step=1)
    curves.finalize("success")
    assert read(tmp_path / "metrics.csv") == [
        {"step": "0", "train/loss": "2.0", "validation/average/score": ""},
        {"step": "1", "train/loss": "1.0", "validation/average/score": "0.5"},
    ]


def test_a_resumed_run_forgets_what_came_after_its_checkpoint(tmp_path):
    curves = CurvesFile(tmp_path / "metrics.csv")
    for step in range(5):
        curves.log_metrics({"train/loss": float(step)}, step=step)
    curves.finalize("failed")
    resumed = CurvesFile(tmp_path / "metrics.csv", step=2)
    resumed.log_metrics({"train/loss": 20.0}, step=2)
    resumed.finalize("success")
    assert [line["train/loss"] for line in read(tmp_path / "metrics.csv")] == ["0.0", "1.0", "20.0"]


def test_a_new_run_starts_an_empty_file(tmp_path):
    (tmp_path / "metrics.csv").write_text("step,train/loss\n0,1.0\n")
    curves = CurvesFile(tmp_path / "metrics.csv")
    curves.finalize("success")
    assert read(tmp_path / "metrics.csv") == []


@pytest.fixture
def no_account(tmp_path, monkeypatch):
    for name in ("WANDB_API_KEY", "WANDB_MODE", "NETRC", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    wandb.teardown()
    unauthenticate_session(update_settings=False)  # W&B remembers a key for as long as the process lives
    return tmp_path


class TestWandbMode:
    def test_offline_without_an_account(self, no_account):
        assert wandb_mode(LoggerConfig()) == "offline"

    def test_online_with_a_key(self, no_account, monkeypatch):
        monkeypatch.setenv("WANDB_API_KEY", KEY)
        assert wandb_mode(LoggerConfig()) == "online"

    def test_online_after_wandb_login(self, no_account):
        command = [sys.executable, "-m", "wandb", "login", "--no-verify", KEY]
        subprocess.run(command, check=True, capture_output=True, timeout=60)
        assert (no_account / ".netrc").is_file()
        assert wandb_mode(LoggerConfig()) == "online"
        assert wandb_mode(LoggerConfig(wandb_mode="online")) == "online"

    @pytest.mark.parametrize("mode", ["offline", "disabled"])
    def test_the_environment_is_heard(self, no_account, monkeypatch, mode):
        monkeypatch.setenv("WANDB_API_KEY", KEY)
        monkeypatch.setenv("WANDB_MODE", mode)
        assert wandb_mode(LoggerConfig()) == mode

    def test_an_empty_one_in_the_environment_is_none(self, no_account, monkeypatch):
        monkeypatch.setenv("WANDB_MODE", "")
        assert wandb_mode(LoggerConfig()) == "offline"

    def test_online_from_the_environment_never_asks_for_a_login(self, no_account, monkeypatch):
        monkeypatch.setenv("WANDB_MODE", "online")
        assert wandb_mode(LoggerConfig()) == "offline"

    def test_online_without_a_key_is_refused(self, no_account):
        with pytest.raises(ValueError, match=r"logger\.wandb_mode: online, but no API key is at hand"):
            wandb_mode(LoggerConfig(wandb_mode="online"))

    def test_off(self, no_account):
        assert wandb_mode(LoggerConfig(wandb=False, wandb_mode="online")) == "disabled"


def open_in(folder, **changes):
    return open_loggers(
        LoggerConfig(**changes), folder, run_id="abcd1234", stage="source", tags=tags(["a"], "prompt", 4), values={}
    )


class TestWandbThatFails:
    @pytest.fixture
    def no_network(self, no_account, monkeypatch):
        monkeypatch.setenv("WANDB_API_KEY", KEY)
        monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
        monkeypatch.setattr("mpt.loggers.wandb_run.INIT_TIMEOUT", 2)
        yield
        wandb.teardown()

    def test_goes_on_offline_with_one_warning(self, no_network, tmp_path):
        with pytest.warns(UserWarning, match=r"W&B cannot be used as asked .*logged offline") as warned:
            loggers = open_in(tmp_path)
        assert len([each for each in warned if "W&B" in str(each.message)]) == 1
        loggers[1].log_metrics({"train/loss": 1.0}, 1)
        close_loggers(loggers, "success")
        assert list(tmp_path.glob("wandb/offline-run-*-abcd1234/*.wandb"))
        # The next job of a sweep does not wait again.
        assert wandb_mode(LoggerConfig()) == "offline"

    def test_online_that_was_asked_for_is_refused(self, no_network, tmp_path):
        with pytest.raises(ValueError, match=r"logger\.wandb_mode: online, but W&B cannot be reached"):
            open_in(tmp_path, wandb_mode="online")

    def test_an_unknown_mode_is_refused(self, no_account, monkeypatch):
        monkeypatch.setenv("WANDB_MODE", "onlien")
        with pytest.raises(ValueError, match=r"WANDB_MODE: unknown 'onlien'; choose .*did you mean 'online'"):
            wandb_mode(LoggerConfig())
        assert wandb_mode(LoggerConfig(wandb_mode="offline")) == "offline"
        monkeypatch.setenv("WANDB_MODE", "dryrun")
        assert wandb_mode(LoggerConfig()) == "offline"

    def test_a_strange_home(self, no_account, tmp_path, monkeypatch):
        monkeypatch.setenv("HOME", "/dev/null")
        loggers = open_in(tmp_path)
        loggers[-1].log_metrics({"train/loss": 1.0}, 1)
        close_loggers(loggers, "success")
        assert read(tmp_path / "metrics.csv") == [] or len(loggers) == 2

    def test_a_failure_in_the_middle_is_one_warning(self, no_account, tmp_path, monkeypatch):
        loggers = open_in(tmp_path)

        def broken(*_, **__):
            raise BrokenPipeError("the service has gone")

        monkeypatch.setattr(loggers[1].experiment, "log", broken)
        with pytest.warns(UserWarning, match=r"W&B failed \(the service has gone\)"):
            loggers[1].log_metrics({"train/loss": 1.0}, 1)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            loggers[1].log_metrics({"train/loss": 1.0}, 2)
        close_loggers(loggers, "success")


def test_tensorboard_that_is_not_installed_is_refused(monkeypatch):
    monkeypatch.setattr("mpt.loggers.open.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"logger\.tensorboard: not installed; pip install"):
        check_tensorboard(LoggerConfig(tensorboard=True))


def records(content):
    """The records of an offline run's file, which is a LevelDB log behind seven bytes."""
    place, part = 7, b""
    while place + 7 <= len(content):
        left = 32768 - place % 32768
        if left < 7:  # a block ends with zeros
            place += left
            continue
        length, kind = int.from_bytes(content[place + 4 : place + 6], "little"), content[place + 6]
        part += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part of one
            yield part
            part = b""


def test_an_offline_run_that_goes_on_has_all_curves_in_its_last_folder(no_account, tmp_path):
    """A sync of the last folder takes the place of the others of its id."""
    for step, first in ((0, 1), (3, 4)):
        loggers = open_loggers(
            LoggerConfig(), tmp_path, run_id="abcd1234", stage="source", tags=[], values={}, step=step
        )  # fmt: skip
        for number in range(first, first + 3):
            for logger in loggers:
                logger.log_metrics({"train/loss": 1.0 / number}, number)
        close_loggers(loggers, "success")
        wandb.teardown()  # as the end of the process that was stopped
    folders = sorted((tmp_path / "wandb").glob("offline-run-*"), key=lambda path: path.stat().st_mtime_ns)
    assert len(folders) == 2
    seen = []
    for data in records(next(folders[-1].glob("*.wandb")).read_bytes()):
        record = wandb_internal_pb2.Record.FromString(data)  # type: ignore[attr-defined]  # made from a schema
        items = {".".join(item.nested_key) or item.key: item.value_json for item in record.history.item}
        if "train/loss" in items:
            seen.append(float(items["train/loss"]))
    assert seen == [pytest.approx(1.0 / number) for number in (1, 2, 3, 4, 5, 6)]


def test_a_gap_is_no_value(tmp_path):
    curves = CurvesFile(tmp_path / "metrics.csv")
    curves.log_metrics({"train/loss": 1.0, "train/a/loss": float("nan")}, step=1)
    curves.finalize("success")
    assert read(tmp_path / "metrics.csv") == [{"step": "1", "train/loss": "1.0"}]
