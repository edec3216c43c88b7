"""Everything in a task's configuration that is wrong by itself."""

import codecs
import re
from collections.abc import Iterator
from difflib import get_close_matches

from mpt import world
from mpt.config import PAPER_SPLITS, RowsConfig, TaskConfig
from mpt.metrics import LOWER_IS_BETTER, METRICS
from mpt.tasks.carve import parse
from mpt.tasks.examples import label_words
from mpt.tasks.rows import SPLITS
from mpt.tasks.template import Template

# What metrics.json keeps beside the names of tasks.
RESERVED_NAMES = ("average", "prompt")


def check_task(name: str, config: TaskConfig) -> list[str]:
    """Find everything that is wrong with a task's configuration by itself.

    Returns:
        One sentence per error.
    """
    return [f"tasks.{name}{error}" for error in [*_name_errors(name), *_errors(config)]]


def _name_errors(name: str) -> Iterator[str]:
    if name in RESERVED_NAMES:
        yield f": metrics.json keeps the name {name!r} for its own; give the task another"
    if not re.fullmatch(r"\w[\w.-]*", name):
        yield ": the name becomes a file's name; use letters, digits, '_', '-' and '.'"


def _errors(config: TaskConfig) -> Iterator[str]:
    sources = [key for key in ("world", "files", "hub") if getattr(config.rows, key) is not None]
    if len(sources) != 1:
        yield f".rows: has {', '.join(sources) or 'no source'}; give exactly one of world, files and hub"
    if config.rows.world is not None and config.rows.world not in world.TASKS:
        close = get_close_matches(config.rows.world, world.TASKS, n=1)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        yield f".rows.world: no task {config.rows.world!r} in the embedded world{hint}"
    if config.rows.paper_split not in (None, *PAPER_SPLITS):
        yield (
            f".rows.paper_split: unknown {config.rows.paper_split!r}; choose one of {', '.join(PAPER_SPLITS)}"
        )
    if unknown := sorted(set(config.rows.splits) - set(SPLITS)):
        yield f".rows.splits: unknown split {', '.join(map(repr, unknown))}; choose from {', '.join(SPLITS)}"
    if config.rows.files is not None:
        yield from _file_errors(config.rows)
    well_formed = True
    for key in ("input", "target"):
        try:
            if not Template(getattr(config, key)).columns:
                yield f".{key}: {getattr(config, key)!r} names no column; every row would be the same"
        except ValueError as error:
            yield f".{key}: {error}"
            well_formed = False
    if well_formed and config.constrained and not label_words(config):
        yield (
            ".constrained: restricts answers to label words, and there are none; give labels for the one column that "
            "target names, or set it to false"
        )
    if not config.metrics:
        yield f".metrics: there are none; choose from {', '.join(METRICS)}"
    for metric in config.metrics:
        if metric not in METRICS:
            close = get_close_matches(metric, METRICS, n=1)
            hint = f" (did you mean {close[0]!r}?)" if close else ""
            yield f".metrics: unknown metric {metric!r}; choose one of {', '.join(METRICS)}{hint}"
    if config.metrics and config.metrics[0] in LOWER_IS_BETTER:
        yield f".metrics: {config.metrics[0]} is an error, and the first metric is the score; put another before it"
    if not config.weight > 0 or config.weight == float("inf"):
        yield f".weight: is {config.weight}; λ must be a number above 0"
    for key in ("max_source_tokens", "max_target_tokens"):
        if getattr(config, key) < 2:
            yield f".{key}: is {getattr(config, key)}; it must be at least 2, a token and the end"


def _file_errors(rows: RowsConfig) -> Iterator[str]:
    """Find what is wrong with how a task's files are read."""
    for split, text in rows.splits.items():
        try:
            parse(text)
        except ValueError as error:
            yield f".rows.splits.{split}: {error}"
    if rows.delimiter is not None and (len(rows.delimiter) != 1 or rows.delimiter in '"\r\n'):
        yield f".rows.delimiter: is {rows.delimiter!r}; give one character, such as ';' or \"\\t\""
    try:
        codecs.lookup(rows.encoding)
    except LookupError:
        yield f".rows.encoding: Python knows no {rows.encoding!r}; give one such as utf-8, utf-16 or latin-1"
