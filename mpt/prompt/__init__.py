"""The multitask prompt and its configuration."""

from mpt.config import MultitaskPromptTuningInit
from mpt.prompt.config import MultitaskPromptTuningConfig, TaskType
from mpt.prompt.embedding import MultitaskPromptEmbedding
from mpt.prompt.peft_hooks import add_hooks

add_hooks(MultitaskPromptEmbedding)

__all__ = [
    "MultitaskPromptEmbedding",
    "MultitaskPromptTuningConfig",
    "MultitaskPromptTuningInit",
    "TaskType",
]
