"""The backbone of several runs: each sees one of its own, and what they ask at the same time is computed at once.

Shape legend: B examples in a batch, S input tokens, N virtual tokens, D token_dim, L target tokens, V vocabulary.
"""

import json
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mpt.backbone import Backbone, Outputs
from mpt.fused.turns import Request, Turn

FIELDS = ("input_ids", "attention_mask", "labels", "prompts", "shifts")


class FusedBackbone(Backbone):
    """What one run of a group takes for its backbone; it computes nothing, and waits for its turn.

    Args:
        shared: The backbone of the group.
        turn: The run's.
        dropout: Whether the run's training mode reaches the model.
    """

    def __init__(self, shared: Backbone, turn: Turn, dropout: bool) -> None:
        nn.Module.__init__(self)
        self.model = shared.model
        self.shared, self.turn = (shared,), (turn,)  # in tuples: neither is a part of this module
        self.tokenization, self.name, self.location = shared.tokenization, shared.name, shared.location
        self.fingerprint, self.dropout = shared.fingerprint, dropout
        self._has_dropout = shared._has_dropout
        self._rows = 1

    @property
    def task_type(self) -> str:  # type: ignore[override]
        """As the shared one's."""
        return self.shared[0].task_type

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "FusedBackbone":
        """Stay where the group is: Lightning moves a run's module when the run ends."""
        return self

    def train(self, mode: bool = True) -> "FusedBackbone":
        """Set this run's mode; that of the model is set for each computation."""
        self.training = mode
        return self

    @property
    def max_positions(self) -> int | None:
        """As the shared one."""
        return self.shared[0].max_positions

    def outputs(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        labels: Tensor,
        prompts: Tensor | None = None,
        shifts: Tensor | None = None,
        hidden: bool = False,
    ) -> Outputs:
        """Ask for logits, and hidden states."""
        values = dict(zip(FIELDS, (input_ids, attention_mask, labels, prompts, shifts), strict=True))
        found: Outputs = self._ask("outputs", values, hidden)
        return found

    def example_losses(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        labels: Tensor,
        prompts: Tensor | None = None,
        shifts: Tensor | None = None,
    ) -> Tensor:
        """Ask for the losses of examples, ``(B,)``."""
        values = dict(zip(FIELDS, (input_ids, attention_mask, labels, prompts, shifts), strict=True))
        found: Tensor = self._ask("example_losses", values)
        return found

    def generate(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        prompts: Tensor | None = None,
        shifts: Tensor | None = None,
        choices: Sequence[str] | None = None,
        seed: int = 0,
        **generation: Any,
    ) -> list[str]:
        """Ask for answers."""
        values = {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "prompts": prompts,
            "shifts": shifts,
        }
        settings = generation | ({} if choices is None else {"choices": list(choices)})
        if settings.get("do_sample"):  # of what is not sampled it says nothing
            settings["seed"] = seed
        found: list[str] = self._ask(
            "generate", values | {"settings": settings}, json.dumps(settings, sort_keys=True, default=str)
        )
        return found

    def backward(self, loss: Tensor) -> None:
        """Ask for the gradients of a loss."""
        self.turn[0].ask(Request("backward", (), {"loss": loss}, rows=self._rows))

    def _generation_inputs(
        self, input_ids: Tensor, attention_mask: Tensor, prompts: Tensor | None, shifts: Tensor | None
    ) -> dict[str, Any]:
        return self.shared[0]._generation_inputs(input_ids, attention_mask, prompts, shifts)

    def _ask(self, kind: str, values: dict[str, Any], *key: Any) -> Any:
        prompts, shifts = values["prompts"], values["shifts"]
        alike = (
            None if prompts is None else tuple(prompts.shape[1:]),
            shifts is None,
            self.drops_out,
            torch.is_grad_enabled(),
            *key,
        )
        self._rows = len(values["input_ids"])
        # The seed is what the run has seeded its masks with.
        request = Request(kind, alike, values, seed=torch.initial_seed(), rows=self._rows)
        return self.turn[0].ask(request)


class Computation:
    """Computes what the runs of a group ask for, as few and as large batches as fit.

    Args:
        backbone: The shared one.
        most_together: As the attribute.
        max_rows: Rows of one forward.

    Attributes:
        most_together: Runs whose training steps are computed at once; halved where the memory did not suffice.
    """

    ORDER = ("backward", "generate", "outputs", "example_losses")
    """Gradients first, which frees memory; then what is validated, so that its runs join the others' next step."""

    def __init__(self, backbone: Backbone, most_together: int, max_rows: int = 1024) -> None:
        self.backbone, self.most_together, self.max_rows = backbone, most_together, max_rows

    def choose(self, turns: Sequence[Turn]) -> list[Turn]:
        """Choose the runs whose requests are computed next: of one kind, and alike."""
        waiting = [(turn.request, turn) for turn in turns if turn.request is not None]
        if not waiting:
            return []
        # Who has waited longest says what is computed, so that none waits for ever.
        waiting.sort(key=lambda pair: (self.ORDER.index(pair[0].kind), pair[0].number))
        first, _ = waiting[0]
        alike = [turn for request, turn in waiting if (request.kind, request.key) == (first.kind, first.key)]
        return alike if first.kind == "backward" else alike[: self.most_together]

    def compute(self, requests: Sequence[Request]) -> list[Any]:
        """Compute requests of one kind that are alike.

        Returns:
            An answer for each; an exception where the computation failed, to be raised in its run.
        """
        kind = requests[0].kind
        if kind == "backward":
            torch.autograd.backward([request.values["loss"] for request in requests])
            return [None] * len(requests)
        *_, dropout, grad = requests[0].key[:4]
        self.backbone.set_mode(dropout=dropout, recompute=grad)
        with torch.set_grad_enabled(grad):
            if not dropout:
                return list(getattr(self, f"_{kind}")(requests))
            # The masks of a run follow from its own seed and step, so each draws its own, in a forward of its own.
            answers: list[Any] = []
            for request in requests:
                torch.manual_seed(request.seed)
                answers += getattr(self, f"_{kind}")([request])
            return answers

    def _outputs(self, requests: Sequence[Request]) -> list[Outputs]:
        hidden = requests[0].key[-1]
        rows = merge_rows([request.values for request in requests], self.backbone.tokenization.pad_token_id)
        found = self.backbone.outputs(**rows, hidden=hidden)
        answers, begin = [], 0
        for request in requests:
            (B, S), L = request.values["input_ids"].shape, request.values["labels"].shape[1]
            part = slice(begin, begin + B)
            # A causal model's targets stand at the right end, an encoder-decoder's at the left: both begin at 0 here.
            answers.append(
                Outputs(
                    found.logits[part, :L],
                    tuple(states[part, :S] for states in found.input_states),
                    tuple(states[part, :L] for states in found.target_states),
                )
            )
            begin += B
        return answers

    def _example_losses(self, requests: Sequence[Request]) -> list[Tensor]:
        values = [request.values for request in requests]
        rows = merge_rows(values, self.backbone.tokenization.pad_token_id)
        losses = self.backbone.example_losses(**rows)
        return list(torch.split(losses, [len(each["input_ids"]) for each in values]))

    def _generate(self, requests: Sequence[Request]) -> list[list[str]]:
        values = [
            {key: value for key, value in request.values.items() if key != "settings"} for request in requests
        ]
        settings = requests[0].values["settings"]
        several = int(settings.get("num_return_sequences", 1))
        # Without a prompt, as for the oracle, the runs ask the same questions.
        rows = merge_rows(values, self.backbone.tokenization.pad_token_id)
        unique = None
        if rows.get("prompts") is None and rows.get("shifts") is None and not settings.get("do_sample"):
            unique = unique_rows(rows)
            rows = pick_rows(rows, unique[0])
        answers: list[str] = []
        for begin in range(0, len(rows["input_ids"]), self.max_rows):
            part = {
                key: None if value is None else value[begin : begin + self.max_rows]
                for key, value in rows.items()
            }
            answers += self.backbone.generate(**trim(part), **settings)
        groups = [answers[i : i + several] for i in range(0, len(answers), several)]
        if unique is not None:
            groups = [groups[position] for position in unique[1].tolist()]
        found, begin = [], 0
        for each in values:
            B = len(each["input_ids"])
            found.append([text for group in groups[begin : begin + B] for text in group])
            begin += B
        return found


def merge_rows(values: Sequence[dict[str, Any]], pad_token_id: int) -> dict[str, Any]:
    """Put batches below each other, padded on the right to the longest."""
    merged: dict[str, Any] = {}
    fill = {"input_ids": pad_token_id, "attention_mask": 0, "labels": -100}
    for key in values[0]:
        tensors = [each[key] for each in values]
        if tensors[0] is None:
            merged[key] = None
        elif key == "prompts":
            merged[key] = torch.cat(tensors)
        else:
            longest = max(tensor.shape[1] for tensor in tensors)
            merged[key] = torch.cat([_widen(tensor, longest, fill.get(key, 0)) for tensor in tensors])
    return merged


def _widen(tensor: Tensor, length: int, value: int) -> Tensor:
    missing = length - tensor.shape[1]
    if not missing:
        return tensor
    return torch.cat([tensor, tensor.new_full((len(tensor), missing, *tensor.shape[2:]), value)], dim=1)


def trim(rows: dict[str, Any]) -> dict[str, Any]:
    """Cut off the columns that are padding in every row."""
    length = int(rows["attention_mask"].sum(1).max())
    kept = ("input_ids", "attention_mask", "shifts")
    return {
        key: value[:, :length] if key in kept and value is not None else value for key, value in rows.items()
    }


def unique_rows(values: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """Find the inputs that differ, of rows without a prompt.

    Returns:
        Positions of the first of each, and for every row its place among them.
    """
    places: dict[tuple[int, ...], int] = {}
    kept: list[int] = []
    inverse = []
    for row, tokens in enumerate(map(tuple, values["input_ids"].tolist())):
        if tokens not in places:
            places[tokens] = len(kept)
            kept.append(row)
        inverse.append(places[tokens])
    device = values["input_ids"].device
    return torch.tensor(kept, device=device), torch.tensor(inverse, device=device)


def pick_rows(values: dict[str, Any], positions: Tensor) -> dict[str, Any]:
    """Some rows of a batch."""
    return {key: None if value is None else value.index_select(0, positions) for key, value in values.items()}
