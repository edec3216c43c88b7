"""Inputs from files and standard input, answered in order, on from where an interruption left them."""

import io
import json
import sys
from pathlib import Path

import pytest

from mpt import PromptedModel, cli

TEXTS = [f"say {word}" for word in ("red", "green", "blue", "black", "white", "red or blue")]
TASKS = ["one", "two"] * 3


@pytest.fixture(scope="module")
def expected(source_run):
    """What the prompt answers, by the Python interface."""
    return PromptedModel.load(source_run).generate(TEXTS, TASKS, max_new_tokens=8)


@pytest.fixture
def predict(source_run, tmp_path, monkeypatch, capsys):
    """Call ``task=predict``: exit code, answers, what was printed on stderr."""
    monkeypatch.chdir(tmp_path)

    def call(*overrides, output="answers.jsonl"):
        arguments = ["task=predict", f"source={source_run}", "predict.max_new_tokens=8", *overrides]
        arguments += [f"predict.output={output}"] if output else []
        quiet = ["hydra/job_logging=none", "hydra/hydra_logging=none"]
        monkeypatch.setattr(sys, "argv", ["train.py", *arguments, *quiet])
        code: str | int = 0
        try:
            cli.main()
        except SystemExit as stop:
            code = stop.code or 0
        out, err = capsys.readouterr()
        text = Path(output).read_text() if output and Path(output).is_file() else out
        return code, [json.loads(line) for line in text.splitlines()], err

    return call


def write_jsonl(path, *, task=True):
    lines = [
        {"text": text} | ({"task": name} if task else {}) for text, name in zip(TEXTS, TASKS, strict=True)
    ]
    Path(path).write_text("".join(json.dumps(line) + "\n" for line in lines))


def check(lines, expected):
    assert [line["prediction"] for line in lines] == expected
    assert [(line["index"], line["input"], line["task"]) for line in lines] == [
        (index, text, task) for index, (text, task) in enumerate(zip(TEXTS, TASKS, strict=True))
    ]


def test_json_lines_and_csv(predict, expected, tmp_path):
    write_jsonl(tmp_path / "texts.jsonl")
    code, lines, err = predict("predict.input=texts.jsonl", "predict.batch_size=2")
    assert code == 0, err
    check(lines, expected)
    assert "answered 6 inputs" in err
    assert not (tmp_path / "runs").exists()
    rows = "".join(f'"{text}",{task}\n' for text, task in zip(TEXTS, TASKS, strict=True))
    (tmp_path / "texts.csv").write_text(f"text,task\n{rows}")
    check(predict("predict.input=texts.csv", output="other.jsonl")[1], expected)


def test_standard_input_to_standard_output(predict, source_run, monkeypatch):
    raw = io.BytesIO("".join(f"{text}\n" for text in TEXTS).encode())
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(raw))
    code, lines, _ = predict("predict.task=two", output=None)
    assert code == 0
    answers = PromptedModel.load(source_run).generate(TEXTS, "two", max_new_tokens=8)
    assert [line["prediction"] for line in lines] == answers


@pytest.mark.parametrize("kept", [0, 40, 2.0, 2.5, 6.0])
def test_goes_on_where_it_was_interrupted(predict, expected, tmp_path, kept):
    write_jsonl(tmp_path / "texts.jsonl")
    predict("predict.input=texts.jsonl")
    whole = (tmp_path / "answers.jsonl").read_text()
    lines = whole.splitlines(keepends=True)
    cut = whole[:kept] if isinstance(kept, int) else "".join(lines[: int(kept)])
    if kept == 2.5:
        cut += lines[2][:9]
    (tmp_path / "answers.jsonl").write_text(cut)
    code, answered, _ = predict("predict.input=texts.jsonl")
    assert code == 0
    check(answered, expected)


@pytest.mark.parametrize(
    ("content", "overrides", "message"),
    [
        ('{"text": "a", "task": "three"}', [], "texts.jsonl:1: no task 'three'; choose one of one, two"),
        ('{"text": "a"}', [], "texts.jsonl:1: no task; name one for each input under 'task'"),
        (
            '{"text": "a", "task": "one"}\n{"txt": "a", "task": "one"}',
            [],
            "texts.jsonl:2: no text; each input needs",
        ),
        ('{"text": "a"', [], "texts.jsonl:1: not JSON"),
        ('{"text": "a"}', ["predict.task=three"], "predict.task: no task 'three'"),
        ('{"text": "a"}', ["predict.input=nowhere"], "predict.input: no file 'nowhere'"),
        ('{"text": "a"}', ["source=nowhere"], "source: no folder 'nowhere'"),
        ('{"text": "a"}', ["predict.choices=[]"], "predict.choices: is []; name at least one text"),
        ('{"text": "a"}', ["predict.batch_size=0"], "predict.batch_size: is 0; it must be at least 1"),
    ],
)
def test_bad_inputs_are_one_line(predict, tmp_path, content, overrides, message):
    (tmp_path / "texts.jsonl").write_text(content + "\n")
    code, _, err = predict("predict.input=texts.jsonl", *overrides)
    assert code == 2
    assert err.strip().splitlines()[-1].startswith(f"error: {message}"), err


def test_answers_may_be_restricted(predict, tmp_path):
    write_jsonl(tmp_path / "texts.jsonl")
    code, lines, _ = predict("predict.input=texts.jsonl", "predict.choices=[red,green]")
    assert code == 0
    assert {line["prediction"] for line in lines} <= {"red", "green"}


def test_answers_to_other_inputs_are_kept(predict, tmp_path):
    write_jsonl(tmp_path / "texts.jsonl")
    (tmp_path / "answers.jsonl").write_text('{"my": "notes"}\n')
    code, _, err = predict("predict.input=texts.jsonl")
    assert code == 2
    assert "answers.jsonl:1: answers another input; give another predict.output" in err
    assert (tmp_path / "answers.jsonl").read_text() == '{"my": "notes"}\n'
