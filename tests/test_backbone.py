"""The frozen backbone: prompts in front, losses and answers as transformers gives them."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from mpt.backbone import Backbone, buckets, frozen, kept, load_backbone, load_tokenization
from mpt.backbone.sampling import sample_by_row
from mpt.backbone.tokenization import CausalTokenization, Tokenization
from mpt.config import BackboneConfig, TaskConfig
from mpt.data.tokenize import check_labels, tokenize
from mpt.inputs import Inputs
from mpt.tasks import Example


@pytest.fixture(scope="module")
def backbone(tiny_t5_folder: Path) -> Backbone:
    return load_backbone(BackboneConfig(name="t5", path=str(tiny_t5_folder)))


def batch(backbone: Backbone) -> tuple[Tensor, Tensor, Tensor]:
    inputs = backbone.tokenizer(["anna found the red hat in the mill .", "ben ."], padding=True, return_tensors="pt")
    labels = backbone.tokenizer(["the hat", "ben lost a drum"], padding=True, return_tensors="pt")
    masked = labels["input_ids"].masked_fill(labels["attention_mask"] == 0, -100)
    return inputs["input_ids"], inputs["attention_mask"], masked


def test_nothing_requires_a_gradient_and_the_width_is_the_embeddings(backbone: Backbone) -> None:
    assert not any(parameter.requires_grad for parameter in backbone.parameters())
    assert backbone.token_dim == backbone.word_embeddings.weight.shape[1] == 32


def test_loss_without_prompt_is_the_models_own(backbone: Backbone) -> None:
    input_ids, mask, labels = batch(backbone)
    own = backbone.model(input_ids=input_ids, attention_mask=mask, labels=labels).loss
    ours = backbone.example_losses(Inputs(input_ids, mask), labels).sum() / (labels != -100).sum()
    torch.testing.assert_close(ours, own)


def test_row_does_not_depend_on_what_pads_it(backbone: Backbone) -> None:
    input_ids, mask, labels = batch(backbone)
    prompts = torch.randn(2, 5, 32)
    together = backbone.example_losses(Inputs(input_ids, mask, prompts), labels)
    length = int(mask[1].sum())
    alone = backbone.example_losses(Inputs(input_ids[1:, :length], mask[1:, :length], prompts[1:]), labels[1:])
    torch.testing.assert_close(together[1:], alone)


def test_prompt_of_embedded_tokens_equals_those_tokens_in_front(backbone: Backbone) -> None:
    input_ids, mask, labels = batch(backbone)
    front = torch.tensor([[5, 9, 12]]).expand(2, 3)
    prompted = backbone.logits(Inputs(input_ids, mask, backbone.word_embeddings(front)), labels)
    whole = Inputs(torch.cat([front, input_ids], 1), torch.cat([front.new_ones(2, 3), mask], 1))
    typed = backbone.logits(whole, labels)
    torch.testing.assert_close(prompted, typed)
    generated = backbone.generate(Inputs(input_ids, mask, backbone.word_embeddings(front)), max_new_tokens=6)
    assert generated == backbone.generate(whole, max_new_tokens=6)


def test_generation_equals_the_encoder_outputs_route(backbone: Backbone) -> None:
    input_ids, mask, _ = batch(backbone)
    prompts = torch.randn(2, 5, 32)
    embeds = torch.cat([prompts, backbone.word_embeddings(input_ids)], dim=1)
    whole = torch.cat([mask.new_ones(2, 5), mask], dim=1)
    encoded = backbone.model.get_encoder()(inputs_embeds=embeds, attention_mask=whole)
    answers = backbone.model.generate(encoder_outputs=encoded, attention_mask=whole, max_new_tokens=8, do_sample=False)
    expected = [text.strip() for text in backbone.tokenizer.batch_decode(answers, skip_special_tokens=True)]
    assert backbone.generate(Inputs(input_ids, mask, prompts), max_new_tokens=8) == expected


def test_gradient_reaches_the_prompt_alone(backbone: Backbone) -> None:
    prompts = torch.randn(2, 5, 32, requires_grad=True)
    ids, mask, labels = batch(backbone)
    backbone.example_losses(Inputs(ids, mask, prompts), labels).sum().backward()
    assert prompts.grad is not None
    assert prompts.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in backbone.parameters())


def test_dropout_is_an_option_and_generation_leaves_the_mode(tiny_t5_folder: Path) -> None:
    for dropout in (True, False):
        backbone = load_backbone(BackboneConfig(name="t5", path=str(tiny_t5_folder), dropout=dropout)).train()
        input_ids, mask, labels = batch(backbone)
        losses = [backbone.example_losses(Inputs(input_ids, mask), labels) for _ in range(2)]
        assert torch.equal(*losses) != dropout
        backbone.generate(Inputs(input_ids, mask), max_new_tokens=2)
        assert backbone.model.training == dropout


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_fingerprint_is_the_weights_whatever_the_dtype(backbone: Backbone, tiny_t5_folder: Path, dtype: str) -> None:
    smaller = load_backbone(BackboneConfig(name="t5", path=str(tiny_t5_folder), dtype=dtype))
    assert smaller.word_embeddings.weight.dtype == getattr(torch, dtype)
    assert smaller.fingerprint == backbone.fingerprint


def test_fingerprint_tells_other_weights_apart(backbone: Backbone, tiny_t5_folder: Path, tmp_path: Path) -> None:
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
    assert {"README.md", "config.json", "model.safetensors", "tokenizer.json"} <= {p.name for p in folder.iterdir()}
    assert backbone.tokenizer.unk_token_id not in backbone.tokenizer("summarize : anna found the hat .")["input_ids"]


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
    with pytest.raises(ValueError, match=r"is a 'bert' model; choose one of the encoder-decoders t5, .* llama"):
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
        found = backbone.example_losses(Inputs(ids, mask, prompts), labels)
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

        def count(self: Backbone, inputs: Inputs, labels: Tensor) -> Tensor:
            calls.append(len(inputs))
            return logits(self, inputs, labels)

        monkeypatch.setattr(type(backbone), "logits", count)
        for per_forward, at_once in ((1, frozen.LOGITS_AT_ONCE), (10**9, 700), (1, 700)):
            calls.clear()
            monkeypatch.setattr(buckets, "PER_FORWARD", per_forward)
            monkeypatch.setattr(frozen, "LOGITS_AT_ONCE", at_once)
            found = self.losses(backbone)
            assert sum(calls) == 8
            assert (len(calls) > 1) == (per_forward == 1)
            torch.testing.assert_close(found[0], plain[0], rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(found[1], plain[1], rtol=1e-3, atol=1e-4)
        assert backbone.vocabulary > 90  # the output layer is in its place again

    @pytest.mark.parametrize("family", ["t5", "gpt2", "llama"])
    def test_recomputed_activations_change_nothing(self, family: str, tiny_t5_folder: Path, causal_folder) -> None:
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
            backbone.generate(Inputs(ids, mask, prompts), max_new_tokens=2)
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


class TestDecoding:
    TEXTS = ("it 's good !", "i do n't know , really .", "a ( b ) : c ?")

    @pytest.fixture
    def cleaning(self, tiny_t5_folder: Path, tmp_path: Path) -> Path:
        """A tokenizer that cleans up by itself, as that of T5."""
        folder = tmp_path / "cleaning"
        shutil.copytree(tiny_t5_folder, folder)
        path = folder / "tokenizer_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"clean_up_tokenization_spaces": True}))
        return folder

    def test_spaces_before_signs_stay(self, cleaning: Path) -> None:
        tokenization = load_tokenization(BackboneConfig(name="t", path=str(cleaning)))
        assert tokenization.tokenizer.clean_up_tokenization_spaces
        texts = [
            text
            for text in self.TEXTS
            if tokenization.tokenizer.unk_token_id not in tokenization.encode_targets([text])[0][0]
        ]
        ids, _ = tokenization.encode_targets(["ben ran .", *texts])
        assert tokenization.decode(ids) == ["ben ran .", *texts]

    @pytest.mark.parametrize("label", ["gr\N{SNOWMAN}en", "\N{LATIN SMALL LIGATURE FI}re", "{red}"])
    def test_a_label_that_is_not_given_back_is_refused(self, backbone: Backbone, label: str) -> None:
        examples = [Example(f"train:{i}", "a", word, (word,), word) for i, word in enumerate((label, "red"))]
        with pytest.raises(ValueError, match=r"tasks\.t\.labels: the tokenizer gives .* back as"):
            check_labels("t", examples, backbone.tokenization, TaskConfig())

    def test_a_label_that_is_cut_is_refused(self, backbone: Backbone) -> None:
        word = "the red hat in the mill and the park"
        examples = [Example("train:0", "a", word, (word,), word)]
        with pytest.raises(ValueError, match=r"and would be cut; set tasks\.t\.max_target_tokens to \d+ or more"):
            check_labels("t", examples, backbone.tokenization, TaskConfig(max_target_tokens=4))

    def test_the_share_of_targets_that_is_given_back(self, backbone: Backbone) -> None:
        examples = [
            Example(f"test:{i}", "a", text, (text,))
            for i, text in enumerate(("red", "\N{LATIN SMALL LIGATURE FI}re", "blue", "\N{SNOWMAN}"))
        ]
        assert tokenize(examples, backbone.tokenization, TaskConfig()).kept_targets == 0.5

    @pytest.mark.parametrize("token", ["</s>", "<pad>"])
    def test_a_control_token_in_the_data_is_refused_with_its_row(self, backbone: Backbone, token: str) -> None:
        for fields in ({"input": f"say {token} red", "target": "red"}, {"input": "say red", "target": token + " red"}):
            example = Example("train:7", references=(fields["target"],), **fields)
            with pytest.raises(ValueError, match=rf"train:7: the (input|target) holds '{token}'"):
                tokenize([example], backbone.tokenization, TaskConfig())

    def test_a_control_token_that_can_be_written_as_text_is_text(self, causal_folder: Callable[[str], Path]) -> None:
        tokenization = load_tokenization(BackboneConfig(name="lm", path=str(causal_folder("llama"))))
        text = "say <end> and <turn> ."
        assert tokenization.control_token(text) is None
        (ids,), _ = tokenization.encode_targets([text])
        assert ids.count(tokenization.tokenizer.eos_token_id) == 1
        assert tokenization.decode([ids]) == [text]


def test_greedy_is_greedy_whatever_the_model_is_wont_to(tiny_t5_folder: Path, tmp_path: Path) -> None:
    """Penalties, lengths and samplings of its generation_config.json; only its special tokens count."""
    folder = tmp_path / "habits"
    shutil.copytree(tiny_t5_folder, folder)
    habits = {
        "repetition_penalty": 5.0, "min_length": 12, "no_repeat_ngram_size": 1, "num_beams": 3, "do_sample": True,
        "temperature": 9.0, "length_penalty": 3.0, "suppress_tokens": [5, 6, 7], "forced_eos_token_id": 9,
        "encoder_repetition_penalty": 2.0, "bad_words_ids": [[8], [9]], "begin_suppress_tokens": [10],
    }  # fmt: skip
    path = folder / "generation_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | habits))
    plain, other = (load_backbone(BackboneConfig("t", path=str(each))) for each in (tiny_t5_folder, folder))
    ids, _ = plain.tokenization.encode_inputs(["anna found the red hat in the mill ."])
    tokens = (torch.tensor(ids), torch.ones(1, len(ids[0]), dtype=torch.long))
    prompts = torch.randn(1, 5, plain.token_dim, generator=torch.Generator().manual_seed(0)) * 3
    inputs = Inputs(*tokens, prompts)
    assert other.generate(inputs, max_new_tokens=20) == plain.generate(inputs, max_new_tokens=20)
    # By hand: the likeliest token after the other.
    written: list[int] = []
    while len(written) < 20 and (not written or written[-1] != plain.tokenizer.eos_token_id):
        logits = plain.logits(inputs, torch.tensor([[*written, 0]]))
        written.append(int(logits[0, -1].argmax()))
    assert plain.generate(inputs, max_new_tokens=20) == plain.tokenization.decode([written])


def test_what_is_sampled_has_the_models_own_probabilities(backbone: Backbone) -> None:
    """The first token of many samples against the softmax; each row alike in every batch."""
    ids, _ = backbone.tokenization.encode_inputs(["anna found the red hat ."])
    inputs = Inputs(torch.tensor(ids), torch.ones(1, len(ids[0]), dtype=torch.long))
    logits = backbone.logits(inputs, torch.zeros(1, 1, dtype=torch.long))[0, 0]
    expected = torch.softmax(logits / 0.5, 0)
    processor = sample_by_row({"do_sample": True, "temperature": 0.5}, ids * 4000, 0)["logits_processor"]
    # Rows of one text have one seed, so the text is told apart by a number here.
    many = sample_by_row({"do_sample": True, "temperature": 0.5}, [[*ids[0], i] for i in range(4000)], 0)[
        "logits_processor"
    ]
    drawn = many(None, logits.expand(4000, -1)).argmax(1)
    found = torch.bincount(drawn, minlength=len(expected)) / 4000
    assert float((found - expected).abs().sum()) / 2 < 0.08
    assert processor(None, logits.expand(4000, -1)).argmax(1).unique().numel() == 1


class LlamaTwo:
    """As Llama 2's tokenizer: a text of its own begins with a mark that it has nowhere else."""

    eos_token_id, unk_token_id, chat_template = 2, 0, None
    all_special_tokens: ClassVar = ["<s>", "</s>"]
    all_special_ids: ClassVar = [1, 2]

    def __call__(self, texts, *, add_special_tokens, **_):
        begin = [1] if add_special_tokens else []
        return {"input_ids": [[*begin, 29871, *(100 + ord(letter) for letter in text)] for text in texts]}


def test_a_cut_input_ends_as_an_uncut_one() -> None:
    tokenization = CausalTokenization(LlamaTwo(), "\n")
    (whole,), _ = tokenization.encode_inputs(["abcdef"])
    (short,), cut = tokenization.encode_inputs(["abcdef"], 6)
    assert cut == [0]
    assert short == [*whole[:5], whole[-1]]


def test_a_kept_backbone_is_copied_and_what_is_trained_in_a_copy_stays_there(
    tiny_t5_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[BackboneConfig] = []

    def count(config: BackboneConfig) -> frozen.FrozenModel:
        loaded.append(config)
        return load_backbone(config)

    monkeypatch.setattr(kept, "load_backbone", count)
    config = BackboneConfig("tiny", path=str(tiny_t5_folder))
    whole = load_backbone(config)
    with kept.keep_backbone():
        first = kept.load_or_copy(config)
        for parameter in first.model.parameters():
            parameter.data.zero_()
        second = kept.load_or_copy(config)
        assert len(loaded) == 1
        for name, parameter in second.model.state_dict().items():
            assert torch.equal(parameter, whole.model.state_dict()[name])
        kept.load_or_copy(BackboneConfig("tiny", path=str(tiny_t5_folder), dtype="bfloat16"))
        assert len(loaded) == 2
    assert kept.load_or_copy(config) is not kept.load_or_copy(config)
    assert len(loaded) == 4


@pytest.mark.parametrize("family", ["t5", "llama", "gpt2"])
def test_many_texts_are_written_as_few(family, tiny_t5_folder, causal_folder, monkeypatch):
    tokenizer = AutoTokenizer.from_pretrained(tiny_t5_folder if family == "t5" else causal_folder(family))
    texts = ["say red", "", "  two  spaces ", "é ü ☃ unknown", "a </s> b <end> c <start>", "say blue or green " * 40]
    kinds = [Tokenization(tokenizer)] if family == "t5" else [
        CausalTokenization(tokenizer), CausalTokenization(tokenizer, chat_template=True)
    ]  # fmt: skip
    for tokenization in kinds:
        few = [tokenization.encode_inputs(texts, 30), tokenization.encode_targets(texts, 9)]
        monkeypatch.setattr("mpt.backbone.tokenization.MANY", 2)
        assert [tokenization.encode_inputs(texts, 30), tokenization.encode_targets(texts, 9)] == few
        monkeypatch.undo()
