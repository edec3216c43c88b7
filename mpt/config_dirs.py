"""The user's own folders of choices, ``--config-dir``, and the data that lie beside their YAML files."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig


def named_by(arguments: Sequence[str]) -> list[Path]:
    """List the folders that ``--config-dir`` names on a command line."""
    found = []
    for argument, following in zip(arguments, [*arguments[1:], ""], strict=True):
        flag, _, value = argument.partition("=")
        if flag in ("--config-dir", "-cd"):
            found.append(Path(value or following))
    return found


def searched_by(hydra_config: Any) -> list[Path]:
    """List the folders that Hydra composes from: those of ``--config-dir`` and ``hydra.searchpath``, and ours."""
    return [Path(source.path) for source in hydra_config.runtime.config_sources if source.schema == "file"]


def anchor_paths(composed: DictConfig, folders: Sequence[Path]) -> None:
    """Make relative ``rows.files`` and ``rows.root`` that are there beside the YAML file of their task paths from here.

    Args:
        composed: A configuration, changed in place.
        folders: Folders of choices, the first one that has the task counts.
    """
    for name, task in composed.tasks.items():
        own = next(
            (folder / "tasks" for folder in folders if (folder / "tasks" / f"{name}.yaml").is_file()), None
        )
        for key in ("files", "root"):
            path = task.rows.get(key)
            if (
                own is not None
                and path is not None
                and not Path(path).is_absolute()
                and (own / path).exists()
            ):
                task.rows[key] = os.path.relpath(own / path)
