"""Python modules that bring parts of their own: named where a person chooses to run code, imported before composing.

A plugin is named on the command line, in a study or in an experiment, never in a task's file or a saved run: data run
no code. What an installed package offers by an entry point needs no naming, and is imported when its name is asked for.
"""

import re
import sys
from collections.abc import Iterable, Sequence
from importlib import import_module
from pathlib import Path

import yaml
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser

from mpt.errors import UserError
from mpt.methods import METHODS, choice_of

LOADED: set[str] = set()
"""Plugins that this process has imported."""


def begin(arguments: Sequence[str], folders: Sequence[Path]) -> None:
    """Import the plugins that a command line names, and make their methods choices of ``method=``.

    Args:
        arguments: The command line.
        folders: Folders of choices, in which its experiment is looked for.

    Raises:
        UserError: A plugin cannot be imported, or a name stands for two parts.
    """
    experiment = _experiment_text(arguments, folders)
    load(dict.fromkeys([*_named_by(arguments), *_named_in(experiment)]))
    enter_choices([*(text for text in arguments if "method=" in text), experiment])


def load(names: Iterable[str]) -> None:
    """Import plugins, from the working folder too, as ``python -m`` would.

    Raises:
        UserError: One cannot be imported.
    """
    for name in names:
        if not re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", name):
            raise UserError(f"plugins: {name!r} is no module; write it as Python imports it, such as my_lab.prompts")
        here = str(Path.cwd())
        if here not in sys.path and "" not in sys.path:
            sys.path.append(here)  # last: no file here takes the place of a library
        try:
            import_module(name)
        except UserError as error:
            raise UserError(f"plugins: {name}: {error}") from error
        except Exception as error:
            raise UserError(f"plugins: {name} cannot be imported ({type(error).__name__}: {error})") from error
        LOADED.add(name)


def refuse_unloaded(names: Iterable[str]) -> None:
    """Refuse plugins that only a composed configuration names: another file than an experiment, or a RunConfig.

    Raises:
        UserError: One was not imported.
    """
    for name in names:
        if name not in LOADED and name not in sys.modules:
            raise UserError(
                f"plugins: {name} is named where nothing is imported from; name it on the command line, in a study or "
                "an experiment file, or import it in Python"
            )


def enter_choices(texts: Iterable[str] = ()) -> None:
    """Make the methods from outside choices of ``method=``.

    Args:
        texts: Where the method of an installed package may be named, which is imported only then.

    Raises:
        UserError: The package that offers it cannot be imported.
    """
    words = set(re.findall(r"[\w-]+", " ".join(texts)))
    for name in METHODS:
        if not METHODS.is_shipped(name) and (METHODS.is_entered(name) or name in words):
            ConfigStore.instance().store(group="method", name=name, node=choice_of(METHODS[name]), package="_global_")


def _named_by(arguments: Sequence[str]) -> list[str]:
    """The plugins of ``plugins=[...]``."""
    found: list[str] = []
    for override in OverridesParser.create().parse_overrides(
        [text for text in arguments if re.match(r"\+*plugins=", text)]
    ):
        if override.is_sweep_override():
            raise UserError(f"{override.input_line}: plugins are imported once, for all jobs; write plugins=[a,b]")
        value = override.value()
        found += [str(name) for name in value] if isinstance(value, list) else [str(value)]
    return found


def _experiment_text(arguments: Sequence[str], folders: Sequence[Path]) -> str:
    """The text of the experiment that a command line chooses; empty where it chooses none."""
    names = [text.partition("=")[2] for text in arguments if re.match(r"\+*experiment=", text)]
    paths = [folder / "experiment" / f"{each}.yaml" for name in names for each in name.split(",") for folder in folders]
    return "\n".join(path.read_text(encoding="utf-8", errors="replace") for path in paths if path.is_file())


def _named_in(experiment: str) -> list[str]:
    """The plugins that an experiment names; Hydra says what is wrong with a file that is no YAML."""
    try:
        parts = [yaml.safe_load(text) for text in experiment.split("\n# @package _global_")]
    except yaml.YAMLError:
        return []
    found: list[str] = []
    for values in parts:
        named = values.get("plugins") if isinstance(values, dict) else None
        found += [str(name) for name in named] if isinstance(named, list) else []
    return found
