"""Rows to text: templates, files, label words, few-shot draws, and every way in which they can be wrong."""

import csv
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from mpt.config import RowsConfig, TaskConfig
from mpt.tasks import Example, Template, catalogue, check_task, load_split
from mpt.world import TASKS

ROWS = [
    {"text": "the mill burns", "kind": 0},
    {"text": 'say "hi"\nthere', "kind": 1},
    {"text": "größer", "kind": 0},
]


def task(folder: Path | None = None, **changes: Any) -> TaskConfig:
    settings: dict[str, Any] = {
        "rows": RowsConfig(files=str(folder)),
        "input": "classify: {text}",
        "target": "{kind}",
        "metrics": ["accuracy"],
        "labels": {"kind": {"0": "calm", "1": "loud"}},
    }
    return TaskConfig(**(settings | changes))


def write(folder: Path, rows: list[dict[str, Any]], kind: str = "jsonl", split: str = "train") -> Path:
    path = folder / f"{split}.{kind}"
    if kind == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    elif kind == "csv":
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    else:
        parquet.write_table(pa.Table.from_pylist(rows), path)
    return path


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_every_kind_of_file_gives_the_same_examples(tmp_path: Path, kind: str) -> None:
    write(tmp_path, ROWS, kind)
    found = load_split("noise", task(tmp_path), "train")
    assert found == [
        Example("train:0", "classify: the mill burns", "calm", ("calm",), "calm"),
        Example("train:1", 'classify: say "hi"\nthere', "loud", ("loud",), "loud"),
        Example("train:2", "classify: größer", "calm", ("calm",), "calm"),
    ]


def test_data_root_reads_its_own_folder_for_each_task(tmp_path: Path) -> None:
    (tmp_path / "noise").mkdir()
    write(tmp_path / "noise", ROWS, split="test")
    hub = task(rows=RowsConfig(hub="nobody/nothing"))
    assert len(load_split("noise", hub, "test", data_root=str(tmp_path))) == len(ROWS)
    with pytest.raises(FileNotFoundError, match=r"tasks\.noise: no file .*train\.jsonl"):
        load_split("noise", hub, "train", data_root=str(tmp_path))


def test_lists_are_joined_in_inputs_and_give_their_first_item_as_target(tmp_path: Path) -> None:
    write(tmp_path, [{"context": ["a", "b"], "answers": ["x", "y"]}])
    config = task(
        tmp_path,
        input="{context}",
        target="{answers}",
        references="answers",
        labels={},
        join=" / ",
        metrics=["squad"],
    )
    assert load_split("qa", config, "train") == [Example("train:0", "a / b", "x", ("x", "y"), None)]


def test_row_without_references_has_its_target_as_the_only_one(tmp_path: Path) -> None:
    write(tmp_path, [{"text": "a", "out": "x"}, {"text": "b", "out": "y", "references": ["y", "z"]}])
    config = task(tmp_path, target="{out}", references="references", labels={})
    assert [example.references for example in load_split("t", config, "train")] == [("x",), ("y", "z")]


def test_rename_reaches_into_mappings_and_keeps_what_is_there(tmp_path: Path) -> None:
    write(tmp_path, [{"q": "why", "answers": {"text": ["so"]}}, {"q": "who", "answers": ["me"]}])
    config = task(tmp_path, input="{q}", target="{answers}", labels={})
    config.rows.rename = {"answers.text": "answers"}
    assert [example.target for example in load_split("t", config, "train")] == ["so", "me"]


def test_turns_make_a_row_of_each_reply(tmp_path: Path) -> None:
    write(tmp_path, [{"dialog": ["hello", "hi", "bye"]}, {"context": ["a", "b"], "response": "c"}])
    config = task(tmp_path, input="{context}", target="{response}", labels={}, join="|")
    config.rows.turns = "dialog"
    found = [(example.row_id, example.input, example.target) for example in load_split("t", config, "train")]
    assert found == [("train:0", "hello", "hi"), ("train:1", "hello|hi", "bye"), ("train:2", "a|b", "c")]


def test_numbers_are_told_plainly(tmp_path: Path) -> None:
    write(tmp_path, [{"text": "a", "kind": 4.0}, {"text": "b", "kind": 3.799999952316284}])
    config = task(tmp_path, labels={}, metrics=["pearson"])
    assert [example.target for example in load_split("t", config, "train")] == ["4.0", "3.8"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"text": "b", ', r"train\.jsonl:2: not JSON"),
        ("[1, 2]", r"train\.jsonl:2: is a list; each line is one object"),
        ('{"kind": 0}', r"train\.jsonl:2: column 'text' of tasks\.noise\.input is missing; the row has kind"),
        ('{"text": null, "kind": 0}', r"train\.jsonl:2: column 'text' .* is empty"),
        (
            '{"text": "b", "kind": 7}',
            r"train\.jsonl:2: column 'kind' is '7', which has no label word; .* 0, 1",
        ),
        ('{"text": "  ", "kind": 0, "t": 1}', None),
    ],
)
def test_broken_row_is_named_with_file_and_line(tmp_path: Path, line: str, message: str | None) -> None:
    path = write(tmp_path, ROWS[:1])
    path.write_text(path.read_text() + line + "\n", encoding="utf-8")
    if message is None:  # "classify: " is left of the template, so the input is not empty
        assert load_split("noise", task(tmp_path), "train")[1].input == "classify:"
        return
    with pytest.raises(ValueError, match=message):
        load_split("noise", task(tmp_path), "train")


def test_bytes_that_are_not_utf8_are_named(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_bytes(b'{"text": "a", "kind": 0}\n{"text": "\xff", "kind": 0}\n')
    with pytest.raises(ValueError, match=r"train\.jsonl:2: not utf-8 .*set rows\.encoding"):
        load_split("noise", task(tmp_path), "train")


def test_empty_target_and_empty_input_are_refused(tmp_path: Path) -> None:
    write(tmp_path, [{"text": "a", "out": " "}])
    with pytest.raises(ValueError, match=r"train\.jsonl:1: the target of tasks\.t is empty"):
        load_split("t", task(tmp_path, target="{out}", labels={}), "train")
    write(tmp_path, [{"text": " ", "out": "x"}])
    with pytest.raises(ValueError, match=r"train\.jsonl:1: the input of tasks\.t is empty"):
        load_split("t", task(tmp_path, input="{text}", target="{out}", labels={}), "train")


def test_ragged_csv_empty_split_and_missing_split_are_refused(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("text,kind\na,0,9\n")
    with pytest.raises(ValueError, match=r"train\.csv:2: the row has not as many values"):
        load_split("noise", task(tmp_path), "train")
    (tmp_path / "test.jsonl").write_text("\n")
    with pytest.raises(ValueError, match=r"tasks\.noise: the test split has no rows"):
        load_split("noise", task(tmp_path), "test")
    with pytest.raises(
        FileNotFoundError, match=r"no 'validation' in .*, which has test, train; give validation"
    ):
        load_split("noise", task(tmp_path), "validation")


def test_unreachable_hub_says_what_to_do() -> None:
    with pytest.raises(FileNotFoundError, match=r"the hub does not give nobody/nothing .*data_root=FOLDER"):
        load_split("t", task(rows=RowsConfig(hub="nobody/nothing")), "train")


@pytest.mark.parametrize("text", ["{text.upper}", "{text[0]}", "{text!r}", "{text:>9}", "{}", "{0}"])
def test_template_reaches_into_nothing(text: str) -> None:
    with pytest.raises(ValueError, match="is not the name of a column"):
        Template(text)


def test_lone_brace_is_refused_and_double_ones_are_braces() -> None:
    with pytest.raises(ValueError, match=r"a lone '\}'"):
        Template("a } b")
    assert Template("{{{a}}} {{x}}").fill({"a": "1"}) == "{1} {x}"


@given(st.dictionaries(st.sampled_from("abc"), st.text(), min_size=3))
def test_template_is_the_plain_replacement(values: dict[str, str]) -> None:
    assert (
        Template("{a}-{b}/{c}{a}").fill(values) == f"{values['a']}-{values['b']}/{values['c']}{values['a']}"
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"metrics": ["rogue"]}, "tasks.t.metrics: unknown metric 'rogue'; choose one of accuracy"),
        ({"metrics": ["rogue"]}, "(did you mean 'rouge'?)"),
        ({"metrics": []}, "tasks.t.metrics: there are none"),
        ({"weight": 0.0}, "tasks.t.weight: is 0.0; λ must be a number above 0"),
        ({"weight": float("nan")}, "tasks.t.weight: is nan"),
        ({"input": "{a.b}"}, "tasks.t.input: '{a.b}': '{a.b}' is not the name of a column"),
        ({"target": "fixed"}, "tasks.t.target: 'fixed' names no column"),
        ({"rows": RowsConfig()}, "tasks.t.rows: has no source; give exactly one of world, files and hub"),
        ({"rows": RowsConfig(files="a", hub="b")}, "tasks.t.rows: has files, hub; give exactly one"),
        (
            {"rows": RowsConfig(world="summ")},
            "tasks.t.rows.world: no task 'summ' in the embedded world (did you mean 'sum'?)",
        ),
        ({"rows": RowsConfig(files="a", splits={"dev": "x"})}, "tasks.t.rows.splits: unknown split 'dev'"),
        ({"max_target_tokens": 1}, "tasks.t.max_target_tokens: is 1; it must be at least 2"),
    ],
)
def test_every_error_of_a_configuration_is_found(changes: dict[str, Any], message: str) -> None:
    errors = check_task("t", task(Path("folder"), **changes))
    assert any(message in error for error in errors), errors


@pytest.mark.parametrize("name", ["prompt", "average", "../sum", "a b", "", ".hidden", "a/b"])
def test_names_that_cannot_be_a_tasks_are_refused(name: str) -> None:
    (error,) = check_task(name, task(Path("folder")))
    assert error.startswith(f"tasks.{name}: ")


@pytest.mark.parametrize("name", ["sum", "mt_velo", "sst-2", "v1.1", "été"])
def test_names_that_can_be_a_files_are_fine(name: str) -> None:
    assert check_task(name, task(Path("folder"))) == []


def test_several_errors_come_together() -> None:
    assert len(check_task("t", task(Path("x"), metrics=["a"], weight=-1.0, input="{"))) == 3


def test_every_shipped_task_is_well_formed_and_in_the_catalogue() -> None:
    folder = Path("conf/tasks")
    listed = {name: source for name, _, source, _, _ in catalogue(folder)}
    for path in folder.glob("*.yaml"):
        lines = path.read_text().splitlines()
        assert lines[0] == f"# @package tasks.{path.stem}"
        assert lines[1].startswith("# ")
        assert "python train.py" in lines[1]
        config = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(TaskConfig), OmegaConf.load(path)))
        assert isinstance(config, TaskConfig)
        assert check_task(path.stem, config) == []
        assert listed[path.stem]
    assert set(TASKS) < set(listed)
    glue = {"sst2", "mnli", "qnli", "rte", "mrpc", "cola", "stsb"}
    assert glue | {
        "dialogsum",
        "multi30k",
        "dailydialog",
        "samsum",
        "squad",
        "boolq",
        "cb",
        "wic",
        "e2e",
    } < set(listed)


def test_world_rows_load_as_a_task() -> None:
    config = task(rows=RowsConfig(world="intent"), input="{text}", target="{target}", labels={})
    found = load_split("intent", config, "validation")[:30]
    assert len(found) == 30
    assert {example.label for example in found} == {"buy", "search", "meet"}
