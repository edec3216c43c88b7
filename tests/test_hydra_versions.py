"""The command line runs under the Hydra that is installed without a warning of Hydra's or OmegaConf's."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def test_no_warning_of_what_goes_away(tmp_path):
    done = subprocess.run(
        [sys.executable, "-W", "default", ROOT / "train.py", "-m", "task=source", "+tasks=[sum]", "seed=-1",
         "hydra/launcher=fused", "output_root=runs"],
        cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 2
    assert "seed: is -1" in done.stdout + done.stderr
    for word in ("deprecated", "MigrationWarning", "FutureWarning", "whitelist"):
        assert word not in done.stderr, done.stderr
