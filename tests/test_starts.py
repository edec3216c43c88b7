"""Starts from what source tasks learned, and from the examples: by hand, and through whole runs."""

import json

import pytest
import torch
from safetensors.torch import load_file

from mpt.artifact import load_prompt
from mpt.backbone import load_backbone
from mpt.cli.check import check
from mpt.config import PromptConfig
from mpt.run.folder import RunFolder
from mpt.tasks import load_split
from mpt.training.build import build_prompt
from mpt.training.train import train
from tests.test_initialize import D, N, make_prompt, make_source

PLAIN = {"prompt__form": "independent", "prompt__init": "RANDOM"}


@pytest.fixture(scope="module")
def plain_source(make_config, tmp_path_factory):
    folder = tmp_path_factory.mktemp("plain") / "source"
    train(make_config("source", ["one", "two"], **PLAIN), folder)
    return folder


class TestTaskVectors:
    @pytest.mark.parametrize("form", ["independent", "single", "product"])
    def test_is_the_start_and_the_sum_of_what_each_task_learned(self, form):
        torch.manual_seed(0)
        source = make_source(form="independent")
        P0 = torch.randn(N, D)
        source.began_with = P0.repeat(3, 1, 1)
        target = make_prompt(source=source, form=form, prompt_tuning_init="SOURCE_TASK_VECTORS")
        expected = P0.clone()
        for prompt in source.prompts().detach():
            expected += prompt - P0
        torch.testing.assert_close(target.embedding.weight.detach(), expected, atol=1e-5, rtol=1e-5)

    def test_a_source_keeps_its_start_and_a_target_takes_it(self, plain_source, make_config, tmp_path):
        start = load_file(plain_source / "prompt" / "start.safetensors")["start"]
        learned = load_prompt(plain_source).prompt.prompts().detach()
        assert torch.equal(start[0], start[1])  # plain prompts of a run start alike
        assert (learned != start).any(dim=2).all()
        config = make_config(
            "target", ["two"], **PLAIN | {"prompt__init": "SOURCE_TASK_VECTORS"}, source=str(plain_source)
        )
        saved = load_prompt(plain_source)
        built = build_prompt(["two"], config.prompt, load_backbone(config.backbone), saved)
        torch.testing.assert_close(built.prompts()[0], start[0] + (learned - start).sum(0))
        train(config, tmp_path / "target")
        assert not (tmp_path / "target" / "prompt" / "start.safetensors").exists()
        train(make_config("source", ["one", "two"], **PLAIN, overwrite=True), plain_source)  # its own files

    def test_a_source_without_its_start_is_refused(self, source_run, make_config, tmp_path):
        config = make_config("target", ["two"], prompt__init="SOURCE_TASK_VECTORS", source=str(source_run))
        with pytest.raises(ValueError, match=r"does not keep the prompts that its training began with"):
            train(config, tmp_path / "target")

    def test_a_damaged_start_is_refused(self, plain_source, tmp_path):
        import shutil

        from safetensors.torch import save_file

        shutil.copytree(plain_source / "prompt", tmp_path / "prompt")
        save_file({"start": torch.zeros(1, 2, 3)}, tmp_path / "prompt" / "start.safetensors")
        with pytest.raises(ValueError, match=r"start.safetensors: does not hold a prompt of each task"):
            load_prompt(tmp_path / "prompt")


class TestDemonstrations:
    def test_each_prompt_starts_with_the_tokens_of_its_examples(self, make_config, tmp_path):
        config = make_config("target", ["one", "two"], few_shot__k=2, trainer__max_steps=1, optim__lr_prompt=0.0,
                             prompt__form="independent", prompt__init="DEMONSTRATIONS")  # fmt: skip
        train(config, tmp_path / "run")
        backbone = load_backbone(config.backbone)
        drawn = json.loads(RunFolder(tmp_path / "run").draws.read_text())["train"]
        prompts = load_prompt(tmp_path / "run").prompt.prompts()
        for prompt, task in zip(prompts, ("one", "two"), strict=True):
            rows = {each.row_id: each for each in load_split(task, config.tasks[task], "train", None)}
            text = "".join(f"{rows[row_id].input}\n{rows[row_id].target}\n\n" for row_id in drawn[task])
            ids = backbone.tokenizer(text)["input_ids"]
            for place in range(len(prompt)):
                expected = backbone.word_embeddings(torch.tensor(ids[place % len(ids)]))
                torch.testing.assert_close(prompt[place], expected)

    def test_tokens_that_do_not_fit_are_said(self, make_config, backbone):
        prompt = PromptConfig(num_virtual_tokens=3, init="DEMONSTRATIONS")
        with pytest.warns(UserWarning, match=r"of which the first 3 start the prompt; prompt.num_virtual_tokens=\d+"):
            build_prompt(["one"], prompt, backbone, demonstrations={"one": "anna found a hat in the mill"})

    def test_it_needs_the_examples(self, make_config):
        errors = check(make_config("target", ["one"], prompt__init="DEMONSTRATIONS"))
        assert any(
            "few_shot.k: is null, and prompt.init=DEMONSTRATIONS starts from the k examples" in e for e in errors
        )


@pytest.fixture
def backbone(make_config):
    return load_backbone(make_config("source", ["one"]).backbone)
