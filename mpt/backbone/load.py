"""Load the model that a configuration names: embedded, from a folder, or from the hub."""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForSeq2SeqLM, AutoTokenizer
from transformers.utils import logging as transformers_logging

from mpt import world
from mpt.backbone.encoder_decoder import FAMILY, EncoderDecoder
from mpt.backbone.interface import Backbone
from mpt.config import DTYPES, BackboneConfig

TINY = Path(world.__file__).parent / "tiny"
"""The folder of the embedded backbone."""


def load_backbone(config: BackboneConfig) -> Backbone:
    """Load the model that a configuration names: embedded, from a folder, or from the hub.

    Raises:
        FileNotFoundError: The folder lacks a file, or the hub does not give the model.
        ValueError: The architecture or the dtype is not one of ours.
    """
    if config.dtype not in DTYPES:
        raise ValueError(f"backbone.dtype: unknown value {config.dtype!r}; choose one of {', '.join(DTYPES)}")
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
    return EncoderDecoder(model, tokenizer, name, config.dropout, where)


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
