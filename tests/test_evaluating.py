"""task=evaluate: scores and predictions as the run itself gave them, of prompts and of every baseline."""

import json

import pytest

from mpt.answering.evaluating import evaluate
from mpt.run.folder import read_config
from mpt.run.record import read_metrics
from mpt.training.train import train
from tests.runs import run_cli


def predictions(run, *split):
    folder = run.joinpath("predictions", *split)
    return {path.name: path.read_text() for path in folder.glob("*.jsonl")}


def check_equal(found, run):
    """The same scores, counts and predictions as a training run recorded."""
    expected = read_metrics(run)
    for split in ("test", "validation"):
        for task, of_task in read_metrics(found)[split].items():
            for key, value in of_task.items():
                assert value == pytest.approx(expected[split][task].get(key, value)), (split, task, key)
            assert {"n", "score"} <= of_task.keys()
    assert predictions(found) == predictions(run)
    assert set(predictions(found, "validation")) == set(predictions(run))


def test_a_prompt_scores_as_in_its_run(make_config, source_run, tmp_path):
    config = make_config("evaluate", source=str(source_run), evaluate__splits=["test", "validation"])
    evaluate(config, tmp_path / "run")
    check_equal(tmp_path / "run", source_run)
    oracle = read_metrics(tmp_path / "run")["test"]["one"]["oracle"]
    assert oracle == read_metrics(source_run)["test"]["one"]["oracle"]
    assert read_config(tmp_path / "run")[1]["fingerprint"] == read_config(source_run)[1]["fingerprint"]


@pytest.mark.parametrize("name", ["attempt", "dept", "adept", "ulpt", "lora", "full"])
def test_a_baseline_scores_as_in_its_run(name, make_config, source_run, tmp_path):
    settings = {
        "attempt": {"method__num_ranks": 3, "source": str(source_run)},
        "dept": {"method__num_ranks": 2},
        "adept": {"method__num_ranks": 2},
        "ulpt": {"method__num_ranks": 2},
        "lora": {"method__num_ranks": 2},
        "full": {},
    }
    run = tmp_path / "run"
    config = make_config(
        "target", method__name=name, prompt__form="independent", prompt__init="RANDOM",
        optim__lr_weights=0.1, **settings[name],
    )  # fmt: skip
    train(config, run)
    config = make_config("evaluate", source=str(run), evaluate__splits=["validation", "test"])
    config.evaluation.oracle = False
    evaluate(config, tmp_path / "scored")
    check_equal(tmp_path / "scored", run)


def test_tasks_in_any_order_and_under_other_prompts(make_config, source_run, tmp_path):
    config = make_config("evaluate", ["two", "one"], source=str(source_run), evaluation__oracle=False)
    evaluate(config, tmp_path / "turned")
    assert predictions(tmp_path / "turned") == predictions(source_run)
    config = make_config("evaluate", ["one"], source=str(source_run), evaluation__oracle=False)
    config.evaluate.prompt_of = {"one": "two"}
    evaluate(config, tmp_path / "other")
    lines = [json.loads(line) for line in predictions(tmp_path / "other")["one.jsonl"].splitlines()]
    own = [json.loads(line) for line in predictions(source_run)["one.jsonl"].splitlines()]
    assert [line["input"] for line in lines] == [line["input"] for line in own]
    config.evaluate.prompt_of = {"one": "three"}
    with pytest.raises(ValueError, match=r"tasks\.one: .* has no prompt for 'three'; it has one, two"):
        evaluate(config, tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_from_the_command_line(source_run, rows_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    own = tmp_path / "mine" / "tasks" / "one.yaml"
    own.parent.mkdir(parents=True)
    own.write_text(
        f"# @package tasks.one\nrows: {{files: '{rows_folder / 'one'}'}}\ninput: '{{text}}'\n"
        "target: '{target}'\nmetrics: [exact_match]\nmax_target_tokens: 8\n"
    )
    arguments = ["task=evaluate", f"source={source_run}", "+tasks=[one]", "--config-dir", str(tmp_path / "mine")]
    assert run_cli(monkeypatch, *arguments, "evaluate.splits=[validation,test]") == 0
    shown = capsys.readouterr().out
    assert "validation" in shown
    assert "score" in shown
    (run,) = (tmp_path / "runs" / "evaluate").iterdir()
    assert run.name.startswith("one-source-")
    assert run_cli(monkeypatch, *arguments, "evaluate.splits=[validation,test]") == 0
    assert "finished already" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["evaluate.splits=[tests]"], "evaluate.splits: unknown 'tests'; choose one of train, validation, test"),
        (["evaluate.splits=[]"], "evaluate.splits: there are none"),
        (["+evaluate.prompt_of.when=sum"], "evaluate.prompt_of: no task of this evaluation 'when'"),
        (["source=null"], "source: is missing, and task=evaluate scores what it has trained"),
        (["source=nowhere"], "source: no folder or file 'nowhere'"),
    ],
)
def test_bad_input_is_one_line(source_run, tmp_path, monkeypatch, capsys, overrides, message):
    monkeypatch.chdir(tmp_path)
    arguments = ["task=evaluate", f"source={source_run}", "+tasks=[sum]", *overrides]
    assert run_cli(monkeypatch, *arguments) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_it_ends_with_0_whatever_split_it_answers(source_run, rows_folder, tmp_path, monkeypatch, capsys):
    """The number that a sweeper is handed is of a split that is there."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine" / "tasks").mkdir(parents=True)
    task = {
        "rows": {"files": str(rows_folder / "one")},
        "input": "{text}",
        "target": "{target}",
        "metrics": ["exact_match"],
    }
    (tmp_path / "mine" / "tasks" / "one.yaml").write_text(f"# @package tasks.one\n{json.dumps(task)}\n")
    command = ("--config-dir", "mine", "task=evaluate", f"source={source_run}", "+tasks=[one]")
    wrong = ("evaluate.splits=[test]", "optimized_metric=validation/one/score")
    assert run_cli(monkeypatch, *command, *wrong) == 2
    assert "optimized_metric: is 'validation/one/score'" in capsys.readouterr().err
    for splits in ("test", "validation", "train", "validation,test"):
        assert run_cli(monkeypatch, *command, f"evaluate.splits=[{splits}]") == 0
