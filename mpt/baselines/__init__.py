"""Baselines that multitask prompt tuning is compared with: ATTEMPT, DePT, LoRA and full fine-tuning.

Plain prompts, SPoT and averages of prompts need no class of their own: they are forms and starts of the prompt.
"""

from mpt.baselines.attempt import Attempt
from mpt.baselines.baseline import Baseline, TensorBaseline
from mpt.baselines.build import build_baseline
from mpt.baselines.dept import DePT
from mpt.baselines.weights import FullFineTuning, LoRA

BASELINES: dict[str, type[TensorBaseline]] = {each.name: each for each in (Attempt, DePT)}
"""Those that hold their own tensors, by name."""

__all__ = [
    "BASELINES",
    "Attempt",
    "Baseline",
    "DePT",
    "FullFineTuning",
    "LoRA",
    "TensorBaseline",
    "build_baseline",
]
