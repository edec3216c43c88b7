"""The parts that a name stands for: those that ship, those that a plugin enters, those of installed packages."""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Generic, TypeVar

from mpt.errors import UserError

Part = TypeVar("Part")
Defined = TypeVar("Defined", bound=Callable[..., Any])


class Registry(Mapping[str, Part], Generic[Part]):
    """Name to part, each imported when it is asked for.

    A part enters itself when its module is imported (:meth:`enter`). What ships is imported by its module; an installed
    package offers a part by an entry point, whose name is the part's and whose object lies in a module that enters it.

    Args:
        kind: What a part is called, such as metric.
        group: The group of entry points, such as ``mpt.metrics``.
        shipped: Name to the module that enters the part of that name.
    """

    def __init__(self, kind: str, group: str, shipped: Mapping[str, str] | None = None) -> None:
        self.kind, self.group = kind, group
        self._shipped = dict(shipped or {})
        self._parts: dict[str, Part] = {}
        self._origins: dict[str, str] = {}

    def enter(self, name: str, part: Part, definition: Any) -> None:
        """Enter a part under its name.

        Args:
            name: The part's.
            part: What the name stands for.
            definition: The class or function that defines it: defined again, as in a notebook, it takes the old one's
                place.

        Raises:
            UserError: The name stands for another part already.
        """
        origin = f"{definition.__module__}.{definition.__qualname__}"
        before = self._origins.get(name) or (self._shipped.get(name) if name not in self._origins else None)
        if before not in (None, origin, definition.__module__):
            raise UserError(f"{self.group}: {name!r} is entered by {before}, and again by {origin}; rename one")
        self._parts[name], self._origins[name] = part, origin

    def entering(self, name: str) -> Callable[[Defined], Defined]:
        """Make a decorator that enters what it decorates under a name.

        Raises:
            UserError: The name stands for another part already.
        """

        def enter(definition: Defined) -> Defined:
            self.enter(name, definition, definition)  # type: ignore[arg-type]  # the registry's user says of what kind
            return definition

        return enter

    def offered(self) -> dict[str, EntryPoint]:
        """Return what installed packages offer, by name.

        Raises:
            UserError: Two packages offer one name, or one offers a name that ships.
        """
        found: dict[str, EntryPoint] = {}
        for point in points_of(self.group, tuple(sys.path)):
            taken = f"package {_package(found[point.name])}" if point.name in found else None
            if point.name in self._shipped:
                taken = "mpt itself"
            if taken and (point.name not in found or found[point.name].value != point.value):
                raise UserError(
                    f"{self.group}: the {self.kind} {point.name!r} of package {_package(point)} has the name of one "
                    f"of {taken}; uninstall one of the two, or rename it"
                )
            found[point.name] = point
        return found

    def __getitem__(self, name: str) -> Part:
        """Import a part.

        Raises:
            KeyError: There is none of that name.
            UserError: The package that offers it cannot be imported, or does not enter it.
        """
        if name not in self._parts:
            if name in self._shipped:
                import_module(self._shipped[name])
            elif (point := self.offered().get(name)) is not None:
                self._load(point)
            else:
                raise KeyError(name)
        return self._parts[name]

    def _load(self, point: EntryPoint) -> None:
        try:
            point.load()
        except UserError:
            raise
        except Exception as error:
            raise UserError(
                f"{self.group}: the {self.kind} {point.name!r} of package {_package(point)} cannot be loaded "
                f"({type(error).__name__}: {error}); mend or uninstall that package"
            ) from error
        if point.name not in self._parts:
            raise UserError(
                f"{self.group}: {point.value} of package {_package(point)} enters no {self.kind} {point.name!r}; "
                "decorate it, and give the entry point the same name"
            )

    def __contains__(self, name: object) -> bool:
        return name in self._parts or name in self._shipped or name in self.offered()

    def __iter__(self) -> Iterator[str]:
        return iter(sorted({*self._parts, *self._shipped, *self.offered()}))

    def __len__(self) -> int:
        return len(list(iter(self)))

    def is_entered(self, name: str) -> bool:
        """Tell whether a part is there without another import."""
        return name in self._parts

    def is_shipped(self, name: str) -> bool:
        """Tell whether a part ships with mpt."""
        return name in self._shipped or self._origins.get(name, "").startswith("mpt.")


@cache
def points_of(group: str, path: Sequence[str]) -> Sequence[EntryPoint]:
    """Read the entry points of a group, once: each time, the files of all installed packages are opened.

    Args:
        group: The group.
        path: ``sys.path``; where it has changed they are read again.
    """
    return tuple(entry_points(group=group))


def _package(point: EntryPoint) -> str:
    return point.dist.name if point.dist else "of an unknown name"
