"""Draw which row comes next: the mixture of tasks in every step, with a state that resumes exactly.

Shape legend: T tasks.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mpt.config import MixtureConfig
from mpt.errors import UserError


def sampling_rates(sizes: Sequence[int], config: MixtureConfig) -> Tensor:
    """The share of rows that each task has in the long run.

    Args:
        sizes: Number of training rows of each task.
        config: proportional: to ``min(size, cap)`` (Raffel et al. 2020, section 3.5.2); temperature: to its root
            ``1 / temperature``; log_size: to ``log(1 + size)``; equal, stochastic and each, which treat tasks alike:
            one over T.

    Returns:
        float64, ``(T,)``, sums to 1.

    Raises:
        UserError: A task has no rows, or the sampling is unknown.
    """
    if not sizes or min(sizes) < 1:
        raise UserError(f"mixture: sizes are {list(sizes)}; every task needs at least one training row")
    size = torch.tensor(sizes, dtype=torch.float64)
    capped = size.clamp(max=config.cap)
    weights = {
        "proportional": capped,
        "equal": torch.ones_like(size),
        "temperature": capped ** (1 / config.temperature),
        "log_size": torch.log1p(size),
        "stochastic": torch.ones_like(size),
        "each": torch.ones_like(size),
    }
    if config.sampling not in weights:
        raise UserError(f"mixture.sampling: unknown value {config.sampling!r}; choose one of {', '.join(weights)}")
    return weights[config.sampling] / weights[config.sampling].sum()


class Mixture:
    """Draws the rows of one global step after the other.

    Within a task rows come without replacement and are shuffled anew when all have come; tasks are drawn with
    :func:`sampling_rates`. Under ``stochastic`` sampling (Wang et al. 2023, section 3.3) each step draws how many
    tasks it has, from 2 to T, then which ones, and gives them equally many rows, up to one. Under ``each`` a step holds
    for every task the ``batch_size`` rows that a run of only that task would draw.

    Args:
        sizes: Number of training rows of each task.
        batch_size: Rows in a step, over all processes and micro-batches; under ``each`` rows of every task.
        config: How tasks are sampled.
        seed: Seed of all draws here; the global random state is neither read nor moved.

    Raises:
        UserError: As :func:`sampling_rates`, or the batch has no row, or stochastic sampling has a single task.
    """

    def __init__(self, sizes: Sequence[int], batch_size: int, config: MixtureConfig, seed: int) -> None:
        self.rates = sampling_rates(sizes, config)
        self.sizes, self.batch_size, self.config = list(sizes), batch_size, config
        if batch_size < 1:
            raise UserError(f"trainer.batch_size: is {batch_size}; it must be at least 1")
        if config.sampling == "stochastic" and len(self.sizes) < 2:
            raise UserError("mixture.sampling: stochastic draws from two tasks or more; use mixture=equal")
        self._separate = []
        if config.sampling == "each":
            self._separate = [Mixture([size], batch_size, MixtureConfig("equal"), seed) for size in sizes]
        self._random = torch.Generator().manual_seed(seed)
        self._order = [self._shuffled(size) for size in self.sizes]
        self._position = [0] * len(self.sizes)

    def next_batch(self) -> list[tuple[int, int]]:
        """Draw one global step: ``batch_size`` pairs of task id and row, under ``each`` of every task."""
        if self._separate:
            return [(task, row) for task, mixture in enumerate(self._separate) for _, row in mixture.next_batch()]
        if self.config.sampling == "stochastic":
            tasks = self._stochastic_tasks()
        else:
            tasks = torch.multinomial(self.rates, self.batch_size, replacement=True, generator=self._random)
        return [(task, self._next_row(task)) for task in tasks.tolist()]

    def state_dict(self) -> dict[str, Any]:
        """Everything that decides which rows come next."""
        return {
            "random": self._random.get_state().clone(),
            "order": [order.clone() for order in self._order],
            "position": list(self._position),
            "separate": [mixture.state_dict() for mixture in self._separate],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on exactly where :meth:`state_dict` stood.

        Raises:
            UserError: The state belongs to tasks of other sizes.
        """
        sizes = [len(order) for order in state["order"]]
        if sizes != self.sizes:
            raise UserError(
                f"mixture: the state is of tasks with {sizes} training rows, these have {self.sizes}; "
                "resume with the same data, or use resume=never"
            )
        self._random.set_state(state["random"].cpu())
        self._order = [order.cpu().clone() for order in state["order"]]
        self._position = list(state["position"])
        for mixture, own_state in zip(self._separate, state["separate"], strict=True):
            mixture.load_state_dict(own_state)

    def _stochastic_tasks(self) -> Tensor:
        T = len(self.sizes)
        # A step cannot hold more tasks than rows.
        most = max(min(T, self.batch_size), 1)
        least = min(2, most)
        number = int(torch.randint(least, most + 1, (1,), generator=self._random))
        tasks = torch.randperm(T, generator=self._random)[:number]
        return tasks.repeat(-(-self.batch_size // number))[: self.batch_size]

    def _next_row(self, task: int) -> int:
        if self._position[task] == self.sizes[task]:
            self._order[task] = self._shuffled(self.sizes[task])
            self._position[task] = 0
        row = int(self._order[task][self._position[task]])
        self._position[task] += 1
        return row

    def _shuffled(self, size: int) -> Tensor:
        return torch.randperm(size, generator=self._random)
