"""A causal model as a backbone: prompt, input and target are one sequence, the prompt directly before the input.

Shape legend: B examples in a batch, S input tokens, N virtual tokens, D token_dim, L target tokens, V vocabulary.
"""

from typing import Any

import torch
from torch import Tensor

from mpt.backbone.interface import Backbone, Outputs

FAMILY = (
    "llama",
    "mistral",
    "qwen2",
    "qwen3",
    "gpt2",
    "opt",
    "gemma",
    "gemma2",
    "gemma3_text",
    "gpt_neox",
    "olmo2",
    "phi3",
)
"""Values of ``model_type`` that are known to work; ``tests/test_causal.py`` runs each."""


class Causal(Backbone):
    """A frozen causal model: Llama, Qwen, Mistral, GPT-2, OPT, Gemma and their like.

    Whatever side a batch is padded on, the model reads it padded on the left: the padding stands before the prompt, not
    between prompt and text, and positions are counted from the first token that is none. So an example gives the same
    answer in every batch.
    """

    task_type = "CAUSAL_LM"
    start_tokens = 0

    @property
    def max_positions(self) -> int:
        """Tokens that the model was made for: virtual ones, input and target together."""
        return int(self.model.config.max_position_embeddings)

    def _inputs(
        self, input_ids: Tensor, attention_mask: Tensor, prompts: Tensor | None, shifts: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Prompt and text at the right end of each row.

        Returns:
            Embeddings ``(B, N + S, D)``, their mask, and the order ``(B, N + S)`` that moved them.
        """
        embeds: Tensor = self.word_embeddings(input_ids)  # B S D
        if shifts is not None:
            embeds = embeds + shifts.to(embeds.dtype)
        if prompts is not None:
            embeds = torch.cat([prompts.to(embeds.dtype), embeds], dim=1)  # B N+S D
            attention_mask = torch.cat([attention_mask.new_ones(prompts.shape[:2]), attention_mask], dim=1)
        order = attention_mask.argsort(dim=1, stable=True)  # padding first, all else as it was
        embeds = embeds.gather(1, order[:, :, None].expand_as(embeds))
        return embeds, attention_mask.gather(1, order), order

    def outputs(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        labels: Tensor,
        prompts: Tensor | None = None,
        shifts: Tensor | None = None,
        hidden: bool = False,
    ) -> Outputs:
        """Run prompt, input and target as one sequence; logits and states are those that predict a target token."""
        embeds, mask, order = self._inputs(input_ids, attention_mask, prompts, shifts)
        L, before = labels.shape[1], embeds.shape[1] - 1
        # The last target token is predicted and never read.
        read = labels[:, :-1]
        seen = read != -100
        targets = self.word_embeddings(read.masked_fill(~seen, self.tokenization.pad_token_id))
        mask = torch.cat([mask, seen.to(mask.dtype)], dim=1)  # B N+S+L-1
        outputs = self.model(
            inputs_embeds=torch.cat([embeds, targets], dim=1),
            attention_mask=mask,
            position_ids=(mask.cumsum(1) - 1).clamp(min=0),
            use_cache=False,
            logits_to_keep=L,
            output_hidden_states=hidden,
        )
        if not hidden:
            return Outputs(outputs.logits)
        places = order.argsort(dim=1)[:, -input_ids.shape[1] :, None]  # B S 1
        input_states = tuple(
            states.gather(1, places.expand(-1, -1, states.shape[2])) for states in outputs.hidden_states
        )
        return Outputs(
            outputs.logits, input_states, tuple(states[:, before:] for states in outputs.hidden_states)
        )

    def _generation_inputs(
        self, input_ids: Tensor, attention_mask: Tensor, prompts: Tensor | None, shifts: Tensor | None
    ) -> dict[str, Any]:
        """Prompt and text; the answer ends where a target would, or where the model ends by itself."""
        embeds, mask, _ = self._inputs(input_ids, attention_mask, prompts, shifts)
        own = self.model.generation_config.eos_token_id
        ends = {self.tokenizer.eos_token_id, *(own if isinstance(own, list) else [own])} - {None}
        return {
            "inputs_embeds": embeds,
            "attention_mask": mask,
            "pad_token_id": self.tokenization.pad_token_id,
            "eos_token_id": sorted(ends),
        }
