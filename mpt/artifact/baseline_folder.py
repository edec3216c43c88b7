"""A baseline's folder: its tensors, and ``adapter.json`` with what rebuilds it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from mpt.adapter import TensorBaseline
from mpt.artifact.find import Kind, find, read_json
from mpt.backbone import Backbone
from mpt.errors import UserError
from mpt.methods import METHODS, find_method
from mpt.prompt.source_file import read_tensors
from mpt.tasks import AnswerSettings

BASELINE_VERSION = 1
"""Format version of ``adapter.json``."""


def write_baseline(
    folder: Path, baseline: TensorBaseline, backbone: Backbone, answers: Mapping[str, AnswerSettings]
) -> None:
    """Write a baseline's tensors, and ``adapter.json`` with what rebuilds it, into an empty folder."""
    about = {
        "format_version": BASELINE_VERSION,
        "method": baseline.name,
        "task_names": baseline.task_names,
        "settings": baseline.settings(),
        "backbone": backbone.describe(),
        "answers": {name: each.to_json() for name, each in answers.items()},
    }
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in baseline.state_dict().items()}
    text = json.dumps(about, indent=2, sort_keys=True, ensure_ascii=False)
    (folder / "adapter.json").write_text(text + "\n", encoding="utf-8")
    save_file(tensors, folder / "adapter.safetensors", metadata={"format": "pt"})


def load_baseline(folder: str | Path) -> tuple[TensorBaseline, dict[str, Any]]:
    """Read back a baseline that holds its own tensors.

    Args:
        folder: A run folder, whose ``adapter/`` is read, or that folder.

    Returns:
        The baseline, and what ``adapter.json`` says of it: among others ``backbone`` and ``answers``.

    Raises:
        FileNotFoundError: There is none.
        UserError: The files do not fit each other.
    """
    kind, place = find(Path(folder)) or (None, None)
    if place is None or kind is not Kind.BASELINE:
        raise FileNotFoundError(f"{folder}: no adapter.json; give the folder of a run with method=attempt or dept")
    about = read_json(place / "adapter.json")
    if about.get("format_version") != BASELINE_VERSION:
        raise UserError(
            f"{place}: format_version is {about.get('format_version')!r}; this program reads {BASELINE_VERSION}"
        )
    name = about.get("method")
    if not isinstance(name, str) or name not in METHODS:
        raise UserError(
            f"{place / 'adapter.json'}: the method {name!r} is not known here; name the module that brings it in "
            "plugins=, or import it before"
        )
    method = find_method(name)
    if not issubclass(method, TensorBaseline):
        raise UserError(f"{place / 'adapter.json'}: no method {name!r} that holds its own tensors; give a run's folder")
    kinds = {"task_names": list, "settings": dict, "backbone": dict}
    if missing := [key for key, kind in kinds.items() if not isinstance(about.get(key), kind)]:
        raise UserError(f"{place / 'adapter.json'}: {missing[0]} is missing or damaged; give a folder as it was saved")
    tensors = read_tensors(place / "adapter.safetensors")
    with torch.random.fork_rng(devices=[]):  # the drawn values are replaced, so no number is used up
        loaded = method.from_saved(about["task_names"], tensors, about["settings"])
    try:
        loaded.load_state_dict(tensors)
    except RuntimeError as error:
        raise UserError(f"{place}: {' '.join(str(error).split())}") from error
    return loaded, about
