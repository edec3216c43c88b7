"""The backbone of several runs: each sees one of its own, and what they ask at the same time is computed at once.

Shape legend: B examples in a batch, S input tokens, L target tokens.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from mpt.backbone import Backbone, FrozenModel, Outputs
from mpt.inputs import Inputs, pad_to_longest
from mpt.sweep.turns import Request, Turn


class FusedBackbone(Backbone):
    """The backbone of one run of a group: it computes nothing itself, and waits for its turn.

    Args:
        shared: The backbone of the group.
        turn: The run's.
        dropout: Whether the run's training mode reaches the model.
    """

    def __init__(self, shared: FrozenModel, turn: Turn, dropout: bool) -> None:
        super().__init__(shared.model, shared.tokenization, shared.facts, dropout)
        self.turn = turn
        self._rows = 1

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "FusedBackbone":
        """Stay where the group is: Lightning moves a run's module when the run ends."""
        return self

    def train(self, mode: bool = True) -> "FusedBackbone":
        """Set this run's mode; that of the model is set for each computation."""
        self.training = mode
        return self

    def outputs(self, inputs: Inputs, labels: Tensor, hidden: bool = False) -> Outputs:
        """Ask for logits, and hidden states."""
        found: Outputs = self._ask("outputs", inputs, {"labels": labels}, hidden)
        return found

    def example_losses(self, inputs: Inputs, labels: Tensor) -> Tensor:
        """Ask for the losses of examples, ``(B,)``."""
        found: Tensor = self._ask("example_losses", inputs, {"labels": labels})
        return found

    def generate(
        self,
        inputs: Inputs,
        choices: Sequence[str] | None = None,
        seed: int = 0,
        answers: str = "generation",
        **generation: Any,
    ) -> list[str]:
        """Ask for answers."""
        settings = generation | {"answers": answers} | ({} if choices is None else {"choices": list(choices)})
        if settings.get("do_sample"):  # of what is not sampled it says nothing
            settings["seed"] = seed
        key = json.dumps(settings, sort_keys=True, default=str)
        found: list[str] = self._ask("generate", inputs, {"settings": settings}, key)
        return found

    def backward(self, loss: Tensor) -> None:
        """Ask for the gradients of a loss."""
        self.turn.ask(Request("backward", (), {"loss": loss}, rows=self._rows))

    def _ask(self, kind: str, inputs: Inputs, values: dict[str, Any], *key: Any) -> Any:
        alike = (
            None if inputs.prompts is None else tuple(inputs.prompts.shape[1:]),
            inputs.shifts is None,
            self.drops_out,
            torch.is_grad_enabled(),
            mixed_precision(self.device.type),
            *key,
        )
        self._rows = len(inputs)
        # The seed is what the run has seeded its masks with.
        seed = torch.initial_seed()
        return self.turn.ask(Request(kind, alike, values | {"inputs": inputs}, seed=seed, rows=self._rows))


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

    def __init__(self, backbone: FrozenModel, most_together: int, max_rows: int = 1024) -> None:
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
        *_, dropout, grad, mixed = requests[0].key[:5]
        self.backbone.set_mode(dropout=dropout, recompute=grad)
        device = self.backbone.device.type
        with torch.set_grad_enabled(grad), torch.autocast(device, mixed, enabled=mixed is not None):
            if not dropout:
                return list(getattr(self, f"_{kind}")(requests))
            # The masks of a run follow from its own seed and step, so each draws its own, in a forward of its own.
            answers: list[Any] = []
            for request in requests:
                torch.manual_seed(request.seed)
                answers += getattr(self, f"_{kind}")([request])
            return answers

    def _join(self, requests: Sequence[Request]) -> Inputs:
        """Stack the inputs of the runs."""
        inputs = [request.values["inputs"] for request in requests]
        return Inputs.join(inputs, self.backbone.tokenization.pad_token_id)

    def _outputs(self, requests: Sequence[Request]) -> list[Outputs]:
        labels = pad_to_longest([request.values["labels"] for request in requests], -100)
        found = self.backbone.outputs(self._join(requests), labels, hidden=requests[0].key[-1])
        answers, begin = [], 0
        for request in requests:
            (B, S), L = request.values["inputs"].input_ids.shape, request.values["labels"].shape[1]
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
        labels = pad_to_longest([request.values["labels"] for request in requests], -100)
        losses = self.backbone.example_losses(self._join(requests), labels)
        return list(torch.split(losses, [request.rows for request in requests]))

    def _generate(self, requests: Sequence[Request]) -> list[list[str]]:
        settings = requests[0].values["settings"]
        several = int(settings.get("num_return_sequences", 1))
        inputs = self._join(requests)
        places = list(range(len(inputs)))
        # Runs ask the same questions of the oracle, and of prompts that start alike.
        if not settings.get("do_sample"):
            kept, places = unique_rows(inputs)
            inputs = inputs.pick(torch.tensor(kept, device=inputs.input_ids.device))
        answers: list[str] = []
        for rows in torch.split(torch.arange(len(inputs), device=inputs.input_ids.device), self.max_rows):
            answers += self.backbone.generate(inputs.pick(rows).trim(), **settings)
        groups = [answers[place * several : (place + 1) * several] for place in places]
        found, begin = [], 0
        for request in requests:
            found.append([text for group in groups[begin : begin + request.rows] for text in group])
            begin += request.rows
        return found


def mixed_precision(device: str) -> torch.dtype | None:
    """Return the type that this thread computes in where it mixes types, as Lightning lets a step do; else None."""
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None


def unique_rows(inputs: Inputs) -> tuple[list[int], list[int]]:
    """Find the inputs that differ, in their tokens or in a number of what a prompt adds to them.

    Returns:
        Positions of the first of each, and for every row its place among them.
    """
    places: dict[tuple[Any, ...], int] = {}
    kept: list[int] = []
    inverse: list[int] = []
    added = [_digests(each) for each in (inputs.prompts, inputs.shifts)]
    for row, tokens in enumerate(map(tuple, inputs.input_ids.tolist())):
        key = (tokens, *(digests[row] if digests else None for digests in added))
        if key not in places:
            places[key] = len(kept)
            kept.append(row)
        inverse.append(places[key])
    return kept, inverse


def _digests(tensor: Tensor | None) -> list[bytes]:
    """A hash of each row's numbers; none of nothing."""
    if tensor is None:
        return []
    rows = tensor.detach().float().cpu().contiguous().numpy()
    return [hashlib.blake2b(row.tobytes(), digest_size=16).digest() for row in rows]
