"""``python -m mpt.lm_eval``: the command line of lm-evaluation-harness, with the model ``mpt`` in it.

python -m mpt.lm_eval --model mpt --model_args prompt=RUN_FOLDER,task=mt --tasks TASKS
"""

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec

from mpt.command import run_command
from mpt.errors import UserError


def main(argv: Sequence[str] | None = None) -> int:
    """Run the harness.

    Args:
        argv: The words of its command line; None: those of this process.

    Returns:
        The exit code: 2 where something is wrong with what it was asked.
    """
    words = list(sys.argv[1:] if argv is None else argv)

    def run() -> None:
        if find_spec("lm_eval") is None:
            raise UserError("lm_eval: is not installed; pip install 'mpt[lm-eval]'")
        import_module("mpt.lm_eval.model")
        sys.argv[:] = ["lm_eval", *words]
        import_module("lm_eval.__main__").cli_evaluate()

    return run_command(run)


if __name__ == "__main__":
    sys.exit(main())
