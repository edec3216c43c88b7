"""What Hydra 1.3 and 1.4 want said differently."""

import inspect
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import hydra
from omegaconf import OmegaConf

CALLBACK = "mpt.sweep.sweep_record.RememberFolder"
"""The one class that ``conf/`` has Hydra build."""

IS_OLD = tuple(map(int, version("hydra-core").split(".")[:2])) < (1, 4)
VERSION_BASE: dict[str, Any] = {"version_base": "1.3"} if IS_OLD else {}
"""Arguments of :func:`hydra.initialize_config_dir`; 1.4 warns of the version that 1.3 has to be given."""
MAIN: dict[str, Any] = VERSION_BASE
"""Arguments of :func:`hydra.main`; 1.4 is to be told which classes a configuration may name."""
if "execution_whitelist" in inspect.signature(hydra.main).parameters:
    MAIN = VERSION_BASE | {"execution_whitelist": [CALLBACK]}


def register_resolver(name: str, resolve: Callable[..., Any]) -> None:
    """Make ``${name:}`` known to OmegaConf, once more where it is already."""
    # Before 2.4 a function of the newer name is there, and does something else.
    register: Any = OmegaConf.register_new_resolver if IS_OLD else OmegaConf.register_resolver
    register(name, resolve, replace=True)
