"""Errors in the user's words: what is wrong, where, and what would be right."""

import re
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path

from hydra.errors import MissingConfigException, OverrideParseException
from omegaconf import OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from mpt.config import RunConfig, TaskConfig


def unknown(where: str, value: str, options: Iterable[str], what: str = "unknown") -> str:
    """Say that ``value`` is none of ``options``, with the likeliest one."""
    options = [str(option) for option in options]
    close = get_close_matches(value, options, n=1)
    hint = f" (did you mean {close[0]!r}?)" if close else ""
    return f"{where}: {what} {value!r}; choose one of {', '.join(options)}{hint}"


def phrase(error: BaseException) -> str:
    """Turn an error into one message.

    Args:
        error: What was raised while composing, checking or running.

    Returns:
        ``{where}: {what is wrong}; {what would be right}``.
    """
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        return _unknown_choice(error)
    if isinstance(error, OverrideParseException):
        return f"{error.override!r}: not an override; write key=value, and quote brackets: '+tasks=[sum,mt]'"
    cause = error.__cause__ or error.__context__
    if not isinstance(error, OmegaConfBaseException) and isinstance(cause, OmegaConfBaseException):
        return _bad_key(cause)
    if isinstance(error, OmegaConfBaseException):
        return _bad_key(error)
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
    return unknown(group, name, options)


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
