"""Whole runs on a tiny random backbone: what they leave, what they start from, that they go on exactly."""

import csv
import dataclasses
import json
import math
import re
import shutil
import signal
from typing import Any, ClassVar

import pytest
import torch
from safetensors.torch import load_file, save_file

from mpt.answering.answers import condition
from mpt.artifact import load_prompt
from mpt.backbone import load_backbone
from mpt.run.folder import RunFolder, read_config
from mpt.run.record import read_metrics
from mpt.training import similarity
from mpt.training.build import build_prompt
from mpt.training.loading import load
from mpt.training.module import MPTModule
from mpt.training.train import train
from tests.runs import assert_equal, curves, tensors


@pytest.fixture(scope="session")
def teachers(make_config, tmp_path_factory):
    """One run of teachers for all tests that only read it."""
    folder = tmp_path_factory.mktemp("runs") / "teachers"
    config = make_config("teachers", **as_teachers())
    train(config, folder)
    return folder


class TestWhatARunLeaves:
    def test_files(self, source_run):
        assert {path.name for path in source_run.iterdir()} == {
            "config.yaml",
            "prompt",
            "metrics.json",
            "metrics.csv",
            "similarity.csv",
            "similarity.png",
            "predictions",
            "checkpoints",
        }
        prompt = {path.name for path in (source_run / "prompt").iterdir()}
        assert prompt == {"adapter_config.json", "adapter_model.safetensors", "mpt.json"}

    def test_metrics(self, source_run):
        metrics = read_metrics(source_run)
        for name in ("one", "two"):
            row = metrics["test"][name]
            assert row["n"] == 5
            assert {"score", "before", "oracle", "exact_match", "token_f1"} <= row.keys()
            assert row["score"] == row["exact_match"]
        assert {"n", "n_available", "score", "before", "oracle"} == metrics["test"]["average"].keys()
        assert metrics["test"]["average"]["n"] == 10
        assert metrics["validation"]["two"]["n"] == 5
        assert metrics["moved"].keys() == {"prompt", "one", "two"}
        assert all(share > 0 for share in metrics["moved"].values())
        assert metrics["steps"] == 6
        assert metrics["parameters"]["trained"] == metrics["parameters"]["total"]
        assert metrics["truncated"]["train"]["one"] == {"input": 0.0, "target": 0.0}

    def test_predictions(self, source_run):
        lines = (source_run / "predictions" / "one.jsonl").read_text().splitlines()
        rows = [json.loads(line) for line in lines]
        assert [row["row_id"] for row in rows] == [f"test:{index}" for index in range(5)]
        assert rows[0]["input"] == "say red"
        assert rows[0]["references"] == ["red"]
        assert rows[0]["scores"].keys() == {"exact_match", "token_f1"}

    def test_curves(self, source_run):
        with (source_run / "metrics.csv").open() as file:
            lines = list(csv.DictReader(file))
        assert [int(line["step"]) for line in lines if line["train/loss"]] == [1, 2, 3, 4, 5, 6]
        assert [int(line["step"]) for line in lines if line["validation/average/score"]] == [3, 6]
        assert all(line["lr/prompt"] for line in lines if line["train/loss"])

    def test_similarity_of_the_tasks(self, source_run):
        with (source_run / "similarity.csv").open() as file:
            lines = list(csv.reader(file))
        assert [line[0] for line in lines] == ["task", "one", "two"]
        there = tensors(source_run)
        one, two = (there["prefix_task_cols"] @ there["prefix_task_rows"]).flatten(1)
        expected = torch.nn.functional.cosine_similarity(one, two, dim=0).item()
        assert float(lines[1][2]) == float(lines[2][1]) == pytest.approx(expected, abs=2e-6)
        assert (source_run / "similarity.png").read_bytes().startswith(b"\x89PNG")

    def test_config(self, source_run, make_config):
        config, run = read_config(source_run) or ({}, {})
        assert config == dataclasses.asdict(make_config())
        assert run["versions"]["torch"] == torch.__version__

    def test_peft_finds_the_backbone(self, source_run, tiny_t5_folder):
        about = json.loads((source_run / "prompt" / "adapter_config.json").read_text())
        assert about["base_model_name_or_path"] == str(tiny_t5_folder)

    def test_prompt_knows_its_tasks_and_backbone(self, source_run, tiny_t5_folder, make_config):
        saved = load_prompt(source_run)
        assert saved.task_names == ["one", "two"]
        assert saved.task_weights == {"one": 1.0, "two": 1.0}
        assert saved.backbone["fingerprint"] == load_backbone(make_config().backbone).fingerprint


class TestTarget:
    def test_draw_is_kept(self, source_run, make_config, tmp_path):
        config = make_config("target", ["two"], source=str(source_run), few_shot__k=2, **average())
        metrics = train(config, tmp_path / "run")
        draws = json.loads((tmp_path / "run" / "draws.json").read_text())
        assert draws.keys() == {"train", "validation", "digests"}
        assert len({*draws["train"]["two"], *draws["validation"]["two"]}) == 4
        assert all(row_id.startswith("train:") for row_id in draws["train"]["two"])
        assert metrics["validation"]["two"]["n"] == 2
        assert metrics["test"].keys() == {"two", "average"}

    def test_frozen_prompt_stays_that_of_the_source(self, source_run, make_config, tmp_path):
        changes = average() | {"prompt__freeze_shared": True}
        config = make_config("target", ["two"], source=str(source_run), **changes)
        metrics = train(config, tmp_path / "run")
        before, after = tensors(source_run), tensors(tmp_path / "run")
        assert torch.equal(before["prompt_embeddings"], after["prompt_embeddings"])
        assert not torch.equal(before["prefix_task_cols"].mean(0)[None], after["prefix_task_cols"])
        assert metrics["moved"]["prompt"] == 0.0

    @pytest.mark.parametrize(
        ("init", "expected"),
        [
            ({"init": "AVERAGE_SOURCE_TASKS"}, lambda cols: cols.mean(0)),
            ({"init": "EXACT_SOURCE_TASK", "init_task": "two"}, lambda cols: cols[1]),
        ],
    )
    def test_start_is_that_of_the_source(self, source_run, make_config, init, expected):
        changes = {f"prompt__{key}": value for key, value in init.items()}
        config = make_config("target", ["new", "newer"], source=str(source_run), **changes)
        prompt = prompt_of(config, load_backbone(config.backbone), load_prompt(source_run))
        there = tensors(source_run)
        assert torch.equal(prompt.embedding.weight, there["prompt_embeddings"])
        for cols in prompt.prefix_task_cols:
            assert torch.equal(cols, expected(there["prefix_task_cols"]))

    def test_nearest_task_is_the_one_whose_rows_these_are(self, source_run, make_config, tmp_path):
        changes = {"prompt__init": "NEAREST_SOURCE_TASK", "trainer__max_steps": 1, "few_shot__k": 2}
        config = make_config("target", ["one", "two"], source=str(source_run), **changes)
        metrics = train(config, tmp_path / "run")
        saved = load_prompt(source_run)
        for task, weights in metrics["source_weights"].items():
            assert sorted(weights.values()) == [0.0, 1.0]
            # The same by another way: each source task's own adaptation run of no training, on all training rows.
            losses = {}
            for name in saved.task_names:
                exact = make_config("target", [task], source=str(source_run), **(changes | {
                    "prompt__init": "EXACT_SOURCE_TASK", "prompt__init_task": name}))  # fmt: skip
                backbone = load_backbone(exact.backbone)
                prompt = prompt_of(exact, backbone, saved)
                data = load(exact).data
                module = MPTModule(backbone, prompt, data, list(exact.tasks.values()), exact.optim, 1).eval()
                (batch,) = data.eval_loader("train")
                inputs = condition(module.adapter, backbone, batch)
                losses[name] = backbone.example_losses(inputs, batch["labels"]).sum().item()
            assert weights[min(losses, key=losses.get)] == 1.0

    def test_extended_prompt_answers_the_old_tasks_to_the_last_bit(self, source_run, make_config, tmp_path):
        changes = average() | {"prompt__freeze_shared": True, "prompt__extend": True}
        run = tmp_path / "run"
        config = make_config("target", ["three"], source=str(source_run), **changes)
        config.tasks["three"].rows.files = config.tasks["three"].rows.files.replace("three", "two")
        train(config, run)
        old, extended = load_prompt(source_run), load_prompt(run)
        assert extended.task_names == ["one", "two", "three"]
        assert extended.task_weights == {"one": 1.0, "two": 1.0, "three": 1.0}
        assert torch.equal(extended.prompt.prompts()[:2], old.prompt.prompts())
        assert torch.equal(extended.prompt.prompts()[2], self.alone(make_config, source_run, tmp_path, config))
        for tasks, more, message in (
            (["two"], {}, "two"),
            (["three"], {"prompt__num_ranks": 3}, "num_ranks: is 2 in one prompt and 3 in the other"),
        ):
            refused = make_config("target", tasks, source=str(source_run), **(changes | more))
            with pytest.raises(ValueError, match=rf"prompt\.extend: .* cannot take the new tasks: .*{message}"):
                prompt_of(refused, load_backbone(refused.backbone), load_prompt(source_run))

    def alone(self, make_config, source_run, tmp_path, config):
        """The new task's prompt from the same run without extending."""
        config.prompt.extend = False
        train(config, tmp_path / "alone")
        return load_prompt(tmp_path / "alone").prompt.prompts()[0]

    def test_another_rank_of_the_same_source(self, source_run, make_config, tmp_path):
        changes = average() | {"prompt__num_ranks": 3, "trainer__max_steps": 1}
        train(make_config("target", ["two"], source=str(source_run), **changes), tmp_path / "run")
        assert tensors(tmp_path / "run")["prefix_task_cols"].shape[2] == 3

    def test_a_fresh_prompt_is_a_baseline(self, make_config, tmp_path):
        config = make_config("target", ["one"], prompt__form="independent", prompt__init="RANDOM")
        metrics = train(config, tmp_path / "run")
        assert metrics["parameters"]["ratio"] == 1.0

    def test_another_backbone_is_refused(self, source_run, make_config, tmp_path, tiny_t5_folder):
        other = copy_with_other_weights(tiny_t5_folder, tmp_path / "other")
        config = make_config("target", ["one"], source=str(source_run), backbone__path=str(other), **average())
        with pytest.raises(ValueError, match=r"fingerprint .*only with the backbone it was trained with"):
            train(config, tmp_path / "run")
        assert not (tmp_path / "run").exists()

    def test_another_length_is_refused(self, source_run, make_config, tmp_path):
        changes = average() | {"prompt__num_virtual_tokens": 7}
        config = make_config("target", ["one"], source=str(source_run), **changes)
        with pytest.raises(ValueError, match=r"has 4 tokens, .* is 7; use prompt\.num_virtual_tokens=4"):
            train(config, tmp_path / "run")

    def test_a_folder_without_a_prompt_is_refused(self, make_config, tmp_path):
        config = make_config("target", ["one"], source=str(tmp_path), **average())
        with pytest.raises(FileNotFoundError, match="no saved prompt"):
            train(config, tmp_path / "run")

    def test_a_finished_run_notices_that_its_source_is_another(self, source_run, make_config, tmp_path):
        config = make_config("target", ["one"], source=str(tmp_path / "source"), **average())
        (tmp_path / "source").mkdir()
        for path in (source_run / "prompt").iterdir():
            (tmp_path / "source" / path.name).write_bytes(path.read_bytes())
        train(config, tmp_path / "run")
        values = dataclasses.asdict(config)
        assert RunFolder(tmp_path / "run").finished(values) is not None
        (tmp_path / "source" / "adapter_model.safetensors").write_bytes(b"another")
        with pytest.raises(ValueError, match=r"before that was trained anew; overwrite=true"):
            RunFolder(tmp_path / "run").finished(values)

    @pytest.mark.parametrize("kind", ["safetensors", "pt"])
    def test_a_file_of_tensors_is_a_source(self, source_run, make_config, tmp_path, kind):
        path = tmp_path / f"source.{kind}"
        (save_file if kind == "safetensors" else torch.save)(tensors(source_run), path)
        changes = {"prompt__init": "EXACT_SOURCE_TASK", "prompt__init_task": "task_1", "trainer__max_steps": 1}
        config = make_config("target", ["two"], source=str(path), **changes)
        prompt = prompt_of(config, load_backbone(config.backbone), load_prompt(path))
        assert torch.equal(prompt.prompts()[0], load_prompt(source_run).prompt.prompts()[1])
        assert train(config, tmp_path / "run")["steps"] == 1
        assert RunFolder(tmp_path / "run").finished(dataclasses.asdict(config)) is not None

    def test_a_file_with_the_shared_prompt_alone(self, source_run, make_config, tmp_path):
        shared = tensors(source_run)["prompt_embeddings"]
        save_file({"prompt_embeddings": shared}, tmp_path / "shared.safetensors")
        changes = {"prompt__init": "ONLY_SOURCE_SHARED", "source": str(tmp_path / "shared.safetensors")}
        config = make_config("target", ["one", "two"], **changes)
        given = load_prompt(tmp_path / "shared.safetensors")
        prompt = prompt_of(config, load_backbone(config.backbone), given)
        assert torch.equal(prompt.embedding.weight, shared)

    def test_groups_of_targets_start_from_the_same_p_and_go_apart(self, source_run, make_config, tmp_path):
        groups = {"prompt__groups": [["a", "c"], ["b"]], "source": str(source_run)}
        config = make_config("target", ["a", "b", "c"], **average(), **groups)
        for name in ("a", "b", "c"):
            config.tasks[name].rows.files = config.tasks["a"].rows.files.replace("/a", "/one")
        prompt = prompt_of(config, load_backbone(config.backbone), load_prompt(source_run))
        assert prompt.task_groups.tolist() == [0, 1, 0]
        for group in prompt.embedding.weight.view(2, 4, -1):
            assert torch.equal(group, tensors(source_run)["prompt_embeddings"])
        train(config, tmp_path / "run")
        first, second = load_prompt(tmp_path / "run").prompt.embedding.weight.view(2, 4, -1)
        assert not torch.equal(first, second)

    @pytest.mark.parametrize("init", ["NEAREST_SOURCE_TASK", "WEIGHTED_SOURCE_TASKS"])
    def test_similar_source_prompts_start_a_plain_target(self, make_config, tmp_path, init):
        library = train(make_config(prompt__form="independent"), tmp_path / "library")
        assert library["parameters"]["ratio"] == 1.0
        changes = {"form": "independent", "init": init, "source_scores": "similarity", "embedding_steps": 2}
        changes = {f"prompt__{key}": value for key, value in changes.items()}
        config = make_config("target", ["two"], source=str(tmp_path / "library"), **changes)
        metrics = train(config, tmp_path / "run")
        weights = metrics["source_weights"]["two"]
        assert sum(weights.values()) == pytest.approx(1.0)
        assert (max(weights.values()) == 1.0) == (init == "NEAREST_SOURCE_TASK")

    def test_the_generic_prompt_of_a_mixture_starts_a_plain_target(self, make_config, tmp_path):
        train(make_config(prompt__form="single"), tmp_path / "generic")
        saved = load_prompt(tmp_path / "generic").prompt
        assert torch.equal(*saved.prompts())
        assert not (tmp_path / "generic" / "similarity.csv").exists()
        changes = {"prompt__form": "independent", "prompt__init": "ONLY_SOURCE_SHARED"}
        config = make_config("target", ["one", "two"], source=str(tmp_path / "generic"), **changes)
        prompt = prompt_of(config, load_backbone(config.backbone), load_prompt(tmp_path / "generic"))
        for own in prompt.prompts():
            assert torch.equal(own, saved.prompts()[0])


METHODS: dict[str, dict[str, Any]] = {
    "attempt": {"name": "attempt", "num_ranks": 3},
    "dept": {"name": "dept", "num_ranks": 2},
    "adept": {"name": "adept", "num_ranks": 2},
    "ulpt": {"name": "ulpt", "num_ranks": 2},
    "lora": {"name": "lora", "num_ranks": 2, "modules": ["q", "v"]},
    "full": {"name": "full"},
}


def method(name, source_run):
    changes = {f"method__{key}": value for key, value in METHODS[name].items()}
    if name == "attempt":
        changes["source"] = str(source_run)
    return changes | {"prompt__form": "independent", "prompt__init": "RANDOM"}


class TestMethods:
    @pytest.mark.parametrize("name", METHODS)
    def test_leaves_an_adapter_in_place_of_a_prompt(self, name, make_config, source_run, tmp_path):
        config = make_config("target", ["one"], **method(name, source_run))
        metrics = train(config, tmp_path / "run")
        assert not (tmp_path / "run" / "prompt").exists()
        assert (tmp_path / "run" / "adapter").is_dir()
        assert metrics["parameters"]["trained"] > 0
        assert metrics["parameters"]["frozen"] == (0 if name == "full" else metrics["parameters"]["frozen"])
        assert all(moved > 0 for moved in metrics["moved"].values())
        assert {"score", "before", "oracle"} <= metrics["test"]["one"].keys()

    @pytest.mark.parametrize("name", METHODS)
    def test_every_logger_takes_every_method(self, name, make_config, source_run, tmp_path):
        import warnings

        loggers = {"logger__wandb": True, "logger__wandb_mode": "offline", "logger__tensorboard": True}
        config = make_config("target", ["one"], **method(name, source_run), **loggers, trainer__max_steps=1)
        with warnings.catch_warnings():
            warnings.filterwarnings("error", "loggers: ")
            train(config, tmp_path / "run")
        assert (tmp_path / "run" / "metrics.json").is_file()
        # The artifact's files lie with the run.
        assert list((tmp_path / "run" / "wandb").rglob("artifacts/staging/*"))

    @pytest.mark.parametrize("name", METHODS)
    def test_an_interrupted_run_ends_as_a_whole_one(self, name, make_config, source_run, tmp_path, monkeypatch):
        config = make_config("target", ["one"], **method(name, source_run))
        train(config, tmp_path / "whole")
        step = MPTModule.training_step

        def interrupted(self, batch, batch_idx):
            if self.global_step == 4:
                signal.raise_signal(signal.SIGTERM)
            return step(self, batch, batch_idx)

        monkeypatch.setattr(MPTModule, "training_step", interrupted)
        with pytest.raises(SystemExit):
            train(config, tmp_path / "run")
        monkeypatch.setattr(MPTModule, "training_step", step)
        train(config, tmp_path / "run")
        (file,) = (tmp_path / "run" / "adapter").glob("*.safetensors")
        assert_equal(load_file(file), load_file(tmp_path / "whole" / "adapter" / file.name))

    def test_the_oracle_is_that_of_the_untouched_backbone(self, make_config, source_run, tmp_path):
        config = make_config("target", ["one"], **method("full", source_run))
        prompt = make_config("target", ["one"], prompt__init="RANDOM")
        full, mpt = (train(each, tmp_path / name) for name, each in (("f", config), ("p", prompt)))
        assert full["test"]["one"]["oracle"] == mpt["test"]["one"]["oracle"]


class TestSideBySide:
    @pytest.mark.parametrize("form", ["independent", "product"])
    def test_tasks_side_by_side_equal_each_alone(self, form, make_config, tmp_path):
        shared = {
            "prompt__form": form,
            "prompt__init": "TEXT",
            "prompt__init_text": "say a word",
            "prompt__factor_std": 0.0,
            "backbone__dropout": False,
            "evaluation__best": "task",
            "evaluation__validate_every": 2,
            "mixture__sampling": "each",
            "few_shot__k": 2,
        }
        own = {} if form == "independent" else {"prompt__groups": [["one"], ["two"]]}
        both = train(make_config("target", ["one", "two"], **shared, **own), tmp_path / "both")
        together = load_prompt(tmp_path / "both").prompt.prompts()
        for task, name in enumerate(("one", "two")):
            alone = train(make_config("target", [name], **shared), tmp_path / name)
            prompt = load_prompt(tmp_path / name).prompt.prompts()[0]
            torch.testing.assert_close(together[task], prompt, atol=1e-5, rtol=1e-4)
            assert both["best_step"][name] == alone["best_step"][name]
            assert both["test"][name] == alone["test"][name]


class TestDistillation:
    def test_a_teacher_is_what_it_would_be_alone(self, teachers, make_config, tmp_path):
        both = load_prompt(teachers).prompt
        assert both.config.form == "independent"
        for task, name in enumerate(("one", "two")):
            config = make_config("teachers", [name], **as_teachers())
            metrics = train(config, tmp_path / name)
            alone = load_prompt(tmp_path / name).prompt.prompts()[0]
            torch.testing.assert_close(both.prompts()[task], alone, atol=1e-5, rtol=1e-4)
            assert read_metrics(teachers)["best_step"][name] == metrics["best_step"][name]

    def test_a_source_learns_from_its_teachers(self, teachers, make_config, source_run, tmp_path):
        config = make_config(distill=str(teachers))
        train(config, tmp_path / "run")
        assert not torch.equal(tensors(tmp_path / "run")["prompt_embeddings"], tensors(source_run)["prompt_embeddings"])
        header, first, *_ = csv.reader((tmp_path / "run" / "metrics.csv").open())
        line = dict(zip(header, first, strict=True))
        parts = [float(line[f"train/{name}"]) for name in ("one/loss", "two/loss")]
        parts += [0.9 * float(line[f"distillation/{name}"]) for name in ("logits", "hidden")]
        assert float(line["train/loss"]) == pytest.approx(sum(parts), rel=1e-5)

    def test_the_cache_changes_nothing(self, teachers, make_config, tmp_path):
        for name, cache in (("live", None), ("cached", str(tmp_path / "cache"))):
            train(make_config(distill=str(teachers), distillation__cache=cache), tmp_path / name)
        live, cached = tensors(tmp_path / "live"), tensors(tmp_path / "cached")
        for name, tensor in live.items():
            torch.testing.assert_close(cached[name], tensor, atol=1e-4, rtol=1e-3)
        config = make_config(distill=str(teachers), distillation__cache="elsewhere")
        assert RunFolder(tmp_path / "live").finished(dataclasses.asdict(config)) is not None

    def test_a_finished_run_notices_that_its_teachers_are_others(self, teachers, make_config, tmp_path):
        shutil.copytree(teachers / "prompt", tmp_path / "teachers")
        config = make_config(distill=str(tmp_path / "teachers"), trainer__max_steps=1)
        train(config, tmp_path / "run")
        (tmp_path / "teachers" / "adapter_model.safetensors").write_bytes(b"another")
        with pytest.raises(ValueError, match=r"learned from .*teachers before that was trained anew"):
            RunFolder(tmp_path / "run").finished(dataclasses.asdict(config))


def prompt_of(config, backbone, source):
    """The prompt that a target starts with."""
    return build_prompt(list(config.tasks), config.prompt, backbone, source)


def as_teachers():
    return {"prompt__form": "independent", "mixture__sampling": "each", "evaluation__best": "task"} | {
        "backbone__dropout": False}  # fmt: skip


def average():
    return {"prompt__init": "AVERAGE_SOURCE_TASKS"}


def copy_with_other_weights(folder, place):
    shutil.copytree(folder, place)
    weights = {name: -tensor for name, tensor in load_file(place / "model.safetensors").items()}
    save_file(weights, place / "model.safetensors", metadata={"format": "pt"})
    return place


class TestExactness:
    def test_an_interrupted_run_ends_as_a_whole_one(self, make_config, source_run, tmp_path, monkeypatch):
        whole = MPTModule.training_step

        def interrupted(self, batch, batch_idx):
            if self.global_step == 4:
                signal.raise_signal(signal.SIGTERM)
            return whole(self, batch, batch_idx)

        monkeypatch.setattr(MPTModule, "training_step", interrupted)
        with pytest.raises(SystemExit) as stop:
            train(make_config(), tmp_path / "run")
        assert stop.value.code == 143
        assert RunFolder(tmp_path / "run").state(dataclasses.asdict(make_config())) == "unfinished"
        monkeypatch.setattr(MPTModule, "training_step", whole)
        train(make_config(), tmp_path / "run")
        assert_equal(tensors(tmp_path / "run"), tensors(source_run))
        assert curves(tmp_path / "run") == curves(source_run)

    def test_scoring_the_start_does_not_change_the_training(self, make_config, source_run, tmp_path):
        changes = {"evaluation__before": False, "evaluation__oracle": False}
        metrics = train(make_config(**changes), tmp_path / "run")
        assert_equal(tensors(tmp_path / "run"), tensors(source_run))
        assert metrics["test"]["one"].keys().isdisjoint({"before", "oracle"})

    def test_other_weights_of_the_backbone_are_refused(self, make_config, tmp_path, tiny_t5_folder, monkeypatch):
        def stopped(self, *_):
            raise KeyError("stop")

        backbone = shutil.copytree(tiny_t5_folder, tmp_path / "t5")
        config = make_config(backbone__path=str(backbone))
        with monkeypatch.context() as patch:
            patch.setattr("mpt.training.train.measure", stopped)
            with pytest.raises(KeyError):
                train(config, tmp_path / "run")
        shutil.rmtree(backbone)
        copy_with_other_weights(tiny_t5_folder, backbone)
        with pytest.raises(ValueError, match=r"began with other weights of .*; resume=never starts again"):
            train(config, tmp_path / "run")

    def test_resume_never_starts_again(self, make_config, source_run, tmp_path):
        shutil.copytree(source_run, tmp_path / "run")
        (tmp_path / "run" / "metrics.json").unlink()
        (tmp_path / "run" / "checkpoints" / "last.ckpt").write_bytes(b"of no use")
        train(make_config(resume="never"), tmp_path / "run")
        assert_equal(tensors(tmp_path / "run"), tensors(source_run))

    def test_dropout_is_the_backbones_to_say(self, make_config, source_run, tmp_path):
        train(make_config(backbone__dropout=False), tmp_path / "run")
        one, other = tensors(tmp_path / "run"), tensors(source_run)
        assert not torch.equal(one["prefix_task_cols"], other["prefix_task_cols"])


def test_the_end_is_validated_between_two_validations(make_config, tmp_path):
    train(make_config(trainer__max_steps=5, evaluation__before=False), tmp_path / "run")
    with (tmp_path / "run" / "metrics.csv").open() as file:
        validated = [int(line["step"]) for line in csv.DictReader(file) if line["validation/average/score"]]
    assert len(validated) == 2
    assert validated[-1] in (4, 5)


@pytest.mark.parametrize("broken", ["write_task_similarity", "log_results", "console.say_results"])
def test_results_come_before_what_decorates_them(broken, make_config, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise MemoryError("42,000 pixels")

    monkeypatch.setattr(f"mpt.training.results.{broken}", fail)
    with pytest.warns(UserWarning, match=r"MemoryError: 42,000 pixels; the results in .*run are complete"):
        train(make_config(trainer__max_steps=1), tmp_path / "run")
    assert read_metrics(tmp_path / "run")["steps"] == 1
    assert load_prompt(tmp_path / "run").task_names == ["one", "two"]


def test_wandb_knows_what_the_run_is(make_config, tmp_path, monkeypatch):
    import wandb

    settings, summaries = [], []
    init = wandb.init

    def watched(**arguments):
        settings.append(arguments)
        run = init(**arguments)
        update = run.summary.update

        def note(_, values):
            summaries.append(values)
            update(values)

        monkeypatch.setattr(type(run.summary), "update", note)
        return run

    monkeypatch.setattr(wandb, "init", watched)
    config = make_config(
        logger__wandb=True, logger__wandb_mode="offline", logger__group="seed=0,1-abcdef", few_shot__k=2
    )
    train(config, tmp_path / "run")
    (arguments,) = settings
    assert (arguments["group"], arguments["job_type"]) == ("seed=0,1-abcdef", "source")
    assert arguments["tags"] == ["one", "two", "prompt", "k=2"]
    assert arguments["notes"]
    (summary,) = summaries
    assert {"seconds/fit", "examples_per_second", "best_step/one", "parameters/trained"} <= summary.keys()


def test_words_that_the_backbone_does_not_know_are_warned_about(make_config, tmp_path):
    config = make_config(trainer__max_steps=1)
    config.tasks["one"].target = "{target} ☃"
    with pytest.warns(UserWarning, match=r"tasks\.one: 0% of the input .* \d+% of the target tokens are unknown"):
        metrics = train(config, tmp_path / "run")
    assert metrics["unknown"]["one"]["target"] > 0
    assert metrics["unknown"]["two"] == {"input": 0.0, "target": 0.0}


def test_progress_without_a_terminal_is_lines(make_config, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr("mpt.run.progress.SECONDS_BETWEEN_LINES", 0.0)
    monkeypatch.setenv("MPT_CACHE", str(tmp_path / "cache"))
    train(make_config(trainer__progress_bar=True), tmp_path / "run")
    err = capfd.readouterr().err
    for line in (
        r"scoring the start: 1 of 2 batches, \d+(\.\d)? rows/s, \d+ s left",
        r"scoring the oracle: 2 of 2 batches",
        r"step 2 of 6: loss \d+\.\d{4}, \d+(\.\d)? rows/s, \d+ s left",
        r"step 3 of 6: validation score \d\.\d{3}",
        r"testing: 2 of 2 batches",
    ):
        assert re.search(line, err), line


def test_early_stopping(make_config, tmp_path):
    config = make_config(trainer__max_steps=60, evaluation__patience=1, optim__lr_prompt=0.0, optim__lr_factors=0.0)
    metrics = train(config, tmp_path / "run")
    assert metrics["steps"] == 6


def test_tensorboard_holds_the_curves(make_config, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(make_config(logger__tensorboard=True), tmp_path / "run")
    curves = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    curves.Reload()
    assert [event.step for event in curves.Scalars("validation/one/loss")] == [3, 6]
    with (tmp_path / "run" / "metrics.csv").open() as file:
        ours = {int(row["step"]): float(row["train/loss"]) for row in csv.DictReader(file) if row["train/loss"]}
    theirs = {event.step: event.value for event in curves.Scalars("train/loss")}
    assert theirs == pytest.approx(ours, rel=1e-6)


def test_tensorboard_holds_the_results(make_config, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    metrics = train(make_config(logger__tensorboard=True), tmp_path / "run")
    board = tmp_path / "run" / "tensorboard"
    found = EventAccumulator(str(board))
    found.Reload()
    (score,) = [event.value for event in found.Scalars("final/test/one/score")]
    assert score == pytest.approx(metrics["test"]["one"]["score"])
    (trained,) = [event.value for event in found.Scalars("final/parameters/trained")]
    assert trained == metrics["parameters"]["trained"]
    assert found.Tags()["images"] == ["similarity"]
    assert "predictions/one/text_summary" in found.Tags()["tensors"]
    text = found.Tensors("predictions/one/text_summary")[0].tensor_proto.string_val[0].decode()
    assert text.startswith("| input | target | prediction |")
    assert found.PluginTagToContent("hparams")
    assert (board / "hparams.yaml").is_file()


def test_wandb_has_a_table_per_task_and_says_what_the_prompt_is(make_config, tmp_path, monkeypatch):
    import wandb

    made = []
    kept = wandb.Artifact.__init__

    def remember(self, *arguments, **named):
        made.append(named.get("metadata"))
        kept(self, *arguments, **named)

    monkeypatch.setattr(wandb.Artifact, "__init__", remember)
    config = make_config(logger__wandb=True, logger__wandb_mode="offline")
    metrics = train(config, tmp_path / "run")
    files = {path.name for path in (tmp_path / "run" / "wandb").rglob("media/table/predictions/*.json")}
    assert {name.split("_")[0] for name in files} == {"one", "two"}
    (metadata,) = [each for each in made if each and "task_names" in each]
    assert metadata["task_names"] == ["one", "two"]
    assert metadata["num_virtual_tokens"] == config.prompt.num_virtual_tokens
    assert metadata["test_score"]["one"] == metrics["test"]["one"]["score"]


def test_wandb_offline_without_an_account(make_config, tmp_path, monkeypatch):
    import wandb

    for name in ("WANDB_API_KEY", "WANDB_MODE", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    config = make_config(logger__wandb=True)
    train(config, tmp_path / "run")
    runs = list((tmp_path / "run" / "wandb").glob("offline-run-*"))
    assert len(runs) == 1
    assert wandb.run is None


class TestRunFolder:
    def test_what_somebody_put_into_a_runs_folders_is_not_removed(self, make_config, tmp_path):
        config = make_config(trainer__max_steps=1)
        train(config, tmp_path / "run")
        notes = tmp_path / "run" / "predictions" / "notes.txt"
        notes.write_text("mine")
        with pytest.raises(ValueError, match=r"predictions: holds notes\.txt, which no run writes"):
            train(make_config(trainer__max_steps=1, overwrite=True), tmp_path / "run")
        assert notes.read_text() == "mine"

    def test_a_link_in_a_run_is_not_followed(self, make_config, tmp_path):
        thesis = tmp_path / "thesis"
        thesis.mkdir()
        (thesis / "thesis.tex").write_text("years of work")
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "prompt").symlink_to(thesis)
        with pytest.raises(ValueError, match="prompt: is a link"):
            train(make_config(trainer__max_steps=1), tmp_path / "run")
        assert (thesis / "thesis.tex").read_text() == "years of work"


class TestValidations:
    def test_a_run_shorter_than_a_validation_is_validated_once(self, make_config, tmp_path, monkeypatch):
        seen = []
        end = MPTModule.on_validation_epoch_end

        def count(self):
            seen.append(self.global_step)
            end(self)

        monkeypatch.setattr(MPTModule, "on_validation_epoch_end", count)
        train(make_config(trainer__max_steps=2, evaluation__validate_every=50), tmp_path / "short")
        train(make_config(trainer__max_steps=4, evaluation__validate_every=3), tmp_path / "long")
        assert seen == [2, 3, 4]

    def test_a_task_without_an_example_has_no_loss_in_that_step(self, make_config, tmp_path):
        config = make_config(trainer__batch_size=1, trainer__max_steps=8, evaluation__validate_every=8)
        train(config, tmp_path / "run")
        lines = curves(tmp_path / "run")
        cells = [(line["train/one/loss"], line["train/two/loss"]) for line in lines if line["train/loss"]]
        assert len(cells) == 8
        assert all((one == "") != (two == "") for one, two in cells)


def test_chosen_rows_do_not_follow_the_seed(make_config, tmp_path):
    ids = {}
    for seed, rows_seed in ((0, 0), (1, 0), (1, 5)):
        folder = tmp_path / f"{seed}-{rows_seed}"
        config = make_config(seed=seed, evaluation__test_rows=2, evaluation__rows_seed=rows_seed, trainer__max_steps=1)
        train(config, folder)
        lines = (folder / "predictions" / "one.jsonl").read_text().splitlines()
        ids[seed, rows_seed] = [json.loads(line)["row_id"] for line in lines]
    assert ids[0, 0] == ids[1, 0] != ids[1, 5]


def test_sampled_answers_follow_the_seed_and_not_the_batch(make_config, tmp_path):
    answers = {}
    for name, batch, seed in (("a", 8, 0), ("b", 2, 0), ("c", 8, 1)):
        sampled = {"tasks__one__generation": {"do_sample": True, "temperature": 2.0}}
        config = make_config(tasks=["one"], evaluation__batch_size=batch, seed=seed, trainer__max_steps=1, **sampled)
        config.optim.lr_prompt = config.optim.lr_factors = 0.0
        train(config, tmp_path / name)
        lines = (tmp_path / name / "predictions" / "one.jsonl").read_text().splitlines()
        answers[name] = [json.loads(line)["prediction"] for line in lines]
    assert answers["a"] == answers["b"] != answers["c"]


class TestStartsOfBaselines:
    NEAREST: ClassVar = {
        "prompt__form": "independent",
        "prompt__init": "NEAREST_SOURCE_TASK",
        "prompt__source_scores": "similarity",
        "prompt__embedding_steps": 1,
        "trainer__max_steps": 1,
    }

    def test_plain_prompts_of_one_run_start_alike_and_a_targets_embedding_starts_there(
        self, make_config, tmp_path, monkeypatch
    ):
        """SPoT compares prompts by their cosine, which would be that of their starts."""
        plain = {"prompt__form": "independent", "prompt__init": "VOCABULARY", "seed": 5}
        train(make_config(**plain, optim__lr_prompt=0.0, trainer__max_steps=1), tmp_path / "library")
        library = load_prompt(tmp_path / "library").prompt.prompts()
        assert torch.equal(library[0], library[1])
        started = []
        embed = similarity.task_embeddings

        def keep(module, trainer):
            started.append(module.adapter.prompts().detach().clone())
            return embed(module, trainer)

        monkeypatch.setattr("mpt.training.build.task_embeddings", keep)
        target = self.NEAREST | {"seed": 1, "source": str(tmp_path / "library")}
        train(make_config("target", **target), tmp_path / "target")
        assert torch.equal(started[0], library)

    def test_a_library_that_does_not_say_how_it_started_is_warned_of(self, make_config, source_run, tmp_path):
        target = self.NEAREST | {"source": str(source_run)}
        with pytest.warns(UserWarning, match="the source does not say how its prompts started"):
            train(make_config("target", **target), tmp_path / "target")

    def test_attempts_own_prompt_starts_from_the_first_source_prompt(self, make_config, source_run, tmp_path):
        method = {"method__name": "attempt", "method__num_ranks": 2, "prompt__form": "independent"}
        start = {"prompt__init": "EXACT_SOURCE_TASK", "source": str(source_run), "optim__lr_prompt": 0.0}
        train(make_config("target", **method, **start, trainer__max_steps=1), tmp_path / "run")
        own = load_file(tmp_path / "run" / "adapter" / "adapter.safetensors")["prompt"]
        first = load_prompt(source_run).prompt.prompts()[0]
        assert torch.allclose(own, first.expand_as(own), atol=1e-6)


class TestSideFigures:
    def test_a_run_with_huge_numbers_keeps_its_results(self, make_config, tmp_path):
        changes = {"optim__lr_prompt": 1e10, "optim__lr_factors": 1e10, "optim__warmup": 0.0}
        metrics = train(make_config(**changes, trainer__max_steps=2), tmp_path / "run")
        saved = read_metrics(tmp_path / "run")
        assert saved["test"]["average"]["score"] == metrics["test"]["average"]["score"]
        assert all(math.isfinite(value) for value in saved["moved"].values())


def test_teachers_of_other_rows_are_warned_of(make_config, rows_folder, tmp_path):
    root = tmp_path / "rows"
    shutil.copytree(rows_folder, root)
    plain: dict[str, Any] = {"prompt__form": "independent", "mixture__sampling": "each", "trainer__max_steps": 1}
    plain["evaluation__best"] = "task"
    train(make_config("teachers", **plain, data_root=str(root)), tmp_path / "teachers")
    path = root / "one" / "train.jsonl"
    path.write_text(path.read_text().replace("red", "blue"))
    config = make_config(data_root=str(root), distill=str(tmp_path / "teachers"), trainer__max_steps=1)
    with pytest.warns(UserWarning, match="distill: the teachers of one were trained on other rows"):
        train(config, tmp_path / "source")
