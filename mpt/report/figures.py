"""Figures of estimates over one key."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mpt.atomic import write_atomically
from mpt.report.estimate import Estimate


def draw(
    groups: Mapping[tuple[Any, ...], Estimate], by: Sequence[str], x: str, metric: str, path: Path
) -> None:
    """Draw means and intervals over one key: a panel per task, a line per group of the other keys."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    position = list(by).index(x)
    task_position = list(by).index("task") if "task" in by else None
    panels: dict[str, dict[str, list[tuple[Any, Estimate]]]] = {}
    for group, estimate in groups.items():
        task = str(group[task_position]) if task_position is not None else metric
        rest = ", ".join(
            f"{key}={value}" for key, value in zip(by, group, strict=True) if key not in (x, "task")
        )
        panels.setdefault(task, {}).setdefault(rest, []).append((group[position], estimate))
    width = min(4, len(panels))
    height = -(-len(panels) // width)
    figure, axes = pyplot.subplots(height, width, figsize=(4 * width, 3 * height), squeeze=False, sharey=True)
    for axis, (task, drawn) in zip(axes.flat, panels.items(), strict=False):
        for rest, points in drawn.items():
            spread = [0.0 if math.isnan(each.half_width) else each.half_width for _, each in points]
            values = [value if isinstance(value, (int, float)) else str(value) for value, _ in points]
            axis.errorbar(
                values, [each.mean for _, each in points], spread, marker="o", capsize=3, label=rest
            )
        axis.set(title=task, xlabel=x)
    for axis in axes.flat[len(panels) :]:
        axis.axis("off")
    axes[0, 0].set_ylabel(f"{metric}, mean and 95 % interval")
    if any(rest for drawn in panels.values() for rest in drawn):
        axes[0, 0].legend(fontsize="x-small")
    figure.tight_layout()
    with write_atomically(path) as temporary:
        figure.savefig(temporary, format=path.suffix.lstrip("."), dpi=120)
    pyplot.close(figure)
