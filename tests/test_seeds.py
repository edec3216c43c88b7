"""Each stream of random numbers has a seed of its own: one varies, the others stay."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from mpt.config import RunConfig, SeedsConfig
from mpt.run.identity import run_name
from mpt.seeds import derive_seed, seeds_of
from mpt.training.loading import load
from mpt.training.train import build_module, train

MakeConfig = Callable[..., RunConfig]


def start(config: RunConfig) -> dict[str, torch.Tensor]:
    """The first values of a run."""
    return build_module(config, load(config))[0].adapter.snapshot()


def order(config: RunConfig) -> list[list[int]]:
    """Which examples a run trains on, step by step."""
    return [batch["example_indices"].tolist() for batch in load(config).data.train_dataloader()]


def masks(config: RunConfig) -> int:
    """The seed of a run's dropout in its first step."""
    module = build_module(config, load(config))[0]
    return derive_seed("dropout", module.dropout_seed, 0, 0, 0)


STREAMS = {"first_values": start, "order": order, "dropout": masks}


@pytest.mark.parametrize("varied", STREAMS)
def test_one_stream_varies_and_the_others_stay(varied: str, make_config: MakeConfig) -> None:
    first, second = make_config(seed=3), make_config(seed=3, **{f"seeds__{varied}": 4})
    for stream, drawn in STREAMS.items():
        one, other = drawn(first), drawn(second)
        same = all(torch.equal(one[name], other[name]) for name in one) if isinstance(one, dict) else one == other
        assert same == (stream != varied), stream


@pytest.mark.parametrize("stream", STREAMS)
def test_a_stream_that_is_not_set_follows_seed(stream: str, make_config: MakeConfig) -> None:
    follows, spelled_out = make_config(seed=5), make_config(seed=0, **{f"seeds__{stream}": 5})
    assert getattr(seeds_of(follows), stream) == getattr(seeds_of(spelled_out), stream) == 5


def test_seeds_that_say_what_seed_says_are_the_same_run(make_config: MakeConfig, tmp_path: Path) -> None:
    plain = make_config(seed=3)
    spelled_out = make_config(seed=3, seeds__first_values=3, seeds__order=3, seeds__dropout=3)
    assert run_name(dataclasses.asdict(plain)) == run_name(dataclasses.asdict(spelled_out))
    other = dataclasses.replace(plain, seeds=SeedsConfig(order=4))
    assert run_name(dataclasses.asdict(plain)) != run_name(dataclasses.asdict(other))
    train(plain, tmp_path / "plain")
    train(spelled_out, tmp_path / "spelled_out")
    saved = Path("prompt") / "adapter_model.safetensors"
    first, second = load_file(tmp_path / "plain" / saved), load_file(tmp_path / "spelled_out" / saved)
    assert all(torch.equal(first[name], second[name]) for name in first)
