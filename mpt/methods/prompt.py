"""Multitask prompt tuning itself, and with ``prompt.form`` the plain prompts that it is compared with."""

from typing import TYPE_CHECKING

from mpt.config import RunConfig
from mpt.methods import Method, Start, method

if TYPE_CHECKING:
    from mpt.adapter import Adapter


@method
class Prompt(Method):
    """A prompt as ``prompt.*`` says (Wang et al. 2023)."""

    name = "prompt"
    has_factors = True

    @classmethod
    def build(cls, start: Start) -> "Adapter":
        """Train the prompt as it starts."""
        return start.prompt

    @classmethod
    def separates_tasks(cls, config: RunConfig) -> bool:
        """Tell whether each task has a P of its own, or P stays as it is."""
        prompt = config.prompt
        own_group = prompt.groups is not None and len(prompt.groups) == len(config.tasks)
        return prompt.form == "independent" or prompt.freeze_shared or own_group
