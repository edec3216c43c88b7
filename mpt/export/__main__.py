"""``python -m mpt.export COMMAND``: a trained prompt for other programs and other people."""

import sys
from collections.abc import Sequence

from mpt.command import run_module


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; see :mod:`mpt.export.exporting`."""
    return run_module("mpt.export.exporting", argv)


if __name__ == "__main__":
    sys.exit(main())
