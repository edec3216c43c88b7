"""Distillation: its losses by hand, nothing for a student that equals its teacher, a cache that changes nothing."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import kl_div, log_softmax

from mpt.backbone import load_backbone
from mpt.config import BackboneConfig, DistillationConfig, MixtureConfig, OptimConfig, TaskConfig
from mpt.data.batches import Batch
from mpt.data.data_module import MixtureDataModule
from mpt.data.token_rows import TokenizedExamples, TokenRows
from mpt.distill import Distiller, hidden_losses, logit_losses
from mpt.distill.losses import coarsened
from mpt.prompt import MultitaskPromptEmbedding, MultitaskPromptTuningConfig
from mpt.run.record import read_metrics
from mpt.tasks import SPLITS, Example
from mpt.training.module import MPTModule
from mpt.training.train import train

LABELS = torch.tensor([[4, 2, 1], [3, -100, -100]])


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_logit_loss_by_hand(temperature: float) -> None:
    student, teacher = random(2, 3, 5), random(2, 3, 5, seed=1)
    found = logit_losses(student, log_softmax(teacher / temperature, -1), LABELS, temperature)
    for row, places in enumerate(([0, 1, 2], [0])):
        expected = 0.0
        for place in places:
            p, q = (
                np.exp(logits / temperature) / np.exp(logits / temperature).sum()
                for logits in (teacher[row, place].numpy().astype(float), student[row, place].numpy().astype(float))
            )  # fmt: skip
            expected += temperature**2 * (p * np.log(p / q)).sum()
        assert found[row].item() == pytest.approx(expected, rel=1e-4)


def test_logit_loss_is_torchs_divergence() -> None:
    student, teacher = log_softmax(random(1, 3, 7), -1), log_softmax(random(1, 3, 7, seed=1), -1)
    expected = kl_div(student, teacher, reduction="sum", log_target=True)
    torch.testing.assert_close(logit_losses(student, teacher, LABELS[:1], 1.0), expected[None])


def test_a_token_that_the_teacher_rules_out_adds_nothing() -> None:
    teacher = log_softmax(torch.tensor([[[0.0, 0.0, -torch.inf]]]), -1)
    student = torch.tensor([[[0.0, 0.0, 0.0]]], requires_grad=True)
    loss = logit_losses(student, teacher, torch.tensor([[0]]), 1.0)
    loss.sum().backward()
    assert loss.item() == pytest.approx(np.log(3 / 2))
    assert student.grad is not None
    assert student.grad.isfinite().all()


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 9), st.floats(0.5, 4.0), st.integers(0, 1000))
def test_fewer_kept_tokens_never_say_more(k: int, temperature: float, seed: int) -> None:
    student, teacher = random(2, 3, 9, seed=seed), random(2, 3, 9, seed=seed + 1)
    log_probabilities = log_softmax(teacher / temperature, -1)
    kept = log_probabilities.topk(k, -1).indices
    whole = logit_losses(student, log_probabilities, LABELS, temperature)
    part = logit_losses(student, coarsened(log_probabilities, kept), LABELS, temperature, kept)
    assert (part <= whole + 1e-4).all()
    assert (part >= -1e-4).all()
    if k >= 8:  # all but at most one token
        torch.testing.assert_close(part, whole, atol=1e-4, rtol=1e-4)
    alike = logit_losses(teacher, coarsened(log_probabilities, kept), LABELS, temperature, kept)
    torch.testing.assert_close(alike, torch.zeros(2), atol=1e-4, rtol=0)


def test_hidden_loss_by_hand() -> None:
    student, teacher = random(2, 3, 2, 4), random(2, 3, 2, 4, seed=1)
    mask = torch.tensor([[True, True, True], [True, False, False]])
    found = hidden_losses(student, teacher, mask).numpy()
    error = ((student - teacher).numpy().astype(float) ** 2).mean((2, 3))
    np.testing.assert_allclose(found, [error[0].sum(), error[1, 0]], rtol=1e-5)


# The distiller, on a random T5


def prompt(form: str, tokens: int = 4, seed: int = 0, names: tuple[str, ...] = ("a", "b")) -> MultitaskPromptEmbedding:
    torch.manual_seed(seed)
    return MultitaskPromptEmbedding(
        MultitaskPromptTuningConfig(task_names=list(names), num_virtual_tokens=tokens, token_dim=32, form=form,
                                    num_ranks=2, factor_std=1.0)
    )  # fmt: skip


def build(
    folder: Path, student: MultitaskPromptEmbedding, teachers: MultitaskPromptEmbedding, **config: Any
) -> tuple[MPTModule, MixtureDataModule]:
    backbone = load_backbone(BackboneConfig("tiny", path=str(folder), dropout=False))
    words = ["anna", "ben", "mill", "hat", "red", "blue", "park", "cake", "dog"]
    rows = [
        [Example(str(i), " ".join(words[i : i + 1 + task + i % 3]), words[i], (words[i],)) for i in range(6)]
        for task in range(2)
    ]
    tasks = [TaskConfig(metrics=["exact_match"], max_target_tokens=8, max_source_tokens=16) for _ in range(2)]
    data = MixtureDataModule(
        ["a", "b"], dict.fromkeys(SPLITS, rows), backbone.tokenization, tasks, batch_size=6, accumulate=1,
        eval_batch_size=6, max_steps=6, mixture=MixtureConfig("equal"), seed=0,
    )  # fmt: skip
    settings = DistillationConfig(**config)
    distiller = Distiller(settings, backbone, teachers, ["a", "b"], data.training_examples)
    return MPTModule(backbone, student, data, tasks, OptimConfig(), 6, distiller), data


@pytest.fixture
def batches(tiny_t5_folder: Path) -> list[Batch]:
    _, data = build(tiny_t5_folder, prompt("independent"), prompt("independent"))
    return list(data.train_dataloader())


def test_a_student_that_equals_its_teachers_has_no_distance(tiny_t5_folder: Path, batches: list[Batch]) -> None:
    student = prompt("product", seed=3)
    module, _ = build(tiny_t5_folder, student, student, layers=[0, 1, -1])
    losses = module.losses(batches[0])
    torch.testing.assert_close(losses["logits"], torch.zeros(2), atol=1e-5, rtol=0)
    torch.testing.assert_close(losses["hidden"], torch.zeros(2), atol=1e-9, rtol=0)
    torch.testing.assert_close(losses["all"], losses["task"])


def test_teachers_are_found_by_name_whatever_their_order_and_length(tiny_t5_folder: Path, batches: list[Batch]) -> None:
    teachers = prompt("independent", tokens=3, seed=1, names=("x", "b", "a"))
    module, _ = build(tiny_t5_folder, prompt("product"), teachers)
    batch = batches[0]
    losses = module.losses(batch)
    # Row by row and without pads, by another way through the model.
    expected = {"logits": [0.0, 0.0], "hidden": [0.0, 0.0]}
    model, embed = module.backbone.model, module.backbone.word_embeddings
    for row, task in enumerate(batch["task_ids"].tolist()):
        length, words = (int(batch["attention_mask"][row].sum()), batch["labels"][row][batch["labels"][row] != -100])
        outputs = []
        for own in (teachers.prompts()[2 - task], module.adapter(None, batch["task_ids"][row : row + 1])[0]):
            embeds = torch.cat([own, embed(batch["input_ids"][row, :length])])[None]
            outputs.append(model(inputs_embeds=embeds, labels=words[None], output_hidden_states=True))
        p, q = (log_softmax(out.logits[0], -1) for out in outputs)
        expected["logits"][task] += ((p.exp() * (p - q)).sum() / batch["target_tokens"][task]).item()
        for name, kind in (("encoder", "input_tokens"), ("decoder", "target_tokens")):
            count = length if name == "encoder" else len(words)
            states = [getattr(out, f"{name}_hidden_states")[-1][0, -count:] for out in outputs]
            error = (states[0] - states[1]).square().mean(1).sum() / batch[kind][task]
            expected["hidden"][task] += error.item()
    for name, values in expected.items():
        assert losses[name].tolist() == pytest.approx(values, rel=1e-4)
    assert losses["all"].tolist() == pytest.approx(
        (losses["task"] + 0.9 * losses["logits"] + 0.9 * losses["hidden"]).tolist()
    )


def test_only_the_student_gets_gradients_and_there_is_one_backbone(tiny_t5_folder: Path, batches: list[Batch]) -> None:
    teachers = prompt("independent", seed=1)
    module, _ = build(tiny_t5_folder, prompt("product"), teachers)
    losses = module.losses(batches[0])
    (losses["logits"] + losses["hidden"]).sum().backward()
    assert all(param.grad is not None and param.grad.any() for param in module.adapter.parameters())
    assert all(param.grad is None for param in [*module.backbone.parameters(), *teachers.parameters()])
    alone, _ = build(tiny_t5_folder, prompt("product"), teachers)
    alone.distiller = None
    assert {name for name, _ in module.named_parameters()} == {name for name, _ in alone.named_parameters()}
    assert module.distiller is not None
    assert module.distiller.backbone is module.backbone
    assert module.distiller.prompts.numel() == 2 * 4 * 32


def test_micro_batches_add_up_to_the_step(tiny_t5_folder: Path, batches: list[Batch]) -> None:
    module, _ = build(tiny_t5_folder, prompt("product"), prompt("independent", seed=1))
    whole = module.losses(batches[0])
    parts = []
    for rows in (slice(0, 2), slice(2, 6)):
        fields = ("input_ids", "attention_mask", "labels", "task_ids", "example_indices")
        parts.append(module.losses({**batches[0], **{key: batches[0][key][rows] for key in fields}}))
    for name, loss in whole.items():
        torch.testing.assert_close(parts[0][name] + parts[1][name], loss, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("top_k", [None, 7])
@pytest.mark.parametrize("hidden", [["encoder", "decoder"], ["decoder"], []])
def test_cached_teachers_say_the_same_and_are_asked_once(
    tiny_t5_folder: Path,
    batches: list[Batch],
    tmp_path: Path,
    top_k: int | None,
    hidden: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shared = {"top_k": top_k, "hidden": hidden, "temperature": 2.0, "layers": [1, -1]}
    student, teachers = prompt("product"), prompt("independent", seed=1)
    live, _ = build(tiny_t5_folder, student, teachers, **shared)
    cached, _ = build(tiny_t5_folder, student, teachers, cache=str(tmp_path), **shared)
    for batch in batches:
        expected, found = live.losses(batch), cached.losses(batch)
        for name, loss in expected.items():
            torch.testing.assert_close(found[name], loss, atol=1e-5, rtol=1e-4)
    # Another process finds them there, and needs no teacher.
    again, _ = build(tiny_t5_folder, student, teachers, cache=str(tmp_path), **shared)
    assert again.distiller is not None
    monkeypatch.setattr(again.distiller, "_ask", None)
    for batch in batches:
        torch.testing.assert_close(again.losses(batch)["all"], live.losses(batch)["all"], atol=1e-5, rtol=1e-4)
    assert len(list(tmp_path.iterdir())) == 1


def test_other_teachers_have_another_cache(tiny_t5_folder: Path, batches: list[Batch], tmp_path: Path) -> None:
    for seed in (1, 2):
        module, _ = build(tiny_t5_folder, prompt("product"), prompt("independent", seed=seed), cache=str(tmp_path))
        module.losses(batches[0])
    assert len(list(tmp_path.iterdir())) == 2


def test_a_task_without_a_teacher_is_refused(tiny_t5_folder: Path) -> None:
    with pytest.raises(ValueError, match=r"distill: no teacher of a; it has those of b, c"):
        build(tiny_t5_folder, prompt("product"), prompt("independent", names=("b", "c")))


def test_a_disk_too_small_is_said_before_training(
    tiny_t5_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(ValueError, match=r"0.0 GiB left, .*use distillation.top_k=64"):
        build(tiny_t5_folder, prompt("product"), prompt("independent"), cache=str(tmp_path))
    assert not list(tmp_path.iterdir())


def add_token(tokenized: list[TokenizedExamples], task: int, part: str) -> None:
    """Give the first input or target of a task one token more."""
    first, *others = getattr(tokenized[task], part)
    tokenized[task] = replace(tokenized[task], **{part: TokenRows([[*first, 5], *others])})


class TestKeyOfTheCache:
    """Every input of an answer is in it: a change of each one leads to another folder, of nothing else does."""

    def folders(self, folder: Path, cache: Path, *, edit: Any = None, precision: str = "32-true", dtype: str =
    "float32",
                seed: int = 1, **config: Any) -> set[str]:  # fmt: skip
        backbone = load_backbone(BackboneConfig("tiny", path=str(folder), dropout=False, dtype=dtype))
        _, data = build(folder, prompt("product"), prompt("independent"))
        tokenized = [TokenizedExamples(each.inputs, each.targets, 0, 0) for each in data.training_examples]
        if edit is not None:
            edit(tokenized)
        settings = DistillationConfig(cache=str(cache), **config)
        Distiller(settings, backbone, prompt("independent", seed=seed), ["a", "b"], tokenized, precision)
        return {path.name for path in cache.iterdir()}

    def test_changes_with_every_input(self, tiny_t5_folder: Path, tmp_path: Path) -> None:
        changes: list[dict[str, Any]] = [
            {},
            {"precision": "bf16-mixed"},
            {"dtype": "bfloat16"},
            {"seed": 2},
            {"temperature": 2.0},
            {"layers": [0]},
            {"hidden": ["encoder"]},
            {"top_k": 5},
            {"edit": lambda tokenized: add_token(tokenized, 0, "inputs")},
            {"edit": lambda tokenized: add_token(tokenized, 1, "targets")},
        ]
        for number, change in enumerate(changes, start=1):
            assert len(self.folders(tiny_t5_folder, tmp_path, **change)) == number, change

    @pytest.mark.parametrize("change", [{"weight_logits": 0.1}, {"weight_hidden": 0.1}])
    def test_does_not_change_with_what_an_answer_does_not_depend_on(
        self, tiny_t5_folder: Path, tmp_path: Path, change: dict[str, Any]
    ) -> None:
        self.folders(tiny_t5_folder, tmp_path)
        assert len(self.folders(tiny_t5_folder, tmp_path, **change)) == 1

    def test_answers_in_half_precision_can_be_kept(self, make_config: Any, tmp_path: Path) -> None:
        plain = {"prompt__form": "independent", "mixture__sampling": "each", "evaluation__best": "task"}
        half = {"backbone__dtype": "bfloat16", "trainer__max_steps": 2}
        train(make_config("teachers", **plain, **half), tmp_path / "teachers")
        config = make_config(
            "source", distill=str(tmp_path / "teachers"), distillation__cache=str(tmp_path / "cache"), **half
        )
        train(config, tmp_path / "source")
        assert read_metrics(tmp_path / "source") is not None
