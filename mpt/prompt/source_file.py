"""A source prompt that is a file of PEFT's tensors, as PEFT's own configuration names one.

Shape legend: T tasks, N virtual tokens, R ranks, D token_dim.
"""

import pickle
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from mpt.errors import UserError
from mpt.prompt.prompt_config import MultitaskPromptTuningConfig
from mpt.prompt.start_from_source import Source
from mpt.prompt.tensors import NAMES, as_residual, check_tensors


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """Read the tensors of a file, safetensors or ``torch.save``, without running anything that it holds.

    Raises:
        FileNotFoundError: There is no such file.
        UserError: The file is damaged, or holds something else than named tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; give the adapter_model.safetensors of a saved prompt")
    try:
        if path.suffix == ".safetensors":
            tensors = load_file(path)
        else:
            tensors = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = "it would run code when it is read" if is_pickle(path) else "it is none of torch's"
        raise UserError(f"{path}: not a file of tensors ({reason}); give one that a run has written") from error
    # What a file that is none makes torch's reader raise is of many kinds.
    except Exception as error:
        if isinstance(error, OSError) and not isinstance(error, EOFError):
            raise
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"{path}: not a file of tensors ({reason}); give one that a run has written") from error
    if not isinstance(tensors, dict) or not all(isinstance(value, Tensor) for value in tensors.values()):
        raise UserError(f"{path}: holds {type(tensors).__name__}, not named tensors; give a state dict")
    for name, tensor in tensors.items():
        refuse_unusable(tensor, f"{path}: {name}")
    return tensors


def is_pickle(path: Path) -> bool:
    """Tell whether a file is a pickle, or torch's archive of one."""
    start = path.open("rb").read(2)
    return start[:1] == b"\x80" or start == b"PK"


def refuse_unusable(tensor: Tensor, where: str) -> None:
    """Refuse numbers that nothing can be trained from.

    Raises:
        UserError: They are no real floating-point numbers, not all there, or not all finite.
    """
    if not tensor.is_floating_point() or tensor.layout != torch.strided or tensor.is_meta:
        kind = "meta" if tensor.is_meta else str(tensor.dtype if tensor.layout == torch.strided else tensor.layout)
        raise UserError(f"{where} is {kind.removeprefix('torch.')}; a prompt has dense floating-point numbers")
    if not tensor.isfinite().all():
        bad = int((~tensor.isfinite()).sum())
        raise UserError(f"{where} has {bad:,} numbers that are not finite; train it again with smaller learning rates")


def open_source(config: MultitaskPromptTuningConfig) -> Source:
    """Open the file that a config starts from.

    Raises:
        UserError: The config names no file, or names a task of the file, which knows no names.
        FileNotFoundError: As :func:`from_file`.
    """
    init, path = config.prompt_tuning_init, config.prompt_tuning_init_state_dict_path
    if path is None:
        raise UserError(
            f"prompt_tuning_init_state_dict_path: is missing, and {init} starts from it; give the file of "
            "a source prompt, or pass the source"
        )
    if isinstance(config.prompt_tuning_init_task, str):
        raise UserError(
            f"prompt_tuning_init_task: is {config.prompt_tuning_init_task!r}; a file knows no names, so give the "
            "position"
        )
    return from_file(path, config.num_virtual_tokens, config.form, init == "ONLY_SOURCE_SHARED")


def from_file(path: str | Path, num_virtual_tokens: int, form: str, shared_only: bool) -> Source:
    """Read a source prompt from PEFT's tensors.

    Args:
        path: ``adapter_model.safetensors``, or a file of ``torch.save``.
        num_virtual_tokens: N that the target has.
        form: The target's; a residual one takes the factors apart as :func:`as_product` wrote them.
        shared_only: Only P is wanted, so the factors may be missing.

    Raises:
        FileNotFoundError: There is no such file.
        UserError: A tensor is missing or has another shape.
    """
    tensors = read_tensors(path)
    wanted = NAMES[:1] if shared_only else NAMES
    shared, cols, rows = check_tensors(tensors, wanted, str(path))
    if len(shared) != num_virtual_tokens:
        raise UserError(
            f"{path}: prompt_embeddings has shape {tuple(shared.shape)}, {len(shared)} tokens; "
            f"it must have num_virtual_tokens={num_virtual_tokens}"
        )
    if cols is None or rows is None:
        return Source(str(path), "independent", shared[None], torch.zeros(1, dtype=torch.long))
    kept = "product"
    if form == "residual" and not shared_only:
        kept, (cols, rows) = form, as_residual(cols, rows, str(path))
    return Source(str(path), kept, shared[None], torch.zeros(len(cols), dtype=torch.long), cols, rows)
