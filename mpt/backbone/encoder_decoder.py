"""An encoder-decoder as a backbone: the prompt stands before the encoder's input.

Shape legend: B examples in a batch, S input tokens, L target tokens.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mpt.backbone.cross_entropy import token_losses
from mpt.backbone.frozen import FrozenModel
from mpt.backbone.interface import Outputs
from mpt.inputs import Inputs

FAMILY = ("t5", "mt5", "umt5")
"""Values of ``model_type`` that are known to work."""


class EncoderDecoder(FrozenModel):
    """A frozen model of the T5 family."""

    kind = "SEQ_2_SEQ_LM"
    start_tokens = 1  # decoder_start_token_id

    @staticmethod
    def positions_of(settings: Any) -> int | None:
        """Any number: positions are relative."""
        return None

    def generation_inputs(self, inputs: Inputs) -> dict[str, Any]:
        """Embed the encoder's input; the decoder starts from nothing else."""
        embeds, mask = inputs.embed(self.word_embeddings)
        return {"inputs_embeds": embeds, "attention_mask": mask}

    def choice_losses(self, inputs: Inputs, choices: Sequence[Sequence[int]]) -> Tensor:
        """Run the encoder once, and the decoder on each choice."""
        read = self.generation_inputs(inputs)
        encoded = self.model.get_encoder()(**read)
        losses = []
        for ids in choices:
            labels = torch.tensor(ids, device=self.device).expand(len(inputs), -1)  # B L
            written = self.model.prepare_decoder_input_ids_from_labels(labels=labels)
            mask = read["attention_mask"]
            outputs = self.model(
                encoder_outputs=encoded, attention_mask=mask, decoder_input_ids=written, use_cache=False
            )
            losses.append(token_losses(outputs.logits, labels))
        return torch.stack(losses, dim=1)

    def outputs(self, inputs: Inputs, labels: Tensor, hidden: bool = False) -> Outputs:
        """Run the encoder on prompt and input, the decoder on the target."""
        decoder_input_ids = self.model.prepare_decoder_input_ids_from_labels(labels=labels)
        outputs = self.model(
            **self.generation_inputs(inputs),
            decoder_input_ids=decoder_input_ids,
            use_cache=False,
            output_hidden_states=hidden,
        )
        if not hidden:
            return Outputs(outputs.logits)
        length = inputs.input_ids.shape[1]
        input_states = tuple(states[:, -length:] for states in outputs.encoder_hidden_states)
        return Outputs(outputs.logits, input_states, outputs.decoder_hidden_states)
