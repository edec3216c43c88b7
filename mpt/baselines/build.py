"""From a configuration to a baseline."""

from collections.abc import Sequence

from torch import Tensor

from mpt.backbone import Backbone
from mpt.baselines.attempt import Attempt
from mpt.baselines.baseline import Baseline
from mpt.baselines.dept import DePT
from mpt.baselines.weights import FullFineTuning, LoRA
from mpt.config import MethodConfig


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
