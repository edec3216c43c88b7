"""The error that is written for the user: what is wrong, where, and what would be right."""

from collections.abc import Iterable
from difflib import get_close_matches


class UserError(ValueError):
    """Something that a user can put right; the command line prints its message, and no traceback.

    Raised on purpose, and only so: any other ValueError is a defect, and shows where it comes from. The message says
    ``{where}: {what is wrong, with the value}; {what would be right}``.
    """


def unknown(where: str, value: str, options: Iterable[str], what: str = "unknown") -> str:
    """Say that ``value`` is none of ``options``, with the likeliest one."""
    options = [str(option) for option in options]
    close = get_close_matches(value, options, n=1)
    hint = f" (did you mean {close[0]!r}?)" if close else ""
    return f"{where}: {what} {value!r}; choose one of {', '.join(options)}{hint}"


class FailedJobError(Exception):
    """A job of a sweep that failed; its message has been printed.

    Args:
        message: Why.
        code: Exit code of a single run that fails so.
    """

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message, code)  # both, so that it can come from another process
        self.code = code
