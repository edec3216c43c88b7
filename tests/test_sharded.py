"""``trainer=fsdp``: a backbone cut among two processes computes what one process computes, and ends as one."""

import csv
import itertools
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import distributed, multiprocessing
from torch.distributed.device_mesh import DeviceMesh

from mpt.backbone import frozen, load_backbone
from mpt.backbone.memory import layers_of, show_bytes, sizes_of
from mpt.cli.check import check
from mpt.config import BackboneConfig
from mpt.data.batches import EvalLoader
from mpt.data.token_rows import TokenizedExamples, TokenRows
from mpt.errors import UserError
from mpt.inputs import Inputs
from mpt.training import memory
from mpt.training.loading import load
from mpt.training.memory import say_needs

ROOT = Path(__file__).resolve().parents[1]
TEXTS = ["one two", "four five six seven", "eight"]
TARGETS = ["two", "six five", "nine"]


def compute(path: str, *, mesh: DeviceMesh | None = None, recompute: bool = False) -> dict[str, object]:
    """Losses, gradient of the prompt, losses of choices and answers of three texts, from a backbone in a folder."""
    torch.set_num_threads(1)
    backbone = load_backbone(BackboneConfig("tiny", path=path, checkpointing=recompute, dropout=False))
    whole = sizes_of(backbone.model)
    if mesh is not None:
        backbone.shard(mesh)
    backbone.train()
    ids, _ = backbone.tokenization.encode_inputs(TEXTS)
    targets, _ = backbone.tokenization.encode_targets(TARGETS)
    longest = max(map(len, ids))
    inputs = torch.tensor([row + [0] * (longest - len(row)) for row in ids])
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in ids])
    labels = torch.tensor([row + [-100] * (max(map(len, targets)) - len(row)) for row in targets])
    prompts = backbone.word_embeddings(torch.arange(12).view(3, 4)).detach().requires_grad_()
    losses = backbone.example_losses(Inputs(inputs, mask, prompts), labels)
    losses.sum().backward()
    assert prompts.grad is not None
    fixed = Inputs(inputs, mask, prompts.detach())
    held = sum(
        (each.to_local() if hasattr(each, "to_local") else each).nbytes
        for layer in layers_of(backbone.model)
        for each in layer.parameters()
    )
    # Processes whose answers end at another step have to wait for each other.
    limit = 2 if mesh is None else 2 + 4 * mesh.get_rank()
    with torch.no_grad():
        choices = backbone.choice_losses(fixed, targets)
    return {
        "losses": losses.detach(), "gradient": prompts.grad, "choices": choices,
        "answers": backbone.generate(fixed, max_new_tokens=limit), "held": held, "layers": whole[0],
    }  # fmt: skip


def in_process(rank: int, path: str, place: str, recompute: bool, logits_at_once: int) -> None:
    """One of two processes: compute over the cut backbone, and leave the numbers."""
    frozen.LOGITS_AT_ONCE = logits_at_once
    distributed.init_process_group("gloo", init_method=f"file://{place}/meet", rank=rank, world_size=2)
    found = compute(path, mesh=DeviceMesh("cpu", [0, 1]), recompute=recompute)
    torch.save(found, f"{place}/{rank}.pt")
    distributed.destroy_process_group()


@pytest.mark.ddp
@pytest.mark.parametrize(
    ("family", "recompute", "logits_at_once"), [("t5", False, 1), ("t5", True, 2**26), ("llama", False, 2**26)]
)
def test_two_processes_that_share_a_backbone_compute_what_one_does(
    family, recompute, logits_at_once, tiny_t5_folder, causal_folder, tmp_path
):
    """Logits as a whole or token by token, activations kept or computed again."""
    path = str(tiny_t5_folder if family == "t5" else causal_folder(family))
    multiprocessing.spawn(  # type: ignore[attr-defined]
        in_process, (path, str(tmp_path), recompute, logits_at_once), nprocs=2
    )
    alone = compute(path, recompute=recompute)
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt")
        for name in ("losses", "gradient", "choices"):
            torch.testing.assert_close(found[name], alone[name], rtol=1e-5, atol=1e-6)
        assert alone["held"] == alone["layers"] == found["layers"]
        assert found["held"] <= 0.6 * alone["held"]
    assert torch.load(tmp_path / "0.pt")["answers"] == alone["answers"]


@pytest.mark.ddp
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_run_over_a_cut_backbone_ends_as_one_process_does(tmp_path):
    """Where a gradient is almost zero AdamW makes a whole step of its rounding, so the steps are small ones."""
    command = [
        sys.executable, ROOT / "train.py", "task=source", "tasks=[sum,topic]",
        "tasks.sum.max_target_tokens=12", "trainer.accelerator=cpu", "trainer.threads=1", "trainer.max_steps=6",
        "trainer.batch_size=8", "evaluation.validate_every=3", "evaluation.validation_rows=5",
        "evaluation.test_rows=7", "evaluation.batch_size=4", "logger=csv",
        "optim.lr_prompt=0.001", "optim.lr_factors=0.001",
    ]  # fmt: skip
    curves: list[list[float]] = []
    prompts: list[dict[str, torch.Tensor]] = []
    said = ""
    for changes in (["trainer.devices=1"], ["trainer=fsdp", "trainer.accelerator=cpu"]):
        folder = tmp_path / str(len(curves))
        done = subprocess.run(
            list(map(str, [*command, *changes, f"hydra.run.dir={folder}"])),
            cwd=tmp_path, capture_output=True, text=True, timeout=400,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        said = done.stderr
        rows = csv.DictReader((folder / "metrics.csv").open())
        curves.append([float(row["train/loss"]) for row in rows if row["train/loss"]])
        prompts.append(load_file(folder / "prompt" / "adapter_model.safetensors"))
    assert curves[1] == pytest.approx(curves[0], rel=1e-4)
    for name, tensor in prompts[0].items():
        assert ((prompts[1][name] - tensor).abs() > 1e-4).float().mean() < 0.02
    assert re.search(r"each of 2 processes holds \d+ MB of the backbone", said)


@pytest.mark.parametrize("world_size", [2, 3])
@pytest.mark.parametrize("sizes", [(5, 2), (1, 0), (4, 9)])
def test_every_process_answers_as_many_batches_of_the_same_settings(world_size, sizes):
    def rows(count):
        return TokenizedExamples(TokenRows([[1]] * count), TokenRows([[2]] * count), 0, 0)

    tokenized, settings = [rows(size) for size in sizes], [{"choices": ["a"]}, {"choices": ["a", "b"]}]
    loaders = [
        EvalLoader(tokenized, settings, batch_size=2, pad_token_id=0, rank=rank, world_size=world_size)
        for rank in range(world_size)
    ]
    rounds = list(itertools.zip_longest(*([asked for asked, _ in loader.questions()] for loader in loaders)))
    assert all(len({str(asked) for asked in each}) == 1 for each in rounds)
    asked = {row[:2] for loader in loaders for _, questions in loader.questions() for row in questions}
    assert asked == {(task, index) for task, size in enumerate(sizes) for index in range(size)}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method__name": "lora"}, "fsdp cuts what is frozen, and method=lora trains within it; use ddp"),
        ({"method__name": "instruction"}, "method=instruction trains nothing; leave it out"),
        ({"backbone__quantize": "nf4"}, "backbone.quantize=nf4 packs them; use ddp"),
        ({"distill": "runs/teachers", "distillation__cache": "kept"}, "distillation.cache: spares a process"),
    ],
)
def test_what_cannot_be_cut_is_refused(make_config, changes, message):
    config = make_config(trainer__strategy="fsdp", trainer__devices=2, **changes)
    assert any(message in error for error in check(config))


def test_strategies_that_cut_the_prompt_are_refused(make_config):
    assert any(
        "use fsdp, which cuts the backbone" in each for each in check(make_config(trainer__strategy="deepspeed"))
    )


def test_what_a_device_must_hold_is_said_or_refused(make_config, capsys, monkeypatch):
    config = make_config(trainer__strategy="fsdp", trainer__devices=2)
    loaded = load(config)
    layers, rest = sizes_of(loaded.backbone.model)
    assert layers + rest == 4 * sum(each.numel() for each in loaded.backbone.model.parameters())
    device = torch.device("cpu")
    say_needs(config, loaded.backbone, loaded.data, device, processes=2)
    assert f"each of 2 processes holds {show_bytes(rest + layers // 2)} of the backbone" in capsys.readouterr().err
    # Two processes of one machine share its memory: what is held whole is too much for it, and half of the layers not.
    monkeypatch.setattr(memory, "memory_of", lambda device: 2 * rest + layers + 2)
    say_needs(config, loaded.backbone, loaded.data, device, processes=2)
    with pytest.raises(UserError, match=r"trainer=fsdp on more devices, backbone.quantize=nf4, or a smaller one"):
        say_needs(make_config(trainer__strategy="ddp"), loaded.backbone, loaded.data, device, processes=2)
