"""Tables of estimates: in Markdown, with the values of one key side by side."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mpt.report.estimate import Estimate, order


def markdown(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Write a table in Markdown."""
    lines = ["| " + " | ".join(map(str, row)) + " |" for row in (header, *rows)]
    return "\n".join([lines[0], "|" + "---|" * len(header), *lines[1:]])


def pivot(
    groups: Mapping[tuple[Any, ...], Estimate], by: Sequence[str], across: str
) -> tuple[list[str], list[list[str]]]:
    """Put the values of one key side by side.

    Returns:
        Header and rows of a table.
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
    header = [*(key for key in by if key != across), *(f"{across}={column}" for column in columns)]
    return header, [
        [*map(str, group), *(str(row.get(column, "–")) for column in columns)] for group, row in found.items()
    ]
