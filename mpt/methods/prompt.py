"""Multitask prompt tuning itself, and with ``prompt.form`` the plain prompts that it is compared with."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from mpt.config import MethodConfig, RunConfig, TaskConfig
from mpt.methods import Method

if TYPE_CHECKING:
    from mpt.adapter import Adapter
    from mpt.backbone import Backbone
    from mpt.prompt import MultitaskPromptEmbedding


class Prompt(Method):
    """A prompt as ``prompt.*`` says (Wang et al. 2023)."""

    name = "prompt"
    has_factors = True

    @classmethod
    def build(
        cls,
        start: "MultitaskPromptEmbedding",
        method: MethodConfig,
        backbone: "Backbone",
        tasks: Mapping[str, TaskConfig],
        source: "MultitaskPromptEmbedding | None",
    ) -> "Adapter":
        """Train the prompt as it starts."""
        return start

    @classmethod
    def separates_tasks(cls, config: RunConfig) -> bool:
        """Tell whether each task has a P of its own, or P stays as it is."""
        prompt = config.prompt
        own_group = prompt.groups is not None and len(prompt.groups) == len(config.tasks)
        return prompt.form == "independent" or prompt.freeze_shared or own_group


METHOD = Prompt
