"""The additions that CONTRIBUTING.md shows, put in their places in a copy of the package and used."""

import csv
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
BLOCK = re.compile(r"^```(python|yaml|diff)\n# (\S+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory, rows_folder: Path) -> Path:
    """A copy of the package with every block of CONTRIBUTING.md in it, and a task that the new metric scores."""
    copy = tmp_path_factory.mktemp("contributing")
    for name in ("mpt", "conf"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "train.py", copy)
    for kind, place, text in BLOCK.findall((ROOT / "CONTRIBUTING.md").read_text()):
        path = copy / place
        if kind == "diff":
            old, new = re.findall(r"^-(.*)$", text, re.MULTILINE), re.findall(r"^\+(.*)$", text, re.MULTILINE)
            source = path.read_text()
            assert source.count("\n".join(old)) == 1
            path.write_text(source.replace("\n".join(old), "\n".join(new)))
        else:
            assert not path.exists()
            path.write_text(text)
    task = {
        "rows": {"files": str(rows_folder / "one")}, "input": "{text}", "target": "{target}",
        "metrics": ["first_word"], "max_source_tokens": 24, "max_target_tokens": 8,
    }  # fmt: skip
    for name in ("one", "two"):
        (copy / "conf" / "tasks" / f"{name}.yaml").write_text(f"# @package tasks.{name}\n{json.dumps(task)}\n")
    return copy


def train(checkout: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "train.py", "task=alone", "trainer=cpu", "logger=csv", "few_shot.k=2", *overrides]
    return subprocess.run(command, cwd=checkout, capture_output=True, text=True, timeout=300)


@pytest.mark.slow
def test_method_metric_and_stage_are_used_with_no_other_file_touched(checkout: Path) -> None:
    made = train(
        checkout, "method=scaled", "method.own.first_scale=0.5", "+tasks=[one]", "trainer.max_steps=3",
        "evaluation.test_rows=6", "evaluation.validation_rows=4", "hydra.run.dir=run",
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    metrics = json.loads((checkout / "run" / "metrics.json").read_text())
    assert metrics["stage"] == "alone"
    assert metrics["metric"] == {"one": "first_word"}
    lines = [json.loads(line) for line in (checkout / "run" / "predictions" / "one.jsonl").open()]
    right = [line["prediction"].split()[:1] == line["references"][0].split()[:1] for line in lines]
    assert metrics["test"]["one"]["first_word"] == pytest.approx(sum(right) / len(right))
    # What it has trained is saved and read back without a word of it elsewhere.
    code = "import mpt; model = mpt.PromptedModel.load('run'); print(float(model.adapter.scale))"
    loaded = subprocess.run([sys.executable, "-c", code], cwd=checkout, capture_output=True, text=True, timeout=120)
    assert loaded.returncode == 0, loaded.stderr
    assert 0.0 < abs(float(loaded.stdout) - 0.5) < 0.2


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("+tasks=[one,two]", "prompt.init=VOCABULARY"), "task=alone takes one; use task=target for several"),
        (
            ("+tasks=[one]", "method=scaled", "+method.own.scale=2"),
            "method.own.scale: is 2, but method.name=scaled has no such key; choose one of first_scale",
        ),
        (
            ("+tasks=[one]", "method=scaled", "method.own.first_scale=big"),
            "method.own.first_scale: is 'big'; it must be a float, such as 1.0",
        ),
        (
            ("+tasks=[one]", "+method.own.scale=2"),
            "method.own.scale: is 2, but method.name=prompt has no such key; leave it out",
        ),
        (("+tasks=[one]", "method=scaled", "method.alpha=2"), "method.alpha: is 2.0, but method.name=scaled has none"),
    ],
)
def test_what_they_say_of_themselves_is_checked(checkout: Path, overrides: tuple[str, ...], message: str) -> None:
    refused = train(checkout, *overrides)
    assert refused.returncode == 2
    assert message in refused.stderr


@pytest.mark.slow
def test_a_loss_is_changed_in_one_place(checkout: Path) -> None:
    made = train(
        checkout, "prompt.init=VOCABULARY", "+tasks=[one]", "trainer.max_steps=3", "evaluation.test_rows=2",
        "evaluation.validation_rows=2", "hydra.run.dir=loss",
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    with (checkout / "loss" / "metrics.csv").open() as file:
        steps = [line for line in csv.DictReader(file) if line["train/loss"]]
    assert len(steps) == 3
    for line in steps:
        assert float(line["train/loss"]) == pytest.approx(float(line["train/one/loss"]) ** 2, rel=1e-4)
