"""The components of variance in ``experiments/causes``."""

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "experiments" / "causes"))
import components

AXES = [(0,), (1,), (2,), (0, 1), (0, 2), (1, 2), (0, 1, 2)]


def test_one_cause_alone_carries_its_variance_and_no_other():
    examples = np.array([0.1, 0.4, 0.9, 0.2])
    found = components.components(np.broadcast_to(examples[:, None, None], (4, 3, 3)).copy())
    assert found[0,] == pytest.approx(examples.var(ddof=1))
    assert [found[axes] for axes in AXES[1:]] == pytest.approx([0.0] * 6, abs=1e-12)


def test_components_are_found_on_average():
    rng, spread = np.random.default_rng(0), dict(zip(AXES, (0.5, 0.3, 0, 0, 0.8, 0, 0.2), strict=True))
    sums: dict[tuple[int, ...], list[float]] = {}
    for _ in range(600):
        scores = np.zeros((4, 3, 3))
        for axes, sd in spread.items():
            scores += rng.normal(0, sd, [size if axis in axes else 1 for axis, size in enumerate(scores.shape)])
        for axes, value in components.components(scores).items():
            sums.setdefault(axes, []).append(value)
    for axes, sd in spread.items():
        error = np.std(sums[axes]) / len(sums[axes]) ** 0.5
        assert abs(np.mean(sums[axes]) - sd**2) < 4 * error + 1e-9
