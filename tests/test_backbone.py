"""The frozen backbone: prompts in front, losses and answers as transformers gives them."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForSeq2SeqLM

from mpt.backbone import Backbone, buckets, interface, load_backbone
from mpt.config import BackboneConfig


@pytest.fixture(scope="module")
def backbone(tiny_t5_folder: Path) -> Backbone:
    return load_backbone(BackboneConfig(name="t5", path=str(tiny_t5_folder)))


def batch(backbone: Backbone) -> tuple[Tensor, Tensor, Tensor]:
    inputs = backbone.tokenizer(
        ["anna found the red hat in the mill .", "ben ."], padding=True, return_tensors="pt"
    )
    labels = backbone.tokenizer(["the hat", "ben lost a drum"], padding=True, return_tensors="pt")
    masked = labels["input_ids"].masked_fill(labels["attention_mask"] == 0, -100)
    return inputs["input_ids"], inputs["attention_mask"], masked


def test_nothing_requires_a_gradient_and_the_width_is_the_embeddings(backbone: Backbone) -> None:
    assert not any(parameter.requires_grad for parameter in backbone.parameters())
    assert backbone.token_dim == backbone.word_embeddings.weight.shape[1] == 32


def test_loss_without_prompt_is_the_models_own(backbone: Backbone) -> None:
    input_ids, mask, labels = batch(backbone)
    own = backbone.model(input_ids=input_ids, attention_mask=mask, labels=labels).loss
    ours = backbone.example_losses(input_ids, mask, labels).sum() / (labels != -100).sum()
    torch.testing.assert_close(ours, own)


def test_row_does_not_depend_on_what_pads_it(backbone: Backbone) -> None:
    input_ids, mask, labels = batch(backbone)
    prompts = torch.randn(2, 5, 32)
    together = backbone.example_losses(input_ids, mask, labels, prompts)
    length = int(mask[1].sum())
    alone = backbone.example_losses(input_ids[1:, :length], mask[1:, :length], labels[1:], prompts[1:])
    torch.testing.assert_close(together[1:], alone)


def test_prompt_of_embedded_tokens_equals_those_tokens_in_front(backbone: Backbone) -> None:
    input_ids, mask, labels = batch(backbone)
    front = torch.tensor([[5, 9, 12]]).expand(2, 3)
    prompted = backbone.logits(input_ids, mask, labels, backbone.word_embeddings(front))
    typed = backbone.logits(
        torch.cat([front, input_ids], 1), torch.cat([front.new_ones(2, 3), mask], 1), labels
    )
    torch.testing.assert_close(prompted, typed)
    generated = backbone.generate(input_ids, mask, backbone.word_embeddings(front), max_new_tokens=6)
    written = backbone.generate(
        torch.cat([front, input_ids], 1), torch.cat([front.new_ones(2, 3), mask], 1), max_new_tokens=6
    )
    assert generated == written


def test_generation_equals_the_encoder_outputs_route(backbone: Backbone) -> None:
    input_ids, mask, _ = batch(backbone)
    prompts = torch.randn(2, 5, 32)
    embeds = torch.cat([prompts, backbone.word_embeddings(input_ids)], dim=1)
    whole = torch.cat([mask.new_ones(2, 5), mask], dim=1)
    encoded = backbone.model.get_encoder()(inputs_embeds=embeds, attention_mask=whole)
    answers = backbone.model.generate(
        encoder_outputs=encoded, attention_mask=whole, max_new_tokens=8, do_sample=False
    )
    expected = [text.strip() for text in backbone.tokenizer.batch_decode(answers, skip_special_tokens=True)]
    assert backbone.generate(input_ids, mask, prompts, max_new_tokens=8) == expected


def test_gradient_reaches_the_prompt_alone(backbone: Backbone) -> None:
    prompts = torch.randn(2, 5, 32, requires_grad=True)
    backbone.example_losses(*batch(backbone), prompts).sum().backward()
    assert prompts.grad is not None
    assert prompts.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in backbone.parameters())


def test_dropout_is_an_option_and_generation_leaves_the_mode(tiny_t5_folder: Path) -> None:
    for dropout in (True, False):
        backbone = load_backbone(BackboneConfig(name="t5", path=str(tiny_t5_folder), dropout=dropout)).train()
        input_ids, mask, labels = batch(backbone)
        losses = [backbone.example_losses(input_ids, mask, labels) for _ in range(2)]
        assert torch.equal(*losses) != dropout
        backbone.generate(input_ids, mask, max_new_tokens=2)
        assert backbone.model.training == dropout


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_fingerprint_is_the_weights_whatever_the_dtype(
    backbone: Backbone, tiny_t5_folder: Path, dtype: str
) -> None:
    smaller = load_backbone(BackboneConfig(name="t5", path=str(tiny_t5_folder), dtype=dtype))
    assert smaller.word_embeddings.weight.dtype == getattr(torch, dtype)
    assert smaller.fingerprint == backbone.fingerprint


def test_fingerprint_tells_other_weights_apart(
    backbone: Backbone, tiny_t5_folder: Path, tmp_path: Path
) -> None:
    model = AutoModelForSeq2SeqLM.from_pretrained(tiny_t5_folder)
    with torch.no_grad():
        model.decoder.block[0].layer[0].SelfAttention.q.weight[0, 0].neg_()
    shutil.copytree(tiny_t5_folder, tmp_path / "other")
    model.save_pretrained(tmp_path / "other")
    other = load_backbone(BackboneConfig(name="t5", path=str(tmp_path / "other")))
    assert other.fingerprint != backbone.fingerprint


def test_embedded_backbone_loads_within_its_eight_megabytes() -> None:
    backbone = load_backbone(BackboneConfig(name="tiny"))
    assert backbone.name == "tiny"
    folder = Path("mpt/world/tiny")
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 8_000_000
    assert {"README.md", "config.json", "model.safetensors", "tokenizer.json"} <= {
        p.name for p in folder.iterdir()
    }
    assert (
        backbone.tokenizer.unk_token_id
        not in backbone.tokenizer("summarize : anna found the hat .")["input_ids"]
    )


def test_missing_pieces_of_a_folder_are_named(tiny_t5_folder: Path, tmp_path: Path) -> None:
    def load(folder: Path) -> None:
        load_backbone(BackboneConfig(name="t5", path=str(folder)))

    with pytest.raises(FileNotFoundError, match="no folder"):
        load(tmp_path / "nowhere")
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        broken = tmp_path / f"without-{name}"
        shutil.copytree(tiny_t5_folder, broken)
        (broken / name).unlink()
        with pytest.raises(FileNotFoundError, match=r"safetensors" if name.startswith("model") else name):
            load(broken)


def test_other_architectures_and_dtypes_are_refused(tmp_path: Path, tiny_t5_folder: Path) -> None:
    shutil.copytree(tiny_t5_folder, tmp_path / "other")
    (tmp_path / "other" / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(
        ValueError, match=r"is a 'bert' model; choose one of the encoder-decoders t5, .* llama"
    ):
        load_backbone(BackboneConfig(name="t5", path=str(tmp_path / "other")))
    with pytest.raises(ValueError, match="unknown value 'int8'; choose one of float32"):
        load_backbone(BackboneConfig(name="t5", path=str(tiny_t5_folder), dtype="int8"))


def test_weights_that_are_not_there_are_not_drawn_at_random(tmp_path: Path, tiny_t5_folder: Path) -> None:
    shutil.copytree(tiny_t5_folder, tmp_path / "other")
    (tmp_path / "other" / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    with pytest.raises(ValueError, match=r"lacks \d+ of the weights that a gpt2 has"):
        load_backbone(BackboneConfig(name="t5", path=str(tmp_path / "other")))


def test_hub_that_cannot_be_reached_says_what_to_do() -> None:
    with pytest.raises(
        FileNotFoundError, match=r"backbone\.name: 'google-t5/t5-small' cannot be loaded .*backbone\.path"
    ):
        load_backbone(BackboneConfig(name="google-t5/t5-small"))


class TestCost:
    """Neither cutting a batch by length nor computing its logits in parts changes a loss or a gradient."""

    def ragged(self, backbone: Backbone) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        generator = torch.Generator().manual_seed(1)
        inputs, targets = torch.tensor([5, 60, 3, 41, 7, 6, 58, 4]), torch.tensor([2, 9, 1, 30, 2, 3, 4, 28])
        ids = torch.randint(3, 90, (8, 60), generator=generator)
        mask = (torch.arange(60) < inputs[:, None]).long()
        labels = torch.randint(3, 90, (8, 30), generator=generator)
        labels = labels.masked_fill(torch.arange(30) >= targets[:, None], -100)
        prompts = torch.randn(8, 5, backbone.token_dim, generator=generator)
        return ids * mask, mask, labels, prompts

    def losses(self, backbone: Backbone) -> tuple[Tensor, Tensor]:
        ids, mask, labels, prompts = self.ragged(backbone)
        prompts.requires_grad_()
        found = backbone.example_losses(ids, mask, labels, prompts)
        found.sum().backward()
        assert prompts.grad is not None
        return found.detach(), prompts.grad

    @pytest.mark.parametrize("family", ["t5", "gpt2", "llama", "gemma2"])
    def test_losses_and_gradients_are_the_same(
        self, family: str, backbone: Backbone, causal_folder, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        if family != "t5":
            backbone = load_backbone(BackboneConfig(name="lm", path=str(causal_folder(family))))
        monkeypatch.setattr(buckets, "PER_FORWARD", 10**9)
        plain = self.losses(backbone)
        calls: list[int] = []
        logits = type(backbone).logits

        def count(self: Backbone, *rows: Tensor) -> Tensor:
            calls.append(len(rows[0]))
            return logits(self, *rows)

        monkeypatch.setattr(type(backbone), "logits", count)
        for per_forward, at_once in ((1, interface.LOGITS_AT_ONCE), (10**9, 700), (1, 700)):
            calls.clear()
            monkeypatch.setattr(buckets, "PER_FORWARD", per_forward)
            monkeypatch.setattr(interface, "LOGITS_AT_ONCE", at_once)
            found = self.losses(backbone)
            assert sum(calls) == 8
            assert (len(calls) > 1) == (per_forward == 1)
            torch.testing.assert_close(found[0], plain[0], rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(found[1], plain[1], rtol=1e-3, atol=1e-4)
        assert backbone.vocabulary > 90  # the output layer is in its place again

    @pytest.mark.parametrize("family", ["t5", "gpt2", "llama"])
    def test_recomputed_activations_change_nothing(
        self, family: str, tiny_t5_folder: Path, causal_folder
    ) -> None:
        folder = tiny_t5_folder if family == "t5" else causal_folder(family)
        found, kept = [], []
        for checkpointing in (False, True):
            config = BackboneConfig(name="lm", path=str(folder), dropout=False, checkpointing=checkpointing)
            backbone = load_backbone(config).train()
            saved: list[int] = []

            def pack(tensor: Tensor, saved: list[int] = saved) -> Tensor:
                saved.append(tensor.numel())
                return tensor

            with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
                found.append(self.losses(backbone))
            kept.append(sum(saved))
            ids, mask, _, prompts = self.ragged(backbone)
            backbone.generate(ids, mask, prompts, max_new_tokens=2)
            assert not any(m.training for m in backbone.model.modules() if isinstance(m, torch.nn.Dropout))
            assert any(m.training for m in backbone.model.modules()) == checkpointing
        torch.testing.assert_close(found[0], found[1])
        assert kept[1] < kept[0]

    def test_batches_are_cut_only_where_it_pays(self) -> None:
        even, one = torch.full((32,), 40), torch.ones(32, dtype=torch.long)
        assert buckets.length_buckets(even, one, 20) == [list(range(32))]
        ragged = torch.cat([torch.full((24,), 30), torch.full((8,), 350)])
        parts = buckets.length_buckets(ragged, one, 20)
        assert len(parts) == 4
        assert sorted(row for part in parts for row in part) == list(range(32))
        assert set(parts[-1]) == set(range(24, 32))
