"""Dashboards: a workspace survives a round trip and asks for what runs log; an agent can run the sweep."""

import copy
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from mpt.cli import main as cli
from mpt.dashboard import build_workspace, main, serialize
from mpt.run.folder import read_config
from mpt.run.identity import flatten

ROOT = Path(__file__).resolve().parent.parent


def find(node: Any, key: str) -> list[Any]:
    """All values of a key, at any depth."""
    if isinstance(node, dict):
        return [value for name, value in node.items() if name == key] + [
            found for value in node.values() for found in find(value, key)
        ]
    return [found for each in node for found in find(each, key)] if isinstance(node, list) else []


def test_a_workspace_survives_the_round_trip() -> None:
    workspace = build_workspace("me", "mpt", ["sum", "mt"])
    again = type(workspace)._from_model(workspace._to_model())
    assert [section.name for section in again.sections] == [section.name for section in workspace.sections]
    for one, other in zip(workspace.sections, again.sections, strict=True):
        assert [panel.title for panel in one.panels if hasattr(panel, "title")] == [
            panel.title for panel in other.panels if hasattr(panel, "title")
        ]
    assert again.runset_settings.groupby == workspace.runset_settings.groupby


def test_a_workspace_asks_for_what_runs_log(source_run: Path) -> None:
    """Every curve is a column of a run's curves, every scalar a number of its summary, every key one of its keys."""
    tasks = list(json.loads((source_run / "metrics.json").read_text())["metric"])
    header = (source_run / "metrics.csv").read_text().splitlines()[0].split(",")
    spec = json.loads(serialize(build_workspace("me", "mpt", tasks)))
    curves = {
        metric
        for panel in find(spec, "panels")
        for each in panel
        if each["viewType"] == "Run History Line Plot"
        for metric in each["config"]["metrics"]
    }
    assert {"validation/average/score", "train/loss", f"train/{tasks[0]}/loss", "moved/prompt"} <= curves
    assert {each for each in curves if not each.startswith("distillation/")} <= set(header)
    asked = set(re.findall(r'"(summary|config):([^"]+)"', json.dumps(spec)))
    config, _ = read_config(source_run) or ({}, {})
    numbers = flatten(json.loads((source_run / "metrics.json").read_text()))
    assert {kind for kind, _ in asked} == {"summary", "config"}
    for kind, name in asked:
        # W&B keeps a nested key as few_shot.value.k, and we a score as test/sum/score.
        found = (
            name.replace("/", ".") in numbers if kind == "summary" else name.replace(".value.", ".") in flatten(config)
        )
        assert found, name


def test_it_is_written_or_printed_and_sent_only_on_demand(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "new" / "workspace.json"
    assert main(["--tasks", "sum", "--output", str(path)]) == 0
    assert json.loads(path.read_text())["displayName"] == "mpt"
    capsys.readouterr()
    assert main([]) == 0
    assert json.loads(capsys.readouterr().out)["project"] == "mpt"
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    assert main(["--save", "--entity", "me"]) == 2
    assert "error: --save: W&B does not take it" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["--save"])
    assert "--save: needs --entity" in capsys.readouterr().err


def test_an_agent_can_run_the_sweep(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command is filled in by the functions of W&B's own agent, and composes to a run that passes every check."""
    from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args

    sweep = yaml.safe_load((ROOT / "experiments" / "sweeps" / "few_shot.yaml").read_text())
    assert sweep["metric"]["name"].startswith("validation/")
    monkeypatch.setenv("SOURCE", str(tmp_path / "nowhere"))
    drawn = {
        key: {"value": values["values"][-1] if "values" in values else values["min"]}
        for key, values in sweep["parameters"].items()
    }
    arguments = create_sweep_command_args({"args": drawn})
    command = create_sweep_command(copy.deepcopy(sweep["command"]))
    assert command[:3] == ["${env}", "${interpreter}", "${program}"]
    assert command[-1] == "${args_no_hyphens}"
    monkeypatch.setattr(sys, "argv", ["train.py", *command[3:-1], *arguments["args_no_hyphens"], *QUIET])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 2
    # All that is wrong with it is the source, which is not there.
    (error,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert error.startswith(f"error: source: no folder or file '{tmp_path / 'nowhere'}'")


QUIET = ["hydra/job_logging=none", "hydra/hydra_logging=none"]
