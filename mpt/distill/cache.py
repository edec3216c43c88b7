"""The teachers' answers, and a cache of them on the disk.

Shape legend: B examples in a batch, S input tokens, L target tokens, V vocabulary, K kept logits, H layers,
D token_dim, T tasks.
"""

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mpt.atomic import write_folder_atomically
from mpt.backbone import Backbone
from mpt.config import DistillationConfig
from mpt.data.token_rows import TokenizedExamples
from mpt.errors import UserError


@dataclass(frozen=True)
class Answers:
    """The teachers' answers on a batch.

    Attributes:
        logits: Log probabilities at the temperature, ``(B, L, V)`` or ``(B, L, K + 1)``.
        kept: Ids of the K kept tokens, ``(B, L, K)``; None: all V.
        encoder: Hidden states of the input's tokens, ``(B, S, H, D)``; None where they are not compared.
        decoder: Hidden states of the target's tokens, ``(B, L, H, D)``; None where they are not compared.
    """

    logits: Tensor
    kept: Tensor | None
    encoder: Tensor | None
    decoder: Tensor | None


class AnswerCache:
    """The teachers' answers on disk, memory-mapped, filled as examples come by.

    A folder of its own per teachers, data, backbone and settings, so nothing stale is ever read.

    Args:
        root: Folder of all caches.
        config: What is kept of an answer.
        backbone: The frozen model.
        prompts: The teachers, ``(T, N, D)``.
        tokenized: The training examples of each task.
        precision: The training's, in Lightning's words: the teachers answer in it.

    Raises:
        UserError: The disk has less room than the answers to all examples need.
    """

    def __init__(
        self,
        root: Path,
        config: DistillationConfig,
        backbone: Backbone,
        prompts: Tensor,
        tokenized: Sequence[TokenizedExamples],
        precision: str = "32-true",
    ) -> None:
        D, V = backbone.token_dim, backbone.vocabulary
        kept = None if config.top_k is None or config.top_k >= V else config.top_k
        H = len(config.layers)
        self._first = np.cumsum([0, *(len(task.inputs) for task in tokenized)])  # of each task's examples
        self._inputs, self._targets = ends = _joined_ends(tokenized)
        shapes: dict[str, tuple[tuple[int, ...], str]] = {
            "done": ((int(self._first[-1]),), "uint8"),
            "logits": ((int(ends[1][-1]), V if kept is None else kept + 1), "float32"),
        }
        if kept is not None:
            shapes["kept"] = ((int(ends[1][-1]), kept), "int32")
        if "encoder" in config.hidden:
            shapes["encoder"] = ((int(ends[0][-1]), H, D), "float32")
        if "decoder" in config.hidden:
            shapes["decoder"] = ((int(ends[1][-1]), H, D), "float32")
        self.folder = root / _key(config, backbone, prompts, tokenized, precision)
        if not self.folder.is_dir():
            _make(self.folder, shapes)
        self._arrays = {
            name: np.memmap(self.folder / name, mode="r+", dtype=kind, shape=shape)
            for name, (shape, kind) in shapes.items()
        }

    def has(self, task: int, index: int) -> bool:
        """Tell whether an example's answer is there."""
        return bool(self._arrays["done"][self._first[task] + index])

    def put(self, examples: Sequence[tuple[int, int]], answers: Answers) -> None:
        """Keep the answers to some examples, pairs of task id and index."""
        found = {name: value.cpu() for name, value in vars(answers).items() if value is not None}
        # NumPy knows no bfloat16.
        arrays = {
            name: (value.float() if value.is_floating_point() else value).numpy() for name, value in found.items()
        }
        for position, (task, index) in enumerate(examples):
            for name, value in arrays.items():
                begin, end = self._span(name, task, index)
                self._arrays[name][begin:end] = value[position, : end - begin]
            self._arrays["done"][self._first[task] + index] = 1  # last: an example that is there is whole

    def get(self, examples: Sequence[tuple[int, int]], inputs: int, targets: int, device: torch.device) -> Answers:
        """Read the answers to some examples, padded with zeros to as many input and target tokens as the batch has."""
        padded: dict[str, Tensor] = {}
        for name, array in self._arrays.items():
            if name == "done":
                continue
            length = inputs if name == "encoder" else targets
            batch = np.zeros((len(examples), length, *array.shape[1:]), array.dtype)
            for position, (task, index) in enumerate(examples):
                begin, end = self._span(name, task, index)
                batch[position, : end - begin] = array[begin:end]
            padded[name] = torch.from_numpy(batch).to(device)
        kept = padded.get("kept")
        return Answers(
            padded["logits"], None if kept is None else kept.long(), padded.get("encoder"), padded.get("decoder")
        )

    def _span(self, name: str, task: int, index: int) -> tuple[int, int]:
        ends = self._inputs if name == "encoder" else self._targets
        position = self._first[task] + index
        return int(ends[position]), int(ends[position + 1])


def _joined_ends(tokenized: Sequence[TokenizedExamples]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where each input, and each target, ends among those of all tasks, behind a 0."""
    lengths = [[np.diff(task.inputs.ends), np.diff(task.targets.ends)] for task in tokenized]
    inputs, targets = (np.concatenate(part) for part in zip(*lengths, strict=True))
    return np.cumsum([0, *inputs]), np.cumsum([0, *targets])


def _key(
    config: DistillationConfig,
    backbone: Backbone,
    prompts: Tensor,
    tokenized: Sequence[TokenizedExamples],
    precision: str,
) -> str:
    """16 digits of a hash of everything that an answer depends on."""
    settings = {
        key: value for key, value in asdict(config).items() if key not in ("cache", "weight_logits", "weight_hidden")
    }
    digest = hashlib.sha256(
        json.dumps([settings, backbone.fingerprint, str(backbone.word_embeddings.weight.dtype), precision]).encode()
    )
    digest.update(prompts.cpu().contiguous().float().numpy().tobytes())
    for task in tokenized:
        for part in (task.inputs, task.targets):
            digest.update(part.ends.tobytes() + part.tokens.tobytes())
    return digest.hexdigest()[:16]


def _make(folder: Path, shapes: Mapping[str, tuple[tuple[int, ...], str]]) -> None:
    """Lay out the empty files, as large as they will be."""
    need = sum(int(np.prod(shape)) * np.dtype(kind).itemsize for shape, kind in shapes.values())
    folder.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder.parent).free
    if need > free:
        raise UserError(
            f"distillation.cache: {folder.parent} has {free / 2**30:.1f} GiB left, the teachers' answers need "
            f"{need / 2**30:.1f} GiB; use distillation.top_k=64, fewer distillation.layers, or no cache"
        )
    with write_folder_atomically(folder) as temporary:
        for name, (shape, kind) in shapes.items():
            np.memmap(temporary / name, mode="w+", dtype=kind, shape=shape).flush()
