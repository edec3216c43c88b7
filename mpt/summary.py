"""What a run says before it starts: tasks, rows, what is cut, parameters trained and frozen, device."""

import dataclasses
from pathlib import Path

import torch
from rich.table import Table

from mpt.config import RunConfig
from mpt.data import MixtureDataModule
from mpt.module import MPTModule


def summary(
    config: RunConfig,
    folder: Path,
    module: MPTModule,
    data: MixtureDataModule,
    processes: int,
    device: torch.device,
) -> tuple[str, Table]:
    """Give a few lines on the whole, and a table of the tasks."""
    told = parameters(module)
    lines = [
        shortest(folder),
        f"{config.stage}: {told['trained']:,} parameters trained, {told['frozen']:,} frozen "
        f"({module.backbone.name}); {told['ratio']:.3f} of the storage of independent prompts",
        f"{config.trainer.max_steps} steps of {config.trainer.batch_size} rows, "
        f"{config.mixture.sampling} mixture, {processes} x {device.type}, seed {config.seed}",
    ]
    shown = Table()
    shown.add_column("task")
    for column in ("λ", "train", "validation", "test", "inputs cut", "targets cut", "unknown tokens"):
        shown.add_column(column, justify="right")
    for index, (name, task) in enumerate(config.tasks.items()):
        sizes = [str(len(data.examples[split][index])) for split in ("train", "validation", "test")]
        cut = data.truncation["train"][name]
        unknown = max(data.unknown[name].values())
        shares = (cut["input"], cut["target"], unknown)
        shown.add_row(name, f"{task.weight:g}", *sizes, *(f"{share:.1%}" for share in shares))
    return "\n".join(lines), shown


def unknown_tokens(data: MixtureDataModule, backbone: str) -> list[str]:
    """Warn of tasks whose texts the backbone's tokenizer does not know: what it cannot read or write, it cannot learn.

    Returns:
        A sentence per task with more than 1 % of unknown tokens in its inputs, or any in its targets.
    """
    return [
        f"tasks.{name}: {share['input']:.0%} of the input tokens and {share['target']:.0%} of the target tokens are "
        f"unknown to {backbone}; use a backbone whose tokenizer knows these words"
        for name, share in data.unknown.items()
        if share["input"] > 0.01 or share["target"] > 0
    ]


def shortest(folder: Path) -> str:
    """A folder as seen from here, where it lies below."""
    return str(folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder)


def parameters(module: MPTModule) -> dict[str, float]:
    """How many numbers are trained, how many of the backbone are frozen, and what there is to store."""
    backbone = module.backbone.parameters()
    return {
        "trained": sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad),
        "frozen": sum(parameter.numel() for parameter in backbone if not parameter.requires_grad),
        **dataclasses.asdict(module.adapter.count_parameters()),
    }
