"""The methods that PEFT calls on a prompt that it holds: its private names, in one place.

``PEFT_TYPE_TO_TUNER_MAPPING[PeftType.MULTITASK_PROMPT_TUNING] = MultitaskPromptEmbedding`` puts ours in the place of
PEFT's class, and PEFT 0.21 saves and loads what it holds through these methods of the class. They are added from here,
so that the prompt itself need not know of them.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from mpt.prompt.tensors import NAMES

OURS = ("embedding.weight", "prefix_task_cols", "prefix_task_rows")
"""Our names of :data:`NAMES`."""


def add_hooks(prompt_class: type[nn.Module]) -> None:
    """Give a class of prompts the methods that PEFT calls."""
    for hook in (_get_adapter_state_dict, _remove_adapter_name_from_key, _remap_adapter_state_dict_for_load):
        setattr(prompt_class, hook.__name__, classmethod(hook))
    setattr(prompt_class, _load_adapter_state_dict.__name__, _load_adapter_state_dict)


def _get_adapter_state_dict(cls: type, model: Any, config: Any, adapter_name: str, **_: Any) -> dict[str, Tensor]:
    parameters = dict(model.prompt_encoder[adapter_name].named_parameters())
    return {name: parameters[own] for name, own in zip(NAMES, OURS, strict=True)}


def _remove_adapter_name_from_key(cls: type, key: str, adapter_name: str) -> str:
    return key


def _remap_adapter_state_dict_for_load(
    cls: type, model: Any, config: Any, adapter_name: str, state_dict: dict[str, Tensor]
) -> dict[str, Tensor]:
    return state_dict


def _load_adapter_state_dict(self: nn.Module, state_dict: Mapping[str, Tensor]) -> None:
    self.load_state_dict({own: state_dict[name] for name, own in zip(NAMES, OURS, strict=True)}, strict=True)
