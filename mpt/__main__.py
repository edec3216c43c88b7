"""``python -m mpt``: the same as ``mpt`` and ``python train.py``."""

from mpt.cli.main import main

main()
