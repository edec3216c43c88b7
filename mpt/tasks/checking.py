"""Everything in a task's configuration that is wrong by itself."""

import codecs
import re
import unicodedata
from collections.abc import Iterator
from difflib import get_close_matches
from importlib.util import find_spec

from mpt import world
from mpt.config import ANSWERS, PAPER_SPLITS, PREPROCESSINGS, QUOTINGS, RowsConfig, TaskConfig
from mpt.errors import UserError, unknown
from mpt.metrics import METRICS, TOKENIZERS
from mpt.metrics.words import PACKAGES
from mpt.tasks.carve import parse
from mpt.tasks.examples import label_words
from mpt.tasks.generation import check_generation
from mpt.tasks.readers import READERS
from mpt.tasks.rows import SPLITS
from mpt.tasks.template import Template

# What metrics.json keeps beside the names of tasks.
RESERVED_NAMES = ("average", "prompt")


SOURCES = ("world", "files", "hub", "reader", "held")
"""Keys of ``rows`` that say where rows come from."""
LONGEST = 1_000_000
"""Tokens of the longest input or target that a task may ask for."""
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")
NO_NAMES = ("true", "false", "null", "none", "nan", "inf", "on", "off", "yes", "no", "y", "n")
"""Words that a command line or YAML reads as something else than a text."""


def propose_name(name: str) -> str:
    """Turn a name into one that a task can have."""
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    word = re.sub(r"[^A-Za-z0-9_-]+", "_", plain).strip("_-")
    if not word or not re.match(r"[A-Za-z_]", word) or word.lower() in (*NO_NAMES, *RESERVED_NAMES):
        word = f"task_{word}" if word else "my_task"
    return word


def check_task(name: str, config: TaskConfig) -> list[str]:
    """Find everything that is wrong with a task's configuration by itself.

    Returns:
        One sentence per error.
    """
    return [f"tasks.{name}{error}" for error in [*_name_errors(name), *_errors(config)]]


def _name_errors(name: str) -> Iterator[str]:
    if name in RESERVED_NAMES:
        yield f": metrics.json keeps the name {name!r} for its own; give the task another"
    if not NAME.fullmatch(name) or name.lower() in NO_NAMES:
        yield (
            ": the name becomes that of a key and of a file; use ASCII letters, digits, '_' and '-', and begin with a "
            f"letter, as in {propose_name(name)!r}"
        )


def _errors(config: TaskConfig) -> Iterator[str]:
    sources = [key for key in SOURCES if getattr(config.rows, key) is not None]
    if len(sources) != 1:
        yield f".rows: has {', '.join(sources) or 'no source'}; give exactly one of world, files, hub and reader"
    if config.rows.reader is not None and config.rows.reader not in READERS:
        known = f"choose one of {', '.join(READERS)}" if len(READERS) else "there are none"
        yield f".rows.reader: unknown {config.rows.reader!r}; {known}, or name the module that brings it in plugins="
    if config.rows.options and config.rows.reader is None:
        yield f".rows.options: is {dict(config.rows.options)}, and there is no reader that takes it; leave it out"
    if config.rows.world is not None and config.rows.world not in world.TASKS:
        close = get_close_matches(config.rows.world, world.TASKS, n=1)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        yield f".rows.world: no task {config.rows.world!r} in the embedded world{hint}"
    if config.rows.paper_split not in (None, *PAPER_SPLITS):
        yield (f".rows.paper_split: unknown {config.rows.paper_split!r}; choose one of {', '.join(PAPER_SPLITS)}")
    if others := sorted(set(config.rows.splits) - set(SPLITS)):
        yield f".rows.splits: unknown split {', '.join(map(repr, others))}; choose from {', '.join(SPLITS)}"
    if config.rows.files is not None:
        yield from _file_errors(config.rows)
    if config.rows.hub is None:  # whose own library reads slices that ours does not
        yield from _slice_errors(config.rows)
    if config.rows.world is not None and config.rows.splits:
        yield f".rows.splits: is {dict(config.rows.splits)}, and the embedded world has its splits; leave it out"
    if config.rows.preprocess not in (None, *PREPROCESSINGS):
        yield unknown(".rows.preprocess", str(config.rows.preprocess), PREPROCESSINGS)
    for column, step in config.rows.round.items():
        if not 0 < step < float("inf"):
            yield f".rows.round.{column}: is {step}; it must be a number above 0"
    well_formed = True
    for key in ("input", "target"):
        try:
            if not Template(getattr(config, key)).columns:
                yield f".{key}: {getattr(config, key)!r} names no column; every row would be the same"
        except UserError as error:
            yield f".{key}: {error}"
            well_formed = False
    if well_formed and config.constrained and not label_words(config):
        yield (
            ".constrained: restricts answers to label words, and there are none; give labels for the one column that "
            "target names, or set it to false"
        )
    if well_formed:
        named = {*Template(config.input).columns, *Template(config.target).columns, config.references}
        for column in config.labels:
            if column not in named:
                yield f".labels: is of the column {column!r}, which neither input, target nor references names"
    if config.answers not in ANSWERS:
        yield unknown(".answers", config.answers, ANSWERS)
    elif config.answers != "generation" and well_formed and not label_words(config):
        yield (
            f".answers: is {config.answers}, which compares label words, and there are none; give labels for the one "
            "column that target names, or set it to generation"
        )
    elif config.answers != "generation" and config.generation:
        yield f".generation: is {dict(config.generation)}, and answers={config.answers} writes no text; leave it out"
    if not config.metrics:
        yield f".metrics: there are none; choose from {', '.join(METRICS)}"
    for metric in config.metrics:
        if metric not in METRICS:
            close = get_close_matches(metric, METRICS, n=1)
            hint = f" (did you mean {close[0]!r}?)" if close else ""
            yield f".metrics: unknown metric {metric!r}; choose one of {', '.join(METRICS)}{hint}"
    if twice := sorted({name for name in config.metrics if config.metrics.count(name) > 1}):
        yield f".metrics: {', '.join(twice)} is listed twice; name each once"
    first = METRICS.get(config.metrics[0]) if config.metrics else None
    if first and not first.higher_is_better:
        yield f".metrics: {config.metrics[0]} is an error, and the first metric is the score; put another before it"
    if not config.weight > 0 or config.weight == float("inf"):
        yield f".weight: is {config.weight}; λ must be a number above 0"
    yield from check_generation(config.generation)
    yield from _metric_errors(config)
    for key in ("max_source_tokens", "max_target_tokens"):
        if not 2 <= getattr(config, key) <= LONGEST:
            yield f".{key}: is {getattr(config, key)}; it must be from 2, a token and the end, to {LONGEST:,}"


def _metric_errors(config: TaskConfig) -> Iterator[str]:
    """Find metrics that could not say anything about the task."""
    if config.metric_tokenizer not in TOKENIZERS:
        yield unknown(".metric_tokenizer", config.metric_tokenizer, TOKENIZERS)
    module, package = PACKAGES.get(config.metric_tokenizer, ("re", ""))
    if find_spec(module) is None:
        yield f".metric_tokenizer: {config.metric_tokenizer} needs a package that is not here; pip install '{package}'"
    try:
        words = label_words(config)
    except UserError:
        return  # the template is broken, which is said elsewhere
    if "f1_true" in config.metrics and words and "true" not in words:
        yield (
            f".metrics: f1_true is the F1 of the label word 'true', and the words are {', '.join(words)}; name one of "
            "them 'true', or choose macro_f1"
        )


def _slice_errors(rows: RowsConfig) -> Iterator[str]:
    """Find what is wrong with how splits are cut."""
    for split, text in rows.splits.items():
        try:
            parse(text)
        except UserError as error:
            yield f".rows.splits.{split}: {error}"


def _file_errors(rows: RowsConfig) -> Iterator[str]:
    """Find what is wrong with how a task's files are read."""
    if rows.quoting not in (None, *QUOTINGS):
        yield unknown(".rows.quoting", str(rows.quoting), QUOTINGS)
    if rows.delimiter is not None and (len(rows.delimiter) != 1 or rows.delimiter in '"\r\n'):
        yield f".rows.delimiter: is {rows.delimiter!r}; give one character, such as ';' or \"\\t\""
    try:
        is_of_text = codecs.lookup(rows.encoding)._is_text_encoding
    except LookupError:
        yield f".rows.encoding: Python knows no {rows.encoding!r}; give one such as utf-8, utf-16 or latin-1"
    else:
        if not is_of_text or rows.encoding.lower() in ("undefined", "idna", "punycode"):
            yield f".rows.encoding: {rows.encoding!r} is no encoding of texts; give one such as utf-8 or latin-1"
