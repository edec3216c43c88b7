"""PEFT and this package in both directions: its config objects, its own code around our layer, its adapters."""

import json

import pytest
import torch
from peft import MultitaskPromptTuningConfig as PeftConfig
from peft import MultitaskPromptTuningInit as PeftInit
from peft import PeftModel, PeftType, TaskType, get_peft_model
from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING
from peft.tuners.multitask_prompt_tuning import MultitaskPromptEmbedding as PeftEmbedding
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

from mpt import PromptedModel
from mpt.artifact import load_prompt
from mpt.artifact.prompt_folder import save_prompt
from mpt.prompt import MultitaskPromptEmbedding, MultitaskPromptTuningConfig, MultitaskPromptTuningInit

IDS = torch.tensor([[9, 8, 7], [20, 30, 40]])
FIELDS = {"input_ids": IDS, "attention_mask": torch.ones_like(IDS), "task_ids": torch.tensor([1, 0])}


@pytest.fixture
def registered():
    """Our class in the place of PEFT's."""
    PEFT_TYPE_TO_TUNER_MAPPING[PeftType.MULTITASK_PROMPT_TUNING] = MultitaskPromptEmbedding
    yield
    PEFT_TYPE_TO_TUNER_MAPPING[PeftType.MULTITASK_PROMPT_TUNING] = PeftEmbedding


@pytest.fixture(params=["causal", "seq2seq"])
def kind(request, causal_folder, tiny_t5_folder):
    """Library class, folder and task type of both kinds of models."""
    return {
        "causal": (AutoModelForCausalLM, causal_folder("gpt2"), "CAUSAL_LM"),
        "seq2seq": (AutoModelForSeq2SeqLM, tiny_t5_folder, "SEQ_2_SEQ_LM"),
    }[request.param]


def config_for(task_type, **changes):
    values = {"num_virtual_tokens": 5, "num_tasks": 3, "num_ranks": 2, "num_transformer_submodules": 1}
    return PeftConfig(task_type=task_type, **(values | changes))


def answers(model, **changes):
    fields = FIELDS | changes
    with torch.no_grad():
        return model.eval().generate(**fields, max_new_tokens=5, min_new_tokens=5, do_sample=False)


def test_the_layer_as_the_method_describes_it(tiny_t5_folder, tmp_path):
    model = AutoModelForSeq2SeqLM.from_pretrained(tiny_t5_folder)
    source = MultitaskPromptEmbedding(
        MultitaskPromptTuningConfig(num_virtual_tokens=20, num_tasks=6, num_ranks=8, token_dim=32)
    )
    save_prompt(
        tmp_path / "prompt", source, task_weights=dict.fromkeys(source.task_names, 1.0),
        backbone={"name": "t5", "fingerprint": ""},
    )  # fmt: skip
    path = str(tmp_path / "prompt" / "adapter_model.safetensors")
    for make, init in ((MultitaskPromptTuningConfig, MultitaskPromptTuningInit), (PeftConfig, PeftInit)):
        config = make(
            task_type=TaskType.SEQ_2_SEQ_LM, num_tasks=3, num_virtual_tokens=20, num_ranks=8,
            num_transformer_submodules=1, token_dim=32,
            prompt_tuning_init=init.AVERAGE_SOURCE_TASKS, prompt_tuning_init_state_dict_path=path,
        )  # fmt: skip
        layer = MultitaskPromptEmbedding(config, model.get_input_embeddings())
        prompts = layer(torch.arange(20).expand(4, 20), torch.tensor([0, 2, 1, 0]))
        assert prompts.shape == (4, 20, 32)
        mean = source.prefix_task_cols.mean(0) @ source.prefix_task_rows.mean(0)
        torch.testing.assert_close(prompts[0], source.embedding.weight * mean)
        outputs = model(inputs_embeds=prompts, decoder_input_ids=torch.zeros(4, 1, dtype=torch.long))
        outputs.logits.sum().backward()
        assert layer.prefix_task_rows.grad.abs().sum() > 0


@pytest.mark.usefixtures("registered")
class TestOurClassUnderPeft:
    def test_it_starts_with_pefts_numbers_and_gives_its_logits(self, kind):
        library, folder, task_type = kind
        torch.manual_seed(7)
        ours = get_peft_model(library.from_pretrained(folder), config_for(task_type))
        assert isinstance(ours.prompt_encoder["default"], MultitaskPromptEmbedding)
        PEFT_TYPE_TO_TUNER_MAPPING[PeftType.MULTITASK_PROMPT_TUNING] = PeftEmbedding
        torch.manual_seed(7)
        theirs = get_peft_model(library.from_pretrained(folder), config_for(task_type))
        for name, parameter in theirs.prompt_encoder["default"].named_parameters():
            assert torch.equal(parameter, ours.prompt_encoder["default"].get_parameter(name))
        assert torch.equal(ours.eval()(**FIELDS, labels=IDS).logits, theirs.eval()(**FIELDS, labels=IDS).logits)
        assert torch.equal(answers(ours), answers(theirs))

    def test_peft_trains_saves_and_loads_it(self, kind, tmp_path):
        library, folder, task_type = kind
        model = get_peft_model(library.from_pretrained(folder), config_for(task_type))
        model(**FIELDS, labels=IDS).loss.backward()
        encoder = model.prompt_encoder["default"]
        with torch.no_grad():
            for parameter in encoder.parameters():
                assert parameter.grad.abs().sum() > 0
                parameter.add_(torch.randn_like(parameter))
        model.save_pretrained(tmp_path / "adapter")
        assert len(load_file(tmp_path / "adapter" / "adapter_model.safetensors")) == 3
        again = PeftModel.from_pretrained(library.from_pretrained(folder), tmp_path / "adapter")
        for name, parameter in encoder.named_parameters():
            assert torch.equal(parameter, again.prompt_encoder["default"].get_parameter(name))
        assert torch.equal(answers(model), answers(again))

    @pytest.mark.parametrize("init", ["AVERAGE_SOURCE_TASKS", "EXACT_SOURCE_TASK", "ONLY_SOURCE_SHARED"])
    @pytest.mark.parametrize("safe", [True, False])
    def test_a_target_starts_from_a_saved_source(self, kind, tmp_path, init, safe):
        library, folder, task_type = kind
        source = get_peft_model(library.from_pretrained(folder), config_for(task_type))
        source.save_pretrained(tmp_path, safe_serialization=safe)
        path = tmp_path / ("adapter_model.safetensors" if safe else "adapter_model.bin")
        config = config_for(
            task_type, num_tasks=1, prompt_tuning_init=PeftInit(init), prompt_tuning_init_state_dict_path=str(path)
        )
        target = get_peft_model(library.from_pretrained(folder), config).prompt_encoder["default"]
        assert torch.equal(target.embedding.weight, source.prompt_encoder["default"].embedding.weight)

    def test_what_it_does_not_take_is_refused(self, tiny_t5_folder, causal_folder):
        model = AutoModelForSeq2SeqLM.from_pretrained(tiny_t5_folder)
        with pytest.raises(ValueError, match="num_transformer_submodules: is 2; it must be 1, since generate"):
            get_peft_model(model, config_for("SEQ_2_SEQ_LM", num_transformer_submodules=2))
        causal = get_peft_model(AutoModelForCausalLM.from_pretrained(causal_folder("gpt2")), config_for("CAUSAL_LM"))
        with pytest.raises(ValueError, match="task_ids cannot be None"):
            causal.generate(input_ids=IDS, attention_mask=torch.ones_like(IDS), max_new_tokens=2)

    def test_bfloat16_models_keep_a_float32_prompt(self, causal_folder):
        model = AutoModelForCausalLM.from_pretrained(causal_folder("llama"), dtype=torch.bfloat16)
        wrapped = get_peft_model(model, config_for("CAUSAL_LM"))
        assert wrapped.prompt_encoder["default"].embedding.weight.dtype == torch.float32
        assert answers(wrapped).shape[1] == 8


FORMS = {
    "product": {},
    "residual": {"form": "residual"},
    "additive": {"form": "additive"},
    "single": {"form": "single"},
    "independent": {"form": "independent"},
    "grouped": {"num_groups": 2, "task_groups": [1, 0, 1]},
}


@pytest.mark.parametrize("form", FORMS)
class TestEveryForm:
    def test_peft_answers_as_our_prompt(self, form, kind, tmp_path):
        library, folder, task_type = kind
        names = ["a", "b", "c"]
        config = MultitaskPromptTuningConfig(
            task_type=task_type, num_virtual_tokens=4, num_ranks=2, token_dim=32, task_names=names,
            factor_std=0.5, **FORMS[form],
        )  # fmt: skip
        prompt = MultitaskPromptEmbedding(config)
        backbone = {"name": str(folder), "fingerprint": ""}
        save_prompt(tmp_path / "ours", prompt, task_weights=dict.fromkeys(names, 1.0), backbone=backbone)
        theirs = PeftModel.from_pretrained(library.from_pretrained(folder), tmp_path / "ours").eval()
        model = PromptedModel.load(tmp_path / "ours")
        for text, target, task_id in (("anna found a hat", "ben", 2), ("clara", "a red drum", 0)):
            (ids,), _ = model.backbone.tokenization.encode_inputs([text])
            (labels,), _ = model.backbone.tokenization.encode_targets([target])
            which = torch.tensor([task_id])
            tensors = torch.tensor([ids]), torch.ones(1, len(ids)).long(), torch.tensor([labels])
            ours = model.logits(*tensors, which)
            with torch.no_grad():
                if task_type == "CAUSAL_LM":
                    whole = theirs(input_ids=torch.tensor([ids + labels]), task_ids=which).logits
                    expected = whole[:, -len(labels) - 1 : -1]
                else:
                    expected = theirs(
                        input_ids=tensors[0], attention_mask=tensors[1], labels=tensors[2], task_ids=which
                    ).logits
            torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)
            found = answers(theirs, input_ids=tensors[0], attention_mask=tensors[1], task_ids=which)[0]
            found = found[len(ids) :] if task_type == "CAUSAL_LM" else found
            text_of_answer = model.tokenizer.decode(found, skip_special_tokens=True).strip()
            settings = {"max_new_tokens": 5, "min_new_tokens": 5}
            assert model.generate([text], names[task_id], **settings) == [text_of_answer]
        theirs.save_pretrained(tmp_path / "back")
        before, after = (load_file(tmp_path / place / "adapter_model.safetensors") for place in ("ours", "back"))
        assert before.keys() == after.keys()
        assert all(torch.equal(before[name], after[name]) for name in before)


class TestRoundTrip:
    def test_an_adapter_by_peft_changes_no_bit(self, kind, tmp_path):
        library, folder, task_type = kind
        theirs = get_peft_model(library.from_pretrained(folder), config_for(task_type))
        theirs.save_pretrained(tmp_path / "theirs")
        saved = load_prompt(tmp_path / "theirs")
        assert saved.prompt.config.task_type == task_type
        save_prompt(tmp_path / "ours", saved.prompt, task_weights=saved.task_weights, backbone=saved.backbone)
        before, after = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("theirs", "ours"))
        assert before.keys() == after.keys()
        assert all(torch.equal(before[name], after[name]) for name in before)
        back = PeftModel.from_pretrained(library.from_pretrained(folder), tmp_path / "ours")
        assert torch.equal(answers(theirs), answers(back))

    def test_an_adapter_by_peft_answers_here(self, kind, tmp_path):
        library, folder, task_type = kind
        theirs = get_peft_model(library.from_pretrained(folder), config_for(task_type))
        with torch.no_grad():
            theirs.prompt_encoder["default"].prefix_task_cols.mul_(50)
        theirs.save_pretrained(tmp_path)
        model = PromptedModel.load(tmp_path)
        assert str(model.backbone.location) == str(folder)
        (ids,), _ = model.backbone.tokenization.encode_inputs(["anna found a hat"])
        found = answers(
            theirs, input_ids=torch.tensor([ids]), attention_mask=torch.ones(1, len(ids)).long(),
            task_ids=torch.tensor([2]),
        )  # fmt: skip
        answer = found[0, len(ids) :] if task_type == "CAUSAL_LM" else found[0]
        text = model.tokenizer.decode(answer, skip_special_tokens=True).strip()
        assert model.generate(["anna found a hat"], "task_2", max_new_tokens=5, min_new_tokens=5) == [text]

    def test_a_decoders_prompt_is_dropped_only_on_request(self, tiny_t5_folder, tmp_path):
        theirs = get_peft_model(
            AutoModelForSeq2SeqLM.from_pretrained(tiny_t5_folder),
            config_for("SEQ_2_SEQ_LM", num_transformer_submodules=2),
        )
        with torch.no_grad():
            theirs.prompt_encoder["default"].prefix_task_cols.mul_(50)
        theirs.save_pretrained(tmp_path / "two")
        with pytest.raises(
            ValueError, match=r"num_transformer_submodules is 2; .*drop_decoder_prompt=True keeps the encoder's"
        ):
            load_prompt(tmp_path / "two")
        saved = load_prompt(tmp_path / "two", drop_decoder_prompt=True)
        save_prompt(tmp_path / "one", saved.prompt, task_weights=saved.task_weights, backbone=saved.backbone)
        one = PeftModel.from_pretrained(AutoModelForSeq2SeqLM.from_pretrained(tiny_t5_folder), tmp_path / "one")
        assert json.loads((tmp_path / "one" / "adapter_config.json").read_text())["num_transformer_submodules"] == 1
        assert torch.equal(answers(one), answers(theirs))  # generate() of PEFT never used the decoder's
