"""A frozen model that computes: parts of a batch by length, logits in parts, answers as they are asked for.

Shape legend: B examples in a batch, S input tokens, N virtual tokens, D token_dim, L target tokens, V vocabulary.
"""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from mpt.backbone.buckets import length_buckets
from mpt.backbone.cross_entropy import token_losses
from mpt.backbone.fingerprint import fingerprint
from mpt.backbone.interface import Backbone, Facts
from mpt.backbone.memory import layers_of
from mpt.backbone.sampling import only_special_tokens, sample_by_row
from mpt.backbone.tokenization import Tokenization
from mpt.inputs import Inputs

LOGITS_AT_ONCE = 2**26
"""Logits that one step holds at a time in float32, 256 MiB of them."""


class FrozenModel(Backbone):
    """A model none of whose parameters requires a gradient; only its subclasses know the architecture.

    Args:
        model: Any that the subclass knows.
        tokenization: How its texts become token ids.
        name: What runs and prompts call it: ``tiny``, a hub id, or a folder.
        dropout: Whether training mode reaches the model, as in the paper.
        location: Where ``from_pretrained`` finds it: a hub id or an absolute folder; None: the name.
        quantize: As :attr:`mpt.config.BackboneConfig.quantize`.
    """

    kind: ClassVar[str]
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
        quantize: str | None = None,
    ) -> None:
        model.generation_config = only_special_tokens(model.generation_config)
        settings: Any = model.config
        facts = Facts(
            name=name,
            location=location or name,
            fingerprint=fingerprint(model),
            quantize=quantize,
            task_type=self.kind,
            max_positions=self.positions_of(settings),
            has_dropout=any(
                isinstance(rate, float) and rate > 0 for key, rate in settings.to_dict().items() if "drop" in key
            ),
        )
        super().__init__(model.requires_grad_(False).eval(), tokenization, facts, dropout)
        self._recomputed: list[nn.Module] = []
        self.is_sharded = False
        """Whether each process holds only its part of every layer; see :meth:`shard`."""

    @staticmethod
    @abstractmethod
    def positions_of(settings: Any) -> int | None:
        """Most tokens that a model of this configuration takes; None: any number."""

    @abstractmethod
    def generation_inputs(self, inputs: Inputs) -> dict[str, Any]:
        """Arguments of transformers' ``generate`` that make it read prompt and input."""

    def train(self, mode: bool = True) -> "FrozenModel":
        """Set training mode; the model follows only where its dropout is wanted."""
        super().train(mode)
        self.set_mode(dropout=mode and self.dropout, recompute=mode)
        return self

    def recompute_activations(self) -> None:
        """From here on keep no activations within the layers in training: the backward pass computes them again."""
        self.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        self._recomputed = layers_of(self.model)

    def shard(self, mesh: DeviceMesh) -> None:
        """Cut every layer among the processes of a mesh by FSDP2: one is whole only while it computes.

        Embeddings, output layer and last norm stay whole, since the prompt and the logits are computed with them from
        outside of the model. From here on all processes have to compute as often as each other.

        Args:
            mesh: One-dimensional, over all processes.
        """
        from torch.distributed.fsdp import fully_shard  # two thirds of a second, for this alone

        for layer in layers_of(self.model):
            fully_shard(layer, mesh=mesh, reshard_after_forward=True)
        inside = {parameter for layer in layers_of(self.model) for parameter in layer.parameters()}
        fully_shard(self.model, mesh=mesh, ignored_params=set(self.model.parameters()) - inside)
        self.is_sharded = True
        self.model.to(mesh.device_type)
        # FSDP2 takes the first module that computes for the outermost; answers would begin with the encoder.
        one = torch.zeros(1, 1, dtype=torch.long, device=self.device)
        with torch.no_grad():
            self.logits(Inputs(one, torch.ones_like(one)), one)

    def set_mode(self, *, dropout: bool, recompute: bool) -> None:
        """Set whether the model drops out, and, after :meth:`recompute_activations`, whether it recomputes."""
        self.model.train(dropout)
        for layer in self._recomputed:
            # The flag that transformers looks at; the layer's dropout modules have their own.
            layer.training = recompute

    def example_losses(self, inputs: Inputs, labels: Tensor) -> Tensor:
        """Compute the losses; a batch of very different lengths in parts of similar ones, which changes none.

        A sharded model computes whole batches: processes with batches of other lengths would cut theirs otherwise.
        """
        parts = [list(range(len(inputs)))]
        if not self.is_sharded and len(inputs) > 1 and bool(inputs.attention_mask[:, 0].all()):  # padded on the right
            lengths = inputs.attention_mask.sum(1), (labels != -100).sum(1)
            parts = length_buckets(*lengths, inputs.num_virtual_tokens)
        if len(parts) == 1:
            return self._losses(inputs, labels)
        losses = []
        for part in parts:
            rows = torch.tensor(part, device=labels.device)
            of_part = labels.index_select(0, rows)
            longest = int((of_part != -100).sum(1).max())
            losses.append(self._losses(inputs.pick(rows).trim(), of_part[:, :longest]))
        order = torch.tensor([row for part in parts for row in part], device=labels.device)
        return torch.cat(losses).index_select(0, order.argsort())

    def _losses(self, inputs: Inputs, labels: Tensor) -> Tensor:
        """The losses of one forward; its logits never exist as a whole where they are many."""
        if labels.numel() * self.vocabulary <= LOGITS_AT_ONCE or self._changes_logits:
            return token_losses(self.logits(inputs, labels), labels)
        output = self.model.get_output_embeddings()
        self.model.set_output_embeddings(nn.Identity())
        try:
            states = self.logits(inputs, labels)  # B L D
        finally:
            self.model.set_output_embeddings(output)

        def of_part(states: Tensor, labels: Tensor) -> Tensor:
            return token_losses(output(states), labels)

        size = max(1, LOGITS_AT_ONCE // (len(labels) * self.vocabulary))
        losses: list[Tensor] = [
            checkpoint(of_part, some, of_labels, use_reentrant=False)
            for some, of_labels in zip(torch.split(states, size, dim=1), torch.split(labels, size, dim=1), strict=True)
        ]
        return torch.stack(losses).sum(0)

    @property
    def _changes_logits(self) -> bool:
        """True where the model changes its logits after its last layer, as Gemma 2 does."""
        return getattr(self.model.config, "final_logit_softcapping", None) is not None

    def backward(self, loss: Tensor) -> None:
        """Compute the gradients."""
        torch.autograd.backward(loss)

    @abstractmethod
    def choice_losses(self, inputs: Inputs, choices: Sequence[Sequence[int]]) -> Tensor:
        """Negative log likelihood of each of C choices, with what is read of the input computed once.

        Args:
            inputs: B examples.
            choices: The token ids of each, with its end.

        Returns:
            float32, ``(B, C)``, in nats.
        """

    @torch.no_grad()
    def generate(
        self,
        inputs: Inputs,
        choices: Sequence[str] | None = None,
        seed: int = 0,
        answers: str = "generation",
        **generation: Any,
    ) -> list[str]:
        """Answer each example, without dropout."""
        training = self.model.training
        recompute = any(layer.training for layer in self._recomputed)
        self.set_mode(dropout=False, recompute=False)
        try:
            if answers != "generation":
                return self._likeliest(inputs, choices or (), per_token=answers == "likelihood_per_token")
            settings = {"do_sample": False, "num_beams": 1} | generation
            if self.is_sharded:
                settings["synced_gpus"] = True  # a process whose answers have ended computes along with the others
            if choices is not None:
                settings["prefix_allowed_tokens_fn"] = self._restrict(choices)
            with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
                torch.manual_seed(seed)  # for beams that are sampled
                if settings["do_sample"] and settings["num_beams"] == 1:
                    rows = zip(inputs.input_ids, inputs.attention_mask, strict=True)
                    texts = [ids[mask.bool()].tolist() for ids, mask in rows]
                    settings = sample_by_row(settings, texts, seed)
                    inputs = inputs.repeat(settings.pop("num_return_sequences", 1))
                written = self.model.generate(**(self.generation_inputs(inputs) | settings))
        finally:
            self.set_mode(dropout=training, recompute=recompute)
        return self.tokenization.decode(written)

    def _likeliest(self, inputs: Inputs, choices: Sequence[str], *, per_token: bool) -> list[str]:
        """The choice of each example with the highest likelihood, as the tokenizer gives it back."""
        ids, _ = self.tokenization.encode_targets(choices)
        losses = self.choice_losses(inputs, ids)  # B C
        if per_token:
            losses = losses / torch.tensor([len(each) for each in ids], device=losses.device)
        texts = self.tokenization.decode(ids)
        return [texts[choice] for choice in losses.argmin(1).tolist()]

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
