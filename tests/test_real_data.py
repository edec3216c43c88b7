"""A run on the shapes of real data: three data sets' columns and lengths, on a random T5 of T5-small's shape."""

import csv
import json
import math
from pathlib import Path
from random import Random
from typing import Any

import pytest

from mpt.cli.compose import CONF, register_schema, typed
from mpt.cli.hydra_versions import VERSION_BASE
from mpt.cli.job import run_job
from mpt.run.record import read_metrics
from mpt.world import rows as world_rows
from tests.conftest import make_t5

pytestmark = pytest.mark.slow

WORDS = sorted({word for row in world_rows("sum", "test") for word in row["text"].split() if word.isalpha()})
T5_SMALL = {"d_model": 512, "d_kv": 64, "d_ff": 2048, "num_layers": 6, "num_heads": 8}


def sentence(random: Random, length: int) -> str:
    return " ".join(random.choices(WORDS, k=length))


def made_up(task: str, random: Random) -> dict[str, Any]:
    """A row with the columns and the usual length of a data set, in words that mean nothing."""
    turns = [f"#Person{1 + turn % 2}#: {sentence(random, 12)}." for turn in range(8)]
    if task == "dialogsum":
        return {"dialogue": "\n".join(turns), "summary": sentence(random, 20)}
    if task == "multi30k":
        return {"en": sentence(random, 12), "de": sentence(random, 11)}
    return {"context": [turn.partition(": ")[2] for turn in turns[:3]], "response": sentence(random, 10)}


@pytest.fixture
def data_root(tmp_path: Path) -> Path:
    """``<task>/<split>.jsonl`` with 4 rows each; one dialogue in the training rows is far too long."""
    random = Random(0)
    for task in ("dialogsum", "multi30k", "dailydialog"):
        (tmp_path / "data" / task).mkdir(parents=True)
        for split in ("train", "validation", "test"):
            made = [made_up(task, random) for _ in range(4)]
            if (task, split) == ("dialogsum", "train"):
                made[2]["dialogue"] = sentence(random, 2000)
            text = "".join(json.dumps(row) + "\n" for row in made)
            (tmp_path / "data" / task / f"{split}.jsonl").write_text(text)
    return tmp_path / "data"


@pytest.mark.slow
def test_three_real_data_sets_run_through(data_root: Path, tmp_path: Path) -> None:
    import hydra

    register_schema()
    backbone = make_t5(tmp_path / "t5", [sentence(Random(1), 2000)], **T5_SMALL)
    overrides = [
        "task=source",
        "+tasks=[dialogsum,multi30k,dailydialog]",
        f"data_root={data_root}",
        "backbone=t5-small",
        f"backbone.path={backbone}",
        "logger=csv",
        "trainer=cpu",
        "trainer.batch_size=3",
        "trainer.max_steps=3",
        "trainer.progress_bar=false",
        "evaluation.validate_every=3",
        "evaluation.before=false",
    ]
    with hydra.initialize_config_dir(str(CONF), **VERSION_BASE):
        config = hydra.compose("train", overrides)
    assert typed(config).backbone.path == str(backbone)
    folder = tmp_path / "run"
    run_job(typed(config), folder)
    metrics = read_metrics(folder)
    assert metrics["truncated"]["train"]["dialogsum"] == {"input": 0.25, "target": 0.0}
    for split in ("validation", "test"):
        assert all(share == {"input": 0.0, "target": 0.0} for share in metrics["truncated"][split].values())
    assert {task: row["n"] for task, row in metrics["test"].items()} == {
        "dialogsum": 4, "multi30k": 4, "dailydialog": 4, "average": 12,
    }  # fmt: skip
    assert "oracle" not in metrics["test"]["average"]
    with (folder / "metrics.csv").open() as file:
        losses = [float(row[key]) for row in csv.DictReader(file) for key in row if key.endswith("loss") and row[key]]
    assert losses
    assert all(math.isfinite(loss) for loss in losses)
    assert (folder / "predictions" / "dailydialog.jsonl").read_text().count("\n") == 4
