"""The embedded micro-world: a small English-like text world, its data sets, and the tiny T5 trained on it."""

from mpt.world.tasks import TASKS, rows

__all__ = ["TASKS", "rows"]
