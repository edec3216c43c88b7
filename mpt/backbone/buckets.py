"""Batches cut by length, where that saves more padding than a further forward costs."""

from torch import Tensor

PER_FORWARD = 1000
"""Tokens that a further forward has to save."""


def length_buckets(inputs: Tensor, targets: Tensor, besides: int) -> list[list[int]]:
    """Cut a batch into parts of similar length: 1, 2, 4 or 8 of them, whichever costs least.

    Args:
        inputs: Tokens of each input, ``(B,)``.
        targets: Tokens of each target, ``(B,)``.
        besides: Virtual tokens of each.

    Returns:
        Positions of the rows of each part; one part, in order, where cutting does not pay.
    """
    lengths: list[tuple[int, int]] = list(zip(inputs.tolist(), targets.tolist(), strict=True))
    order = sorted(range(len(lengths)), key=lambda row: (sum(lengths[row]), lengths[row]))

    def cost(part: list[int]) -> int:
        longest = max(lengths[row][0] for row in part) + max(lengths[row][1] for row in part)
        return len(part) * (longest + besides) + PER_FORWARD

    whole = list(range(len(lengths)))
    ways = [[whole]]
    for count in (2, 4, 8):
        size = -(-len(order) // count)
        ways.append([order[begin : begin + size] for begin in range(0, len(order), size)])
    return min(ways, key=lambda parts: sum(map(cost, parts)))
