"""The validation's answers of the best step are kept: what they would be if they were given again."""

import json
import signal

import pytest

import mpt.training.results as results
from mpt.backbone import FrozenModel
from mpt.training.module import MPTModule
from mpt.training.train import train


@pytest.mark.parametrize("best", ["average", "task"])
def test_the_best_steps_answers_are_those_that_it_would_give_again(make_config, tmp_path, monkeypatch, best):
    changes = {"prompt__form": "independent", "mixture__sampling": "each", "evaluation__best": best}
    config = make_config("source", ["one", "two"], trainer__max_steps=6, evaluation__validate_every=2, **changes)
    kept = []
    own = results.kept_answers

    def note(run, module):
        kept.append(own(run, module))

    monkeypatch.setattr(results, "kept_answers", note)  # nothing is taken, so that they are given again
    again = train(config, tmp_path / "again")
    monkeypatch.setattr(results, "kept_answers", own)
    taken = train(config, tmp_path / "taken")
    assert kept[0] is not None
    assert taken["validation"] == again["validation"]
    assert taken["test"] == again["test"]


def test_they_survive_an_interruption(make_config, tmp_path, monkeypatch):
    still = {"optim__lr_prompt": 0.0, "optim__lr_factors": 0.0}  # the first step stays the best
    config = make_config("source", ["one", "two"], trainer__max_steps=6, evaluation__validate_every=2, **still)
    whole = train(config, tmp_path / "whole")
    step = MPTModule.training_step

    def interrupted(self, batch, batch_idx):
        if self.global_step == 4:
            signal.raise_signal(signal.SIGTERM)
        return step(self, batch, batch_idx)

    monkeypatch.setattr(MPTModule, "training_step", interrupted)
    with pytest.raises(SystemExit):
        train(config, tmp_path / "stopped")
    monkeypatch.setattr(MPTModule, "training_step", step)
    asked = []
    own = results._answer

    def note(module, split, *rest):
        asked.append(split)
        return own(module, split, *rest)

    monkeypatch.setattr(results, "_answer", note)
    assert train(config, tmp_path / "stopped")["validation"] == whole["validation"]
    assert asked == ["test"]


def test_mixed_precision_gives_them_again(make_config, tmp_path):
    run = type("Run", (), {"config": make_config("source", ["one"], trainer__precision="bf16-mixed")})()
    run.parts = type("Parts", (), {"best": type("Best", (), {"texts": {"one": []}})()})()
    module = type("Module", (), {"data": type("Data", (), {"examples_of": lambda self, split: {"one": []}})()})()
    assert results.kept_answers(run, module) is None


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MPT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "answers"


class TestOnTheDisk:
    def test_the_oracle_is_asked_once_for_the_same_questions(self, make_config, tmp_path, cache, monkeypatch, capsys):
        rows = []
        generate = FrozenModel.generate

        def count(self, inputs, *arguments, **settings):
            if inputs.prompts is None:
                rows.append(len(inputs))
            return generate(self, inputs, *arguments, **settings)

        monkeypatch.setattr(FrozenModel, "generate", count)
        first = train(make_config("source", ["one"]), tmp_path / "first")
        assert sum(rows) == first["test"]["one"]["n"]
        again = train(make_config("source", ["one"], seed=1), tmp_path / "again")
        assert sum(rows) == first["test"]["one"]["n"]
        assert again["test"]["one"]["oracle"] == first["test"]["one"]["oracle"]
        assert "oracle: answers as kept in " in capsys.readouterr().out
        # Other rows, another way to answer, another prefix: other questions.
        for number, changes in enumerate(({"evaluation__test_rows": 2}, {}, {})):
            config = make_config("source", ["one"], **changes)
            if number == 1:
                config.tasks["one"].max_target_tokens = 3
            if number == 2:
                config.tasks["one"].prefix = "other "
            rows.clear()
            train(config, tmp_path / f"other-{number}")
            assert rows, number
        rows.clear()
        train(make_config("source", ["one"], evaluation__keep_answers=False), tmp_path / "anew")
        assert rows

    def test_a_method_that_trains_nothing_answers_from_it(self, make_config, tmp_path, cache, monkeypatch):
        own = {"method__name": "in_context", "prompt__form": "independent", "prompt__init": "RANDOM", "few_shot__k": 2}
        first = train(make_config("target", ["one"], **own), tmp_path / "first")
        monkeypatch.setattr(FrozenModel, "generate", lambda *_, **__: pytest.fail("answered again"))
        again = train(make_config("target", ["one"], **own), tmp_path / "again")
        assert again["test"] == first["test"]
        lines = [(tmp_path / name / "predictions" / "one.jsonl").read_text() for name in ("first", "again")]
        assert lines[0] == lines[1]

    def test_a_damaged_file_is_said_and_replaced(self, make_config, tmp_path, cache):
        first = train(make_config("source", ["one"]), tmp_path / "first")
        (path,) = cache.glob("*.json")
        path.write_text("{")
        with pytest.warns(UserWarning, match=r"damaged .*so the answers are given again"):
            again = train(make_config("source", ["one"], seed=1), tmp_path / "again")
        assert again["test"]["one"]["oracle"] == first["test"]["one"]["oracle"]
        assert json.loads(path.read_text())["one"]

    def test_a_cache_that_cannot_be_written_costs_no_run(self, make_config, tmp_path, monkeypatch):
        (tmp_path / "cache").write_text("a file")
        monkeypatch.setenv("MPT_CACHE", str(tmp_path / "cache"))
        with pytest.warns(UserWarning, match=r"answers cannot be kept there .*MPT_CACHE names another folder"):
            assert "oracle" in train(make_config("source", ["one"]), tmp_path / "run")["test"]["one"]
