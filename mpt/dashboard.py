"""``python -m mpt.dashboard``: a W&B workspace for the runs of a project.

Score over k by method, cost against quality, curves of each task grouped by sweep. Without ``--save`` nothing is sent.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mpt.atomic import check_file_replaceable, write_atomically
from mpt.command import run_command
from mpt.errors import UserError

NAME = "mpt"
STEP = "trainer/global_step"
METHODS = ("method.name", "prompt.form", "prompt.init")
"""Keys of the configuration that make a method."""


EACH_SHOWN, EACH_TASK, EACH_PART = "each task, and their average", "each task", "P, and each task"
CURVES = (
    ("Validation", "{}: validation score", "validation/{}/score", EACH_SHOWN),
    ("Training", "training loss", "train/loss", ("",)),
    ("Training", "{}: training loss", "train/{}/loss", EACH_TASK),
    ("Distillation", "divergence of {}", "distillation/{}", ("logits", "hidden")),
    ("Displacement", "{}: moved from the start", "moved/{}", EACH_PART),
)
"""Line plots: section, title, metric, and for what there is one."""
COSTS = {"parameters/trained": "trained parameters", "seconds/fit": "seconds of training"}
SWEPT = ("few_shot.k", "optim.lr_prompt", "optim.lr_factors", "prompt.num_ranks")
BAND = {"groupby_aggfunc": "mean", "groupby_rangefunc": "stderr"}
OPEN = ("Score over k", "Score by method", "Cost against quality", "Validation")


def build_workspace(entity: str, project: str, tasks: Sequence[str], name: str = NAME) -> Any:
    """Build the workspace.

    Args:
        entity: The W&B account or team.
        project: The project, ``logger.project``.
        tasks: Tasks that get panels of their own, beside their average.
        name: Name of the workspace.

    Returns:
        A ``wandb_workspaces.workspaces.Workspace``; nothing is sent.
    """
    from wandb_workspaces import workspaces
    from wandb_workspaces.reports import v2 as panels

    shown = [*tasks, *(["average"] if len(tasks) != 1 else [])]
    each = {EACH_SHOWN: shown, EACH_TASK: tasks, EACH_PART: ["prompt", *tasks]}

    def scatter(title: str, x: Any, task: str, **more: Any) -> Any:
        score = panels.SummaryMetric(f"test/{task}/score")
        return panels.ScatterPlot(title=title, x=x, y=score, log_x=True, range_y=(0, 1), **more)

    k = panels.Config("few_shot.k")
    sections = {
        "Score over k": [scatter(f"{task}: score over k", k, task, running_ymean=True) for task in shown],
        "Score by method": [
            panels.BarPlot(
                title=f"{task}: score by {key}",
                metrics=[panels.SummaryMetric(f"test/{task}/score")],
                groupby=panels.Config(key),
                **BAND,
            )
            for task in shown
            for key in METHODS
        ],
        "Cost against quality": [
            scatter(f"average score over {title}", panels.SummaryMetric(cost), "average")
            for cost, title in COSTS.items()
        ],
    }
    for section, title, metric, names in CURVES:
        # The runset groups the runs: one line with a band a sweep.
        sections.setdefault(section, []).extend(
            panels.LinePlot(title=title.format(of), x=STEP, y=[metric.format(of)], aggregate=True, **BAND)
            for of in (each[names] if isinstance(names, str) else names)
        )
    column = panels.ParallelCoordinatesPlotColumn
    swept = [column(panels.Config(key), log=key.startswith("optim")) for key in SWEPT]
    swept.append(column(panels.SummaryMetric("validation/average/score")))
    sections["Sweeps"] = [
        panels.ParallelCoordinatesPlot(title="what was swept", columns=swept),
        panels.ParameterImportancePlot("validation/average/score"),
    ]
    return workspaces.Workspace(
        entity=entity,
        project=project,
        name=name,
        sections=[
            workspaces.Section(name=section, panels=shown_there, is_open=section in OPEN)
            for section, shown_there in sections.items()
        ],
        settings=workspaces.WorkspaceSettings(x_axis=STEP),
        runset_settings=workspaces.RunsetSettings(groupby=[workspaces.Metric("Group")]),
    )


def serialize(workspace: Any) -> str:
    """Write a workspace as W&B's servers take it, as JSON."""
    return json.dumps(workspace._to_model().model_dump(by_alias=True), indent=2, default=str) + "\n"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; 2 and one message where it asks for something wrong."""
    parser = argparse.ArgumentParser(
        "python -m mpt.dashboard", description="A W&B workspace for the runs of a project."
    )
    parser.add_argument("--project", default=NAME, help="logger.project of the runs; default: mpt")
    parser.add_argument("--entity", help="the W&B account or team; needed with --save")
    parser.add_argument("--tasks", nargs="+", default=[], metavar="TASK", help="tasks with panels of their own")
    parser.add_argument("--name", default=NAME, help="of the workspace")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write it there as JSON; default: print it")
    parser.add_argument("--save", action="store_true", help="send it to W&B; needs a login")
    arguments = parser.parse_args(argv)
    if arguments.save and not arguments.entity:
        parser.error("--save: needs --entity NAME, the W&B account or team that the project is of")
    if find_spec("wandb_workspaces") is None:
        print("error: wandb-workspaces is not installed; pip install 'mpt[dashboard]'", file=sys.stderr)
        return 2
    workspace = build_workspace(arguments.entity or "", arguments.project, arguments.tasks, arguments.name)
    if arguments.save:
        try:
            workspace.save()
        except Exception as error:  # of the network, of the account, in one of many kinds
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            print(f"error: --save: W&B does not take it ({reason}); `wandb login` first", file=sys.stderr)
            return 2
        print(workspace.url)
    elif arguments.output:
        try:
            check_file_replaceable(arguments.output, b'"panelBankConfig"', "a workspace")
        except (OSError, UserError) as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        with write_atomically(arguments.output) as temporary:
            temporary.write_text(serialize(workspace), encoding="utf-8")
        print(f"{arguments.output}: {len(workspace.sections)} sections; --save --entity NAME sends it")
    else:
        print(serialize(workspace), end="")
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
