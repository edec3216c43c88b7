"""Read what was saved, every number as it was: our folders, PEFT's adapters, files of tensors.

Shape legend: T tasks, G groups of P, N virtual tokens, R ranks, D token_dim.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mpt.artifact.find import Kind, find, read_json
from mpt.artifact.prompt_folder import FORMAT_VERSION, needs_own_tensors
from mpt.backbone import Backbone
from mpt.errors import UserError
from mpt.hub import local_copy
from mpt.prompt import MultitaskPromptEmbedding, MultitaskPromptTuningConfig
from mpt.prompt.source_file import read_tensors
from mpt.prompt.tensors import NAMES, as_residual, check_tensors
from mpt.tasks import AnswerSettings

UNKNOWN_BACKBONE = {"name": "", "fingerprint": ""}


@dataclass(frozen=True)
class SavedPrompt:
    """A prompt read back.

    Attributes:
        prompt: The prompt, on the CPU.
        task_names: The T names, by task id.
        task_weights: λ of each task in the run that trained it.
        backbone: The backbone that it was trained with: name and fingerprint, each empty where the folder does not say,
            and of a causal one how inputs are written (``separator``, ``chat_template``).
        answers: How the answers of each task are made; a task that an older folder or PEFT saved is not in it.
    """

    prompt: MultitaskPromptEmbedding
    task_names: list[str]
    task_weights: dict[str, float]
    backbone: dict[str, Any]
    answers: dict[str, AnswerSettings] = field(default_factory=dict)


def input_settings(backbone: Mapping[str, Any]) -> dict[str, Any]:
    """Pick from what a folder says of its backbone what else counts: its quantization, and how inputs are written."""
    return {key: value for key, value in backbone.items() if key not in UNKNOWN_BACKBONE}


def load_prompt(folder: str | Path, *, drop_decoder_prompt: bool = False) -> SavedPrompt:
    """Read a prompt back, every number as it was saved.

    Args:
        folder: A run folder, whose ``prompt/`` is read; a prompt folder; a PEFT adapter of multitask prompt tuning;
            ``hf://owner/name`` of the hub; or a file of its tensors, ``.safetensors`` or of ``torch.save``. An adapter
            or file knows no names: its tasks are ``task_0``, ``task_1``, ... and have λ = 1. A file with only
            ``prompt_embeddings`` is a shared P.
        drop_decoder_prompt: Of a PEFT adapter that has a prompt for the decoder too (``num_transformer_submodules`` is
            2, PEFT's default for encoder-decoders), keep the encoder's, which is all that PEFT's ``generate`` uses.

    Raises:
        FileNotFoundError: There is no saved prompt.
        UserError: A file is damaged, or says something that does not fit the others.
    """
    folder = local_copy(folder)
    found = find(folder)
    if found is None or found[0] not in (Kind.PROMPT, Kind.TENSORS):
        raise FileNotFoundError(
            f"{folder}: no saved prompt (no adapter_config.json there or in its prompt/); "
            "give the folder of a finished run"
        )
    kind, folder = found
    return _from_file(folder) if kind is Kind.TENSORS else _from_folder(folder, drop_decoder_prompt)


def _from_folder(folder: Path, drop_decoder_prompt: bool) -> SavedPrompt:
    """Read a prompt from a PEFT adapter, with what ``mpt.json`` says beside it."""
    peft_config = read_json(folder / "adapter_config.json")
    shared, cols, rows = _read_adapter(folder, peft_config, drop_decoder_prompt)
    about = read_json(folder / "mpt.json") if (folder / "mpt.json").is_file() else _about_adapter(peft_config, cols)
    config = _config(folder / "mpt.json", about, peft_config, shared, cols)
    with torch.random.fork_rng(devices=[]):  # the drawn values are replaced, so no number is used up
        prompt = MultitaskPromptEmbedding(config)
    if needs_own_tensors(config):
        values = read_tensors(folder / "mpt.safetensors")
    else:
        values = _own_tensors(config.form, shared, cols, rows, str(folder))
    expected = {name: tuple(param.shape) for name, param in prompt.named_parameters()}
    found = {name: tuple(tensor.shape) for name, tensor in values.items()}
    if found != expected:
        raise UserError(f"{folder}: the tensors are {found}; by mpt.json they must be {expected}")
    prompt.load_state_dict(values)
    if (folder / "start.safetensors").is_file():
        began_with = read_tensors(folder / "start.safetensors").get("start")
        if began_with is None or began_with.shape != prompt.prompts().shape:
            raise UserError(f"{folder}/start.safetensors: does not hold a prompt of each task; train the source anew")
        prompt.began_with = began_with
    answers = read_answers(about, folder / "mpt.json")
    return SavedPrompt(prompt, prompt.task_names, dict(about["task_weights"]), dict(about["backbone"]), answers)


def read_answers(about: Mapping[str, Any], where: Path) -> dict[str, AnswerSettings]:
    """Read what a saved file says of how its tasks' answers are made; nothing of an older one.

    Raises:
        UserError: It is damaged.
    """
    listed = about.get("answers", {})
    if not isinstance(listed, dict):
        raise UserError(f"{where}: answers is {listed!r}; it must say for each task how its answers are made")
    return {name: AnswerSettings.from_json(each, f"{where}: answers.{name}") for name, each in listed.items()}


def _from_file(path: Path) -> SavedPrompt:
    """Read a prompt from a file of only tensors."""
    tensors = read_tensors(path)
    wanted = NAMES if NAMES[1] in tensors or NAMES[2] in tensors else NAMES[:1]
    shared, cols, rows = check_tensors(tensors, wanted, str(path))
    shape: dict[str, Any] = {"num_virtual_tokens": len(shared), "token_dim": shared.shape[1], "inference_mode": True}
    with torch.random.fork_rng(devices=[]):  # the drawn values are replaced, so no number is used up
        if cols is None or rows is None:
            prompt = MultitaskPromptEmbedding(MultitaskPromptTuningConfig(form="single", **shape))
            prompt.restore({"embedding.weight": shared})
        else:
            config = MultitaskPromptTuningConfig(num_tasks=len(cols), num_ranks=cols.shape[2], **shape)
            prompt = MultitaskPromptEmbedding(config)
            prompt.restore(_own_tensors("product", shared, cols, rows, str(path)))
    return SavedPrompt(prompt, prompt.task_names, dict.fromkeys(prompt.task_names, 1.0), dict(UNKNOWN_BACKBONE))


def check_fits(saved: SavedPrompt, backbone: Backbone, where: str = "source") -> None:
    """Refuse a backbone that a prompt was not trained with.

    Args:
        saved: From :func:`load_prompt`.
        backbone: Its fingerprint, and how it writes inputs, are compared where the prompt knows them.
        where: What to call the prompt in an error.

    Raises:
        UserError: The width, the fingerprint, or the way inputs are written differs.
    """
    trained_with, fingerprint = saved.backbone["name"] or "another backbone", saved.backbone["fingerprint"]
    width = saved.prompt.shape[-1]
    if width != backbone.token_dim:
        raise UserError(
            f"{where}: the prompt was trained with {trained_with} and has token_dim {width}, "
            f"{backbone.name} has {backbone.token_dim}; use a prompt only with the backbone it was trained with"
        )
    here = backbone.describe()
    compared = {*(["quantize"] if fingerprint else []), *input_settings(saved.backbone)}
    for key in sorted(compared):
        found, value = here.get(key), saved.backbone.get(key)
        if found != value:
            raise UserError(
                f"{where}: the prompt was trained with backbone.{key}={value!r}, and it is {found!r} here; use the same"
            )
    if fingerprint and fingerprint != backbone.fingerprint:
        raise UserError(
            f"{where}: the prompt was trained with {trained_with}, fingerprint {fingerprint[:12]}; "
            f"{backbone.name} has other weights, fingerprint {backbone.fingerprint[:12]}; "
            "use a prompt only with the backbone it was trained with"
        )


def check_version(where: Path, found: Any, newest: int) -> None:
    """Refuse a format that this program does not know.

    Raises:
        UserError: It is newer, or none.
    """
    if not isinstance(found, int) or isinstance(found, bool) or found < 1:
        raise UserError(f"{where}: format_version is {found!r}; this program reads 1 to {newest}")
    if found > newest:
        raise UserError(
            f"{where}: format_version is {found}, of a newer mpt; this one reads 1 to {newest}, so upgrade it"
        )


def _own_tensors(form: str, shared: Tensor, cols: Tensor, rows: Tensor, where: str) -> dict[str, Tensor]:
    """Undo :func:`_peft_tensors`, for a prompt whose tensors need no file of their own."""
    if form == "independent":
        if not ((shared == 1).all() and (cols == torch.eye(len(shared))).all()):
            raise UserError(
                f"{where}: form is independent, but the tensors are not plain prompts; save the prompt anew"
            )
        return {"embedding.weight": rows.flatten(0, 1)}
    if form == "residual":
        cols, rows = as_residual(cols, rows, where)
    return {"embedding.weight": shared, "prefix_task_cols": cols, "prefix_task_rows": rows}


def _read_adapter(
    folder: Path, peft_config: Mapping[str, Any], drop_decoder_prompt: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """PEFT's three tensors, checked against its config."""
    where = folder / "adapter_config.json"
    if peft_config.get("peft_type") != "MULTITASK_PROMPT_TUNING":
        raise UserError(f"{where}: peft_type is {peft_config.get('peft_type')!r}; it must be 'MULTITASK_PROMPT_TUNING'")
    submodules = peft_config.get("num_transformer_submodules") or 1
    if submodules != 1 and not (submodules == 2 and drop_decoder_prompt):
        raise UserError(
            f"{where}: num_transformer_submodules is {submodules}; it must be 1, since generate() never uses the "
            "prompt of a decoder, so it answers otherwise than trained; drop_decoder_prompt=True keeps the encoder's"
        )
    path = folder / "adapter_model.safetensors"
    if not path.is_file() and (folder / "adapter_model.bin").is_file():
        path = folder / "adapter_model.bin"
    shared, cols, rows = check_tensors(read_tensors(path), NAMES, str(path))
    assert cols is not None
    assert rows is not None
    if submodules == 2:
        kept = len(shared) // 2
        shared, cols = shared[:kept].clone(), cols[:, :kept].clone()
    declared = {key: peft_config.get(key) for key in ("num_tasks", "num_virtual_tokens", "num_ranks")}
    found = dict(zip(declared, cols.shape, strict=True))
    if declared != found:
        raise UserError(f"{path}: the tensors have {found}; by adapter_config.json they must have {declared}")
    return shared, cols, rows


def _about_adapter(peft_config: Mapping[str, Any], cols: Tensor) -> dict[str, Any]:
    """Write what ``mpt.json`` would say of an adapter by PEFT."""
    names = [f"task_{position}" for position in range(len(cols))]
    return {
        "format_version": FORMAT_VERSION,
        "task_names": names,
        "task_weights": dict.fromkeys(names, 1.0),
        "form": "product",
        "num_groups": 1,
        "task_groups": [0] * len(names),
        "num_ranks": cols.shape[2],
        "backbone": {"name": peft_config.get("base_model_name_or_path") or "", "fingerprint": ""},
    }


def _config(
    where: Path, about: Mapping[str, Any], peft_config: Mapping[str, Any], shared: Tensor, cols: Tensor
) -> MultitaskPromptTuningConfig:
    """The config of a saved prompt, after checking ``mpt.json``."""
    check_version(where, about.get("format_version"), FORMAT_VERSION)
    wanted = {
        "task_names": list,
        "task_weights": dict,
        "form": str,
        "num_groups": int,
        "task_groups": list,
        "num_ranks": int,
        "backbone": dict,
    }
    for key, kind in wanted.items():
        if not isinstance(about.get(key), kind):
            raise UserError(f"{where}: {key} is {about.get(key)!r}; it must be a {kind.__name__}")
    names = about["task_names"]
    if not all(isinstance(name, str) for name in names):
        raise UserError(f"{where}: task_names is {names!r}; each must be a text")
    if len(names) != len(cols) or set(about["task_weights"]) != set(names):
        raise UserError(f"{where}: names the tasks {names}; the tensors have {len(cols)}, each with one weight")
    if not {"name", "fingerprint"} <= set(about["backbone"]):
        raise UserError(f"{where}: backbone is {about['backbone']}; it must have a name and a fingerprint")
    try:
        return MultitaskPromptTuningConfig(
            task_type=peft_config.get("task_type"),
            num_virtual_tokens=len(shared),
            token_dim=shared.shape[1],
            num_ranks=about["num_ranks"],
            task_names=names,
            form=about["form"],
            num_groups=about["num_groups"],
            task_groups=about["task_groups"],
            inference_mode=True,
        )
    except ValueError as error:
        raise UserError(f"{where.parent}: {error}") from error
