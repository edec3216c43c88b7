"""lm-evaluation-harness with a trained prompt: its answers and scores are ours."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("lm_eval")

import torch
from lm_eval import simple_evaluate
from lm_eval.api.instance import Instance
from lm_eval.tasks import TaskManager

from mpt import PromptedModel
from mpt.errors import UserError
from mpt.lm_eval.model import PromptedLM

ANSWERED = """task: {name}
dataset_path: json
dataset_kwargs:
  data_files:
    test: {file}
test_split: test
output_type: generate_until
doc_to_text: "{{{{input}}}}"
doc_to_target: "{{{{prediction}}}}"
generation_kwargs:
  until: ["\\n"]
  max_gen_toks: 8
metric_list:
  - metric: exact_match
    ignore_case: true
"""
CHOSEN = """task: {name}
dataset_path: json
dataset_kwargs:
  data_files:
    test: {file}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{input}}}}"
doc_to_choice: ["red", "green green", "blue"]
doc_to_target: "{{{{chosen}}}}"
metric_list:
  - metric: acc
"""


@pytest.fixture(scope="module")
def harness_tasks(source_run, tmp_path_factory):
    """Two tasks of the harness over what the run has answered: its answers, and the choices that it finds likeliest."""
    folder = tmp_path_factory.mktemp("harness")
    lines = [json.loads(line) for line in (source_run / "predictions" / "one.jsonl").read_text().splitlines()]
    texts = [line["input"] for line in lines]
    choices = ["red", "green green", "blue"]
    chosen = PromptedModel.load(source_run).generate(texts, "one", choices=choices, answers="likelihood")
    rows = [
        {"input": line["input"], "prediction": line["prediction"], "chosen": choices.index(choice)}
        for line, choice in zip(lines, chosen, strict=True)
    ]
    file = folder / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "answered.yaml").write_text(ANSWERED.format(name="answered", file=file))
    (folder / "chosen.yaml").write_text(CHOSEN.format(name="chosen", file=file))
    return folder


def test_its_scores_are_ours(source_run, harness_tasks, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path))
    found = simple_evaluate(
        model="mpt",
        model_args={"prompt": str(source_run), "task": "one"},
        tasks=["answered", "chosen"],
        task_manager=TaskManager(include_path=str(harness_tasks), include_defaults=False),
        batch_size=4,
    )
    assert found["results"]["answered"]["exact_match,none"] == 1.0
    assert found["results"]["chosen"]["acc,none"] == 1.0


def requests(*arguments):
    return [Instance("generate_until", {}, each, place, ("t", place, 1)) for place, each in enumerate(arguments)]


TEXTS = ["the old king sold a red drum .", "anna lost two hats in the park .", "ben found a mill ."]


def test_likelihoods_are_those_of_score_and_greedy_is_what_is_answered(shipped_prompt):
    model, harness = PromptedModel.load(shipped_prompt), PromptedLM(str(shipped_prompt), "mt")
    answers = model.generate(TEXTS, "mt")
    assert all(answers)
    for targets, greedy in ((answers, True), ([answers[1], answers[2], "hat"], False)):
        pairs = [(text, f" {target}") for text, target in zip(TEXTS, targets, strict=True)]
        found = harness.loglikelihood(requests(*pairs))
        assert [each[0] for each in found] == pytest.approx(model.score(TEXTS, targets, "mt"), rel=1e-5)
        assert [each[1] for each in found] == [greedy] * 3


def test_an_answer_ends_where_the_task_says(shipped_prompt):
    harness = PromptedLM(str(shipped_prompt), "mt")
    whole = harness.generate_until(requests((TEXTS[0], {})))[0]
    middle = whole[len(whole) // 2]
    cut, other = harness.generate_until(
        requests((TEXTS[0], {"until": [middle, ""], "max_gen_toks": 50}), (TEXTS[0], {"until": "\n"}))
    )
    assert (cut, other) == (whole.split(middle)[0], whole)


def test_a_causal_model_is_asked_alike(causal_run):
    model, harness = PromptedModel.load(causal_run), PromptedLM(str(causal_run), "two", batch_size=2)
    texts, targets = ["say red", "say blue or green", "say black"], ["red", "green green", "white"]
    found = harness.loglikelihood(
        requests(*[(text, f" {target}") for text, target in zip(texts, targets, strict=True)])
    )
    assert [each[0] for each in found] == pytest.approx(model.score(texts, targets, "two"), rel=1e-5)
    written = harness.generate_until(requests(*[(text, {"max_gen_toks": 6}) for text in texts]))
    assert written == model.generate(texts, "two", max_new_tokens=6)
    with torch.no_grad():
        for text, target, each in zip(texts, targets, found, strict=True):
            inputs, _ = model.backbone.tokenization.encode_inputs([text])
            ids, _ = model.backbone.tokenization.encode_targets([target])
            mask, task = torch.ones(1, len(inputs[0]), dtype=torch.long), torch.tensor([1])
            logits = model.logits(torch.tensor(inputs), mask, torch.tensor(ids), task)
            assert each[1] == (logits.argmax(-1).tolist() == ids)


def test_what_cannot_be_had_is_refused(source_run):
    with pytest.raises(UserError, match=r"task: is missing, and .* has several; add task= one of one, two"):
        PromptedLM(str(source_run))
    with pytest.raises(UserError, match="task: unknown 'three'"):
        PromptedLM(str(source_run), "three")
    with pytest.raises(UserError, match="asks for the likelihood of whole texts"):
        PromptedLM(str(source_run), "one").loglikelihood_rolling(requests(("a text",)))


@pytest.mark.slow
def test_the_command(source_run, harness_tasks, tmp_path):
    command = [
        sys.executable, "-W", "ignore", "-m", "mpt.lm_eval", "--model", "mpt",
        "--model_args", f"prompt={source_run},task=one", "--tasks", "answered", "--include_path", str(harness_tasks),
        "--output_path", str(tmp_path),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parent.parent)
    assert done.returncode == 0, done.stderr
    assert "|answered|" in done.stdout
    command[command.index(f"prompt={source_run},task=one")] = f"prompt={source_run}"
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parent.parent)
    assert done.returncode == 2
    assert "error: task: is missing" in done.stderr
