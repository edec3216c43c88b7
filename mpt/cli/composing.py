"""Composing faster than Hydra does by itself, to the same configuration.

Hydra merges one file after the other, and walks through the whole configuration after each: a thousand tasks take
minutes. It composes a run twice, the first time only to find out whether it is a sweep, and each job of a sweep from
its files again. Here the files of tasks, which do not touch each other, are merged at once, and what the same files
compose to is kept until others are asked for.

It stands on two methods of Hydra's that are not public; a Hydra without them composes as it does by itself.
"""

import copy
from collections.abc import Sequence
from typing import Any

from hydra._internal import hydra as hydra_module
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import IConfigRepository
from hydra.core.default_element import ResultDefault
from hydra.errors import ConfigCompositionException
from hydra.plugins.config_source import ConfigResult
from omegaconf import DictConfig, flag_override


class ConfigLoader(ConfigLoaderImpl):
    """Hydra's loader of configurations, with the files of tasks merged at once and the last composition kept."""

    kept: tuple[Any, DictConfig] | None = None
    """Files, and what they compose to before the command line sets single keys."""
    together: dict[str, list[ResultDefault]] | None = None
    """The path of a task's file to the files that are merged with it."""

    def _compose_config_from_defaults_list(self, defaults: list[ResultDefault], repo: IConfigRepository) -> DictConfig:
        files = [(each.config_path, each.package) for each in defaults], [each.path for each in repo.get_sources()]
        if self.kept is None or self.kept[0] != files:
            self.kept = files, self._compose(defaults, repo)
        return copy.deepcopy(self.kept[1])

    def _compose(self, defaults: list[ResultDefault], repo: IConfigRepository) -> DictConfig:
        firsts, self.together = gather(defaults)
        try:
            return super()._compose_config_from_defaults_list(firsts, repo)
        except ConfigCompositionException:  # once more, one by one: the message names the file
            self.together = {}
            return super()._compose_config_from_defaults_list(defaults, repo)

    def _load_single_config(self, default: ResultDefault, repo: IConfigRepository) -> ConfigResult:
        loaded = super()._load_single_config(default, repo)
        for other in (self.together or {}).get(str(default.config_path), ()):
            more = super()._load_single_config(other, repo).config
            assert isinstance(more, DictConfig)
            assert isinstance(loaded.config, DictConfig)
            with flag_override(loaded.config, ["no_deepcopy_set_nodes", "struct"], [True, False]):
                for name in more.tasks:
                    loaded.config.tasks[name] = more.tasks._get_node(name)
        return loaded


def gather(defaults: Sequence[ResultDefault]) -> tuple[list[ResultDefault], dict[str, list[ResultDefault]]]:
    """Find the files that set nothing but a task each, one after the other and no task twice.

    Returns:
        The files without those that are merged with the one before, and those by the path of that one.
    """
    firsts: list[ResultDefault] = []
    together: dict[str, list[ResultDefault]] = {}
    for default in defaults:
        before = together.get(str(firsts[-1].config_path)) if firsts else None
        if before is not None and sets_a_task(default) and default.package not in [each.package for each in before]:
            before.append(default)
        else:
            firsts.append(default)
            if sets_a_task(default):
                together[str(default.config_path)] = [default]
    return firsts, {path: found[1:] for path, found in together.items()}


def sets_a_task(default: ResultDefault) -> bool:
    """Tell whether a file is that of a task, and sets the keys of that task alone."""
    package = str(default.package)
    return package.startswith("tasks.") and package == str(default.config_path).replace("/", ".")


def compose_faster() -> None:
    """Let Hydra load configurations so from here on; for a command, since a program's own Hydra is its own."""
    if hasattr(hydra_module, "ConfigLoaderImpl"):
        hydra_module.ConfigLoaderImpl = ConfigLoader
