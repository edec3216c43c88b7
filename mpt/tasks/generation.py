"""Decoding settings of a task: the keys of ``generation``, their types and their ranges.

A task's file is data, so it cannot hand whatever it likes to transformers, whose ``generate`` takes keys that run code.
"""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from mpt.errors import unknown


class Key(NamedTuple):
    """The values that a key takes.

    Attributes:
        kind: int, float or bool.
        low: The least number.
        high: The greatest; None: any.
        above: Whether ``low`` itself is too little.
    """

    kind: type
    low: float = 0
    high: float | None = None
    above: bool = False


KEYS: Mapping[str, Key] = {
    "num_beams": Key(int, 1),
    "do_sample": Key(bool),
    "temperature": Key(float, 0, above=True),
    "top_k": Key(int, 0),
    "top_p": Key(float, 0, 1, above=True),
    "min_p": Key(float, 0, 1),
    "min_new_tokens": Key(int, 0),
    "length_penalty": Key(float, -100, 100),
    "early_stopping": Key(bool),
    "repetition_penalty": Key(float, 0, above=True),
    "no_repeat_ngram_size": Key(int, 0),
}
SAMPLING = ("temperature", "top_k", "top_p", "min_p")
"""Keys that change nothing but what is drawn."""


def check_generation(settings: Mapping[str, Any]) -> Iterator[str]:
    """Find what is wrong with the ``generation`` of a task."""
    for name, value in settings.items():
        if name not in KEYS:
            if name in ("max_new_tokens", "max_length"):
                yield f".generation: no key {name!r}; the longest answer is max_target_tokens"
            else:
                yield unknown(".generation", str(name), KEYS, "no key")
            continue
        key = KEYS[name]
        fits = isinstance(value, bool) if key.kind is bool else _is_number(value, key.kind)
        if not fits:
            words = {int: "a whole number", float: "a number", bool: "true or false"}[key.kind]
            yield f".generation.{name}: is {value!r}; it must be {words}"
        elif key.kind is not bool and (
            value < key.low or (key.above and value == key.low) or (key.high is not None and value > key.high)
        ):
            most = "" if key.high is None else f" and at most {key.high:g}"
            yield f".generation.{name}: is {value}; it must be {'above' if key.above else 'at least'} {key.low:g}{most}"
    if not settings.get("do_sample") and (unused := [name for name in SAMPLING if name in settings]):
        yield f".generation.{unused[0]}: changes only what is drawn; set do_sample: true with it, or leave it out"


def _is_number(value: Any, kind: type) -> bool:
    return isinstance(value, (int, float) if kind is float else int) and not isinstance(value, bool)
