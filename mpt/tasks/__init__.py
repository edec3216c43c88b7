"""Tasks: data sets cast as text-to-text; their rows, templates, examples and catalogue."""

from mpt.tasks.catalogue import catalogue
from mpt.tasks.check import check_task
from mpt.tasks.examples import Example, label_words, load_split
from mpt.tasks.rows import SPLITS
from mpt.tasks.template import Template

__all__ = ["SPLITS", "Example", "Template", "catalogue", "check_task", "label_words", "load_split"]
