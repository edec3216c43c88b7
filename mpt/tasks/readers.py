"""Sources of rows of the user's own, by the names that ``tasks.NAME.rows.reader`` has for them."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from mpt.errors import UserError
from mpt.registry import Defined, Registry
from mpt.tasks.files import Row

Read = Callable[..., Iterable[Mapping[str, Any]]]
READERS: Registry[Read] = Registry("reader", "mpt.rows")
"""What ``rows.reader`` takes: each yields the rows of a split, column to value."""


def reader(name: str) -> Callable[[Defined], Defined]:
    """Enter a function ``read(split, **options)`` that yields the rows of a split, each a mapping of its columns.

    ``options`` are those of ``rows.options``. The same call has to give the same rows in the same order.

    Raises:
        UserError: The name is another reader's.
    """
    return READERS.entering(name)


def read_own(name: str, split: str, options: Mapping[str, Any], where: str) -> Iterator[Row]:
    """Read a split through a reader.

    Args:
        name: The reader.
        split: What it is asked for.
        options: Its further arguments.
        where: The task, for errors.

    Raises:
        UserError: The reader fails, or gives something that is no row.
    """
    try:
        for number, values in enumerate(READERS[name](split, **options)):
            place = f"reader {name}, {split} row {number}"
            if not isinstance(values, Mapping):
                raise UserError(f"{place}: is a {type(values).__name__}; a row is a mapping of columns to values")
            yield Row(number, place, dict(values))
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"{where}: the reader {name!r} failed on {split!r} ({type(error).__name__}: {error})"
        ) from error
