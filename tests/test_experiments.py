"""Every experiment that ships runs, shrunk to two steps; those of the paper one after the other, on made-up rows."""

import json
import sys
from pathlib import Path

import pytest

from mpt import cli
from tests.test_hub_tasks import HUB

SMALL = (
    "trainer.max_steps=2", "trainer.batch_size=8", "evaluation.validate_every=2", "evaluation.validation_rows=4",
    "evaluation.test_rows=4", "evaluation.before=false", "evaluation.oracle=false", "logger=csv", "trainer=cpu",
    "trainer.progress_bar=false", "hydra/job_logging=none", "hydra/hydra_logging=none",
)  # fmt: skip
SHIPPED = {path.stem for path in (cli.CONF / "experiment").glob("*.yaml")}


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
    """A folder for data_root: twelve times the same row of each task, with the hub's columns."""
    for name in names:
        (root / name).mkdir(parents=True)
        row = HUB[name][0] | RENAMED.get(name, {})
        for split in ("train", "validation", "test"):
            (root / name / f"{split}.jsonl").write_text((json.dumps(row) + "\n") * 12)
    return root


RENAMED = {"rte": {"premise": "A.", "hypothesis": "B."}}
"""Columns that a task renames on the hub, and finds under their new names in files."""


def test_of_a_real_language_model(train, tmp_path, causal_folder):
    rows = make_up_rows(tmp_path / "rows", "mrpc", "rte", "cola", "ag_news", "sst2")
    # Sixteen examples need as many rows, of both classes.
    lines = [json.dumps({"sentence": "Fine.", "label": str(i % 2)}) + "\n" for i in range(40)]
    for split in ("train", "validation", "test"):
        (rows / "sst2" / f"{split}.jsonl").write_text("".join(lines))
    made_up = (f"data_root={rows}", f"backbone.path={causal_folder('llama')}")
    source = train("real_source", *made_up)
    target = train("real_target", f"source={source}", *made_up)
    for line in (target / "predictions" / "sst2.jsonl").read_text().splitlines():
        assert json.loads(line)["prediction"] in ("positive", "negative")


@pytest.mark.slow
def test_of_the_paper(train, tmp_path, tiny_t5_folder):
    rows = make_up_rows(tmp_path / "rows", "mnli", "qnli", "qqp", "sst2", "squad", "record", "boolq")
    made_up = (
        f"data_root={rows}",
        f"backbone.path={tiny_t5_folder}",
        "prompt.num_virtual_tokens=5",
    )
    teachers = train("paper_teachers", *made_up)
    source = train("paper_source", f"distill={teachers}", *made_up)
    target = train("paper_target", f"source={source}", "few_shot.k=4", *made_up)
    metrics = json.loads((target / "metrics.json").read_text())
    assert metrics["test"].keys() == {"boolq", "average"}
    # One task on its own: P, a column and a row (five tokens of the tiny T5).
    assert metrics["parameters"]["trained"] == 5 * 32 + 5 + 32
