"""The folder of a baseline that is tensors of its own."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from mpt.atomic import write_folder_atomically
from mpt.backbone import Backbone
from mpt.baselines.baseline import Baseline
from mpt.tasks import AnswerSettings

FORMAT_VERSION = 1


def save_tensors(
    folder: Path,
    method: str,
    module: Baseline,
    settings: Mapping[str, Any],
    backbone: Backbone,
    answers: Mapping[str, AnswerSettings] | None = None,
) -> None:
    """Write a baseline's tensors and what builds it again, whole or not at all.

    Args:
        folder: Where to; folders above it are made.
        method: What it is called in a configuration.
        module: The baseline; its state dict is saved.
        settings: Its other arguments.
        backbone: What it was trained with.
        answers: How each task's answers are made.
    """
    about = {
        "format_version": FORMAT_VERSION,
        "method": method,
        "task_names": module.task_names,
        "settings": dict(settings),
        "backbone": backbone.describe(),
        "answers": {name: each.to_json() for name, each in (answers or {}).items()},
    }
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in module.state_dict().items()}
    folder.parent.mkdir(parents=True, exist_ok=True)
    with write_folder_atomically(folder) as temporary:
        text = json.dumps(about, indent=2, sort_keys=True, ensure_ascii=False)
        (temporary / "adapter.json").write_text(text + "\n", encoding="utf-8")
        save_file(tensors, temporary / "adapter.safetensors", metadata={"format": "pt"})
