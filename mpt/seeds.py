"""The seeds of a run: one for each stream of random numbers, so that one can vary while the others stay."""

import hashlib
from typing import NamedTuple

from mpt.config import RunConfig


class Streams(NamedTuple):
    """The seeds of a run; that of its k-shot draw is ``few_shot.seed``."""

    first_values: int
    """For P, the factors, and whatever else a method trains."""
    order: int
    """For the mixture: which example comes next."""
    dropout: int
    """For the dropout masks, which follow from it and the step."""


def seeds_of(config: RunConfig) -> Streams:
    """Return the seed of each stream: its own where ``seeds`` has one, else ``seed``."""
    own = (getattr(config.seeds, stream) for stream in Streams._fields)
    return Streams(*(config.seed if seed is None else seed for seed in own))


def derive_seed(stream: str, *parts: int) -> int:
    """Derive the seed of a stream from the numbers that it belongs to, such as a run's seed and a step.

    Returns:
        A seed of 63 bits.
    """
    digest = hashlib.sha256("/".join([stream, *map(str, parts)]).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
