"""``python -m mpt.explain RUN_FOLDER``: the words near a prompt's virtual tokens, and what P and each W carry."""

import sys
from collections.abc import Sequence

from mpt.command import run_module


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; see :mod:`mpt.explain.explaining`."""
    return run_module("mpt.explain.explaining", argv)


if __name__ == "__main__":
    sys.exit(main())
