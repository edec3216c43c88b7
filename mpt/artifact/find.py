"""Tell what a folder holds: a prompt, a baseline's tensors, LoRA's updates, or a whole model."""

import json
from enum import StrEnum
from pathlib import Path
from typing import Any

from mpt.errors import UserError


class Kind(StrEnum):
    """Kinds of trained artifacts."""

    PROMPT = "prompt"
    """A PEFT adapter of multitask prompt tuning, ours or another's."""
    TENSORS = "tensors"
    """A file of a prompt's tensors."""
    BASELINE = "baseline"
    """The tensors of a method that holds its own, beside ``adapter.json``."""
    UPDATES = "updates"
    """A PEFT adapter within the backbone, such as LoRA's."""
    MODEL = "model"
    """A whole backbone, as full fine-tuning leaves it."""


def find(folder: Path) -> tuple[Kind, Path] | None:
    """Tell what a run folder, the folder within it, or a file holds.

    Returns:
        The kind, and where it lies; None: nothing that was trained.
    """
    if folder.is_file():
        return Kind.TENSORS, folder
    inside = folder / "adapter"
    if (inside / "config.json").is_file():
        return Kind.MODEL, inside
    if (inside / "adapter_config.json").is_file():
        return Kind.UPDATES, inside
    for place in (inside, folder):
        if (place / "adapter.json").is_file():
            return Kind.BASELINE, place
    for place in (folder / "prompt", folder):
        if (place / "adapter_config.json").is_file():
            return Kind.PROMPT, place
    return None


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object of a saved folder.

    Raises:
        UserError: It is damaged.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not JSON ({error}); give a folder as it was saved") from error
    if not isinstance(value, dict):
        raise UserError(f"{path}: not a JSON object; give a folder as it was saved")
    return value
