"""The checkpoint that an unfinished run goes on from: written whole or not at all, and refused where it is damaged."""

import pickle
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from torch import Tensor

from mpt.atomic import make_folder, write_atomically
from mpt.errors import UserError

PARTS = {
    "global_step": int, "state_dict": dict, "adapter": dict, "start": dict, "loops": dict, "callbacks": dict,
    "optimizer_states": list, "lr_schedulers": list,
}  # fmt: skip
"""Parts of a checkpoint, each of which going on needs."""
RESUME_NEVER = "resume=never starts the run again"


class AtomicCheckpointIO(TorchCheckpointIO):
    """Write a checkpoint beside its place and rename it, so that a full disk leaves the one before as it was."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        """Save a checkpoint.

        Raises:
            OSError: It cannot be written; the path is named.
        """
        path = Path(path)
        make_folder(path.parent)
        try:
            with write_atomically(path) as temporary:
                torch.save(checkpoint, temporary)
        except (OSError, RuntimeError) as error:  # torch reports a full disk as a RuntimeError
            raise cannot_write(path, error) from error

    def load_checkpoint(
        self, path: str | Path, map_location: Any | None = None, weights_only: bool | None = True
    ) -> dict[str, Any]:
        """Read a checkpoint, as :func:`read_checkpoint`."""
        return read_checkpoint(Path(path))


def cannot_write(path: Path, error: Exception) -> OSError:
    """Name the file that could not be written, with the system's reason where there is one."""
    reason = getattr(error, "strerror", None) or str(error).strip().splitlines()[0]
    return OSError(f"{path}: cannot be written ({reason}); free some space, then the same command goes on")


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU; no code in it is run.

    Raises:
        UserError: The file is damaged.
    """
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, KeyError, TypeError, pickle.UnpicklingError) as error:
        raise UserError(f"{path}: damaged, so the run cannot go on from it; {RESUME_NEVER}") from error
    if wrong := next(_wrong_parts(checkpoint), None):
        raise UserError(f"{path}: damaged, so the run cannot go on from it ({wrong}); {RESUME_NEVER}")
    assert isinstance(checkpoint, dict)
    return checkpoint


def check_same_shapes(saved: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
    """Compare what a checkpoint would put back with what is there.

    Raises:
        UserError: A tensor is missing, is too many, or has another shape.
    """
    for name in sorted({*saved, *own}):
        there, here = (tuple(each[name].shape) if name in each else None for each in (saved, own))
        if there != here:
            raise UserError(
                f"the checkpoint has {name} {_shaped(there)}, and the run has it {_shaped(here)}; {RESUME_NEVER}"
            )


def _shaped(shape: tuple[int, ...] | None) -> str:
    return "not at all" if shape is None else f"with shape {shape}"


def _wrong_parts(checkpoint: Any) -> Iterator[str]:
    """Say what a checkpoint lacks, or has as something else."""
    if not isinstance(checkpoint, dict):
        yield f"it holds a {type(checkpoint).__name__}"
        return
    for name, kind in PARTS.items():
        if not isinstance(checkpoint.get(name), kind):
            yield f"its {name} is {'missing' if name not in checkpoint else type(checkpoint[name]).__name__}"
            return
    if checkpoint["global_step"] < 0:
        yield f"its global_step is {checkpoint['global_step']}"
    if "fit_loop" not in checkpoint["loops"]:
        yield "its loops have no fit_loop"
    for name in ("optimizer_states", "lr_schedulers"):
        if not checkpoint[name]:
            yield f"its {name} are empty"
    for part in ("adapter", "start"):
        for name, tensor in checkpoint[part].items():
            if not isinstance(tensor, Tensor) or not tensor.isfinite().all():
                yield f"{name} of its {part} has numbers that are not finite"
