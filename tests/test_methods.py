"""Every method on every family of backbones, through the YAML that ships; a method and its baselines in one sweep."""

import json
import sys

import pytest

from mpt.backbone.causal import FAMILY
from mpt.cli import main as cli
from mpt.cli.compose import CONF
from mpt.run.folder import read_config
from mpt.run.record import read_metrics

METHODS = sorted(path.stem for path in (CONF / "method").glob("*.yaml"))
USUAL = ("gpt2", "gemma3_text")
"""Families of the quick tests, of which one scales its embeddings; ``make slow`` has all."""
SMALL = (
    "+tasks=[one]", "trainer.max_steps=1", "trainer.batch_size=2", "trainer=cpu", "trainer.progress_bar=false",
    "evaluation.before=false", "evaluation.validation_rows=2", "evaluation.test_rows=2", "logger=csv",
    "prompt.num_virtual_tokens=4", "hydra/job_logging=none", "hydra/hydra_logging=none",
)  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory, rows_folder):
    """A folder with a task of its own, and with a prompt of each backbone to start from where one is needed."""
    root = tmp_path_factory.mktemp("methods")
    (root / "mine" / "tasks").mkdir(parents=True)
    task = {
        "rows": {"files": str(rows_folder / "one")}, "input": "{text}", "target": "{target}",
        "metrics": ["exact_match"], "max_source_tokens": 24, "max_target_tokens": 8,
    }  # fmt: skip
    (root / "mine" / "tasks" / "one.yaml").write_text(f"# @package tasks.one\n{json.dumps(task)}\n")
    return root


@pytest.fixture
def train(place, monkeypatch, capsys):
    def call(*overrides):
        monkeypatch.chdir(place)
        monkeypatch.setattr(sys, "argv", ["train.py", "--config-dir", "mine", *SMALL, *overrides])
        code: str | int = 0
        try:
            cli.main()
        except SystemExit as stop:
            code = stop.code or 0
        out, err = capsys.readouterr()
        assert code == 0, err
        return out

    return call


@pytest.mark.parametrize(
    "family", ["t5", *(pytest.param(each, marks=() if each in USUAL else pytest.mark.slow) for each in FAMILY)]
)
def test_every_method_trains_every_family(family, place, train, tiny_t5_folder, causal_folder):
    backbone = f"backbone.path={tiny_t5_folder if family == 't5' else causal_folder(family)}"
    source = place / family / "source"
    train("task=source", backbone, f"hydra.run.dir={source}")
    # One sweep: what needs no source ignores it.
    sweep = place / family / "methods"
    train(
        "-m", "task=target", backbone, f"source={source}", f"method={','.join(METHODS)}", f"hydra.sweep.dir={sweep}",
        "few_shot.k=2", "tasks.one.prefix='say '",
    )  # fmt: skip
    runs = [path.parent for path in sweep.glob("*/metrics.json")]
    found = {(read_config(run) or ({}, {}))[0]["method"]["name"]: run for run in runs}
    assert sorted(found) == METHODS
    trained = {name: read_metrics(run)["parameters"]["trained"] for name, run in found.items()}
    assert {name for name, numbers in trained.items() if numbers == 0} == {"in_context", "instruction"}
    assert (found["lora"] / "adapter" / "adapter_config.json").is_file()


@pytest.mark.slow
def test_a_source_that_is_not_read_leaves_the_identity(place, train, tiny_t5_folder):
    backbone = f"backbone.path={tiny_t5_folder}"
    sources = [place / "sources" / name for name in "ab"]
    for seed, source in enumerate(sources):
        train("task=source", backbone, f"seed={seed}", f"hydra.run.dir={source}")
    sweep = place / "sources" / "sweep"
    train(
        "-m", "task=target", backbone, f"source={sources[0]},{sources[1]}", "method=prompt,lora",
        "prompt.init=AVERAGE_SOURCE_TASKS,VOCABULARY", f"hydra.sweep.dir={sweep}",
    )  # fmt: skip
    runs = [read_config(path.parent)[0] for path in sweep.glob("*/metrics.json")]
    kinds = sorted((run["method"]["name"], run["prompt"]["init"]) for run in runs)
    assert kinds == [
        ("lora", "AVERAGE_SOURCE_TASKS"), ("lora", "VOCABULARY"), ("prompt", "AVERAGE_SOURCE_TASKS"),
        ("prompt", "AVERAGE_SOURCE_TASKS"), ("prompt", "VOCABULARY"),
    ]  # fmt: skip
