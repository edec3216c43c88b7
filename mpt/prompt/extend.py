"""Add tasks to a trained prompt: everything that it holds stays bit for bit as it is.

Shape legend: T tasks, G groups of P, N virtual tokens, R ranks, D token_dim.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import nn

from mpt.config import OF_SOURCE, MultitaskPromptTuningInit
from mpt.errors import UserError
from mpt.prompt.embedding import MultitaskPromptEmbedding
from mpt.prompt.prompt_config import MultitaskPromptTuningConfig


def add_tasks(
    prompt: MultitaskPromptEmbedding,
    names: Sequence[str],
    *,
    groups: Sequence[int] | None = None,
    like: Sequence[str] = (),
    word_embeddings: nn.Embedding | None = None,
) -> None:
    """Extend a prompt by tasks; every number that it holds stays bit for bit as it is.

    The parameters are replaced by longer ones, so build the optimizer after this.

    Args:
        prompt: Is changed in place.
        names: The new tasks.
        groups: Existing group of each new task; None: the only one. Not for form independent, where each new
            task gets a group of its own.
        like: Tasks of this prompt, from the mean of whose factors (under form independent, prompts) the new
            tasks start; empty: from the config's start, with a source-based init from RANDOM.
        word_embeddings: For new plain prompts under TEXT and VOCABULARY.

    Raises:
        UserError: A name is taken or unknown, or a group is not there.
    """
    extended = _extended_config(prompt, names, groups)
    ids = torch.tensor([prompt.task_id(name) for name in like], dtype=torch.long)
    # The new tasks' part, drawn as a prompt of its own.
    part = replace(extended, num_tasks=len(names), task_names=list(names), task_groups=None, num_groups=1)
    if part.prompt_tuning_init in OF_SOURCE or extended.form != "independent" or like:
        part.prompt_tuning_init = MultitaskPromptTuningInit.RANDOM
    fresh = MultitaskPromptEmbedding(part, word_embeddings).to(prompt.embedding.weight.device)
    for name in prompt.names_by_task():
        old, new = prompt.get_parameter(name), fresh.get_parameter(name).detach()
        if like:
            mean = old.detach().view(len(prompt.task_groups), -1)[ids.to(old.device)].mean(0)
            new = mean.expand(len(names), -1).reshape_as(new)
        longer = nn.Parameter(torch.cat([old.detach(), new]), requires_grad=old.requires_grad)
        if name == "embedding.weight":
            prompt.embedding.weight, prompt.embedding.num_embeddings = longer, len(longer)
        else:
            setattr(prompt, name, longer)
    prompt.task_groups = torch.tensor(extended.task_groups, device=prompt.task_groups.device)
    prompt.config = extended


def join(prompt: MultitaskPromptEmbedding, other: MultitaskPromptEmbedding) -> None:
    """Append the tasks of another prompt with the same P; every number of both stays bit for bit as it is.

    Args:
        prompt: Is changed in place.
        other: Such as the one that an adaptation with a frozen P has trained.

    Raises:
        UserError: The two differ in form, rank, length or P, have several groups, or share a name.
    """
    mine, theirs = prompt.config, other.config
    for key in ("form", "num_ranks", "num_virtual_tokens", "token_dim"):
        if getattr(mine, key) != getattr(theirs, key) and not (key == "num_ranks" and not mine.has_factors):
            raise UserError(
                f"{key}: is {getattr(mine, key)} in one prompt and {getattr(theirs, key)} in the other; prompts "
                "that are joined must have the same"
            )
    if mine.form != "independent":
        if mine.num_groups > 1 or theirs.num_groups > 1:
            raise UserError("num_groups: is more than 1; only prompts with one P can be joined")
        if not torch.equal(prompt.embedding.weight.cpu(), other.embedding.weight.cpu()):
            raise UserError("embedding: the two prompts have another P; train the second with P frozen")
    names = prompt.names_by_task()
    kept = {name: len(prompt.get_parameter(name)) for name in names}
    # What they start from is replaced at once, so it needs no word embeddings.
    add_tasks(prompt, theirs.task_names, like=mine.task_names[:1])
    with torch.no_grad():
        for name in names:
            prompt.get_parameter(name)[kept[name] :].copy_(other.get_parameter(name))


def _extended_config(
    prompt: MultitaskPromptEmbedding, names: Sequence[str], groups: Sequence[int] | None
) -> MultitaskPromptTuningConfig:
    config = prompt.config
    if not names or isinstance(names, str):
        raise UserError(f"names: is {names!r}; it must be a list of at least one new task")
    every = [*config.task_names, *names]
    if config.form == "independent":
        if groups is not None:
            raise UserError(f"groups: is {list(groups)}; form=independent gives each new task its own, so leave it out")
        return replace(config, task_names=every, num_tasks=len(every), num_groups=1, task_groups=None)
    if groups is None and config.num_groups > 1:
        raise UserError(f"groups: is missing; the prompt has {config.num_groups} groups, so name one per new task")
    assert config.task_groups is not None
    joined = [*config.task_groups, *(groups if groups is not None else [0] * len(names))]
    return replace(config, task_names=every, num_tasks=len(every), task_groups=joined)
