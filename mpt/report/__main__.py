"""``python -m mpt.report FOLDER...``: many run folders as tables, figures and a page."""

import sys
from collections.abc import Sequence

from mpt.command import run_module


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; see :mod:`mpt.report.reporting`."""
    return run_module("mpt.report.reporting", argv)


if __name__ == "__main__":
    sys.exit(main())
