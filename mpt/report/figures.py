"""Figures of estimates over one key, for papers."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mpt.atomic import write_atomically
from mpt.report.estimate import Estimate
from mpt.report.labels import Labels

KINDS = ("pdf", "png", "svg")


def draw_figure(
    groups: Mapping[tuple[Any, ...], Estimate],
    by: Sequence[str],
    x: str,
    metric: str,
    paths: Iterable[Path],
    labels: Labels | None = None,
) -> None:
    """Draw means and intervals over one key: a panel per task, a line per group of the other keys.

    Args:
        groups: From :func:`mpt.report.estimate.summarize`.
        by: The keys that make the groups.
        x: The one of them to draw over.
        metric: What the estimates are of.
        paths: Files to write; the kind follows from the ending.
        labels: What to show in place of keys, values and tasks.
    """
    import vl_convert

    from mpt.report import charts

    labels = labels or Labels()
    spec = charts.panels(_panels(groups, by, x, metric, labels), x=labels.show(x), y=labels.show(metric), labels=labels)
    write: dict[str, Callable[[], bytes]] = {
        "pdf": lambda: vl_convert.vegalite_to_pdf(spec),
        "png": lambda: vl_convert.vegalite_to_png(spec, ppi=300),
        "svg": lambda: vl_convert.vegalite_to_svg(spec).encode(),
    }
    for path in paths:
        with write_atomically(path) as temporary:
            temporary.write_bytes(write[path.suffix.lstrip(".")]())


def _panels(
    groups: Mapping[tuple[Any, ...], Estimate], by: Sequence[str], x: str, metric: str, labels: Labels
) -> dict[str, dict[str, list[tuple[Any, Estimate]]]]:
    """Sort the estimates by task, and by what else distinguishes them."""
    position = list(by).index(x)
    panels: dict[str, dict[str, list[tuple[Any, Estimate]]]] = {}
    for group, found in groups.items():
        of = dict(zip(by, group, strict=True))
        name = labels.show_group((key, value) for key, value in of.items() if key not in (x, "task"))
        task = labels.show(of.get("task", metric))
        panels.setdefault(task, {}).setdefault(name, []).append((group[position], found))
    return panels
