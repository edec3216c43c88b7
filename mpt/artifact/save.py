"""Save what a run has trained: a prompt's folder, or that of a baseline; whole or not at all."""

from collections.abc import Mapping
from pathlib import Path

from mpt.adapter import Adapter, TensorBaseline, WithinBackbone
from mpt.artifact.baseline_folder import write_baseline
from mpt.artifact.prompt_folder import save_prompt
from mpt.atomic import make_folder, write_folder_atomically
from mpt.backbone import Backbone
from mpt.prompt import MultitaskPromptEmbedding
from mpt.tasks import AnswerSettings


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
    make_folder(folder)
    with write_folder_atomically(folder / "adapter") as temporary:
        if isinstance(adapter, WithinBackbone):
            adapter.write(temporary, backbone)
        else:
            assert isinstance(adapter, TensorBaseline)
            write_baseline(temporary, adapter, backbone, answers or {})
