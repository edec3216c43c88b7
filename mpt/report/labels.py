"""The names that tables and figures show in place of keys, values and tasks: ``--label KEY=TEXT``."""

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import Any

from mpt.errors import UserError
from mpt.report.gather import Line, keys_of


class Labels:
    """Texts to show in place of names.

    Args:
        texts: ``NAME=TEXT`` each. NAME is a key, a value, a task, or ``key=value`` as a whole.

    Raises:
        UserError: One has no ``=``, or an empty side.
    """

    def __init__(self, texts: Sequence[str] = ()) -> None:
        self.texts: dict[str, str] = {}
        for text in texts:
            name, _, label = text.rpartition("=")
            if not name or not label:
                raise UserError(f"--label: is {text!r}; write NAME=TEXT, as in VOCABULARY='no source' or few_shot.k=k")
            self.texts[name] = label

    def check(self, lines: Sequence[Line], metric: str) -> None:
        """Refuse a label for something that no run has.

        Raises:
            UserError: As said.
        """
        keys = keys_of(lines)
        values = {(key, str(line[key])) for line in lines for key in keys if key in line}
        known = {metric, *keys, *(value for _, value in values), *(f"{key}={value}" for key, value in values)}
        for name in self.texts:
            if name not in known:
                close = get_close_matches(name, known, n=1)
                hint = f" (did you mean {close[0]!r}?)" if close else ""
                raise UserError(f"--label: the runs have no {name!r}{hint}; there is {', '.join(keys)}")

    def show(self, name: Any) -> str:
        """Return what to show for a key, a value or a task."""
        return self.texts.get(str(name), str(name))

    def show_value(self, key: str, value: Any) -> str:
        """Return what to show for a value in a column of its key."""
        return self.texts.get(f"{key}={value}") or self.show(value)

    def show_pair(self, key: str, value: Any) -> str:
        """Return what to show for a key with its value; of a value that has a text of its own, that text."""
        whole = f"{key}={value}"
        if whole in self.texts:
            return self.texts[whole]
        return self.texts.get(str(value)) or f"{self.show(key)}={value}"

    def show_group(self, pairs: Iterable[tuple[str, Any]]) -> str:
        """Return what to show for a group of runs: the values that are set, and before a number the end of its key."""
        return ", ".join(self._show_short(key, value) for key, value in pairs if value is not None and value != "None")

    def _show_short(self, key: str, value: Any) -> str:
        if key in self.texts or f"{key}={value}" in self.texts:
            return self.show_pair(key, value)
        number = isinstance(value, (int, float)) or str(value) in ("True", "False")
        return self.show_pair(key.rpartition(".")[2], value) if number else self.show(value)
