"""Tables of estimates: in Markdown and LaTeX, with the values of one key side by side."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mpt.report.estimate import Estimate, order

LATEX = str.maketrans(
    {character: f"\\{character}" for character in "&%$#_{}"}
    | {"\\": r"\textbackslash ", "~": r"\textasciitilde ", "^": r"\textasciicircum "}
    | {"±": r"$\pm$", "–": "--"}
)
"""LaTeX's spelling of characters that have a meaning of their own there."""


def markdown(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Write a table in Markdown; line feeds in a cell are written out."""
    marks = str.maketrans({"|": "\\|", "\n": "\\n"})  # both would end a cell
    lines = ["| " + " | ".join(str(cell).translate(marks) for cell in row) + " |" for row in (header, *rows)]
    return "\n".join([lines[0], "|" + "---|" * len(header), *lines[1:]])


def latex(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Write a table in LaTeX, for the package booktabs."""
    first, *rest = (" & ".join(str(cell).translate(LATEX) for cell in row) + r" \\" for row in (header, *rows))
    columns = r"\begin{tabular}{" + "l" * len(header) + "}"
    lines = [columns, r"\toprule", first, r"\midrule", *rest, r"\bottomrule", r"\end{tabular}"]
    return "\n".join(lines) + "\n"


def pivot(
    groups: Mapping[tuple[Any, ...], Estimate], by: Sequence[str], across: str
) -> tuple[list[Any], list[list[Any]]]:
    """Put the values of one key side by side.

    Returns:
        The values of that key; and of each group of the other keys their values, then an estimate per value, None
        where there is none.
    """
    position = list(by).index(across)
    columns = list(
        dict.fromkeys(
            group[position] for group in sorted(groups, key=lambda group: order(group[position : position + 1]))
        )
    )
    found: dict[tuple[Any, ...], dict[Any, Estimate]] = {}
    for group, estimate in groups.items():
        found.setdefault((*group[:position], *group[position + 1 :]), {})[group[position]] = estimate
    return columns, [[*group, *(row.get(column) for column in columns)] for group, row in found.items()]
