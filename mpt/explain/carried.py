"""What the shared prompt P and each task's W carry of the tasks' prompts: lengths, signs, cosines.

Shape legend: T tasks, N virtual tokens, D token_dim.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from mpt.prompt import MultitaskPromptEmbedding


class Carried(NamedTuple):
    """What a task's own part makes of P; lengths are Frobenius norms over all virtual tokens."""

    length: float
    """Of the task's prompt, T."""
    cosine_to_shared: float
    """Of T and P."""
    mean: float
    """Of the entries of W: 1 where W changes nothing, but in the additive form, where that is 0."""
    deviation: float
    """Standard deviation of the entries of W."""
    turned: float
    """Share of the entries of T that have another sign than P's."""
    left: float
    """Share of T that no multiple of P accounts for: ``1 - cosine²``, of the squared length."""


class Compared(NamedTuple):
    """Two tasks beside each other."""

    prompts: float
    """Cosine of their prompts."""
    own: float
    """Cosine of their W, without the ones that a residual W has in common."""
    same_sign: float
    """Share of the entries of their prompts with the same sign."""
    tokens: list[float]
    """Cosine of their prompts at each virtual token, N."""


@torch.no_grad()
def what_is_carried(prompt: MultitaskPromptEmbedding) -> dict[str, Carried]:
    """Measure each task of a prompt that has factors; empty of one that has none."""
    if not prompt.config.has_factors:
        return {}
    prompts = prompt.prompts().double().cpu()  # T N D
    own = own_part(prompt)
    found = {}
    for task, name in enumerate(prompt.task_names):
        shared, of_task = shared_of(prompt, task), prompts[task]
        cosine = float(cosine_similarity(of_task.flatten(), shared.flatten(), dim=0))
        W = 1 + own[task] if prompt.config.form == "residual" else own[task]
        turned = float((of_task.sign() != shared.sign()).double().mean())
        found[name] = Carried(
            float(of_task.norm()), cosine, float(W.mean()), float(W.std()), turned, max(0.0, 1 - cosine**2)
        )
    return found


@torch.no_grad()
def compare(prompt: MultitaskPromptEmbedding, first: str, second: str) -> Compared:
    """Compare two tasks.

    Raises:
        UserError: The prompt has no such task.
    """
    places = [prompt.task_id(first), prompt.task_id(second)]
    one, other = prompt.prompts().double().cpu()[places]
    parts = own_part(prompt)[places] if prompt.config.has_factors else torch.stack([one, other])
    return Compared(
        float(cosine_similarity(one.flatten(), other.flatten(), dim=0)),
        float(cosine_similarity(parts[0].flatten(), parts[1].flatten(), dim=0)),
        float((one.sign() == other.sign()).double().mean()),
        cosine_similarity(one, other, dim=1).tolist(),
    )


def own_part(prompt: MultitaskPromptEmbedding) -> Tensor:
    """Compute ``cols @ rows`` of every task, ``(T, N, D)``, float64."""
    return (prompt.prefix_task_cols @ prompt.prefix_task_rows).detach().double().cpu()


def shared_of(prompt: MultitaskPromptEmbedding, task: int) -> Tensor:
    """Return the shared prompt that a task composes with, ``(N, D)``, float64."""
    N = prompt.num_virtual_tokens
    group = int(prompt.task_groups[task])
    return prompt.embedding.weight.detach()[group * N : (group + 1) * N].double().cpu()
