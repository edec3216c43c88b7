"""Prompts for others: baked, embedded, selected, merged, described, pushed; each answers as the prompt that it was."""

import json
import re
import shutil
from types import SimpleNamespace

import huggingface_hub
import pytest
import torch
from huggingface_hub import ModelCard
from peft import MultitaskPromptTuningConfig as PeftConfig
from peft import PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

from mpt import PromptedModel
from mpt.artifact import load_prompt
from mpt.artifact.prompt_folder import save_prompt
from mpt.export.__main__ import main
from mpt.export.push import push
from mpt.prompt import MultitaskPromptEmbedding, MultitaskPromptTuningConfig
from mpt.prompt.bank import merge, select_tasks
from mpt.training.train import train

TEXTS = ["say red", "say black or white"]


@pytest.fixture(scope="module")
def causal_run(make_config, causal_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("causal") / "source"
    train(
        make_config(
            backbone__path=str(causal_folder("llama")),
            optim__lr_prompt=0.1,
            tasks__one__max_source_tokens=80,
            tasks__two__max_source_tokens=80,
        ),
        folder,
    )
    return folder


def export(*arguments):
    return main([str(argument) for argument in arguments])


class TestBake:
    def test_peft_answers_as_the_prompt_without_task_ids(
        self, source_run, causal_run, tiny_t5_folder, causal_folder, tmp_path
    ):
        for run, library, backbone in (
            (source_run, AutoModelForSeq2SeqLM, tiny_t5_folder),
            (causal_run, AutoModelForCausalLM, causal_folder("llama")),
        ):
            model = PromptedModel.load(run)
            for task in ("one", "two"):
                assert export("bake", run, "--task", task, "--to", tmp_path / task) == 0
                theirs = PeftModel.from_pretrained(library.from_pretrained(backbone), tmp_path / task).eval()
                for text in TEXTS:
                    (ids,), _ = model.backbone.tokenization.encode_inputs([text])
                    inputs = {"input_ids": torch.tensor([ids]), "attention_mask": torch.ones(1, len(ids)).long()}
                    found = theirs.generate(**inputs, max_new_tokens=6, do_sample=False, pad_token_id=0)[0]
                    found = found[len(ids) :] if library is AutoModelForCausalLM else found
                    expected = model.tokenizer.decode(found, skip_special_tokens=True).strip()
                    assert model.generate([text], task, max_new_tokens=6) == [expected]

    def test_it_is_prompt_tuning_as_peft_writes_it(self, source_run, tmp_path):
        export("bake", source_run, "--task", "one", "--to", tmp_path / "one", "--base-model", "owner/name")
        config = json.loads((tmp_path / "one" / "adapter_config.json").read_text())
        assert config["peft_type"] == "PROMPT_TUNING"
        assert config["base_model_name_or_path"] == "owner/name"
        tensors = load_file(tmp_path / "one" / "adapter_model.safetensors")
        assert torch.equal(tensors["prompt_embeddings"], load_prompt(source_run).prompt.prompts()[0])


class TestEmbed:
    def test_a_server_that_reads_embeddings_answers_as_the_prompt(self, causal_run, causal_folder, tmp_path):
        backbone = AutoModelForCausalLM.from_pretrained(causal_folder("llama"))
        model = PromptedModel.load(causal_run)
        for text in TEXTS:
            path = tmp_path / "embeds.safetensors"
            assert export("embed", causal_run, "--task", "two", "--text", text, "--to", path) == 0
            embeds = load_file(path)["prompt_embeds"]
            answer = backbone.generate(
                inputs_embeds=embeds[None], attention_mask=torch.ones(1, len(embeds)).long(),
                max_new_tokens=6, do_sample=False, pad_token_id=0,
            )  # fmt: skip
            expected = model.tokenizer.decode(answer[0], skip_special_tokens=True).strip()
            assert model.generate([text], "two", max_new_tokens=6) == [expected]

    def test_an_encoder_decoder_is_refused(self, source_run, tmp_path, capsys):
        path = tmp_path / "embeds.safetensors"
        assert export("embed", source_run, "--task", "two", "--text", "a", "--to", path) == 2
        assert "is an encoder-decoder, and servers take" in capsys.readouterr().err
        assert not path.exists()


def make(names, seed=0, **changes):
    torch.manual_seed(seed)
    values = {"num_virtual_tokens": 4, "num_ranks": 2, "token_dim": 16, "task_names": names, "factor_std": 0.5}
    return MultitaskPromptEmbedding(MultitaskPromptTuningConfig(**(values | changes)))


SHAPES = {
    "product": {},
    "residual": {"form": "residual"},
    "additive": {"form": "additive"},
    "independent": {"form": "independent"},
    "single": {"form": "single"},
    "grouped": {"num_groups": 2, "task_groups": [1, 0, 1]},
}


@pytest.mark.parametrize("shape", SHAPES)
class TestBank:
    def test_selected_tasks_keep_their_numbers(self, shape):
        prompt = make(["a", "b", "c"], **SHAPES[shape])
        before = prompt.prompts()
        for names, ids in ((["c", "a"], [2, 0]), (["b"], [1]), (["a", "b", "c"], [0, 1, 2])):
            chosen = select_tasks(prompt, names)
            assert chosen.task_names == names
            assert torch.equal(chosen.prompts(), before[ids])
        assert torch.equal(prompt.prompts(), before)

    def test_merged_tasks_keep_their_prompts_and_equal_ps_are_stored_once(self, shape, tmp_path):
        prompts = [make(["a", "b", "c"], 1, **SHAPES[shape]), make(["d", "e", "f"], 2, **SHAPES[shape])]
        bank = merge(prompts)
        assert bank.task_names == ["a", "b", "c", "d", "e", "f"]
        assert torch.equal(bank.prompts(), torch.cat([each.prompts() for each in prompts]))
        weights = dict.fromkeys(bank.task_names, 1.0)
        save_prompt(tmp_path, bank, task_weights=weights, backbone={"name": "tiny", "fingerprint": ""})
        assert torch.equal(load_prompt(tmp_path).prompt.prompts(), bank.prompts())
        halves = [select_tasks(prompts[0], ["a"]), select_tasks(prompts[0], ["c"])]
        if shape not in ("independent",):
            assert merge(halves).config.num_groups == 1


def test_another_rank_is_filled_up_and_another_form_or_name_refused():
    prompts = [make(["a"], 1, num_ranks=1), make(["b"], 2, num_ranks=3)]
    torch.testing.assert_close(merge(prompts).prompts(), torch.cat([each.prompts() for each in prompts]))
    with pytest.raises(ValueError, match="form: is product in one prompt and residual in another"):
        merge([make(["a"]), make(["b"], form="residual")])
    with pytest.raises(ValueError, match="task_names: a is in several"):
        merge([make(["a"]), make(["a", "b"])])
    with pytest.raises(ValueError, match="no task 'z'; choose one of a"):
        select_tasks(make(["a"]), ["z"])


class TestCommands:
    def test_select_and_merge(self, source_run, tmp_path, capsys):
        assert export("select", source_run, "--tasks", "two", "--to", tmp_path / "two") == 0
        assert export("select", source_run, "--drop", "two", "--to", tmp_path / "one") == 0
        assert export("merge", tmp_path / "one", tmp_path / "two", "--to", tmp_path / "both") == 0
        model, bank = PromptedModel.load(source_run), PromptedModel.load(tmp_path / "both")
        assert bank.task_names == ["one", "two"]
        assert bank.generate(TEXTS, ["two", "one"]) == model.generate(TEXTS, ["two", "one"])
        assert load_prompt(tmp_path / "both").prompt.config.num_groups == 1
        capsys.readouterr()
        assert export("select", source_run, "--drop", "three", "--to", tmp_path / "none") == 2
        assert "--drop: no task 'three'; choose from one, two" in capsys.readouterr().err
        assert not (tmp_path / "none").exists()

    def test_prompts_of_two_backbones_are_not_merged(self, source_run, causal_run, tmp_path, capsys):
        assert export("merge", source_run, causal_run, "--to", tmp_path / "both") == 2
        assert "a bank has one" in capsys.readouterr().err

    def test_import_names_the_tasks_of_an_adapter_by_peft(self, tiny_t5_folder, tmp_path, capsys):
        model = AutoModelForSeq2SeqLM.from_pretrained(tiny_t5_folder)
        config = PeftConfig(task_type="SEQ_2_SEQ_LM", num_virtual_tokens=4, num_tasks=2, num_ranks=2)
        get_peft_model(model, config).save_pretrained(tmp_path / "theirs")
        arguments = ("import", tmp_path / "theirs", "--to", tmp_path / "ours", "--names", "sum", "mt")
        assert export(*arguments) == 2
        assert "drop_decoder_prompt" in capsys.readouterr().err
        assert export(*arguments, "--drop-decoder-prompt") == 0
        assert PromptedModel.load(tmp_path / "ours").generate(["anna"], "mt", max_new_tokens=3)
        assert export(*arguments[:-1], "--drop-decoder-prompt") == 2
        assert "--names: are 1, and the adapter has 2 tasks" in capsys.readouterr().err

    def test_a_folder_without_a_prompt(self, tmp_path, capsys):
        assert export("bake", tmp_path, "--task", "a", "--to", tmp_path / "b") == 2
        assert "no saved prompt" in capsys.readouterr().err


class TestHub:
    def test_a_card_says_what_it_is_and_how_it_scores(self, source_run, tmp_path):
        assert export("card", source_run, "--to", tmp_path / "README.md") == 0
        card = ModelCard.load(tmp_path / "README.md")
        assert card.data.library_name == "peft"
        metrics = json.loads((source_run / "metrics.json").read_text())
        results = {each.dataset_name: each.metric_value for each in card.data.eval_results}
        assert results == {task: metrics["test"][task]["score"] for task in ("one", "two")}
        for text in ("| one | 1 |", "4 virtual tokens of width 32, rank 2, 2 tasks", "Versions: mpt"):
            assert text in card.text
        prompt_alone = tmp_path / "prompt"
        export("select", source_run, "--tasks", "two", "--to", prompt_alone)
        assert export("card", prompt_alone, "--to", tmp_path / "alone.md") == 0
        assert "| two | 1 | not recorded | – |" in (tmp_path / "alone.md").read_text()

    def test_what_is_pushed_loads_back(self, source_run, tmp_path, monkeypatch):
        """The upload itself is huggingface_hub's; it is caught on its way into a cache as the library lays it out."""
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
        repository = tmp_path / "models--owner--name"
        made = []

        class Api:
            def create_repo(self, name, **options):
                made.append((name, options))

            def upload_folder(self, *, repo_id, folder_path, commit_message):
                assert repo_id == "owner/name"
                (repository / "refs").mkdir(parents=True)
                (repository / "refs" / "main").write_text("0" * 40)
                folder_path.rename(repository / "moved")
                (repository / "snapshots").mkdir()
                (repository / "moved").rename(repository / "snapshots" / ("0" * 40))
                folder_path.mkdir()
                return SimpleNamespace(commit_url="https://hub/owner/name/commit/0")

        assert push(source_run, "owner/name", private=True, api=Api()).endswith("/commit/0")
        assert made == [("owner/name", {"private": True, "exist_ok": True})]
        model, back = PromptedModel.load(source_run), PromptedModel.load("hf://owner/name")
        assert back.generate(TEXTS, "two") == model.generate(TEXTS, "two")
        assert (repository / "snapshots" / ("0" * 40) / "README.md").is_file()

    def test_what_is_not_there(self, tmp_path, monkeypatch):
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
        for name in ("hf://owner/name", "hf://not a name"):
            with pytest.raises(FileNotFoundError, match=f"{name}: cannot be loaded .*; give hf://owner/name"):
                load_prompt(name)
        with pytest.raises(FileNotFoundError, match="no saved prompt"):
            push(tmp_path, "owner/name", api=SimpleNamespace())


class TestNothingOfOthersIsLost:
    """Exit 0 over somebody's thesis: no writer removes what it did not write."""

    @pytest.fixture
    def thesis(self, tmp_path):
        folder = tmp_path / "thesis"
        folder.mkdir()
        (folder / "thesis.tex").write_text("years of work")
        return folder

    def commands(self, run, to):
        return [
            ("bake", run, "--task", "one", "--to", to),
            ("select", run, "--tasks", "one", "--to", to),
            ("merge", run, "--to", to),
            ("import", run / "prompt", "--to", to),
        ]

    def test_a_folder_that_holds_something_else_is_refused(self, source_run, thesis, capsys):
        for command in self.commands(source_run, thesis):
            assert export(*command) == 2
            assert "thesis: holds thesis.tex, which would be lost" in capsys.readouterr().err
        assert (thesis / "thesis.tex").read_text() == "years of work"

    def test_a_prompt_beside_something_else_is_refused(self, source_run, tmp_path):
        assert export("bake", source_run, "--task", "one", "--to", tmp_path / "baked") == 0
        (tmp_path / "baked" / "notes.txt").write_text("mine")
        assert export("bake", source_run, "--task", "two", "--to", tmp_path / "baked") == 2
        assert (tmp_path / "baked" / "notes.txt").read_text() == "mine"

    def test_an_adapter_of_somebody_else_is_refused(self, source_run, tmp_path):
        folder = tmp_path / "lora"
        folder.mkdir()
        (folder / "adapter_config.json").write_text("{}")
        save_file({"a": torch.ones(2)}, folder / "adapter_model.safetensors", metadata={"format": "pt"})
        for command in self.commands(source_run, folder):
            assert export(*command) == 2
        assert load_file(folder / "adapter_model.safetensors").keys() == {"a"}

    def test_a_run_and_the_working_folder_are_refused(self, source_run, tmp_path, monkeypatch):
        run = tmp_path / "run"
        shutil.copytree(source_run, run)
        before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
        for command in self.commands(run, run):
            assert export(*command) == 2
        (tmp_path / "here").mkdir()
        monkeypatch.chdir(tmp_path / "here")
        for command in self.commands(run, "."):
            assert export(*command) == 2
        assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before

    def test_a_link_is_followed_to_what_would_be_lost(self, source_run, thesis, tmp_path):
        (tmp_path / "link").symlink_to(thesis)
        for command in self.commands(source_run, tmp_path / "link"):
            assert export(*command) == 2
        assert (thesis / "thesis.tex").is_file()

    def test_the_prompt_that_is_read_and_that_of_a_run_are_kept(self, source_run, tmp_path, capsys):
        shutil.copytree(source_run, tmp_path / "run")
        assert export("select", source_run, "--drop", "two", "--to", tmp_path / "bank") == 0
        before = load_file(tmp_path / "run" / "prompt" / "adapter_model.safetensors")
        for words, message in (
            (["bake", tmp_path / "run", "--task", "one", "--to", tmp_path / "run" / "prompt"], "that is read"),
            (["bake", tmp_path / "bank", "--task", "one", "--to", tmp_path / "bank"], "that is read"),
            (["merge", source_run, tmp_path / "bank", "--to", tmp_path / "bank"], "that is read"),
            (["select", tmp_path / "bank", "--tasks", "one", "--to", tmp_path / "run" / "prompt"], "of a run"),
        ):
            assert export(*words) == 2
            assert re.fullmatch(rf"error: --to: .* is the prompt {message}, which would .*\n", capsys.readouterr().err)
        after = load_file(tmp_path / "run" / "prompt" / "adapter_model.safetensors")
        assert all(torch.equal(before[name], after[name]) for name in before)

    def test_an_empty_folder_and_an_earlier_prompt_give_way(self, source_run, tmp_path):
        (tmp_path / "to").mkdir()
        for command in self.commands(source_run, tmp_path / "to"):
            assert export(*command) == 0

    def test_a_file_that_is_no_card_or_embedding_of_ours_stays(self, source_run, causal_run, tmp_path):
        readme, tensors = tmp_path / "README.md", tmp_path / "weights.safetensors"
        readme.write_text("# My thesis")
        save_file({"a": torch.ones(2)}, tensors)
        assert export("card", source_run, "--to", readme) == 2
        assert export("embed", causal_run, "--task", "one", "--text", "say red", "--to", tensors) == 2
        assert readme.read_text() == "# My thesis"
        assert load_file(tensors).keys() == {"a"}
        for _ in range(2):  # over its own
            assert export("card", source_run, "--to", tmp_path / "card.md") == 0
            target = tmp_path / "embeds.safetensors"
            assert export("embed", causal_run, "--task", "one", "--text", "say red", "--to", target) == 0
