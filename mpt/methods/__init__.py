"""The methods: multitask prompt tuning and its baselines, one file each.

Each file holds its method's facts beside its code, as a :class:`Method` that ``@method`` enters, and is named as
``method=`` names it. Only the file of the chosen method is imported, so that a mistake is answered before torch is.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pkgutil import iter_modules
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, TypeVar

from mpt.config import OF_SOURCE, MethodConfig, RunConfig, TaskConfig
from mpt.registry import Registry

if TYPE_CHECKING:
    from mpt.adapter import Adapter
    from mpt.backbone import Backbone, Tokenization
    from mpt.prompt import MultitaskPromptEmbedding
    from mpt.tasks import Example, Surround

KEYS = ("num_ranks", "temperature", "alpha", "modules")
"""Keys of :class:`MethodConfig` that only some methods have a use for."""


class Start(NamedTuple):
    """Everything that a method is built from."""

    prompt: "MultitaskPromptEmbedding"
    """A prompt of the configured shape with its first values; a method without prompts takes only the size to compare
    with from it."""
    settings: MethodConfig
    """The section ``method``."""
    backbone: "Backbone"
    """The frozen model."""
    tasks: Mapping[str, TaskConfig]
    """The T tasks."""
    source: "MultitaskPromptEmbedding | None"
    """The source run's prompt, where the method reads it."""


class Written(NamedTuple):
    """Everything that a method may write around inputs from."""

    train: "Mapping[str, Sequence[Example]]"
    """Task to the examples that it may learn from."""
    inputs: Mapping[str, Sequence[str]]
    """Task to the inputs that are answered."""
    tokenization: "Tokenization"
    """The backbone's."""
    room: int | None
    """Longest input that the backbone has positions for; None: any."""
    seed: int
    """Of the order of the examples."""


class Method(ABC):
    """A method's facts, what a configuration must have for it, and how it is built."""

    name: ClassVar[str]
    """As ``method.name`` and its file call it."""
    keys: ClassVar[tuple[str, ...]] = ()
    """Those of :data:`KEYS` that it reads."""
    required: ClassVar[tuple[str, ...]] = ()
    """Those of them that must have a value."""
    own: ClassVar[Mapping[str, Any]] = {}
    """Keys of its own with their defaults; ``method.own.KEY=VALUE`` sets them."""
    defaults: ClassVar[Mapping[str, Any]] = {}
    """Dotted keys that ``method=NAME`` sets, such as ``{"prompt.num_virtual_tokens": 10}``, for a method from outside;
    one that ships has a file in ``conf/method/``."""
    source: ClassVar[Literal["always", "to start", "never"]] = "to start"
    """When it reads ``source`` in a target run; to start: where ``prompt.init`` or ``prompt.extend`` asks."""
    has_factors: ClassVar[bool] = False
    """True where its prompts may have factors, be extended, and learn from teachers."""
    is_within_backbone: ClassVar[bool] = False
    """True where it trains the backbone's own weights, so that no other run can share the backbone."""
    learns: ClassVar[bool] = True
    """False where nothing is trained: what it does is written around the inputs."""
    tasks_are_separate: ClassVar[bool] = False
    """True where the tasks of a run share nothing that is trained."""

    @classmethod
    @abstractmethod
    def build(cls, start: "Start") -> "Adapter":
        """Build what is trained.

        Raises:
            UserError: The method does not fit the backbone or the source.
        """

    @classmethod
    def surround(cls, config: RunConfig, written: "Written") -> "dict[str, Surround]":
        """Write a text around the inputs of each task that are answered; a task that is left out has none.

        Raises:
            UserError: Nothing that the method would write fits.
        """
        return {}

    @classmethod
    def reads_source(cls, init: str, extend: bool) -> bool:
        """Tell whether a target run reads anything of ``source``.

        One that is not read is ignored, so that a method and the baselines that need no source are one sweep.
        """
        return cls.source == "always" or (cls.source == "to start" and (init in OF_SOURCE or extend))

    @classmethod
    def separates_tasks(cls, config: RunConfig) -> bool:
        """Tell whether the tasks of a run share nothing that is trained."""
        return cls.tasks_are_separate

    @classmethod
    def check(cls, config: RunConfig) -> Iterator[str]:
        """Check what the method needs, and what it has no use for."""
        method, prompt = config.method, config.prompt
        for key in KEYS:
            if getattr(method, key) is not None and key not in cls.keys:
                yield f"method.{key}: is {getattr(method, key)}, but method.name={cls.name} has none; leave it out"
        for key in cls.required:
            if getattr(method, key) is None:
                yield f"method.{key}: is missing, and method.name={cls.name} needs it; method={cls.name} has a value"
        for key, value in method.own.items():
            if key not in cls.own:
                choose = f"choose one of {', '.join(cls.own)}" if cls.own else "leave it out"
                yield f"method.own.{key}: is {value!r}, but method.name={cls.name} has no such key; {choose}"
            elif type(value) is not type(cls.own[key]) and not (isinstance(cls.own[key], float) and type(value) is int):
                kind = type(cls.own[key]).__name__
                yield f"method.own.{key}: is {value!r}; it must be a {kind}, such as {cls.own[key]!r}"
        if not cls.has_factors and prompt.form != "independent":
            yield f"prompt.form: is {prompt.form}, and method.name={cls.name} has no factors; use method={cls.name}"
        if not cls.has_factors and prompt.extend:
            yield f"prompt.extend: method.name={cls.name} cannot be extended; set it to false"


METHODS: Registry[type[Method]] = Registry(
    "method", "mpt.methods", {module.name: f"{__name__}.{module.name}" for module in iter_modules(__path__)}
)
"""What ``method.name`` takes, each a :class:`Method`."""
Entered = TypeVar("Entered", bound=type[Method])


def method(entered: Entered) -> Entered:
    """Enter a :class:`Method` under its name.

    Raises:
        UserError: The name is another method's.
    """
    METHODS.enter(entered.name, entered, entered)
    return entered


def find_method(name: str) -> type[Method]:
    """Import a method.

    Raises:
        KeyError: There is none; ``mpt.cli.check`` refuses such a name before.
        UserError: The package that offers it cannot be imported.
    """
    return METHODS[name]


def choice_of(entered: type[Method]) -> dict[str, Any]:
    """Build what ``method=NAME`` sets for a method from outside, which has no file in ``conf/method/``."""
    chosen: dict[str, Any] = {"method": {"name": entered.name}}
    if entered.own:
        chosen["method"]["own"] = dict(entered.own)
    if not entered.has_factors:
        chosen["prompt"] = {"form": "independent", "init": "VOCABULARY"}
    for key, value in entered.defaults.items():
        *sections, last = key.split(".")
        place = chosen
        for section in sections:
            place = place.setdefault(section, {})
        place[last] = value
    return chosen
