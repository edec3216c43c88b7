"""The multitask prompt and its configuration."""

from mpt.config import MultitaskPromptTuningInit
from mpt.prompt.embedding import MultitaskPromptEmbedding
from mpt.prompt.peft_hooks import add_hooks
from mpt.prompt.prompt_config import MultitaskPromptTuningConfig, TaskType

add_hooks(MultitaskPromptEmbedding)

__all__ = ["MultitaskPromptEmbedding", "MultitaskPromptTuningConfig", "MultitaskPromptTuningInit", "TaskType"]
