"""An encoder-decoder as a backbone: the prompt stands before the encoder's input.

Shape legend: B examples in a batch, S input tokens, N virtual tokens, D token_dim, L target tokens, V vocabulary.
"""

from typing import Any

import torch
from torch import Tensor

from mpt.backbone.interface import Backbone, Outputs

FAMILY = ("t5", "mt5", "umt5")
"""Values of ``model_type`` that are known to work."""


class EncoderDecoder(Backbone):
    """A frozen model of the T5 family."""

    task_type = "SEQ_2_SEQ_LM"
    start_tokens = 1  # decoder_start_token_id

    def _inputs(
        self, input_ids: Tensor, attention_mask: Tensor, prompts: Tensor | None, shifts: Tensor | None
    ) -> dict[str, Tensor]:
        """The encoder's input: the prompt before the embedded and shifted tokens, with its part of the mask."""
        embeds: Tensor = self.word_embeddings(input_ids)  # B S D
        if shifts is not None:
            embeds = embeds + shifts.to(embeds.dtype)
        if prompts is not None:
            embeds = torch.cat([prompts.to(embeds.dtype), embeds], dim=1)  # B N+S D
            seen = attention_mask.new_ones(prompts.shape[:2])  # B N
            attention_mask = torch.cat([seen, attention_mask], dim=1)
        return {"inputs_embeds": embeds, "attention_mask": attention_mask}

    def outputs(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        labels: Tensor,
        prompts: Tensor | None = None,
        shifts: Tensor | None = None,
        hidden: bool = False,
    ) -> Outputs:
        """Run the encoder on prompt and input, the decoder on the target."""
        inputs = self._inputs(input_ids, attention_mask, prompts, shifts)
        decoder_input_ids = self.model.prepare_decoder_input_ids_from_labels(labels=labels)
        outputs = self.model(
            **inputs, decoder_input_ids=decoder_input_ids, use_cache=False, output_hidden_states=hidden
        )
        if not hidden:
            return Outputs(outputs.logits)
        length = input_ids.shape[1]
        input_states = tuple(states[:, -length:] for states in outputs.encoder_hidden_states)
        return Outputs(outputs.logits, input_states, outputs.decoder_hidden_states)

    def _generation_inputs(
        self, input_ids: Tensor, attention_mask: Tensor, prompts: Tensor | None, shifts: Tensor | None
    ) -> dict[str, Any]:
        """What the encoder reads; the decoder starts from nothing else."""
        return dict(self._inputs(input_ids, attention_mask, prompts, shifts))
