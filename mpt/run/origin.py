"""Origin of a run: its command, its machine, and the revision of the code."""

import hashlib
import os
import platform
import re
import shlex
import subprocess
from collections.abc import Sequence
from functools import cache
from pathlib import Path


def describe_command(arguments: Sequence[str]) -> str:
    """Write a command line so that it can be shown to others: no environment, no place of this machine.

    What ``hydra.job.env_set`` sets is left out; a path below the working folder is written from there, of any other one
    its last part.
    """
    program = Path(arguments[0]).name
    words = (
        ["python", "-m", "mpt"]
        if program == "__main__.py"
        else ["python", program]
        if program[-3:] == ".py"
        else [program]
    )
    for text in arguments[1:]:
        if re.match(r"[+~]*hydra\.job\.env", text):
            continue
        words.append(re.sub(r"(?<![\w.~:/])/[^\s,\[\]{}'\"=]+", lambda found: _shorten(found.group()), text))
    return shlex.join(words)


def _shorten(path: str) -> str:
    below = os.path.relpath(path)
    return below if not below.startswith("..") else f".../{Path(path).name}"


def describe_machine() -> str:
    """The system, its processors and its GPUs in one line; no name by which the machine could be found."""
    import torch  # seconds, which the command line does not have before it has checked everything

    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return ", ".join([f"{platform.system()} {platform.machine()}", f"{os.cpu_count()} CPUs", *gpus])


def git_revision() -> str | None:
    """The commit of the checkout that this file lies in, with ``+changes`` where files differ from it."""
    folder = Path(__file__).resolve().parents[2]
    if not (folder / ".git").exists():
        return None
    outputs = []
    for command in (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no"]):
        try:
            done = subprocess.run(["git", *command], cwd=folder, capture_output=True, text=True, timeout=10)
        except (OSError, subprocess.TimeoutExpired):
            return None
        if done.returncode != 0:
            return None
        outputs.append(done.stdout.strip())
    return outputs[0] + ("+changes" if outputs[1] else "")


@cache
def code_digest() -> str:
    """Hash the package's code and the configurations that ship: what a commit to anything else leaves as it is."""
    package = Path(__file__).resolve().parents[1]
    shipped = package / "conf" if (package / "conf").is_dir() else package.parent / "conf"
    digest = hashlib.sha256()
    for folder, pattern in ((package, "*.py"), (shipped, "*.yaml")):
        for path in sorted(folder.rglob(pattern)):
            digest.update(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:12]
