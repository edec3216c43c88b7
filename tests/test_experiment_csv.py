"""A study goes on from its CSV: what is in it is not run again, and what failed leaves what had finished."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "experiments"))

from study import NUMBERS, Cell, append_lines, read_lines, run_study, table_of

from mpt import __version__

SMALL = (
    "task=source", "tasks=[who,where]", "trainer.max_steps=1", "evaluation.test_rows=4", "evaluation.validation_rows=4",
    "evaluation.before=false", "evaluation.oracle=false",
)  # fmt: skip


def cell(folder: Path, seed: str, *overrides: str) -> Cell:
    return Cell({"method": "mpt", "seed": seed}, (*SMALL, f"seed={seed}", *overrides), folder / seed)


@pytest.mark.slow
def test_a_study_goes_on_from_its_csv(tmp_path: Path) -> None:
    path = tmp_path / "results" / "runs.csv"
    with pytest.raises(SystemExit, match=r"trainer.max_steps: is -1"):
        run_study(path, [cell(tmp_path, "0"), cell(tmp_path, "1", "trainer.max_steps=-1")])
    assert [(line["seed"], line["task"], line["n"]) for line in read_lines(path)] == [
        ("0", "who", 4.0), ("0", "where", 4.0)
    ]  # fmt: skip
    # A cell of the CSV is not run again, even where its command would fail.
    lines = run_study(path, [cell(tmp_path, "0", "no=such_key"), cell(tmp_path, "1")])
    assert [line["seed"] for line in lines] == ["0", "0", "1", "1"]
    header, rows = table_of(lines, "task", "seed", lambda found: found[0]["n"])
    assert header == ["task", "0", "1"]
    assert rows == [["who", 4.0, 4.0], ["where", 4.0, 4.0]]


def test_lines_are_read_back(tmp_path: Path) -> None:
    path = tmp_path / "runs.csv"
    for seed in ("0", "1"):
        append_lines(path, {"method": "a, b", "seed": seed}, [{"task": "sum", "score": 0.5, "unknown": 3}])
    assert read_lines(path) == [
        {"method": "a, b", "seed": seed, "task": "sum", "mpt": __version__, "score": 0.5} for seed in ("0", "1")
    ]
    assert path.read_text().splitlines()[0] == ",".join(["method", "seed", "task", "mpt", *NUMBERS])


def test_a_study_of_another_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "runs.csv"
    path.write_text("method,seed,task,n,score\nmpt,0,sum,4,0.5\n")
    with pytest.raises(SystemExit, match=r"has lines of mpt 0\.1\.0, and this is .*move the file away"):
        run_study(path, [cell(tmp_path, "1")])
