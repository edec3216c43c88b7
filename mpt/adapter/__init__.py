"""Everything that can be trained: the contract, and what the baselines have in common."""

from mpt.adapter.baseline import Baseline, TensorBaseline, WithinBackbone
from mpt.adapter.contract import Adapter, ParameterCount
from mpt.adapter.learner import Learner, LearnerGroup

__all__ = ["Adapter", "Baseline", "Learner", "LearnerGroup", "ParameterCount", "TensorBaseline", "WithinBackbone"]
