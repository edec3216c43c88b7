"""Causal backbones: the prompt directly before the text on either padding side; the numbers of transformers, PEFT."""

import json

import pytest
import torch
from transformers import AutoModelForCausalLM

from mpt import PromptedModel
from mpt.backbone import load_backbone
from mpt.backbone.causal import FAMILY
from mpt.backbone.tokenization import CausalTokenization
from mpt.config import BackboneConfig
from mpt.inputs import Inputs
from mpt.run.record import read_metrics
from mpt.training.train import train
from tests.conftest import make_causal, world_texts
from tests.runs import assert_equal, curves, tensors

THREE = ["gpt2", "llama", "qwen3"]
TEXTS = ["anna found the red hat in the mill .", "ben .", "clara lost a drum"]
TARGETS = ["the hat", "ben lost a drum", "a"]


@pytest.fixture
def backbone(request, causal_folder):
    return load_backbone(BackboneConfig(name="lm", path=str(causal_folder(request.param))))


def batch(backbone, side="right"):
    """TEXTS and TARGETS, padded on a side; labels always on the right."""
    inputs, _ = backbone.tokenization.encode_inputs(TEXTS)
    targets, _ = backbone.tokenization.encode_targets(TARGETS)
    longest, width = max(map(len, inputs)), max(map(len, targets))
    ids, mask = torch.zeros(2, len(inputs), longest, dtype=torch.long)
    labels = torch.full((len(inputs), width), -100)
    for row, (text, target) in enumerate(zip(inputs, targets, strict=True)):
        place = slice(0, len(text)) if side == "right" else slice(longest - len(text), longest)
        ids[row, place], mask[row, place] = torch.tensor(text), 1
        labels[row, : len(target)] = torch.tensor(target)
    return ids, mask, labels


def prompts_for(backbone, count=3, tokens=5):
    generator = torch.Generator().manual_seed(3)
    scale = backbone.word_embeddings.weight.std()
    return torch.randn(count, tokens, backbone.token_dim, generator=generator) * scale


@pytest.mark.parametrize("backbone", FAMILY, indirect=True)
class TestEveryFamily:
    def test_loss_without_a_prompt_is_the_models_own(self, backbone):
        ids, mask, labels = batch(backbone)
        for row in range(3):
            text, target = ids[row][mask[row] == 1], labels[row][labels[row] != -100]
            whole = torch.cat([text, target])[None]
            masked = torch.cat([torch.full_like(text, -100), target])[None]
            own = backbone.model(input_ids=whole, labels=masked).loss * len(target)
            ours = backbone.example_losses(Inputs(ids, mask), labels)[row]
            torch.testing.assert_close(ours, own, rtol=1e-5, atol=1e-5)

    def test_neither_side_nor_neighbours_change_an_answer(self, backbone):
        prompts = prompts_for(backbone)
        expected, answers = [], []
        right = batch(backbone)
        for row in range(3):
            keep, seen = right[1][row] == 1, right[2][row] != -100
            tokens = (right[0][row][keep][None], right[1][row][keep][None])
            alone = Inputs(*tokens, prompts[row : row + 1])
            labels = right[2][row][seen][None]
            expected.append(backbone.example_losses(alone, labels).item())
            answers += backbone.generate(alone, min_new_tokens=6, max_new_tokens=6)
        assert len({round(loss, 3) for loss in expected}) == 3
        for side in ("right", "left"):
            ids, mask, labels = batch(backbone, side)
            losses = backbone.example_losses(Inputs(ids, mask, prompts), labels)
            torch.testing.assert_close(losses, torch.tensor(expected), rtol=1e-4, atol=1e-4)
            found = backbone.generate(Inputs(ids, mask, prompts), min_new_tokens=6, max_new_tokens=6)
            assert found == answers

    def test_prompt_of_embedded_tokens_equals_those_tokens_in_front(self, backbone):
        ids, mask, labels = batch(backbone)
        front = torch.tensor([[5, 9, 12]]).expand(3, 3)
        prompted = backbone.logits(Inputs(ids, mask, backbone.word_embeddings(front)), labels)
        whole = Inputs(torch.cat([front, ids], 1), torch.cat([mask.new_ones(3, 3), mask], 1))
        typed = backbone.logits(whole, labels)
        torch.testing.assert_close(prompted, typed)


@pytest.mark.parametrize("backbone", THREE, indirect=True)
class TestStates:
    def test_they_stand_where_their_tokens_do(self, backbone):
        ids, mask, labels = batch(backbone)
        prompts = prompts_for(backbone)
        together = backbone.outputs(Inputs(ids, mask, prompts), labels, hidden=True)
        for row in range(3):
            keep, seen = mask[row] == 1, labels[row] != -100
            text, target = ids[row][keep], labels[row][seen]
            embeds = backbone.word_embeddings(torch.cat([text, target[:-1]]))
            own = backbone.model(inputs_embeds=torch.cat([prompts[row], embeds])[None], output_hidden_states=True)
            for layer, states in enumerate(own.hidden_states):
                of_text = states[0, 5 : 5 + len(text)]
                of_target = states[0, 5 + len(text) - 1 :]
                torch.testing.assert_close(together.input_states[layer][row][keep], of_text, rtol=1e-4, atol=1e-4)
                torch.testing.assert_close(together.target_states[layer][row][seen], of_target, rtol=1e-4, atol=1e-4)

    def test_gradient_reaches_the_prompt_alone(self, backbone):
        prompts = prompts_for(backbone).requires_grad_()
        ids, mask, labels = batch(backbone)
        backbone.example_losses(Inputs(ids, mask, prompts), labels).sum().backward()
        assert all(row.abs().sum() > 0 for row in prompts.grad)
        assert all(parameter.grad is None for parameter in backbone.parameters())


class TestTokenization:
    def make(self, causal_folder, family="llama", **options):
        config = BackboneConfig(name="lm", path=str(causal_folder(family)), **options)
        return load_backbone(config).tokenization

    def test_input_and_target_are_one_text(self, causal_folder):
        made = self.make(causal_folder)
        ids = made.encode_inputs(["a hat"])[0][0] + made.encode_targets(["ben"])[0][0]
        assert made.tokenizer.decode(ids) == "<start>a hat\nben<end>"

    def test_a_space_at_the_end_of_the_separator_goes_to_the_target(self, causal_folder):
        made = self.make(causal_folder, "gpt2", separator=" => ")
        (ids,), (target,) = made.encode_inputs(["a"])[0], made.encode_targets(["hat"])[0]
        assert made.tokenizer.decode(ids) == "a =>"
        assert made.tokenizer.decode(target) == " hat<end>"
        assert ids + target[:-1] == made.tokenizer("a => hat")["input_ids"]

    def test_chat_template_is_the_tokenizers(self, causal_folder):
        made = self.make(causal_folder, chat_template=True)
        (ids,), _ = made.encode_inputs(["a hat"])
        expected = made.tokenizer.apply_chat_template(
            [{"role": "user", "content": "a hat"}], add_generation_prompt=True, return_dict=False
        )
        assert ids == expected
        assert made.settings == {"separator": "\n", "chat_template": True}

    @pytest.mark.parametrize("chat", [False, True])
    def test_what_is_cut_keeps_the_way_to_the_answer(self, causal_folder, chat):
        made = self.make(causal_folder, chat_template=chat)
        whole = made.encode_inputs(["a hat in the mill of anna"])[0][0]
        (ids, short), cut = made.encode_inputs(["a hat in the mill of anna", "a"], len(whole) - 2)
        assert cut == [0]
        assert len(ids) == len(whole) - 2
        ending = "<end>\n<turn>assistant\n" if chat else "\n"
        assert made.tokenizer.decode(ids).endswith(ending)
        assert made.tokenizer.decode(short).endswith("a" + ending)
        with pytest.raises(ValueError, match="max_source_tokens: is 2, and what stands around an input takes"):
            made.encode_inputs(["a hat"], 2)

    def test_a_target_ends_also_where_it_is_cut(self, causal_folder):
        made = self.make(causal_folder)
        (ids,), cut = made.encode_targets(["ben lost a drum in the park"], 3)
        assert (len(ids), ids[-1], cut) == (3, made.tokenizer.eos_token_id, [0])

    def test_what_does_not_fit_is_refused(self, causal_folder, tiny_t5_folder):
        tokenizer = self.make(causal_folder).tokenizer
        tokenizer.chat_template = None
        with pytest.raises(ValueError, match=r"backbone\.chat_template: the tokenizer has none"):
            CausalTokenization(tokenizer, chat_template=True)
        tokenizer.eos_token = None
        with pytest.raises(ValueError, match="has no end-of-sequence token"):
            CausalTokenization(tokenizer)
        for option in ({"chat_template": True}, {"separator": " "}):
            with pytest.raises(ValueError, match=rf"backbone\.{next(iter(option))}: .* is an encoder-decoder"):
                load_backbone(BackboneConfig(name="t5", path=str(tiny_t5_folder), **option))


class TestRuns:
    @pytest.mark.parametrize("family", THREE)
    def test_training_lowers_the_loss_and_peft_loads_it_with_equal_logits_and_answers(
        self, family, make_causal_config, causal_folder, tmp_path
    ):
        from peft import PeftModel

        run = tmp_path / "run"
        train(make_causal_config(family, trainer__max_steps=40, evaluation__validate_every=20), run)
        losses = [float(line["train/loss"]) for line in curves(run) if line.get("train/loss")]
        assert losses[-1] < losses[0]
        model = PromptedModel.load(run)
        theirs = PeftModel.from_pretrained(
            AutoModelForCausalLM.from_pretrained(causal_folder(family)), run / "prompt"
        ).eval()
        for task_id, task in enumerate(("one", "two")):
            for text, target in (("say red", "red"), ("say black or white", "green")):
                (ids,), _ = model.backbone.tokenization.encode_inputs([text])
                (labels,), _ = model.backbone.tokenization.encode_targets([target])
                which = torch.tensor([task_id])
                ours = model.logits(torch.tensor([ids]), torch.ones(1, len(ids)).long(), torch.tensor([labels]), which)
                with torch.no_grad():
                    whole = theirs(input_ids=torch.tensor([ids + labels]), task_ids=which).logits
                    answer = theirs.generate(
                        input_ids=torch.tensor([ids]), task_ids=which, max_new_tokens=6, do_sample=False,
                        attention_mask=torch.ones(1, len(ids)).long(), pad_token_id=1,
                    )  # fmt: skip
                expected = whole[:, -len(labels) - 1 : -1]
                torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)
                text_of_answer = model.tokenizer.decode(answer[0, len(ids) :], skip_special_tokens=True)
                assert model.generate([text], task, max_new_tokens=6) == [text_of_answer.strip()]

    def test_the_same_command_gives_the_same_run(self, causal_run, make_causal_config, tmp_path):
        train(make_causal_config(), tmp_path / "again")
        assert_equal(tensors(causal_run), tensors(tmp_path / "again"))

    def test_target_with_few_examples_starts_from_it(self, causal_run, make_causal_config, tmp_path):
        config = make_causal_config(
            stage="target", tasks=["two"], source=str(causal_run), few_shot__k=2,
            prompt__init="AVERAGE_SOURCE_TASKS", prompt__freeze_shared=True,
        )  # fmt: skip
        train(config, tmp_path / "run")
        assert read_metrics(tmp_path / "run")["test"]["two"]["n"] == 5
        before, after = tensors(causal_run), tensors(tmp_path / "run")
        assert torch.equal(before["prompt_embeddings"], after["prompt_embeddings"])
        assert not torch.equal(before["prefix_task_cols"][1], after["prefix_task_cols"][0])

    @pytest.mark.parametrize("cache", [False, True])
    def test_it_learns_from_teachers(self, make_causal_config, tmp_path, cache):
        plain = {"prompt__form": "independent", "mixture__sampling": "each", "evaluation__best": "task"}
        train(make_causal_config(stage="teachers", **plain), tmp_path / "teachers")
        changes = {"distill": str(tmp_path / "teachers"), "trainer__max_steps": 3}
        if cache:
            changes["distillation__cache"] = str(tmp_path / "cache")
        train(make_causal_config(**changes), tmp_path / "run")
        line = curves(tmp_path / "run")[0]
        assert float(line["distillation/logits"]) > 0
        assert float(line["distillation/hidden"]) > 0

    @pytest.mark.parametrize("name", ["attempt", "dept", "adept", "ulpt", "lora", "full"])
    def test_baselines(self, name, make_causal_config, causal_run, tmp_path):
        settings = {
            "attempt": {"method__num_ranks": 3, "source": str(causal_run)},
            "dept": {"method__num_ranks": 2},
            "adept": {"method__num_ranks": 2},
            "ulpt": {"method__num_ranks": 2},
            "lora": {"method__num_ranks": 2},
            "full": {},
        }
        config = make_causal_config(
            stage="target", method__name=name, prompt__form="independent", prompt__init="RANDOM",
            prompt__num_virtual_tokens=4, **settings[name],
        )  # fmt: skip
        train(config, tmp_path / "run")
        assert read_metrics(tmp_path / "run")["moved"]
        if name not in ("lora", "full"):
            lines = (tmp_path / "run" / "predictions" / "two.jsonl").read_text().splitlines()
            answers = [json.loads(line)["prediction"] for line in lines]
            texts = [json.loads(line)["input"] for line in lines]
            assert PromptedModel.load(tmp_path / "run").generate(texts, "two", max_new_tokens=8) == answers

    def test_the_way_inputs_are_written_stays_with_the_prompt(
        self, make_causal_config, causal_run, causal_folder, tmp_path
    ):
        config = make_causal_config(backbone__chat_template=True, trainer__max_steps=1)
        train(config, tmp_path / "run")
        assert PromptedModel.load(tmp_path / "run").backbone.tokenization.chat_template
        assert not PromptedModel.load(causal_run).backbone.tokenization.chat_template
        target = make_causal_config(stage="target", source=str(tmp_path / "run"), prompt__init="AVERAGE_SOURCE_TASKS")
        with pytest.raises(ValueError, match=r"trained with backbone\.chat_template=True, and it is False"):
            train(target, tmp_path / "target")

    def test_a_learning_rate_beyond_the_scale_of_the_embeddings_is_warned_about(self, make_causal_config, tmp_path):
        config = make_causal_config(optim__lr_prompt=5.0, trainer__max_steps=1)
        with pytest.warns(
            UserWarning, match=r"optim\.lr_prompt: is 5, and the embeddings .* deviation 0\.2, .*; try 0\.04"
        ):
            train(config, tmp_path / "run")

    def test_examples_beyond_its_positions_are_refused(self, make_causal_config, tmp_path):
        config = make_causal_config(prompt__num_virtual_tokens=116)
        with pytest.raises(
            ValueError, match=r"tasks\.one: an input of \d+ tokens, a target of up to 8 and 116 .* the 128"
        ):
            train(config, tmp_path / "run")


class TestUse:
    @pytest.mark.parametrize("options", [{}, {"num_beams": 3}, {"num_beams": 3, "num_return_sequences": 2}])
    def test_batched_equals_one_by_one(self, causal_run, source_run, options):
        texts = ["say red", "say black or white or green", "say", "red"] * 2
        tasks = ["one", "two", "two", "one", "two", "one", "one", "two"]
        for run in (causal_run, source_run):
            model = PromptedModel.load(run)
            single = [
                answer
                for text, task in zip(texts, tasks, strict=True)
                for answer in model.generate([text], task, max_new_tokens=5, **options)
            ]
            assert model.generate(texts, tasks, max_new_tokens=5, batch_size=3, **options) == single
            assert len(single) == len(texts) * options.get("num_return_sequences", 1)

    def test_scores_are_the_log_likelihoods_of_the_targets(self, causal_run):
        model = PromptedModel.load(causal_run)
        ids, mask, labels = batch(model.backbone)
        task_ids = torch.tensor([0, 1, 1])
        logits = model.logits(ids, mask, labels, task_ids).log_softmax(-1)
        expected = [
            sum(logits[row, i, token].item() for i, token in enumerate(labels[row].tolist()) if token >= 0)
            for row in range(3)
        ]
        found = model.score(TEXTS, TARGETS, ["one", "two", "two"], batch_size=2)
        assert found == pytest.approx(expected, rel=1e-4)

    def test_a_text_beyond_its_positions_loses_its_end_and_is_counted(self, causal_run):
        model = PromptedModel.load(causal_run)
        with pytest.warns(UserWarning, match=r"1 of 2 texts are longer than their task was trained with"):
            answers = model.generate(["say red", "red " * 200], "one", max_new_tokens=10)
        assert len(answers) == 2
        with pytest.raises(ValueError, match="leave no room for an input"):
            model.generate(["say red"], "one", max_new_tokens=124)

    def test_embeddings_narrower_than_the_states_are_refused(self, tmp_path):
        folder = make_causal(tmp_path / "opt", "opt", world_texts(), word_embed_proj_dim=16)
        with pytest.raises(ValueError, match="has embeddings of 16 and hidden states of 32 numbers"):
            load_backbone(BackboneConfig(name="opt", path=str(folder)))


class TestConstrained:
    def test_an_answer_is_one_of_the_choices_whatever_the_batch(self, causal_run, source_run):
        choices, texts = ["red", "green or blue", "white"], ["say red", "say black or white or green", "red"]
        for run in (causal_run, source_run):
            model = PromptedModel.load(run)
            answers = model.generate(texts, "one", choices=choices, max_new_tokens=20)
            assert set(answers) <= set(choices)
            assert answers == [model.generate([text], "one", choices=choices, max_new_tokens=20)[0] for text in texts]

    def test_a_beam_for_each_choice_finds_the_likeliest(self, causal_run, source_run):
        choices, texts = ["red", "green or blue", "white"], ["say red", "say black or white or green", "red"]
        for run in (causal_run, source_run):
            model = PromptedModel.load(run)
            scores = [model.score(texts, [choice] * 3, "one") for choice in choices]
            likeliest = [choices[max(range(3), key=lambda c: scores[c][row])] for row in range(3)]
            settings = {"num_beams": 3, "length_penalty": 0.0, "max_new_tokens": 20}
            assert model.generate(texts, "one", choices=choices, **settings) == likeliest

    def test_a_task_can_ask_for_it(self, make_causal_config, tmp_path):
        from omegaconf import OmegaConf

        config = make_causal_config(tasks=["one"], trainer__max_steps=1)
        words = {"red": "red", "green": "green", "blue": "blue", "black": "black", "white": "white"}
        changes = {"labels": {"target": words}, "constrained": True, "metrics": ["accuracy"]}
        config.tasks["one"] = OmegaConf.to_object(OmegaConf.merge(config.tasks["one"], changes))
        train(config, tmp_path / "run")
        lines = (tmp_path / "run" / "predictions" / "one.jsonl").read_text().splitlines()
        assert {json.loads(line)["prediction"] for line in lines} <= set(words)
