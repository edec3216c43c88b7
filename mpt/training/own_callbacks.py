"""Lightning callbacks of the user's own, by the names that ``callbacks=[NAME]`` has for them."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from mpt.registry import Defined, Registry

if TYPE_CHECKING:  # seconds of imports
    from lightning.pytorch.callbacks import Callback

CALLBACKS: Registry[Callable[[], "Callback"]] = Registry("callback", "mpt.callbacks")
"""What ``callbacks`` takes: each makes a callback of Lightning's for one run."""


def callback(name: str) -> Callable[[Defined], Defined]:
    """Enter a class of callbacks, or a function that makes one, under a name; it is called without arguments.

    Raises:
        UserError: The name is another callback's.
    """
    return CALLBACKS.entering(name)
