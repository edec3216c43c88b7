"""The configuration of a prompt: its shape, its composition, what it starts from.

Shape legend: T tasks, G groups of P, N virtual tokens, R ranks, D token_dim.
"""

from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Any

from mpt.config import FACTOR_INITS, FORMS, OLD_FORMS, PLAIN, MultitaskPromptTuningInit
from mpt.errors import UserError


class TaskType(StrEnum):
    """The kind of backbone; PEFT drops a prompt that does not name it."""

    SEQ_2_SEQ_LM = "SEQ_2_SEQ_LM"
    CAUSAL_LM = "CAUSAL_LM"


@dataclass
class MultitaskPromptTuningConfig:
    """Shape, composition and first values of a prompt; PEFT's names and defaults, and ours beside them.

    Raises:
        UserError: A value is unknown, out of range, or contradicts another.
    """

    task_type: str | None = TaskType.SEQ_2_SEQ_LM
    num_virtual_tokens: int = 20
    """N."""
    token_dim: int | None = None
    """D; None: the width of the word embeddings."""
    num_tasks: int = 1
    """T; with ``task_names`` it may be left out."""
    num_ranks: int = 1
    """R; the paper uses 1."""
    num_transformer_submodules: int | None = 1
    """Always 1: the prompt of a decoder would never be used by ``generate``."""
    prompt_tuning_init: str = MultitaskPromptTuningInit.RANDOM
    prompt_tuning_init_text: str | None = None
    prompt_tuning_init_state_dict_path: str | None = None
    """File of the source prompt's tensors, unless a source is passed in."""
    prompt_tuning_init_task: int | str = 0
    """Position, or with a source that is passed in also the name, of the task of EXACT_SOURCE_TASK."""
    tokenizer: Any = None
    """The tokenizer for TEXT, in place of its name."""
    tokenizer_name_or_path: str | None = None
    tokenizer_kwargs: dict[str, Any] | None = None
    inference_mode: bool = False
    """The values are about to be loaded: needs no tokenizer, no word embeddings and no source."""
    task_names: list[str] = field(default_factory=list)
    """T distinct names; position i is ``task_ids == i``. Empty: ``task_0``, ``task_1``, ..."""
    form: str = "product"
    """product: ``P * (cols @ rows)``; residual: ``P * (1 + cols @ rows)``; additive: ``P + cols @ rows``;
    independent: a plain prompt per task; single: one plain prompt for all tasks, P itself."""
    num_groups: int = 1
    """G; under form independent it is T."""
    task_groups: list[int] | None = None
    """Group of each task; None: all in group 0, or under form independent each in its own."""
    init_std: float = 1.0
    """Standard deviation of P under RANDOM; PEFT's is 1."""
    factor_init: str = "normal"
    """normal: cols and rows from N(0, factor_std^2), as PEFT; ones: W starts at 1 plus noise."""
    factor_std: float = 0.02

    @classmethod
    def from_peft(cls, config: Any) -> "MultitaskPromptTuningConfig":
        """Take over PEFT's own config object; what only ours has keeps its default, which is what PEFT does.

        Args:
            config: A ``peft.MultitaskPromptTuningConfig``.

        Raises:
            UserError: A value is unknown or out of range.
        """
        plain = {item.name: getattr(config, item.name) for item in fields(cls) if hasattr(config, item.name)}
        values = {name: getattr(value, "value", value) for name, value in plain.items()}
        if values["prompt_tuning_init"] == "SAMPLE_VOCAB":  # PEFT's word of prompt tuning
            values["prompt_tuning_init"] = MultitaskPromptTuningInit.VOCABULARY
        return cls(**values)

    @property
    def has_factors(self) -> bool:
        """True where tasks have cols and rows."""
        return self.form not in PLAIN

    def __post_init__(self) -> None:
        self.form = OLD_FORMS.get(self.form, self.form)
        _check_choice("task_type", self.task_type, tuple(TaskType))
        _check_choice("form", self.form, FORMS)
        _check_choice("prompt_tuning_init", self.prompt_tuning_init, tuple(MultitaskPromptTuningInit))
        _check_choice("factor_init", self.factor_init, FACTOR_INITS)
        for key in ("num_virtual_tokens", "num_ranks", "num_tasks", "num_groups"):
            _check_size(key, getattr(self, key))
        if self.token_dim is not None:
            _check_size("token_dim", self.token_dim)
        for key in ("init_std", "factor_std"):
            if not getattr(self, key) >= 0:
                raise UserError(f"{key}: is {getattr(self, key)}; it must not be negative")
        if self.num_transformer_submodules not in (None, 1):
            raise UserError(
                f"num_transformer_submodules: is {self.num_transformer_submodules}; it must be 1, "
                "since generate() would never use the prompt of a decoder"
            )
        self.num_transformer_submodules = 1
        self._settle_tasks()
        self._settle_groups()

    def _settle_tasks(self) -> None:
        names = list(self.task_names) or [f"task_{position}" for position in range(self.num_tasks)]
        _check_names(names)
        if self.num_tasks not in (1, len(names)):
            raise UserError(f"num_tasks: is {self.num_tasks}, but task_names has {len(names)}; leave one out")
        self.task_names, self.num_tasks = names, len(names)

    def _settle_groups(self) -> None:
        T = self.num_tasks
        if self.form == "independent":
            if self.num_groups not in (1, T) or self.task_groups not in (None, list(range(T))):
                raise UserError(
                    f"task_groups: is {self.task_groups} of {self.num_groups}; form=independent gives each task a "
                    "prompt of its own, so leave task_groups and num_groups out"
                )
            self.num_groups, self.task_groups = T, list(range(T))
        elif self.task_groups is None:
            self.task_groups = [0] * T
        else:
            self.task_groups = list(self.task_groups)
        if len(self.task_groups) != T or not all(0 <= group < self.num_groups for group in self.task_groups):
            raise UserError(
                f"task_groups: is {self.task_groups}; it must give each of the {T} tasks a group from 0 to "
                f"{self.num_groups - 1}"
            )


def _check_choice(key: str, value: str | None, options: tuple[str, ...]) -> None:
    if value not in options:
        raise UserError(f"{key}: unknown value {value!r}; choose one of {', '.join(options)}")


def _check_size(key: str, value: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise UserError(f"{key}: is {value!r}; it must be a whole number of at least 1")


def _check_names(names: list[str]) -> None:
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(f"task_names: repeats {', '.join(repeated)}; give every task its own name")
