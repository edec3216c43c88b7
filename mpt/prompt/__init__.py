"""The multitask prompt and its configuration."""

from mpt.config import MultitaskPromptTuningInit
from mpt.prompt.config import MultitaskPromptTuningConfig, TaskType
from mpt.prompt.count import ParameterCount
from mpt.prompt.embedding import LearnerGroup, MultitaskPromptEmbedding

__all__ = [
    "LearnerGroup",
    "MultitaskPromptEmbedding",
    "MultitaskPromptTuningConfig",
    "MultitaskPromptTuningInit",
    "ParameterCount",
    "TaskType",
]
