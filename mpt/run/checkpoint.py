"""The checkpoint that an unfinished run goes on from: written whole or not at all, and refused where it is damaged."""

import pickle
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO

from mpt.atomic import write_atomically
from mpt.errors import UserError

RESUME_NEVER = "resume=never starts the run again"


class AtomicCheckpointIO(TorchCheckpointIO):
    """Write a checkpoint beside its place and rename it, so that a full disk leaves the one before as it was."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        """Save a checkpoint.

        Raises:
            OSError: It cannot be written; the path is named.
        """
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
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
        int(checkpoint["global_step"])
    except (OSError, RuntimeError, EOFError, KeyError, TypeError, pickle.UnpicklingError) as error:
        raise UserError(f"{path}: damaged, so the run cannot go on from it; {RESUME_NEVER}") from error
    assert isinstance(checkpoint, dict)
    return checkpoint
