"""What PEFT calls on a prompt that it holds, so that ours can stand in the place of its own."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from mpt.prompt.tensors import NAMES


class PeftHooks(nn.Module):
    """A prompt encoder as PEFT knows it: saved and loaded as three tensors.

    ``PEFT_TYPE_TO_TUNER_MAPPING[PeftType.MULTITASK_PROMPT_TUNING] = MultitaskPromptEmbedding`` registers ours.
    """

    embedding: nn.Embedding
    prefix_task_cols: nn.Parameter
    prefix_task_rows: nn.Parameter

    def forward(self, indices: Tensor, *args: Any) -> Tensor:
        """Look up P, ``(B, N, D)``; what PEFT saves as ``prompt_embeddings``."""
        embedded: Tensor = self.embedding(indices)
        return embedded

    @classmethod
    def _get_adapter_state_dict(
        cls, model: Any, config: Any, adapter_name: str, **_: Any
    ) -> dict[str, Tensor]:
        prompt = model.prompt_encoder[adapter_name]
        return dict(
            zip(
                NAMES,
                (prompt.embedding.weight, prompt.prefix_task_cols, prompt.prefix_task_rows),
                strict=True,
            )
        )

    @classmethod
    def _remove_adapter_name_from_key(cls, key: str, adapter_name: str) -> str:
        return key

    @classmethod
    def _remap_adapter_state_dict_for_load(
        cls, model: Any, config: Any, adapter_name: str, state_dict: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        return state_dict

    def _load_adapter_state_dict(self, state_dict: Mapping[str, Tensor]) -> None:
        shared, cols, rows = (state_dict[name] for name in NAMES)
        self.load_state_dict(
            {"embedding.weight": shared, "prefix_task_cols": cols, "prefix_task_rows": rows}, strict=True
        )
