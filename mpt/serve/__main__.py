"""``python -m mpt.serve RUN_FOLDER``: answer over HTTP with a trained prompt, its tasks as models."""

import sys
from collections.abc import Sequence

from mpt.command import run_module


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; see :mod:`mpt.serve.serving`."""
    return run_module("mpt.serve.serving", argv)


if __name__ == "__main__":
    sys.exit(main())
