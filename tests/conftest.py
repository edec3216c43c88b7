"""Shared fixtures: no network, no account, a tiny random T5 and small runs made on the spot."""

import atexit
import json
import os
import shutil
import tempfile

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"  # the workers of pytest-xdist share the cores
os.environ["WANDB_MODE"] = "offline"
os.environ["WANDB_SILENT"] = "true"
os.environ["MPT_CACHE"] = tempfile.mkdtemp(prefix="mpt-tests-")  # what is kept is of this session

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    CONFIG_MAPPING,
    AutoModelForCausalLM,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

from mpt.config import RunConfig
from mpt.world import rows

atexit.register(shutil.rmtree, os.environ["MPT_CACHE"], ignore_errors=True)


def make_t5(folder: Path, texts: list[str], **shape: float) -> Path:
    """Save a random T5 and a tokenizer trained on ``texts``; the shape is T5Config's."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    specials = ["<pad>", "</s>", "<unk>"]
    trainer = trainers.UnigramTrainer(vocab_size=400, special_tokens=specials, unk_token="<unk>", show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    tokenizer.decoder = decoders.Metaspace()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")
    torch.manual_seed(0)
    settings = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4, "dropout_rate": 0.1} | shape
    model = T5ForConditionalGeneration(
        T5Config(vocab_size=len(fast), decoder_start_token_id=0, pad_token_id=0, eos_token_id=1, **settings)
    )
    model.save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder


CHAT = (
    "{% for message in messages %}<turn>{{ message.role }}\n{{ message.content }}<end>\n{% endfor %}"
    "{% if add_generation_prompt %}<turn>assistant\n{% endif %}"
)


def make_causal(folder: Path, family: str, texts: list[str], **shape: Any) -> Path:
    """Save a random causal model of a family, and a byte-level tokenizer trained on ``texts``; it has no pad token."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    specials = ["<start>", "<end>", "<turn>"]
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=specials, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    if family != "gpt2":  # as of the real ones, whose texts begin with a token of their own
        tokenizer.post_processor = processors.TemplateProcessing(single="<start> $A", special_tokens=[("<start>", 0)])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<start>", eos_token="<end>")
    fast.chat_template = CHAT
    settings: dict[str, Any] = {
        "vocab_size": len(fast) + 8,  # some tokenizers add a few of their own
        "initializer_range": 0.2,  # so that different inputs have different answers
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 128,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "pad_token_id": None,
    }
    if family == "opt":
        settings |= {"ffn_dim": 48, "word_embed_proj_dim": 32}
    elif family not in ("gpt2", "gpt_neox"):
        settings |= {"intermediate_size": 48, "num_key_value_heads": 2, "head_dim": 8}
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(CONFIG_MAPPING[family](**(settings | shape)))
    model.save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder


def world_texts() -> list[str]:
    """A few texts for tokenizers to be trained on."""
    return [f"{row['text']} {row['target']}" for row in rows("mt", "validation")]


@pytest.fixture(scope="session")
def causal_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a random causal model of a family, made where it is first asked for."""
    made: dict[str, Path] = {}

    def make(family: str) -> Path:
        if family not in made:
            made[family] = make_causal(tmp_path_factory.mktemp(family), family, world_texts())
        return made[family]

    return make


@pytest.fixture(scope="session")
def tiny_t5_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random T5 of 30,000 parameters, with dropout, as a folder."""
    return make_t5(tmp_path_factory.mktemp("tiny_t5"), world_texts())


ROWS = [{"text": f"say {word}", "target": word} for word in ("red", "green", "blue", "black", "white")]


@pytest.fixture(scope="session")
def rows_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of two tasks: data_root/<task>/<split>.jsonl."""
    root = tmp_path_factory.mktemp("rows")
    for shift, name in enumerate(("one", "two")):
        (root / name).mkdir()
        for split in ("train", "validation", "test"):
            rows = [row | {"target": ROWS[(i + shift) % 5]["target"]} for i, row in enumerate(ROWS)]
            (root / name / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return root


@pytest.fixture(scope="session")
def make_config(tiny_t5_folder: Path, rows_folder: Path) -> Callable[..., RunConfig]:
    """Build a run's configuration: the small defaults here, and dotted changes."""

    def make(stage: str = "source", tasks: Sequence[str] = ("one", "two"), **changes: Any) -> RunConfig:
        config = OmegaConf.structured(RunConfig)
        small = {
            "stage": stage,
            "backbone": {"name": "tiny", "path": str(tiny_t5_folder)},
            "prompt": {"num_virtual_tokens": 4, "num_ranks": 2},
            "trainer": {"max_steps": 6, "batch_size": 4, "accelerator": "cpu", "devices": 1, "progress_bar": False},
            "evaluation": {"validate_every": 3, "batch_size": 8},
            "logger": {"wandb": False},
            "tasks": {
                name: {
                    "rows": {"files": str(rows_folder / name)},
                    "input": "{text}",
                    "target": "{target}",
                    "metrics": ["exact_match", "token_f1"],
                    "prefix": "answer: ",
                    "max_source_tokens": 16,
                    "max_target_tokens": 8,
                }
                for name in tasks
            },
        }
        config = OmegaConf.merge(config, small)
        for key, value in changes.items():
            OmegaConf.update(config, key.replace("__", "."), value)
        made = OmegaConf.to_object(config)
        assert isinstance(made, RunConfig)
        return made

    return make


@pytest.fixture(scope="session")
def source_run(make_config: Callable[..., RunConfig], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One source run for all tests that only read it."""
    folder = tmp_path_factory.mktemp("runs") / "source"
    from mpt.training.train import train  # seconds of imports that most test files do without

    train(make_config(), folder)
    return folder


@pytest.fixture(scope="session")
def make_causal_config(
    make_config: Callable[..., RunConfig], causal_folder: Callable[[str], Path]
) -> Callable[..., RunConfig]:
    """Build the configuration of a run on a random causal model."""

    def make(
        family: str = "llama", stage: str = "source", tasks: Sequence[str] = ("one", "two"), **changes: Any
    ) -> RunConfig:
        path = str(causal_folder(family))
        # Bytes make many tokens, and an answer is made of as much of a text as its task was trained with.
        longest = {f"tasks__{name}__max_source_tokens": 110 for name in tasks}
        return make_config(stage, tasks, **({"backbone__path": path, "optim__lr_prompt": 0.1} | longest | changes))

    return make


@pytest.fixture(scope="session")
def causal_run(make_causal_config: Callable[..., RunConfig], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One source run on a random causal model, for all tests that only read it."""
    folder = tmp_path_factory.mktemp("causal") / "source"
    from mpt.training.train import train

    train(make_causal_config(), folder)
    return folder


@pytest.fixture(scope="session")
def shipped_prompt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prompts of two tasks for the embedded backbone, their natural prefixes: it knows both, and its answers end."""
    from mpt.artifact.save import save
    from mpt.backbone import load_backbone
    from mpt.config import BackboneConfig
    from mpt.prompt import MultitaskPromptEmbedding, MultitaskPromptTuningConfig
    from mpt.tasks import AnswerSettings

    backbone = load_backbone(BackboneConfig(name="tiny"))
    prefixes = {"mt": "translate to lumi : ", "sum": "summarize : summarize : "}
    ids = [backbone.tokenizer(text, add_special_tokens=False).input_ids for text in prefixes.values()]
    assert len({len(each) for each in ids}) == 1
    config = MultitaskPromptTuningConfig(num_virtual_tokens=len(ids[0]), task_names=list(prefixes), form="independent")
    prompt = MultitaskPromptEmbedding(config, backbone.word_embeddings)
    with torch.no_grad():
        prompt.embedding.weight.copy_(backbone.word_embeddings(torch.tensor(ids)).view_as(prompt.embedding.weight))
    folder = tmp_path_factory.mktemp("shipped")
    save(
        prompt,
        folder,
        backbone,
        dict.fromkeys(prefixes, 1.0),
        dict.fromkeys(prefixes, AnswerSettings(max_source_tokens=100)),
    )
    return folder
