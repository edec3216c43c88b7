"""A backbone in 8 or 4 bits: gradients near those of float32; a prompt that is learned, resumed and told apart."""

import pytest
import torch
from torch.nn.functional import cosine_similarity

from mpt import PromptedModel
from mpt.backbone import load_backbone
from mpt.cli.check import check
from mpt.config import BackboneConfig
from mpt.errors import UserError
from mpt.inputs import Inputs
from mpt.run.record import read_metrics
from mpt.training.train import train
from tests.runs import assert_equal, curves, tensors

KINDS = ("int8", "nf4")


def gradient(folder, quantize):
    """The gradient of a prompt by the loss of three texts of the world, of ``(B, N, D)``."""
    backbone = load_backbone(BackboneConfig("tiny", path=folder, quantize=quantize))
    ids, _ = backbone.tokenization.encode_inputs(["anna sold a hat .", "ben found the red drum .", "the mill ."])
    targets, _ = backbone.tokenization.encode_targets(["a hat", "the drum", "mill"])
    longest = max(map(len, ids))
    inputs = torch.tensor([row + [0] * (longest - len(row)) for row in ids])
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in ids])
    labels = torch.tensor([row + [-100] * (max(map(len, targets)) - len(row)) for row in targets])
    words = torch.arange(100, 124).view(3, 8)
    prompts = backbone.word_embeddings(words).detach().requires_grad_()
    backbone.example_losses(Inputs(inputs, mask, prompts), labels).sum().backward()
    assert prompts.grad is not None
    return prompts.grad.flatten()


@pytest.mark.parametrize(("quantize", "least"), [("int8", 0.97), ("nf4", 0.85)])
def test_gradients_of_the_prompt_are_near_those_of_float32(quantize, least):
    assert cosine_similarity(gradient(None, None), gradient(None, quantize), dim=0) > least


@pytest.mark.parametrize("quantize", KINDS)
def test_weights_are_smaller_and_the_same_each_time(quantize):
    whole = load_backbone(BackboneConfig("tiny"))
    first, second = (load_backbone(BackboneConfig("tiny", quantize=quantize)) for _ in range(2))
    assert first.model.get_memory_footprint() < 0.7 * whole.model.get_memory_footprint()
    assert first.fingerprint == second.fingerprint != whole.fingerprint
    assert first.describe()["quantize"] == quantize
    assert "quantize" not in whole.describe()


@pytest.mark.parametrize("quantize", KINDS)
def test_a_folder_that_is_quantized_already_is_loaded_as_it_is_and_not_quantized_again(quantize, tmp_path):
    first = load_backbone(BackboneConfig("tiny", quantize=quantize))
    first.model.save_pretrained(tmp_path)
    first.tokenization.tokenizer.save_pretrained(tmp_path)
    assert load_backbone(BackboneConfig("tiny", path=str(tmp_path))).fingerprint == first.fingerprint
    with pytest.raises(UserError, match=r"backbone\.quantize: .* quantized already, and is loaded as it is; leave"):
        load_backbone(BackboneConfig("tiny", path=str(tmp_path), quantize="nf4"))


def test_each_kind_has_a_fingerprint_of_its_own():
    assert len({load_backbone(BackboneConfig("tiny", quantize=kind)).fingerprint for kind in (None, *KINDS)}) == 3


@pytest.mark.parametrize("family", ["t5", "llama"])
@pytest.mark.parametrize("quantize", KINDS)
def test_a_run_is_learned_stopped_resumed_and_answered(
    family, quantize, make_config, causal_folder, tiny_t5_folder, tmp_path, monkeypatch
):
    path = str(tiny_t5_folder if family == "t5" else causal_folder(family))
    config = make_config(
        backbone__path=path, backbone__quantize=quantize, trainer__max_steps=4, evaluation__validate_every=2,
        tasks__one__max_source_tokens=24, tasks__two__max_source_tokens=24,
    )  # fmt: skip
    train(config, tmp_path / "whole")
    stop = pytest.MonkeyPatch()
    stop.setattr("mpt.training.module.MPTModule.on_train_batch_start", _stop_at_third)
    with pytest.raises(KeyError, match="stopped"):
        train(config, tmp_path / "stopped")
    stop.undo()
    train(config, tmp_path / "stopped")
    assert_equal(tensors(tmp_path / "whole"), tensors(tmp_path / "stopped"))
    assert curves(tmp_path / "whole") == curves(tmp_path / "stopped")
    model = PromptedModel.load(tmp_path / "whole")  # the prompt says how its backbone was quantized
    assert model.backbone.facts.quantize == quantize
    texts = [f"say {word}" for word in ("red", "green", "blue", "black", "white")]
    lines = (tmp_path / "whole" / "predictions" / "one.jsonl").read_text().splitlines()
    assert len(model.generate(texts, "one")) == len(lines) == 5
    assert read_metrics(tmp_path / "whole")["parameters"]["trained"] < 1000


def _stop_at_third(module, batch, index):
    if module.global_step == 3:
        raise KeyError("stopped")


def test_another_quantization_is_refused(make_config, tmp_path):
    train(make_config(backbone__quantize="nf4", trainer__max_steps=1), tmp_path / "source")
    target = make_config("target", ("one",), source=str(tmp_path / "source"), prompt__init="AVERAGE_SOURCE_TASKS")
    with pytest.raises(UserError, match=r"was trained with backbone\.quantize='nf4', and it is None here; use the"):
        train(target, tmp_path / "target")


def test_what_does_not_fit_is_refused(make_config, monkeypatch):
    assert check(make_config(backbone__quantize="int4")) == [
        "backbone.quantize: unknown 'int4'; choose one of int8, nf4 (did you mean 'int8'?)"
    ]
    assert any("method=full trains the weights" in error for error in check(make_config(
        backbone__quantize="nf4", method__name="full", stage="target", tasks=("one",)
    )))  # fmt: skip
    monkeypatch.setattr("mpt.backbone.quantized.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"bitsandbytes and accelerate not installed; pip install 'mpt\[quantized\]'"):
        load_backbone(BackboneConfig("tiny", quantize="nf4"))


@pytest.mark.parametrize("family", ["t5", "llama"])
def test_an_answer_leaves_the_weights_as_they_are(family, tiny_t5_folder, causal_folder):
    path = str(tiny_t5_folder if family == "t5" else causal_folder(family))
    backbone = load_backbone(BackboneConfig("tiny", path=path, quantize="nf4"))
    four_bit = [module for module in backbone.model.modules() if hasattr(module, "support_avx512bf16_for_cpu")]
    assert four_bit
    before = [module.weight.data.clone() for module in four_bit]
    ids, _ = backbone.tokenization.encode_inputs(["say red"])
    inputs = Inputs(torch.tensor(ids), torch.ones(1, len(ids[0]), dtype=torch.long))
    for module in four_bit:  # also where this processor would not rewrite them
        assert not module.support_avx512bf16_for_cpu
    backbone.generate(inputs, max_new_tokens=2)
    assert all(torch.equal(module.weight.data, weight) for module, weight in zip(four_bit, before, strict=True))
