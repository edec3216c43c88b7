"""Inputs from files and standard input, answered in order, on from where an interruption left them."""

import dataclasses
import io
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from mpt import PromptedModel
from mpt.answering.evaluating import evaluate
from mpt.cli import main as cli
from mpt.errors import UserError
from mpt.training.train import train

ROOT = Path(__file__).resolve().parent.parent
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
        return code, [json.loads(line) for line in text.split("\n") if line], err

    return call


def write_jsonl(path, *, task=True):
    lines = [{"text": text} | ({"task": name} if task else {}) for text, name in zip(TEXTS, TASKS, strict=True)]
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
        ('{"text": "a", "task": "one"}\n{"txt": "a", "task": "one"}', [], "texts.jsonl:2: no text; each input needs"),
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


class TestFiles:
    def test_a_line_ends_at_a_line_feed_alone(self, predict):
        texts = ["anna found\u2028the hat .", "ben sold\x85a drum .", "anna sold\x0ca cup .", "ben ."]
        Path("texts.txt").write_text("".join(text + "\n" for text in texts), encoding="utf-8", newline="\n")
        for _ in range(2):  # the second time, all of them are answered
            code, answers, err = predict("predict.input=texts.txt", "predict.task=one")
            assert code == 0, err
            assert [each["input"] for each in answers] == texts
        whole = Path("answers.jsonl").read_text()
        Path("answers.jsonl").write_text(whole[: whole.index("\n") + 5])  # interrupted within a line
        assert predict("predict.input=texts.txt", "predict.task=one")[0] == 0
        assert Path("answers.jsonl").read_text() == whole

    def test_a_byte_order_mark_and_tabs(self, predict):
        Path("texts.tsv").write_text("text\ttask\nsay red\tone\nsay blue\ttwo\n", encoding="utf-8-sig")
        code, answers, err = predict("predict.input=texts.tsv")
        assert code == 0, err
        assert [(each["input"], each["task"]) for each in answers] == [("say red", "one"), ("say blue", "two")]
        Path("answers.jsonl").unlink()
        Path("texts.txt").write_text("say red\n", encoding="utf-8-sig")
        assert predict("predict.input=texts.txt", "predict.task=one")[1][0]["input"] == "say red"

    def test_it_does_not_go_on_with_another_prompt_or_other_settings(self, predict, source_run, tmp_path):
        write_jsonl("texts.jsonl")
        assert predict("predict.input=texts.jsonl")[0] == 0
        code, _, err = predict("predict.input=texts.jsonl", "predict.max_new_tokens=3")
        assert code == 2
        assert "answers.jsonl:1: was answered by another prompt, or with other settings" in err
        other = tmp_path / "other"
        shutil.copytree(source_run / "prompt", other / "prompt")
        tensors = load_file(other / "prompt" / "adapter_model.safetensors")
        tensors["prompt_embeddings"] += 1
        save_file(tensors, other / "prompt" / "adapter_model.safetensors", metadata={"format": "pt"})
        code, _, err = predict("predict.input=texts.jsonl", f"source={other}")
        assert code == 2
        assert "was answered by another prompt" in err


class TestAsItWasScored:
    """What is scored is what is served: the task's own cut, search, choices and template."""

    @pytest.fixture(scope="class")
    def run(self, make_config, tmp_path_factory):
        root = tmp_path_factory.mktemp("served")
        words = ("red", "green", "blue", "black", "white")
        (root / "one").mkdir()
        for split in ("train", "validation", "test"):
            lines = [
                {"question": f"say {word}", "text": "a very long text " * 3, "kind": i % 2}
                for i, word in enumerate(words)
            ]
            (root / "one" / f"{split}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        config = make_config(
            tasks=["one"],
            data_root=str(root),
            tasks__one__input="question: {question} text: {text}",
            tasks__one__target="{kind}",
            tasks__one__labels={"kind": {"0": "red", "1": "blue"}},
            tasks__one__constrained=True,
            tasks__one__max_source_tokens=12,
            tasks__one__generation={"num_beams": 3},
        )
        train(config, root / "run")
        return root / "run"

    def scored(self, run):
        return [json.loads(line) for line in (run / "predictions" / "one.jsonl").read_text().splitlines()]

    def test_from_python_by_text_and_by_columns(self, run):
        model, scored = PromptedModel.load(run), self.scored(run)
        expected = [each["prediction"] for each in scored]
        assert {*expected} <= {"red", "blue"}
        with pytest.warns(UserWarning, match="5 of 5 texts are longer than their task was trained with"):
            assert model.generate([each["input"] for each in scored], "one") == expected
        columns = [
            {"question": f"say {word}", "text": "a very long text " * 3}
            for word in ("red", "green", "blue", "black", "white")
        ]
        with pytest.warns(UserWarning, match="5 of 5"):
            assert model.generate(columns, "one") == expected
        with pytest.raises(ValueError, match=r"texts: number 0: column 'question' of tasks\.one\.input is missing"):
            model.generate([{"text": "x"}], "one")

    @pytest.mark.filterwarnings("ignore:5 of 5")
    def test_from_a_file_of_columns(self, run, predict):
        rows = [
            {"question": f"say {word}", "text": "a very long text " * 3}
            for word in ("red", "green", "blue", "black", "white")
        ]
        for name, text in {
            "rows.jsonl": "".join(json.dumps(row) + "\n" for row in rows),
            "rows.csv": "question,text\n" + "".join(f"{row['question']},{row['text']}\n" for row in rows),
            "nested.jsonl": "".join(json.dumps({"columns": row}) + "\n" for row in rows),
        }.items():
            Path(name).write_text(text)
            code, answers, err = predict(
                f"source={run}",
                f"predict.input={name}",
                "predict.task=one",
                "predict.max_new_tokens=null",
                output=f"{name}.out",
            )
            assert code == 0, err
            assert [(each["input"], each["prediction"]) for each in answers] == [
                (each["input"], each["prediction"]) for each in self.scored(run)
            ]

    def test_evaluate_answers_as_trained_and_says_so(self, run, make_config, tmp_path, capsys):
        plain = make_config(
            "evaluate", ["one"], source=str(run), data_root=str(run.parent),
            tasks__one__input="question: {question} text: {text}", tasks__one__target="{kind}",
            tasks__one__labels={"kind": {"0": "red", "1": "blue"}},
        )  # fmt: skip
        evaluate(plain, tmp_path / "run")
        assert self.scored(tmp_path / "run") == self.scored(run)
        assert "tasks.one: answered as it was trained, with max_source_tokens=12 (16 here)" in capsys.readouterr().out
        evaluate(plain, tmp_path / "other", ["tasks.one.max_source_tokens", "tasks.one.generation.num_beams"])
        assert "max_source_tokens" not in capsys.readouterr().out

    def test_what_an_older_version_saved_still_loads(self, run, tmp_path):
        shutil.copytree(run / "prompt", tmp_path / "prompt")
        about = json.loads((tmp_path / "prompt" / "mpt.json").read_text())
        del about["answers"]
        (tmp_path / "prompt" / "mpt.json").write_text(json.dumps(about | {"format_version": 2}))
        model = PromptedModel.load(tmp_path)
        assert len(model.generate(["say red"], "one")) == 1
        with pytest.raises(ValueError, match="does not know the template of 'one'"):
            model.generate([{"question": "x", "text": "y"}], "one")

    def test_a_saved_prompt_runs_no_code(self, run, tmp_path):
        shutil.copytree(run / "prompt", tmp_path / "prompt")
        about = json.loads((tmp_path / "prompt" / "mpt.json").read_text())
        about["answers"]["one"]["generation"] = {"custom_generate": "x", "trust_remote_code": True}
        (tmp_path / "prompt" / "mpt.json").write_text(json.dumps(about))
        with pytest.raises(ValueError, match=r"answers\.one\.generation: no key 'custom_generate'"):
            PromptedModel.load(tmp_path)


class TestNothingOfOthersIsLost:
    @pytest.mark.parametrize("content", [b"my notes", b"my notes\n", b"\xff\xfe\x00", b'{"index": 0}\nnotes'])
    def test_a_file_of_somebody_else_is_no_output(self, predict, content):
        write_jsonl("texts.jsonl")
        Path("notes.txt").write_bytes(content)
        code, _, err = predict("predict.input=texts.jsonl", output="notes.bin")
        assert code == 0, err
        monkey = predict("predict.input=texts.jsonl", "predict.output=notes.txt", output=None)
        assert monkey[0] == 2
        assert "notes.txt" in monkey[2]
        assert Path("notes.txt").read_bytes() == content


@pytest.mark.slow
def test_a_pipe_and_a_device_are_inputs(source_run, tmp_path):
    command = f"{sys.executable} -m mpt task=predict source={source_run} predict.task=one predict.max_new_tokens=4"
    first = f"printf 'anna .\\nben .\\n' | {command} predict.input=/dev/stdin"
    shell = f"{first} && {command} predict.input=<(printf 'anna .\\n')"
    done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert [json.loads(line)["input"] for line in done.stdout.splitlines()] == ["anna .", "ben .", "anna ."]


def test_a_text_whose_attention_no_memory_holds_is_refused(source_run, monkeypatch):
    model = PromptedModel.load(source_run)
    monkeypatch.setitem(model.answers, "one", dataclasses.replace(model.answers["one"], max_source_tokens=None))
    with pytest.raises(UserError, match=r"texts: number 1 has [\d,]+ tokens, and 1 rows .*so shorten it"):
        model.generate(["anna .", "anna found the hat . " * 50_000], "one", batch_size=1)
