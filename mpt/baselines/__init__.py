"""Baselines that multitask prompt tuning is compared with: ATTEMPT, DePT, LoRA and full fine-tuning.

Plain prompts, SPoT and averages of prompts need no class of their own: they are forms and starts of the prompt.
"""

from mpt.baselines.attempt import Attempt
from mpt.baselines.baseline import Baseline
from mpt.baselines.build import build_baseline, load_baseline
from mpt.baselines.dept import DePT
from mpt.baselines.weights import FullFineTuning, LoRA

__all__ = [
    "Attempt",
    "Baseline",
    "DePT",
    "FullFineTuning",
    "LoRA",
    "build_baseline",
    "load_baseline",
]
