"""The composed configuration: Hydra's, and the dataclasses that it becomes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import QuotedString
from omegaconf import DictConfig, OmegaConf

from mpt.cli.hydra_versions import VERSION_BASE, register_resolver
from mpt.config import OLD_FORMS, RunConfig
from mpt.errors import UserError, unknown
from mpt.run.identity import run_name
from mpt.stages import STAGES, Stage, find_stage

PACKAGE = Path(__file__).resolve().parents[1]
CONF = next((path for path in (PACKAGE / "conf", PACKAGE.parent / "conf") if path.is_dir()), PACKAGE / "conf")
"""Inside the package in a wheel, beside it in a checkout."""


def register_schema() -> None:
    """Make the schema and the resolvers of ``conf/`` known to Hydra."""
    ConfigStore.instance().store(name="run_schema", node=RunConfig)
    register_resolver("mpt_run_name", _run_name)
    register_resolver("mpt_experiment", _experiment_name)


def _run_name(*, _root_: DictConfig) -> str:
    return run_name(plain(_root_))


def _experiment_name() -> str | None:
    """The experiment that the command line, or a sweep's job, has chosen."""
    if not HydraConfig.initialized():
        return None
    name = HydraConfig.get().runtime.choices.get("experiment")
    return None if name in (None, "null") else str(name)


def typed(composed: DictConfig) -> RunConfig:
    """Turn a composed configuration into the dataclasses that the rest of the package takes.

    Raises:
        UserError: A key was added that the schema does not have, or one has no value.
    """
    keys = list(RunConfig.__dataclass_fields__)
    if added := [str(key) for key in composed if str(key) not in keys]:
        raise UserError("\n".join(unknown("configuration", key, keys, "no key") for key in added))
    if missing := sorted(OmegaConf.missing_keys(composed)):
        raise UserError("\n".join(f"{key}: has no value; give it one" for key in missing))
    config = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(RunConfig), plain(composed)))
    assert isinstance(config, RunConfig)
    config.prompt.form = OLD_FORMS.get(config.prompt.form, config.prompt.form)
    stage = find_stage(config.stage) if config.stage in STAGES else Stage
    scored = stage.scored_splits(config)
    if scored and not stage.trains and config.optimized_metric == RunConfig.optimized_metric:
        config.optimized_metric = f"{scored[0]}/average/score"
    return config


def plain(composed: DictConfig) -> dict[str, Any]:
    """The keys of :class:`mpt.config.RunConfig` as resolved plain values."""
    ours = OmegaConf.masked_copy(composed, list(RunConfig.__dataclass_fields__))
    values = OmegaConf.to_container(ours, resolve=True)
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


def compose_shipped(overrides: Sequence[str]) -> DictConfig:
    """Compose a configuration of the choices that ship."""
    with hydra.initialize_config_dir(str(CONF), **VERSION_BASE):
        return hydra.compose("train", list(overrides))


def tasks_of(arguments: Sequence[str]) -> list[str]:
    """The task names that the command line gives, checked before they become keys of a mapping.

    Raises:
        UserError: An empty list, or a name twice, which the composed configuration no longer shows.
    """
    overrides = [text for text in arguments if text.startswith(("tasks=", "+tasks=", "++tasks="))]
    names: list[str] = []
    for override in OverridesParser.create().parse_overrides(overrides):
        swept = override.is_sweep_override()
        choices = list(override.sweep_iterator()) if swept else [override.value()]
        for choice in choices:
            listed = choice if isinstance(choice, list) else [choice]
            if wrong := [name for name in listed if not isinstance(name, (str, QuotedString))]:
                raise UserError(f"{override.input_line}: {wrong[0]!r} is no name of a task; write '+tasks=[sum,mt]'")
            names = [str(name) for name in listed]
            if not choice:
                raise UserError(f"{override.input_line}: no tasks; name at least one, as in '+tasks=[sum,mt,dlg]'")
            if twice := sorted({name for name in names if names.count(name) > 1}):
                raise UserError(f"{override.input_line}: {', '.join(twice)} is listed twice; name each task once")
    return names


def refuse_unquoted(overrides: Sequence[str]) -> None:
    """Refuse truth values and numbers where texts are meant: ``[true,false]`` would become ``True`` and ``False``.

    Raises:
        UserError: One is not quoted.
    """
    for override in OverridesParser.create().parse_overrides(list(overrides)):
        if override.key_or_group != "predict.choices" and ".labels" not in override.key_or_group:
            continue
        value = override.value()
        for item in value if isinstance(value, list) else value.values() if isinstance(value, dict) else [value]:
            if isinstance(item, (bool, float)):
                raise UserError(
                    f"{override.key_or_group}: {item!r} is read as a {type(item).__name__}, and a text is meant; "
                    f'quote it, as in \'{override.key_or_group}=["true","false"]\''
                )
