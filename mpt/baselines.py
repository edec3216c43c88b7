"""What multitask prompt tuning is compared with: ATTEMPT, DePT, LoRA and full fine-tuning.

Plain prompts, SPoT and averages of prompts are no methods of their own here: they are forms and starts of the
prompt (README, "What it is compared with").

Shape legend: B rows in a batch, S input tokens, T tasks, C source prompts, N virtual tokens, D token_dim, R ranks.
"""

import json
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import layer_norm, silu

from mpt.atomic import write_folder_atomically
from mpt.backbone import Backbone
from mpt.config import MethodConfig
from mpt.prompt import LearnerGroup, MultitaskPromptEmbedding, ParameterCount

METHODS = ("prompt", "attempt", "dept", "lora", "full")
FORMAT_VERSION = 1


class Baseline(nn.Module, ABC):
    """Stands where a multitask prompt stands, and answers the same calls.

    Args:
        task_names: The T tasks, by task id.
        independent: Numbers of a plain prompt, N times D, which storage is compared with.
    """

    def __init__(self, task_names: Sequence[str], independent: int) -> None:
        super().__init__()
        self.task_names, self._independent = list(task_names), independent

    def conditions(
        self, input_ids: Tensor, attention_mask: Tensor, task_ids: Tensor, word_embeddings: nn.Module
    ) -> dict[str, Tensor]:
        """What the backbone reads besides each row's own tokens.

        Args:
            input_ids: ``(B, S)``.
            attention_mask: ``(B, S)``, 1 on tokens.
            task_ids: ``(B,)``.
            word_embeddings: The backbone's.

        Returns:
            ``prompts`` ``(B, N, D)`` and ``shifts`` ``(B, S, D)``, each where the method has it.
        """
        return {}

    def learned(self) -> dict[str, nn.Parameter]:
        """What is trained, by name; also where it lies within the backbone."""
        return dict(self.named_parameters())

    @abstractmethod
    def learner_groups(self) -> list[LearnerGroup]:
        """The trained parameters by learning rate, with how many independent learners each holds."""

    def numbers_of(self, task: int) -> dict[str, tuple[int, int]]:
        """Where a task's own numbers lie: of each parameter, how many tasks it holds, and which one this is."""
        return dict.fromkeys(dict(self.named_parameters()), (len(self.task_names), task))

    @abstractmethod
    def storage(self) -> tuple[int, int]:
        """Numbers to store for all tasks together, and for each task besides."""

    @abstractmethod
    def save(self, folder: Path, backbone: Backbone) -> None:
        """Write a folder that holds what was trained, whole or not at all."""

    def snapshot(self) -> dict[str, Tensor]:
        """A copy of what is trained that later steps do not touch."""
        return {name: param.detach().cpu().clone() for name, param in self.learned().items()}

    @torch.no_grad()
    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Put back what :meth:`snapshot` gave."""
        for name, param in self.learned().items():
            param.copy_(tensors[name])

    @torch.no_grad()
    def displacement(self, start: Mapping[str, Tensor]) -> dict[str, float]:
        """``||now - start|| / ||start||`` (Frobenius) of each learner group, all tasks together."""
        names = {id(param): name for name, param in self.learned().items()}
        moved = {}
        for group in self.learner_groups():
            pairs = [(param.detach().cpu(), start[names[id(param)]]) for param in group.params]
            distance = math.hypot(*(float((now - then).norm()) for now, then in pairs))
            moved[group.name] = distance / (math.hypot(*(float(then.norm()) for _, then in pairs)) or 1.0)
        return moved

    def count_parameters(self) -> ParameterCount:
        """Count the numbers to store, against one plain prompt per task."""
        shared, per_task = self.storage()
        factors = len(self.task_names) * per_task
        independent = len(self.task_names) * self._independent
        total = shared + factors
        return ParameterCount(shared, per_task, factors, total, independent, total / independent)


class Attempt(Baseline):
    """Attention over frozen source prompts, told by the input (ATTEMPT, Asai et al. 2022, section 3).

    A row with the embedded tokens ``X`` has the prompt ``P_t + sum_j a_j P_j`` over the C source prompts and the
    target's own ``P_t``, where ``a = softmax(k_j . q / temperature)``, the key ``k_j`` is the largest value of ``P_j``
    over its tokens, and ``q = LayerNorm(SiLU(max(X) down) up)``. Each task has its own attention network, so several
    tasks in a run do not touch each other.

    Args:
        task_names: The T tasks.
        sources: The frozen prompts, ``(C, N, D)``.
        start: First values of the tasks' own prompts, ``(T, N, D)``.
        num_ranks: Width of the attention network; the paper uses 100.
        temperature: None: ``D * e``, the paper's.

    Raises:
        ValueError: The prompts differ in shape.
    """

    sources: Tensor

    def __init__(
        self,
        task_names: Sequence[str],
        sources: Tensor,
        start: Tensor,
        num_ranks: int,
        temperature: float | None = None,
    ) -> None:
        T, N, D = start.shape
        super().__init__(task_names, N * D)
        if sources.shape[1:] != start.shape[1:]:
            raise ValueError(
                f"source: its prompts have shape {tuple(sources.shape[1:])}, the target's {tuple(start.shape[1:])}; "
                "give both the same num_virtual_tokens and token_dim"
            )
        self.register_buffer("sources", sources.detach().clone())  # C N D
        self.prompt = nn.Parameter(start.detach().clone())  # T N D
        # As torch.nn.Linear starts, without biases as in the authors' code.
        self.down = nn.Parameter(torch.empty(T, D, num_ranks).uniform_(-1, 1) / math.sqrt(D))  # T D R
        self.up = nn.Parameter(torch.empty(T, num_ranks, D).uniform_(-1, 1) / math.sqrt(num_ranks))  # T R D
        self.scale, self.bias = nn.Parameter(torch.ones(T, D)), nn.Parameter(torch.zeros(T, D))
        self.temperature = D * math.e if temperature is None else temperature

    def attention(
        self, input_ids: Tensor, attention_mask: Tensor, task_ids: Tensor, word_embeddings: nn.Module
    ) -> Tensor:
        """How much each row takes of the C source prompts and, last, of its task's own, ``(B, C + 1)``."""
        embeds = word_embeddings(input_ids).detach().to(self.prompt.dtype)  # B S D
        pads = (attention_mask == 0)[:, :, None]
        told = embeds.masked_fill(pads, -math.inf).amax(1)  # B D
        down, up = self.down.index_select(0, task_ids), self.up.index_select(0, task_ids)
        query = layer_norm((silu(told[:, None] @ down) @ up)[:, 0], told.shape[1:])  # B D
        query = query * self.scale.index_select(0, task_ids) + self.bias.index_select(0, task_ids)
        own = self.prompt.amax(1).index_select(0, task_ids)  # B D
        near = torch.cat([query @ self.sources.amax(1).T, (query * own).sum(1, keepdim=True)], dim=1)  # B C+1
        return torch.softmax(near / self.temperature, dim=1)

    def conditions(
        self, input_ids: Tensor, attention_mask: Tensor, task_ids: Tensor, word_embeddings: nn.Module
    ) -> dict[str, Tensor]:
        """``prompts``, the mixture of each row, ``(B, N, D)``."""
        with torch.autocast(self.prompt.device.type, enabled=False):
            shares = self.attention(input_ids, attention_mask, task_ids, word_embeddings)  # B C+1
            own = self.prompt.index_select(0, task_ids)  # B N D
            mixed = torch.einsum("bc,cnd->bnd", shares[:, :-1], self.sources)
            return {"prompts": own * (1 + shares[:, -1, None, None]) + mixed}

    def learner_groups(self) -> list[LearnerGroup]:
        """The tasks' own prompts, and their attention networks."""
        network = [self.down, self.up, self.scale, self.bias]
        T = len(self.task_names)
        return [LearnerGroup("prompt", [self.prompt], T), LearnerGroup("weights", network, T)]

    def storage(self) -> tuple[int, int]:
        """The source prompts, and a task's own prompt with its network."""
        return self.sources.numel(), sum(param[0].numel() for param in self.parameters())

    def save(self, folder: Path, backbone: Backbone) -> None:
        """Write ``adapter.safetensors`` and ``adapter.json``; :func:`load_baseline` reads them."""
        settings = {"num_ranks": self.down.shape[2], "temperature": self.temperature}
        _save_tensors(folder, "attempt", self, settings, backbone)


class DePT(Baseline):
    """A short prompt and a low-rank update of the input embeddings (DePT, Shi and Lipani 2024, section 2.2).

    The embedded token at position s of a row of task t is shifted by ``(A_t @ B_t)[s]``. ``B`` starts at zero, so a
    task starts from its prompt alone. The prompt and the update have a learning rate each.

    Args:
        task_names: The T tasks.
        start: First values of the prompts, ``(T, N, D)``.
        num_ranks: R of the update; with ``N D + (max_tokens + D) R`` numbers a task.
        max_tokens: Longest input.
    """

    def __init__(self, task_names: Sequence[str], start: Tensor, num_ranks: int, max_tokens: int) -> None:
        T, N, D = start.shape
        super().__init__(task_names, N * D)
        self.prompt = nn.Parameter(start.detach().clone())  # T N D
        # As LoRA starts: Linear's first values on one side, zero on the other.
        self.A = nn.Parameter(torch.empty(T, max_tokens, num_ranks).uniform_(-1, 1) / math.sqrt(max_tokens))
        self.B = nn.Parameter(torch.zeros(T, num_ranks, D))

    def conditions(
        self, input_ids: Tensor, attention_mask: Tensor, task_ids: Tensor, word_embeddings: nn.Module
    ) -> dict[str, Tensor]:
        """``prompts`` ``(B, N, D)`` and ``shifts`` ``(B, S, D)``.

        Raises:
            ValueError: An input is longer than ``max_tokens``.
        """
        length, longest = input_ids.shape[1], self.A.shape[1]
        if length > longest:
            raise ValueError(f"input_ids: have {length} tokens, and DePT has updates for {longest}; cut them")
        A = self.A.index_select(0, task_ids)[:, :length]  # B S R
        with torch.autocast(A.device.type, enabled=False):
            shifts = A @ self.B.index_select(0, task_ids)
        return {"prompts": self.prompt.index_select(0, task_ids), "shifts": shifts}

    def learner_groups(self) -> list[LearnerGroup]:
        """The prompts, and the updates."""
        T = len(self.task_names)
        return [LearnerGroup("prompt", [self.prompt], T), LearnerGroup("factors", [self.A, self.B], T)]

    def storage(self) -> tuple[int, int]:
        """Nothing together; a task's prompt and update."""
        return 0, sum(param[0].numel() for param in self.parameters())

    def save(self, folder: Path, backbone: Backbone) -> None:
        """Write ``adapter.safetensors`` and ``adapter.json``; :func:`load_baseline` reads them."""
        settings = {"num_ranks": self.A.shape[2], "max_tokens": self.A.shape[1]}
        _save_tensors(folder, "dept", self, settings, backbone)


class LoRA(Baseline):
    """Low-rank updates of the backbone's weights (Hu et al. 2022), through peft; all tasks of a run share them.

    Args:
        task_names: The tasks.
        backbone: Its model gets the updates; it must not be used for anything else.
        method: ``num_ranks``, ``alpha`` and ``modules``.
        independent: Numbers of a plain prompt.

    Raises:
        ValueError: peft is not there, or the model has no such modules.
    """

    def __init__(
        self, task_names: Sequence[str], backbone: Backbone, method: MethodConfig, independent: int
    ) -> None:
        super().__init__(task_names, independent)
        try:
            import peft
        except ImportError as error:
            raise ValueError("method: lora needs peft; pip install 'mpt[lora]'") from error
        assert method.num_ranks is not None
        settings = peft.LoraConfig(
            task_type="SEQ_2_SEQ_LM",
            r=method.num_ranks,
            lora_alpha=method.num_ranks if method.alpha is None else method.alpha,
            target_modules=method.modules,
        )
        try:
            # In a tuple, so that the backbone is not part of this module a second time.
            self._peft = (peft.get_peft_model(backbone.model, settings),)
        except ValueError as error:
            raise ValueError(f"method.modules: {' '.join(str(error).split())}") from error

    def learned(self) -> dict[str, nn.Parameter]:
        """LoRA's A and B of every updated weight."""
        return {name: param for name, param in self._peft[0].named_parameters() if "lora_" in name}

    def learner_groups(self) -> list[LearnerGroup]:
        """All updates together."""
        return [LearnerGroup("weights", list(self.learned().values()), 1)]

    def storage(self) -> tuple[int, int]:
        """All updates, which the tasks of a run share."""
        return sum(param.numel() for param in self.learned().values()), 0

    def save(self, folder: Path, backbone: Backbone) -> None:
        """Write a PEFT adapter."""
        with write_folder_atomically(folder) as temporary:
            self._peft[0].save_pretrained(temporary)


class FullFineTuning(Baseline):
    """All weights of the backbone are trained; all tasks of a run share them.

    Args:
        task_names: The tasks.
        backbone: Is trained; it must not be used for anything else.
        independent: Numbers of a plain prompt.
    """

    def __init__(self, task_names: Sequence[str], backbone: Backbone, independent: int) -> None:
        super().__init__(task_names, independent)
        # In a tuple, so that the backbone is not part of this module a second time.
        self._model = (backbone.model.requires_grad_(True),)

    def learned(self) -> dict[str, nn.Parameter]:
        """All weights."""
        return dict(self._model[0].named_parameters())

    def learner_groups(self) -> list[LearnerGroup]:
        """All weights together."""
        return [LearnerGroup("weights", list(self.learned().values()), 1)]

    def storage(self) -> tuple[int, int]:
        """All weights, which the tasks of a run share."""
        return sum(param.numel() for param in self.learned().values()), 0

    def save(self, folder: Path, backbone: Backbone) -> None:
        """Write the model and its tokenizer; ``backbone.path`` takes the folder."""
        with write_folder_atomically(folder) as temporary:
            self._model[0].save_pretrained(temporary)
            backbone.tokenizer.save_pretrained(temporary)


Adapter = MultitaskPromptEmbedding | Baseline
"""What is trained beside, or in, a backbone."""


def build_baseline(
    method: MethodConfig,
    backbone: Backbone,
    prompt: MultitaskPromptEmbedding,
    sources: Tensor | None,
    max_tokens: int,
) -> Baseline:
    """Build the method that a configuration names.

    Args:
        method: Any but ``prompt``.
        backbone: LoRA and full fine-tuning train it.
        prompt: Of the form none, as it starts; of LoRA and full fine-tuning the tasks and the size to compare with.
        sources: The C source prompts of ATTEMPT, ``(C, N, D)``.
        max_tokens: Longest input of DePT.

    Raises:
        ValueError: The method does not fit the backbone or the sources.
    """
    _, N, _, D = prompt.shape
    start = prompt.prompts().detach()
    if method.name == "lora":
        return LoRA(prompt.task_names, backbone, method, N * D)
    if method.name == "full":
        return FullFineTuning(prompt.task_names, backbone, N * D)
    assert method.num_ranks is not None
    if method.name == "dept":
        return DePT(prompt.task_names, start, method.num_ranks, max_tokens)
    assert sources is not None
    return Attempt(prompt.task_names, sources, start, method.num_ranks, method.temperature)


def load_baseline(folder: Path) -> Attempt | DePT:
    """Read back what :meth:`Attempt.save` or :meth:`DePT.save` wrote.

    Args:
        folder: A run folder, whose ``adapter/`` is read, or that folder.

    Raises:
        FileNotFoundError: There is none.
        ValueError: The files do not fit each other.
    """
    folder = next(
        (place for place in (folder / "adapter", folder) if (place / "adapter.json").is_file()), folder
    )
    if not (folder / "adapter.json").is_file():
        raise FileNotFoundError(
            f"{folder}: no adapter.json; give the folder of a run with method=attempt or dept"
        )
    about = json.loads((folder / "adapter.json").read_text(encoding="utf-8"))
    if about.get("format_version") != FORMAT_VERSION:
        raise ValueError(
            f"{folder}: format_version is {about.get('format_version')!r}; this program reads {FORMAT_VERSION}"
        )
    tensors = load_file(folder / "adapter.safetensors")
    start, names = tensors["prompt"], about["task_names"]
    with torch.random.fork_rng(devices=[]):  # the drawn values are replaced, so no number is used up
        if about["method"] == "attempt":
            loaded: Attempt | DePT = Attempt(names, tensors["sources"], start, **about["settings"])
        else:
            loaded = DePT(names, start, **about["settings"])
    try:
        loaded.load_state_dict(tensors)
    except RuntimeError as error:
        raise ValueError(f"{folder}: {' '.join(str(error).split())}") from error
    return loaded


def _save_tensors(
    folder: Path, method: str, module: Baseline, settings: Mapping[str, Any], backbone: Backbone
) -> None:
    about = {
        "format_version": FORMAT_VERSION,
        "method": method,
        "task_names": module.task_names,
        "settings": dict(settings),
        "backbone": {"name": backbone.name, "fingerprint": backbone.fingerprint},
    }
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in module.state_dict().items()}
    with write_folder_atomically(folder) as temporary:
        text = json.dumps(about, indent=2, sort_keys=True, ensure_ascii=False)
        (temporary / "adapter.json").write_text(text + "\n", encoding="utf-8")
        save_file(tensors, temporary / "adapter.safetensors", metadata={"format": "pt"})
