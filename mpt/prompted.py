"""Use a trained prompt: a frozen backbone and its prompts as one object that generates, scores and gives logits.

Shape legend: B examples in a batch, S input tokens, L target tokens, V vocabulary.
"""

import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mpt.adapter import Adapter, Conditions
from mpt.artifact import check_fits, input_settings, load_prompt
from mpt.backbone import Backbone, load_backbone
from mpt.baselines import load_baseline
from mpt.batches import Batch, pad
from mpt.config import BackboneConfig
from mpt.hub import local_copy
from mpt.predict import condition


class PromptedModel:
    """A frozen backbone with the trained prompts of several tasks.

    Args:
        adapter: The prompt, or a baseline that stands in its place.
        backbone: The model that it was trained with.

    Attributes:
        adapter: As passed in.
        backbone: As passed in, in evaluation mode.
    """

    def __init__(self, adapter: Adapter, backbone: Backbone) -> None:
        self.adapter, self.backbone = adapter.eval(), backbone.eval()

    @staticmethod
    def load(
        folder: str | Path, backbone: str | Path | None = None, *, dtype: str = "float32", device: str = "cpu"
    ) -> "PromptedModel":
        """Load what a run has saved, and the backbone that it was trained with.

        Args:
            folder: A run folder, its ``prompt/`` or ``adapter/``, a PEFT adapter of multitask prompt tuning, or
                ``hf://owner/name`` of the hub.
            backbone: A folder or hub id; None: the one that the saved prompt names.
            dtype: Of the backbone: float32, bfloat16 or float16.
            device: Of both.

        Raises:
            FileNotFoundError: There is no saved prompt, or no such backbone.
            ValueError: The backbone has other weights or another width than the one that it was trained with, or the
                folder is that of LoRA or full fine-tuning, which peft and transformers load by themselves.
        """
        folder = local_copy(folder)
        if baseline := _baseline_folder(folder):
            about = json.loads((baseline / "adapter.json").read_text(encoding="utf-8"))["backbone"]
            name = about["name"]
            loaded = load_backbone(_backbone_config(str(backbone or name), dtype, input_settings(about)))
            if loaded.fingerprint != about["fingerprint"]:
                raise ValueError(
                    f"{folder}: was trained with {name}, fingerprint {about['fingerprint']}; "
                    f"{loaded.name} has other weights, fingerprint {loaded.fingerprint}"
                )
            return PromptedModel(load_baseline(baseline), loaded).to(device)
        if (folder / "adapter").is_dir() and not (folder / "prompt").is_dir():
            raise ValueError(
                f"{folder / 'adapter'}: holds weights, not prompts; load LoRA with peft, and full fine-tuning with "
                "backbone.path or transformers"
            )
        saved = load_prompt(folder)
        name = str(backbone or saved.backbone["name"])
        if not name:
            raise ValueError(f"{folder}: does not name its backbone; give backbone=FOLDER, or a hub id")
        loaded = load_backbone(_backbone_config(name, dtype, input_settings(saved.backbone)))
        check_fits(saved, loaded, where=str(folder))
        return PromptedModel(saved.prompt, loaded).to(device)

    @property
    def task_names(self) -> list[str]:
        """The tasks that it has prompts for; position i is ``task_ids == i``."""
        return self.adapter.task_names

    @property
    def tokenizer(self) -> Any:
        """The backbone's tokenizer."""
        return self.backbone.tokenizer

    def to(self, device: str | torch.device) -> "PromptedModel":
        """Move backbone and prompts to a device; returns itself."""
        self.backbone.to(device)
        self.adapter.to(device)
        return self

    @torch.no_grad()
    def generate(
        self,
        texts: Sequence[str],
        tasks: str | Sequence[str],
        *,
        batch_size: int = 32,
        max_new_tokens: int = 128,
        choices: Sequence[str] | None = None,
        **generation: Any,
    ) -> list[str]:
        """Answer texts, each under the prompt of its task; greedy unless ``generation`` says otherwise.

        Args:
            texts: The inputs, as a task's template writes them.
            tasks: The task of each text, or one for all.
            batch_size: Texts at a time; they are batched by length, whatever their tasks.
            max_new_tokens: Longest answer.
            choices: The texts that an answer may be, such as label words; None: any.
            generation: Further arguments of transformers' ``generate``.

        Returns:
            An answer for each text, in their order; under ``num_return_sequences=n``, n of them after each other for
            each text, as transformers returns them.

        Raises:
            ValueError: An unknown task, not one task for each text, or no room for a text in the model's positions.

        Warns:
            UserWarning: Texts were too long for the model and lost their end; it says how many.
        """
        several = int(generation.get("num_return_sequences", 1))
        answers = [""] * (len(texts) * several)
        for positions, batch in self._batches(texts, tasks, batch_size, max_new_tokens):
            conditions = condition(self.adapter, self.backbone, batch)
            found = self.backbone.generate(
                batch["input_ids"],
                batch["attention_mask"],
                conditions.prompts,
                conditions.shifts,
                max_new_tokens=max_new_tokens,
                choices=choices,
                **generation,
            )
            for row, position in enumerate(positions):
                answers[position * several : (position + 1) * several] = found[
                    row * several : (row + 1) * several
                ]
        return answers

    @torch.no_grad()
    def score(
        self,
        texts: Sequence[str],
        targets: Sequence[str],
        tasks: str | Sequence[str],
        *,
        batch_size: int = 32,
    ) -> list[float]:
        """Compute the log likelihood of each target, summed over its tokens, in nats.

        Args:
            texts: The inputs.
            targets: The target of each text.
            tasks: The task of each text, or one for all.
            batch_size: Texts at a time.

        Returns:
            One number for each text, at most 0; label words are compared by it.

        Raises:
            ValueError: An unknown task, or not one task or target for each text.
        """
        if len(targets) != len(texts):
            raise ValueError(f"targets: are {len(targets)} for {len(texts)} texts; give one for each")
        ids, _ = self.backbone.tokenization.encode_targets(targets)
        scores = [0.0] * len(texts)
        longest = max(map(len, ids), default=0)
        for positions, batch in self._batches(texts, tasks, batch_size, longest):
            labels = pad([ids[position] for position in positions], -100).to(self.backbone.device)
            conditions = condition(self.adapter, self.backbone, batch)
            inputs = (batch["input_ids"], batch["attention_mask"])
            losses = self.backbone.example_losses(*inputs, labels, conditions.prompts, conditions.shifts)
            for position, loss in zip(positions, losses.tolist(), strict=True):
                scores[position] = -loss
        return scores

    def condition(self, ids: Sequence[Sequence[int]], tasks: Sequence[str]) -> Conditions:
        """Compute what the backbone reads besides the tokens of some inputs of one length.

        Args:
            ids: Token ids of each input.
            tasks: The task of each.

        Raises:
            ValueError: An unknown task.
        """
        if unknown := sorted(set(tasks) - set(self.task_names)):
            raise ValueError(f"tasks: no task {unknown[0]!r}; choose one of {', '.join(self.task_names)}")
        input_ids = torch.tensor(ids, device=self.backbone.device)
        task_ids = torch.tensor([self.task_names.index(task) for task in tasks], device=self.backbone.device)
        batch = {"input_ids": input_ids, "attention_mask": torch.ones_like(input_ids), "task_ids": task_ids}
        return condition(self.adapter, self.backbone, batch)

    def logits(self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor, task_ids: Tensor) -> Tensor:
        """Teacher-forced logits, each example under its own task's prompt.

        Args:
            input_ids: ``(B, S)``.
            attention_mask: ``(B, S)``, 1 on tokens.
            labels: ``(B, L)``; -100 pads.
            task_ids: Positions in ``task_names``, ``(B,)``.

        Returns:
            ``(B, L, V)`` in the backbone's dtype.
        """
        batch = {"input_ids": input_ids, "attention_mask": attention_mask, "task_ids": task_ids}
        conditions = condition(self.adapter, self.backbone, batch)
        return self.backbone.logits(input_ids, attention_mask, labels, conditions.prompts, conditions.shifts)

    def _batches(
        self, texts: Sequence[str], tasks: str | Sequence[str], batch_size: int, target_tokens: int
    ) -> Iterator[tuple[list[int], Batch]]:
        """Batch texts by their length: the positions of each batch, and its tensors on the backbone's device.

        They are cut to what the model has positions for, besides the prompt and ``target_tokens``.
        """
        if isinstance(texts, str):
            raise ValueError(f"texts: is one text, {texts[:40]!r}; give a list of them")
        names = [tasks] * len(texts) if isinstance(tasks, str) else list(tasks)
        if len(names) != len(texts):
            raise ValueError(
                f"tasks: are {len(names)} for {len(texts)} texts; give one for each, or one for all"
            )
        if unknown := sorted(set(names) - set(self.task_names)):
            raise ValueError(f"tasks: no task {unknown[0]!r}; choose one of {', '.join(self.task_names)}")
        if empty := [position for position, text in enumerate(texts) if not text.strip()]:
            raise ValueError(f"texts: number {empty[0]} is empty; give each some text")
        longest = self.backbone.longest_input(self.adapter.num_virtual_tokens, target_tokens)
        ids, cut = self.backbone.tokenization.encode_inputs(texts, longest)
        if cut:
            warnings.warn(
                f"{len(cut)} of {len(texts)} texts are longer than the {longest} tokens that {self.backbone.name} "
                f"takes beside the prompt and {target_tokens} tokens of answer; they lost their end",
                stacklevel=3,
            )
        order = sorted(range(len(texts)), key=lambda position: len(ids[position]))
        for start in range(0, len(order), batch_size):
            positions = order[start : start + batch_size]
            inputs = [ids[position] for position in positions]
            lengths = torch.tensor([len(each) for each in inputs])
            input_ids = pad(inputs, self.backbone.tokenization.pad_token_id)
            batch = {
                "input_ids": input_ids,
                "attention_mask": (torch.arange(input_ids.shape[1]) < lengths[:, None]).long(),
                "task_ids": torch.tensor([self.task_names.index(names[position]) for position in positions]),
            }
            yield positions, {key: value.to(self.backbone.device) for key, value in batch.items()}


def _baseline_folder(folder: Path) -> Path | None:
    """The folder of a baseline of tensors of its own, where there is one."""
    return next((each for each in (folder / "adapter", folder) if (each / "adapter.json").is_file()), None)


def _backbone_config(name: str, dtype: str, settings: Mapping[str, Any]) -> BackboneConfig:
    """A folder or GGUF file that is there is read; everything else is ``tiny`` or a hub id."""
    path = name if name != "tiny" and (Path(name).is_dir() or name.endswith(".gguf")) else None
    return BackboneConfig(name=name, path=path, dtype=dtype, **settings)
