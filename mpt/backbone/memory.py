"""How much memory a device has, and what an encoder of any length needs of it."""

import os
from collections.abc import Sequence

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from mpt.errors import UserError

FLOAT = 4
"""Bytes of a number in float32."""


def memory_of(device: torch.device) -> int:
    """Return the bytes of memory of a device, used or not."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def layers_of(model: nn.Module) -> list[nn.Module]:
    """Return the layers of a model: the blocks that transformers lets recompute their activations."""
    return [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]


def sizes_of(model: nn.Module) -> tuple[int, int]:
    """Return the bytes of the layers' weights, and of all others: embeddings, the last norm, the output layer."""
    inside = {parameter for layer in layers_of(model) for parameter in layer.parameters()}
    layers = sum(parameter.nbytes for parameter in inside)
    return layers, sum(parameter.nbytes for parameter in model.parameters()) - layers


def count_layers(model: nn.Module) -> int:
    """Return how many layers a model has, those of encoder and decoder together."""
    return len(layers_of(model))


def heads_of(model: PreTrainedModel) -> int:
    """Return the heads of a layer's attention."""
    return int(model.config.num_attention_heads)


def show_bytes(count: int) -> str:
    """Write a number of bytes: 3.2 GB, 12 MB."""
    return f"{count / 1e9:,.1f} GB" if count >= 1e9 else f"{count / 1e6:,.0f} MB"


def refuse_too_long(lengths: Sequence[int], positions: Sequence[int], device: torch.device) -> None:
    """Refuse a batch whose attention alone is larger than the memory, before it is tried and the process dies.

    Args:
        lengths: Tokens of each text, virtual ones included.
        positions: Where each text stands among all, for the error.
        device: Where they are read.

    Raises:
        UserError: A text, or the batch, needs more; one head's weights are counted, so one that passes may too.
    """
    longest, has = max(lengths, default=0), memory_of(device)
    of_one = longest**2 * FLOAT
    if len(lengths) * of_one <= has:
        return
    where = positions[list(lengths).index(longest)]
    hint = "shorten it" if of_one > has else "take a smaller batch_size"
    raise UserError(
        f"texts: number {where} has {longest:,} tokens, and {len(lengths):,} rows of that length take at least "
        f"{show_bytes(len(lengths) * of_one)}; this machine has {show_bytes(has)}, so {hint}"
    )
