"""Identify a run: the keys that decide what it computes, and the name that follows from them."""

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mpt.methods import METHODS, find_method
from mpt.stages import STAGES, Stage, find_stage

# Keys that may differ between two commands for the same run.
INCIDENTAL = {
    "logger",
    "output_root",
    "overwrite",
    "resume",
    "trainer.progress_bar",
    "trainer.threads",
    "distillation.cache",
    "evaluation.keep_answers",
    "trainer.keep_tokens",
    "optimized_metric",
    "predict",
    "fused",
    "experiment_name",
    "plugins",
}
# Keys that are younger than some runs, which keep their names: at their defaults they decide nothing.
YOUNGER = {
    "callbacks": [],
    "objects": [],
    "method.own": {},
    "trainer.deterministic": False,
    "backbone.quantize": None,
    "rows.reader": None,
    "rows.options": {},
    "rows.held": None,
    "answers": "generation",
}
LONGEST_NAME = 80


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested mappings to one level with dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def identity(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the dotted keys of a configuration that decide what a run computes, with their values.

    A source that is not read decides nothing: a control is the same run in a sweep over sources.
    """
    decisive = {
        key: value
        for key, value in flatten(config).items()
        if not _is_younger(key, value)
        and not (key.startswith("seeds.") and value in (None, config.get("seed")))
        and key not in INCIDENTAL
        and key.split(".", 1)[0] not in INCIDENTAL
        and not key.endswith(".about")
    }
    if not reads_source(config):
        decisive["source"] = None
    return decisive


def _is_younger(key: str, value: Any) -> bool:
    """Tell whether a key is one of :data:`YOUNGER` at its default; those of a task are named without its name."""
    own = key.split(".", 2)[2] if key.startswith("tasks.") and key.count(".") > 1 else key
    return own in YOUNGER and value == YOUNGER[own] and type(value) is type(YOUNGER[own])


def reads_source(config: Mapping[str, Any]) -> bool:
    """Tell whether a run reads its ``source``, by the plain values of its configuration."""
    prompt, method = config.get("prompt") or {}, config.get("method") or {}
    when = find_stage(config["stage"]).source if config.get("stage") in STAGES else "never"
    if when != "by method":
        return when == "always"
    name = str(method.get("name"))
    return name in METHODS and find_method(name).reads_source(str(prompt.get("init")), bool(prompt.get("extend")))


def run_name(config: Mapping[str, Any]) -> str:
    """Name a run after its tasks and backbone, and six digits of a hash of its configuration.

    Args:
        config: The fields of :class:`mpt.config.RunConfig` as plain values.

    Returns:
        Such as ``sum+mt+dlg-tiny-3f2a9c``: the same under every process and restart.
    """
    names = list(config["tasks"])
    tasks = "+".join(names)
    if len(tasks) > LONGEST_NAME:
        tasks = f"{'+'.join(names[:3])}+{len(names) - 3}more"
    backbone = Path((find_stage(config["stage"]) if config["stage"] in STAGES else Stage).named_after(config)).name
    decisive = json.dumps(identity(config), sort_keys=True, default=str)
    # The order of the tasks is the order of the task ids, so it counts.
    digits = hashlib.sha256(json.dumps([names, decisive]).encode()).hexdigest()[:6]
    return re.sub(r"[^\w.+-]", "_", f"{tasks or 'none'}-{backbone}-{digits}")
