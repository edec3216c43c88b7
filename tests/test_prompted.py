"""A trained prompt in use: as the run itself answered, as PEFT answers, whatever the order and the batches."""

import json

import pytest
import torch
from transformers import AutoModelForSeq2SeqLM

from mpt import PromptedModel
from mpt.run.record import read_metrics
from mpt.training.train import train


@pytest.fixture(scope="module")
def model(source_run):
    return PromptedModel.load(source_run)


def predictions(run):
    """Of every test example: task, input, answer."""
    return [
        (task, line["input"], line["prediction"])
        for task in ("one", "two")
        for line in map(json.loads, (run / "predictions" / f"{task}.jsonl").read_text().splitlines())
    ]


@pytest.mark.parametrize("batch_size", [1, 3, 32])
def test_answers_are_those_of_the_run(model, source_run, batch_size):
    tasks, texts, answers = zip(*predictions(source_run), strict=True)
    assert model.generate(texts, tasks, batch_size=batch_size, max_new_tokens=8) == list(answers)
    back = model.generate(texts[::-1], tasks[::-1], batch_size=batch_size, max_new_tokens=8)
    assert back == list(answers)[::-1]


def test_one_task_for_all_and_none_at_all(model):
    texts = ["say red", "say blue or green"]
    assert model.generate(texts, "two") == model.generate(texts, ["two", "two"])
    assert model.generate([], "two") == model.score([], [], "two") == []


def test_logits_and_scores_are_pefts(model, source_run, tiny_t5_folder):
    from peft import PeftModel

    theirs = PeftModel.from_pretrained(
        AutoModelForSeq2SeqLM.from_pretrained(tiny_t5_folder), source_run / "prompt"
    ).eval()
    texts, targets, tasks = ["say red", "say black or white"], ["red", "green green"], ["two", "one"]
    inputs = model.tokenizer(texts, padding=True, return_tensors="pt")
    encoded = model.tokenizer(targets, padding=True, return_tensors="pt")
    labels = encoded["input_ids"].masked_fill(encoded["attention_mask"] == 0, -100)
    fields = {"input_ids": inputs["input_ids"], "attention_mask": inputs["attention_mask"], "labels": labels}
    ids = torch.tensor([1, 0])
    with torch.no_grad():
        expected = theirs(**fields, task_ids=ids).logits
        found = model.logits(**fields, task_ids=ids)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    log_probabilities = torch.log_softmax(expected, -1)
    sums = [
        sum(float(log_probabilities[row, i, token]) for i, token in enumerate(labels[row].tolist()) if token >= 0)
        for row in range(2)
    ]
    assert model.score(texts, targets, tasks) == pytest.approx(sums, rel=1e-4)


@pytest.mark.parametrize("name", ["attempt", "dept", "adept", "ulpt"])
def test_a_baseline_answers_as_its_run(name, make_config, source_run, tmp_path):
    settings = {"attempt": {"source": str(source_run)}}
    config = make_config(
        "target",
        ["one", "two"],
        method__name=name,
        prompt__form="independent",
        prompt__init="RANDOM",
        method__num_ranks=2,
        **settings.get(name, {}),
    )
    train(config, tmp_path / "run")
    tasks, texts, answers = zip(*predictions(tmp_path / "run"), strict=True)
    assert PromptedModel.load(tmp_path / "run").generate(texts, tasks, max_new_tokens=8) == list(answers)


class TestWhatItRefuses:
    @pytest.mark.parametrize(
        ("texts", "tasks", "message"),
        [
            (["a"], "three", r"tasks: no task 'three'; choose one of one, two"),
            (["a"], ["one", "two"], r"tasks: are 2 for 1 texts; give one for each, or one for all"),
            (["a", "  "], "one", r"texts: number 1 is empty; give each some text"),
            ("a text", "one", r"texts: is one text, 'a text'; give a list"),
        ],
    )
    def test_bad_calls(self, model, texts, tasks, message):
        with pytest.raises(ValueError, match=message):
            model.generate(texts, tasks)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"batch_size": -1}, "batch_size: is -1; it must be a whole number from 1"),
            ({"batch_size": 0}, "batch_size: is 0"),
            ({"batch_size": 2.5}, r"batch_size: is 2\.5"),
            ({"batch_size": True}, "batch_size: is True"),
            ({"max_new_tokens": 0}, "max_new_tokens: is 0"),
            ({"num_return_sequences": 0}, "num_return_sequences: is 0"),
            ({"choices": "ab"}, "choices: is 'ab'; give a list of texts, none of them empty"),
            ({"choices": ["a", ""]}, "choices: is "),
            ({"choices": [1]}, "choices: is "),
            ({"texts": {"a"}}, "texts: is a set, which has no order; give a list"),
            ({"texts": None}, "texts: is a NoneType"),
            ({"texts": {"text": "a"}}, "texts: is a dict"),
        ],
    )
    def test_arguments_of_the_wrong_kind(self, model, arguments, message):
        with pytest.raises(ValueError, match=message):
            model.generate(**{"texts": ["a"], "tasks": "one", **arguments})

    def test_targets_that_are_too_few(self, model):
        with pytest.raises(ValueError, match="targets: are 1 for 2 texts"):
            model.score(["a", "b"], ["c"], "one")

    def test_another_backbone(self, source_run):
        with pytest.raises(
            ValueError, match=rf"{source_run}: the prompt was trained with .* token_dim 32, tiny has 128"
        ):
            PromptedModel.load(source_run, "tiny")

    def test_weights(self, make_config, tmp_path):
        config = make_config(
            "target", ["one"], method__name="full", prompt__form="independent", prompt__init="RANDOM",
            trainer__max_steps=1,
        )  # fmt: skip
        train(config, tmp_path / "run")
        assert read_metrics(tmp_path / "run")
        with pytest.raises(ValueError, match=r"adapter: holds weights, not prompts; load LoRA with peft"):
            PromptedModel.load(tmp_path / "run")

    def test_nothing(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="no saved prompt"):
            PromptedModel.load(tmp_path)
