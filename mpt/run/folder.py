"""A run's folder: whose it is, how far the run has come, and the configuration in it."""

import hashlib
import os
import platform
import re
import secrets
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf

from mpt import __version__
from mpt.atomic import write_atomically
from mpt.run.identity import identity
from mpt.run.record import read_metrics

# Runs that a run starts from or learns from.
OTHER_RUNS = ("source", "distill")
LIBRARIES = ("torch", "lightning", "transformers", "datasets", "tokenizers")
FILES = ("config.yaml", "metrics.json", "metrics.csv", "draws.json", "similarity.csv", "similarity.png")
FOLDERS = ("prompt", "adapter", "predictions", "checkpoints", "wandb", "tensorboard")
"""Names that a run leaves in its folder; ``overwrite=true`` removes these and nothing else."""


def state_of(folder: Path, config: Mapping[str, Any]) -> str:
    """Return how far a run has come: new, unfinished or finished.

    Raises:
        ValueError: The folder holds the run of another configuration; the keys that differ are named.
    """
    written = read_config(folder)
    if written is None:
        return "new"
    there, here = identity(written[0]), identity(config)
    if differing := sorted(key for key in there.keys() | here.keys() if there.get(key) != here.get(key)):
        differences = ", ".join(
            f"{key} ({there.get(key)!r} there, {here.get(key)!r} here)" for key in differing[:5]
        )
        more = f" and {len(differing) - 5} more" if len(differing) > 5 else ""
        raise ValueError(
            f"{folder}: holds the run of another configuration, with another {differences}{more}; "
            "give another hydra.run.dir, or overwrite=true"
        )
    return "unfinished" if read_metrics(folder) is None else "finished"


def finished(folder: Path, config: Mapping[str, Any]) -> dict[str, Any] | None:
    """The metrics of a run that is finished already and need not run again; otherwise None.

    Raises:
        ValueError: The folder holds another run, or what it learned from was trained anew since.
    """
    refuse_foreign(folder)
    if config["overwrite"] or state_of(folder, config) != "finished":
        return None
    _, run = read_config(folder) or ({}, {})
    for key, digest in _digests(config).items():
        if run.get(key) != digest:
            raise ValueError(
                f"{folder}: learned from {config[key.removesuffix('_prompt')]} before that was trained anew; "
                "overwrite=true runs it again"
            )
    return read_metrics(folder)


def refuse_foreign(folder: Path) -> None:
    """Refuse a folder that holds something and is not a run: its files might be lost.

    Raises:
        ValueError: As said.
        NotADirectoryError: It is a file.
    """
    if not folder.exists() or (folder / "config.yaml").is_file():
        return
    # What a run that was killed while it wrote its config.yaml leaves.
    others = [path.name for path in folder.iterdir() if not re.match(r"\.[0-9a-f]{12}\.", path.name)]
    if others:
        raise ValueError(
            f"{folder}: is not the folder of a run (it has {', '.join(sorted(others)[:3])}, but no config.yaml); "
            "give hydra.run.dir a folder that is new, empty, or a run's"
        )


def begin(folder: Path, config: Mapping[str, Any], *, fingerprint: str) -> None:
    """Make a folder that of a new run: empty of an older one's files, with ``config.yaml``.

    Args:
        folder: The run folder.
        config: The resolved configuration.
        fingerprint: The backbone's.
    """
    clear(folder)
    versions = {"mpt": __version__, "python": platform.python_version()}
    versions |= {library: metadata.version(library) for library in LIBRARIES}
    run = {
        "id": secrets.token_hex(4),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join(sys.argv),
        "fingerprint": fingerprint,
        **_digests(config),
        "versions": versions,
        "machine": _describe_machine(),
        "git": _git_revision(),
    }
    folder.mkdir(parents=True, exist_ok=True)
    write_config(folder, config, run)
    (folder / "checkpoints").mkdir()


def check_backbone(folder: Path, name: str, fingerprint: str) -> None:
    """Refuse to go on with other weights of the backbone than a run began with.

    Raises:
        ValueError: As said.
    """
    _, run = read_config(folder) or ({}, {})
    if run.get("fingerprint") != fingerprint:
        raise ValueError(
            f"{folder}: began with other weights of {name}, fingerprint {run.get('fingerprint')}, "
            f"not {fingerprint}; resume=never starts again"
        )


def clear(folder: Path) -> None:
    """Remove what a run left in its folder, and nothing else."""
    for name in FILES:
        (folder / name).unlink(missing_ok=True)
    for name in FOLDERS:
        shutil.rmtree(folder / name, ignore_errors=True)


def write_config(folder: Path, config: Mapping[str, Any], run: Mapping[str, Any]) -> None:
    """Write ``config.yaml``: the resolved configuration, and under ``run`` what else describes this run."""
    with write_atomically(folder / "config.yaml") as path:
        path.write_text(OmegaConf.to_yaml(OmegaConf.create({**config, "run": dict(run)})), encoding="utf-8")


def read_config(folder: Path) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """Read ``config.yaml`` back.

    Returns:
        The configuration and its ``run`` part; None where the folder has no such file.

    Raises:
        ValueError: The file is not what :func:`write_config` writes.
    """
    path = folder / "config.yaml"
    if not path.is_file():
        return None
    try:
        config = OmegaConf.to_container(OmegaConf.load(path))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: damaged; overwrite=true runs the run again") from error
    if not isinstance(config, dict) or not isinstance(config.get("run"), dict):
        raise ValueError(f"{path}: not the configuration of a run; it must be a mapping with the key 'run'")
    values = {str(key): value for key, value in config.items()}
    run = values.pop("run")
    return values, run


def prompt_digest(folder: Path) -> str | None:
    """Hash the prompt in a run folder, a prompt folder or a file; None where there is none."""
    for path in (folder / "prompt", folder):
        for file in (path / "adapter_model.safetensors", path / "adapter_model.bin", path):
            if file.is_file():
                return hashlib.sha256(file.read_bytes()).hexdigest()[:16]
    return None


def _digests(config: Mapping[str, Any]) -> dict[str, str | None]:
    """Hash the prompts that a run starts from or learns from."""
    return {
        f"{key}_prompt": prompt_digest(Path(config[key])) for key in OTHER_RUNS if config.get(key) is not None
    }


def _describe_machine() -> str:
    """The system, its processors and its GPUs in one line; no name by which the machine could be found."""
    import torch  # seconds, which the command line does not have before it has checked everything

    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return ", ".join([f"{platform.system()} {platform.machine()}", f"{os.cpu_count()} CPUs", *gpus])


def _git_revision() -> str | None:
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
