"""``python -m mpt.study FILE``: run a study, and write its page, tables and figures beside its file."""

import sys
from collections.abc import Sequence

from mpt.command import run_module


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; see :mod:`mpt.study.studying`."""
    return run_module("mpt.study.studying", argv, "; the same command goes on")


if __name__ == "__main__":
    sys.exit(main())
