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
        rates = {key: value for key, value in shared.model.config.to_dict().items() if "drop" in key}
        self._drops = any(isinstance(rate, float) and rate > 0 for rate in rates.values())

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
        found: list[str] = self._ask(
            "generate", values | {"settings": settings}, json.dumps(settings, sort_keys=True, default=str)
        )
        return found

    def backward(self, loss: Tensor) -> None:
        """Ask for the gradients of a loss."""
        self.turn[0].ask(Request("backward", (), {"loss": loss}))

    def _generation_inputs(
        self, input_ids: Tensor, attention_mask: Tensor, prompts: Tensor | None, shifts: Tensor | None
    ) -> dict[str, Any]:
        return self.shared[0]._generation_inputs(input_ids, attention_mask, prompts, shifts)

    def _ask(self, kind: str, values: dict[str, Any], *key: Any) -> Any:
        prompts, shifts = values["prompts"], values["shifts"]
        alike = (
            None if prompts is None else tuple(prompts.shape[1:]),
            shifts is None,
            self.training and self.dropout and self._drops,
            torch.is_grad_enabled(),
            *key,
        )
        return self.turn[0].ask(Request(kind, alike, values))


class Computation:
    """Computes what the runs of a group ask for, as few and as large batches as fit.

    Args:
        backbone: The shared one.
        seed: Of the dropout masks, which the group draws by itself.
        max_rows: Rows of one forward.

    Attributes:
        most_together: Runs whose training steps are computed at once; halved where the memory did not suffice.
    """

    ORDER = ("backward", "generate", "outputs", "example_losses")
    """Gradients first, which frees memory; then what is validated, so that its runs join the others' next step."""

    def __init__(self, backbone: Backbone, seed: int, most_together: int, max_rows: int = 1024) -> None:
        self.backbone, self.most_together, self.max_rows = backbone, most_together, max_rows
        self._random = torch.Generator().manual_seed(seed).get_state()

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
        outer = torch.get_rng_state()
        torch.set_rng_state(self._random)
        try:
            with torch.set_grad_enabled(grad):
                return list(getattr(self, f"_{kind}")(requests))
        finally:
            self._random = torch.get_rng_state()
            torch.set_rng_state(outer)

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
        # With dropout two equal rows have two losses.
        once = [unique_rows(each) if not requests[0].key[2] else None for each in values]
        kept = [
            each if found is None else pick_rows(each, found[0])
            for each, found in zip(values, once, strict=True)
        ]
        rows = merge_rows(kept, self.backbone.tokenization.pad_token_id)
        losses = self.backbone.example_losses(**rows)
        parts = torch.split(losses, [len(each["input_ids"]) for each in kept])
        return [
            part if found is None else part.index_select(0, found[1])
            for part, found in zip(parts, once, strict=True)
        ]

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
    """Find the rows that differ in what the model reads: few-shot batches repeat their k examples.

    Returns:
        Positions of the first of each, and for every row its place among them.
    """
    places: dict[tuple[Any, ...], list[int]] = {}
    kept: list[int] = []
    inverse = []
    tokens = [values[key].tolist() for key in ("input_ids", "labels") if key in values]
    for row in range(len(values["input_ids"])):
        key = tuple(tuple(each[row]) for each in tokens)
        same = next((place for place in places.get(key, []) if _same_prompt(values, kept[place], row)), None)
        if same is None:
            same = len(kept)
            places.setdefault(key, []).append(same)
            kept.append(row)
        inverse.append(same)
    device = values["input_ids"].device
    return torch.tensor(kept, device=device), torch.tensor(inverse, device=device)


def _same_prompt(values: dict[str, Any], first: int, second: int) -> bool:
    return all(
        values[key] is None or torch.equal(values[key][first].detach(), values[key][second].detach())
        for key in ("prompts", "shifts")
        if key in values
    )


def pick_rows(values: dict[str, Any], positions: Tensor) -> dict[str, Any]:
    """Some rows of a batch."""
    return {key: None if value is None else value.index_select(0, positions) for key, value in values.items()}
