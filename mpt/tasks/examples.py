"""From rows to examples: templates filled, labels put into words, references collected."""

from dataclasses import dataclass
from typing import Any

from mpt.config import TaskConfig
from mpt.metrics import OF_CLASSES
from mpt.tasks.files import Row
from mpt.tasks.rows import read_rows
from mpt.tasks.template import Template


@dataclass(frozen=True)
class Example:
    """One row as text."""

    row_id: str
    """Split and 0-based row in the data: ``train:17``."""
    input: str
    target: str
    references: tuple[str, ...]
    """Every accepted target; never empty."""
    label: str | None = None
    """The class, for a classification."""


def load_split(name: str, config: TaskConfig, split: str, data_root: str | None = None) -> list[Example]:
    """Read one split of a task.

    Args:
        name: The task's name.
        config: Its configuration.
        split: train, validation or test.
        data_root: Read ``data_root/<name>/<split>.jsonl`` in place of files or the hub.

    Returns:
        At least one example.

    Raises:
        FileNotFoundError: There is no such file or hub data set.
        ValueError: A row is broken; the message says which line of which file, and what would be right.
    """
    templates = Template(config.input), Template(config.target)
    rows = read_rows(name, config, split, data_root)
    examples = [_example(name, config, templates, split, row) for row in rows]
    if not examples:
        raise ValueError(f"tasks.{name}: the {split} split has no rows; give at least one")
    return examples


def _example(
    name: str, config: TaskConfig, templates: tuple[Template, Template], split: str, row: Row
) -> Example:
    values = {column: _labelled(config, column, value, row) for column, value in row.values.items()}
    for key, template in zip(("input", "target"), templates, strict=True):
        for column in template.columns:
            if values.get(column) is None:
                has = "is empty" if column in values else "is missing"
                raise ValueError(
                    f"{row.where}: column {column!r} of tasks.{name}.{key} {has}; the row has "
                    f"{', '.join(sorted(values)) or 'no columns'}"
                )
    text = templates[0].fill({c: _text(values[c], config.join) for c in templates[0].columns}).strip()
    target = templates[1].fill({c: _text(_first(values[c]), " ") for c in templates[1].columns}).strip()
    if not target:
        raise ValueError(f"{row.where}: the target of tasks.{name} is empty; every row needs one")
    if not text:
        raise ValueError(f"{row.where}: the input of tasks.{name} is empty; every row needs one")
    references: tuple[str, ...] = ()
    if config.references is not None and values.get(config.references):
        listed = values[config.references]
        references = tuple(
            _text(item, " ").strip() for item in (listed if isinstance(listed, list) else [listed])
        )
    label = target if config.metrics and config.metrics[0] in OF_CLASSES else None
    return Example(f"{split}:{row.number}", text, target, references or (target,), label)


def label_words(config: TaskConfig) -> list[str]:
    """List the texts that the target of a classification may be, each once; empty where they are not known beforehand.

    They are where the target names a single column, which has ``labels``.
    """
    template = Template(config.target)
    columns = template.columns
    if len(columns) != 1 or columns[0] not in config.labels:
        return []
    words = config.labels[columns[0]].values()
    return list(dict.fromkeys(template.fill({columns[0]: word}).strip() for word in words))


def _labelled(config: TaskConfig, column: str, value: Any, row: Row) -> Any:
    """The label word of a value; a value that is one already stays."""
    words = config.labels.get(column)
    if words is None or value is None:
        return value
    text = _text(value, " ")
    if text in words:
        return words[text]
    if text in words.values():
        return text
    raise ValueError(
        f"{row.where}: column {column!r} is {text!r}, which has no label word; the values are {', '.join(words)}"
    )


def _first(value: Any) -> Any:
    return (value[0] if value else "") if isinstance(value, list) else value


def _text(value: Any, join: str) -> str:
    if isinstance(value, list):
        return join.join(_text(item, join) for item in value)
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        # A float32 read as float64 has many digits: 3.799999952316284.
        return str(round(value, 4))
    return str(value)
