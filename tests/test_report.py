"""Many runs as one table: means and intervals against scipy's, pairs by hand, and nothing left out in silence."""

import csv
import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import ttest_1samp

from mpt.report import index
from mpt.report.__main__ import main
from mpt.report.charts import dodge
from mpt.report.classes import read_classes
from mpt.report.estimate import estimate, summarize
from mpt.report.gather import default_groups, find_failures, gather
from mpt.report.pairs import compare, estimate_difference, judge
from mpt.report.tables import markdown
from mpt.run.folder import RunFolder, read_config
from mpt.run.record import add_average, write_csv, write_lines, write_metrics
from mpt.sweep.sweep_record import Outcome

SCORES = {
    ("average", 0): {"a": 0.5, "b": 0.1},
    ("average", 1): {"a": 0.7, "b": 0.3},
    ("average", 2): {"a": 0.9, "b": 0.2},
    ("fresh", 0): {"a": 0.4, "b": 0.2},
    ("fresh", 1): {"a": 0.5, "b": 0.5},
    ("fresh", 2): {"a": 0.9, "b": 0.2},
}


def write_run(folder: Path, scores: dict[str, float], **config: Any) -> None:
    folder.mkdir(parents=True)
    run = {"id": folder.name, "command": "train.py", "versions": config.pop("versions", {"mpt": "0.1.0"})}
    RunFolder(folder).write_config({"tasks": {"a": {"weight": 1.0}}, "overwrite": False} | config, run)
    test = {task: {"n": 10, "score": score, "exact_match": score} for task, score in scores.items()}
    cost = {"best_step": dict.fromkeys(scores, 20), "seconds": {"fit": 1.5}, "parameters": {"trained": 148}}
    named = [f"validation/{task}/score" for task in (*scores, "average")]
    curve = [[step, "", *[score] * len(named)] for step, score in ((10, 0.25), (20, 0.5), (30, 0.75))]
    # Lightning leaves the cells of a step empty where nothing was validated.
    rows = [[5, 1.5, *[""] * len(named)], *curve]
    write_csv(folder / "metrics.csv", ["step", "train/loss", *named], rows)
    write_metrics(folder, cost | {"test": add_average(test), "validation": add_average(test)})


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    for (init, seed), scores in SCORES.items():
        prompt = {"init": init, "form": "product" if init == "average" else "independent"}
        write_run(tmp_path / init / str(seed), scores, prompt=prompt, few_shot={"seed": seed, "k": 4})
    return tmp_path


@given(st.lists(st.floats(-1, 1), min_size=2, max_size=30))
def test_interval_is_that_of_scipys_t_test(values: list[float]) -> None:
    found = estimate(values)
    if found.sd > 1e-6:
        interval = ttest_1samp(values, 0).confidence_interval(0.95)
        assert found.interval == pytest.approx((interval.low, interval.high), abs=1e-9)


def test_a_single_run_has_no_interval() -> None:
    found = estimate([0.25])
    assert found.mean == 0.25
    assert not found.has_interval
    assert str(found) == "0.250 (1)"


def test_runs_are_grouped_by_what_differs(runs: Path) -> None:
    lines, unfinished = gather([runs])
    assert not unfinished
    assert len(lines) == 6 * 3
    groups = summarize(lines, ["task", "prompt.init"], "score")
    assert groups["a", "average"].mean == pytest.approx(0.7)
    assert groups["a", "average"].low == pytest.approx(0.7 - 4.302653 * 0.2 / math.sqrt(3), rel=1e-6)
    assert groups["average", "fresh"].mean == pytest.approx((0.3 + 0.5 + 0.55) / 3)
    assert all(found.runs == 3 for found in groups.values())


class TestIndex:
    @pytest.fixture
    def many(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        monkeypatch.setenv("MPT_CACHE", str(tmp_path / "cache"))
        for seed in range(index.FEWEST + 2):
            write_run(tmp_path / "runs" / str(seed), {"a": seed / 100, "b": 0.5}, few_shot={"seed": seed, "k": 4})
        return tmp_path / "runs"

    def count(self, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
        """The runs whose configuration is read from here on."""
        read: list[Path] = []

        def reading(run: Path) -> Any:
            read.append(run)
            return read_config(run)

        monkeypatch.setattr("mpt.report.index.read_config", reading)
        return read

    def test_the_second_report_opens_no_run_and_says_the_same(self, many: Path, monkeypatch: Any) -> None:
        first = gather([many])
        read = self.count(monkeypatch)
        assert gather([many]) == first
        assert read == []
        assert len(first[0]) == 3 * (index.FEWEST + 2)
        assert first[0][0]["curve_mean"] == pytest.approx(0.5)

    def test_a_run_that_has_changed_is_read_anew_and_one_that_is_gone_is_gone(
        self, many: Path, monkeypatch: Any
    ) -> None:
        gather([many])
        shutil.rmtree(many / "3")
        shutil.rmtree(many / "7")
        write_run(many / "7", {"a": 0.99, "b": 0.5}, few_shot={"seed": 7, "k": 4})
        read = self.count(monkeypatch)
        lines, _ = gather([many])
        assert [run.name for run in read] == ["7"]
        scores = {Path(line["run"]).name: line["score"] for line in lines if line["task"] == "a"}
        assert scores["7"] == 0.99
        assert "3" not in scores

    @pytest.mark.parametrize("damage", ["", "[]", "{", '{"RUN": {"stamp": [], "files": 3}}', "half"])
    def test_a_damaged_index_is_made_again(self, many: Path, damage: str, tmp_path: Path) -> None:
        first = gather([many])
        (path,) = (tmp_path / "cache" / "index").iterdir()
        whole = path.read_text()
        if damage == "half":  # the right stamps, and nothing that fits behind them
            entries = json.loads(whole)
            damage = json.dumps({run: {"stamp": entry["stamp"], "files": {}} for run, entry in entries.items()})
        path.write_text(damage)
        assert gather([many]) == first
        assert path.read_text() == whole

    def test_a_few_runs_leave_no_index(self, runs: Path, tmp_path: Path, monkeypatch: Any) -> None:
        monkeypatch.setenv("MPT_CACHE", str(tmp_path / "cache"))
        gather([runs])
        assert not (tmp_path / "cache").exists()


def test_pairs_are_runs_on_the_same_draw(runs: Path) -> None:
    lines, _ = gather([runs])
    grouping, pairs = compare(lines, "prompt.init", "fresh", "score")
    assert grouping == []
    differences = [0.1, 0.2, 0.0]
    assert pairs["a", "average"].mean == pytest.approx(0.1)
    assert pairs["a", "average"].interval == pytest.approx(estimate(differences).interval)
    assert pairs["a", "average"].runs == 3
    assert compare(lines, "prompt.init", "average", "score")[1]["a", "fresh"].mean == pytest.approx(-0.1)
    assert pairs["all tasks", "average"].runs == 3  # the draws: the tasks are what is asked for, and no sample
    assert pairs["all tasks", "average"].mean == pytest.approx((0.1 + (-0.1 - 0.2 + 0.0) / 3) / 2)


def test_what_varies_besides_draws_makes_groups_of_pairs(tmp_path: Path) -> None:
    for k in (4, 16, 32):
        for seed in (0, 1, 2):
            for init, better in (("fresh", 0.0), ("average", k / 100)):
                folder = tmp_path / f"{init}-{k}-{seed}"
                few_shot = {"k": k, "seed": seed}
                write_run(folder, {"a": 0.1 * seed + better}, prompt={"init": init}, few_shot=few_shot, seed=seed)
    grouping, pairs = compare(gather([tmp_path])[0], "prompt.init", "fresh", "score")
    assert grouping == ["few_shot.k"]
    assert {group: found.runs for group, found in pairs.items()} == {("a", k, "average"): 3 for k in (4, 16, 32)}
    assert pairs["a", 16, "average"].mean == pytest.approx(0.16)


def test_a_key_of_a_task_makes_groups(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for weight, score in ((1.0, 0.5), (2.0, 0.75)):
        for seed in (0, 1):
            write_run(
                tmp_path / f"{weight}-{seed}",
                {"a": score, "b": score},
                tasks={"a": {"weight": weight}, "b": {"weight": 1.0}},
                seed=seed,
            )
    write_run(tmp_path / "other", {"c": 0.25}, tasks={"c": {"weight": 3.0}}, seed=0)
    lines, _ = gather([tmp_path])
    assert [line["tasks.a.weight"] for line in lines if line["task"] == "a"] == [1.0, 1.0, 2.0, 2.0]
    assert not any("tasks.c.weight" in line or "tasks.b.weight" in line for line in lines)
    groups = summarize(lines, ["task", "tasks.a.weight"], "score")
    assert {group: (found.mean, found.runs) for group, found in groups.items()} == {
        ("a", 1.0): (0.5, 2), ("a", 2.0): (0.75, 2), ("b", 1.0): (0.5, 2), ("b", 2.0): (0.75, 2),
        ("average", 1.0): (0.5, 2), ("average", 2.0): (0.75, 2), ("c", None): (0.25, 1),
    }  # fmt: skip
    assert main([str(tmp_path), "--by", "task", "tasks.a.weight"]) == 0
    assert "| a | 2.0 | 0.750 all equal (2) | 10 |" in capsys.readouterr().out


def test_costs_are_metrics_too(runs: Path) -> None:
    lines, _ = gather([runs])
    expected_of = {"best_step": 20, "fit_seconds": 1.5, "trained_parameters": 148, "curve_mean": 0.5}
    for metric, expected in expected_of.items():
        assert summarize(lines, ["task"], metric)["a",].mean == expected


def test_a_run_without_its_partner_makes_no_pair(runs: Path) -> None:
    (runs / "fresh" / "2" / "metrics.json").unlink()
    lines, unfinished = gather([runs])
    assert unfinished == [runs / "fresh" / "2"]
    assert compare(lines, "prompt.init", "fresh", "score")[1]["b", "average"].mean == pytest.approx(-0.15)


def test_folders_are_methods(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = [str(runs / "average"), str(runs / "fresh")]
    assert main([*folders, "--across", "folder", "--against", f"folder={folders[1]}"]) == 0
    printed = capsys.readouterr().out
    assert "| a | 0.700 [0.203, 1.000] (3) | 0.600 [0.000, 1.000] (3) | 10 |" in printed
    assert f"| a | {folders[0]} | 0.100 [-0.148, 0.348] (3) | 10 |" in printed


def test_tables_and_figure_are_written(runs: Path) -> None:
    out = runs / "report"
    assert main([str(runs), "--by", "task", "prompt.init", "--x", "few_shot.seed", "--output", str(out)]) == 0
    assert {path.name for path in out.iterdir()} == {
        *("runs.csv", "table.csv", "table.md", "table.tex", "figure.pdf", "figure.png", "figure.svg")
    }
    with (out / "runs.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 18
    assert {line["few_shot.seed"] for line in lines} == {"0", "1", "2"}
    assert (out / "figure.svg").read_text().count("few_shot.seed") >= 1


def test_unfinished_runs_are_named(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (runs / "fresh" / "0" / "metrics.json").unlink()
    assert main([str(runs)]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("5 finished runs\n")
    assert f"left out, not finished: {runs / 'fresh' / '0'}" in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--by", "prompt.inti"], "--by: no key 'prompt.inti'; the runs differ in task, prompt.init"),
        (["--metric", "rogue"], "--metric: no run has 'rogue'; choose one of score, exact_match"),
        (["--against", "prompt.init=random"], "no pair with prompt.init=random; its values are average, fresh"),
        (["nowhere"], "nowhere: no such folder"),
    ],
)
def test_what_cannot_be_told_is_refused(
    runs: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert main([str(runs), *arguments]) == 2
    assert message in capsys.readouterr().err


def test_no_run_at_all_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path)]) == 2
    assert "no finished run" in capsys.readouterr().err


def test_keys_that_change_together_are_one(tmp_path: Path) -> None:
    """A method brings a form and a learning rate along: a table needs one column for the three."""
    for name, form, rate in (("prompt", "product", 0.3), ("lora", "independent", 0.001)):
        for k in (4, 16):
            write_run(
                tmp_path / f"{name}-{k}", {"a": 0.5}, method={"name": name}, prompt={"form": form},
                optim={"lr": rate}, few_shot={"k": k},
            )  # fmt: skip
    lines, _ = gather([tmp_path])
    assert {"method.name", "prompt.form", "optim.lr", "few_shot.k"} <= set(lines[0])
    assert default_groups(lines) == ["task", "method.name", "few_shot.k"]


def test_labels_take_the_place_of_names(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    labels = ["a=Task A", "prompt.init=start", "fresh=no source", "prompt.init=average=MPT", "score=EM"]
    flags = [flag for label in labels for flag in ("--label", label)]
    out = runs / "report"
    command = [str(runs), *flags, "--across", "prompt.init", "--output", str(out)]
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert "| task | MPT | no source |" in printed
    assert "| Task A | 0.700 [0.203, 1.000] (3) | 0.600 [0.000, 1.000] (3) | 10 |" in printed
    tex = (out / "table.tex").read_text()
    assert r"Task A & 0.700 [0.203, 1.000] (3) & 0.600 [0.000, 1.000] (3) & 10 \\" in tex
    assert r"\toprule" in tex


@pytest.mark.parametrize(
    ("label", "message"),
    [
        ("freshh=no source", "--label: the runs have no 'freshh' (did you mean 'fresh'?)"),
        ("fresh", "--label: is 'fresh'; write NAME=TEXT"),
        ("fresh=", "--label: is 'fresh='; write NAME=TEXT"),
    ],
)
def test_a_label_for_nothing_is_refused(
    runs: Path, capsys: pytest.CaptureFixture[str], label: str, message: str
) -> None:
    assert main([str(runs), "--label", label]) == 2
    assert message in capsys.readouterr().err


@given(st.lists(st.floats(0, 1), min_size=2, max_size=6), st.sampled_from([(0.0, 1.0), (-1.0, 1.0), (0.0, math.inf)]))
def test_intervals_end_where_the_metric_does(values: list[float], limits: tuple[float, float]) -> None:
    found = estimate(values, limits)
    low, high = found.interval
    assert limits[0] <= low <= found.mean <= high <= limits[1]


@pytest.mark.parametrize(
    ("by_draw", "reading"),
    [
        ([0.2, 0.25, 0.3, 0.2, 0.25, 0.3], "higher"),
        ([-0.2, -0.25, -0.3, -0.2, -0.25, -0.3], "lower"),
        ([0.2, -0.25, 0.3, 0.2, -0.25, 0.3], "not distinguished"),
        ([0.2, 0.25, 0.3, 0.2, 0.25], "fewer than 6 pairs"),
        ([0.2] * 6, "all equal"),
    ],
)
def test_a_difference_is_read_from_its_draws(by_draw: list[float], reading: str) -> None:
    found = judge({("a", "method"): estimate_difference(by_draw, (-1, 1))})
    assert found["a", "method"].reading == reading


def test_a_family_of_differences_is_corrected_and_single_tasks_are_described() -> None:
    clear = estimate_difference([0.2, 0.25, 0.3, 0.2, 0.25, 0.3], (-1, 1))
    assert clear.p == 2 / 2**6  # all signs alike, or all opposite
    levels = {("all tasks", k, "method"): clear for k in (4, 16)}
    found = judge({("a", 4, "method"): clear, **levels})
    assert found["a", 4, "method"].reading == "described only"
    assert {found[group].p for group in levels} == {4 / 2**6}
    assert {found[group].reading for group in levels} == {"not distinguished"}  # twice .031 is above .05


def test_failed_jobs_are_named_until_their_run_is_finished(tmp_path: Path) -> None:
    write_run(tmp_path / "done", {"a": 0.5})
    outcomes = [
        Outcome(0, str(tmp_path / "done"), ["seed=0"], error="stopped"),
        Outcome(1, str(tmp_path / "lost"), ["seed=1"], error="out of memory"),
    ]
    write_lines(tmp_path / "sweeps" / "seed=0,1.jsonl", [outcome.__dict__ for outcome in outcomes])
    assert find_failures([tmp_path]) == [outcomes[1]]
    assert find_failures([tmp_path / "sweeps" / "seed=0,1.jsonl"]) == [outcomes[1]]


class TestWhatCounts:
    def test_a_run_counts_once_whatever_its_tasks(self, runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
        lines, _ = gather([runs])
        groups = summarize(lines, ["prompt.init"], "score")
        # The mean of the two tasks of each run: .3, .5, .55 and .3, .5, .55.
        assert {group: found.runs for group, found in groups.items()} == {("average",): 3, ("fresh",): 3}
        expected = estimate([0.3, 0.5, 0.55])
        assert groups["average",].mean == pytest.approx(expected.mean)
        assert groups["average",].interval == pytest.approx(expected.interval)
        assert groups["average",].tested == "20"

    def test_copies_of_a_run_count_once_and_are_named(self, runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
        before = summarize(gather([runs])[0], ["task", "prompt.init"], "score")
        for number in range(10):
            shutil.copytree(runs / "average" / "0", runs / "copies" / str(number))
        copies: list[Path] = []
        assert summarize(gather([runs], copies=copies)[0], ["task", "prompt.init"], "score") == before
        assert len(copies) == 10
        assert main([str(runs)]) == 0
        assert capsys.readouterr().out.count("left out, a copy of another run: ") == 10

    def test_a_run_of_other_rows_or_another_version_is_no_copy(self, tmp_path: Path) -> None:
        write_run(tmp_path / "one", {"a": 0.5}, seed=0)
        write_run(tmp_path / "two", {"a": 0.6}, seed=0, versions={"mpt": "0.2.0"})
        assert len(gather([tmp_path])[0]) == 2

    def test_what_is_pooled_is_named_and_has_no_interval(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        for k in (4, 16):
            for seed in (0, 1, 2):
                write_run(
                    tmp_path / f"{k}-{seed}",
                    {"a": k / 20 + seed / 100},
                    few_shot={"k": k},
                    seed=seed,
                    prompt={"init": "A"},
                )
        assert main([str(tmp_path), "--by", "task"]) == 0
        printed = capsys.readouterr().out
        assert "| a | 0.510 pooled (6) | 10 |" in printed
        assert (
            "pooled: runs that differ in few_shot.k, so their mean has no interval; add these keys: --by task "
            "few_shot.k" in printed
        )
        assert main([str(tmp_path), "--by", "task", "few_shot.k"]) == 0
        assert "pooled" not in capsys.readouterr().out

    def test_a_metric_of_0_to_100_is_not_cut_at_1(self, tmp_path: Path) -> None:
        for seed in (0, 1, 2):
            write_run(tmp_path / str(seed), {"a": 40.0 + seed}, seed=seed)
        (found,) = summarize(gather([tmp_path])[0], ["task"], "score").values()
        half = 4.302653 / math.sqrt(3)
        assert found.interval == pytest.approx((41 - half, 41 + half))

    def test_an_experiment_is_a_key(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        for name, score in (("first", 0.5), ("second", 0.75)):
            for seed in (0, 1):
                write_run(tmp_path / f"{name}-{seed}", {"a": score}, seed=seed, experiment_name=name, k=name)
        assert main([str(tmp_path), "--by", "experiment"]) == 0
        assert "| second | 0.750 all equal (2) | 10 |" in capsys.readouterr().out


class TestBases:
    def test_a_method_brings_its_form_its_start_and_its_rates(self, tmp_path: Path) -> None:
        """LoRA with a grid of rates pairs with the one base that there is."""
        for seed in (0, 1, 2):
            base = {"method": {"name": "prompt"}, "prompt": {"init": "A"}, "optim": {"lr_weights": 0.1}}
            write_run(tmp_path / f"prompt-{seed}", {"a": 0.5 + seed / 10}, seed=seed, **base)
            for rate in (0.01, 0.02):
                lora = {"method": {"name": "lora"}, "prompt": {"init": "V"}, "optim": {"lr_weights": rate}}
                write_run(tmp_path / f"lora-{rate}-{seed}", {"a": 0.4 + rate * 10 + seed / 10}, seed=seed, **lora)
        grouping, pairs = compare(gather([tmp_path])[0], "method.name", "prompt", "score")
        assert grouping == ["optim.lr_weights"]
        assert {group: (round(found.mean, 6), found.runs) for group, found in pairs.items()} == {
            ("a", 0.01, "lora"): (0.0, 3),
            ("a", 0.02, "lora"): (0.1, 3),
        }

    def test_a_base_with_several_methods_pairs_each_with_its_own(self, tmp_path: Path) -> None:
        for seed in (0, 1):
            for rate, gain in ((0.1, 0.1), (0.2, 0.3)):
                for init, score in (("base", 0.2), ("other", 0.2 + gain)):
                    config = {"prompt": {"init": init}, "optim": {"lr_prompt": rate}}
                    write_run(tmp_path / f"{init}-{rate}-{seed}", {"a": score + rate}, seed=seed, **config)
        _, pairs = compare(gather([tmp_path])[0], "prompt.init", "base", "score")
        assert {group[1]: round(found.mean, 6) for group, found in pairs.items()} == {0.1: 0.1, 0.2: 0.3}


def test_points_move_aside_only_where_they_hide_each_other() -> None:
    near = {"a": [(4, estimate([0.5])), (16, estimate([0.5]))], "b": [(4, estimate([0.505])), (16, estimate([0.9]))]}
    assert dodge(near, span=1.0) == {("a", 4): -0.5, ("b", 4): 0.5, ("a", 16): 0.0, ("b", 16): 0.0}


def test_a_page_or_a_table_of_somebody_else_is_not_replaced(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page, folder = runs / "page.html", runs / "report"
    folder.mkdir()
    page.write_text("<h1>My thesis</h1>")
    (folder / "runs.csv").write_text("name,age\n")
    assert main([str(runs), "--html", str(page)]) == 2
    assert "page.html: is there already, and is not a page of ours" in capsys.readouterr().err
    assert main([str(runs), "--output", str(folder)]) == 2
    assert page.read_text() == "<h1>My thesis</h1>"
    assert (folder / "runs.csv").read_text() == "name,age\n"
    (folder / "runs.csv").rename(folder / "table.csv")
    assert main([str(runs), "--output", str(folder)]) == 2
    assert "has a table.csv that no report wrote" in capsys.readouterr().err
    (folder / "table.csv").unlink()
    page.unlink()
    for _ in range(2):  # its own
        assert main([str(runs), "--html", str(page), "--output", str(folder)]) == 0


class TestClasses:
    def test_precision_recall_and_confusion_by_hand(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        answers = {0: ["cat", "cat", "dog", "fish"], 1: ["cat", "dog", "dog", "dog"]}
        for seed, of_run in answers.items():
            write_run(tmp_path / str(seed), {"a": 0.5}, seed=seed)
            metrics = json.loads((tmp_path / str(seed) / "metrics.json").read_text())
            write_metrics(tmp_path / str(seed), metrics | {"metric": {"a": "accuracy"}})
            lines = [
                {"row_id": str(row), "input": "", "references": [wanted], "prediction": answer, "scores": {}}
                for row, (wanted, answer) in enumerate(zip(["cat", "cat", "dog", "dog"], of_run, strict=True))
            ]
            write_lines(tmp_path / str(seed) / "predictions" / "a.jsonl", lines)
        (classes,) = read_classes(gather([tmp_path])[0], ["task"]).values()
        cat, dog = classes
        assert (cat.name, cat.rows, cat.precision, cat.recall) == ("cat", 4, 1.0, 0.75)
        assert cat.answered == {"cat": 3, "dog": 1}
        assert (dog.precision, dog.recall, dog.f1) == (0.75, 0.75, 0.75)
        assert dog.answered == {"dog": 3, "(no class)": 1}
        assert main([str(tmp_path), "--by", "task", "--output", str(tmp_path / "out")]) == 0
        with (tmp_path / "out" / "confusion.csv").open() as file:
            assert [line["rows"] for line in csv.DictReader(file)] == ["3", "1", "3", "1"]
        assert (tmp_path / "out" / "classes.csv").read_text().splitlines()[1].startswith("a,cat,4,1.0,0.75,")


@pytest.mark.parametrize("text", ["=1+1", "+cmd", "-x", "@SUM(A1)", "\t=1", "=HYPERLINK(1)"])
def test_text_that_a_spreadsheet_would_compute_is_quoted_and_numbers_are_not(text, tmp_path):
    write_csv(tmp_path / "a.csv", ["name", text], [[text, "-0.25"], ["-", -0.25], ["+1e-5", "–"]])
    with (tmp_path / "a.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows == [["name", f"'{text}"], [f"'{text}", "-0.25"], ["-", "-0.25"], ["+1e-5", "–"]]


def test_a_cell_of_a_table_stays_one_cell():
    assert markdown(["a", "b"], [["x\n|y", 1]]).splitlines()[2] == r"| x\n\|y | 1 |"
