"""The worked example for vLLM, with a stand-in for it that hands the embeddings to transformers."""

import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from mpt.training.train import train

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "experiments" / "serving"))

from serve import main


class LLM:
    """vLLM's class, as far as the example uses it."""

    def __init__(self, *, model, enable_prompt_embeds, dtype):
        assert enable_prompt_embeds
        self.model = AutoModelForCausalLM.from_pretrained(model, dtype=getattr(torch, dtype))
        self.tokenizer = AutoTokenizer.from_pretrained(model)

    def generate(self, requests, settings):
        for request in requests:
            embeds = request["prompt_embeds"][None]
            answer = self.model.generate(
                inputs_embeds=embeds, attention_mask=torch.ones(embeds.shape[:2]).long(), do_sample=False,
                max_new_tokens=settings.max_tokens, pad_token_id=0,
            )  # fmt: skip
            text = self.tokenizer.decode(answer[0], skip_special_tokens=True)
            yield SimpleNamespace(outputs=[SimpleNamespace(text=text)])


@pytest.fixture
def run(make_config, causal_folder, tmp_path, monkeypatch):
    vllm = ModuleType("vllm")
    vllm.__dict__.update(LLM=LLM, SamplingParams=lambda **settings: SimpleNamespace(**settings))
    monkeypatch.setitem(sys.modules, "vllm", vllm)
    train(
        make_config(
            backbone__path=str(causal_folder("llama")),
            optim__lr_prompt=0.1,
            tasks__one__max_source_tokens=80,
            tasks__two__max_source_tokens=80,
        ),
        tmp_path / "run",
    )
    return str(tmp_path / "run")


def test_it_answers_as_this_package(run, capsys):
    assert main([run, "--task", "two", "--check", "--max-new-tokens", "6", "say red", "say black or white"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
    assert [line["input"] for line in lines] == ["say red", "say black or white"]


def test_another_answer_is_reported(run, capsys, monkeypatch):
    other = [SimpleNamespace(outputs=[SimpleNamespace(text="?")])]
    monkeypatch.setattr(LLM, "generate", lambda *_: other)
    assert main([run, "--task", "two", "--check", "say red"]) == 1
    assert "vLLM answers '?'" in capsys.readouterr().err
