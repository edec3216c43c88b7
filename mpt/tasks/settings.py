"""Decoding settings of a trained task, saved with its prompt so that it answers later as it was scored."""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from mpt.config import RowsConfig, TaskConfig
from mpt.errors import UserError
from mpt.tasks.examples import fill_input, label_words
from mpt.tasks.files import Row
from mpt.tasks.generation import check_generation
from mpt.tasks.rows import rename_columns
from mpt.tasks.template import Template

DEFAULT_NEW_TOKENS = 128


class Surround(NamedTuple):
    """Text around every input of a task, where a method writes some: a written instruction, or examples."""

    before: str = ""
    after: str = ""
    longest: int | None = None
    """Longest input with it, in tokens; None: that of the task."""
    said: str = ""
    """A sentence on it, which the run prints."""

    def write(self, text: str) -> str:
        """Put an input between the two."""
        return self.before + text + self.after


@dataclass(frozen=True)
class AnswerSettings:
    """The template of a task's inputs, and the decoding of its answers.

    Attributes:
        input: The template of the input; None: only whole inputs are understood.
        join: Text that joins the items of a list column.
        labels: Label words of the columns.
        rename: A column of the data to the name that the template uses.
        max_source_tokens: Longest input in tokens; None: what the model takes.
        max_target_tokens: Longest answer in tokens.
        generation: Arguments of ``generate`` beyond greedy search.
        choices: The texts that an answer may be; None: any.
        answers: One of :data:`mpt.config.ANSWERS`.
        before: Text before every input.
        after: Text after it.
    """

    input: str | None = None
    join: str = "\n"
    labels: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    rename: Mapping[str, str] = field(default_factory=dict)
    max_source_tokens: int | None = None
    max_target_tokens: int = DEFAULT_NEW_TOKENS
    generation: Mapping[str, Any] = field(default_factory=dict)
    choices: tuple[str, ...] | None = None
    answers: str = "generation"
    before: str = ""
    after: str = ""

    @classmethod
    def of_task(cls, config: TaskConfig, surround: Surround | None = None) -> "AnswerSettings":
        """Take them from the configuration of a task, and what a method writes around its inputs."""
        before, after, longest, _ = surround or Surround()
        columns = Template(config.input).columns
        return cls(
            input=config.input,
            join=config.join,
            labels={column: dict(words) for column, words in config.labels.items() if column in columns},
            rename={old: new for old, new in config.rows.rename.items() if new in columns},
            max_source_tokens=config.max_source_tokens if longest is None else longest,
            max_target_tokens=config.max_target_tokens,
            generation=dict(config.generation),
            choices=tuple(label_words(config)) if config.constrained or config.answers != "generation" else None,
            answers=config.answers,
            before=before,
            after=after,
        )

    @classmethod
    def from_json(cls, values: Any, where: str) -> "AnswerSettings":
        """Read what :meth:`to_json` wrote.

        Raises:
            UserError: It is something else.
        """
        known = {item.name for item in dataclasses.fields(cls)}
        if not isinstance(values, dict) or not set(values) <= known:
            raise UserError(f"{where}: are not the settings of a task's answers; save the prompt anew")
        found = cls(**values)
        if errors := [*check_generation(found.generation)]:
            raise UserError(f"{where}{errors[0]}")
        choices = None if found.choices is None else tuple(found.choices)
        return dataclasses.replace(found, choices=choices)

    def to_json(self) -> dict[str, Any]:
        """Write them as plain values."""
        return dataclasses.asdict(self)

    @property
    def key(self) -> str:
        """The same for two tasks whose inputs may be answered in one batch."""
        return json.dumps(
            [self.max_source_tokens, self.max_target_tokens, dict(self.generation), self.choices, self.answers],
            sort_keys=True,
        )

    def write_input(self, values: Mapping[str, Any], where: str, name: str) -> str:
        """Fill the template with the columns of a row, as training did.

        Raises:
            UserError: There is no template, or a column of it is missing or has no text.
        """
        if self.input is None:
            raise UserError(
                f"{where}: has columns, and the saved prompt does not know the template of {name!r}; give the whole "
                "input as 'text', or train with this version"
            )
        labels = {column: dict(words) for column, words in self.labels.items()}
        config = TaskConfig(rows=RowsConfig(), input=self.input, target="{target}", labels=labels, join=self.join)
        row = next(rename_columns(self.rename, [Row(0, where, dict(values))]))
        return fill_input(config, dict(row.values), where, name)
