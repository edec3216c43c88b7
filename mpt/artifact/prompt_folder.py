"""Write a prompt's folder: a valid PEFT adapter, and beside it what PEFT does not know.

``adapter_config.json`` and ``adapter_model.safetensors`` are a PEFT adapter; ``mpt.json`` says what they do
not: the names of the tasks, the form, the groups, λ, and the backbone. How each form is written for PEFT, which
knows only ``P * (cols @ rows)`` with one P:

- product, one group: as it is.
- residual, one group: with one rank more, whose column and row are ones.
- independent: P is all ones, cols the identity of rank N, and the rows of a task are its prompt.
- additive, single, and several groups with factors: as form independent, from the whole prompt of each task; the
  prompt's own tensors lie beside it in ``mpt.safetensors``.

Of plain prompts of a source run ``start.safetensors`` holds those that the training began with, ``(T, N, D)``.

Shape legend: T tasks, G groups of P, N virtual tokens, R ranks, D token_dim.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from mpt.atomic import make_folder, write_folder_atomically
from mpt.errors import UserError
from mpt.prompt import MultitaskPromptEmbedding, MultitaskPromptTuningConfig
from mpt.prompt.tensors import NAMES, as_product
from mpt.tasks import AnswerSettings

FORMAT_VERSION = 3
"""Of ``mpt.json``. 3 says how answers are made; 2 may say of the backbone how inputs are written for it; 1 knew only
encoder-decoders."""


METADATA = {"format": "pt", "written_by": "mpt"}
"""Of the files of tensors: what transformers and PEFT expect, and by what a folder is known as ours."""
FILES = ("adapter_config.json", "adapter_model.safetensors", "mpt.json", "mpt.safetensors", "start.safetensors")
"""Names in a prompt's folder."""


def is_ours(folder: Path) -> bool:
    """Tell whether a folder that is not empty is a prompt that this package wrote, with nothing else in it."""
    names = {path.name for path in folder.iterdir()}
    if not names <= set(FILES):
        return not names
    if "mpt.json" in names:
        return True
    try:
        with safe_open(folder / "adapter_model.safetensors", "pt") as file:
            return (file.metadata() or {}).get("written_by") == METADATA["written_by"]
    except (OSError, SafetensorError):
        return False


def save_prompt(
    folder: Path,
    prompt: MultitaskPromptEmbedding,
    *,
    task_weights: Mapping[str, float],
    backbone: Mapping[str, Any],
    answers: Mapping[str, AnswerSettings] | None = None,
    backbone_location: str | None = None,
) -> None:
    """Write a prompt's folder, whole or not at all; a prompt that stood there is replaced.

    Args:
        folder: Where to; folders above it are made.
        prompt: The prompt, on any device.
        task_weights: λ of each task, by name.
        backbone: What :meth:`mpt.backbone.Backbone.describe` says: name, fingerprint, and how inputs are written.
        answers: How the answers of each task are made, by name; None: not known.
        backbone_location: Where PEFT and transformers find the backbone; None: under its name.

    Raises:
        UserError: A weight is missing or too many, or the prompt holds a number that is not finite.
    """
    if set(task_weights) != set(prompt.task_names):
        raise UserError(
            f"task_weights: is for {', '.join(task_weights) or 'no task'}; "
            f"it must be for {', '.join(prompt.task_names)}"
        )
    own = prompt.snapshot()
    if bad := [name for name, tensor in own.items() if not tensor.isfinite().all()]:
        raise UserError(f"prompt: {', '.join(bad)} holds numbers that are not finite; lower the learning rates")
    tensors = _peft_tensors(prompt, own)
    about = {
        "format_version": FORMAT_VERSION,
        "task_names": prompt.task_names,
        "task_weights": {name: float(task_weights[name]) for name in prompt.task_names},
        "form": prompt.config.form,
        "num_groups": prompt.config.num_groups,
        "task_groups": prompt.config.task_groups,
        "num_ranks": prompt.config.num_ranks,
        "backbone": dict(backbone),
        "answers": {name: (answers or {})[name].to_json() for name in prompt.task_names if name in (answers or {})},
    }
    make_folder(folder.parent)
    with write_folder_atomically(folder, is_ours) as temporary:
        _write_json(
            temporary / "adapter_config.json", _peft_config(prompt, tensors, backbone_location or str(backbone["name"]))
        )
        _write_json(temporary / "mpt.json", about)
        save_file(tensors, temporary / "adapter_model.safetensors", metadata=METADATA)
        if needs_own_tensors(prompt.config):
            save_file(own, temporary / "mpt.safetensors", metadata=METADATA)
        if prompt.began_with is not None:
            save_file({"start": prompt.began_with.contiguous()}, temporary / "start.safetensors", metadata=METADATA)


def needs_own_tensors(config: MultitaskPromptTuningConfig) -> bool:
    """Tell whether PEFT's three tensors cannot give the prompt back."""
    return config.form in ("additive", "single") or (config.form != "independent" and config.num_groups > 1)


def _peft_tensors(prompt: MultitaskPromptEmbedding, own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Write the prompt as PEFT's product, as the head of this file says."""
    config, (T, N, _, D) = prompt.config, prompt.shape
    if config.form == "independent" or needs_own_tensors(config):
        shared = torch.ones(N, D)
        cols = torch.eye(N).repeat(T, 1, 1)
        rows = prompt.prompts().detach().cpu()
    else:
        shared, cols, rows = own["embedding.weight"], own["prefix_task_cols"], own["prefix_task_rows"]
        if config.form == "residual":
            cols, rows = as_product(cols, rows)
    return dict(zip(NAMES, (tensor.contiguous() for tensor in (shared, cols, rows)), strict=True))


def _peft_config(
    prompt: MultitaskPromptEmbedding, tensors: Mapping[str, Tensor], backbone_location: str
) -> dict[str, Any]:
    """Build the configuration that PEFT reads, with only keys that it knows."""
    return {
        "auto_mapping": None,
        "base_model_name_or_path": backbone_location,
        "inference_mode": True,
        "num_attention_heads": None,
        "num_layers": None,
        "num_ranks": tensors["prefix_task_cols"].shape[2],
        "num_tasks": prompt.config.num_tasks,
        "num_transformer_submodules": 1,
        "num_virtual_tokens": prompt.config.num_virtual_tokens,
        "peft_type": "MULTITASK_PROMPT_TUNING",
        "prompt_tuning_init": "RANDOM",
        "prompt_tuning_init_state_dict_path": None,
        "prompt_tuning_init_task": 0,
        "prompt_tuning_init_text": None,
        "revision": None,
        "task_type": str(prompt.config.task_type),
        "token_dim": prompt.config.token_dim,
        "tokenizer_kwargs": None,
        "tokenizer_name_or_path": None,
    }


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
