"""Token ids of large tasks, kept on the disk: a task is tokenized once for each backbone's tokenizer."""

import hashlib
import json
from collections.abc import Callable, Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_warn
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from mpt.atomic import write_atomically
from mpt.backbone import Tokenization
from mpt.cache import cache_folder
from mpt.data.token_rows import TokenizedExamples, TokenRows

FEWEST = 10_000
"""Examples from which on it is worth a file; fewer are tokenized within a second."""
LIBRARIES = ("transformers", "tokenizers")
"""Libraries whose versions decide the ids."""
TEXTS = ("inputs", "targets")


def tokenize_once(
    tokenization: Tokenization, limits: Any, texts: Iterable[tuple[str, str]], tokenize: Callable[[], TokenizedExamples]
) -> TokenizedExamples:
    """Tokenize some examples, or take the ids that are kept of the same texts.

    Args:
        tokenization: The backbone's; that of a tokenizer which cannot be written down is not kept.
        limits: What else decides the ids, such as the longest input: plain values.
        texts: The input and the target of each example, as they are tokenized.
        tokenize: Does it.
    """
    tokenizer = getattr(tokenization.tokenizer, "backend_tokenizer", None)
    if tokenizer is None:
        return tokenize()
    written = json.loads(tokenizer.to_str())
    for option in ("padding", "truncation"):  # of its last call, and not of ours
        written.pop(option, None)
    digest = hashlib.sha256(json.dumps(written, sort_keys=True).encode())
    about = [type(tokenization).__name__, tokenization.settings, tokenization.tokenizer.special_tokens_map, limits]
    about += [metadata.version(library) for library in LIBRARIES]
    digest.update(json.dumps(about, sort_keys=True, default=str).encode())
    for pair in texts:
        digest.update("\0".join(pair).encode("utf-8", "surrogatepass") + b"\1")
    path = cache_folder("tokens") / f"{digest.hexdigest()[:32]}.safetensors"
    if path.is_file():
        try:
            return _read(path)
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            rank_zero_warn(f"{path}: damaged ({error}), so the examples are tokenized again")
    found = tokenize()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with write_atomically(path) as temporary:
            _write(temporary, found)
    except OSError as error:  # a cache that cannot be written costs time, and no run
        rank_zero_warn(f"{path.parent}: tokens cannot be kept there ({error}); MPT_CACHE names another folder")
    return found


def _write(path: Path, found: TokenizedExamples) -> None:
    rows = {name: getattr(found, name) for name in TEXTS}
    arrays = {f"{name}.{part}": getattr(rows[name], part) for name in TEXTS for part in ("tokens", "ends")}
    counts = {name: value for name, value in vars(found).items() if name not in TEXTS}
    save_file(arrays, path, metadata={"counts": json.dumps(counts)})


def _read(path: Path) -> TokenizedExamples:
    with safe_open(path, "np") as file:
        counts = json.loads((file.metadata() or {})["counts"])
        inputs, targets = (
            TokenRows.of(file.get_tensor(f"{name}.tokens"), file.get_tensor(f"{name}.ends")) for name in TEXTS
        )
    return TokenizedExamples(inputs, targets, **counts)
