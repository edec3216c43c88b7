"""Banks of prompts: keep some tasks of a trained prompt, or put several trained prompts together.

Shape legend: T tasks, G groups of P, N virtual tokens, R ranks, D token_dim.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from mpt.errors import UserError
from mpt.prompt.embedding import MultitaskPromptEmbedding
from mpt.prompt.prompt_config import MultitaskPromptTuningConfig


def select_tasks(prompt: MultitaskPromptEmbedding, names: Sequence[str]) -> MultitaskPromptEmbedding:
    """Keep some tasks, in this order; their numbers stay bit for bit as they are, and groups without a task go.

    Args:
        prompt: Is not changed.
        names: At least one of its tasks, each once.

    Raises:
        UserError: A name is unknown or repeated, or there is none.
    """
    if not names or isinstance(names, str):
        raise UserError(f"names: is {names!r}; it must be a list of at least one task")
    ids = [prompt.task_id(name) for name in names]
    old = [int(prompt.task_groups[position]) for position in ids]
    kept = sorted(set(old))
    config = _trained(prompt.config, list(names), [kept.index(group) for group in old], len(kept))
    tensors = prompt.snapshot()
    chosen = {"embedding.weight": _groups_of(prompt, tensors)[kept if config.form != "independent" else old]}
    for name in ("prefix_task_cols", "prefix_task_rows"):
        if name in tensors:
            chosen[name] = tensors[name][ids]
    return _filled(config, chosen)


def merge(prompts: Sequence[MultitaskPromptEmbedding]) -> MultitaskPromptEmbedding:
    """Put the tasks of several trained prompts into one; each keeps the P that it was trained over.

    Prompts with the same P share a group. A smaller rank is filled up with zeros, which changes no product.

    Args:
        prompts: Prompts of one form, length and width; they are not changed.

    Raises:
        UserError: They differ in form, length or width, or share the name of a task.
    """
    first = prompts[0].config
    for other in prompts[1:]:
        for key in ("form", "num_virtual_tokens", "token_dim", "task_type"):
            if getattr(other.config, key) != getattr(first, key):
                raise UserError(
                    f"{key}: is {getattr(first, key)} in one prompt and {getattr(other.config, key)} in another; "
                    "prompts that are merged must have the same"
                )
    names = [name for prompt in prompts for name in prompt.task_names]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(f"task_names: {', '.join(twice)} is in several of the prompts; keep it in one of them")
    shared: list[Tensor] = []
    groups: list[int] = []
    for prompt in prompts:
        own = _groups_of(prompt, prompt.snapshot())  # G N D
        places = []
        for each in own:
            same = [place for place, known in enumerate(shared) if torch.equal(known, each)]
            if not same or first.form == "independent":
                shared.append(each)
                same = [len(shared) - 1]
            places.append(same[0])
        groups += [places[int(group)] for group in prompt.task_groups]
    R = max(prompt.config.num_ranks for prompt in prompts)
    config = _trained(replace(first, num_ranks=R), names, groups, len(shared))
    tensors = {"embedding.weight": torch.stack(shared)}
    if first.has_factors:
        tensors["prefix_task_cols"] = torch.cat([_widen(p.prefix_task_cols, R, 2) for p in prompts])
        tensors["prefix_task_rows"] = torch.cat([_widen(p.prefix_task_rows, R, 1) for p in prompts])
    return _filled(config, tensors)


def _groups_of(prompt: MultitaskPromptEmbedding, tensors: dict[str, Tensor]) -> Tensor:
    """P by group, ``(G, N, D)``."""
    return tensors["embedding.weight"].view(prompt.config.num_groups, prompt.config.num_virtual_tokens, -1)


def _widen(factor: Tensor, ranks: int, dim: int) -> Tensor:
    """Fill a factor up with zeros to a number of ranks, which lie along ``dim``."""
    shape = list(factor.shape)
    shape[dim] = ranks - shape[dim]
    return torch.cat([factor.detach().cpu(), torch.zeros(shape)], dim=dim)


def _trained(
    config: MultitaskPromptTuningConfig, names: list[str], groups: list[int], num_groups: int
) -> MultitaskPromptTuningConfig:
    """The config of a prompt that is filled with trained numbers."""
    plain = config.form == "independent"
    return replace(
        config,
        task_names=names,
        num_tasks=len(names),
        num_groups=1 if plain else num_groups,
        task_groups=None if plain else groups,
        inference_mode=True,
    )


def _filled(config: MultitaskPromptTuningConfig, tensors: dict[str, Tensor]) -> MultitaskPromptEmbedding:
    with torch.random.fork_rng(devices=[]):  # the drawn values are replaced, so no number is used up
        prompt = MultitaskPromptEmbedding(config)
    prompt.restore(tensors | {"embedding.weight": tensors["embedding.weight"].flatten(0, 1)})
    return prompt
