"""The frozen backbone as everything else sees it: prompts before an input, losses of examples, answers.

Shape legend: B examples in a batch, S input tokens, N virtual tokens, D token_dim, L target tokens, V vocabulary.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from mpt.backbone.buckets import length_buckets
from mpt.backbone.fingerprint import fingerprint
from mpt.backbone.losses import token_losses
from mpt.backbone.sampling import only_special_tokens, sample_by_row
from mpt.backbone.tokenization import Tokenization
from mpt.errors import UserError

LOGITS_AT_ONCE = 2**26
"""Logits that one step holds at a time in float32, 256 MiB of them."""


@dataclass(frozen=True)
class Outputs:
    """The result of one teacher-forced forward.

    Attributes:
        logits: ``(B, L, V)``.
        input_states: What goes into each layer, and last what comes out, at the tokens of the input; ``(B, S, D)``
            each, empty unless asked for.
        target_states: The same where the tokens of the target are predicted, ``(B, L, D)`` each.
    """

    logits: Tensor
    input_states: tuple[Tensor, ...] = ()
    target_states: tuple[Tensor, ...] = ()


class Backbone(nn.Module, ABC):
    """A frozen language model and its tokenizer; only its subclasses know the architecture.

    No parameter requires a gradient. In training mode the model's dropout is active as in the paper, unless
    ``dropout`` is False.

    Args:
        model: Any that the subclass knows.
        tokenization: How its texts become token ids.
        name: What runs and prompts call it: ``tiny``, a hub id, or a folder.
        dropout: Whether training mode reaches the model.
        location: Where ``from_pretrained`` finds it: a hub id or an absolute folder; None: the name.

    Attributes:
        tokenization: As passed in.
        fingerprint: Of the weights, as loaded.
    """

    task_type: ClassVar[str]
    """PEFT's name for this kind of model."""
    start_tokens: ClassVar[int]
    """Tokens that ``generate`` itself writes before an answer."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenization: Tokenization,
        name: str,
        dropout: bool = True,
        location: str | None = None,
    ) -> None:
        super().__init__()
        self.model = model.requires_grad_(False).eval()
        model.generation_config = only_special_tokens(model.generation_config)
        self._layers: list[nn.Module] = []
        self.tokenization = tokenization
        self.name, self.location = name, location or name
        self.dropout, self._has_dropout = dropout, has_dropout(model)
        self.fingerprint = fingerprint(model)

    def train(self, mode: bool = True) -> "Backbone":
        """Set training mode; the model follows only where its dropout is wanted."""
        super().train(mode)
        self.set_mode(dropout=mode and self.dropout, recompute=mode)
        return self

    def recompute_activations(self) -> None:
        """From here on keep no activations within the layers in training: the backward pass computes them again."""
        self.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        self._layers = [
            module for module in self.model.modules() if isinstance(module, GradientCheckpointingLayer)
        ]

    def set_mode(self, *, dropout: bool, recompute: bool) -> None:
        """Set whether the model drops out, and, after :meth:`recompute_activations`, whether it recomputes."""
        self.model.train(dropout)
        for layer in self._layers:
            # The flag that transformers looks at; the layer's dropout modules have their own.
            layer.training = recompute

    @property
    def drops_out(self) -> bool:
        """Whether a forward in the present mode draws dropout masks, so that two equal rows have two losses."""
        return self.training and self.dropout and self._has_dropout

    @property
    def tokenizer(self) -> Any:
        """The tokenizer, of transformers."""
        return self.tokenization.tokenizer

    def describe(self) -> dict[str, Any]:
        """Say what a saved prompt has to know of its backbone: name, fingerprint, and how inputs are written."""
        return {"name": self.name, "fingerprint": self.fingerprint, **self.tokenization.settings}

    @property
    def max_positions(self) -> int | None:
        """Most tokens that the model takes, virtual ones, input and target together; None: any number."""
        return None

    def longest_input(self, num_virtual_tokens: int, target_tokens: int) -> int | None:
        """Compute how many tokens of input fit beside a prompt and a target; None: any number.

        Raises:
            UserError: None do.
        """
        if self.max_positions is None:
            return None
        left = self.max_positions - num_virtual_tokens - target_tokens
        if left < 1:
            raise UserError(
                f"backbone: {self.name} takes {self.max_positions} tokens, and {num_virtual_tokens} virtual tokens "
                f"with {target_tokens} of a target leave no room for an input; give fewer of either"
            )
        return left

    @property
    def word_embeddings(self) -> nn.Embedding:
        """The input embeddings, weight ``(V, D)``."""
        embeddings = self.model.get_input_embeddings()
        assert isinstance(embeddings, nn.Embedding)
        return embeddings

    @property
    def token_dim(self) -> int:
        """D, the width of the input embeddings."""
        return self.word_embeddings.embedding_dim

    @property
    def vocabulary(self) -> int:
        """V, how many logits a token has."""
        output = self.model.get_output_embeddings()
        assert isinstance(output, nn.Linear)
        return output.out_features

    @property
    def device(self) -> torch.device:
        """The device that the model is on."""
        return self.word_embeddings.weight.device

    def logits(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        labels: Tensor,
        prompts: Tensor | None = None,
        shifts: Tensor | None = None,
    ) -> Tensor:
        """Teacher-forced logits, ``(B, L, V)`` in the model's dtype; as :meth:`outputs`."""
        return self.outputs(input_ids, attention_mask, labels, prompts, shifts).logits

    @abstractmethod
    def outputs(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        labels: Tensor,
        prompts: Tensor | None = None,
        shifts: Tensor | None = None,
        hidden: bool = False,
    ) -> Outputs:
        """Teacher-forced logits, and the hidden states behind them.

        Args:
            input_ids: ``(B, S)``.
            attention_mask: ``(B, S)``, 1 on tokens.
            labels: ``(B, L)``; -100 pads.
            prompts: ``(B, N, D)``; None: no prompt.
            shifts: Added to the embedded tokens, ``(B, S, D)``; None: nothing.
            hidden: Give the hidden states too.
        """

    def example_losses(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        labels: Tensor,
        prompts: Tensor | None = None,
        shifts: Tensor | None = None,
    ) -> Tensor:
        """Negative log likelihood of each example's target, summed over its tokens; arguments as :meth:`outputs`.

        A batch of very different lengths is cut into parts of similar ones; neither changes a loss.

        Returns:
            float32, ``(B,)``, in nats.
        """
        rows = (input_ids, attention_mask, labels, prompts, shifts)
        parts = [list(range(len(input_ids)))]
        if len(input_ids) > 1 and bool(attention_mask[:, 0].all()):  # padded on the right
            besides = 0 if prompts is None else prompts.shape[1]
            parts = length_buckets(attention_mask.sum(1), (labels != -100).sum(1), besides)
        if len(parts) == 1:
            return self._losses(*rows)
        losses = torch.cat([self._losses(*_part_of(rows, part)) for part in parts])
        order = torch.tensor([row for part in parts for row in part], device=losses.device)
        return losses.index_select(0, order.argsort())

    def _losses(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        labels: Tensor,
        prompts: Tensor | None,
        shifts: Tensor | None,
    ) -> Tensor:
        """The losses of one forward; its logits never exist as a whole where they are many."""
        if labels.numel() * self.vocabulary <= LOGITS_AT_ONCE or self._changes_logits:
            return token_losses(self.logits(input_ids, attention_mask, labels, prompts, shifts), labels)
        output = self.model.get_output_embeddings()
        self.model.set_output_embeddings(nn.Identity())
        try:
            states = self.logits(input_ids, attention_mask, labels, prompts, shifts)  # B L D
        finally:
            self.model.set_output_embeddings(output)

        def of_part(states: Tensor, labels: Tensor) -> Tensor:
            return token_losses(output(states), labels)

        size = max(1, LOGITS_AT_ONCE // (len(labels) * self.vocabulary))
        losses: list[Tensor] = [
            checkpoint(of_part, some, of_labels, use_reentrant=False)
            for some, of_labels in zip(
                torch.split(states, size, dim=1), torch.split(labels, size, dim=1), strict=True
            )
        ]
        return torch.stack(losses).sum(0)

    @property
    def _changes_logits(self) -> bool:
        """Whether the model does something with its logits after its last layer, as Gemma 2 does."""
        return getattr(self.model.config, "final_logit_softcapping", None) is not None

    def backward(self, loss: Tensor) -> None:
        """Compute the gradients of a loss that comes from this backbone."""
        torch.autograd.backward(loss)

    @torch.no_grad()
    def generate(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        prompts: Tensor | None = None,
        shifts: Tensor | None = None,
        choices: Sequence[str] | None = None,
        seed: int = 0,
        **generation: Any,
    ) -> list[str]:
        """Answer each example; greedy unless ``generation`` says otherwise.

        Nothing of the model's own generation configuration counts but its special tokens. What is sampled follows from
        the seed and the example, so it does not depend on the batch; beams that are sampled do.

        Args:
            input_ids: ``(B, S)``.
            attention_mask: ``(B, S)``, 1 on tokens.
            prompts: ``(B, N, D)``; None: no prompt.
            shifts: Added to the embedded tokens, ``(B, S, D)``; None: nothing.
            choices: The texts that an answer may be, such as label words; None: any.
            seed: Of what is sampled.
            generation: Arguments of transformers' ``generate``.

        Returns:
            B texts without special tokens; under ``num_return_sequences=n``, n of them for each example.
        """
        training = self.model.training
        recompute = any(layer.training for layer in self._layers)
        self.set_mode(dropout=False, recompute=False)
        try:
            settings = {"do_sample": False, "num_beams": 1} | generation
            inputs = self._generation_inputs(input_ids, attention_mask, prompts, shifts)
            if choices is not None:
                settings["prefix_allowed_tokens_fn"] = self._restrict(choices)
            with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
                torch.manual_seed(seed)
                if settings["do_sample"] and settings["num_beams"] == 1:
                    texts = [
                        ids[mask.bool()].tolist() for ids, mask in zip(input_ids, attention_mask, strict=True)
                    ]
                    settings = sample_by_row(settings, texts, seed)
                    several = settings.pop("num_return_sequences", 1)
                    if several > 1:
                        inputs = {
                            key: value.repeat_interleave(several, 0) if isinstance(value, Tensor) else value
                            for key, value in inputs.items()
                        }
                answers = self.model.generate(**(inputs | settings))
        finally:
            self.set_mode(dropout=training, recompute=recompute)
        return self.tokenization.decode(answers)

    def _restrict(self, choices: Sequence[str]) -> Callable[[int, Tensor], list[int]]:
        """Build what ``generate`` asks for the tokens that may come next in a row."""
        allowed, _ = self.tokenization.encode_targets(choices)
        after: dict[tuple[int, ...], set[int]] = {}
        for ids in allowed:
            for length, token in enumerate(ids):
                after.setdefault(tuple(ids[:length]), set()).add(token)
        end = [ids[-1] for ids in allowed[:1]]  # a row that has ended waits for the others

        def next_tokens(row: int, written: Tensor) -> list[int]:
            return sorted(after.get(tuple(written[self.start_tokens :].tolist()), end))

        return next_tokens

    @abstractmethod
    def _generation_inputs(
        self, input_ids: Tensor, attention_mask: Tensor, prompts: Tensor | None, shifts: Tensor | None
    ) -> dict[str, Any]:
        """Arguments of transformers' ``generate`` that make it read prompt and input."""


def has_dropout(model: nn.Module) -> bool:
    """Tell whether a model drops anything out in training mode."""
    settings: Any = model.config
    rates = {key: value for key, value in settings.to_dict().items() if "drop" in key}
    return any(isinstance(rate, float) and rate > 0 for rate in rates.values())


def _part_of(rows: tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor | None], part: list[int]) -> Any:
    """Some rows of a batch that is padded on the right, without the columns that are padding in all of them."""
    input_ids, attention_mask, labels, prompts, shifts = rows
    picked = torch.tensor(part, device=input_ids.device)
    mask, targets = attention_mask.index_select(0, picked), labels.index_select(0, picked)
    inputs, outputs = int(mask.sum(1).max()), int((targets != -100).sum(1).max())
    return (
        input_ids.index_select(0, picked)[:, :inputs],
        mask[:, :inputs],
        targets[:, :outputs],
        None if prompts is None else prompts.index_select(0, picked),
        None if shifts is None else shifts.index_select(0, picked)[:, :inputs],
    )
