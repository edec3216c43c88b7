"""Tasks: data sets cast as text-to-text; their rows, templates, examples and catalogue."""

from mpt.tasks.catalogue import catalogue
from mpt.tasks.checking import check_task
from mpt.tasks.examples import Example, choose_rows, digest_examples, fill_input, label_words, load_split
from mpt.tasks.files import read_csv
from mpt.tasks.rows import SPLITS, stamp_rows
from mpt.tasks.settings import AnswerSettings, Surround
from mpt.tasks.template import Template

__all__ = [
    "SPLITS",
    "AnswerSettings",
    "Example",
    "Surround",
    "Template",
    "catalogue",
    "check_task",
    "choose_rows",
    "digest_examples",
    "fill_input",
    "label_words",
    "load_split",
    "read_csv",
    "stamp_rows",
]
