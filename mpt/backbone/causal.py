"""A causal model as a backbone: prompt, input and target are one sequence, the prompt directly before the input.

Shape legend: B examples in a batch, S input tokens, N virtual tokens, D token_dim, L target tokens, V vocabulary.
"""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mpt.backbone.cross_entropy import token_losses
from mpt.backbone.frozen import FrozenModel
from mpt.backbone.interface import Outputs
from mpt.inputs import Inputs

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


class Causal(FrozenModel):
    """A frozen causal model: Llama, Qwen, Mistral, GPT-2, OPT, Gemma and their like.

    Whatever side a batch is padded on, the model reads it padded on the left: the padding stands before the prompt, not
    between prompt and text, and positions are counted from the first token that is none. So an example gives the same
    answer in every batch.
    """

    kind = "CAUSAL_LM"
    start_tokens = 0

    @staticmethod
    def positions_of(settings: Any) -> int | None:
        """Tokens that the model was made for: virtual ones, input and target together."""
        return int(settings.max_position_embeddings)

    def _aligned(self, inputs: Inputs) -> tuple[Tensor, Tensor, Tensor]:
        """Prompt and text at the right end of each row.

        Returns:
            Embeddings ``(B, N + S, D)``, their mask, and the order ``(B, N + S)`` that moved them.
        """
        embeds, mask = inputs.embed(self.word_embeddings)
        order = mask.argsort(dim=1, stable=True)  # padding first, all else as it was
        embeds = embeds.gather(1, order[:, :, None].expand_as(embeds))
        return embeds, mask.gather(1, order), order

    def outputs(self, inputs: Inputs, labels: Tensor, hidden: bool = False) -> Outputs:
        """Run prompt, input and target as one sequence; logits and states are those that predict a target token."""
        embeds, mask, order = self._aligned(inputs)
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
        places = order.argsort(dim=1)[:, -inputs.input_ids.shape[1] :, None]  # B S 1
        input_states = tuple(
            states.gather(1, places.expand(-1, -1, states.shape[2])) for states in outputs.hidden_states
        )
        return Outputs(outputs.logits, input_states, tuple(states[:, before:] for states in outputs.hidden_states))

    def choice_losses(self, inputs: Inputs, choices: Sequence[Sequence[int]]) -> Tensor:
        """Run prompt and input once, and each choice on what is kept of them."""
        embeds, mask, _ = self._aligned(inputs)
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        kept = {"attention_mask": mask, "position_ids": positions, "use_cache": True}
        read = self.model(inputs_embeds=embeds, logits_to_keep=1, **kept)
        losses = []
        for ids in choices:
            labels = torch.tensor(ids, device=self.device).expand(len(inputs), -1)  # B L
            logits = read.logits  # of the first token
            if len(ids) > 1:  # the last one is predicted and never read
                steps = torch.arange(1, len(ids), device=self.device)
                outputs = self.model(
                    inputs_embeds=self.word_embeddings(labels[:, :-1]),
                    attention_mask=torch.cat([mask, torch.ones_like(labels[:, :-1], dtype=mask.dtype)], dim=1),
                    position_ids=positions[:, -1:] + steps,
                    past_key_values=copy.deepcopy(read.past_key_values),  # the model writes into it
                    use_cache=True,
                )
                logits = torch.cat([logits, outputs.logits], dim=1)
            losses.append(token_losses(logits, labels))
        return torch.stack(losses, dim=1)

    def generation_inputs(self, inputs: Inputs) -> dict[str, Any]:
        """Prompt and text; the answer ends where a target would, or where the model ends by itself."""
        embeds, mask, _ = self._aligned(inputs)
        own = self.model.generation_config.eos_token_id
        ends = {self.tokenizer.eos_token_id, *(own if isinstance(own, list) else [own])} - {None}
        return {
            "inputs_embeds": embeds,
            "attention_mask": mask,
            "pad_token_id": self.tokenization.pad_token_id,
            "eos_token_id": sorted(ends),
        }
