"""Seeds that follow from others: each stream of random numbers has one of its own."""

import hashlib


def derive_seed(stream: str, *parts: int) -> int:
    """Derive the seed of a stream from the numbers that it belongs to, such as a run's seed and a step.

    Returns:
        A seed of 63 bits.
    """
    digest = hashlib.sha256("/".join([stream, *map(str, parts)]).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
