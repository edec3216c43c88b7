"""A saved model's folder, looked at before it is opened: what is missing, damaged, or says what cannot be.

The library that opens it speaks of the hub where a file is missing, and of its own insides where one is damaged.
"""

import json
from pathlib import Path
from typing import Any

from safetensors import safe_open

from mpt.errors import UserError

TOKENIZERS = ("tokenizer.json", "spiece.model", "tokenizer.model")
OTHER_JSON = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "generation_config.json"
)  # fmt: skip
INDEX = "model.safetensors.index.json"
SIZES = (
    "d_model", "d_kv", "d_ff", "num_heads", "num_layers", "num_decoder_layers", "vocab_size", "hidden_size",
    "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "n_embd", "n_layer",
    "n_head",
)  # fmt: skip
"""Keys of ``config.json`` that are counts."""
LAYERS = ("num_layers", "num_decoder_layers", "num_hidden_layers", "n_layer")
AS_SAVED = "give a folder as save_pretrained wrote it"


def check_folder(folder: Path, *, weights: bool) -> None:
    """Refuse a folder that holds no saved model.

    Args:
        folder: As ``save_pretrained`` writes one.
        weights: Whether they are wanted, or the tokenizer alone.

    Raises:
        FileNotFoundError: The folder, or a file of it, is not there.
        UserError: A file is damaged; it is named.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"backbone.path: no folder {str(folder)!r}; give one that is there")
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"backbone.path: {folder} has no config.json; give a saved model's folder")
    files = sorted(folder.glob("*.safetensors"))
    if weights and not files:
        raise FileNotFoundError(
            f"backbone.path: {folder} has no *.safetensors; save the model with save_pretrained (pickled "
            "weights are not read)"
        )
    if not any((folder / name).is_file() for name in TOKENIZERS):
        raise FileNotFoundError(f"backbone.path: {folder} has no tokenizer.json; save the tokenizer there too")
    settings = _read_object(folder / "config.json")
    for name in OTHER_JSON:
        if (folder / name).exists():
            _read_object(folder / name)
    tensors = sum(map(_count_tensors, files)) if weights else None
    if weights and (folder / INDEX).exists():
        _check_index(folder / INDEX)
    _check_settings(settings, folder / "config.json", tensors)


def _read_object(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise UserError(f"backbone.path: {path}: not JSON ({error}); {AS_SAVED}") from error
    if not isinstance(value, dict):
        raise UserError(f"backbone.path: {path}: holds a {type(value).__name__}, not an object; {AS_SAVED}")
    return value


def _count_tensors(path: Path) -> int:
    """Count the tensors of a file, of which only the header is read; it has to fit the file's length."""
    try:
        with safe_open(path, framework="pt") as file:
            return len(file.keys())
    except Exception as error:  # SafetensorError, OSError or RuntimeError, by the damage
        raise UserError(
            f"backbone.path: {path}: not a whole file of tensors ({error}); copy it again from where it was saved"
        ) from error


def _check_index(path: Path) -> None:
    files = _read_object(path).get("weight_map")
    if not isinstance(files, dict) or not all(isinstance(name, str) for name in files.values()):
        raise UserError(f"backbone.path: {path}: has no weight_map of file names; copy the index again")
    for name in sorted(set(files.values())):
        if Path(name).name != name or not (path.parent / name).is_file():
            raise UserError(
                f"backbone.path: {path}: names {name!r}, which is no file of the folder; copy all of its files"
            )


def _check_settings(settings: dict[str, Any], path: Path, tensors: int | None) -> None:
    if not isinstance(settings.get("model_type"), str):
        raise UserError(f"backbone.path: {path}: has no model_type; {AS_SAVED}")
    for key in SIZES:
        if (size := settings.get(key)) is not None and (
            isinstance(size, bool) or not isinstance(size, int) or size < 1
        ):
            raise UserError(f"backbone.path: {path}: {key} is {size!r}; it must be a whole number from 1")
    for key, value in settings.items():
        if isinstance(value, float) and value != value:
            raise UserError(f"backbone.path: {path}: {key} is NaN; it must be a number")
    for key in LAYERS if tensors is not None else ():
        if settings.get(key, 0) > tensors:  # one after the other would be built, for hours
            raise UserError(
                f"backbone.path: {path}: {key} is {settings[key]:,}, and the weights are {tensors:,} tensors in all; "
                "give the config.json that was saved with them"
            )
