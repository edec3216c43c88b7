"""The embedded backbone as it ships: its skills need their prefixes, and a soft prompt finds them."""

import json
from pathlib import Path

import pytest

from mpt.backbone import TINY, Backbone, load_backbone
from mpt.cli.compose import CONF, register_schema, typed
from mpt.cli.hydra_versions import VERSION_BASE
from mpt.cli.job import run_job
from mpt.config import BackboneConfig
from mpt.inputs import Inputs
from mpt.run.record import read_metrics
from mpt.world import rows
from mpt.world.tasks import SOURCE_TASKS, TARGET_TASKS, TASKS

ROOT = Path(__file__).resolve().parent.parent
SKILLS = json.loads((ROOT / "experiments/pretrain_backbone/results/skills.json").read_text())
HEADLINE = ("sum", "mt", "dlg")


@pytest.fixture(scope="module")
def tiny() -> Backbone:
    return load_backbone(BackboneConfig("tiny"))


def exact_match(backbone: Backbone, task: str, prefix: str, limit: int = 100) -> float:
    data = rows(task, "test")[:limit]
    inputs = backbone.tokenizer([prefix + row["text"] for row in data], padding=True, return_tensors="pt")
    answers = backbone.generate(Inputs(inputs["input_ids"], inputs["attention_mask"]), max_new_tokens=24)
    return sum(text == row["target"] for text, row in zip(answers, data, strict=True)) / limit


def test_ships_in_eight_megabytes() -> None:
    sizes = {path.name: path.stat().st_size for path in TINY.iterdir()}
    assert {"README.md", "config.json", "model.safetensors", "tokenizer.json"} <= set(sizes)
    assert sum(sizes.values()) <= 8_000_000


@pytest.mark.parametrize("task", HEADLINE)
def test_headline_skills_need_their_prefix(tiny: Backbone, task: str) -> None:
    assert exact_match(tiny, task, f"{TASKS[task].instruction} : ") >= 0.9
    assert exact_match(tiny, task, "") <= 0.1


def test_the_recorded_skills_are_those_of_the_weights(tiny: Backbone) -> None:
    assert set(SKILLS) == set(TASKS)
    assert sum(SKILLS[task]["prefix"] >= 0.8 for task in SOURCE_TASKS) >= 10
    for task in ("title", "feeling"):
        # 100 of the 500 recorded rows; the standard error of such a share is at most 0.05.
        assert exact_match(tiny, task, f"{TASKS[task].instruction} : ") == pytest.approx(
            SKILLS[task]["prefix"], abs=0.15
        )


def test_no_prefix_of_a_target_was_understood() -> None:
    assert all(SKILLS[task]["no_prompt"] <= 0.1 for task in TARGET_TASKS)


def test_world_words_are_all_in_the_vocabulary(tiny: Backbone) -> None:
    for task in TASKS:
        for row in rows(task, "validation"):
            assert tiny.tokenizer.unk_token_id not in tiny.tokenizer(f"{row['text']} {row['target']}").input_ids


@pytest.mark.slow
def test_source_training_finds_the_skills_and_adaptation_uses_them(tmp_path: Path) -> None:
    """A short version of the two commands of `make train`; without a gradient both would end where they began."""
    import hydra

    register_schema()
    shared = ["logger=csv", "trainer=cpu", "trainer.progress_bar=false", "evaluation.test_rows=100"]
    commands = {
        "source": ["task=source", "tasks=[sum,dlg]", "trainer.max_steps=100", "evaluation.validate_every=100"],
        "target": ["task=target", "tasks=[keywords]", f"source={tmp_path / 'source'}", "few_shot.k=16"],
    }
    for stage, command in commands.items():
        with hydra.initialize_config_dir(str(CONF), **VERSION_BASE):
            config = hydra.compose("train", [*command, *shared])
        run_job(typed(config), tmp_path / stage)
    source, target = (read_metrics(tmp_path / stage)["test"] for stage in commands)
    for task in ("sum", "dlg"):
        assert source[task]["before"] <= 0.1
        assert source[task]["score"] >= 0.8 * source[task]["oracle"]
    assert target["keywords"]["score"] >= target["keywords"]["before"] + 0.3
