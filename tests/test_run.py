"""A run folder: read back as it was written, whole or not at all, and its table."""

import json
import re
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from omegaconf import OmegaConf
from rich.console import Console

from mpt.run.console import results_table
from mpt.run.folder import RunFolder, prompt_digest, read_config
from mpt.run.record import add_average, read_metrics, write_lines, write_metrics

ROOT = Path(__file__).resolve().parent.parent
CONFIG = {"stage": "source", "tasks": {"a": {"weight": 1.0}}, "backbone": {"name": "tiny"}, "seed": 0}
METRICS = {
    "metric": {"a": "exact_match"},
    "test": {
        "a": {"n": 4, "score": 0.75, "before": 0.25, "oracle": 1.0},
        "b": {"n": 2, "score": 0.5, "before": 0.0},
        "average": {"n": 6, "score": 0.625, "before": 0.125},
    },
}


def test_config_reads_back(tmp_path):
    RunFolder(tmp_path).write_config(CONFIG, {"id": "x", "git": None})
    assert read_config(tmp_path) == (CONFIG, {"id": "x", "git": None})


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]))
    | st.sampled_from(["1e-3", "1_000", "2026-11-26 12:00:00", "2026-11-26", "yes", "null", "~", "0o7", "1:30", ".5"]),
    lambda below: st.lists(below) | st.dictionaries(st.text("abcdef", min_size=1), below),
    max_leaves=8,
)


@given(VALUES)
def test_what_omegaconf_reads_is_read(value):
    text = OmegaConf.to_yaml(OmegaConf.create({"run": {"value": value}}))
    assume("${" not in text)
    with TemporaryDirectory() as folder:
        (Path(folder) / "config.yaml").write_text(text, encoding="utf-8")
        assert read_config(Path(folder)) == ({}, {"value": value})


@pytest.mark.parametrize("written", ["1e-3", "5E+2", "2.5e4", "1.", "yes", "2026-11-26", "0x1f", "1_000", ".inf", "12"])
def test_words_by_hand_are_what_omegaconf_makes_of_them(tmp_path, written):
    (tmp_path / "config.yaml").write_text(f"run: {{value: {written}}}\n")
    assert read_config(tmp_path) == ({}, OmegaConf.load(tmp_path / "config.yaml").run)


def test_no_config_is_none(tmp_path):
    assert read_config(tmp_path) is None


def test_foreign_config_is_refused(tmp_path):
    (tmp_path / "config.yaml").write_text("a: 1\n")
    with pytest.raises(ValueError, match=r"config\.yaml: not the configuration of a run"):
        read_config(tmp_path)


def test_metrics_read_back(tmp_path):
    write_metrics(tmp_path, METRICS)
    assert read_metrics(tmp_path) == METRICS
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.json"]


def test_a_side_figure_that_is_no_number_does_not_cost_the_result(tmp_path):
    with pytest.warns(UserWarning, match=r"metrics\.json: moved/a is not finite, and null there"):
        write_metrics(tmp_path, {"test": {"a": {"score": 0.5}}, "moved": {"a": float("inf"), "b": 1.0}})
    assert read_metrics(tmp_path) == {"test": {"a": {"score": 0.5}}, "moved": {"a": None, "b": 1.0}}


def test_damaged_metrics_are_refused(tmp_path):
    (tmp_path / "metrics.json").write_text('{"test": ')
    with pytest.raises(ValueError, match=r"metrics\.json: not JSON .*overwrite=true"):
        read_metrics(tmp_path)


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ("high", "test: it is 'high', not scores by their names"),
        ({"sum": 3}, "test: sum is 3, not scores by their names"),
        ({"sum": {"score": "high"}}, "test: sum: score is 'high', which none is"),
        ({"sum": {"score": float("nan")}}, "test: sum: score is nan, which none is"),
        ({"sum": {"score": 0.5, "n": -2}}, "test: sum: n is -2, which none is"),
    ],
)
def test_scores_that_are_none_are_refused(tmp_path, scores, message):
    (tmp_path / "metrics.json").write_text(json.dumps({"test": scores}))
    with pytest.raises(ValueError, match=rf"metrics\.json: {message}; overwrite=true"):
        read_metrics(tmp_path)


def test_state_goes_from_new_over_unfinished_to_finished(tmp_path):
    assert RunFolder(tmp_path).state(CONFIG) == "new"
    RunFolder(tmp_path).write_config(CONFIG, {})
    assert RunFolder(tmp_path).state(CONFIG) == "unfinished"
    write_metrics(tmp_path, METRICS)
    assert RunFolder(tmp_path).state(CONFIG) == "finished"


def test_another_configuration_is_refused_by_its_keys(tmp_path):
    RunFolder(tmp_path).write_config(CONFIG, {})
    with pytest.raises(ValueError, match=r"another seed \(0 there, 1 here\).*overwrite=true"):
        RunFolder(tmp_path).state(CONFIG | {"seed": 1})


def test_what_does_not_change_a_result_does_not_change_the_run(tmp_path):
    RunFolder(tmp_path).write_config(CONFIG | {"output_root": "runs", "logger": {"wandb": True}}, {})
    other = CONFIG | {"output_root": "elsewhere", "logger": {"wandb": False}, "overwrite": True}
    assert RunFolder(tmp_path).state(other) == "unfinished"


def test_clear_removes_what_a_run_leaves_and_nothing_else(tmp_path):
    (tmp_path / "prompt").mkdir()
    (tmp_path / "prompt" / "mpt.json").write_text("{}")
    (tmp_path / "metrics.json").write_text("{}")
    (tmp_path / "notes.txt").write_text("mine")
    RunFolder(tmp_path).clear()
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_average_leaves_out_what_a_task_lacks():
    scores = {name: METRICS["test"][name] for name in ("a", "b")}
    assert add_average(scores)["average"] == METRICS["test"]["average"]


def test_rows_are_json_lines(tmp_path):
    rows = [{"prediction": "ein Käfer"}, {"prediction": "line\nbreak"}]
    write_lines(tmp_path / "predictions" / "a.jsonl", rows)
    lines = (tmp_path / "predictions" / "a.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == rows
    assert "Käfer" in lines[0]


def test_table_shows_before_after_oracle_and_n():
    console = Console(width=100)
    with console.capture() as captured:
        console.print(results_table(METRICS))
    lines = captured.get().splitlines()
    cells = {line.split()[1]: line.replace("│", " ").split()[1:] for line in lines if line.startswith("│")}
    assert cells["a"] == ["exact_match", "0.250", "0.750", "1.000", "4"]
    assert cells["b"] == ["0.000", "0.500", "–", "2"]
    assert cells["average"] == ["0.125", "0.625", "–", "6"]


def test_a_new_run_says_what_runs_it(tmp_path):
    write_metrics(tmp_path, METRICS)
    RunFolder(tmp_path).begin(CONFIG, fingerprint="f", rows={})
    config, run = read_config(tmp_path) or ({}, {})
    assert config == CONFIG
    assert run["versions"]["torch"].startswith("2.")
    assert re.fullmatch(r"\w+ \w+, \d+ CPUs.*", run["machine"])
    if (ROOT / ".git").exists():
        head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True)
        assert run["git"].removesuffix("+changes") == head.stdout.strip()
    else:
        assert run["git"] is None
    assert read_metrics(tmp_path) is None


def test_digest_changes_with_the_prompt(tmp_path):
    assert prompt_digest(tmp_path) is None
    (tmp_path / "prompt").mkdir()
    digests = set()
    for content in (b"one", b"two"):
        (tmp_path / "prompt" / "adapter_model.safetensors").write_bytes(content)
        digests.add(prompt_digest(tmp_path))
    assert len(digests) == 2
    assert prompt_digest(tmp_path / "prompt") in digests


@pytest.mark.parametrize("content", ["a: 1\n", "[1, 2]\n", "project: mine\nstage: 3\n", ""])
def test_the_config_of_another_program_is_not_a_runs(tmp_path, content):
    """``overwrite=true`` empties a run's folder, and somebody else's program has a config.yaml too."""
    (tmp_path / "config.yaml").write_text(content)
    (tmp_path / "metrics.json").write_text("{}")
    with pytest.raises(ValueError, match="is not the folder of a run"):
        RunFolder(tmp_path).refuse_foreign()
    assert (tmp_path / "config.yaml").read_text() == content


def test_a_damaged_config_is_still_a_runs(tmp_path):
    RunFolder(tmp_path).write_config({"stage": "source", "tasks": {"a": {}}}, {"id": "x"})
    text = (tmp_path / "config.yaml").read_text()
    (tmp_path / "config.yaml").write_text(text + "\n  : [")
    RunFolder(tmp_path).refuse_foreign()
