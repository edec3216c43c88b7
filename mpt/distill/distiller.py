"""Compares a student with the teachers of its tasks.

Shape legend: B examples in a batch, S input tokens, L target tokens, V vocabulary, K kept logits, H layers,
D token_dim, T tasks.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import log_softmax

from mpt.backbone import Backbone, Outputs
from mpt.config import DistillationConfig
from mpt.data.batches import Batch
from mpt.data.token_rows import TokenizedExamples
from mpt.distill.cache import AnswerCache, Answers
from mpt.distill.losses import coarsened, hidden_losses, logit_losses
from mpt.errors import UserError
from mpt.inputs import Inputs
from mpt.prompt import MultitaskPromptEmbedding


class Distiller:
    """Compares a student with the teachers of its tasks.

    Args:
        config: Weights, temperature, hidden states, cache.
        backbone: The student's own; the teachers answer through it, without dropout and gradients.
        teachers: A prompt that holds a task of each of the student's names.
        task_names: The student's T tasks.
        tokenized: The training examples of each task, for the cache.
        precision: The training's, for the cache.

    Raises:
        UserError: A task has no teacher, or the cache does not fit on the disk.
    """

    def __init__(
        self,
        config: DistillationConfig,
        backbone: Backbone,
        teachers: MultitaskPromptEmbedding,
        task_names: Sequence[str],
        tokenized: Sequence[TokenizedExamples],
        precision: str = "32-true",
    ) -> None:
        if missing := [name for name in task_names if name not in teachers.task_names]:
            raise UserError(
                f"distill: no teacher of {', '.join(missing)}; it has those of {', '.join(teachers.task_names)}"
            )
        self.config, self.backbone = config, backbone
        ids = [teachers.task_id(name) for name in task_names]
        self.prompts = teachers.prompts().detach()[ids]  # T N D
        self.cache = None
        if config.cache is not None:
            self.cache = AnswerCache(Path(config.cache), config, backbone, self.prompts, tokenized, precision)

    def losses(self, student: Outputs, batch: Batch) -> dict[str, Tensor]:
        """This batch's part of each task's distillation losses over the global step.

        Args:
            student: What the student's forward gave, hidden states included.
            batch: A training batch: with ``target_tokens`` and ``input_tokens``.

        Returns:
            ``logits`` and ``hidden``, each where its weight is above 0, ``(T,)``: means over target tokens, of the
            encoder's states over the input's tokens.
        """
        teacher = self.answers(batch)
        labels, task_ids = batch["labels"], batch["task_ids"]
        of_targets, of_inputs = (batch[key].clamp(min=1) for key in ("target_tokens", "input_tokens"))
        zero = of_targets.new_zeros(len(of_targets))
        found = {}
        if self.config.weight_logits > 0:
            of_examples = logit_losses(student.logits, teacher.logits, labels, self.config.temperature, teacher.kept)
            found["logits"] = zero.index_add(0, task_ids, of_examples) / of_targets
        if self.config.weight_hidden > 0:
            found["hidden"] = zero
            if teacher.encoder is not None:
                states, mask = self._states(student.input_states), batch["attention_mask"].bool()
                of_examples = hidden_losses(states, teacher.encoder, mask)
                found["hidden"] = found["hidden"] + zero.index_add(0, task_ids, of_examples) / of_inputs
            if teacher.decoder is not None:
                states = self._states(student.target_states)
                of_examples = hidden_losses(states, teacher.decoder, labels != -100)
                found["hidden"] = found["hidden"] + zero.index_add(0, task_ids, of_examples) / of_targets
        return found

    def weighted(self, losses: Mapping[str, Tensor]) -> Tensor:
        """The weighted sum of what :meth:`losses` gave, ``(T,)``."""
        weights = {"logits": self.config.weight_logits, "hidden": self.config.weight_hidden}
        return torch.stack([weights[name] * loss for name, loss in losses.items()]).sum(0)

    def answers(self, batch: Batch) -> Answers:
        """Return the teachers' answers, from the cache where it has them."""
        if self.cache is None:
            return self._ask(batch)
        examples = list(zip(batch["task_ids"].tolist(), batch["example_indices"].tolist(), strict=True))
        if missing := [position for position, example in enumerate(examples) if not self.cache.has(*example)]:
            part = {key: batch[key][missing] for key in ("input_ids", "attention_mask", "labels", "task_ids")}
            self.cache.put([examples[position] for position in missing], self._ask(part))
        return self.cache.get(examples, batch["input_ids"].shape[1], batch["labels"].shape[1], batch["labels"].device)

    @torch.no_grad()
    def _ask(self, batch: Mapping[str, Any]) -> Answers:
        self.prompts = self.prompts.to(batch["labels"].device)
        training = self.backbone.training
        self.backbone.eval()
        try:
            outputs = self.backbone.outputs(
                Inputs(batch["input_ids"], batch["attention_mask"], self.prompts[batch["task_ids"]]),
                batch["labels"],
                hidden=bool(self.config.hidden),
            )
        finally:
            self.backbone.train(training)
        logits = log_softmax(outputs.logits.float() / self.config.temperature, dim=-1)
        kept = None
        if self.config.top_k is not None and self.config.top_k < logits.shape[-1]:
            kept = logits.topk(self.config.top_k, dim=-1).indices
            logits = coarsened(logits, kept)
        encoder = self._states(outputs.input_states) if "encoder" in self.config.hidden else None
        decoder = self._states(outputs.target_states) if "decoder" in self.config.hidden else None
        return Answers(logits, kept, encoder, decoder)

    def _states(self, states: tuple[Tensor, ...]) -> Tensor:
        """The compared layers beside each other, ``(B, tokens, H, D)``."""
        return torch.stack([states[layer] for layer in self.config.layers], 2)
