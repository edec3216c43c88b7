"""Every experiment that ships runs, shrunk to two steps; those of the paper one after the other, on made-up rows."""

import json
import sys
from pathlib import Path

import pytest

from mpt.cli import main as cli
from mpt.cli.compose import CONF
from tests.test_hub_tasks import HUB

SMALL = (
    "trainer.max_steps=2", "trainer.batch_size=8", "evaluation.validate_every=2", "evaluation.validation_rows=4",
    "evaluation.test_rows=4", "evaluation.before=false", "evaluation.oracle=false", "logger=csv", "trainer=cpu",
    "trainer.progress_bar=false", "hydra/job_logging=none", "hydra/hydra_logging=none",
)  # fmt: skip
SHIPPED = {path.stem for path in (CONF / "experiment").glob("*.yaml")}


@pytest.fixture
def train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Run one experiment into a folder of its name, and return the folder."""
    monkeypatch.chdir(tmp_path)

    def run(name: str, *overrides: str) -> Path:
        folder = tmp_path / name
        monkeypatch.setattr(
            sys, "argv", ["train.py", f"experiment={name}", *SMALL, f"hydra.run.dir={folder}", *overrides]
        )
        cli.main()
        assert (folder / "metrics.json").is_file(), capsys.readouterr().err
        return folder

    return run


def test_all_of_them_are_run_here():
    assert {
        "debug", "demo_source", "demo_target", "paper_teachers", "paper_source", "paper_target",
        "real_source", "real_target",
    } == SHIPPED  # fmt: skip


@pytest.mark.slow
def test_of_the_embedded_world(train):
    train("debug")
    source = train("demo_source")
    train("demo_target", f"source={source}")


def make_up_rows(root: Path, *names: str) -> Path:
    """A folder for data_root: twelve rows of each task, with the hub's columns, that differ in a number."""
    for name in names:
        (root / name).mkdir(parents=True)
        row = HUB[name][0] | RENAMED.get(name, {})
        text = next(key for key, value in row.items() if isinstance(value, str) and key not in ("label", "class"))
        for split in ("train", "validation", "test"):
            lines = [json.dumps(row | {text: f"{row[text]} {number}"}) + "\n" for number in range(12)]
            (root / name / f"{split}.jsonl").write_text("".join(lines))
    return root


RENAMED = {"rte": {"premise": "A.", "hypothesis": "B."}}
"""Columns that a task renames on the hub, and finds under their new names in files."""


def test_of_a_real_language_model(train, tmp_path, causal_folder):
    rows = make_up_rows(tmp_path / "rows", "mrpc", "rte", "cola", "ag_news", "sst2")
    # Sixteen examples need as many rows, of both classes.
    lines = [json.dumps({"sentence": f"Fine {i}.", "label": str(i % 2)}) + "\n" for i in range(40)]
    for split in ("train", "validation", "test"):
        (rows / "sst2" / f"{split}.jsonl").write_text("".join(lines))
    made_up = (f"data_root={rows}", f"backbone.path={causal_folder('llama')}")
    # The small tokenizer cuts a label word into many pieces.
    longer = [f"tasks.{name}.max_target_tokens=24" for name in ("mrpc", "rte", "cola", "ag_news")]
    source = train("real_source", *made_up, *longer)
    target = train("real_target", f"source={source}", *made_up, "tasks.sst2.max_target_tokens=24")
    for line in (target / "predictions" / "sst2.jsonl").read_text().splitlines():
        assert json.loads(line)["prediction"] in ("positive", "negative")


@pytest.mark.slow
def test_of_the_paper(train, tmp_path, tiny_t5_folder):
    rows = make_up_rows(tmp_path / "rows", "mnli", "qnli", "qqp", "sst2", "squad", "record", "boolq")
    made_up = (f"data_root={rows}", f"backbone.path={tiny_t5_folder}", "prompt.num_virtual_tokens=5")
    # The small tokenizer cuts a label word into many pieces.
    longer = [f"tasks.{name}.max_target_tokens=24" for name in ("mnli", "qnli", "qqp", "sst2")]
    # It knows no underscore.
    longer += ["tasks.qnli.labels.label.1=other", "tasks.qqp.labels.label.0=other"]
    teachers = train("paper_teachers", *made_up, *longer)
    source = train("paper_source", f"distill={teachers}", *made_up, *longer)
    target = train("paper_target", f"source={source}", "few_shot.k=4", *made_up, "tasks.boolq.max_target_tokens=24")
    metrics = json.loads((target / "metrics.json").read_text())
    assert metrics["test"].keys() == {"boolq", "average"}
    # One task on its own: P, a column and a row (five tokens of the tiny T5).
    assert metrics["parameters"]["trained"] == 5 * 32 + 5 + 32
