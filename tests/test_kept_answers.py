"""The validation's answers of the best step are kept: what they would be if they were given again."""

import signal

import pytest

import mpt.training.results as results
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

    def note(module, split, doing):
        asked.append(split)
        return own(module, split, doing)

    monkeypatch.setattr(results, "_answer", note)
    assert train(config, tmp_path / "stopped")["validation"] == whole["validation"]
    assert asked == ["test"]


def test_mixed_precision_gives_them_again(make_config, tmp_path):
    run = type("Run", (), {"config": make_config("source", ["one"], trainer__precision="bf16-mixed")})()
    run.parts = type("Parts", (), {"best": type("Best", (), {"texts": {"one": []}})()})()
    module = type("Module", (), {"data": type("Data", (), {"examples_of": lambda self, split: {"one": []}})()})()
    assert results.kept_answers(run, module) is None
