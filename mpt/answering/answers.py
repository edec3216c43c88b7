"""Answer examples: adapter, backbone and batches in, texts and losses out; of several processes each answers its share.

Needs no Lightning: validation, test, the scores of the start and the oracle come through here.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, distributed, nn

from mpt import metrics
from mpt.backbone import Backbone
from mpt.config import TaskConfig
from mpt.data.batches import Batch
from mpt.inputs import Inputs
from mpt.tasks import Example, label_words

Scores = dict[str, dict[str, float]]
"""Task (or ``average``) to its numbers."""


class Conditioner(Protocol):
    """Whatever says what the backbone reads besides a batch's own tokens, such as an adapter."""

    def condition(self, inputs: Inputs, task_ids: Tensor, word_embeddings: nn.Module) -> Inputs:
        """Compute it, as :meth:`mpt.adapter.Adapter.condition`."""

    def to(self, device: torch.device) -> Any:
        """Move to a device."""


class Answer(NamedTuple):
    """The model's answer to one example."""

    task_id: int
    example_index: int
    """Position among the examples of its task and split."""
    text: str
    loss: float
    """Token loss summed over the target, in nats; 0 where it was not asked for."""
    target_tokens: int


class Prediction(NamedTuple):
    """An answer beside the example that it belongs to."""

    task: str
    row_id: str
    input: str
    references: tuple[str, ...]
    prediction: str


Predictions = dict[str, list[Prediction]]
"""Task to the predictions of its examples."""


def condition(adapter: Conditioner | None, backbone: Backbone, batch: Batch) -> Inputs:
    """Collect what the backbone reads of a batch; without an adapter, its tokens."""
    inputs = Inputs(batch["input_ids"], batch["attention_mask"])
    return inputs if adapter is None else adapter.condition(inputs, batch["task_ids"], backbone.word_embeddings)


@torch.no_grad()
def answer_batch(
    adapter: Conditioner | None, backbone: Backbone, batch: Batch, with_losses: bool = False
) -> list[Answer]:
    """Generate, and where it is asked for score, each example under its own task's prompt.

    Args:
        adapter: On the backbone's device; None: no prompt, as the oracle, whose inputs have a prefix instead.
        backbone: The frozen model.
        batch: From an :class:`~mpt.data.batches.EvalLoader`, on the backbone's device.
        with_losses: Compute the losses of the targets too.
    """
    inputs = condition(adapter, backbone, batch)
    texts = backbone.generate(inputs, **batch["generation"])
    losses = [0.0] * len(texts)
    if with_losses:
        losses = backbone.example_losses(inputs, batch["labels"]).tolist()
    ids, indices = batch["task_ids"].tolist(), batch["example_indices"].tolist()
    tokens = (batch["labels"] != -100).sum(1).tolist()
    return [Answer(*fields) for fields in zip(ids, indices, texts, losses, tokens, strict=True)]


def answer(adapter: Conditioner | None, backbone: Backbone, batches: Iterable[Batch]) -> list[Answer]:
    """Answer the batches of this process, on the backbone's device.

    Returns:
        The answers of all processes, in the order of tasks and examples.
    """
    if adapter is not None:
        adapter.to(backbone.device)
    answers: list[Answer] = []
    for batch in batches:
        answers += answer_batch(adapter, backbone, _to_device(batch, backbone.device))
    return gather_answers(answers)


def gather_answers(answers: list[Answer]) -> list[Answer]:
    """Collect the answers of all processes, each example once, in the order of tasks and examples."""
    if distributed.is_available() and distributed.is_initialized():
        parts: list[Any] = [None] * distributed.get_world_size()
        distributed.all_gather_object(parts, answers)
        answers = [answer for part in parts for answer in part]
    return list({(each.task_id, each.example_index): each for each in sorted(answers)}.values())


def predict(
    adapter: Conditioner | None, backbone: Backbone, batches: Iterable[Batch], examples: Mapping[str, Sequence[Example]]
) -> Predictions:
    """Answer a split and put each answer beside its example.

    Args:
        adapter: None: no prompt.
        backbone: The frozen model.
        batches: This process's share of the split.
        examples: The T tasks of the split in the order of their ids, each with its examples.

    Returns:
        Task to predictions, in the order of the examples; a task without a batch is left out.
    """
    names = list(examples)
    texts: dict[str, list[str]] = {}
    for each in answer(adapter, backbone, batches):
        texts.setdefault(names[each.task_id], []).append(each.text)
    return {name: put_beside(name, examples[name], of_task) for name, of_task in texts.items()}


def put_beside(name: str, examples: Sequence[Example], texts: Sequence[str]) -> list[Prediction]:
    """Put each answer of a task beside its example; both in the same order."""
    return [
        Prediction(name, example.row_id, example.input, example.references, text)
        for example, text in zip(examples, texts, strict=True)
    ]


def rules_of(config: TaskConfig, references: Sequence[tuple[str, ...]], classes: Sequence[str] = ()) -> metrics.Rules:
    """Collect what the metrics of a task have to know.

    Args:
        config: The task's.
        references: Those of the scored rows.
        classes: Those that the data have, for a task that does not name its label words.
    """
    labels = tuple(label_words(config)) or tuple(classes)
    return metrics.Rules(labels, metrics.choose_tokenizer(config.metric_tokenizer, references))


def score_answers(
    tasks: Mapping[str, TaskConfig], predictions: Predictions, classes: Mapping[str, Sequence[str]] | None = None
) -> Scores:
    """Score the predictions of each task, all examples together; ``classes`` as in :func:`rules_of`, by task."""
    scores: Scores = {}
    for name, of_task in predictions.items():
        references = [each.references for each in of_task]
        rules = rules_of(tasks[name], references, (classes or {}).get(name, ()))
        answers = [each.prediction for each in of_task]
        scores[name] = metrics.score(tasks[name].metrics, answers, references, rules)
    return scores


def _to_device(batch: Batch, device: torch.device) -> Batch:
    return {key: value.to(device) if isinstance(value, Tensor) else value for key, value in batch.items()}
