"""Packages that Lightning, transformers and PyTorch import, and a run hardly uses: what is not used is not loaded.

Together they are a quarter of the seconds that a small run needs, and no setting leaves them out. So each is put off
until something is asked of it that is not in this table; from then on the real one is there, whole.

=============================== =================================== =================================================
Put off                         Who imports it                      What is there before
=============================== =================================== =================================================
``torchmetrics``                ``lightning.pytorch``               the two classes that Lightning needs, from modules
                                                                    of their own: not text, audio, images and the rest
``torchmetrics.utilities.plot`` ``torchmetrics.metric``             the names of types; it imports matplotlib
``scipy.optimize``              losses in ``transformers``          the function that they would call
``torch._dynamo``               ``lightning.fabric``, every         ``OptimizedModule``, of which nothing is an
                                optimizer, kernels in               instance yet, and what marks a function for the
                                ``transformers``                    compiler: the marks are made when there is one
=============================== =================================== =================================================

Only a command puts them off, never ``import mpt``: a program's own modules are its own.
``tests/test_deferred.py`` fails as soon as one of them is imported no longer, and counts what a run loads.
"""

import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial, wraps
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from importlib.metadata import version
from importlib.util import spec_from_loader
from types import ModuleType
from typing import Any


class NotYet(type):
    """Type of a class that stands in for another: nothing is an instance until the real one is loaded."""

    def __instancecheck__(cls, instance: object) -> bool:
        """Ask the real class, where there is one."""
        real = getattr(cls, "real", None)
        return real is not None and isinstance(instance, real)


class OptimizedModule(metaclass=NotYet):
    """Stands in for what ``torch.compile`` makes."""


def disable(function: Callable[..., Any] | None = None, *args: Any, **kwargs: Any) -> Callable[..., Any]:
    """Stand in for ``torch._dynamo.disable``, which hides a function from the compiler as soon as there is one."""
    if function is None:
        return partial(disable, **kwargs)
    hidden: list[Callable[..., Any]] = []

    @wraps(function)
    def call(*values: Any, **named: Any) -> Any:
        dynamo = sys.modules["torch._dynamo"]
        if isinstance(dynamo, Deferred):
            return function(*values, **named)
        if not hidden:
            hidden.append(dynamo.disable(function, *args, **kwargs))
        return hidden[0](*values, **named)

    return call


_marked: list[tuple[str, Callable[..., Any]]] = []
"""What was marked for the compiler while there was none: how, and which function."""


def mark(how: str) -> Callable[..., Any]:
    """Stand in for a function of ``torch._dynamo`` that marks another; the mark is made when there is a compiler."""

    def marked(function: Callable[..., Any]) -> Callable[..., Any]:
        _marked.append((how, function))
        return function

    return marked


def call_later(module: str, name: str) -> Callable[..., Any]:
    """Stand in for a function: its module is loaded when it is called."""
    return lambda *args, **kwargs: getattr(import_module(module), name)(*args, **kwargs)


PLOT = "torchmetrics.utilities.plot"
STAND_INS: Mapping[str, Mapping[str, Any]] = {
    "torchmetrics": {"_logger": logging.getLogger("torchmetrics")},
    PLOT: {
        "_AX_TYPE": object,
        "_PLOT_OUT_TYPE": object,
        "plot_single_or_multi_val": call_later(PLOT, "plot_single_or_multi_val"),
    },
    "scipy.optimize": {"linear_sum_assignment": call_later("scipy.optimize", "linear_sum_assignment")},
    "torch._dynamo": {
        "OptimizedModule": OptimizedModule,
        "graph_break": lambda *_, **__: None,  # as in code that runs as it is written
        "disable": disable,
        "allow_in_graph": mark("allow_in_graph"),
        "assume_constant_result": mark("assume_constant_result"),
    },
}
"""What is put off, and what each has before it is loaded."""
PARTS = {"Metric": "torchmetrics.metric", "MetricCollection": "torchmetrics.collections"}
"""What torchmetrics has before it is loaded as well, by the module of it that is."""
WITHOUT_PACKAGE = (*PARTS.values(), "torchmetrics.utilities", "torch._dynamo._trace_wrapped_higher_order_op")
"""Modules that need nothing of their package's own code."""


class Deferred(ModuleType):
    """A module whose code runs when something is asked of it that it does not have."""

    def __getattr__(self, name: str) -> Any:
        """Load the module, and return what it has under the name."""
        if name == "__version__" and self.__name__ == "torchmetrics":  # which Lightning compares
            return version(self.__name__)
        if name.startswith("__"):  # asked of every module by those that look through all of them
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        if self.__name__ == "torchmetrics" and name in PARTS:
            import_module("torchmetrics.utilities")  # it and ``metric`` import each other, and only in this order
            return getattr(import_module(PARTS[name]), name)
        load(self)
        return getattr(self, name)


class Finder(MetaPathFinder):
    """Find what is put off, and load a package before the first of its own modules, as Python would have."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        """Answer for a module that is put off, and for one that its package imports while it is loaded."""
        if name in STAND_INS:
            spec = PathFinder.find_spec(name, path, target)
            if spec is not None and spec.loader is not None:
                spec.loader = Later(spec.loader)
            return spec
        package = sys.modules.get(name.rpartition(".")[0])
        if not isinstance(package, Deferred) or name in WITHOUT_PACKAGE:
            return None
        load(package)
        return spec_from_loader(name, Imported(sys.modules[name])) if name in sys.modules else None


class Later(Loader):
    """Make a module without running its code."""

    def __init__(self, loader: Loader) -> None:
        self.loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """Make the module."""
        return Deferred(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Give it its stand-ins."""
        vars(module).update(STAND_INS[module.__name__])


class Imported(Loader):
    """Hand out a module that is imported already."""

    def __init__(self, module: ModuleType) -> None:
        self.module, self.spec = module, module.__spec__
        module.__spec__ = None  # or Python would take it, and run the module's code a second time

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """Return the module."""
        return self.module

    def exec_module(self, module: ModuleType) -> None:
        """Give the module its own specification back."""
        module.__spec__ = self.spec


def defer() -> None:
    """Put off what is not imported yet; a second call does nothing."""
    if not any(isinstance(finder, Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, Finder())


def load(module: ModuleType) -> None:
    """Run the code of a module that was put off, and forget what stood in for it."""
    spec = module.__spec__
    assert spec is not None
    assert isinstance(spec.loader, Later)
    module.__class__ = ModuleType
    for name in STAND_INS[module.__name__]:
        delattr(module, name)
    spec.loader = module.__loader__ = spec.loader.loader
    spec.loader.exec_module(module)
    if module.__name__ == "torch._dynamo":
        OptimizedModule.real = module.OptimizedModule  # type: ignore[attr-defined]
        while _marked:
            how, function = _marked.pop()
            getattr(module, how)(function)
