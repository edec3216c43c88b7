"""The frozen backbone: it puts prompts before an input, gives the loss of each row, and generates.

Shape legend: B rows in a batch, S input tokens, N virtual tokens, D token_dim, L target tokens, V vocabulary.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import AutoConfig, AutoModelForSeq2SeqLM, AutoTokenizer, PreTrainedModel
from transformers.utils import logging as transformers_logging

from mpt import world
from mpt.config import DTYPES, BackboneConfig

TINY = Path(world.__file__).parent / "tiny"
"""The folder of the embedded backbone."""
FAMILY = ("t5", "mt5", "umt5")
"""Values of ``model_type`` that are known to work."""
_FINGERPRINT_SAMPLE = 4096


@dataclass(frozen=True)
class Outputs:
    """What one teacher-forced forward gives.

    Attributes:
        logits: ``(B, L, V)``.
        encoder: What goes into each layer, and last what comes out, ``(B, N + S, D)`` each; empty unless asked for.
        decoder: The same of the decoder, ``(B, L, D)`` each.
    """

    logits: Tensor
    encoder: tuple[Tensor, ...] = ()
    decoder: tuple[Tensor, ...] = ()


class Backbone(nn.Module):
    """A frozen encoder-decoder and its tokenizer; the only class that knows the architecture.

    No parameter requires a gradient. In training mode the model's dropout is active as in the paper, unless
    ``dropout`` is False.

    Args:
        model: A T5-family model.
        tokenizer: Its tokenizer.
        name: What runs and prompts call it: ``tiny``, a hub id, or a folder.
        dropout: Whether training mode reaches the model.
        location: Where ``from_pretrained`` finds it: a hub id or an absolute folder; None: the name.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: Any,
        name: str,
        dropout: bool = True,
        location: str | None = None,
    ) -> None:
        super().__init__()
        self.model = model.requires_grad_(False).eval()
        self.tokenizer = tokenizer
        self.name, self.location = name, location or name
        self.dropout = dropout
        self.fingerprint = fingerprint(model)

    @staticmethod
    def load(config: BackboneConfig) -> "Backbone":
        """Load the model that a configuration names: embedded, from a folder, or from the hub.

        Raises:
            FileNotFoundError: The folder lacks a file, or the hub does not give the model.
            ValueError: The architecture or the dtype is not one of ours.
        """
        if config.dtype not in DTYPES:
            raise ValueError(
                f"backbone.dtype: unknown value {config.dtype!r}; choose one of {', '.join(DTYPES)}"
            )
        where, name = config.path or config.name, config.path or config.name
        if config.path is None and config.name == "tiny":
            where = str(TINY)
        local = where != config.name
        if local:
            _check_folder(Path(where))
            where = str(Path(where).resolve())
        # A folder has no revision; the library would look for it on the hub.
        options = {"local_files_only": True} if local else {"revision": config.revision}
        transformers_logging.disable_progress_bar()
        try:
            settings = AutoConfig.from_pretrained(where, **options)
            _check_architecture(where, settings)
            model = AutoModelForSeq2SeqLM.from_pretrained(
                where, config=settings, dtype=getattr(torch, config.dtype), use_safetensors=True, **options
            )
            tokenizer = AutoTokenizer.from_pretrained(where, **options)
        except OSError as error:
            raise FileNotFoundError(
                f"backbone.{'path' if local else 'name'}: {name!r} cannot be loaded ({_first_line(error)}); "
                "give a model of the hub, or backbone.path=FOLDER with config.json, model.safetensors and "
                "tokenizer.json"
            ) from error
        return Backbone(model, tokenizer, name, config.dropout, where)

    def train(self, mode: bool = True) -> "Backbone":
        """Set training mode; the model follows only where its dropout is wanted."""
        super().train(mode)
        self.model.train(mode and self.dropout)
        return self

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
        """Where the model is."""
        return self.word_embeddings.weight.device

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
        inputs = self._inputs(input_ids, attention_mask, prompts, shifts)
        decoder_input_ids = self.model.prepare_decoder_input_ids_from_labels(labels=labels)
        told = self.model(
            **inputs, decoder_input_ids=decoder_input_ids, use_cache=False, output_hidden_states=hidden
        )
        if not hidden:
            return Outputs(told.logits)
        return Outputs(told.logits, told.encoder_hidden_states, told.decoder_hidden_states)

    def example_losses(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        labels: Tensor,
        prompts: Tensor | None = None,
        shifts: Tensor | None = None,
    ) -> Tensor:
        """Negative log likelihood of each row's target, summed over its tokens.

        Args:
            input_ids: ``(B, S)``.
            attention_mask: ``(B, S)``, 1 on tokens.
            labels: ``(B, L)``; -100 pads.
            prompts: ``(B, N, D)``; None: no prompt.
            shifts: Added to the embedded tokens, ``(B, S, D)``; None: nothing.

        Returns:
            float32, ``(B,)``, in nats.
        """
        return token_losses(self.logits(input_ids, attention_mask, labels, prompts, shifts), labels)

    @torch.no_grad()
    def generate(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        prompts: Tensor | None = None,
        shifts: Tensor | None = None,
        **generation: Any,
    ) -> list[str]:
        """Answer each row; greedy unless ``generation`` says otherwise.

        Args:
            input_ids: ``(B, S)``.
            attention_mask: ``(B, S)``, 1 on tokens.
            prompts: ``(B, N, D)``; None: no prompt.
            shifts: Added to the embedded tokens, ``(B, S, D)``; None: nothing.
            generation: Arguments of transformers' ``generate``.

        Returns:
            B texts without special tokens.
        """
        training = self.model.training
        self.model.eval()
        try:
            settings = {"do_sample": False, "num_beams": 1} | generation
            answers = self.model.generate(
                **self._inputs(input_ids, attention_mask, prompts, shifts), **settings
            )
        finally:
            self.model.train(training)
        texts: list[str] = self.tokenizer.batch_decode(answers, skip_special_tokens=True)
        return [text.strip() for text in texts]


def token_losses(logits: Tensor, labels: Tensor) -> Tensor:
    """Negative log likelihood of each row's labels, summed over its tokens.

    Args:
        logits: ``(B, L, V)``.
        labels: ``(B, L)``; -100 pads.

    Returns:
        float32, ``(B,)``, in nats.
    """
    return cross_entropy(logits.float().transpose(1, 2), labels, reduction="none").sum(1)


def fingerprint(model: nn.Module) -> str:
    """Identify weights, whatever dtype they were loaded in.

    Hashes the names, the shapes, and the signs of a sample of each tensor: rounding to another dtype changes
    every other digit, never a sign.

    Returns:
        16 hexadecimal digits.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        flat = tensor.flatten()
        sample = flat[:: max(1, len(flat) // _FINGERPRINT_SAMPLE)]
        digest.update(f"{name} {tuple(tensor.shape)}".encode())
        digest.update(torch.signbit(sample).cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def _check_folder(folder: Path) -> None:
    """Say what a folder lacks; the library's own message speaks of the hub."""
    if not folder.is_dir():
        raise FileNotFoundError(f"backbone.path: no folder {str(folder)!r}; give one that is there")
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"backbone.path: {folder} has no config.json; give a saved model's folder")
    if not any(folder.glob("*.safetensors")):
        raise FileNotFoundError(
            f"backbone.path: {folder} has no *.safetensors; save the model with save_pretrained (pickled "
            "weights are not read)"
        )
    if not any((folder / name).is_file() for name in ("tokenizer.json", "spiece.model", "tokenizer.model")):
        raise FileNotFoundError(
            f"backbone.path: {folder} has no tokenizer.json; save the tokenizer there too"
        )


def _check_architecture(where: str, settings: Any) -> None:
    if settings.model_type not in FAMILY:
        raise ValueError(
            f"backbone: {where} is a {settings.model_type!r} model; choose one of the T5 family "
            f"({', '.join(FAMILY)})"
        )


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
