"""The baselines against independent computations, and that each part of each of them learns on the micro-world."""

import dataclasses
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForSeq2SeqLM

from mpt.adapter import Adapter
from mpt.artifact import load_baseline, save
from mpt.backbone import Backbone, load_backbone
from mpt.config import BackboneConfig, MethodConfig, MixtureConfig, OptimConfig, TaskConfig
from mpt.data.data_module import MixtureDataModule
from mpt.inputs import Inputs
from mpt.methods import Start, find_method
from mpt.methods.adept import ADePT
from mpt.methods.attempt import Attempt
from mpt.methods.dept import DePT
from mpt.methods.full import FullFineTuning
from mpt.methods.lora import LoRA
from mpt.methods.ulpt import ULPT
from mpt.prompt import MultitaskPromptEmbedding, MultitaskPromptTuningConfig
from mpt.tasks import SPLITS, Example
from mpt.training.module import MPTModule
from mpt.world import rows

T, C, N, D, R = 2, 3, 4, 32, 5


@pytest.fixture
def backbone(tiny_t5_folder: Path) -> Backbone:
    return load_backbone(BackboneConfig("tiny", path=str(tiny_t5_folder))).eval()


@pytest.fixture
def inputs(backbone: Backbone) -> dict[str, Tensor]:
    texts = ["anna found a hat", "ben", "the mill is red and the park is blue"]
    encoded = backbone.tokenizer(texts, padding=True, return_tensors="pt")
    return {
        "input_ids": encoded["input_ids"],
        "attention_mask": encoded["attention_mask"],
        "task_ids": torch.tensor([1, 0, 1]),
    }


def attempt(temperature: float | None = 1.0) -> Attempt:
    torch.manual_seed(0)
    made = Attempt(["a", "b"], torch.randn(C, N, D), torch.randn(T, N, D), R, temperature)
    with torch.no_grad():  # away from where LayerNorm's own numbers change nothing
        made.scale.normal_()
        made.bias.normal_()
    return made


def dept(max_tokens: int = 40) -> DePT:
    torch.manual_seed(0)
    return DePT(["a", "b"], torch.randn(T, N, D), R, max_tokens)


def adept() -> ADePT:
    torch.manual_seed(0)
    return ADePT(["a", "b"], torch.randn(T, N, D), R)


def ulpt() -> ULPT:
    torch.manual_seed(0)
    return ULPT(["a", "b"], N, torch.randn(R, D))


def tokens(batch: dict[str, Tensor]) -> Inputs:
    return Inputs(batch["input_ids"], batch["attention_mask"])


class TestAttempt:
    def test_is_the_papers_equations_row_by_row(self, backbone: Backbone, inputs: dict[str, Tensor]) -> None:
        made = attempt(temperature=3.0)
        prompts = made.condition(tokens(inputs), inputs["task_ids"], backbone.word_embeddings).prompts
        for row, task in enumerate(inputs["task_ids"].tolist()):
            # In numpy, one row without its pads.
            length = int(inputs["attention_mask"][row].sum())
            X = backbone.word_embeddings(inputs["input_ids"][row, :length]).numpy().astype(float)
            down, up, scale, bias, own = (
                tensor[task].detach().numpy().astype(float)
                for tensor in (made.down, made.up, made.scale, made.bias, made.prompt)
            )
            hidden = X.max(0) @ down
            hidden = hidden / (1 + np.exp(-hidden)) @ up
            query = (hidden - hidden.mean()) / np.sqrt(hidden.var() + 1e-5) * scale + bias
            every = [*made.sources.numpy().astype(float), own]
            near = np.array([prompt.max(0) @ query / 3.0 for prompt in every])
            shares = np.exp(near) / np.exp(near).sum()
            expected = own + sum(share * prompt for share, prompt in zip(shares, every, strict=True))
            np.testing.assert_allclose(prompts[row].detach().numpy(), expected, atol=1e-4)

    def test_temperature_is_the_papers(self) -> None:
        assert attempt(None).temperature == pytest.approx(32 * math.e)

    def test_a_task_moves_nothing_of_another(self, backbone: Backbone, inputs: dict[str, Tensor]) -> None:
        made = attempt()
        inputs["task_ids"][:] = 1
        prompts = made.condition(tokens(inputs), inputs["task_ids"], backbone.word_embeddings).prompts
        prompts.square().sum().backward()
        for name, param in made.named_parameters():
            assert param.grad is not None, name
            assert not param.grad[0].any(), name
            assert param.grad[1].any(), name

    def test_sources_of_another_length_are_refused(self) -> None:
        with pytest.raises(ValueError, match=r"shape \(3, 32\), the target's \(4, 32\)"):
            Attempt(["a"], torch.randn(C, 3, D), torch.randn(1, N, D), R)


class TestULPT:
    def test_is_the_papers_equation_number_by_number(self, backbone: Backbone, inputs: dict[str, Tensor]) -> None:
        made = ulpt()
        with torch.no_grad():
            made.scale.normal_()
            made.bias.normal_()
        prompts = made.condition(tokens(inputs), inputs["task_ids"], backbone.word_embeddings).prompts
        for row, task in enumerate(inputs["task_ids"].tolist()):
            Z, scale, bias = (each[task].detach().numpy().astype(float) for each in (made.Z, made.scale, made.bias))
            projected = np.einsum("nr,rd->nd", Z, made.projection.numpy().astype(float))
            np.testing.assert_allclose(prompts[row].detach().numpy(), projected * scale + bias, atol=1e-5)

    def test_the_matrix_is_xaviers_stays_and_does_not_depend_on_the_other_tasks(self, backbone: Backbone) -> None:
        built = []
        for names in (["a"], ["a", "b"]):
            torch.manual_seed(3)
            config = MultitaskPromptTuningConfig(
                task_type="SEQ_2_SEQ_LM", task_names=names, num_virtual_tokens=N, token_dim=D, form="independent"
            )
            prompt = MultitaskPromptEmbedding(config, backbone.word_embeddings)
            settings = MethodConfig("ulpt", num_ranks=R)
            built.append(ULPT.build(Start(prompt, settings, backbone, dict.fromkeys(names, TaskConfig()), None)))
        assert torch.equal(built[0].projection, built[1].projection)
        assert "projection" not in dict(built[0].named_parameters())
        limit = math.sqrt(6 / (R + D))
        assert 0.9 * limit < built[0].projection.abs().max() <= limit
        assert built[0].storage() == (R * D, N * R + 2 * D)
        assert (built[0].scale == 1).all()
        assert not built[0].bias.any()


class TestADePT:
    def test_moves_each_embedding_by_its_tasks_network(self, backbone: Backbone, inputs: dict[str, Tensor]) -> None:
        made = adept()
        with torch.no_grad():
            for param in (made.B, made.a, made.b):
                param.normal_()
        found = made.condition(tokens(inputs), inputs["task_ids"], backbone.word_embeddings)
        for row, task in enumerate(inputs["task_ids"].tolist()):
            assert torch.equal(found.prompts[row], made.prompt[task])
            network = nn.Sequential(nn.Linear(D, R), nn.ReLU(), nn.Linear(R, D))
            with torch.no_grad():
                network[0].weight.copy_(made.A[task].T)
                network[0].bias.copy_(made.a[task])
                network[2].weight.copy_(made.B[task].T)
                network[2].bias.copy_(made.b[task])
            expected = network(backbone.word_embeddings(inputs["input_ids"][row]))
            torch.testing.assert_close(found.shifts[row], expected, atol=1e-5, rtol=1e-5)

    def test_starts_as_its_prompt_alone(self, backbone: Backbone, inputs: dict[str, Tensor]) -> None:
        made = adept()
        found = made.condition(tokens(inputs), inputs["task_ids"], backbone.word_embeddings)
        alone = backbone.example_losses(replace(found, shifts=None), inputs["input_ids"])
        torch.testing.assert_close(backbone.example_losses(found, inputs["input_ids"]), alone)
        assert made.storage() == (0, N * D + (2 * D + 1) * R + D)


class TestDePT:
    def test_shifts_each_position_by_its_tasks_product(self, backbone: Backbone, inputs: dict[str, Tensor]) -> None:
        made = dept()
        nn.init.normal_(made.B)
        conditions = made.condition(tokens(inputs), inputs["task_ids"], backbone.word_embeddings)
        for row, task in enumerate(inputs["task_ids"].tolist()):
            assert torch.equal(conditions.prompts[row], made.prompt[task])
            for place in range(inputs["input_ids"].shape[1]):
                product = sum(made.A[task, place, rank] * made.B[task, rank] for rank in range(R))
                expected = product * 8 / R**0.5  # the authors' alpha
                torch.testing.assert_close(conditions.shifts[row, place], expected)
        # What the backbone makes of it, against the same put together by hand.
        labels = inputs["input_ids"][:, :3].contiguous()
        found = backbone.logits(conditions, labels)
        assert conditions.prompts is not None
        assert conditions.shifts is not None
        embeds = torch.cat([conditions.prompts, backbone.word_embeddings(inputs["input_ids"]) + conditions.shifts], 1)
        mask = torch.cat([torch.ones(3, N, dtype=torch.long), inputs["attention_mask"]], 1)
        expected = backbone.model(inputs_embeds=embeds, attention_mask=mask, labels=labels).logits
        torch.testing.assert_close(found, expected)

    def test_starts_as_its_prompt_alone(self, backbone: Backbone, inputs: dict[str, Tensor]) -> None:
        made = dept()
        conditions = made.condition(tokens(inputs), inputs["task_ids"], backbone.word_embeddings)
        alone = backbone.example_losses(replace(conditions, shifts=None), inputs["input_ids"])
        assert torch.equal(backbone.example_losses(conditions, inputs["input_ids"]), alone)

    def test_longer_input_is_refused(self, backbone: Backbone, inputs: dict[str, Tensor]) -> None:
        with pytest.raises(ValueError, match="DePT has updates for 2; cut them"):
            dept(2).condition(tokens(inputs), inputs["task_ids"], backbone.word_embeddings)


def lora(backbone: Backbone) -> LoRA:
    return LoRA(["a"], backbone, MethodConfig("lora", num_ranks=3, alpha=6.0, modules=["q", "v"]), N * D)


class TestLoRA:
    def test_counts_ranks_times_sides(self, backbone: Backbone) -> None:
        # 2 encoder and 2 decoder layers, the latter with two attentions: 6 times q and v, 32 to 4 * 8.
        assert lora(backbone).storage() == (6 * 2 * 3 * (32 + 32), 0)

    def test_saved_folder_is_pefts(
        self, backbone: Backbone, inputs: dict[str, Tensor], tiny_t5_folder: Path, tmp_path: Path
    ) -> None:
        made = lora(backbone)
        before = backbone.logits(tokens(inputs), inputs["input_ids"])
        with torch.no_grad():
            for param in made.learned().values():
                param.normal_(0, 0.3)
        ours = backbone.logits(tokens(inputs), inputs["input_ids"])
        assert not torch.allclose(ours, before)
        save(made, tmp_path, backbone, {})
        model = AutoModelForSeq2SeqLM.from_pretrained(tiny_t5_folder)
        theirs = peft.PeftModel.from_pretrained(model, str(tmp_path / "adapter")).eval()
        encoded = {"input_ids": inputs["input_ids"], "attention_mask": inputs["attention_mask"]}
        torch.testing.assert_close(theirs(**encoded, labels=inputs["input_ids"]).logits, ours)

    def test_snapshot_goes_back(self, backbone: Backbone) -> None:
        made = lora(backbone)
        kept = made.snapshot()
        with torch.no_grad():
            for param in made.learned().values():
                param.normal_()
        assert made.displacement(kept)["weights"] > 0.1
        made.restore(kept)
        assert made.displacement(kept)["weights"] == 0

    def test_weights_that_are_not_there(self, backbone: Backbone) -> None:
        with pytest.raises(ValueError, match=r"method.modules: .*q_proj"):
            LoRA(["a"], backbone, MethodConfig("lora", num_ranks=3, modules=["q_proj"]), N * D)


class TestFullFineTuning:
    def test_saved_folder_is_a_backbone(self, backbone: Backbone, inputs: dict[str, Tensor], tmp_path: Path) -> None:
        made = FullFineTuning(["a"], backbone, N * D)
        assert all(param.requires_grad for param in backbone.model.parameters())
        with torch.no_grad():
            for param in made.learned().values():
                param.add_(0.1 * torch.randn_like(param))
        fields = (tokens(inputs), inputs["input_ids"])
        save(made, tmp_path, backbone, {})
        again = load_backbone(BackboneConfig("again", path=str(tmp_path / "adapter"))).eval()
        torch.testing.assert_close(again.logits(*fields), backbone.logits(*fields))


@pytest.mark.parametrize("make", [attempt, dept, adept, ulpt])
def test_saved_and_read_back(make: type, backbone: Backbone, inputs: dict[str, Tensor], tmp_path: Path) -> None:
    made = make()
    with torch.no_grad():
        for param in made.parameters():
            param.normal_()
    save(made, tmp_path / "run", backbone, {})
    again, _ = load_baseline(tmp_path / "run")
    assert again.task_names == ["a", "b"]
    arguments = (tokens(inputs), inputs["task_ids"], backbone.word_embeddings)
    ours, theirs = made.condition(*arguments), again.condition(*arguments)
    assert torch.equal(theirs.prompts, ours.prompts)
    assert ours.shifts is None or torch.equal(theirs.shifts, ours.shifts)
    about = tmp_path / "run" / "adapter" / "adapter.json"
    about.write_text(json.dumps(json.loads(about.read_text()) | {"format_version": 9}))
    with pytest.raises(ValueError, match="format_version is 9; this program reads 1"):
        load_baseline(tmp_path / "run")
    about.write_text(json.dumps(json.loads(about.read_text()) | {"format_version": 1, "method": "other"}))
    with pytest.raises(
        ValueError,
        match=r"adapter.json: the method 'other' is not known here; name the module that brings it in plugins=",
    ):
        load_baseline(tmp_path / "run")
    with pytest.raises(FileNotFoundError, match=r"no adapter.json"):
        load_baseline(tmp_path)


@pytest.mark.parametrize("make", [attempt, dept, adept, ulpt])
def test_counts_what_a_task_stores(make: type) -> None:
    made = make()
    counted = made.count_parameters()
    own = {
        Attempt: N * D + 2 * D * R + 2 * D,
        DePT: N * D + 40 * R + R * D,
        ADePT: N * D + (2 * D + 1) * R + D,
        ULPT: N * R + 2 * D,
    }[type(made)]
    shared = {Attempt: C * N * D, DePT: 0, ADePT: 0, ULPT: R * D}[type(made)]
    assert (counted.shared, counted.per_task, counted.total) == (shared, own, shared + T * own)
    assert counted.ratio == pytest.approx(counted.total / (T * N * D))


# Learning on the micro-world


def world_module(name: str, **optim: float) -> MPTModule:
    torch.manual_seed(0)
    backbone = load_backbone(BackboneConfig("tiny"))
    task = TaskConfig(metrics=["exact_match"], max_target_tokens=24)
    data_rows = rows("negate", "train")[:16]
    examples = [Example(str(i), row["text"], row["target"], (row["target"],)) for i, row in enumerate(data_rows)]
    data = MixtureDataModule(
        ["negate"], {split: [examples] for split in SPLITS}, backbone.tokenization, [task], batch_size=16, accumulate=1,
        eval_batch_size=16, max_steps=30, mixture=MixtureConfig(), seed=0,
    )  # fmt: skip
    config = MultitaskPromptTuningConfig(
        task_names=["negate"], num_virtual_tokens=8, form="independent", prompt_tuning_init="VOCABULARY"
    )
    start = MultitaskPromptEmbedding(config, backbone.word_embeddings)
    adapter: Adapter = start
    if name != "plain":
        method = {
            "attempt": MethodConfig("attempt", num_ranks=20, temperature=1.0),
            "dept": MethodConfig("dept", num_ranks=4),
            "adept": MethodConfig("adept", num_ranks=4),
            "ulpt": MethodConfig("ulpt", num_ranks=8),
            "lora": MethodConfig("lora", num_ranks=4, modules=["q", "v"]),
            "full": MethodConfig("full"),
        }[name]
        names = [f"source_{position}" for position in range(6)]
        source = MultitaskPromptEmbedding(
            dataclasses.replace(config, task_names=names, num_tasks=6, task_groups=None, num_groups=6),
            backbone.word_embeddings,
        )
        adapter = find_method(name).build(Start(start, method, backbone, {"negate": task}, source))
    rates = {"lr_prompt": 0.0, "lr_factors": 0.0, "lr_weights": 0.0} | optim
    return MPTModule(backbone, adapter, data, [task], OptimConfig(**rates, weight_decay=0.0), 30)


# Each part of each method alone: the others stand still, so a cut gradient cannot hide behind them.
PARTS = {
    "plain prompt": ("plain", {"lr_prompt": 0.3}, 0.5),
    "ATTEMPT's prompt": ("attempt", {"lr_prompt": 0.3}, 0.5),
    "ATTEMPT's network": ("attempt", {"lr_weights": 0.03}, 0.97),
    "DePT's prompt": ("dept", {"lr_prompt": 0.3}, 0.5),
    "DePT's update": ("dept", {"lr_factors": 0.1}, 0.7),
    "ADePT's prompt": ("adept", {"lr_prompt": 0.3}, 0.5),
    "ADePT's network": ("adept", {"lr_weights": 0.03}, 0.7),
    "ULPT": ("ulpt", {"lr_prompt": 0.6}, 0.5),
    "LoRA": ("lora", {"lr_weights": 0.01}, 0.5),
    "full fine-tuning": ("full", {"lr_weights": 0.001}, 0.5),
}


@pytest.mark.parametrize("part", PARTS)
def test_each_part_of_each_method_learns_alone(part: str) -> None:
    name, rates, share = PARTS[part]
    module = world_module(name, **rates)
    (batch,) = list(module.data.eval_loader("train"))
    batch = {**batch, "target_tokens": (batch["labels"] != -100).sum()[None].float()}
    configured: Any = module.configure_optimizers()
    optimizer = configured["optimizer"]
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = module.losses(batch)["all"].sum()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] <= share * losses[0], losses


def test_dept_starts_and_scales_as_its_authors_code() -> None:
    """A within 1 / sqrt(R), Kaiming's bound for a matrix (max_tokens, R), B at zero, alpha / sqrt(R) with alpha 8."""
    torch.manual_seed(0)
    made = DePT(["a"], torch.zeros(1, 3, 16), num_ranks=4, max_tokens=500)
    own = torch.empty(500, 4)
    nn.init.kaiming_uniform_(own, a=5**0.5)
    assert float(made.A.abs().max()) <= 0.5
    assert float(made.A.std()) == pytest.approx(float(own.std()), rel=0.05)
    assert not made.B.any()
    assert made.scaling == 4.0
