"""A template: a text with the names of columns in it."""

import re
from collections.abc import Mapping
from functools import lru_cache

from mpt.errors import UserError


class Template:
    """A text with ``{column}`` in it; ``{{`` and ``}}`` are braces.

    A template is data: it reaches into no attribute, index or format.

    Attributes:
        columns: The columns that it names, in order.

    Raises:
        UserError: A brace without its partner, or more than a column's name between braces.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self._parts: list[tuple[str, str | None]] = []
        position = 0
        while position < len(text):
            found = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]").search(text, position)
            if found is None:
                self._parts.append((text[position:], None))
                break
            literal, column = text[position : found.start()], found.group(1)
            if found.group() in ("{{", "}}"):
                self._parts.append((literal + found.group()[0], None))
            elif column is None:
                raise UserError(f"{text!r}: a lone {found.group()!r}; write {found.group() * 2!r} for the character")
            elif not re.fullmatch(r"[A-Za-z_]\w*", column):
                raise UserError(f"{text!r}: '{{{column}}}' is not the name of a column; write {{column}} alone")
            else:
                self._parts.append((literal, column))
            position = found.end()
        self.columns = [column for _, column in self._parts if column is not None]

    def fill(self, values: Mapping[str, str]) -> str:
        """Put the columns' texts in their places."""
        return "".join(literal + (values[column] if column is not None else "") for literal, column in self._parts)


@lru_cache(maxsize=1024)
def read_template(text: str) -> Template:
    """Read a template once, however many rows it is filled for.

    Raises:
        UserError: As :class:`Template`.
    """
    return Template(text)
