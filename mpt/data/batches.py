"""Batches that mix tasks: tokenized examples, a training loader that resumes exactly, an evaluation loader.

Shape legend: B examples in a batch, S input tokens, L target tokens, T tasks.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mpt.data.mixture import Mixture
from mpt.data.token_rows import TokenizedExamples
from mpt.errors import UserError

Batch = dict[str, Any]
"""input_ids ``(B, S)``, attention_mask ``(B, S)``, labels ``(B, L)`` with -100 on pads, task_ids ``(B,)``,
example_indices ``(B,)`` (positions among the examples of each one's task). In training also input_tokens and
target_tokens ``(T,)``, the tokens of each task in the whole global step; in evaluation also generation, the arguments
for ``generate``."""


def distinct_examples(batch: Batch) -> tuple[Batch, Tensor] | None:
    """Keep each example of a training batch once: a few-shot batch repeats its k examples.

    By task and example, never by what the tensors hold: two tasks may have equal prompts, and each its own gradient.

    Returns:
        The batch without its repetitions, and how often each of its examples came, ``(B,)``; None where none did twice.
    """
    counts: dict[tuple[int, int], int] = {}
    first: list[int] = []
    for row, pair in enumerate(zip(batch["task_ids"].tolist(), batch["example_indices"].tolist(), strict=True)):
        if pair not in counts:
            first.append(row)
        counts[pair] = counts.get(pair, 0) + 1
    if len(first) == len(batch["task_ids"]):
        return None
    rows = torch.tensor(first, device=batch["input_ids"].device)
    part = ("input_ids", "attention_mask", "labels", "task_ids", "example_indices")
    kept = {key: value.index_select(0, rows) if key in part else value for key, value in batch.items()}
    return kept, torch.tensor(list(counts.values()), device=rows.device, dtype=torch.float32)


def collate(
    tokenized: Sequence[TokenizedExamples], picked: Sequence[tuple[int, int]], pad_token_id: int
) -> dict[str, Tensor]:
    """Pad the picked examples, pairs of task id and index, to the longest of them."""
    inputs = [tokenized[task].inputs[index] for task, index in picked]
    targets = [tokenized[task].targets[index] for task, index in picked]
    input_ids = pad(inputs, pad_token_id)
    lengths = torch.tensor([len(ids) for ids in inputs])
    return {
        "input_ids": input_ids,
        "attention_mask": (torch.arange(input_ids.shape[1]) < lengths[:, None]).long(),
        "labels": pad(targets, -100),
        "task_ids": torch.tensor([task for task, _ in picked]),
        "example_indices": torch.tensor([index for _, index in picked]),
    }


def pad(texts: list[list[int]], value: int) -> Tensor:
    """Fill texts up on the right to the longest of them, ``(B, S)``."""
    longest = max(map(len, texts))
    return torch.tensor([ids + [value] * (longest - len(ids)) for ids in texts])


class TrainLoader:
    """The training batches of one process; resumes after exactly the batch that came last.

    Every process draws the same global steps from the same seed, and takes its part of each: so the target
    tokens of a whole step are known everywhere without communication.

    Args:
        tokenized: The examples of each task.
        mixture: Draws the global steps.
        max_steps: Optimizer steps in all.
        accumulate: Micro-batches of a step.
        pad_token_id: Fills up inputs.
        rank: Number of this process.
        world_size: Number of processes.
        before_step: Called before each step is drawn, when the one before is done with; may raise to stop there.

    Raises:
        UserError: A step has fewer examples than processes times micro-batches.
    """

    def __init__(
        self,
        tokenized: Sequence[TokenizedExamples],
        mixture: Mixture,
        *,
        max_steps: int,
        accumulate: int,
        pad_token_id: int,
        rank: int = 0,
        world_size: int = 1,
        before_step: Callable[[], None] | None = None,
    ) -> None:
        self.tokenized, self.mixture, self.pad_token_id = tokenized, mixture, pad_token_id
        self.before_step = before_step
        self.max_steps, self.accumulate, self.rank, self.world_size = max_steps, accumulate, rank, world_size
        if mixture.batch_size < accumulate * world_size:
            raise UserError(
                f"trainer.batch_size: is {mixture.batch_size}, for {world_size} processes with {accumulate} "
                "micro-batches each; it is the size of a whole step, so give at least one example to each"
            )
        self._delivered = 0  # micro-batches
        self._before_step = mixture.state_dict()

    def __len__(self) -> int:
        return self.max_steps * self.accumulate

    def __iter__(self) -> Iterator[Batch]:
        done, within = divmod(self._delivered, self.accumulate)
        # A resumed loader stands within a step: that step is drawn again, from the state before it.
        self.mixture.load_state_dict(self._before_step)
        for _ in range(done, self.max_steps):
            if self.before_step is not None and within == 0:
                self.before_step()
            self._before_step = self.mixture.state_dict()
            step = self.mixture.next_batch()
            inputs, targets = torch.zeros(2, len(self.tokenized))
            for task, index in step:
                inputs[task] += self.tokenized[task].inputs.length(index)
                targets[task] += self.tokenized[task].targets.length(index)
            for micro in range(within, self.accumulate):
                part = step[micro * self.world_size + self.rank :: self.accumulate * self.world_size]
                self._delivered += 1
                if micro == self.accumulate - 1:
                    self._before_step = self.mixture.state_dict()
                tokens = {"input_tokens": inputs, "target_tokens": targets}
                yield {**collate(self.tokenized, part, self.pad_token_id), **tokens}
            within = 0

    def state_dict(self) -> dict[str, Any]:
        """Return the position of the loader."""
        return {"delivered": self._delivered, "before_step": self._before_step}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what :meth:`state_dict` returned."""
        self.mixture.load_state_dict(state["before_step"])
        self._delivered, self._before_step = state["delivered"], state["before_step"]


class EvalLoader:
    """All examples of all tasks once, sorted by length; those of a batch share their generation settings.

    Of several processes each gets its share of the batches, as many of each generation settings as the others: where
    they do not come out even, a single example comes once more, and who gathers the answers drops it. Lightning lets no
    process be without a batch, and a sharded backbone computes only where all do.

    Args:
        tokenized: The examples of each task.
        generation: Arguments for ``generate`` of each task.
        batch_size: Rows of a batch.
        pad_token_id: Fills up inputs.
        rank: Number of this process.
        world_size: Number of processes.
    """

    def __init__(
        self,
        tokenized: Sequence[TokenizedExamples],
        generation: Sequence[Mapping[str, Any]],
        *,
        batch_size: int,
        pad_token_id: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.tokenized, self.pad_token_id, self.world_size = tokenized, pad_token_id, world_size
        alike: dict[str, list[int]] = {}
        for task, settings in enumerate(generation):
            alike.setdefault(json.dumps(dict(settings), sort_keys=True, default=str), []).append(task)
        self._batches: list[tuple[Mapping[str, Any], list[tuple[int, int]]]] = []
        for tasks in alike.values():
            picked = [(task, index) for task in tasks for index in range(len(tokenized[task].inputs))]
            picked.sort(key=lambda pair: tokenized[pair[0]].inputs.length(pair[1]))
            size = min(batch_size, max(1, -(-len(picked) // world_size)))  # so that no process is idle
            for start in range(0, len(picked), size):
                self._batches.append((generation[tasks[0]], picked[start : start + size]))
            while len(self._batches) % world_size:
                self._batches.append((generation[tasks[0]], picked[:1]))
        self._batches = self._batches[rank::world_size]

    def questions(self) -> Iterator[tuple[dict[str, Any], list[tuple[int, int, list[int]]]]]:
        """What each batch asks: its generation settings; and of each row its task, its place and its tokens."""
        for generation, picked in self._batches:
            yield dict(generation), [(task, index, self.tokenized[task].inputs[index]) for task, index in picked]

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[Batch]:
        for generation, picked in self._batches:
            yield {**collate(self.tokenized, picked, self.pad_token_id), "generation": dict(generation)}
