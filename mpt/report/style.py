"""Colors and marks of charts and figures: distinct for color-blind readers, on white and on black paper."""

from typing import NamedTuple

PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c6bb1", "#7f7f7f")
"""Okabe and Ito's (2008), but for their black and yellow, which one of the two papers swallows."""


class Marker(NamedTuple):
    """One shape, in the words of those who draw it."""

    vega: str
    character: str


MARKERS = (
    Marker("circle", "●"),
    Marker("square", "■"),
    Marker("triangle-up", "▲"),
    Marker("diamond", "◆"),
    Marker("triangle-down", "▼"),
    Marker("cross", "✚"),
    Marker("triangle-right", "▶"),
)
"""Seven, beside eight colors: together they repeat after 56."""
