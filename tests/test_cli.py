"""The command line: what it composes and prints, and one clear message for each thing that it refuses."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from mpt.cli import job
from mpt.cli import main as cli
from mpt.cli.compose import CONF, register_schema, typed
from mpt.cli.help import describe_keys
from mpt.cli.hydra_versions import VERSION_BASE
from mpt.command import is_known, print_errors
from mpt.errors import UserError
from mpt.run.folder import read_config
from mpt.run.identity import flatten, run_name
from mpt.run.origin import describe_command
from mpt.sweep import sweep_record as sweep

ROOT = Path(__file__).resolve().parent.parent
ROWS = [{"text": f"say {word}", "target": word} for word in ("red", "green", "blue", "black")]


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A working folder with two tasks of its own: conf/tasks/{one,two}.yaml over data/{one,two}."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "conf" / "tasks").mkdir(parents=True)
    for name in ("one", "two"):
        write_task(tmp_path, name)
        for split in ("train", "validation", "test"):
            write_rows(tmp_path, name, split, ROWS)
    return tmp_path


def write_task(place, name, **changes):
    task = {
        "rows": {"files": f"data/{name}"},
        "input": "{text}",
        "target": "{target}",
        "metrics": ["exact_match"],
        "max_source_tokens": 16,
        "max_target_tokens": 8,
    } | changes
    # JSON is YAML.
    (place / "conf" / "tasks" / f"{name}.yaml").write_text(f"# @package tasks.{name}\n{json.dumps(task)}\n")


def write_rows(place, name, split, rows):
    folder = place / "data" / name
    folder.mkdir(parents=True, exist_ok=True)
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    (folder / f"{split}.jsonl").write_text("\n".join(lines) + "\n")


@pytest.fixture
def mpt(place, monkeypatch, capsys):
    """Call the command line in this process: ``mpt("task=source", ...) -> (exit code, stdout, stderr)``."""

    def call(*arguments):
        # To configure logging anew is to close every handler, absl's with the stream that pytest captures.
        quiet = ["hydra/job_logging=none", "hydra/hydra_logging=none", "trainer.progress_bar=false", "logger=csv"]
        flags = ["--config-dir", str(place / "conf")]
        monkeypatch.setattr(
            sys, "argv", ["train.py", *flags, *arguments, *([] if "tasks=list" in arguments else quiet)]
        )
        code: str | int = 0
        try:
            cli.main()
        except SystemExit as stop:
            code = stop.code or 0
        out, err = capsys.readouterr()
        return code, out, err

    return call


def composed(*overrides):
    import hydra

    register_schema()
    with hydra.initialize_config_dir(str(CONF), **VERSION_BASE):
        return typed(hydra.compose("train", list(overrides)))


class TestWhatItComposes:
    def test_tasks_with_and_without_plus(self):
        assert list(composed("+tasks=[sum,mt,dlg]").tasks) == ["sum", "mt", "dlg"]
        assert list(composed("tasks=[mt,sum]").tasks) == ["mt", "sum"]

    def test_weight_of_a_task(self):
        assert composed("+tasks=[sum]", "tasks.sum.weight=2").tasks["sum"].weight == 2.0

    @pytest.mark.parametrize("name", sorted(path.stem for path in (CONF / "tasks").glob("*.yaml")))
    def test_every_task_that_ships_is_right(self, name):
        from mpt.cli.check import check

        config = composed(f"+tasks=[{name}]")
        assert check(config) == []
        text = (CONF / "tasks" / f"{name}.yaml").read_text().splitlines()
        assert text[0] == f"# @package tasks.{name}"
        assert config.tasks[name].about

    @pytest.mark.parametrize(
        "choice",
        sorted(
            f"{path.parent.name}={path.stem}"
            for group in ("backbone", "prompt", "mixture", "trainer", "logger", "experiment")
            for path in (CONF / group).glob("*.yaml")
        ),
    )
    def test_every_choice_that_ships_is_right(self, choice, tmp_path):
        from mpt.cli.check import check

        tasks = [] if choice.startswith("experiment") else ["+tasks=[sum,mt]"]
        source = [f"source={tmp_path}"] if choice.endswith("_target") else []
        assert check(composed(choice, *tasks, *source)) == []

    def test_old_names_of_forms(self):
        assert composed("+tasks=[sum]", "prompt.form=none").prompt.form == "independent"
        assert composed("+tasks=[sum]", "prompt.form=shared").prompt.form == "single"

    def test_target_starts_from_the_sources(self, tmp_path):
        config = composed("task=target", "+tasks=[mt]", f"source={tmp_path}")
        assert (config.stage, config.prompt.init) == ("target", "AVERAGE_SOURCE_TASKS")


class TestRunName:
    def plain(self, *overrides):
        import dataclasses

        return dataclasses.asdict(composed(*overrides))

    def test_says_tasks_and_backbone(self):
        assert run_name(self.plain("+tasks=[sum,mt]")).startswith("sum+mt-tiny-")

    def test_is_the_same_for_the_same_configuration(self):
        first, second = (run_name(self.plain("+tasks=[sum,mt]")) for _ in range(2))
        assert first == second

    @pytest.mark.parametrize("change", ["seed=1", "tasks.sum.weight=2", "trainer.max_steps=7", "optim.lr_prompt=0.1"])
    def test_differs_where_the_result_may(self, change):
        assert run_name(self.plain("+tasks=[sum,mt]", change)) != run_name(self.plain("+tasks=[sum,mt]"))

    def test_differs_by_the_order_of_tasks(self):
        digits = [run_name(self.plain(f"+tasks=[{tasks}]"))[-6:] for tasks in ("sum,mt", "mt,sum")]
        assert digits[0] != digits[1]

    @pytest.mark.parametrize("change", ["logger=csv", "output_root=elsewhere", "overwrite=true", "resume=never"])
    def test_is_the_same_where_the_result_is(self, change):
        assert run_name(self.plain("+tasks=[sum,mt]", change)) == run_name(self.plain("+tasks=[sum,mt]"))

    def test_of_many_tasks_stays_short(self):
        names = sorted(path.stem for path in (CONF / "tasks").glob("*.yaml"))
        assert len(run_name(self.plain(f"+tasks=[{','.join(names)}]"))) < 120


class TestWhatItPrints:
    def test_help_imports_nothing_that_takes_long(self):
        command = [sys.executable, "-X", "importtime", ROOT / "train.py", "--help"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        loaded = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}
        assert "omegaconf" in loaded
        slow = {"torch", "lightning", "transformers", "numpy", "pandas", "wandb", "huggingface_hub", "torchmetrics"}
        assert loaded & slow == set()
        assert "python train.py task=source '+tasks=[sum,mt,dlg]'" in done.stdout
        assert "trainer.max_steps=300\n" in done.stdout

    def test_catalogue_names_every_task(self, mpt):
        code, out, _ = mpt("tasks=list")
        assert code == 0
        for path in (CONF / "tasks").glob("*.yaml"):
            assert path.stem in out

    def test_help_says_what_each_key_means(self):
        assert [key for key, meaning in describe_keys().items() if not meaning] == []

    def test_help_knows_every_key(self):
        import dataclasses

        keys = set(flatten(dataclasses.asdict(composed("+tasks=[sum]"))))
        described = {key.replace("NAME", "sum") for key in describe_keys()}
        nested = {key for key in keys if any(key.startswith(f"{known}.") for known in described)}
        assert keys - nested <= described

    def test_version(self, mpt):
        from mpt import __version__

        assert mpt("--version")[:2] == (0, f"mpt {__version__}\n")

    def test_as_a_module(self):
        done = subprocess.run(
            [sys.executable, "-m", "mpt", "--version"], cwd=ROOT, capture_output=True, text=True, check=True
        )
        assert done.stdout.startswith("mpt ")


BAD = {
    "an unknown group": (["+tasks=[one]", "bakbone=tiny"], "no key 'bakbone'; .*(did you mean 'backbone'?)"),
    "processes that hand back nothing": (
        ["+tasks=[one]", "trainer=ddp", "trainer.strategy=ddp_spawn"],
        "trainer.strategy: is ddp_spawn, whose processes do not hand back what they trained; use ddp",
    ),
    "no folder for the runs": (["+tasks=[one]", "output_root=''"], "output_root: is empty; give the folder"),
    "a metric to optimize that is not there": (
        ["+tasks=[one]", "optimized_metric=validation/two/score"],
        "optimized_metric: is 'validation/two/score'; it must be a path",
    ),
    "unknown task": (["+tasks=[one,tow]"], r"tasks: unknown 'tow'; choose one of .*two.*(did you mean 'two'?)"),
    "empty list": (["tasks=[]"], "tasks=[]: no tasks; name at least one"),
    "no tasks": ([], "tasks: there are none; name at least one"),
    "duplicated task": (["+tasks=[one,two,one]"], "one is listed twice; name each task once"),
    "unknown metric": (
        ["+tasks=[one]", "tasks.one.metrics=[exactmatch]"],
        "unknown metric 'exactmatch'.*did you mean 'exact_match'?",
    ),
    "unknown init": (
        ["+tasks=[one]", "prompt.init=VOCABULRY"],
        "prompt.init: unknown 'VOCABULRY'; choose one of .*(did you mean 'VOCABULARY'?)",
    ),
    "wrong type": (["+tasks=[one]", "trainer.max_steps=many"], "trainer.max_steps: Value 'many' of type 'str'"),
    "null": (["+tasks=[one]", "backbone.name=null"], "backbone.name: is null; give it a value"),
    "misspelt key": (
        ["+tasks=[one]", "trainer.max_stesp=3"],
        "trainer: no key 'max_stesp'; choose one of .*(did you mean 'max_steps'?)",
    ),
    "misspelt key of a task": (
        ["+tasks=[one]", "tasks.one.wieght=3"],
        "tasks.one: no key 'wieght'; choose one of .*(did you mean 'weight'?)",
    ),
    "added key": (["+tasks=[one]", "+sede=3"], "configuration: no key 'sede'; .*(did you mean 'seed'?)"),
    "weight of another task": (["+tasks=[one]", "tasks.two.weight=3"], "'two' is not among the tasks of this run"),
    "weight": (["+tasks=[one]", "tasks.one.weight=-1"], "weight.* -1"),
    "misspelt choice": (["+tasks=[one]", "backbone=tinny"], "backbone: unknown 'tinny'; .*(did you mean 'tiny'?)"),
    "unknown stage": (["+tasks=[one]", "task=sorce"], "task: unknown 'sorce'; .*(did you mean 'source'?)"),
    "brackets": (["+tasks=[one"], "'+tasks=[one': not an override; write key=value, and quote brackets"),
    "no source": (["task=target", "+tasks=[one]"], "source: is missing, .*add source=RUN_FOLDER"),
    "source that is not there": (
        ["task=target", "+tasks=[one]", "source=runs/nowhere"],
        "source: no folder or file 'runs/nowhere'",
    ),
    "backbone that is not there": (["+tasks=[one]", "backbone.path=nowhere"], "backbone.path: no folder 'nowhere'"),
    "data_root that is not there": (["+tasks=[one]", "data_root=nowhere"], "data_root: no folder 'nowhere'"),
    "extending nothing": (["+tasks=[one]", "prompt.extend=true"], "prompt.extend: adds tasks to those of a source"),
    "a draw without k": (["+tasks=[one]", "few_shot.draws=runs"], "few_shot.k: is missing, and few_shot.draws"),
    "validation of a draw": (
        ["+tasks=[one]", "few_shot.validation=dra"],
        "few_shot.validation: unknown 'dra'; choose one of draw, split (did you mean 'draw'?)",
    ),
    "too many shots": (
        ["+tasks=[one]", "few_shot.k=9"],
        "few_shot.k: is 9, .*tasks.one has 4 rows, so choose at most 2",
    ),
    "method": (["+tasks=[one]", "method=loar"], "method: unknown 'loar'; .*(did you mean 'lora'?)"),
    "attention to nothing": (
        ["task=target", "+tasks=[one]", "method=attempt"],
        "source: is missing, and method=attempt attends to the prompts of a source run",
    ),
    "all weights in half precision": (
        ["+tasks=[one]", "method=full", "backbone.dtype=bfloat16"],
        "backbone.dtype: is bfloat16, .*use backbone.dtype=float32",
    ),
    "LoRA's alpha of a prompt": (
        ["+tasks=[one]", "method.alpha=3"],
        "method.alpha: is 3.0, but method.name=prompt has none",
    ),
    "a method with factors": (
        ["+tasks=[one]", "method=dept", "prompt.form=product"],
        "prompt.form: is product, and method.name=dept has no factors",
    ),
    "a method that cannot be extended": (
        ["task=target", "+tasks=[one]", "method=attempt", "prompt.extend=true", "source=data"],
        "prompt.extend: method.name=attempt cannot be extended",
    ),
    "a method that is not there": (
        ["+tasks=[one]", "method.name=lorra"],
        "method.name: unknown 'lorra'; choose one of adept, attempt, dept, full, in_context, instruction, lora, "
        "prompt, ulpt (did you mean 'lora'?)",
    ),
    "a method without its rank": (
        ["+tasks=[one]", "method=dept", "method.num_ranks=null"],
        "method.num_ranks: is missing, and method.name=dept needs it",
    ),
    "a group too few": (
        ["+tasks=[one]", "prompt.groups=[[two]]"],
        "prompt.groups: is [['two']]; it must name each of one once",
    ),
    "groups of plain prompts": (
        ["+tasks=[one]", "prompt=plain", "prompt.groups=[[one]]"],
        "prompt.groups: prompt.form=independent gives each task a prompt of its own",
    ),
    "each task's best step of a shared P": (
        ["tasks=[one,two]", "evaluation.best=task"],
        "evaluation.best: task keeps each task at another step",
    ),
    "teachers that are no plain prompts": (
        ["task=teachers", "+tasks=[one]", "prompt.form=product"],
        "prompt.form: teachers are plain prompts",
    ),
    "teachers that are not alone": (
        ["task=teachers", "+tasks=[one]", "mixture.sampling=equal"],
        "mixture.sampling: each teacher is trained as in a run of its own",
    ),
    "teachers that are not there": (["+tasks=[one]", "distill=nowhere"], "distill: no folder 'nowhere'"),
    "teachers of a target": (
        ["task=target", "+tasks=[one]", "prompt.init=RANDOM", "distill=data"],
        "distill: is 'data', but only a source run of a prompt distills",
    ),
    "teachers that say nothing": (
        ["+tasks=[one]", "distill=data", "distillation.weight_logits=0", "distillation.weight_hidden=0"],
        "distill: both weights of distillation are 0",
    ),
    "hidden states of what": (
        ["+tasks=[one]", "distillation.hidden=[head]"],
        "distillation.hidden: unknown head; choose from encoder, decoder",
    ),
    "no hidden states": (
        ["+tasks=[one]", "distillation.layers=[]"],
        "distillation.weight_hidden: there are no hidden states to compare",
    ),
    "zero steps": (["+tasks=[one]", "trainer.max_steps=0"], "trainer.max_steps: is 0; it must be at least 1"),
    "dtype": (["+tasks=[one]", "backbone.dtype=float23"], "backbone.dtype: unknown 'float23'"),
    "batch": (["+tasks=[one]", "trainer.batch_size=2", "trainer.accumulate_grad_batches=4"], "batch_size: is 2"),
    "no GPU": (["+tasks=[one]", "trainer.accelerator=gpux"], "gpux"),
    "precision": (["+tasks=[one]", "trainer.precision=33"], "33"),
    "stochastic over one": (["+tasks=[one]", "mixture=stochastic"], "stochastic draws from two tasks or more"),
}


def pattern(message):
    """A message as a regular expression, where only ``.*`` is special."""
    import re

    return re.compile(".*".join(re.escape(part) for part in message.split(".*")), re.DOTALL)


class TestWhatItRefuses:
    @pytest.mark.parametrize("name", BAD)
    def test_bad_command_line(self, name, mpt, place):
        arguments, message = BAD[name]
        code, _, err = mpt(*arguments)
        assert code == 2
        assert pattern(message).search(err), err
        assert len(err.strip().splitlines()) == 1
        assert not (place / "runs").exists()

    def test_all_errors_together(self, mpt):
        code, _, err = mpt("+tasks=[one]", "trainer.max_steps=0", "prompt.form=sum", "optim.warmup=2")
        assert code == 2
        assert "trainer.max_steps" in err
        assert "prompt.form" in err
        assert "optim.warmup" in err

    def test_template_with_a_column_that_is_not_there(self, mpt, place):
        write_task(place, "one", input="{txet}")
        code, _, err = mpt("+tasks=[one]")
        assert code == 2
        assert pattern("data/one/train.jsonl:1.*'txet'.*text").search(err), err
        assert not (place / "runs").exists()

    def test_empty_target(self, mpt, place):
        write_rows(place, "one", "train", [*ROWS, {"text": "say nothing", "target": " "}])
        code, _, err = mpt("+tasks=[one]")
        assert code == 2
        assert pattern("data/one/train.jsonl:5.*is empty").search(err), err
        assert not (place / "runs").exists()

    def test_corrupt_line(self, mpt, place):
        write_rows(place, "one", "validation", [*ROWS, '{"text": "say'])
        code, _, err = mpt("+tasks=[one]")
        assert code == 2
        assert pattern("data/one/validation.jsonl:5").search(err), err
        assert not (place / "runs").exists()

    def test_unwritable_folder(self, mpt, place):
        (place / "runs").write_text("a file")
        code, _, err = mpt("+tasks=[one]")
        assert code == 2
        assert "runs" in err
        assert len(err.strip().splitlines()) == 1

    def test_sweep_goes_on_after_a_refused_job_and_fails(self, mpt, place):
        code, _, err = mpt("-m", "+tasks=[one]", "trainer.max_steps=0,-1")
        assert code == 2
        assert "trainer.max_steps: is 0" in err
        assert "trainer.max_steps: is -1" in err

    def test_a_sweep_says_what_became_of_each_job(self, mpt, tiny_t5_folder):
        small = TestWholeRuns().small(tiny_t5_folder)
        code, out, err = mpt("-m", "+tasks=[one]", "few_shot.k=2,9", "optim.warmup=0.0", *small)
        assert "MPT_SWEEP" not in os.environ  # which would be W&B's group of what this process runs next
        assert code == 2, err
        assert "2 jobs, 1 failed" in out
        rows = {
            line.split("│")[3].strip(): line.split("│")[4]
            for line in out.splitlines()
            if "few_shot.k=" in line and "│" in line
        }
        assert rows.keys() == {"few_shot.k=2", "few_shot.k=9"}
        assert 0 <= float(rows["few_shot.k=2"]) <= 1
        assert "failed: few_shot.k: is 9" in rows["few_shot.k=9"]

    def test_a_crash_in_a_sweep_leaves_the_other_jobs(self, mpt, tiny_t5_folder, monkeypatch):
        run = job.run_job

        def crash(composed, folder, member=None, overrides=()):
            if composed.seed == 0:
                raise KeyError("a defect")
            return run(composed, folder, member, overrides)

        monkeypatch.setattr(job, "run_job", crash)
        code, out, err = mpt("-m", "+tasks=[one]", "seed=0,1", *TestWholeRuns().small(tiny_t5_folder))
        assert code == 1
        assert "Traceback" in err
        assert "failed: KeyError: 'a defect'" in out
        assert "2 jobs, 1 failed" in out


def test_a_mistake_is_answered_before_the_heavy_imports(place):
    for arguments in (["task=source"], ["+tasks=[one]", "bakbone=x"], ["tasks=list"], ["tasks=[one]", "prompt.init=x"]):
        code = (
            "import sys; from mpt.cli import main as cli\n"
            "try: cli.main()\n"
            "except SystemExit: pass\n"
            "print(sorted({'torch', 'lightning', 'transformers', 'wandb', 'pyarrow'} & sys.modules.keys()))"
        )
        flags = ["--config-dir", str(place / "conf")]
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments, *flags],
            cwd=place, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert done.stdout.splitlines()[-1] == "[]", done.stderr


def test_a_folder_that_is_not_a_run_is_refused(mpt, place):
    for name in ("prompt/mine.txt", "metrics.csv", "wandb/mine", "notes.txt"):
        folder = place / "mine"
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_text("precious")
        for more in ([], ["overwrite=true"]):
            code, _, err = mpt("+tasks=[one]", f"hydra.run.dir={folder}", *more)
            assert code == 2
            assert pattern(f"{folder}: is not the folder of a run (it has {name.split('/')[0]}, ").search(err), err
            assert (folder / name).read_text() == "precious"
        shutil.rmtree(folder)


def test_a_defect_keeps_its_traceback(mpt, monkeypatch):
    def broken(config):
        return int("not a number")

    monkeypatch.setattr(job, "check", broken)
    with pytest.raises(ValueError, match="invalid literal"):
        mpt("+tasks=[one]")


class TestWholeRuns:
    def small(self, backbone):
        return [
            f"backbone.path={backbone}",
            "trainer=cpu",
            "trainer.max_steps=2",
            "trainer.batch_size=2",
            "prompt.num_virtual_tokens=2",
        ]

    def test_source_then_target_then_the_table_of_a_finished_run(self, mpt, place, tiny_t5_folder):
        code, out, err = mpt("task=source", "+tasks=[one,two]", *self.small(tiny_t5_folder))
        assert code == 0, err
        (source,) = (place / "runs" / "source").iterdir()
        assert source.name.startswith("one+two-")
        assert "average" in out
        arguments = ["task=target", "tasks=[two]", f"source={source}", "few_shot.k=2"]
        code, out, err = mpt(*arguments, *self.small(tiny_t5_folder))
        assert code == 0, err
        (target,) = (place / "runs" / "target").iterdir()
        written = (target / "metrics.json").stat().st_mtime_ns
        code, out, err = mpt(*arguments, *self.small(tiny_t5_folder))
        assert code == 0, err
        assert "finished already" in out
        assert "average" in out
        assert (target / "metrics.json").stat().st_mtime_ns == written
        code, out, err = mpt(*arguments, *self.small(tiny_t5_folder), "overwrite=true")
        assert code == 0, err
        assert (target / "metrics.json").stat().st_mtime_ns != written

    def test_source_that_does_not_fit(self, mpt, place, tiny_t5_folder):
        code, _, err = mpt("task=source", "+tasks=[one,two]", *self.small(tiny_t5_folder))
        assert code == 0, err
        (source,) = (place / "runs" / "source").iterdir()
        changes = [*self.small(tiny_t5_folder), "prompt.num_virtual_tokens=3"]
        code, _, err = mpt("task=target", "+tasks=[two]", f"source={source}", *changes)
        assert code == 2
        assert "use prompt.num_virtual_tokens=2" in err
        assert not (place / "runs" / "target").exists()

    def test_sweep(self, mpt, place, tiny_t5_folder):
        from mpt.report.__main__ import main

        code, out, err = mpt("-m", "+tasks=[one],[two]", "seed=0,1", *self.small(tiny_t5_folder))
        assert code == 0, err
        assert "4 jobs, 0 failed" in out
        (sweep,) = (place / "runs" / "source" / "sweeps").glob("*.jsonl")
        assert f"python -m mpt.report 'runs/source/sweeps/{sweep.name}'" in out.replace("\n", "")
        assert main([str(sweep)]) == 0
        assert sweep.with_suffix(".yaml").is_file()
        assert not (place / "runs" / "source" / "multirun.yaml").exists()
        code, _, err = mpt("-m", "+tasks=[one]", "seed=0,1", *self.small(tiny_t5_folder))
        assert code == 0, err
        assert len(list(sweep.parent.glob("*.yaml"))) == 2
        folders = [path for path in (place / "runs" / "source").iterdir() if path.name != "sweeps"]
        assert sorted(path.name.split("-")[0] for path in folders) == ["one", "one", "two", "two"]
        assert all((path / "metrics.json").is_file() for path in folders)

    def test_a_job_returns_what_a_sweeper_optimizes(self, place, tiny_t5_folder, mpt, monkeypatch):
        returned = []
        hydra_job = job.hydra_job

        def note(composed):
            returned.append(hydra_job(composed))
            return returned[-1]

        monkeypatch.setattr(cli, "hydra_job", note)
        key = "optimized_metric=validation/one/loss"
        code, _, err = mpt("-m", "+tasks=[one]", "seed=0,1", *self.small(tiny_t5_folder))
        assert code == 0, err
        for seed, value in enumerate(returned):
            (folder,) = [
                path.parent for path in place.glob("runs/source/*/config.yaml") if f"\nseed: {seed}" in path.read_text()
            ]
            metrics = json.loads((folder / "metrics.json").read_text())
            assert value == metrics["validation"]["average"]["score"]
        code, _, err = mpt("+tasks=[one]", *self.small(tiny_t5_folder), key.replace("loss", "exact_match"))
        assert code == 0, err
        assert returned[-1] == metrics["validation"]["one"]["exact_match"]

    def test_a_number_to_optimize_that_the_run_lacks_is_named(self, mpt, place, tiny_t5_folder):
        code, _, err = mpt("+tasks=[one]", "optimized_metric=validation/one/rouge", *self.small(tiny_t5_folder))
        assert code == 2
        assert (
            "optimized_metric: one has no 'rouge'; choose one of score, before, oracle, loss, n, n_available, " in err
        )
        assert not (place / "runs").exists()  # said before the training

    def test_seeds_draw_other_examples_unless_the_draw_is_fixed(self):
        assert composed("+tasks=[sum]", "seed=3").few_shot.seed == 3
        assert composed("+tasks=[sum]", "seed=3", "few_shot.seed=1").few_shot.seed == 1

    def test_a_method_and_its_control_are_one_sweep(self, mpt, place, tiny_t5_folder):
        code, _, err = mpt("task=source", "+tasks=[one,two]", *self.small(tiny_t5_folder))
        assert code == 0, err
        (source,) = place.glob("runs/source/one+two-*")
        inits = "prompt.init=AVERAGE_SOURCE_TASKS,VOCABULARY"
        arguments = ["-m", "task=target", "tasks=[two]", f"source={source}", inits, "few_shot.k=2"]
        code, out, err = mpt(*arguments, *self.small(tiny_t5_folder))
        assert code == 0, err
        assert "2 jobs, 0 failed" in out

    def test_limited_test_rows_are_said(self, mpt, place, tiny_t5_folder):
        code, out, err = mpt("+tasks=[one]", "evaluation.test_rows=3", *self.small(tiny_t5_folder))
        assert code == 0, err
        assert "3 of 4" in out
        (metrics,) = place.glob("runs/source/*/metrics.json")
        row = json.loads(metrics.read_text())["test"]["one"]
        assert (row["n"], row["n_available"]) == (3, 4)
        code, out, err = mpt("+tasks=[one]", *self.small(tiny_t5_folder))
        assert code == 0, err
        assert " of 4" not in out

    @pytest.mark.slow
    @pytest.mark.ddp
    def test_a_sweep_over_two_processes(self, place, tiny_t5_folder):
        from safetensors.torch import load_file

        command = [sys.executable, ROOT / "train.py", "--config-dir", place / "conf", "tasks=[one]", "-m", "seed=0,1"]
        small = [
            *self.small(tiny_t5_folder), "logger=csv", "backbone.dropout=false", "few_shot.k=2",
        ]  # fmt: skip
        for root, changes in (("single", []), ("double", ["trainer=ddp", "trainer.accelerator=cpu"])):
            run = [*command, *small, *changes, f"output_root={root}"]
            done = subprocess.run(list(map(str, run)), capture_output=True, text=True, timeout=240, cwd=place)
            assert done.returncode == 0, done.stderr
            assert "2 jobs, 0 failed" in done.stdout
        import torch

        for seed in (0, 1):
            found = []
            for root in ("single", "double"):
                (folder,) = [
                    path.parent for path in place.glob(f"{root}/source/one*/config.yaml")
                    if f"\nseed: {seed}" in path.read_text()
                ]  # fmt: skip
                found.append(folder)
            single, double = (load_file(folder / "prompt" / "adapter_model.safetensors") for folder in found)
            for name in single:
                torch.testing.assert_close(double[name], single[name], rtol=1e-4, atol=1e-5)
            texts = [(folder / "predictions" / "one.jsonl").read_text() for folder in found]
            assert texts[0] == texts[1]

    @pytest.mark.slow
    @pytest.mark.ddp
    @pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
    def test_two_processes_stop_and_go_on(self, signum, place, tiny_t5_folder):
        command = [
            sys.executable, ROOT / "train.py", "--config-dir", place / "conf", "tasks=[one,two]", "logger=csv",
            *self.small(tiny_t5_folder), "trainer=ddp", "trainer.accelerator=cpu", "trainer.max_steps=100000",
        ]  # fmt: skip
        process = subprocess.Popen(
            list(map(str, command)), cwd=place, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        deadline = time.monotonic() + 120
        while not list(place.glob("runs/source/*/checkpoints/last.ckpt")) and time.monotonic() < deadline:
            time.sleep(0.1)
        process.send_signal(signum)
        _, err = process.communicate(timeout=60)
        assert process.returncode == 128 + signum, err
        assert "the same command goes on from there" in err

    @pytest.mark.slow
    @pytest.mark.ddp
    def test_two_processes_equal_one(self, place, tiny_t5_folder):
        import torch
        from safetensors.torch import load_file

        command = [sys.executable, ROOT / "train.py", "--config-dir", place / "conf", "tasks=[one,two]"]
        small = [*self.small(tiny_t5_folder), "logger=csv", "backbone.dropout=false", "evaluation.batch_size=2"]
        for root, changes in (("single", []), ("double", ["trainer=ddp", "trainer.accelerator=cpu"])):
            run = [*command, *small, *changes, f"output_root={root}"]
            subprocess.run(list(map(str, run)), check=True, capture_output=True, timeout=240, cwd=place)
        found = [next(place.glob(f"{root}/source/*/prompt/*.safetensors")) for root in ("single", "double")]
        single, double = map(load_file, found)
        for name in single:
            torch.testing.assert_close(double[name], single[name], rtol=1e-4, atol=1e-5)


class TestDefects:
    def test_an_error_of_ours_shows_where_it_comes_from(self, mpt, tiny_t5_folder, monkeypatch):
        """A defect whose innermost frame is ours is no message for a user."""

        def fail(*_, **__):
            return list(zip([1], [], strict=True))

        monkeypatch.setattr("mpt.training.train.load", fail)
        with pytest.raises(ValueError, match="zip"):
            mpt("+tasks=[one]", *TestWholeRuns().small(tiny_t5_folder))

    def test_errors_do_not_steer_the_terminal(self, capsys):
        print_errors("tasks.\x1b[31mred\x07: is wrong\nñ: is fine", "a\x1b[0m")
        assert capsys.readouterr().err == (
            "error: a\\x1b[0m: tasks.\\x1b[31mred\\x07: is wrong\nerror: a\\x1b[0m: ñ: is fine\n"
        )

    def test_only_errors_for_the_user_are_known(self):
        assert is_known(UserError("a: is wrong; give b"))
        assert not is_known(ValueError("zip() argument 2 is shorter"))
        assert issubclass(UserError, ValueError)


class TestTaskFilesAreData:
    """A task's file comes with a data set, perhaps from a stranger."""

    def write(self, place, text):
        (place / "conf" / "tasks" / "one.yaml").write_text(text)

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            (
                "# @package _global_\nhydra:\n  callbacks:\n    x:\n      _target_: os.system\n",
                "one.yaml:1: is of the package _global_, and a task's file sets only its own task",
            ),
            ("# @package tasks.one\ndefaults:\n  - /hydra/launcher: x\n", "one.yaml:2: has defaults"),
            (
                "# @package tasks.one\ninput: '{text} ${oc.env:SECRET}'\n",
                "one.yaml:2: has '${oc.env:SECRET}', and a task's file reads neither the environment",
            ),
            ("# @package tasks.one\nrows:\n  files: ${oc.decode:x}\n", "one.yaml:3: has '${oc.decode:x}'"),
            (
                "# @package tasks.one\nlabels:\n  target:\n    '0': yes\n",
                "one.yaml:4: tasks.one.labels has yes, which YAML reads as True; quote it",
            ),
            ("# @package tasks.one\nlabels:\n  target:\n    no: bad\n", "has no, which YAML reads as False"),
            ("# @package tasks.one\nlabels:\n  target:\n    '0': 1.50\n", "has 1.50, which YAML reads as 1.5"),
            ("# @package tasks.one\nlabels:\n  target:\n    007: bond\n", "has 007, which YAML reads as 7"),
            ("input: '{text}'\n", "has no package"),
        ],
    )
    def test_anything_else_is_refused_before_anything_runs(self, mpt, place, text, message, monkeypatch):
        monkeypatch.setenv("SECRET", "hunter2")
        self.write(place, text)
        code, out, err = mpt("task=source", "+tasks=[one]")
        assert code == 2
        assert message in err
        assert "hunter2" not in out + err

    def test_generation_takes_no_code(self, mpt, place):
        write_task(place, "one", generation={"custom_generate": str(place), "trust_remote_code": True})
        code, _, err = mpt("task=source", "+tasks=[one]")
        assert code == 2
        assert "tasks.one.generation: no key 'custom_generate'; choose one of num_beams" in err

    def test_a_hidden_folder_of_choices_is_searched_too(self, place, monkeypatch, capsys):
        self.write(place, "# @package _global_\nhydra:\n  job:\n    chdir: true\n")
        monkeypatch.setattr(
            sys, "argv", ["train.py", f"hydra.searchpath=[file://{place / 'conf'}]", "task=source", "+tasks=[one]"]
        )
        with pytest.raises(SystemExit):
            cli.main()
        assert "is of the package _global_" in capsys.readouterr().err


class TestSecrets:
    def test_what_the_environment_is_set_to_stays_out_of_the_run(self, mpt, place, tiny_t5_folder):
        code, _, err = mpt(
            "+tasks=[one]",
            "+hydra.job.env_set.KEY=hunter2",
            *TestWholeRuns().small(tiny_t5_folder),
            "hydra.run.dir=run",
        )
        assert code == 0, err
        text = (place / "run" / "config.yaml").read_text()
        assert "hunter2" not in text
        command = read_config(place / "run")[1]["command"]
        assert command.startswith("python train.py")
        assert str(place) not in command

    def test_a_sweep_leaves_no_secret_either(self, mpt, place, tiny_t5_folder):
        code, _, err = mpt(
            "-m", "+tasks=[one]", "seed=0,1", "+hydra.job.env_set.KEY=hunter2", *TestWholeRuns().small(tiny_t5_folder)
        )
        assert code == 0, err
        written = [path for path in (place / "runs").rglob("*") if path.suffix in (".yaml", ".jsonl", ".json")]
        assert any(path.parent.name == "sweeps" and path.suffix == ".yaml" for path in written)
        assert not any("hunter2" in path.read_text() for path in written)

    def test_paths_of_this_machine_are_shortened(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        argv = ["/opt/x/train.py", f"source={tmp_path}/runs/a", "data_root=/home/anna/rows", "tasks=[a,b]", "x=1/2"]
        assert describe_command(argv) == "python train.py source=runs/a data_root=.../rows 'tasks=[a,b]' x=1/2"


class TestRowsThatChange:
    def run(self, mpt, tiny_t5_folder, *overrides):
        return mpt("+tasks=[one]", *TestWholeRuns().small(tiny_t5_folder), "hydra.run.dir=run", *overrides)

    def test_a_finished_run_over_other_rows_is_refused(self, mpt, place, tiny_t5_folder):
        assert self.run(mpt, tiny_t5_folder)[0] == 0
        write_rows(place, "one", "test", [row | {"target": "blue"} for row in ROWS])
        code, _, err = self.run(mpt, tiny_t5_folder)
        assert code == 2
        assert "run: was run over other rows of tasks.one (test), which changed since; overwrite=true" in err
        assert self.run(mpt, tiny_t5_folder, "overwrite=true")[0] == 0

    def test_the_same_rows_written_anew_are_the_same(self, mpt, place, tiny_t5_folder):
        assert self.run(mpt, tiny_t5_folder)[0] == 0
        time.sleep(0.02)
        for split in ("train", "validation", "test"):
            write_rows(place, "one", split, ROWS)
        code, out, _ = self.run(mpt, tiny_t5_folder)
        assert code == 0
        assert "finished already" in out

    def test_an_unfinished_run_does_not_go_on_over_other_rows(self, mpt, place, tiny_t5_folder):
        assert self.run(mpt, tiny_t5_folder)[0] == 0
        (place / "run" / "metrics.json").unlink()  # as a stop after the last validation leaves it
        write_rows(place, "one", "train", ROWS[::-1])
        code, _, err = self.run(mpt, tiny_t5_folder)
        assert code == 2
        assert "other rows of tasks.one (train), which changed since; resume=never starts again" in err

    def test_an_unfinished_run_does_not_go_on_from_another_source(self, mpt, place, tiny_t5_folder):
        small = TestWholeRuns().small(tiny_t5_folder)
        assert mpt("+tasks=[one]", *small, "hydra.run.dir=source")[0] == 0
        target = ("task=target", "source=source", "+tasks=[two]", *small, "hydra.run.dir=run")
        assert mpt(*target)[0] == 0
        (place / "run" / "metrics.json").unlink()
        assert mpt("+tasks=[one]", *small, "hydra.run.dir=source", "seed=1", "overwrite=true")[0] == 0
        code, _, err = mpt(*target)
        assert code == 2
        assert "learned from source before that was trained anew; resume=never starts again" in err


class TestWaysOut:
    def test_a_task_that_lies_nearby(self, place, monkeypatch, capsys):
        (place / "conf").rename(place / "mine")
        monkeypatch.setattr(sys, "argv", ["train.py", "task=source", "+tasks=[one]"])
        with pytest.raises(SystemExit):
            cli.main()
        assert (
            "tasks: 'one' lies in mine/tasks, which is not searched; add --config-dir mine" in capsys.readouterr().err
        )

    @pytest.mark.parametrize(
        ("override", "package"),
        [
            ("hydra/launcher=submitit_slurm", "hydra-submitit-launcher"),
            ("hydra/sweeper=optuna", "hydra-optuna-sweeper"),
        ],
    )
    def test_a_plugin_that_is_missing(self, mpt, override, package):
        code, _, err = mpt("-m", "+tasks=[one]", override)
        assert code == 2
        assert f"is a plugin of Hydra: pip install {package}" in err

    def test_no_gpu(self, mpt, tiny_t5_folder):
        if torch.cuda.is_available():
            pytest.skip("there is one")
        code, _, err = mpt("+tasks=[one]", *TestWholeRuns().small(tiny_t5_folder), "trainer=gpu")
        assert code == 2
        assert "without a GPU use trainer=cpu" in err

    def test_choices_that_are_read_as_truth_values(self, mpt, place):
        code, _, err = mpt("task=predict", f"source={place}", "predict.choices=[true,false]")
        assert code == 2
        assert "predict.choices: True is read as a bool, and a text is meant; quote it" in err


def test_a_warning_that_all_jobs_share_is_printed_once(mpt, place, tiny_t5_folder):
    code, _, err = mpt("-m", "+tasks=[one]", "seed=0,1,2", "optim.lr_prompt=50", *TestWholeRuns().small(tiny_t5_folder))
    assert code == 0, err
    assert err.count("optim.lr_prompt: is 50") <= 1


def test_a_stopped_sweep_counts_what_is_unfinished():
    outcomes = [sweep.Outcome(0, "a", [], score=0.5), sweep.Outcome(1, "b", [], error="no")]
    assert sweep.describe_jobs(outcomes, 96) == "96 jobs, 1 failed, 94 unfinished; the same command goes on"
    assert sweep.describe_jobs(outcomes, 2) == "2 jobs, 1 failed"
    assert sweep.count_jobs(["-m", "task=target", "seed=0,1,2", "few_shot.k=4,16", "+tasks=[a,b]"]) == 6
    assert sweep.count_jobs(["-m", "seed=range(5)", "prompt.num_ranks=choice(1,2)"]) == 10
