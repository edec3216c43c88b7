"""From rows to examples: templates filled, labels put into words, references collected."""

import hashlib
import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mpt.config import TaskConfig
from mpt.errors import UserError
from mpt.metrics import METRICS
from mpt.metrics.correlation import read_number
from mpt.tasks.carve import spread
from mpt.tasks.files import Row
from mpt.tasks.rows import read_rows
from mpt.tasks.template import Template, read_template
from mpt.tasks.text import is_missing, round_to, to_text


@dataclass(frozen=True, slots=True)
class Example:
    """One row as text."""

    row_id: str
    """Split and 0-based row in the data, ``train:17``; ``train:17.2`` is the second example that this row gives."""
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
        UserError: A row is broken; the message says which line of which file, and what would be right.
    """
    target = read_template(config.target)
    # Training rows often have the target alone; where the rows that count lack the column, it may be misspelt.
    has_references = config.references is None or split != "test"
    examples = []
    for row in read_rows(name, config, split, data_root):
        has_references = has_references or config.references in row.values
        examples.append(_example(name, config, target, split, row))
    if not examples:
        raise UserError(f"tasks.{name}: the {split} split has no rows; give at least one")
    if not has_references:
        warnings.warn(
            f"tasks.{name}.references: no row of the test split has a column {config.references!r}, so the targets "
            "alone count as right",
            stacklevel=2,
        )
    _check_numbers(name, config, examples)
    return examples


def _check_numbers(name: str, config: TaskConfig, examples: Sequence[Example]) -> None:
    """Refuse a metric of numbers over targets that are none, before anything is trained."""
    of_numbers = [each for each in config.metrics if (found := METRICS.get(each)) and found.needs_numbers]
    for example in examples if of_numbers else ():
        if read_number(example.references[0]) is None:
            raise UserError(
                f"tasks.{name}.metrics: {of_numbers[0]} needs numbers, and the target of {example.row_id} is "
                f"{example.references[0]!r}; choose another metric"
            )


def choose_rows(examples: Sequence[Example], count: int | None, seed: int) -> list[Example]:
    """Choose some examples of a split that stand for all of them.

    Each class has its proportion, and a smaller choice lies within a larger one. Nothing of a run but the split, the
    count and the seed decides it, so all runs are scored on the same rows.

    Args:
        examples: The whole split.
        count: How many; None: all, in their order.
        seed: ``evaluation.rows_seed``.
    """
    if count is None or count >= len(examples):
        return list(examples)
    order = spread([example.label for example in examples], f"rows/{seed}")
    return [examples[position] for position in order[:count]]


def digest_examples(examples: Sequence[Example]) -> str:
    """Hash what a run reads of a split: row ids, inputs, targets, references and classes; 16 hexadecimal digits."""
    digest = hashlib.sha256()
    for each in examples:
        line = [each.row_id, each.input, each.target, each.references, each.label]
        digest.update(json.dumps(line, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n")
    return digest.hexdigest()[:16]


def fill_input(config: TaskConfig, values: dict[str, Any], where: str, name: str) -> str:
    """Fill the input template of a task with the columns of one row.

    Args:
        config: The task's; of it ``input``, ``labels`` and ``join`` count.
        values: Column to value.
        where: File and line, for errors.
        name: The task's name.

    Raises:
        UserError: A column is missing, empty of a value, or has one that is no text.
    """
    template = read_template(config.input)
    texts = {}
    for column in template.columns:
        value = _labelled(config, column, values.get(column), where)
        texts[column] = _fill(value, column, f"tasks.{name}.input", config.join, where, values)
    text = template.fill(texts).strip()
    if not text:
        raise UserError(f"{where}: the input of tasks.{name} is empty; every row needs one")
    return text


def _example(name: str, config: TaskConfig, template: Template, split: str, row: Row) -> Example:
    text = fill_input(config, dict(row.values), row.where, name)
    values = {column: _labelled(config, column, value, row.where) for column, value in row.values.items()}
    for column in template.columns:
        if config.rows.hub is not None and values.get(column) in (-1, -1.0):
            raise UserError(
                f"{row.where}: column {column!r} is -1, by which the hub hides the labels of a test split; choose a "
                "split with labels, as rows.paper_split does"
            )
        if column in config.rows.round:
            values[column] = round_to(values.get(column), config.rows.round[column], f"{row.where}: column {column!r}")
    firsts = {}
    for column in template.columns:
        value = _first(values.get(column))
        firsts[column] = _fill(value, column, f"tasks.{name}.target", " ", row.where, values)
    target = template.fill(firsts).strip()
    if not target:
        raise UserError(f"{row.where}: the target of tasks.{name} is empty; every row needs one")
    references = _references(name, config, template, firsts, target, values, row)
    first = METRICS.get(config.metrics[0]) if config.metrics else None
    label = target if first and first.needs_classes else None
    row_id = f"{split}:{row.number}" + (f".{row.part}" if row.part else "")
    return Example(row_id, text, target, references or (target,), label)


def _fill(value: Any, column: str, template: str, join: str, where: str, values: dict[str, Any]) -> str:
    """The text of a column that a template names."""
    if value is None or (isinstance(value, float) and is_missing(value)):
        has = "is missing" if column not in values else "is empty" if value is None else "is NaN"
        raise UserError(
            f"{where}: column {column!r} of {template} {has}; the row has {', '.join(sorted(values)) or 'no columns'}"
        )
    text = to_text(value, join, f"{where}: column {column!r} of {template}")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise UserError(
            f"{where}: column {column!r} of {template} has half of a character, {text[error.start]!a}; mend the file"
        ) from error
    return text


def _references(
    name: str,
    config: TaskConfig,
    template: Template,
    firsts: dict[str, str],
    target: str,
    values: dict[str, Any],
    row: Row,
) -> tuple[str, ...]:
    """Every accepted target of a row: each item of the column, in the place of the target's own; empty: there are none.

    Missing items are left out.
    """
    if config.references is None:
        return ()
    listed = values.get(config.references)
    items = listed if isinstance(listed, (list, tuple)) else [listed]
    where = f"{row.where}: column {config.references!r} of tasks.{name}.references"
    texts = [to_text(item, " ", where) for item in items if not is_missing(item)]
    texts = [text for text in texts if text.strip()]
    columns = template.columns
    if config.references in columns or len(set(columns)) == 1:
        column = config.references if config.references in columns else columns[0]
        return tuple(dict.fromkeys(template.fill(firsts | {column: text}).strip() for text in texts))
    found = tuple(dict.fromkeys(text.strip() for text in texts))
    if found and target not in found:
        raise UserError(
            f"{where}: the target {target!r} is none of the references {', '.join(map(repr, found[:3]))}, so the "
            "answer that is trained would count as wrong; name in target the column that the references are of"
        )
    return found


def label_words(config: TaskConfig) -> list[str]:
    """List the texts that the target of a classification may be, each once; empty where they are not known beforehand.

    They are where the target names a single column, which has ``labels``.
    """
    template = read_template(config.target)
    columns = template.columns
    if len(columns) != 1 or columns[0] not in config.labels:
        return []
    words = config.labels[columns[0]].values()
    return list(dict.fromkeys(template.fill({columns[0]: word}).strip() for word in words))


def _labelled(config: TaskConfig, column: str, value: Any, where: str) -> Any:
    """The label word of a value; a value that is one already stays."""
    words = config.labels.get(column)
    if words is None or value is None or (isinstance(value, float) and is_missing(value)):
        return value
    text = to_text(value, " ", f"{where}: column {column!r}")
    if text in words:
        return words[text]
    if text in words.values():
        return text
    if isinstance(value, float) and value.is_integer() and str(int(value)) in words:
        return words[str(int(value))]  # whole numbers with missing ones among them are written as 1.0
    raise UserError(
        f"{where}: column {column!r} is {text!r}, which has no label word; the values are {', '.join(words)}"
    )


def _first(value: Any) -> Any:
    """The first item of a list that is there; a value that is no list stays."""
    if not isinstance(value, (list, tuple)):
        return value
    return next((item for item in value if not is_missing(item)), "")
