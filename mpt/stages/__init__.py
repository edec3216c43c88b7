"""The stages, what ``task=`` chooses: one file a stage, with what it needs and where its code begins.

A file here imports nothing heavy, so that a mistake is answered before torch is. It holds a :class:`Stage` called
``STAGE`` and is named as ``task=`` names it.
"""

from collections.abc import Collection, Iterator, Mapping
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules, resolve_name
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

from mpt.config import RunConfig

if TYPE_CHECKING:
    from mpt.run.group_member import GroupMember
    from mpt.training.own_objects import OwnObjects

STAGES = tuple(sorted(module.name for module in iter_modules(__path__)))
"""The names that ``task=`` takes."""


class RunArguments(NamedTuple):
    """Everything that a stage runs with."""

    config: RunConfig
    """The checked configuration."""
    folder: Path
    """The run folder; made where it is not there."""
    member: "GroupMember | None" = None
    """The run's share of the group that it is a part of; None: it is by itself."""
    explicit: Collection[str] = ()
    """Dotted keys that the command line sets."""
    own: "OwnObjects | None" = None
    """Callbacks and arguments of the Trainer that a program hands over; None: none."""


class Stage:
    """A stage's facts, what a configuration must have for it, and where its code begins."""

    name: ClassVar[str]
    """As ``task=`` and its file call it."""
    trains: ClassVar[bool] = True
    """True where it trains, so that ``prompt``, ``method``, ``mixture`` and ``optim`` apply."""
    source: ClassVar[Literal["always", "by method", "never"]] = "never"
    """When it reads ``source``; by method: where the method asks for it."""
    takes_teachers: ClassVar[bool] = False
    """True where ``distill`` may name teachers."""
    leaves_folder: ClassVar[bool] = True
    """True where it leaves a run folder, which a second run finds finished."""

    @classmethod
    def run(cls, arguments: RunArguments) -> dict[str, Any]:
        """Carry the stage out.

        Returns:
            What ``metrics.json`` holds; empty in all but the main process.

        Raises:
            UserError: The data, the backbone or the folder does not fit the configuration.
            FileNotFoundError: Something that the configuration names is not there.
        """
        # By name: the code of a stage stands above what knows the facts of stages, and takes seconds to import.
        train = resolve_name("mpt.training.train:train")
        metrics: dict[str, Any] = train(arguments.config, arguments.folder, arguments.member, arguments.own)
        return metrics

    @classmethod
    def check(cls, config: RunConfig) -> Iterator[str]:
        """Check what only this stage needs."""
        yield from ()

    @classmethod
    def scored_splits(cls, config: RunConfig) -> list[str]:
        """List the splits that ``metrics.json`` has scores of."""
        return ["test", "validation"]

    @classmethod
    def named_after(cls, config: Mapping[str, Any]) -> str:
        """Choose what a run is called after beside its tasks, from the plain values of its configuration."""
        backbone = config["backbone"]
        return str(backbone.get("path") or backbone.get("name"))


def find_stage(name: str) -> type[Stage]:
    """Import a stage's file.

    Raises:
        KeyError: There is none; ``mpt.cli.check`` refuses such a name before.
    """
    if name not in STAGES:
        raise KeyError(name)
    stage: type[Stage] = import_module(f"{__name__}.{name}").STAGE
    return stage
