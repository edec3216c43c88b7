"""Token ids of large tasks are taken from the disk where nothing that decides them has changed."""

from dataclasses import asdict, fields, replace

import numpy as np
import pytest
from tokenizers import Tokenizer

from mpt.backbone import load_backbone
from mpt.backbone.tokenization import CausalTokenization, Tokenization
from mpt.config import BackboneConfig, TaskConfig
from mpt.data import kept_tokens
from mpt.data.tokenize import tokenize
from mpt.tasks import Example, Surround

CONFIG = TaskConfig(input="{a}", target="{b}", max_source_tokens=6, max_target_tokens=4)
EXAMPLES = [
    Example(f"train:{row}", f"anna found {row} hats in the park", f"hat {row}", (f"hat {row}",)) for row in range(30)
]


@pytest.fixture
def tokenization(tmp_path, monkeypatch):
    monkeypatch.setenv("MPT_CACHE", str(tmp_path))
    monkeypatch.setattr("mpt.data.tokenize.FEWEST", 10)
    return load_backbone(BackboneConfig(name="tiny")).tokenization


def values(found):
    """All that tokenized examples hold, as plain values."""
    return {
        each.name: list(getattr(found, each.name)) if each.name in kept_tokens.TEXTS else getattr(found, each.name)
        for each in fields(found)
    }


def files(tmp_path):
    return sorted((tmp_path / "tokens").glob("*")) if (tmp_path / "tokens").is_dir() else []


def test_they_are_kept_once_and_equal(tokenization, tmp_path, monkeypatch):
    fresh = tokenize(EXAMPLES, tokenization, CONFIG)
    assert files(tmp_path) == []
    kept = tokenize(EXAMPLES, tokenization, CONFIG, keep=True)
    [path] = files(tmp_path)

    def refuse(*_, **__):
        raise AssertionError("tokenized again")

    monkeypatch.setattr(Tokenization, "encode_inputs", refuse)
    again = tokenize(EXAMPLES, tokenization, CONFIG, keep=True)
    assert values(fresh) == values(kept) == values(again)
    assert fresh.cut_inputs > 0
    assert again.inputs.tokens.dtype == np.int32
    assert [again.inputs.length(row) for row in range(30)] == [len(ids) for ids in fresh.inputs]
    assert files(tmp_path) == [path]


def test_whatever_decides_them_is_looked_at(tokenization, tmp_path):
    tokenize(EXAMPLES, tokenization, CONFIG, keep=True)
    changed = [replace(EXAMPLES[0], input="ben found a hat"), *EXAMPLES[1:]]
    tokenize(changed, tokenization, CONFIG, keep=True)
    tokenize([replace(EXAMPLES[0], target="cap"), *EXAMPLES[1:]], tokenization, CONFIG, keep=True)
    tokenize(EXAMPLES, tokenization, replace(CONFIG, max_source_tokens=5), keep=True)
    tokenize(EXAMPLES, tokenization, replace(CONFIG, max_target_tokens=3), keep=True)
    tokenize(EXAMPLES, tokenization, CONFIG, prefix="say : ", keep=True)
    tokenize(EXAMPLES, tokenization, CONFIG, surround=Surround("one ", " two"), keep=True)
    assert len(files(tmp_path)) == 7
    for separator in ("\n", " answer:"):
        tokenize(EXAMPLES, CausalTokenization(tokenization.tokenizer, separator), CONFIG, keep=True)
    assert len(files(tmp_path)) == 9
    backend = tokenization.tokenizer.backend_tokenizer
    other = Tokenizer.from_str(backend.to_str())
    other.add_tokens(["park"])
    tokenization.tokenizer._tokenizer = other
    tokenize(EXAMPLES, tokenization, CONFIG, keep=True)
    assert len(files(tmp_path)) == 10
    tokenize([replace(EXAMPLES[0], row_id="train:99"), *EXAMPLES[1:]], tokenization, CONFIG, keep=True)
    assert len(files(tmp_path)) == 10  # how a row is called decides no token


def test_a_few_are_not_kept(tokenization, tmp_path):
    tokenize(EXAMPLES[:9], tokenization, CONFIG, keep=True)
    assert files(tmp_path) == []


@pytest.mark.parametrize("damage", [b"", b"nonsense", None])
def test_a_damaged_file_is_said_and_written_again(tokenization, tmp_path, damage):
    fresh = tokenize(EXAMPLES, tokenization, CONFIG, keep=True)
    [path] = files(tmp_path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-8] if damage is None else damage)
    with pytest.warns(UserWarning, match=r"\.safetensors: damaged .*, so the examples are tokenized again"):
        again = tokenize(EXAMPLES, tokenization, CONFIG, keep=True)
    assert values(again) == values(fresh)
    assert path.read_bytes() == whole


def test_a_cache_that_cannot_be_written_ends_no_run(tokenization, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MPT_CACHE", str(tmp_path / "file"))
    with pytest.warns(UserWarning, match="tokens cannot be kept there"):
        found = tokenize(EXAMPLES, tokenization, CONFIG, keep=True)
    assert values(found) == values(tokenize(EXAMPLES, tokenization, CONFIG))


def test_the_key_is_no_part_of_a_run(make_config):
    from mpt.run.identity import identity

    config = make_config()
    before = identity(asdict(config))
    config.trainer.keep_tokens = False
    assert identity(asdict(config)) == before
