"""Python's way in: the same run as the command's, rows in memory, objects of Lightning's, a notebook."""

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import datasets
import nbformat
import pandas  # type: ignore[import-untyped]
import pytest
import torch
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import strategies as st
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import CSVLogger
from nbclient import NotebookClient

import mpt
from mpt import api
from mpt.errors import UserError
from mpt.run.folder import read_config
from tests.runs import assert_equal, curves, run_cli, tensors

ROOT = Path(__file__).resolve().parent.parent
SMALL = {
    "trainer.max_steps": 4, "trainer.batch_size": 4, "evaluation.validation_rows": 4, "evaluation.test_rows": 4,
    "logger": "csv", "trainer": "cpu", "trainer.progress_bar": False,
}  # fmt: skip
COLORS = ("red", "blue", "green", "white")
THINGS = ("ball", "boot", "box", "cup")
ROWS = [{"text": f"the {color} {thing}", "color": color} for thing in THINGS for color in COLORS]


def train(*overrides, **settings):
    return mpt.train(*overrides, **{**SMALL, **settings})


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_same_run_as_the_command_to_the_last_bit(place, monkeypatch):
    ours = train("task=source", tasks=["sum", "mt"], **{"tasks.mt.weight": 0.5, "output_root": "python"})
    words = [f"{key}={str(value).lower() if isinstance(value, bool) else value}" for key, value in SMALL.items()]
    command = ["task=source", "+tasks=[sum,mt]", "tasks.mt.weight=0.5", *words, "output_root=command"]
    assert run_cli(monkeypatch, *command) == 0
    theirs = next((place / "command").rglob("metrics.json")).parent
    assert ours.folder.name == theirs.name
    assert_equal(tensors(ours.folder), tensors(theirs))
    assert curves(ours.folder) == curves(theirs)
    assert ours.metrics["test"] == mpt.Run(theirs).metrics["test"]
    config, run = read_config(ours.folder) or ({}, {})
    assert config == (read_config(theirs) or ({}, {}))[0] | {"output_root": "python"}
    assert "task=source" in run["command"]  # the command that does the same
    # A configuration that is composed first, and one that is finished.
    composed = mpt.compose(
        "task=source", tasks=["sum", "mt"], output_root="python", **{"tasks.mt.weight": 0.5}, **SMALL
    )
    before = (ours.folder / "metrics.json").stat().st_mtime_ns
    assert mpt.train(composed).folder == ours.folder
    assert (ours.folder / "metrics.json").stat().st_mtime_ns == before
    changed = dataclasses.replace(composed, seed=3)
    assert mpt.train(changed).folder != ours.folder


@pytest.mark.slow
def test_rows_in_memory_train_answer_and_are_part_of_the_name(place):
    task = mpt.Task("balls", train=ROWS, validation=ROWS[:4], test=ROWS[:8], input="{text}", target="{color}")
    run = train("task=source", tasks=["sum", task])
    assert {line["input"] for line in run.predictions("balls")} <= {row["text"] for row in ROWS[:8]}
    assert run.metrics["test"]["balls"]["n_available"] == 8
    assert run.prompt().task_names == ["sum", "balls"]
    again = mpt.Task(
        "balls", train=[dict(row) for row in ROWS], validation=ROWS[:4], test=ROWS[:8], input="{text}", target="{color}"
    )
    assert train("task=source", tasks=["sum", again]).folder == run.folder
    other = mpt.Task("balls", train=ROWS[:8], validation=ROWS[:4], test=ROWS[:8], input="{text}", target="{color}")
    assert train("task=source", tasks=["sum", other]).folder != run.folder
    scored = mpt.evaluate(run, tasks=[task], logger="csv")
    assert scored.metrics["test"]["balls"]["n"] == 8
    # Another process does not have them.
    code = f"import mpt; print(mpt.train('task=evaluate', 'source={run.folder}', tasks=['balls']))"
    alone = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=place)
    assert "tasks: unknown 'balls'" in alone.stderr


def test_frames_and_data_sets_are_the_rows_that_lists_are():
    names = ["red", "blue", "green", "white"]
    listed = mpt.Task("balls", train=ROWS, input="{text}", target="{color}")
    framed = mpt.Task("balls", train=pandas.DataFrame(ROWS), input="{text}", target="{color}")
    features = datasets.Features({"text": datasets.Value("string"), "color": datasets.ClassLabel(names=names)})
    data = datasets.Dataset.from_list(ROWS, features=features)
    assert data[1]["color"] == 1
    classed = mpt.Task("balls", train=data, input="{text}", target="{color}", constrained=True, metrics=["accuracy"])
    assert listed.rows == framed.rows == classed.rows
    assert listed.values["rows"]["held"] == framed.values["rows"]["held"] == classed.values["rows"]["held"]
    assert classed.values["labels"] == {"color": {name: name for name in names}}
    numbers = pandas.DataFrame({"text": ["a"], "count": [3]})
    assert mpt.Task("numbers", train=numbers, input="{text}", target="{count}").rows["train"] == [
        {"text": "a", "count": 3}
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"train": []}, "mpt.Task balls: train has no rows; give at least one"),
        (
            {"train": "rows.csv"},
            "mpt.Task balls, train: is a str; give a list of mappings, a frame, or a datasets.Dataset",
        ),
        ({"train": [["red"]]}, "mpt.Task balls, train row 0: is a list; a row is a mapping of columns to values"),
        (
            {"train": ROWS, "metric": ["accuracy"]},
            r"mpt.Task balls: no key 'metric'; choose one of .*did you mean 'metrics'",
        ),
    ],
)
def test_task_that_is_wrong_is_refused_when_it_is_made(arguments, message):
    with pytest.raises(UserError, match=message):
        mpt.Task("balls", input="{text}", target="{color}", **arguments)


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ({"name": "sum"}, "mpt.Task sum: is the name of sum.yaml among the tasks; give it another"),
        ({"metrics": ["acuracy"]}, r"tasks.balls.metrics: unknown metric 'acuracy'.*did you mean 'accuracy'"),
        ({"test": None}, "tasks.balls: has no test rows; give mpt.Task test=, or a slice of train in splits="),
        ({"input": "{tekst}"}, r"tasks.balls, train row 0: column 'tekst' of tasks.balls.input is missing"),
        ({"splits": {"test": "train[90%"}}, r"tasks.balls.rows.splits.test: "),
    ],
)
def test_task_that_does_not_fit_is_refused_by_the_run(task, message):
    arguments = {
        "name": "balls",
        "train": ROWS,
        "validation": ROWS,
        "test": ROWS,
        "input": "{text}",
        "target": "{color}",
    }
    arguments |= task
    name = arguments.pop("name")
    with pytest.raises(UserError, match=message):
        train("task=source", tasks=[mpt.Task(name, **arguments)])


def test_slices_of_rows_in_memory_are_those_of_a_file(place):
    rows = [{"text": f"the ball {n}", "color": f"c{n}"} for n in range(20)]
    splits = {"train": "train[50%:]", "validation": "train[:25%]", "test": "train[25%:50%]"}
    task = mpt.Task("balls", train=rows, input="{text}", target="{color}", splits=splits)
    run = train("task=source", tasks=[task], **{"evaluation.test_rows": 5})
    (place / "balls.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (place / "mine" / "tasks").mkdir(parents=True)
    (place / "mine" / "tasks" / "filed.yaml").write_text(
        "# @package tasks.filed\n"
        + json.dumps(
            {
                "rows": {
                    "files": str(place / "balls.jsonl"),
                    "splits": {k: v.replace("train", "balls") for k, v in splits.items()},
                },
                "input": "{text}",
                "target": "{color}",
                "metrics": ["exact_match"],
            }
        )
    )
    filed = mpt.train("task=source", tasks=["filed"], config_dir="mine", **{**SMALL, "evaluation.test_rows": 5})
    assert [line["input"] for line in run.predictions("balls")] == [
        line["input"] for line in filed.predictions("filed")
    ]


def test_many_jobs_are_those_of_the_command_alone_and_one_that_fails_says_so():
    task = mpt.Task("balls", train=ROWS, validation=ROWS[:4], test=ROWS[:8], input="{text}", target="{color}")
    keys = {**SMALL, "task": "target", "prompt.init": "VOCABULARY", "few_shot.k": 4}
    runs = mpt.train_many([{"seed": 0}, {"seed": 1}, {"seed": 0, "few_shot.k": 400}], tasks=[task], **keys)
    assert [each.error is None for each in runs] == [True, True, False]
    assert "MPT_SWEEP" not in os.environ  # which would be the group of later runs
    assert "few_shot.k: is 400" in runs[2].error
    with pytest.raises(UserError, match="failed: "):
        runs[2].metrics  # noqa: B018
    alone = mpt.train(tasks=[task], **{**keys, "seed": 1, "output_root": "alone"})
    assert alone.folder.name == runs[1].folder.name
    assert alone.metrics["test"] == runs[1].metrics["test"]


class Steps(Callback):
    """Counts, and stops a run as a user does."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.count, self.stop_at = 0, stop_at

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.count += 1
        if self.count == self.stop_at:
            os.kill(os.getpid(), signal.SIGINT)


def test_objects_of_lightnings_take_part_and_are_part_of_the_name(place):
    plain = train("task=source", tasks=["sum"])
    steps = Steps()
    logger = CSVLogger(place / "own", name="mine")
    run = train("task=source", tasks=["sum"], callbacks=[steps], trainer_arguments={"logger": logger})
    assert steps.count == 4
    assert run.folder != plain.folder
    assert read_config(run.folder)[0]["objects"] == ["Steps", "trainer.logger"]
    assert_equal(tensors(run.folder), tensors(plain.folder))
    assert "train/loss" in next((place / "own").rglob("metrics.csv")).read_text()


def test_deterministic_algorithms_are_on_in_such_a_run_and_off_after_another():
    class Seen(Callback):
        def on_train_start(self, trainer, pl_module):
            self.on = torch.are_deterministic_algorithms_enabled()

    for wanted in (True, False):
        seen = Seen()
        train("task=source", tasks=["sum"], callbacks=[seen], **{"trainer.deterministic": wanted})
        assert seen.on is wanted


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"callbacks": [3]}, "callbacks: 3 is no callback; give objects of lightning.pytorch.callbacks"),
        (
            {"trainer_arguments": {"max_steps": 3}},
            "trainer: max_steps is a key of the configuration; set trainer.max_steps",
        ),
        ({"trainer_arguments": {"fast_dev_run": True}}, "trainer: fast_dev_run is not free; choose from accelerator"),
        ({"trainer_arguments": {"profiler": "no such"}}, "trainer: .*profiler"),
    ],
)
def test_object_that_would_not_do_what_it_says_is_refused(arguments, message):
    with pytest.raises(UserError, match=message):
        train("task=source", tasks=["sum"], **arguments)
    assert not Path("runs").exists()


def test_interrupted_call_goes_on_to_the_same_numbers():
    whole = train("task=source", tasks=["sum"], callbacks=[Steps()], output_root="whole")
    with pytest.raises(KeyboardInterrupt, match="the same call goes on"):
        train("task=source", tasks=["sum"], callbacks=[Steps(stop_at=2)], output_root="stopped")
    again = train("task=source", tasks=["sum"], callbacks=[Steps()], output_root="stopped")
    assert_equal(tensors(again.folder), tensors(whole.folder))
    assert curves(again.folder) == curves(whole.folder)


def test_other_thread_and_a_program_that_uses_hydra_itself_are_left_alone():
    before = signal.getsignal(signal.SIGINT)
    GlobalHydra.instance().hydra = held = object()  # type: ignore[assignment]  # a stand-in for the program's own
    found = []
    try:
        thread = threading.Thread(target=lambda: found.append(train("task=source", tasks=["sum"])))
        thread.start()
        thread.join()
        assert GlobalHydra.instance().hydra is held
    finally:
        GlobalHydra.instance().hydra = None
    assert found[0].metrics["test"]["sum"]["n"] == 4
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize(
    ("overrides", "settings", "message"),
    [
        (["task=sorce"], {}, "task: unknown 'sorce'; choose one of"),
        (["task=source"], {"optim.lr": 3}, "optim: no key 'lr'"),
        (["task=source"], {"trainer.max_steps": "many"}, "trainer.max_steps: "),
        (["task=source"], {"plugins": ["no.such"]}, "plugins: no.such cannot be imported"),
        (["task=source"], {"config_dir": "nowhere"}, "config_dir: no folder 'nowhere'"),
    ],
)
def test_what_is_wrong_is_said_as_the_command_says_it(overrides, settings, message):
    with pytest.raises(UserError, match=message):
        mpt.train(*overrides, tasks=["sum"], **settings)
    with pytest.raises(UserError, match="a RunConfig says everything"):
        mpt.train(mpt.compose("task=source", tasks=["sum"]), "seed=1")


texts = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), max_size=12).filter(
    lambda text: "${" not in text
)
keys = st.from_regex(r"[a-z][\w./-]{0,4}( [a-z]+)?", fullmatch=True).filter(str.isascii)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | texts,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3),
        max_leaves=6,
    )
)
def test_every_value_is_read_as_it_was_written(value):
    read = OverridesParser.create().parse_override(api._override("key", value)).value()
    assert read == value
    assert type(read) is type(value)


@pytest.mark.slow
@pytest.mark.ddp
def test_several_processes_from_python_equal_one_and_refuse_what_only_one_has(place):
    keys = {**SMALL, "trainer.threads": 1, "trainer.max_steps": 3, "backbone.dropout": False}
    one = mpt.train("task=source", tasks=["sum"], output_root="one", **keys)
    code = f"""import mpt
keys = {{**{keys!r}, "trainer.devices": 2}}
print("FOLDER", mpt.train("task=source", tasks=["sum"], output_root="two", **keys).folder)
rows = [{{"a": "b"}}]
try:
    task = mpt.Task("balls", train=rows, validation=rows, test=rows, input="{{a}}", target="{{a}}")
    mpt.train("task=source", tasks=[task], **keys)
except mpt.UserError as error:
    print("REFUSED", error)
"""
    (place / "program.py").write_text(code)
    done = subprocess.run([sys.executable, "program.py"], capture_output=True, text=True, timeout=250, cwd=place)
    assert done.returncode == 0, done.stderr
    assert "REFUSED tasks.balls: its rows lie in the memory of this process, and the run has 2" in done.stdout
    found = re.search("FOLDER (.*)", done.stdout)
    assert found
    first, second = tensors(one.folder), tensors(place / found[1])
    for name in first:
        assert (first[name] - second[name]).abs().max() < 1e-3 * first[name].abs().max(), name


@pytest.mark.slow
def test_notebook_has_the_blocks_of_the_page_and_runs(place, monkeypatch):
    page = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
    notebook = nbformat.read(ROOT / "docs" / "python.ipynb", as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.source for cell in code] == [
        block.rstrip("\n") for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    ]
    assert all(not cell.outputs for cell in code)
    for cell in code:  # a test's length
        cell.source = re.sub(r'("trainer.max_steps": |max_steps = )\d+', r"\g<1>3", cell.source)
    small = {"evaluation.validation_rows": 4, "evaluation.test_rows": 4, "evaluation.before": False}
    shrink = "import mpt.api as a; w = a.write_overrides; a.write_overrides = lambda o, t, s: w(o, t, {**s, **SMALL})"
    notebook.cells.insert(0, nbformat.v4.new_code_cell(f"SMALL = {small}; {shrink}"))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    NotebookClient(notebook, timeout=250, resources={"metadata": {"path": str(place)}}).execute()
    printed = "".join(output.get("text", "") for cell in code for output in cell.outputs)
    assert "runs/source/sum+mt+dlg-tiny-" in printed
