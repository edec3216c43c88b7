"""Save what a run has trained: a prompt's folder, or that of a baseline; whole or not at all."""

import json
from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save_file

from mpt.adapter import Adapter, TensorBaseline, WithinBackbone
from mpt.artifact.prompt_folder import save_prompt
from mpt.atomic import write_folder_atomically
from mpt.backbone import Backbone
from mpt.prompt import MultitaskPromptEmbedding
from mpt.tasks import AnswerSettings

BASELINE_VERSION = 1
"""Of ``adapter.json``."""


def save(
    adapter: Adapter,
    folder: Path,
    backbone: Backbone,
    task_weights: Mapping[str, float],
    answers: Mapping[str, AnswerSettings] | None = None,
) -> None:
    """Write what was trained into a run folder: a prompt into its ``prompt/``, a baseline into its ``adapter/``.

    Args:
        adapter: What was trained.
        folder: The run folder; folders above it are made.
        backbone: What it was trained with.
        task_weights: λ of each task, by name.
        answers: How each task's answers are made, by name; None: not known.

    Raises:
        UserError: The prompt holds a number that is not finite, or the folder something that no run wrote.
    """
    if isinstance(adapter, MultitaskPromptEmbedding):
        save_prompt(
            folder / "prompt",
            adapter,
            task_weights=task_weights,
            backbone=backbone.describe(),
            answers=answers,
            backbone_location=backbone.location,
        )
        return
    folder.mkdir(parents=True, exist_ok=True)
    with write_folder_atomically(folder / "adapter") as temporary:
        if isinstance(adapter, WithinBackbone):
            adapter.write(temporary, backbone)
        else:
            assert isinstance(adapter, TensorBaseline)
            _write_tensors(temporary, adapter, backbone, answers or {})


def _write_tensors(
    folder: Path, baseline: TensorBaseline, backbone: Backbone, answers: Mapping[str, AnswerSettings]
) -> None:
    """Write a baseline's tensors, and what builds it again."""
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
