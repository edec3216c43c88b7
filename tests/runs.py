"""Read a run folder, for the tests."""

import csv
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from mpt.cli import main as cli


def tensors(folder: Path) -> dict[str, Tensor]:
    """The tensors of a run's prompt."""
    return load_file(folder / "prompt" / "adapter_model.safetensors")


def curves(folder: Path) -> list[dict[str, str]]:
    """The lines of metrics.csv without their seconds."""
    with (folder / "metrics.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert all(float(line.pop("seconds")) >= 0 for line in lines)
    return lines


def assert_equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    """The same tensors to the last bit."""
    assert first.keys() == second.keys()
    for name in first:
        assert torch.equal(first[name], second[name]), name


def run_cli(monkeypatch, *arguments: str) -> int:
    """Call the command line in this process; its exit code."""
    # To configure logging anew is to close every handler, absl's with the stream that pytest captures.
    quiet = ["hydra/job_logging=none", "hydra/hydra_logging=none"]
    monkeypatch.setattr(sys, "argv", ["train.py", *arguments, *quiet])
    try:
        cli.main()
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0
