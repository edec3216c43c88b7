"""Training: what moves and what must not, the loss, and runs that go on bit for bit."""

import math
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor
from torch.utils.data import DataLoader

from mpt.answering.answers import predict
from mpt.backbone import load_backbone
from mpt.config import BackboneConfig, MixtureConfig, OptimConfig, TaskConfig
from mpt.data.data_module import MixtureDataModule
from mpt.inputs import Inputs
from mpt.prompt import MultitaskPromptEmbedding, MultitaskPromptTuningConfig
from mpt.tasks import Example
from mpt.training.callbacks import BestPrompt
from mpt.training.module import MPTModule

NOUNS = ["hat", "mill", "drum", "bell", "harp", "lamp", "goat", "duck", "coat", "boot", "rope", "cake"]


def examples(task: int, number: int) -> list[Example]:
    texts = [(f"{noun} {NOUNS[(i + task) % 12]}", noun) for i, noun in enumerate(NOUNS[:number])]
    return [Example(f"train:{i}", text, target, (target,)) for i, (text, target) in enumerate(texts)]


@pytest.fixture(scope="module")
def folder(tiny_t5_folder: Path) -> Path:
    return tiny_t5_folder


def build(
    folder: Path,
    *,
    weights: tuple[float, ...] = (1.0, 1.0),
    dropout: bool = False,
    steps: int = 6,
    batch_size: int = 6,
    accumulate: int = 1,
    freeze_shared: bool = False,
    form: str = "product",
    train: list[list[Example]] | None = None,
    **optim: Any,
) -> tuple[MPTModule, MixtureDataModule]:
    torch.manual_seed(0)
    backbone = load_backbone(BackboneConfig(name="t5", path=str(folder), dropout=dropout))
    names = [f"task{i}" for i in range(len(weights))]
    shape = MultitaskPromptTuningConfig(
        task_names=names, num_virtual_tokens=4, prompt_tuning_init="VOCABULARY", factor_init="ones", form=form
    )
    prompt = MultitaskPromptEmbedding(shape, backbone.word_embeddings)
    rows = train or [examples(task, 12) for task in range(len(weights))]
    held = [examples(task, 3) for task in range(len(weights))]
    configs = [TaskConfig(weight=w, metrics=["exact_match"], max_target_tokens=4) for w in weights]
    data = MixtureDataModule(
        names, {"train": rows, "validation": held, "test": held}, backbone.tokenization, configs,
        batch_size=batch_size, accumulate=accumulate, eval_batch_size=4, max_steps=steps, mixture=MixtureConfig(),
        seed=0,
    )  # fmt: skip
    settings = OptimConfig(**({"lr_prompt": 0.1, "lr_factors": 0.1} | optim))
    prompt.embedding.weight.requires_grad_(not freeze_shared)
    return MPTModule(backbone, prompt, data, configs, settings, steps), data


def trainer(folder: Path, steps: int, accumulate: int = 1, **changes: Any) -> lightning.Trainer:
    settings: dict[str, Any] = {
        "accelerator": "cpu", "devices": 1, "max_steps": steps, "accumulate_grad_batches": accumulate,
        "logger": False, "enable_progress_bar": False, "enable_model_summary": False, "num_sanity_val_steps": 0,
        "enable_checkpointing": False, "default_root_dir": folder, "limit_val_batches": 0,
    }  # fmt: skip
    return lightning.Trainer(**(settings | changes))


def tensors(module: MPTModule) -> dict[str, Tensor]:
    return module.adapter.snapshot()


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def whole_batch(module: MPTModule, pairs: list[tuple[int, int]]) -> dict[str, Any]:
    from mpt.data.batches import collate

    rows = module.data.training_examples
    tokens = torch.zeros(len(rows))
    for task, row in pairs:
        tokens[task] += len(rows[task].targets[row])
    return {**collate(rows, pairs, module.data.tokenization.pad_token_id), "target_tokens": tokens}


# The loss


def test_one_task_of_weight_one_has_the_backbones_own_loss(folder: Path) -> None:
    module, _ = build(folder, weights=(1.0,))
    batch = whole_batch(module, [(0, row) for row in range(8)])
    prompts = module.adapter(None, batch["task_ids"])
    backbone = module.backbone
    embeds = torch.cat([prompts, backbone.word_embeddings(batch["input_ids"])], dim=1)
    mask = torch.cat([batch["attention_mask"].new_ones(8, 4), batch["attention_mask"]], dim=1)
    own = backbone.model(inputs_embeds=embeds, attention_mask=mask, labels=batch["labels"]).loss
    torch.testing.assert_close(module.losses(batch)["task"].sum(), own)


def test_mixed_batch_is_the_sum_of_its_tasks(folder: Path) -> None:
    module, _ = build(folder, weights=(1.0, 2.5))
    mixed = whole_batch(module, [(0, 1), (1, 2), (0, 3), (1, 4), (1, 5)])
    alone = [whole_batch(module, [(0, 1), (0, 3)]), whole_batch(module, [(1, 2), (1, 4), (1, 5)])]
    expected = torch.stack([module.losses(alone[0])["task"][0], module.losses(alone[1])["task"][1]])
    torch.testing.assert_close(module.losses(mixed)["task"], expected)


@pytest.mark.parametrize("accumulate", [2, 3])
def test_accumulation_equals_one_big_batch(folder: Path, tmp_path: Path, accumulate: int) -> None:
    found = []
    for micro in (1, accumulate):
        module, data = build(folder, accumulate=micro, steps=3, weights=(1.0, 3.0))
        trainer(tmp_path, 3, micro).fit(module, data)
        found.append(tensors(module))
    for name, tensor in found[0].items():
        torch.testing.assert_close(found[1][name], tensor, rtol=1e-3, atol=1e-4)


def test_weight_scales_the_gradient_of_its_task(folder: Path, tmp_path: Path) -> None:
    gradients = []
    for weight in (1.0, 4.0):
        module, _ = build(folder, weights=(1.0, weight))
        batch = whole_batch(module, [(0, 0), (1, 1)])
        (module.task_weights * module.losses(batch)["all"]).sum().backward()
        gradients.append(module.adapter.prefix_task_cols.grad)
    torch.testing.assert_close(gradients[1][0], gradients[0][0])
    torch.testing.assert_close(gradients[1][1], 4 * gradients[0][1])


def test_loss_that_is_not_finite_names_task_and_row(folder: Path) -> None:
    module, _ = build(folder)
    module._trainer = None
    with torch.no_grad():
        module.adapter.prefix_task_rows[1].fill_(float("nan"))
    module.trainer = trainer(folder, 1)
    with pytest.raises(ValueError, match=r"the loss is not finite for task1 train:5; lower"):
        module.losses(whole_batch(module, [(0, 2), (1, 5)]))


# What moves


def test_backbone_stays_and_prompt_moves(folder: Path, tmp_path: Path) -> None:
    module, data = build(folder, dropout=True)
    before = {name: value.clone() for name, value in module.backbone.state_dict().items()}
    trainer(tmp_path, 6).fit(module, data)
    assert all(torch.equal(value, before[name]) for name, value in module.backbone.state_dict().items())
    assert not any(parameter.requires_grad for parameter in module.backbone.parameters())
    moved = module.adapter.displacement(module.start)
    assert min(moved.values()) > 0


def test_absent_task_does_not_move(folder: Path, tmp_path: Path) -> None:
    module, data = build(folder, weight_decay=0.1)
    shown = data.train_dataloader()
    for _ in range(2):  # first both tasks, so that the absent one has momentum
        data.max_steps = 3
        trainer(tmp_path, 3).fit(module, data)
    start = tensors(module)
    only_first = [whole_batch(module, [(0, row) for row in range(6)])] * 3
    trainer(tmp_path, 3).fit(module, DataLoader(only_first, batch_size=None))
    end = tensors(module)
    for name in ("prefix_task_cols", "prefix_task_rows"):
        assert torch.equal(end[name][1], start[name][1])
        assert not torch.equal(end[name][0], start[name][0])
    assert len(shown) == 6


def test_frozen_shared_prompt_stays(folder: Path, tmp_path: Path) -> None:
    module, data = build(folder, freeze_shared=True, weight_decay=0.1)
    trainer(tmp_path, 6).fit(module, data)
    moved = module.adapter.displacement(module.start)
    assert moved["prompt"] == 0
    assert moved["task0"] > 0


def test_schedule_rises_then_falls_to_nothing(folder: Path) -> None:
    module, _ = build(folder, steps=100, warmup=0.1)
    rates = [module._rate(step) for step in range(101)]
    assert rates[:3] == pytest.approx([1 / 11, 2 / 11, 3 / 11])
    assert max(rates) == pytest.approx(1.0)
    assert rates[55] == pytest.approx(0.5)
    assert rates[100] == 0.0
    constant, _ = build(folder, steps=100, warmup=0.1, schedule="constant")
    assert [constant._rate(step) for step in (10, 50, 99)] == [1.0, 1.0, 1.0]


# Validation


def test_validation_scores_every_row_and_changes_nothing(folder: Path, tmp_path: Path) -> None:
    found = []
    for every in (0, 2):
        module, data = build(folder, dropout=True)
        lightning.seed_everything(1, verbose=False)
        module.train()
        changes = {"limit_val_batches": None, "val_check_interval": 2, "check_val_every_n_epoch": None}
        fit = trainer(tmp_path, 6, **(changes if every else {}))
        fit.fit(module, data)
        found.append(tensors(module))
        if every:
            logged = fit.callback_metrics
            assert logged["validation/task0/n"] == logged["validation/task1/n"] == 3
            mean = (logged["validation/task0/score"] + logged["validation/task1/score"]) / 2
            assert logged["validation/average/score"] == pytest.approx(float(mean))
            assert logged["moved/prompt"] > 0
    assert same(*found)


def test_rows_are_answered_under_their_own_prompt(folder: Path) -> None:
    module, data = build(folder)
    with torch.no_grad():
        module.adapter.prefix_task_rows.normal_()
    found = predict(module.adapter, module.backbone, data.eval_loader("test"), data.examples_of("test"))
    answers = [answer for of_task in found.values() for answer in of_task]
    assert [(a.task, a.row_id) for a in answers] == [(f"task{t}", f"train:{r}") for t in (0, 1) for r in range(3)]
    for index, answer in enumerate(answers):
        encoded = data.tokenization.tokenizer([answer.input], return_tensors="pt")
        prompts = module.adapter(None, torch.tensor([index // 3]))
        inputs = Inputs(encoded["input_ids"], encoded["attention_mask"], prompts)
        alone = module.backbone.generate(inputs, max_new_tokens=4)
        assert alone == [answer.prediction]


# Checkpoints


def interrupted(folder: Path, place: Path, stop: int, accumulate: int) -> MPTModule:
    """Train 6 steps with live dropout, stopped after ``stop`` of them and begun again as a new process would."""

    class Stop(lightning.Callback):
        def on_train_batch_end(self, trainer: lightning.Trainer, *_: Any) -> None:
            if trainer.global_step == stop:
                raise KeyboardInterrupt

    for attempt in (0, 1):
        module, data = build(folder, dropout=True, accumulate=accumulate)
        lightning.seed_everything(5 + attempt * (stop > 0), verbose=False)
        if stop == 0:
            lightning.seed_everything(5, verbose=False)
        module.train()
        last = ModelCheckpoint(
            place, filename="last", enable_version_counter=False, save_on_exception=True, every_n_train_steps=1
        )
        changes = {
            "limit_val_batches": None, "val_check_interval": 2 * accumulate, "check_val_every_n_epoch": None,
            "enable_checkpointing": True,
        }  # fmt: skip
        callbacks = [BestPrompt(place / "best.safetensors"), last]
        if attempt == 0 and stop:
            callbacks.append(Stop())
        fit = trainer(place, 6, accumulate, callbacks=callbacks, **changes)
        try:
            fit.fit(module, data, ckpt_path=place / "last.ckpt" if attempt else None)
        except (KeyboardInterrupt, SystemExit):
            continue
        break
    assert fit.global_step == 6
    return module


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("stop", [3, 4])
def test_resumed_run_equals_an_uninterrupted_one_bit_for_bit(
    folder: Path, tmp_path: Path, stop: int, accumulate: int
) -> None:
    straight = interrupted(folder, tmp_path / "straight", 0, accumulate)
    resumed = interrupted(folder, tmp_path / "resumed", stop, accumulate)
    assert same(tensors(straight), tensors(resumed))
    assert same(straight.start, resumed.start)


def test_checkpoint_holds_the_prompt_alone(folder: Path, tmp_path: Path) -> None:
    interrupted(folder, tmp_path, 0, 1)
    checkpoint = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert not checkpoint["state_dict"]
    assert set(checkpoint["adapter"]) == {"embedding.weight", "prefix_task_cols", "prefix_task_rows"}
    assert (tmp_path / "last.ckpt").stat().st_size < 60_000


def test_best_prompt_is_kept_and_put_back(folder: Path, tmp_path: Path) -> None:
    module, _ = build(folder)
    best = BestPrompt(tmp_path / "best.safetensors")
    fit = trainer(tmp_path, 1)
    kept = None
    # Of the two best, the second has the lower loss, and a third one no lower than that.
    for score, loss, change in ((0.2, 9.0, 1.0), (0.7, 2.0, 2.0), (0.7, 1.5, 3.0), (0.7, 1.5, 4.0), (0.1, 0.1, 5.0)):
        with torch.no_grad():
            module.adapter.embedding.weight.fill_(change)
        fit._callback_connector  # noqa: B018  # the trainer is real; its last validation is played
        fit._logger_connector._callback_metrics["validation/average/score"] = torch.tensor(score)
        fit._logger_connector._callback_metrics["validation/average/loss"] = torch.tensor(loss)
        best.on_validation_end(fit, module)
        kept = tensors(module) if change == 3.0 else kept
    assert best.scores == {"average": pytest.approx(0.7)}
    best.restore(module)
    assert kept is not None
    assert same(tensors(module), kept)
    again = BestPrompt(tmp_path / "best.safetensors")
    again.load_state_dict(best.state_dict())
    other, _ = build(folder)
    again.restore(other)
    assert same(tensors(other), kept)
    (tmp_path / "best.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="resume=never"):
        BestPrompt(tmp_path / "best.safetensors").load_state_dict(best.state_dict())


def test_plain_prompts_train_too(folder: Path, tmp_path: Path) -> None:
    module, data = build(folder, form="independent")
    trainer(tmp_path, 6).fit(module, data)
    moved = module.adapter.displacement(module.start)
    assert min(moved.values()) > 0
    assert all(math.isfinite(distance) for distance in moved.values())
