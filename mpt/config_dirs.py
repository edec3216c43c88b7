"""The user's own folders of choices, ``--config-dir``: what their YAML files may say, and the data beside them."""

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig

from mpt.errors import UserError

MOST_NODES = 100_000
"""Values that a YAML file of the user may stand for."""


def named_by(arguments: Sequence[str]) -> list[Path]:
    """List the folders that ``--config-dir`` names on a command line."""
    found = []
    for argument, following in zip(arguments, [*arguments[1:], ""], strict=True):
        flag, _, value = argument.partition("=")
        if flag in ("--config-dir", "-cd"):
            found.append(Path(value or following))
    return found


def check_files(arguments: Sequence[str], selected: Sequence[str]) -> None:
    """Refuse task files that are more than data, and words that YAML reads as something else.

    A task's file comes with a data set, perhaps from a stranger: it may set nothing but its own task, compose nothing
    else, and read no environment. Hydra would do all of it before this program could look.

    Args:
        arguments: The command line.
        selected: The tasks that it names.

    Raises:
        UserError: Everything that is wrong, each with its file and line.
    """
    folders = searched_by_command(arguments)
    errors: list[str] = []
    for folder in folders:
        for path in sorted((folder / "tasks").rglob("*.yaml")):
            errors += _task_file_errors(path, path.stem in selected)
        for path in sorted((folder / "experiment").glob("*.yaml")):
            root = _parse(path)
            if root is not None:
                errors += [f"{path}:{error}" for error in _reread(_at(root, "predict", "choices"), "predict.choices")]
    if errors:
        raise UserError("\n".join(errors))


def searched_by_command(arguments: Sequence[str]) -> list[Path]:
    """List the user's own folders that a command line names, by ``--config-dir`` and ``hydra.searchpath``."""
    return [*named_by(arguments), *_search_path(arguments)]


def _search_path(arguments: Sequence[str]) -> list[Path]:
    """The folders of ``hydra.searchpath`` on a command line."""
    named = (text for text in arguments if text.lstrip("+").startswith("hydra.searchpath="))
    return [Path(path) for text in named for path in re.findall(r"file://([^,\]'\"]+)", text)]


def _task_file_errors(path: Path, is_selected: bool) -> Iterator[str]:
    text = path.read_text(encoding="utf-8", errors="replace")
    package = re.search(r"^#\s*@package\s+(\S+)", text, re.MULTILINE)
    expected = f"tasks.{path.stem}"
    if (package is not None and package.group(1) != expected) or (package is None and is_selected):
        found = "has no package" if package is None else f"is of the package {package.group(1)}"
        yield f"{path}:1: {found}, and a task's file sets only its own task; write '# @package {expected}' as its "
        "first line"
        return
    root = _parse(path)
    if root is None:
        try:
            found = type(yaml.safe_load(text)).__name__
        except yaml.YAMLError:
            return  # Hydra says what is wrong with it
        if found not in ("NoneType", "dict"):
            yield f"{path}: is a {found}; a task's file is a mapping of its keys, such as 'input: \"{{text}}\"'"
        return
    for key, value in root.value:
        if key.value == "rows" and not isinstance(value, yaml.MappingNode):
            yield f"{path}:{key.start_mark.line + 1}: rows is no mapping; write 'rows: {{files: FOLDER}}' or the like"
        if key.value == "defaults":
            yield f"{path}:{key.start_mark.line + 1}: has defaults, and a task's file composes nothing else; leave "
            "them out"
        if key.value == "labels":
            yield from (f"{path}:{error}" for error in _reread(value, f"{expected}.labels"))
    for node in _scalars(root):
        if resolver := re.search(r"\$\{\s*[\w.]+\s*:[^}]*\}", node.value):
            yield (
                f"{path}:{node.start_mark.line + 1}: has {resolver.group()!r}, and a task's file reads neither the "
                "environment nor anything else that is computed; write the value"
            )


def _parse(path: Path) -> yaml.MappingNode | None:
    """Parse a YAML file without making values of it; None where it is not a mapping."""
    try:
        root = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    except (yaml.YAMLError, UnicodeDecodeError):
        return None
    if root is not None and count_nodes(root, {}) > MOST_NODES:
        raise UserError(f"{path}: its anchors stand for more than {MOST_NODES:,} values; write out what is meant")
    return root if isinstance(root, yaml.MappingNode) else None


def count_nodes(node: yaml.Node, counted: dict[int, int]) -> int:
    """Count the values that a YAML file stands for, those behind an anchor wherever it is named.

    Args:
        node: The file's root.
        counted: Of nodes that have been met.
    """
    if id(node) not in counted:
        counted[id(node)] = MOST_NODES  # where a node holds itself
        below = [part for pair in node.value for part in pair] if isinstance(node, yaml.MappingNode) else []
        below = list(node.value) if isinstance(node, yaml.SequenceNode) else below
        counted[id(node)] = 1 + sum(count_nodes(each, counted) for each in below)
    return counted[id(node)]


def _at(node: yaml.Node | None, *keys: str) -> yaml.Node | None:
    """The node below some keys."""
    for key in keys:
        if not isinstance(node, yaml.MappingNode):
            return None
        node = next((value for name, value in node.value if name.value == key), None)
    return node


def _reread(node: yaml.Node | None, where: str) -> Iterator[str]:
    """Find the words below a node that YAML reads as something else than what is written: yes, 1.50, 007."""
    for scalar in [] if node is None else _scalars(node):
        value = yaml.safe_load(scalar.value) if scalar.style is None and scalar.value else scalar.value
        if str(value) != scalar.value or value is None:
            yield (
                f"{scalar.start_mark.line + 1}: {where} has {scalar.value or 'nothing'}, which YAML reads as "
                f"{value!r}; quote "
                f'it: "{scalar.value}"'
            )


def _scalars(node: yaml.Node) -> Iterator[yaml.ScalarNode]:
    """All keys and values below a node."""
    if isinstance(node, yaml.ScalarNode):
        yield node
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            yield from _scalars(item)
    elif isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield from _scalars(key)
            yield from _scalars(value)


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
        own = next((folder / "tasks" for folder in folders if (folder / "tasks" / f"{name}.yaml").is_file()), None)
        for key in ("files", "root"):
            path = task.rows.get(key)
            if own is not None and path is not None and not Path(path).is_absolute() and (own / path).exists():
                task.rows[key] = os.path.relpath(own / path)
