"""``python -m mpt``, and ``mpt``: the runs of ``train.py``, and the other commands by their names."""

import sys
from importlib import import_module

from mpt.cli.main import main as run_train

COMMANDS = ("study", "report", "export", "dashboard")
"""Commands of their own: ``mpt study FILE`` is ``python -m mpt.study FILE``."""


def main() -> None:
    """Run the command that the first word names; a run of ``train.py`` where it names none."""
    if len(sys.argv) > 1 and sys.argv[1] in COMMANDS:
        name = f"mpt.{sys.argv[1]}"
        command = import_module(f"{name}.__main__" if sys.argv[1] != "dashboard" else name)
        sys.exit(command.main(sys.argv[2:]))
    run_train()


if __name__ == "__main__":
    main()
