"""Sampling rates by hand, and draws that resume exactly."""

from collections import Counter
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mpt.config import SAMPLINGS, MixtureConfig
from mpt.data.mixture import Mixture, sampling_rates

SIZES = st.lists(st.integers(1, 40), min_size=2, max_size=6)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (MixtureConfig("proportional"), [100 / 1000, 900 / 1000]),
        (MixtureConfig("proportional", cap=300), [100 / 400, 300 / 400]),
        (MixtureConfig("equal"), [0.5, 0.5]),
        (MixtureConfig("temperature", temperature=2.0), [10 / 40, 30 / 40]),
        (MixtureConfig("temperature", cap=400, temperature=2.0), [10 / 30, 20 / 30]),
        (MixtureConfig("log_size"), [4.615121 / (4.615121 + 6.803505), 6.803505 / (4.615121 + 6.803505)]),
        (MixtureConfig("stochastic"), [0.5, 0.5]),
    ],
)
def test_rates_by_hand(config: MixtureConfig, expected: list[float]) -> None:
    assert sampling_rates([100, 900], config).tolist() == pytest.approx(expected, rel=1e-5)


@given(SIZES, st.sampled_from(SAMPLINGS))
def test_rates_are_a_distribution_and_larger_tasks_never_come_less(sizes: list[int], sampling: str) -> None:
    rates = sampling_rates(sizes, MixtureConfig(sampling)).tolist()
    assert sum(rates) == pytest.approx(1.0)
    by_size = [rate for _, rate in sorted(zip(sizes, rates, strict=True))]
    assert all(after >= before - 1e-12 for before, after in pairwise(by_size))


def test_tasks_come_at_their_rates() -> None:
    mixture = Mixture([100, 900], 50, MixtureConfig("proportional"), seed=0)
    counts = Counter(task for _ in range(200) for task, _ in mixture.next_batch())
    assert counts[0] / 10_000 == pytest.approx(0.1, abs=0.015)


@given(SIZES, st.sampled_from(SAMPLINGS), st.integers(1, 9), st.integers(0, 3))
def test_rows_come_without_replacement_until_all_have_come(
    sizes: list[int], sampling: str, batch_size: int, seed: int
) -> None:
    mixture = Mixture(sizes, batch_size, MixtureConfig(sampling), seed)
    seen: dict[int, list[int]] = {task: [] for task in range(len(sizes))}
    for _ in range(30):
        batch = mixture.next_batch()
        assert len(batch) == batch_size * (len(sizes) if sampling == "each" else 1)
        for task, row in batch:
            seen[task].append(row)
    for task, size in enumerate(sizes):
        for start in range(0, len(seen[task]), size):
            epoch = seen[task][start : start + size]
            assert len(set(epoch)) == len(epoch)
            assert set(epoch) <= set(range(size))


def test_stochastic_steps_have_two_to_all_tasks_in_equal_parts() -> None:
    mixture = Mixture([50, 5, 500, 9], 12, MixtureConfig("stochastic"), seed=0)
    numbers = set()
    for _ in range(100):
        counts = Counter(task for task, _ in mixture.next_batch())
        numbers.add(len(counts))
        assert max(counts.values()) - min(counts.values()) <= 1
    assert numbers == {2, 3, 4}


@given(SIZES, st.integers(1, 9), st.integers(0, 3))
def test_each_task_gets_the_rows_that_it_would_get_alone(sizes: list[int], batch_size: int, seed: int) -> None:
    together = Mixture(sizes, batch_size, MixtureConfig("each"), seed)
    alone = [Mixture([size], batch_size, MixtureConfig("proportional"), seed) for size in sizes]
    for _ in range(12):
        batch = together.next_batch()
        for task, mixture in enumerate(alone):
            assert [row for of, row in batch if of == task] == [row for _, row in mixture.next_batch()]


@given(SIZES, st.sampled_from(SAMPLINGS), st.integers(0, 20))
def test_state_goes_on_exactly_and_global_random_state_stays(sizes: list[int], sampling: str, steps: int) -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    mixture = Mixture(sizes, 5, MixtureConfig(sampling), seed=1)
    for _ in range(steps):
        mixture.next_batch()
    state = mixture.state_dict()
    ahead = [mixture.next_batch() for _ in range(10)]
    resumed = Mixture(sizes, 5, MixtureConfig(sampling), seed=9)
    resumed.load_state_dict(state)
    assert [resumed.next_batch() for _ in range(10)] == ahead
    assert torch.equal(before, torch.get_rng_state())


def test_bad_mixtures_are_refused() -> None:
    with pytest.raises(ValueError, match=r"sizes are \[3, 0\]"):
        sampling_rates([3, 0], MixtureConfig())
    with pytest.raises(ValueError, match="unknown value 'fair'; choose one of proportional"):
        sampling_rates([3], MixtureConfig("fair"))
    with pytest.raises(ValueError, match="stochastic draws from two tasks"):
        Mixture([3], 2, MixtureConfig("stochastic"), 0)
    with pytest.raises(ValueError, match=r"batch_size: is 0"):
        Mixture([3], 0, MixtureConfig(), 0)
    with pytest.raises(ValueError, match=r"tasks with \[3\] training rows, these have \[4\]"):
        Mixture([4], 2, MixtureConfig(), 0).load_state_dict(Mixture([3], 2, MixtureConfig(), 0).state_dict())
