"""Multitask prompt tuning (Wang et al., ICLR 2023): one shared soft prompt and a low-rank factor per task."""

from importlib import import_module
from typing import Any

__version__ = "0.2.0"
PUBLIC = {
    "MultitaskPromptEmbedding": "mpt.prompt",
    "MultitaskPromptTuningConfig": "mpt.prompt",
    "MultitaskPromptTuningInit": "mpt.prompt",
    "PromptedModel": "mpt.answering.prompted",
    "Run": "mpt.api",
    "RunConfig": "mpt.config",
    "Task": "mpt.tasks.held",
    "TaskType": "mpt.prompt",
    "UserError": "mpt.errors",
    "callback": "mpt.training.own_callbacks",
    "compose": "mpt.api",
    "evaluate": "mpt.api",
    "method": "mpt.methods",
    "metric": "mpt.metrics.metric",
    "reader": "mpt.tasks.readers",
    "train": "mpt.api",
    "train_many": "mpt.api",
}
"""Public name to its module."""
__all__ = list(PUBLIC)


def __getattr__(name: str) -> Any:
    """Import a public name on first use, so that ``import mpt`` costs nothing."""
    if name not in PUBLIC:
        raise AttributeError(f"module 'mpt' has no attribute {name!r}")
    return getattr(import_module(PUBLIC[name]), name)
