"""Values of the data as text: numbers with their own digits, nothing invented for what is missing."""

import math
import struct
from collections.abc import Mapping
from typing import Any

from mpt.errors import UserError
from mpt.tasks.files import Digits


def is_missing(value: Any) -> bool:
    """Tell whether a value is none: null, NaN, or an empty text."""
    return value is None or value == "" or (isinstance(value, float) and math.isnan(value))


def to_text(value: Any, join: str, where: str) -> str:
    """Write a value as text.

    Args:
        value: A text, a number, a truth value, a date, or a list of them.
        join: Stands between the items of a list.
        where: Row and column, for errors.

    Raises:
        UserError: The value, or an item of it, is missing, a mapping, or bytes.
    """
    if isinstance(value, (list, tuple)):
        return join.join(to_text(item, join, where) for item in value)
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Digits):
        # A float32 that went through a float64 has digits that nobody wrote: 3.799999952316284.
        return write_number(value) if len(value.text) > 12 and _as_single(value) == value else value.text
    if value is None or (isinstance(value, float) and math.isnan(value)):
        raise UserError(f"{where}: has {'null' if value is None else 'NaN'} in it, a missing value; leave it out")
    if isinstance(value, float):
        return write_number(value)
    if isinstance(value, Mapping):
        raise UserError(
            f"{where}: holds a mapping with {', '.join(map(str, value)) or 'nothing'}; reach into it by rows.rename, "
            "as in 'answers.text: answers'"
        )
    if isinstance(value, (bytes, bytearray, memoryview)):
        raise UserError(f"{where}: holds bytes, which are no text; decode them in the file")
    return str(value)


def write_number(value: float) -> str:
    """Write a number of a binary format in the fewest digits that give it back, a float32 as one."""
    import numpy as np  # a fifth of what --help takes

    is_single = _as_single(value) == value
    if value == 0 or 1e-6 <= abs(value) < 1e16:
        return np.format_float_positional(np.float32(value) if is_single else np.float64(value), trim="0")
    return str(np.float32(value)) if is_single else str(float(value))


def _as_single(value: float) -> float:
    """Round to a float32; infinite where it has none."""
    try:
        return float(struct.unpack("f", struct.pack("f", value))[0])
    except OverflowError:
        return math.inf


def round_to(value: Any, step: float, where: str) -> str:
    """Round a number to the nearest multiple of a step, with the decimals of the step.

    Raises:
        UserError: The value is no number.
    """
    try:
        number = float(value)
        multiple = round(number / step) * step
    except (TypeError, ValueError, OverflowError) as error:
        raise UserError(f"{where}: is {value!r}, and rows.round needs a number") from error
    decimals = len(f"{step:f}".rstrip("0").partition(".")[2])
    return f"{multiple:.{max(1, decimals)}f}"
