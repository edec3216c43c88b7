"""What a section of the page is made of: cells, tables and charts."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from mpt.report.estimate import Estimate
from mpt.report.labels import Labels


class Cell(NamedTuple):
    """A cell of a table: what it shows, and by what it is sorted."""

    text: str
    value: float | str
    hint: str = ""


@dataclass(frozen=True)
class Table:
    """A table that can be sorted.

    Attributes:
        header: Names of the columns.
        rows: Cells, as many in each row as the header has names.
        note: What stands below.
    """

    header: list[str]
    rows: list[list[Cell]]
    note: str = ""


class Chart(NamedTuple):
    """A chart and its caption."""

    title: str
    spec: Mapping[str, Any]


@dataclass
class Section:
    """A part of the page.

    Attributes:
        anchor: Its id.
        title: Its heading.
        about: How to read it, or what it says.
        legend: Name, color and mark of each line of its charts.
        charts: Its charts.
        table: Its table.
        items: Sentences, one below the other.
    """

    anchor: str
    title: str
    about: str = ""
    legend: list[tuple[str, str, str]] = field(default_factory=list)
    charts: list[Chart] = field(default_factory=list)
    table: Table | None = None
    items: list[str] = field(default_factory=list)


def interval_cell(found: Estimate) -> Cell:
    """The interval, sorted by its width."""
    return Cell(found.spread or "–", found.high - found.low if found.has_interval else -1.0)


def value_cell(key: str, value: Any, labels: Labels) -> Cell:
    """The value of a key, with its label."""
    text = "–" if value is None or value == "None" else labels.show_value(key, value)
    return Cell(text, value if isinstance(value, (int, float)) else text)


def number_cell(value: float | None, form: str = ".3f") -> Cell:
    """A number; where there is none, a dash, which is sorted before what no such number falls below."""
    if value is None or math.isnan(value):
        return Cell("–", -1.0)
    return Cell(format(value, form), value)
