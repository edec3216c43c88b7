"""Methods that write around inputs and train nothing: their answers are the backbone's own to the same texts."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch

from mpt import PromptedModel
from mpt.answering.evaluating import evaluate
from mpt.backbone import load_backbone
from mpt.cli.check import check
from mpt.methods import Written
from mpt.methods.in_context import InContext
from mpt.methods.instruction import Instruction
from mpt.run.record import read_metrics
from mpt.tasks import Example, load_split
from mpt.training.train import train
from tests.test_fused import together


def predictions(folder: Path, task: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "predictions" / f"{task}.jsonl").read_text().splitlines()]


@pytest.fixture
def in_context(make_config):
    def build(**changes):
        own = {"method__name": "in_context", "prompt__form": "independent", "prompt__init": "RANDOM", "few_shot__k": 2}
        return make_config("target", ["one", "two"], **own | changes)

    return build


class TestInContext:
    def test_answers_are_the_backbones_own_to_the_examples_and_the_input(self, in_context, tmp_path):
        config = in_context(seed=3)
        metrics = train(config, tmp_path / "run")
        backbone = load_backbone(config.backbone).eval()
        drawn = json.loads((tmp_path / "run" / "draws.json").read_text())
        for task in ("one", "two"):
            rows = {each.row_id: each for each in load_split(task, config.tasks[task], "train", None)}
            shown = [rows[row_id] for row_id in drawn["train"][task]]
            random.Random(3).shuffle(shown)
            before = "".join(f"{each.input}\n{each.target}\n\n" for each in shown)
            for line in predictions(tmp_path / "run", task)[:3]:
                ids = backbone.tokenizer([before + line["input"]], return_tensors="pt")["input_ids"]
                found = backbone.model.generate(
                    ids, max_new_tokens=config.tasks[task].max_target_tokens, do_sample=False
                )
                assert backbone.tokenization.decode(found) == [line["prediction"]]
                assert before not in line["input"]
        assert metrics["parameters"]["trained"] == metrics["steps"] == 0
        assert "before" not in metrics["test"]["one"]

    def test_served_evaluated_and_fused_it_answers_alike(self, in_context, make_config, tmp_path):
        configs = [in_context(), make_config("target", ["one", "two"], prompt__init="RANDOM", few_shot__k=2)]
        train(configs[0], tmp_path / "alone")
        results = together(configs, [tmp_path / "fused", tmp_path / "control"])
        assert not [each for each in results if isinstance(each, BaseException)]
        model = PromptedModel.load(tmp_path / "alone")
        config = make_config("evaluate", ["one", "two"], source=str(tmp_path / "alone"))
        evaluate(config, tmp_path / "again")
        for task in ("one", "two"):
            lines = predictions(tmp_path / "alone", task)
            assert predictions(tmp_path / "fused", task) == lines
            assert predictions(tmp_path / "again", task) == lines
            texts, answers = [line["input"] for line in lines], [line["prediction"] for line in lines]
            assert model.generate(texts, task) == answers
        assert read_metrics(tmp_path / "again")["test"].keys() == {"one", "two", "average"}

    def test_as_many_examples_as_fit_are_shown(self, backbone):
        examples = [Example(str(row), f"text {row}", f"answer {row}", (f"answer {row}",)) for row in range(5)]
        texts = [f"{each.input}\n{each.target}\n\n" for each in examples]
        sizes = [
            len(backbone.tokenizer("".join(texts[:count]) + "the longest input")["input_ids"]) for count in range(6)
        ]
        for count in range(1, 6):
            found = InContext._fitting(texts, ["short", "the longest input"], sizes[count], written(backbone, examples))
            assert found == count
        assert InContext._fitting(texts, ["the longest input"], sizes[1] - 1, written(backbone, examples)) == 0

    def test_none_that_fits_is_refused(self, in_context, tmp_path):
        config = in_context(method__own={"max_tokens": 6})
        with pytest.raises(ValueError, match=r"tasks.one: not one example fits before its longest input into 6 tokens"):
            train(config, tmp_path / "run")

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"few_shot__k": None}, "few_shot.k: is null, and method=in_context writes k examples"),
            ({"method__own": {"example": "{input}"}}, "method.own.example: is '{input}'; it must have {target} once"),
            ({"method__own": {"max_tokens": 0}}, "method.own.max_tokens: is 0; it must be at least 1"),
            ({"method__own": {"maximum": 1}}, "method.own.maximum: is 1, but method.name=in_context has no such key"),
        ],
    )
    def test_what_is_wrong_is_said(self, in_context, changes, message):
        assert any(message in error for error in check(in_context(**changes)))

    def test_braces_in_the_data_stay_text(self):
        example = Example("0", "a {target} b", "c {input}", ("c {input}",))
        assert InContext._write("Q: {input} A: {target}.", example) == "Q: a {target} b A: c {input}."
        assert InContext._write("{target} <- {input}", example) == "c {input} <- a {target} b"


def written(backbone, examples) -> Written:
    return Written({"one": examples}, {"one": []}, backbone.tokenization, None, 0)


@pytest.fixture
def backbone(tiny_t5_folder):
    from mpt.config import BackboneConfig

    return load_backbone(BackboneConfig("tiny", path=str(tiny_t5_folder))).eval()


class TestInstruction:
    def test_answers_are_the_backbones_own_to_the_instruction_and_the_input(self, make_config, tmp_path):
        own = {"method__name": "instruction", "prompt__form": "independent", "prompt__init": "RANDOM"}
        config = make_config("target", ["one"], **own, method__own={"template": "say {input} now"})
        train(config, tmp_path / "run")
        backbone = load_backbone(config.backbone).eval()
        for line in predictions(tmp_path / "run", "one")[:4]:
            ids = backbone.tokenizer([f"say {line['input']} now"], return_tensors="pt")["input_ids"]
            with torch.no_grad():
                found = backbone.model.generate(
                    ids, max_new_tokens=config.tasks["one"].max_target_tokens, do_sample=False
                )
            assert backbone.tokenization.decode(found) == [line["prediction"]]

    def test_the_natural_prefix_is_the_oracle(self, make_config, tmp_path):
        config = make_config(
            "target", ["one"], method__name="instruction", prompt__form="independent", prompt__init="RANDOM"
        )
        assert config.tasks["one"].prefix is not None
        scores = train(config, tmp_path / "run")["test"]["one"]
        assert scores["score"] == scores["oracle"]

    @pytest.mark.parametrize(
        ("template", "message"),
        [
            ("say it", "it must have {input} once"),
            ("{prefix}{input}", "tasks.one has no prefix; write the instruction"),
        ],
    )
    def test_what_is_wrong_is_said(self, make_config, template, message):
        config = make_config(
            "target", ["one"], method__name="instruction", prompt__form="independent", prompt__init="RANDOM"
        )
        config.method.own = {"template": template}
        config.tasks["one"].prefix = None
        assert any(message in error for error in check(config))

    def test_it_reads_as_much_of_an_input_as_without(self, make_config, backbone):
        config = make_config(
            "target", ["one"], method__name="instruction", prompt__form="independent", prompt__init="RANDOM"
        )
        config.method.own = {"template": "say {input}"}
        found = Instruction.surround(config, written(backbone, []))["one"]
        assert (found.before, found.after) == ("say ", "")
        assert found.longest is not None
        assert found.longest > config.tasks["one"].max_source_tokens
