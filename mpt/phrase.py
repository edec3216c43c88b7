"""Put what Hydra, OmegaConf and the system raise into the user's words."""

import re
from pathlib import Path

from hydra.errors import MissingConfigException, OverrideParseException
from omegaconf import OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException
from yaml import MarkedYAMLError

from mpt.config import RunConfig, TaskConfig
from mpt.errors import unknown

PLUGINS = {
    "submitit_local": "hydra-submitit-launcher",
    "submitit_slurm": "hydra-submitit-launcher",
    "joblib": "hydra-joblib-launcher",
    "ray": "hydra-ray-launcher",
    "ray_aws": "hydra-ray-launcher",
    "rq": "hydra-rq-launcher",
    "optuna": "hydra-optuna-sweeper",
    "ax": "hydra-ax-sweeper",
    "nevergrad": "hydra-nevergrad-sweeper",
}
"""Choice of Hydra's plugins to the package that brings it."""


def phrase(error: BaseException) -> str:
    """Turn an error into one message.

    Args:
        error: What was raised while composing, checking or running.

    Returns:
        ``{where}: {what is wrong}; {what would be right}``.
    """
    if listed := re.match(r"Ambiguous value for argument '([^=]+)=(.*)'", str(error)):
        key, value = listed.groups()
        return f"{key}: {value} are several values; write '{key}=[{value}]' for a list, or add -m to sweep over them"
    plugin = re.search(r"Could not find '(hydra/\w+/(\w+))'", str(error))
    if plugin is not None and plugin.group(2) in PLUGINS:
        return f"{plugin.group(1)}: is a plugin of Hydra: pip install {PLUGINS[plugin.group(2)]}"
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        return _unknown_choice(error)
    if isinstance(error, OverrideParseException):
        return f"{error.override!r}: not an override; write key=value, and quote brackets: '+tasks=[sum,mt]'"
    cause = error.__cause__ or error.__context__
    if not isinstance(error, OmegaConfBaseException) and isinstance(cause, OmegaConfBaseException):
        return _bad_key(cause)
    if isinstance(error, OmegaConfBaseException):
        return _bad_key(error)
    if isinstance(error, MarkedYAMLError) and error.problem_mark is not None:
        mark = error.problem_mark
        return f"{mark.name}:{mark.line + 1}: not YAML ({error.problem})"
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error) or type(error).__name__


def _unknown_choice(error: MissingConfigException) -> str:
    """A misspelt file of a group; Hydra names the folders that it looked in, and not what lies there."""
    group, _, name = str(error.missing_cfg_file).rpartition("/")
    folders = [Path(path) for path in re.findall(r"path=file://(\S+)", str(error))]
    options = sorted({path.stem for folder in folders for path in (folder / group).glob("*.yaml")})
    if not group or not options:
        return str(error).strip().splitlines()[0]
    message = unknown(group, name, options)
    if name in PLUGINS and group.startswith("hydra/"):
        return f"{group}/{name}: is a plugin of Hydra: pip install {PLUGINS[name]}"
    if group == "tasks":
        found = [path for path in sorted(Path.cwd().glob(f"*/tasks/{name}.yaml")) if path.parents[1].name != "conf"]
        if found:
            folder = found[0].parents[1].relative_to(Path.cwd())
            return f"tasks: {name!r} lies in {folder}/tasks, which is not searched; add --config-dir {folder}"
        return f"{message}; a task of your own lies in FOLDER/tasks/{name}.yaml, and --config-dir FOLDER finds it"
    return f"{message}; one of your own needs plugins=[MODULE]" if group == "method" else message


def _bad_key(error: OmegaConfBaseException) -> str:
    """A wrong type or a misspelt key, from the exception that OmegaConf raised."""
    key = str(error.full_key or "")
    what = str(error.msg or error).strip().splitlines()[0]
    if isinstance(error, (ConfigKeyError, ConfigAttributeError)) and key:
        parent, _, last = key.rpartition(".")
        if parent == "tasks":
            return f"{key}: {last!r} is not among the tasks of this run; add it to '+tasks=[...]'"
        if options := _keys_at(parent):
            return unknown(parent or "configuration", last, options, what="no key")
    if key and what.endswith("is not in struct"):
        return f"{key}: is not there yet; a new key needs a plus, +{key}=VALUE"
    if "is not Optional" in what:
        what = "is null; give it a value"
    return f"{key}: {what}" if key else what


def _keys_at(parent: str) -> list[str]:
    """The keys that the schema has under a dotted key."""
    schema = OmegaConf.structured(RunConfig)
    if parent.startswith("tasks."):
        schema, parent = OmegaConf.structured(TaskConfig), parent.partition(".")[2].partition(".")[2]
    node = OmegaConf.select(schema, parent) if parent else schema
    return [str(key) for key in node] if OmegaConf.is_dict(node) else []
