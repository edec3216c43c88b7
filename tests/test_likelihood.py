"""Answers by likelihood: each choice scored with the input read once is the choice scored by itself."""

import json

import pytest
import torch

from mpt import PromptedModel
from mpt.backbone import load_backbone
from mpt.backbone.causal import FAMILY
from mpt.config import BackboneConfig, RowsConfig, TaskConfig
from mpt.data.batches import pad
from mpt.inputs import Inputs
from mpt.tasks import check_task
from mpt.training.train import train
from tests.test_fused import together
from tests.test_written import predictions

CHOICES = ["hat", "the red mill", "a", "red red red hat"]


def load(family, tiny_t5_folder, causal_folder):
    path = tiny_t5_folder if family == "t5" else causal_folder(family)
    return load_backbone(BackboneConfig(family, path=str(path))).eval()


def some_inputs(backbone, seed=0):
    texts = ["anna found a hat", "ben", "the mill is red and the park is blue"]
    ids, _ = backbone.tokenization.encode_inputs(texts)
    input_ids = pad(ids, backbone.tokenization.pad_token_id)
    mask = (torch.arange(input_ids.shape[1]) < torch.tensor([len(each) for each in ids])[:, None]).long()
    torch.manual_seed(seed)
    return Inputs(input_ids, mask, torch.randn(len(texts), 4, backbone.token_dim))


def by_itself(backbone, inputs, choice):
    """The losses of one choice through a whole forward."""
    (ids,), _ = backbone.tokenization.encode_targets([choice])
    return backbone.example_losses(inputs, torch.tensor([ids] * len(inputs))), len(ids)


@pytest.mark.parametrize("family", ["t5", *FAMILY])
def test_equals_scoring_each_choice_by_itself(family, tiny_t5_folder, causal_folder):
    backbone = load(family, tiny_t5_folder, causal_folder)
    inputs = some_inputs(backbone)
    ids, _ = backbone.tokenization.encode_targets(CHOICES)
    with torch.no_grad():
        found = backbone.choice_losses(inputs, ids)
        whole = [by_itself(backbone, inputs, choice) for choice in CHOICES]
    expected = torch.stack([losses for losses, _ in whole], dim=1)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    lengths = torch.tensor([length for _, length in whole])
    texts = backbone.tokenization.decode(ids)
    for how, scores in {"likelihood": expected, "likelihood_per_token": expected / lengths}.items():
        answers = backbone.generate(inputs, choices=CHOICES, answers=how)
        assert answers == [texts[choice] for choice in scores.argmin(1).tolist()]


def test_a_long_choice_is_at_no_disadvantage_by_the_token(tiny_t5_folder, causal_folder, monkeypatch):
    backbone = load("t5", tiny_t5_folder, causal_folder)
    ids, _ = backbone.tokenization.encode_targets(["a", "the red mill"])
    assert len(ids[1]) > 1.5 * len(ids[0])
    monkeypatch.setattr(backbone, "choice_losses", lambda inputs, choices: torch.tensor([[4.0, 6.0]] * len(inputs)))
    for how, answer in {"likelihood": "a", "likelihood_per_token": "the red mill"}.items():
        assert set(backbone.generate(some_inputs(backbone), ["a", "the red mill"], answers=how)) == {answer}


@pytest.fixture
def classification(make_config, tmp_path):
    rows = [{"text": f"anna found {word}", "label": word} for word in ("hat", "mill") for _ in range(6)]
    for split in ("train", "validation", "test"):
        path = tmp_path / "data" / f"{split}.jsonl"
        path.parent.mkdir(exist_ok=True)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def build(stage="target", **changes):
        config = make_config(stage, ["one"], prompt__init="RANDOM", **changes)
        config.tasks = {
            "shelf": TaskConfig(
                rows=RowsConfig(files=str(tmp_path / "data")), input="{text}", target="{label}", metrics=["accuracy"],
                labels={"label": {"hat": "hat", "mill": "the red mill"}}, answers="likelihood", max_target_tokens=8,
            )
        }  # fmt: skip
        return config

    return build


def test_a_run_answers_so_alone_fused_and_served(classification, tmp_path):
    configs = [classification(), classification(seed=1)]
    train(configs[0], tmp_path / "alone")
    together(configs, [tmp_path / "fused", tmp_path / "other"])
    lines = predictions(tmp_path / "alone", "shelf")
    assert {line["prediction"] for line in lines} <= {"hat", "the red mill"}
    assert predictions(tmp_path / "fused", "shelf") == lines
    model = PromptedModel.load(tmp_path / "alone")
    texts, answers = [line["input"] for line in lines], [line["prediction"] for line in lines]
    assert model.generate(texts, "shelf") == answers
    scores = [model.score(texts, [choice] * len(texts), "shelf") for choice in ("hat", "the red mill")]
    assert answers == ["hat" if hat >= mill else "the red mill" for hat, mill in zip(*scores, strict=True)]
    # Asked otherwise, it compares other choices, or writes.
    others = model.generate(texts[:2], "shelf", choices=["red", "blue"], answers="likelihood_per_token")
    assert set(others) <= {"red", "blue"}
    assert model.generate(texts[:2], "shelf", choices=[]) == model.generate(
        texts[:2], "shelf", choices=[], answers="generation"
    )
    with pytest.raises(ValueError, match=r"answers: likelihood compares choices, and there are none"):
        model.generate(texts[:2], "shelf", choices=[], answers="likelihood")
    with pytest.raises(ValueError, match=r"answers: unknown 'luck'; choose one of generation"):
        model.generate(texts[:2], "shelf", answers="luck")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"answers": "likelyhood"}, "answers: unknown 'likelyhood'; choose one of generation, likelihood"),
        ({"labels": {}}, "answers: is likelihood, which compares label words, and there are none"),
        ({"generation": {"num_beams": 4}}, "generation: is {'num_beams': 4}, and answers=likelihood writes no text"),
    ],
)
def test_what_is_wrong_with_it_is_said(classification, changes, message):
    task = classification().tasks["shelf"]
    for key, value in changes.items():
        setattr(task, key, value)
    assert any(message in error for error in check_task("shelf", task))
