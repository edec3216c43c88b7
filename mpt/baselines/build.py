"""From a configuration, or from a folder, to a baseline."""

import json
import math
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from mpt.backbone import Backbone
from mpt.baselines.attempt import Attempt
from mpt.baselines.baseline import Baseline
from mpt.baselines.dept import DePT
from mpt.baselines.saved import FORMAT_VERSION
from mpt.baselines.weights import FullFineTuning, LoRA
from mpt.config import MethodConfig
from mpt.errors import UserError


def build_baseline(
    method: MethodConfig,
    backbone: Backbone,
    task_names: Sequence[str],
    start: Tensor,
    sources: Tensor | None,
    max_tokens: int,
) -> Baseline:
    """Build the method that a configuration names.

    Args:
        method: Any but ``prompt``.
        backbone: LoRA and full fine-tuning train it.
        task_names: The T tasks.
        start: First values of the tasks' prompts, ``(T, N, D)``; of LoRA and full fine-tuning just the size of what
            they are compared with.
        sources: The C source prompts of ATTEMPT, ``(C, N, D)``.
        max_tokens: Longest input of DePT.

    Raises:
        UserError: The method does not fit the backbone or the sources.
    """
    _, N, D = start.shape
    if method.name == "lora":
        return LoRA(task_names, backbone, method, N * D)
    if method.name == "full":
        return FullFineTuning(task_names, backbone, N * D)
    assert method.num_ranks is not None
    if method.name == "dept":
        alpha = 8.0 if method.alpha is None else method.alpha
        return DePT(task_names, start, method.num_ranks, max_tokens, alpha)
    assert sources is not None
    return Attempt(task_names, sources, start, method.num_ranks, method.temperature)


def load_baseline(folder: Path) -> Attempt | DePT:
    """Read back what :meth:`Attempt.save` or :meth:`DePT.save` wrote.

    Args:
        folder: A run folder, whose ``adapter/`` is read, or that folder.

    Raises:
        FileNotFoundError: There is none.
        UserError: The files do not fit each other.
    """
    folder = next(
        (place for place in (folder / "adapter", folder) if (place / "adapter.json").is_file()), folder
    )
    if not (folder / "adapter.json").is_file():
        raise FileNotFoundError(
            f"{folder}: no adapter.json; give the folder of a run with method=attempt or dept"
        )
    about = json.loads((folder / "adapter.json").read_text(encoding="utf-8"))
    if about.get("format_version") != FORMAT_VERSION:
        raise UserError(
            f"{folder}: format_version is {about.get('format_version')!r}; this program reads {FORMAT_VERSION}"
        )
    tensors = load_file(folder / "adapter.safetensors")
    start, names = tensors["prompt"], about["task_names"]
    with torch.random.fork_rng(devices=[]):  # the drawn values are replaced, so no number is used up
        if about["method"] == "attempt":
            loaded: Attempt | DePT = Attempt(names, tensors["sources"], start, **about["settings"])
        else:
            # Before alpha was saved, the update was not scaled: sqrt(R) undoes the scaling.
            old = {"alpha": math.sqrt(about["settings"]["num_ranks"])}
            loaded = DePT(names, start, **(old | about["settings"]))
    try:
        loaded.load_state_dict(tensors)
    except RuntimeError as error:
        raise UserError(f"{folder}: {' '.join(str(error).split())}") from error
    return loaded
