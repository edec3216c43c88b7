"""Tables of estimates: in Markdown and LaTeX, with the values of one key side by side."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mpt.report.estimate import Estimate, order


def markdown(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Write a table in Markdown."""
    lines = [
        "| " + " | ".join(str(cell).replace("|", "\\|") for cell in row) + " |" for row in (header, *rows)
    ]
    return "\n".join([lines[0], "|" + "---|" * len(header), *lines[1:]])


def latex(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Write a table in LaTeX, for the package booktabs."""
    import pandas  # a second to import

    frame = pandas.DataFrame([[str(cell) for cell in row] for row in rows], columns=list(header))
    text = str(frame.to_latex(index=False, escape=True))
    return text.replace("±", r"$\pm$").replace("–", "--")


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
            group[position]
            for group in sorted(groups, key=lambda group: order(group[position : position + 1]))
        )
    )
    found: dict[tuple[Any, ...], dict[Any, Estimate]] = {}
    for group, estimate in groups.items():
        found.setdefault((*group[:position], *group[position + 1 :]), {})[group[position]] = estimate
    return columns, [[*group, *(row.get(column) for column in columns)] for group, row in found.items()]
