"""Use a trained prompt: a frozen backbone and its prompts as one object that generates, scores and gives logits.

Shape legend: B examples in a batch, S input tokens, L target tokens, V vocabulary.
"""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mpt.adapter import Adapter
from mpt.answering.answers import condition
from mpt.answering.growing import GrowingAnswers, OnText
from mpt.artifact import check_fits, input_settings, load_baseline, load_prompt, read_answers
from mpt.artifact.find import Kind, find
from mpt.backbone import Backbone, load_backbone
from mpt.backbone.cross_entropy import token_losses
from mpt.backbone.memory import refuse_too_long
from mpt.config import ANSWERS, BackboneConfig
from mpt.data.batches import Batch, pad
from mpt.errors import UserError, unknown
from mpt.hub import local_copy
from mpt.inputs import Inputs
from mpt.tasks import AnswerSettings


class Likelihood(NamedTuple):
    """How likely a model finds a target."""

    total: float
    """Log likelihood summed over its tokens, in nats."""
    tokens: int
    """How many they are, the end among them."""
    is_greedy: bool
    """Whether each of them is the likeliest after those before it."""


class PromptedModel:
    """A frozen backbone with the trained prompts of several tasks.

    Args:
        adapter: The prompt, or a baseline that stands in its place.
        backbone: The model that it was trained with.
        answers: How each task's inputs are written and its answers made; one that is not in it has the defaults.

    Attributes:
        adapter: As passed in.
        backbone: As passed in, in evaluation mode.
        answers: Each task's settings.
        known_answers: The settings of tasks that the saved prompt records.
    """

    def __init__(
        self, adapter: Adapter, backbone: Backbone, answers: Mapping[str, AnswerSettings] | None = None
    ) -> None:
        self.adapter, self.backbone = adapter.eval(), backbone.eval()
        self.known_answers = dict(answers or {})
        self.answers = {name: self.known_answers.get(name, AnswerSettings()) for name in adapter.task_names}

    @staticmethod
    def load(
        folder: str | Path, backbone: str | Path | None = None, *, dtype: str = "float32", device: str = "cpu"
    ) -> "PromptedModel":
        """Load what a run has saved, and the backbone that it was trained with.

        Args:
            folder: A run folder, its ``prompt/`` or ``adapter/``, a PEFT adapter of multitask prompt tuning, or
                ``hf://owner/name`` of the hub.
            backbone: A folder or hub id; None: the one that the saved prompt names.
            dtype: The backbone's: float32, bfloat16 or float16.
            device: Device of both.

        Raises:
            FileNotFoundError: There is no saved prompt, or no such backbone.
            UserError: The backbone has other weights or another width than the one that it was trained with, or the
                folder is that of LoRA or full fine-tuning, which peft and transformers load by themselves.
        """
        folder = local_copy(folder)
        kind, place = find(folder) or (None, folder)
        if kind is Kind.BASELINE:
            baseline, saved_about = load_baseline(place)
            about = saved_about["backbone"]
            name = about["name"]
            loaded = load_backbone(_backbone_config(str(backbone or name), dtype, input_settings(about)))
            if loaded.fingerprint != about["fingerprint"]:
                raise UserError(
                    f"{folder}: was trained with {name}, fingerprint {about['fingerprint']}; "
                    f"{loaded.name} has other weights, fingerprint {loaded.fingerprint}"
                )
            answers = read_answers(saved_about, place / "adapter.json")
            return PromptedModel(baseline, loaded, answers).to(device)
        if kind in (Kind.UPDATES, Kind.MODEL):
            raise UserError(
                f"{place}: holds weights, not prompts; load LoRA with peft, and full fine-tuning with "
                "backbone.path or transformers"
            )
        saved = load_prompt(folder)
        name = str(backbone or saved.backbone["name"])
        if not name:
            raise UserError(f"{folder}: does not name its backbone; give backbone=FOLDER, or a hub id")
        loaded = load_backbone(_backbone_config(name, dtype, input_settings(saved.backbone)))
        check_fits(saved, loaded, where=str(folder))
        return PromptedModel(saved.prompt, loaded, saved.answers).to(device)

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
        texts: Sequence[str | Mapping[str, Any]],
        tasks: str | Sequence[str],
        *,
        batch_size: int = 32,
        max_new_tokens: int | None = None,
        choices: Sequence[str] | None = None,
        answers: str | None = None,
        seed: int = 0,
        on_text: OnText | None = None,
        **generation: Any,
    ) -> list[str]:
        """Answer texts, each under the prompt of its task and as its answers were scored in training.

        Args:
            texts: The inputs, as a task's template writes them, or the columns that its template names.
            tasks: The task of each text, or one for all.
            batch_size: Texts at a time; they are batched by length, whatever their tasks, where these answer alike.
            max_new_tokens: Longest answer; None: the task's.
            choices: The texts that an answer may be, such as label words; None: those of the task, empty: any.
            answers: How one of the choices is found, one of :data:`mpt.config.ANSWERS`; None: as the task's were.
            seed: Seed of sampled answers, where a task or ``generation`` samples.
            on_text: Called with a text's position and its answer so far as that is written; not for beams, answers
                that are chosen by their likelihood, and several of one text, which come whole.
            generation: Further arguments of transformers' ``generate``, before the task's own.

        Returns:
            An answer for each text, in their order; under ``num_return_sequences=n``, n of them after each other for
            each text, as transformers returns them.

        Raises:
            UserError: An unknown task, not one task for each text, a column that is missing, no room for a text in the
                model's positions, or a count below 1.

        Warns:
            UserWarning: Texts were too long for the model or the task and lost their end; it says how many.
        """
        several = generation.get("num_return_sequences", 1)
        check_counts(batch_size=batch_size, max_new_tokens=max_new_tokens, num_return_sequences=several)
        if isinstance(choices, str) or not all(isinstance(each, str) and each for each in choices or ()):
            raise UserError(f"choices: is {choices!r}; give a list of texts, none of them empty")
        names = self._names(texts, tasks)
        if answers not in (None, *ANSWERS):
            raise UserError(unknown("answers", str(answers), ANSWERS))
        found_texts = [""] * (len(texts) * several)
        alike: dict[str, list[int]] = {}
        for position, name in enumerate(names):
            alike.setdefault(self.answers[name].key, []).append(position)
        for members in alike.values():
            own = self.answers[names[members[0]]]
            longest = own.max_target_tokens if max_new_tokens is None else max_new_tokens
            allowed = own.choices if choices is None else (list(choices) or None)
            how = answers or own.answers
            if allowed is None and how != "generation":
                if answers is not None:
                    raise UserError(f"answers: {how} compares choices, and there are none; give choices=[...]")
                how = "generation"
            some, of_some = [texts[each] for each in members], [names[each] for each in members]
            for positions, batch in self._batches(some, of_some, batch_size, longest):
                settings = {"max_new_tokens": longest} | dict(own.generation) | generation
                if on_text is not None and how == "generation" and several == settings.get("num_beams", 1) == 1:
                    places = [members[position] for position in positions]
                    settings["streamer"] = GrowingAnswers(self.backbone.tokenization, places, on_text)
                found = self.backbone.generate(
                    condition(self.adapter, self.backbone, batch), choices=allowed, answers=how, seed=seed, **settings
                )
                for row, position in enumerate(positions):
                    place = members[position] * several
                    found_texts[place : place + several] = found[row * several : (row + 1) * several]
        return found_texts

    @torch.no_grad()
    def score(
        self,
        texts: Sequence[str | Mapping[str, Any]],
        targets: Sequence[str],
        tasks: str | Sequence[str],
        *,
        batch_size: int = 32,
    ) -> list[float]:
        """Compute the log likelihood of each target, summed over its tokens, in nats.

        Args:
            texts: The inputs, as of :meth:`generate`.
            targets: The target of each text.
            tasks: The task of each text, or one for all.
            batch_size: Texts at a time.

        Returns:
            One number for each text, at most 0; label words are compared by it.

        Raises:
            UserError: An unknown task, or not one task or target for each text.
        """
        scores = [0.0] * len(texts)
        for positions, batch, labels in self._labelled(texts, targets, tasks, batch_size):
            losses = self.backbone.example_losses(condition(self.adapter, self.backbone, batch), labels)
            for position, loss in zip(positions, losses.tolist(), strict=True):
                scores[position] = -loss
        return scores

    @torch.no_grad()
    def likelihoods(
        self,
        texts: Sequence[str | Mapping[str, Any]],
        targets: Sequence[str],
        tasks: str | Sequence[str],
        *,
        batch_size: int = 32,
    ) -> list[Likelihood]:
        """Score targets as :meth:`score` does, and see whether each is what a greedy search would answer.

        Args:
            texts: The inputs, as of :meth:`generate`.
            targets: The target of each text.
            tasks: The task of each text, or one for all.
            batch_size: Texts at a time.

        Raises:
            UserError: An unknown task, or not one task or target for each text.
        """
        found = [Likelihood(0.0, 0, False)] * len(texts)
        for positions, batch, labels in self._labelled(texts, targets, tasks, batch_size):
            logits = self.backbone.logits(condition(self.adapter, self.backbone, batch), labels)
            losses, asked = token_losses(logits, labels), labels != -100
            greedy = ((logits.argmax(-1) == labels) | ~asked).all(1)
            rows = zip(positions, losses.tolist(), asked.sum(1).tolist(), greedy.tolist(), strict=True)
            for position, loss, tokens, is_greedy in rows:
                found[position] = Likelihood(-loss, tokens, is_greedy)
        return found

    def _labelled(
        self,
        texts: Sequence[str | Mapping[str, Any]],
        targets: Sequence[str],
        tasks: str | Sequence[str],
        batch_size: int,
    ) -> Iterator[tuple[list[int], Batch, Tensor]]:
        """Batch texts as :meth:`_batches` does, each batch with the labels of its targets, ``(B, L)``."""
        if len(targets) != len(texts):
            raise UserError(f"targets: are {len(targets)} for {len(texts)} texts; give one for each")
        check_counts(batch_size=batch_size)
        names = self._names(texts, tasks)
        ids, _ = self.backbone.tokenization.encode_targets(targets)
        longest = max(map(len, ids), default=0)
        for positions, batch in self._batches(texts, names, batch_size, longest):
            yield positions, batch, pad([ids[position] for position in positions], -100).to(self.backbone.device)

    def longest_input(self, task: str, max_new_tokens: int | None = None) -> int | None:
        """Compute how many tokens an input of a task may have before it is cut; None: any number.

        Args:
            task: Its name.
            max_new_tokens: Longest answer; None: the task's.

        Raises:
            UserError: Prompt and answer leave no room for an input.
        """
        own = self.answers[task]
        target = own.max_target_tokens if max_new_tokens is None else max_new_tokens
        room = self.backbone.longest_input(self.adapter.num_virtual_tokens, target)
        return min((limit for limit in (room, own.max_source_tokens) if limit is not None), default=None)

    def condition(self, ids: Sequence[Sequence[int]], tasks: Sequence[str]) -> Inputs:
        """Collect what the backbone reads of some inputs of one length.

        Args:
            ids: Token ids of each input.
            tasks: The task of each.

        Raises:
            UserError: An unknown task.
        """
        if unknown := sorted(set(tasks) - set(self.task_names)):
            raise UserError(f"tasks: no task {unknown[0]!r}; choose one of {', '.join(self.task_names)}")
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
        return self.backbone.logits(condition(self.adapter, self.backbone, batch), labels)

    def write_input(self, text: str | Mapping[str, Any], name: str, where: str) -> str:
        """Write an input as the template of a task does, where it is given as columns.

        Args:
            text: A whole input, which stays as it is, or column to value.
            name: The task.
            where: Where it comes from, for errors.

        Raises:
            UserError: A column is missing, or the text is empty or holds a control token of the tokenizer.
        """
        own = self.answers[name]
        written = text if isinstance(text, str) else own.write_input(text, where, name)
        if not written.strip():
            raise UserError(f"{where} is empty; give each some text")
        written = own.before + written + own.after
        if token := self.backbone.tokenization.control_token(written):
            raise UserError(f"{where} holds {token!r}, which the tokenizer reads as a control token, not as text")
        return written

    def _names(self, texts: Sequence[Any], tasks: str | Sequence[str]) -> list[str]:
        """The task of each text."""
        if isinstance(texts, (set, frozenset, Mapping)) or not hasattr(texts, "__getitem__"):
            raise UserError(f"texts: is a {type(texts).__name__}, which has no order; give a list")
        if isinstance(texts, str):
            raise UserError(f"texts: is one text, {texts[:40]!r}; give a list of them")
        names = [tasks] * len(texts) if isinstance(tasks, str) else list(tasks)
        if len(names) != len(texts):
            raise UserError(f"tasks: are {len(names)} for {len(texts)} texts; give one for each, or one for all")
        if unknown := sorted(set(names) - set(self.task_names)):
            raise UserError(f"tasks: no task {unknown[0]!r}; choose one of {', '.join(self.task_names)}")
        return names

    def _batches(
        self, texts: Sequence[str | Mapping[str, Any]], names: Sequence[str], batch_size: int, target_tokens: int
    ) -> Iterator[tuple[list[int], Batch]]:
        """Batch texts by their length: the positions of each batch, and its tensors on the backbone's device.

        They are cut to what their task was trained with, and to what the model has positions for, besides the
        prompt and ``target_tokens``.
        """
        written = [
            self.write_input(text, name, f"texts: number {position}")
            for position, (text, name) in enumerate(zip(texts, names, strict=True))
        ]
        room = self.backbone.longest_input(self.adapter.num_virtual_tokens, target_tokens)
        ids: list[list[int]] = [[]] * len(written)
        cut = 0
        for name in dict.fromkeys(names):
            longest = self.longest_input(name, target_tokens)
            members = [position for position, each in enumerate(names) if each == name]
            of_task, lost = self.backbone.tokenization.encode_inputs([written[each] for each in members], longest)
            cut += len(lost)
            for position, each in zip(members, of_task, strict=True):
                ids[position] = each
        if cut:
            warnings.warn(
                f"{cut} of {len(texts)} texts are longer than their task was trained with, or than "
                f"{self.backbone.name} "
                f"takes beside the prompt and {target_tokens} tokens of answer; they lost their end",
                stacklevel=4,
            )
        order = sorted(range(len(texts)), key=lambda position: len(ids[position]))
        for start in range(0, len(order), batch_size):
            positions = order[start : start + batch_size]
            inputs = [ids[position] for position in positions]
            lengths = torch.tensor([len(each) for each in inputs])
            if room is None:  # no position ends what the model takes
                virtual = self.adapter.num_virtual_tokens
                refuse_too_long([virtual + len(each) for each in inputs], positions, self.backbone.device)
            input_ids = pad(inputs, self.backbone.tokenization.pad_token_id)
            batch = {
                "input_ids": input_ids,
                "attention_mask": (torch.arange(input_ids.shape[1]) < lengths[:, None]).long(),
                "task_ids": torch.tensor([self.task_names.index(names[position]) for position in positions]),
            }
            yield positions, {key: value.to(self.backbone.device) for key, value in batch.items()}


def check_counts(**counts: Any) -> None:
    """Refuse arguments that count something, and are no whole number from 1; None is the default.

    Raises:
        UserError: As said.
    """
    for name, count in counts.items():
        if count is not None and (isinstance(count, bool) or not isinstance(count, int) or count < 1):
            raise UserError(f"{name}: is {count!r}; it must be a whole number from 1")


def _backbone_config(name: str, dtype: str, settings: Mapping[str, Any]) -> BackboneConfig:
    """A folder or GGUF file that is there is read; everything else is ``tiny`` or a hub id."""
    path = name if name != "tiny" and (Path(name).is_dir() or name.endswith(".gguf")) else None
    return BackboneConfig(name=name, path=path, dtype=dtype, **settings)
