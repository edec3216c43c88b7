"""A stranger's files: every way to write one, splits carved out of one, a task drafted and shown, each refusal."""

import csv
import gzip
import io
import json
import re
import sys
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from mpt.cli import main as cli
from mpt.config import RowsConfig, TaskConfig
from mpt.config_dirs import anchor_paths
from mpt.tasks import check_task, load_split
from mpt.tasks.carve import Part, carve, parse
from mpt.tasks.draft import draft

QUIET = ["hydra/job_logging=none", "hydra/hydra_logging=none"]
HEADER = ["text", "kind"]
ROWS = [["the mill; it burns", "calm"], ['say "hi"\nthere', "loud"], ["größer | ∞\tweit", "calm"]]


def task(files: Path, **rows: Any) -> TaskConfig:
    return TaskConfig(rows=RowsConfig(files=str(files), **rows), input="{text}", target="{kind}", metrics=["accuracy"])


def table(delimiter: str, header: list[str] = HEADER, rows: list[list[str]] = ROWS) -> str:
    text = io.StringIO()
    csv.writer(text, delimiter=delimiter).writerows([header, *rows])
    return text.getvalue()


def jsonl() -> str:
    return "".join(json.dumps(dict(zip(HEADER, row, strict=True)), ensure_ascii=False) + "\n" for row in ROWS)


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzip"])
@pytest.mark.parametrize(
    ("name", "text", "encoding", "rows"),
    [
        ("train.csv", table(","), "utf-8", {}),
        ("train.csv", table(","), "utf-8-sig", {}),
        ("train.csv", table(";"), "utf-8", {"delimiter": ";"}),
        ("train.csv", table("|"), "utf-16", {"delimiter": "|", "encoding": "utf-16"}),
        ("train.tsv", table("\t"), "utf-8", {}),
        ("train.jsonl", jsonl(), "utf-8-sig", {}),
        ("train.jsonl", jsonl(), "utf-16", {"encoding": "utf-16"}),
    ],
)
def test_every_way_to_write_a_file_gives_the_same_examples(
    tmp_path: Path, name: str, text: str, encoding: str, rows: dict[str, Any], packed: bool
) -> None:
    content = text.encode(encoding)
    (tmp_path / (name + ".gz" * packed)).write_bytes(gzip.compress(content) if packed else content)
    found = load_split("t", task(tmp_path, **rows), "train")
    assert [[example.input, example.target] for example in found] == ROWS
    assert [example.row_id for example in found] == ["train:0", "train:1", "train:2"]


@pytest.mark.parametrize(
    ("name", "content", "rows", "message"),
    [
        ("train.csv", table(";").encode(), {}, r"train\.csv:1: the header is one column, 'text;kind', and has a semi"),
        ("train.csv", b"text,kind\na,0,9\n", {}, r"train\.csv:2: the row has not as many values .* a comma"),
        ("train.csv", b"text,text\na,0\n", {}, r"train\.csv:1: the header has 'text' twice"),
        ("train.csv", "text,kind\na,b\nä,b\n".encode("cp1252"), {}, r"train\.csv:3: not utf-8 .*such as cp1252"),
        ("train.csv", table(",").encode("utf-16"), {}, r"train\.csv:1: not utf-8 .*set rows\.encoding: utf-16"),
        ("train.csv.gz", b"text,kind\n", {}, r"train\.csv\.gz: not a whole gzip file"),
        ("train.csv", b"", {}, r"the train split has no rows"),
        ("train.csv", table(",").encode(), {"delimiter": ";"}, r"one column, 'text,kind', and has a comma"),
    ],
)  # fmt: skip
def test_a_file_that_does_not_fit_is_refused(
    tmp_path: Path, name: str, content: bytes, rows: dict[str, Any], message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        load_split("t", task(tmp_path, **rows), "train")


def test_two_files_for_one_split_are_refused(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text(table(","))
    (tmp_path / "train.jsonl").write_text(jsonl())
    with pytest.raises(ValueError, match=r"train\.csv and train\.jsonl; keep the one that is meant"):
        load_split("t", task(tmp_path), "train")


@pytest.mark.parametrize("text", ["", "[:3]", "a[3]", "a[x:]", "a[:110%]", "a[-3:]", "a[1:2:3]"])
def test_what_is_no_part_is_refused_before_anything_is_read(text: str) -> None:
    with pytest.raises(ValueError, match="is no part of a file"):
        parse(text)
    errors = check_task("t", task(Path("nowhere"), splits={"train": text}))
    assert any("rows.splits.train" in error for error in errors)


def test_wrong_reading_keys_are_refused_before_anything_is_read() -> None:
    errors = check_task("t", task(Path("nowhere"), delimiter="::", encoding="utf-9"))
    assert any("rows.delimiter: is '::'" in error for error in errors)
    assert any("rows.encoding: Python knows no 'utf-9'" in error for error in errors)


@given(st.lists(st.sampled_from("aab"), min_size=1, max_size=80), st.integers(0, 5), st.integers(1, 49))
def test_carved_splits_share_no_row_and_lose_none(classes: list[str], seed: int, percent: int) -> None:
    """Percentages that meet cut the same row from neither side, whatever the size; the draw follows the seed."""
    parts = {
        "validation": parse(f"all[:{percent}%]"),
        "test": parse(f"all[{percent}%:{2 * percent}%]"),
        "train": parse(f"all[{2 * percent}%:]"),
    }
    found = {}
    for split, part in parts.items():
        start, stop = part.bounds(len(classes))
        if start >= stop:
            with pytest.raises(ValueError, match="is empty"):
                carve(split, parts, classes, seed)
            continue
        found[split] = carve(split, parts, classes, seed)
        assert found[split] == carve(split, parts, classes, seed)
    rows = [position for positions in found.values() for position in positions]
    assert sorted(rows) == list(range(len(classes)))


@pytest.mark.parametrize("seed", range(5))
def test_carved_splits_have_each_class_in_its_proportion(seed: int) -> None:
    classes = ["rare"] * 20 + ["usual"] * 180
    parts = {"validation": Part("all", None, "10%"), "test": Part("all", "10%", "20%"), "train": Part("all", "20%")}
    for split, size in {"validation": 20, "test": 20, "train": 160}.items():
        found = Counter(classes[position] for position in carve(split, parts, classes, seed))
        assert found.total() == size
        assert abs(found["rare"] - size / 10) <= 1


def test_another_seed_carves_other_rows() -> None:
    parts = {"test": parse("all[:10%]")}
    assert carve("test", parts, [None] * 200, 0) != carve("test", parts, [None] * 200, 1)


def test_splits_that_overlap_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "all.csv"
    path.write_text(table(",", rows=[[f"t{i}", "ab"[i % 2]] for i in range(20)]))
    splits = {"train": "all[:60%]", "validation": "all[50%:]", "test": "all[90%:]"}
    with pytest.raises(ValueError, match=r"train \(all\[:60%\]\) and validation \(all\[50%:\]\) share 2 of 20 rows"):
        load_split("t", task(path, splits=splits), "train")
    with pytest.raises(FileNotFoundError, match=r"no 'train' in .*all\.csv, which has all"):
        load_split("t", task(path), "train")


def test_validation_may_be_carved_out_of_the_training_file(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text(table(",", rows=[[f"t{i}", "ab"[i % 2]] for i in range(20)]))
    (tmp_path / "test.csv").write_text(table(","))
    config = task(tmp_path, splits={"train": "train[5:]", "validation": "train[:5]"})
    found = {split: load_split("t", config, split) for split in ("train", "validation", "test")}
    assert [len(examples) for examples in found.values()] == [15, 5, 3]
    assert not {each.input for each in found["train"]} & {each.input for each in found["validation"]}


def test_root_of_a_task_goes_before_that_of_all(tmp_path: Path) -> None:
    for root, text in (("own", "mine"), ("shared", "theirs")):
        folder = tmp_path / root / "t"
        folder.mkdir(parents=True)
        (folder / "train.jsonl").write_text(json.dumps({"text": text, "kind": "a"}) + "\n")
    shared = str(tmp_path / "shared")
    config = task(tmp_path)
    assert load_split("t", config, "train", shared)[0].input == "theirs"
    config.rows.root = str(tmp_path / "own")
    assert load_split("t", config, "train", shared)[0].input == "mine"
    config.rows.root = str(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"tasks\.t\.rows\.root needs one"):
        load_split("t", config, "train", shared)


def read_draft(text: str) -> dict[str, Any]:
    found = yaml.safe_load(text)
    assert isinstance(found, dict)
    return found


def test_a_drafted_classification(tmp_path: Path) -> None:
    rows = [[str(i), f"anna lost hat {i} .", ["not_urgent", "urgent"][i % 2]] for i in range(40)]
    (tmp_path / "tickets.csv").write_text(table(";", ["id", "Ticket text", "queue"], rows), encoding="cp1252")
    found = read_draft(draft("tickets", str(tmp_path / "tickets.csv"), config_dir=str(tmp_path / "mine")).text)
    assert found["rows"] == {
        "files": "../../tickets.csv",
        "splits": {"train": "tickets[20%:]", "validation": "tickets[0%:10%]", "test": "tickets[10%:20%]"},
        "delimiter": ";",
        "rename": {"Ticket text": "ticket_text"},
    }
    assert (found["input"], found["target"]) == ("{ticket_text}", "{queue}")
    assert found["labels"] == {"queue": {"not_urgent": "not urgent", "urgent": "urgent"}}
    assert found["constrained"] is True
    assert found["metrics"] == ["accuracy", "macro_f1"]


def test_a_drafted_task_with_several_right_answers(tmp_path: Path) -> None:
    rows = [{"question": f"who is {i}?", "answer": f"n{i}", "answers": [f"n{i}", "x"], "meta": {}} for i in range(9)]
    for split in ("train", "dev", "test"):
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / f"{split}.jsonl").write_text(text)
    found = read_draft(draft("qa", str(tmp_path)).text)
    assert (found["input"], found["target"], found["references"]) == ("{question}", "{answer}", "answers")
    assert found["metrics"] == ["squad"]
    assert found["rows"]["splits"] == {"train": "train", "validation": "dev", "test": "test"}


@pytest.mark.parametrize(
    ("values", "metrics", "notes"),
    [
        ([f"{i / 7:.2f}" for i in range(40)], ["pearson", "spearman"], 0),
        ([str(i % 3) for i in range(40)], ["accuracy", "macro_f1"], 1),
        ([f"a long answer of many more words number {i}" for i in range(40)], ["rouge", "chrf"], 0),
        ([f"name {i}" for i in range(40)], ["exact_match", "token_f1"], 0),
    ],
    ids=["numbers", "numbered classes", "long texts", "short texts"],
)
def test_drafted_metrics_follow_from_the_answers(
    tmp_path: Path, values: list[str], metrics: list[str], notes: int
) -> None:
    path = tmp_path / "data.tsv"
    path.write_text(table("\t", ["text", "out"], [[f"text {i}", value] for i, value in enumerate(values)]))
    drafted = draft("t", str(path), target="out")
    assert read_draft(drafted.text)["metrics"] == metrics
    assert len(drafted.notes) == notes


def test_a_file_in_another_encoding_is_read_and_noted(tmp_path: Path) -> None:
    path = tmp_path / "data.csv"
    path.write_bytes(table(",", rows=[[f"größer {i}", "ab"[i % 2]] for i in range(20)]).encode("cp1252"))
    drafted = draft("t", str(path))
    assert read_draft(drafted.text)["rows"]["encoding"] == "cp1252"
    assert "not UTF-8" in drafted.notes[0]


@pytest.mark.parametrize(
    ("files", "target", "message"),
    [
        ("nowhere.csv", None, r"no folder or file nowhere\.csv"),
        ("data.csv", "knd", r"target: .*data\.csv has no column 'knd'; it has text, kind"),
        (".", None, r"has data, other, and none is named train"),
    ],
)
def test_what_cannot_be_drafted_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: str, target: str | None, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("data", "other"):
        (tmp_path / f"{name}.csv").write_text(table(","))
    with pytest.raises((FileNotFoundError, ValueError), match=message):
        draft("t", files, target=target)


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of somebody's own: a file with words that the embedded backbone knows."""
    folder = tmp_path_factory.mktemp("work place")
    shelves = {"clothes": ["hat", "coat"], "tools": ["rope", "knife"]}
    rows = [
        [f"{name} lost the {thing} in the {place} .", shelf]
        for shelf, things in shelves.items()
        for thing in things
        for name in ("anna", "ben", "clara", "david")
        for place in ("mill", "park", "tower")
    ]
    (folder / "tickets.csv").write_text(table(";", ["message", "shelf"], rows), encoding="utf-8-sig")
    return folder


def test_paths_are_from_where_the_yaml_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where something is there; an absolute path, and one from the working folder, stay."""
    monkeypatch.chdir(tmp_path)
    tasks = tmp_path / "mine" / "tasks"
    (tasks / "data").mkdir(parents=True)
    (tasks / "t.yaml").touch()
    for key in ("files", "root"):
        for path, anchored in (("data", "mine/tasks/data"), ("other", "other"), (str(tasks), str(tasks)), (None, None)):
            composed = OmegaConf.create({"tasks": {"t": {"rows": {key: path}}}})
            anchor_paths(composed, [tmp_path / "mine"])
            assert composed.tasks.t.rows[key] == anchored


class Done(NamedTuple):
    code: int
    stdout: str
    stderr: str


@pytest.fixture
def mpt(workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    """The command line in this process, in a folder of somebody's own."""

    def run(*arguments: str, cwd: Path = workplace) -> Done:
        monkeypatch.chdir(cwd)
        monkeypatch.setattr(sys, "argv", ["train.py", *arguments])
        capsys.readouterr()
        code = 0
        try:
            cli.main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        return Done(code, *capsys.readouterr())

    return run


def test_from_a_file_to_a_trained_task(mpt: Callable[..., Done], workplace: Path) -> None:
    """The whole way of a stranger, each step by the command that the step before has printed."""
    new = mpt("tasks=new", "name=tickets", "files=tickets.csv")
    assert new.code == 0, new.stderr
    assert "python train.py tasks=show name=tickets --config-dir mine" in new.stdout
    again = mpt("tasks=new", "name=tickets", "files=tickets.csv")
    assert again.code == 2
    assert "mine/tasks/tickets.yaml: is there already" in again.stderr
    shown = mpt("tasks=show", "name=tickets", "--config-dir", "mine")
    assert shown.code == 0, shown.stderr
    assert shown.stdout.count("input:  ") == 9
    assert "unknown tokens" in shown.stdout
    assert re.search(r"│ clothes │ 19 \(50%\) +│ +[23] \(\d0%\) │ +[23] \(\d0%\) │", shown.stdout)
    listed = mpt("tasks=list", "--config-dir", "mine")
    assert "tickets" in listed.stdout.splitlines()[1]
    assert "winogrande" in listed.stdout
    elsewhere = workplace / "elsewhere"
    elsewhere.mkdir()
    command = ["task=source", "+tasks=[tickets]", "trainer.max_steps=2", "logger=csv", *QUIET]
    trained = mpt(*command, "--config-dir", "../mine", "hydra.run.dir=run", cwd=elsewhere)
    assert trained.code == 0, trained.stderr
    metrics = json.loads((elsewhere / "run" / "metrics.json").read_text())
    assert metrics["test"]["tickets"]["n"] == 5
    assert "macro_f1" in metrics["test"]["tickets"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["tasks=new", "name=t"], "tasks=new: files is missing; write tasks=new name=tickets files=data/tickets.csv"),
        (["tasks=new", "name=t", "file=x"], "tasks=new: no key 'file'; choose from name, files"),
        (["tasks=new", "name=average", "files=tickets.csv"], "metrics.json keeps the name 'average'"),
        (["tasks=show"], "tasks=show: name is missing"),
        (["tasks=show", "name=tickits"], "tasks: unknown 'tickits'; choose one of"),
        (["tasks=show", "name=sum", "--config-dir", "nowhere"], "--config-dir: no folder 'nowhere'"),
        (
            ["task=source", "+tasks=[sum]", "tasks.sum.rows.root=nowhere", *QUIET],
            "tasks.sum.rows.root: no folder 'nowhere'",
        ),
        (["tasks=list", "name=sum"], "tasks=list: takes no 'name=sum'"),
    ],
)
def test_wrong_commands_are_refused(mpt: Callable[..., Done], arguments: list[str], message: str) -> None:
    done = mpt(*arguments)
    assert done.code == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


class TestQuotes:
    TSV = 'text\tlabel\n"good film\t1\nbad film\t0\nslow film"\t0\nnice film\t1\n'

    def test_that_swallow_lines_of_a_tsv_are_refused_with_the_lines(self, tmp_path: Path) -> None:
        (tmp_path / "train.tsv").write_text(self.TSV)
        with pytest.raises(ValueError, match=r"train\.tsv:2-4: .*set rows\.quoting: none"):
            load_split("t", film(tmp_path), "train")

    def test_are_text_where_the_file_says_so(self, tmp_path: Path) -> None:
        (tmp_path / "train.tsv").write_text(self.TSV)
        found = load_split("t", film(tmp_path, quoting="none"), "train")
        assert [(each.input, each.target) for each in found] == [
            ('"good film', "1"), ("bad film", "0"), ('slow film"', "0"), ("nice film", "1"),
        ]  # fmt: skip

    def test_that_swallow_lines_of_a_csv_are_warned_of(self, tmp_path: Path) -> None:
        (tmp_path / "train.csv").write_text(self.TSV.replace("\t", ","))
        with pytest.warns(UserWarning, match=r"train\.csv:2-4: a field in quotes holds lines that look like rows"):
            assert len(load_split("t", film(tmp_path), "train")) == 2
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert len(load_split("t", film(tmp_path, quoting="double"), "train")) == 2

    def test_a_text_of_several_lines_is_fine(self, tmp_path: Path) -> None:
        (tmp_path / "train.tsv").write_text('text\tlabel\n"good\nfilm"\t1\n')
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert load_split("t", film(tmp_path), "train")[0].input == "good\nfilm"

    def test_a_draft_reads_them_as_text_and_notes_it(self, tmp_path: Path) -> None:
        rows = "".join(f'"film {i}\t{i % 2}\n' for i in range(20))
        (tmp_path / "data.tsv").write_text("text\tlabel\n" + rows)
        drafted = draft("t", str(tmp_path / "data.tsv"))
        assert read_draft(drafted.text)["rows"]["quoting"] == "none"
        assert any("quotes are read as text" in note for note in drafted.notes)


def film(folder: Path, **rows: Any) -> TaskConfig:
    return TaskConfig(
        rows=RowsConfig(files=str(folder), **rows), input="{text}", target="{label}", metrics=["accuracy"]
    )


@pytest.mark.parametrize("name", ["my.task", "v1.0", "2024", "été", "a b", "null", "yes", "average", "x/y"])
def test_a_name_that_no_run_can_take_is_refused_and_another_proposed(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("data.csv").write_text("text,label\n" + "".join(f"text {i},{'ab'[i % 2]}\n" for i in range(20)))
    monkeypatch.setattr(sys, "argv", ["train.py", "tasks=new", f"name='{name}'", "files=data.csv", *QUIET])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 2
    assert not Path("mine").exists()
    if name not in ("average",):
        proposed = re.search(r"as in '([^']+)'", capsys.readouterr().err)
        assert proposed is not None
        assert check_task(proposed.group(1), film(tmp_path)) == []


def test_a_column_of_tiny_numbers_is_a_number(tmp_path: Path) -> None:
    rows = "".join(f"text {i},{value}\n" for i, value in enumerate(["0.00004", "1e-7", "3.5E-10", ".5", "2."] * 4))
    (tmp_path / "data.csv").write_text("text,score\n" + rows)
    assert read_draft(draft("t", str(tmp_path / "data.csv")).text)["metrics"] == ["pearson", "spearman"]
