"""Eight kills at any moment; ``make faults`` does two hundred, of every command."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_killed_commands_leave_what_unbroken_ones_leave():
    command = [sys.executable, "-W", "ignore", "experiments/reliability/faults.py", "8", "source", "target", "predict"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr + done.stdout
    assert done.stdout.splitlines()[-1].startswith("| all | | 8 | ")
