"""A run's share of the group that it is a part of; a run by itself has no group."""

from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mpt.backbone import Backbone
    from mpt.run.interrupt import StopSignals


@dataclass(frozen=True)
class GroupMember:
    """A run as a member of a group: what the group lends it.

    Attributes:
        backbone: This run's; the group computes.
        signals: This run's; the group receives them.
        clock: Seconds that this run has used: what it did by itself, and its share of what was computed for several.
        load_split: As :func:`mpt.tasks.load_split`; each split is read once.
    """

    backbone: "Backbone"
    signals: "StopSignals"
    load_split: Callable[..., Any]
    clock: Callable[[], float]


QUIET: ContextVar[bool] = ContextVar("QUIET", default=False)
"""True where this run leaves its progress and its tables to its group."""
