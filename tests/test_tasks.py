"""Rows to text: templates, files, label words, few-shot draws, and every way in which they can be wrong."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from mpt.config import RowsConfig, TaskConfig
from mpt.tasks import Example, Template, catalogue, check_task, choose_rows, files, load_split
from mpt.tasks.text import write_number
from mpt.world import TASKS

ROWS = [{"text": "the mill burns", "kind": 0}, {"text": 'say "hi"\nthere', "kind": 1}, {"text": "größer", "kind": 0}]


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


def test_a_parquet_file_is_read_piece_by_piece(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"text": f"row {number}", "kind": number % 2} for number in range(23)]
    write(tmp_path, rows, "parquet")
    whole = load_split("noise", task(tmp_path), "train")
    monkeypatch.setattr(files, "PARQUET_ROWS", 5)
    assert load_split("noise", task(tmp_path), "train") == whole
    assert [each.row_id for each in whole] == [f"train:{number}" for number in range(23)]


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
        tmp_path, input="{context}", target="{answers}", references="answers", labels={}, join=" / ", metrics=["squad"]
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
    assert found == [("train:0.1", "hello", "hi"), ("train:0.2", "hello|hi", "bye"), ("train:1", "a|b", "c")]


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
        ('{"text": "b", "kind": 7}', r"train\.jsonl:2: column 'kind' is '7', which has no label word; .* 0, 1"),
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
    with pytest.raises(FileNotFoundError, match=r"no 'validation' in .*, which has test, train; give validation"):
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
    assert Template("{a}-{b}/{c}{a}").fill(values) == f"{values['a']}-{values['b']}/{values['c']}{values['a']}"


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
        ({"rows": RowsConfig()}, "tasks.t.rows: has no source; give exactly one of world, files, hub and reader"),
        ({"rows": RowsConfig(files="a", hub="b")}, "tasks.t.rows: has files, hub; give exactly one"),
        (
            {"rows": RowsConfig(world="summ")},
            "tasks.t.rows.world: no task 'summ' in the embedded world (did you mean 'sum'?)",
        ),
        ({"rows": RowsConfig(files="a", splits={"dev": "x"})}, "tasks.t.rows.splits: unknown split 'dev'"),
        ({"max_target_tokens": 1}, "tasks.t.max_target_tokens: is 1; it must be from 2"),
    ],
)
def test_every_error_of_a_configuration_is_found(changes: dict[str, Any], message: str) -> None:
    errors = check_task("t", task(Path("folder"), **changes))
    assert any(message in error for error in errors), errors


@pytest.mark.parametrize("name", ["prompt", "average", "../sum", "a b", "", ".hidden", "a/b"])
def test_names_that_cannot_be_a_tasks_are_refused(name: str) -> None:
    (error,) = check_task(name, task(Path("folder")))
    assert error.startswith(f"tasks.{name}: ")


@pytest.mark.parametrize("name", ["sum", "mt_velo", "sst-2"])
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
    assert glue | {"dialogsum", "multi30k", "dailydialog", "samsum", "squad", "boolq", "cb", "wic", "e2e"} < set(listed)


def test_world_rows_load_as_a_task() -> None:
    config = task(rows=RowsConfig(world="intent"), input="{text}", target="{target}", labels={})
    found = load_split("intent", config, "validation")[:30]
    assert len(found) == 30
    assert {example.label for example in found} == {"buy", "search", "meet"}


class TestMissingValues:
    def test_are_no_references(self, tmp_path: Path) -> None:
        write(tmp_path, [{"q": "who ?", "a": "anna", "refs": ["anna", None, "", float("nan")]}])
        config = task(tmp_path, input="{q}", target="{a}", references="refs", labels={}, metrics=["squad"])
        assert load_split("t", config, "train")[0].references == ("anna",)

    def test_a_list_without_any_value_leaves_the_target(self, tmp_path: Path) -> None:
        write(tmp_path, [{"q": "who ?", "a": "anna", "refs": [None, ""]}])
        config = task(tmp_path, input="{q}", target="{a}", references="refs", labels={}, metrics=["squad"])
        assert load_split("t", config, "train")[0].references == ("anna",)

    def test_the_first_item_that_is_there_is_the_target(self, tmp_path: Path) -> None:
        write(tmp_path, [{"q": "who ?", "a": [None, "", "anna", "ben"]}])
        config = task(tmp_path, input="{q}", target="{a}", labels={}, metrics=["squad"])
        assert load_split("t", config, "train")[0].target == "anna"

    @pytest.mark.parametrize(
        ("row", "message"),
        [
            ({"text": float("nan"), "kind": 0}, "column 'text' of tasks.t.input is NaN"),
            ({"text": None, "kind": 0}, "column 'text' of tasks.t.input is empty"),
            ({"text": ["a", None], "kind": 0}, "column 'text' of tasks.t.input: has null in it"),
            ({"text": {"a": 1}, "kind": 0}, "holds a mapping with a; reach into it by rows.rename"),
            ({"text": [{"a": 1}], "kind": 0}, "holds a mapping with a"),
            ({"text": "a", "kind": float("nan")}, "column 'kind' of tasks.t.target is NaN"),
            ({"text": "a", "kind": None}, "column 'kind' of tasks.t.target is empty"),
            ({"text": "a", "kind": ""}, "column 'kind' is '', which has no label word"),
        ],
    )
    def test_are_refused_in_inputs_and_targets(self, tmp_path: Path, row: dict[str, Any], message: str) -> None:
        write(tmp_path, [{"text": "fine", "kind": 1}, row])
        with pytest.raises(ValueError, match=r"train\.jsonl:2: ") as error:
            load_split("t", task(tmp_path), "train")
        assert message in str(error.value)

    def test_bytes_are_no_text(self, tmp_path: Path) -> None:
        parquet.write_table(pa.table({"text": [b"abc"], "kind": ["0"]}), tmp_path / "train.parquet")
        with pytest.raises(ValueError, match="holds bytes, which are no text"):
            load_split("t", task(tmp_path), "train")

    def test_not_a_number_in_a_delimited_file(self, tmp_path: Path) -> None:
        (tmp_path / "train.csv").write_text("x,y\nNaN,2\n")
        config = task(tmp_path, input="{x}", target="{y}", labels={}, metrics=["pearson"])
        with pytest.raises(ValueError, match=r"train\.csv:2: column 'x' of tasks\.t\.input is empty"):
            load_split("t", config, "train")


@pytest.mark.parametrize(
    "digits", ["0.00004", "1e-7", "12345.678901", "3.0", "1.10", "-0.5", "100000000000000000000.5"]
)
def test_numbers_keep_the_digits_of_their_file(tmp_path: Path, digits: str) -> None:
    (tmp_path / "train.csv").write_text(f"x,y\n{digits},{digits}\n")
    (tmp_path / "test.jsonl").write_text(f'{{"x": {digits}, "y": {digits}}}\n')
    config = task(tmp_path, input="{x}", target="{y}", labels={}, metrics=["pearson"])
    for split in ("train", "test"):
        (found,) = load_split("t", config, split)
        assert (found.input, found.target) == (digits, digits)


@given(st.floats(allow_nan=False, allow_infinity=False), st.booleans())
def test_numbers_of_a_binary_format_are_written_so_that_they_come_back(value: float, single: bool) -> None:
    value = float(np.float32(value)) if single and abs(value) < 3e38 else value
    text = write_number(value)
    assert float(text) == value or np.float32(text) == np.float32(value) == value


def test_references_go_through_the_template(tmp_path: Path) -> None:
    write(tmp_path, [{"q": "who ?", "answers": ["anna", "the girl"]}])
    config = task(tmp_path, input="{q}", target="it is {answers}", references="answers", labels={}, metrics=["squad"])
    (found,) = load_split("t", config, "train")
    assert (found.target, found.references) == ("it is anna", ("it is anna", "it is the girl"))


def test_a_target_that_is_no_reference_is_refused(tmp_path: Path) -> None:
    write(tmp_path, [{"q": "who ?", "a": "anna", "b": "x", "refs": ["ben", "carl"]}])
    config = task(tmp_path, input="{q}", target="{a} {b}", references="refs", labels={}, metrics=["squad"])
    with pytest.raises(ValueError, match=r"the target 'anna x' is none of the references 'ben', 'carl'"):
        load_split("t", config, "train")


class TestGeneration:
    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"custom_generate": "folder", "trust_remote_code": True}, "no key 'custom_generate'"),
            ({"logits_processor": []}, "no key 'logits_processor'"),
            ({"max_new_tokens": 5}, "the longest answer is max_target_tokens"),
            ({"num_beams": 0}, ".num_beams: is 0; it must be at least 1"),
            ({"num_beams": "4"}, ".num_beams: is '4'; it must be a whole number"),
            ({"num_beams": True}, "it must be a whole number"),
            ({"do_sample": 1}, "it must be true or false"),
            ({"do_sample": True, "top_p": 1.5}, "must be above 0 and at most 1"),
            ({"temperature": 0.7}, "set do_sample: true with it"),
        ],
    )
    def test_is_a_list_of_ours(self, settings: dict[str, Any], message: str) -> None:
        errors = check_task("t", task(Path("x"), generation=settings))
        assert any(error.startswith("tasks.t.generation") and message in error for error in errors)

    def test_takes_what_searches_for_answers(self) -> None:
        fine = {"num_beams": 4, "length_penalty": 0.8, "early_stopping": True, "no_repeat_ngram_size": 3}
        assert check_task("t", task(Path("x"), generation=fine)) == []
        assert check_task("t", task(Path("x"), generation={"do_sample": True, "temperature": 0.7, "top_p": 0.9})) == []


class TestPreprocessing:
    def test_wsc_marks_both_spans_where_they_stand(self, tmp_path: Path) -> None:
        row = {"text": "Mark told Pete that he saw Pete, and he left.", "label": 1}
        spans = [("Pete", 2, "he", 8), ("Pete", 6, "he", 4), ("Mark", 0, "he", 4)]
        write(tmp_path, [
            row | {"span1_text": one, "span1_index": i, "span2_text": other, "span2_index": j} for one, i, other, j
            in spans
        ])  # fmt: skip
        config = task(tmp_path, input="{text}", target="{label}", labels={})
        config.rows.preprocess = "wsc"
        assert [each.input for each in load_split("wsc", config, "train")] == [
            "Mark told * Pete * that he saw Pete, and # he # left.",
            "Mark told Pete that # he # saw * Pete *, and he left.",
            "* Mark * told Pete that # he # saw Pete, and he left.",
        ]

    def test_record_makes_a_training_row_of_each_answer(self, tmp_path: Path) -> None:
        row = {
            "passage": "It rained.\n@highlight\nAnn came\n@highlight\nBen ran",
            "query": "q",
            "answers": ["Ann", "Ben"],
        }
        for split in ("train", "validation"):
            write(tmp_path, [row], split=split)
        config = task(
            tmp_path, input="{passage}", target="{answers}", references="answers", labels={}, metrics=["squad"]
        )
        config.rows.preprocess = "record"
        train = load_split("record", config, "train")
        assert [(each.row_id, each.target, each.references) for each in train] == [
            ("train:0.1", "Ann", ("Ann",)),
            ("train:0.2", "Ben", ("Ben",)),
        ]
        assert train[0].input == "It rained. Ann came. Ben ran"
        (whole,) = load_split("record", config, "validation")
        assert (whole.row_id, whole.references) == ("validation:0", ("Ann", "Ben"))


def test_numbers_are_rounded_to_the_step_of_their_scale(tmp_path: Path) -> None:
    write(tmp_path, [{"text": "a", "score": score} for score in (3.75, 0.0, 5, 2.5, 1.29)])
    config = task(tmp_path, target="{score}", labels={}, metrics=["pearson"])
    config.rows.round = {"score": 0.2}
    assert [each.target for each in load_split("t", config, "train")] == ["3.8", "0.0", "5.0", "2.4", "1.2"]


def test_lists_of_mappings_can_be_reached(tmp_path: Path) -> None:
    write(tmp_path, [{"q": "who ?", "answers": [{"text": "anna"}, {"text": "ben"}]}])
    config = task(tmp_path, input="{q}", target="{found}", references="found", labels={}, metrics=["squad"])
    config.rows.rename = {"answers.text": "found"}
    assert load_split("t", config, "train")[0].references == ("anna", "ben")


class TestChosenRows:
    @given(st.lists(st.sampled_from("abc"), min_size=12, max_size=90), st.integers(1, 40), st.integers(0, 3))
    def test_are_nested_stratified_and_the_same_for_everybody(self, labels: list[str], count: int, seed: int) -> None:
        rows = [Example(f"test:{i}", f"text {i}", label, (label,), label) for i, label in enumerate(labels)]
        some, more = choose_rows(rows, count, seed), choose_rows(rows, count + 5, seed)
        assert len({each.row_id for each in some}) == len(some) == min(count, len(rows))
        assert {each.row_id for each in some} <= {each.row_id for each in more}
        if count < len(rows):
            for label in set(labels):
                expected = count * labels.count(label) / len(labels)
                assert abs(sum(each.label == label for each in some) - expected) <= 2
        assert choose_rows(rows, None, seed) == rows

    def test_of_a_sorted_file_hold_every_class(self, tmp_path: Path) -> None:
        write(tmp_path, [{"text": f"t {i}", "kind": int(i >= 300)} for i in range(600)], "csv", "all")
        config = task(tmp_path / "all.csv")
        config.rows.splits = {"train": "all[40%:]", "validation": "all[:20%]", "test": "all[20%:40%]"}
        test = load_split("t", config, "test")
        assert [each.label for each in test] != sorted(str(each.label) for each in test)
        assert sum(each.label == "loud" for each in choose_rows(test, 30, 0)) in (14, 15, 16)


def test_a_tokenizer_whose_package_is_missing_is_named_before_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mpt.tasks.checking.find_spec", lambda name: None if name == "MeCab" else name)
    config = TaskConfig(
        rows=RowsConfig(world="sum"), input="{a}", target="{b}", metrics=["bleu"], metric_tokenizer="ja-mecab"
    )
    assert list(check_task("mt", config)) == [
        "tasks.mt.metric_tokenizer: ja-mecab needs a package that is not here; pip install 'sacrebleu[ja]'"
    ]


def test_references_that_no_test_row_has_are_said(tmp_path):
    for split in ("train", "validation", "test"):
        (tmp_path / f"{split}.jsonl").write_text('{"text": "a", "target": "b"}\n')
    config = TaskConfig(
        rows=RowsConfig(files=str(tmp_path)), input="{text}", target="{target}", references="others", metrics=["squad"]
    )
    load_split("t", config, "train")
    with pytest.warns(UserWarning, match="tasks.t.references: no row of the test split has a column 'others'"):
        assert load_split("t", config, "test")[0].references == ("b",)
