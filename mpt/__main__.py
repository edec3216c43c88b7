"""``python -m mpt``, and ``mpt``: the runs of ``train.py``, and the other commands by their names."""

import sys
from importlib import import_module

from mpt.command import run_command

COMMANDS = {
    "study": "mpt.study.__main__",
    "report": "mpt.report.__main__",
    "export": "mpt.export.__main__",
    "dashboard": "mpt.dashboard",
    "explain": "mpt.explain.__main__",
    "serve": "mpt.serve.__main__",
    "lm_eval": "mpt.lm_eval.__main__",
}
"""Commands of their own: ``mpt study FILE`` is ``python -m mpt.study FILE``."""


def main() -> None:
    """Run the command that the first word names, a run of ``train.py`` where it names none, and exit."""
    sys.exit(run_command(_run))


def _run() -> int | None:
    """Run it; its imports take seconds, and a signal may come before they end."""
    if len(sys.argv) > 1 and sys.argv[1] in COMMANDS:
        return int(import_module(COMMANDS[sys.argv[1]]).main(sys.argv[2:]))
    import_module("mpt.cli.main").main()
    return 0


if __name__ == "__main__":
    main()
