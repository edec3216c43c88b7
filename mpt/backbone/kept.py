"""A loaded backbone that the jobs of a sweep take copies of, where each has to have one of its own."""

import copy
import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from mpt.backbone.frozen import FrozenModel
from mpt.backbone.pretrained import load_backbone
from mpt.config import BackboneConfig

_KEPT: ContextVar[dict[tuple[Any, ...], FrozenModel] | None] = ContextVar("_KEPT", default=None)


@contextmanager
def keep_backbone() -> Iterator[None]:
    """Keep the backbone that :func:`load_or_copy` loaded last, within a block."""
    token = _KEPT.set({})
    try:
        yield
    finally:
        _KEPT.reset(token)


def load_or_copy(config: BackboneConfig) -> FrozenModel:
    """Load a backbone, or within :func:`keep_backbone` copy the one that a job before had: nothing is trained in that.

    Weights that are only read stay in their file, so what is kept takes memory once, in the copy. Quantized ones are
    loaded each time: their library keeps state beside them.

    Raises:
        FileNotFoundError: As :func:`mpt.backbone.load_backbone`.
        UserError: As :func:`mpt.backbone.load_backbone`.
    """
    kept = _KEPT.get()
    if kept is None or config.quantize is not None:
        return load_backbone(config)
    key = dataclasses.astuple(config)
    if key not in kept:
        kept.clear()
        kept[key] = load_backbone(config)
    return copy.deepcopy(kept[key])
