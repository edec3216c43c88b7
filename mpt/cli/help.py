"""Write what ``--help`` prints: the commands, the choices, and every key with its value and what it means."""

import ast
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from hydra._internal.utils import get_args_parser
from omegaconf import DictConfig, OmegaConf

from mpt import config
from mpt.errors import UserError, unknown
from mpt.methods import METHODS

USAGE = """Multitask prompt tuning: one shared soft prompt and a low-rank factor per task, on a frozen model.

  python train.py task=source '+tasks=[sum,mt,dlg]'              train a shared prompt on source tasks
  python train.py task=target source=RUN_FOLDER '+tasks=[NAME]'  adapt it to a new task, few_shot.k=16
  python train.py -m seed=0,1,2 '+tasks=[sum,mt]'                a sweep; hydra/launcher=fused trains its jobs together
  python train.py task=evaluate source=RUN_FOLDER '+tasks=[sum]' score what a run has trained
  python train.py task=predict source=RUN_FOLDER < texts.txt     answer with it; python -m mpt.export hands it on
  python train.py tasks=list                                     the data sets that ship, and --config-dir's
  python train.py tasks=new name=NAME files=FILE                 draft a task from a data file's columns
  python train.py tasks=show name=NAME                           its examples, lengths, unknown tokens, classes

-m is a sweep, --cfg job prints the configuration, --config-dir FOLDER adds a folder of the user's own choices
(FOLDER/tasks/<name>.yaml is a task), --version prints the version, --hydra-help prints Hydra's other flags.
The environment variable MPT_TRACEBACK=1 shows where an error comes from.
"""
WIDTH = 110


def render(choices: Path, composed: DictConfig) -> str:
    """Write the help.

    Args:
        choices: The folder of configurations.
        composed: The configuration that the command line gives.
    """
    lines = [USAGE, "Choices (group=option):"]
    groups = (path for path in choices.iterdir() if path.is_dir() and path.name not in ("hydra", "tasks"))
    for group in sorted(groups):
        found = {path.stem for path in group.glob("*.yaml")} | (set(METHODS) if group.name == "method" else set())
        options = ", ".join(sorted(found))
        lines.append(textwrap.fill(f"{group.name}: {options}", WIDTH, initial_indent="  ", subsequent_indent="      "))
    lines.append("\nKeys (key=value):")
    values = _flatten(OmegaConf.to_container(composed, resolve=False))
    for key, meaning in describe_keys().items():
        lines.append(f"  {key}" + (f"={values[key]}" if key in values else ""))
        lines.append(textwrap.fill(meaning, WIDTH, initial_indent="      ", subsequent_indent="      "))
    return "\n".join(lines)


def render_reference(composed: DictConfig) -> str:
    """Write the reference of all keys in Markdown: a table for each section, with defaults and meanings.

    Args:
        composed: The configuration without any override.
    """
    lines = [
        "# Configuration",
        "Every key with its default and meaning, written by `python train.py --help=markdown`; any of them is "
        "overridden as `key=value`. `tasks.NAME.` stands for each task.",
    ]
    values = _flatten(OmegaConf.to_container(composed, resolve=False))
    section = None
    for key, meaning in describe_keys().items():
        of_key = ".".join(key.split(".")[:-1]) or "run"
        if of_key != section:
            section = of_key
            lines += ["", f"## {section}", "| key | default | meaning |", "|---|---|---|"]
        default = f"`{values[key]}`" if key in values else ""
        lines.append(f"| `{key}` | {default} | {meaning.replace('``', '`').replace('|', chr(92) + '|')} |")
    return "\n".join(lines) + "\n"


@cache
def describe_keys() -> Mapping[str, str]:
    """Every key of the configuration, dotted, with its meaning: the string below its field in ``mpt/config.py``.

    Python drops these strings, so they are read from the source.
    """
    module = ast.parse(Path(config.__file__).read_text(encoding="utf-8"))
    classes = {node.name: node for node in module.body if isinstance(node, ast.ClassDef)}
    return dict(_describe(classes, "RunConfig", ""))


def _describe(classes: Mapping[str, ast.ClassDef], name: str, prefix: str) -> Iterator[tuple[str, str]]:
    body = classes[name].body
    for node, following in zip(body, [*body[1:], None], strict=True):
        if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name):
            continue
        kind, key = ast.unparse(node.annotation), f"{prefix}{node.target.id}"
        if kind == "dict[str, TaskConfig]":
            yield from _describe(classes, "TaskConfig", f"{key}.NAME.")
        elif kind in classes:
            yield from _describe(classes, kind, f"{key}.")
        elif (
            isinstance(following, ast.Expr)
            and isinstance(following.value, ast.Constant)
            and isinstance(following.value.value, str)
        ):
            yield key, " ".join(following.value.value.split())
        else:
            yield key, ""


def _flatten(values: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(values, Mapping) or not values:
        return {prefix.rstrip("."): "null" if values is None else values}
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flatten(value, f"{prefix}{key}.")
    return flat


def arrange(arguments: Sequence[str]) -> list[str]:
    """Put flags before overrides: Hydra takes ``--config-dir FOLDER`` nowhere else.

    Raises:
        UserError: A flag is unknown, or a word sets no key.
    """
    flags, overrides = [], []
    waiting = False
    for argument in arguments:
        if waiting or argument.startswith("-"):
            flags.append(argument)
            waiting = not waiting and argument in WITH_VALUE
        else:
            overrides.append(argument)
    known = [flag for action in get_args_parser()._actions for flag in action.option_strings]
    for flag in flags:
        if flag.startswith("-") and flag.partition("=")[0] not in known and flag != "--help=markdown":
            raise UserError(unknown(flag.partition("=")[0], flag, known, "no flag").partition(": ")[2])
    for word in overrides:
        if word.startswith("=") or ("=" not in word and not word.startswith("~")):
            raise UserError(f"{word!r}: sets no key; write key=value, as in seed=1 (a sweep is -m seed=0,1)")
    return [*flags, *overrides]


WITH_VALUE = (
    *("--config-dir", "-cd", "--config-path", "-cp", "--config-name", "-cn"),
    *("--cfg", "-c", "--package", "-p", "--experimental-rerun"),
)
"""Hydra's flags that the next argument belongs to."""
