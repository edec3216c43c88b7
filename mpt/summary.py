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
    for column in ("λ", "train", "validation", "test", "inputs cut", "targets cut"):
        shown.add_column(column, justify="right")
    for index, (name, task) in enumerate(config.tasks.items()):
        sizes = [str(len(data.examples[split][index])) for split in ("train", "validation", "test")]
        cut = data.truncation["train"][name]
        shown.add_row(name, f"{task.weight:g}", *sizes, f"{cut['input']:.1%}", f"{cut['target']:.1%}")
    return "\n".join(lines), shown


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
