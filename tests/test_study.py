"""A study: its file, its plan, its memory, its statistics, and the whole of it stopped and gone on with."""

import dataclasses
import json
import re
import shutil
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mpt.study.run
from mpt import __version__
from mpt.cli.many import open_jobs
from mpt.errors import UserError
from mpt.report.statistics import average_tasks, cross, holm
from mpt.run.origin import code_digest
from mpt.study.__main__ import main
from mpt.study.answer import Answer
from mpt.study.cells import Cell, Memory
from mpt.study.file import Study
from mpt.study.page import say, sentences
from mpt.study.plan import Costs, Start, all_jobs, choose, cuts, final_jobs, remaining, source_jobs, tuning_jobs
from mpt.study.read import load_study
from mpt.study.run import Runner, plan_study
from mpt.study.studying import parse_duration

SMALL = """\
question: Does a source help?
common: [trainer.max_steps=4, trainer.batch_size=4, evaluation.validate_every=2, evaluation.test_rows=8]
sources:
  kin: {overrides: ["tasks=[dlg,polite]", mixture=equal, evaluation.validation_rows=4], seeds: 2}
targets: [color_else, topic]
draws: 2
methods:
  MPT: {source: kin, overrides: [prompt.init=AVERAGE_SOURCE_TASKS]}
  plain prompt: {overrides: [prompt=plain, prompt.init=VOCABULARY], grid: [[optim.lr_prompt=.1], [optim.lr_prompt=.5]]}
compare: [[MPT, plain prompt]]
vary: {few_shot.k: [4]}
tune: {draws: 1, rates: [1, 3]}
success: 0.9
"""


def write(folder: Path, text: str = SMALL) -> Path:
    path = folder / "small.yaml"
    path.write_text(text)
    return path


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    # To configure logging anew is to close every handler, absl's with the stream that pytest captures.
    options = (*mpt.study.run.LAUNCH, "hydra/job_logging=none", "hydra/hydra_logging=none")
    monkeypatch.setattr(mpt.study.run, "LAUNCH", options)


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return load_study(write(tmp_path))


class TestFile:
    def test_bytes_that_are_no_text_and_lists_without_end_are_refused(self, tmp_path):
        (tmp_path / "latin.yaml").write_bytes("question: Why\ntargets: [caf\u00e9]".encode("latin-1"))
        with pytest.raises(UserError, match=r"latin\.yaml:2: not UTF-8 \(.*\); save the file as UTF-8"):
            load_study(tmp_path / "latin.yaml")
        (tmp_path / "deep.yaml").write_text("question: " + "[" * 9999)
        with pytest.raises(UserError, match=r"deep\.yaml: its lists lie too deep in each other"):
            load_study(tmp_path / "deep.yaml")

    @pytest.mark.parametrize(
        ("old", "new", "message"),
        [
            ("draws: 2", "drawz: 2", "small.yaml:6: drawz: no key 'drawz'; choose one of"),
            ("draws: 2", "draws: 0", "small.yaml:6: draws: is 0; write a whole number from 1"),
            ("question: Does a source help?", "", "small.yaml:1: question: is missing"),
            (
                "{source: kin,",
                "{source: kim,",
                "methods: MPT: source: no source 'kim'; choose one of kin (did you mean",
            ),
            ("seeds: 2}", "seeds: 3}", "sources: kin: seeds: is 3, and MPT has 2 draws"),
            ("[[MPT, plain prompt]]", "[[MPT, plain]]", "compare: no method 'plain'; choose one of MPT, plain prompt"),
            ("[[MPT, plain prompt]]", "[MPT, plain prompt]", "compare: has 'MPT'; write pairs of two methods"),
            ("[[MPT, plain prompt]]", "[[MPT, {plain prompt}]]", "compare: has ['MPT', {'plain prompt': None}]; write"),
            ("draws: 2", "draws: 1000000", "draws: is 1000000; write a whole number from 1 to 10,000"),
            ("{source: kin,", "{source: [kin],", "source: no source \"['kin']\""),
            ("rates: [1, 3]", "rates: [1, .inf]", "tune: rates: is [1, inf]; write factors above 0"),
            ("rates: [1, 3]", "rates: [1, 3, 9]", "different numbers of candidates (MPT 3, plain prompt 2)"),
            ("rates: [1, 3]", "rates: [3, 1]", "tune: rates: is [3, 1]; list each factor once, the smallest first"),
            ("tune: {draws: 1, rates: [1, 3]}", "", "methods: plain prompt: grid: is never tried without tune"),
            ("[color_else, topic]", "[topic, topic]", "small.yaml:5: targets: lists topic twice"),
            (
                "draws: 2",
                "draws: 2\ntarget_overrides: {topik: [a=1]}",
                "small.yaml:7: target_overrides: topik: no target",
            ),
            ("draws: 2", "draws: 2\ntarget_overrides: [a=1]", "write a mapping of targets to lists of overrides"),
            ("draws: 2", "draws: 2\ntarget_overrides: {topic: a=1}", "topic: is 'a=1'; write a list of texts"),
            ("few_shot.k: [4]", "seed: [0, 1]", "vary: seed: is the study's own to set"),
            ("few_shot.k: [4]", "few_shot.k: 4", "vary: few_shot.k: is 4; write a list of values"),
            ("success: 0.9", "success: most", "small.yaml:13: success: is 'most'; write a score"),
            ("draws: 2", "draws: 2\ndraws: 3", "small.yaml:7: draws: is listed twice"),
            ("  MPT: {source: kin, ", "  MPT: {", "sources: kin: no method starts from it"),
            ("draws: 2", "draws: [2", "not YAML"),
        ],
    )
    def test_a_mistake_is_named_with_its_line(self, tmp_path: Path, old: str, new: str, message: str) -> None:
        assert old in SMALL
        with pytest.raises(UserError) as error:
            load_study(write(tmp_path, SMALL.replace(old, new)))
        assert message in str(error.value)

    def test_all_mistakes_are_named_at_once(self, tmp_path: Path) -> None:
        text = SMALL.replace("draws: 2", "draws: -1").replace("success: 0.9", "success: most").replace("kin,", "kim,")
        with pytest.raises(UserError) as error:
            load_study(write(tmp_path, text))
        assert len(str(error.value).splitlines()) == 4  # the source is no method's any more

    def test_names_and_places(self, tmp_path: Path) -> None:
        assert load_study(write(tmp_path)).results == tmp_path / "small-results"
        (tmp_path / "kinship").mkdir()
        path = write(tmp_path).rename(tmp_path / "kinship" / "study.yaml")
        found = load_study(path)
        assert (found.name, found.results) == ("kinship", tmp_path / "kinship" / "results")

    def test_what_does_not_compose_is_said_before_anything_runs(
        self, tmp_path: Path, monkeypatch: Any, capsys: Any
    ) -> None:
        monkeypatch.chdir(tmp_path)
        text = SMALL.replace("prompt.init=VOCABULARY", "prompt.init=VOCABULARI").replace(
            "[color_else, topic]", "[topic, topix]"
        )
        text = text.replace("mixture=equal", "mixture=even")
        assert main([str(write(tmp_path, text))]) == 2
        printed = capsys.readouterr().err
        assert "small.yaml: sources: kin: mixture: unknown 'even'; choose one of" in printed
        assert "small.yaml: methods: plain prompt at few_shot.k=4: prompt.init: unknown 'VOCABULARI'" in printed
        assert "small.yaml: targets: topix: tasks: unknown 'topix'" in printed
        assert not (tmp_path / "runs").exists()

    def test_a_source_learns_from_few_examples_only_where_it_says_so(
        self, tmp_path: Path, monkeypatch: Any, capsys: Any
    ) -> None:
        monkeypatch.chdir(tmp_path)
        text = SMALL.replace("vary: {few_shot.k: [4]}\n", "").replace("common: [", "common: [few_shot.k=4, ")
        with open_jobs() as jobs, pytest.raises(UserError, match=r"sources: kin: learns from few_shot.k=4 examples"):
            plan_study(load_study(write(tmp_path, text)), jobs)
        meant = text.replace("mixture=equal,", "mixture=equal, few_shot.k=4,")
        with open_jobs() as jobs:
            assert plan_study(load_study(write(tmp_path, meant)), jobs).max_steps

    def test_a_method_that_trains_nothing_needs_a_grid(self, tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
        monkeypatch.chdir(tmp_path)
        text = SMALL.replace("overrides: [prompt.init=AVERAGE_SOURCE_TASKS]", "overrides: [method=in_context]")
        assert main([str(write(tmp_path, text))]) == 2
        assert "methods: MPT at few_shot.k=4: trains nothing, so factors of its rates" in capsys.readouterr().err

    @pytest.mark.parametrize("text", ["", "30", "m", "0m", "-3s", "1d"])
    def test_a_budget_is_a_duration(self, text: str, tmp_path: Path, capsys: Any) -> None:
        assert (parse_duration("90s"), parse_duration("30m"), parse_duration("1.5h")) == (90, 1800, 5400)
        with pytest.raises(SystemExit):
            main([str(tmp_path), f"--budget={text}"])
        assert "write a duration, such as 90s, 30m or 2h" in capsys.readouterr().err


def start_of(study: Study) -> Start:
    rates = {"optim.lr_prompt": 0.3, "optim.lr_factors": 0.4}
    sources = {(name, seed): f"runs/{name}-{seed}" for name in study.sources for seed in range(2)}
    return Start(sources, {(method, level): rates for method in study.methods for level in study.levels})


class TestPlan:
    def test_every_method_has_the_same_draws_and_as_many_candidates(self, study: Study) -> None:
        start = start_of(study)
        assert len(source_jobs(study)) == 2
        tuning = tuning_jobs(study, start)
        assert len(tuning) == 2 * 2 * 2  # methods x targets x candidates
        assert {job.draw for job in tuning} == {1000}
        chosen = {(method, level): 1 for method in study.methods for level in study.levels}
        final = final_jobs(study, start, chosen)
        assert len({job.place for job in final}) == len(final) == 2 * 2 * 2
        assert {(job.method, job.target, job.draw) for job in final} == {
            (method, target, draw) for method in study.methods for target in study.targets for draw in (0, 1)
        }
        assert all(job.overrides[-1] == f"seed={job.draw}" for job in final)
        assert {job.place for job in all_jobs(study)} == {job.place for job in (*source_jobs(study), *tuning, *final)}

    def test_a_draw_starts_from_its_source_seed_and_a_candidate_scales_the_methods_rates(self, study: Study) -> None:
        chosen = {("MPT", study.levels[0]): 1, ("plain prompt", study.levels[0]): 0}
        final = {
            (job.method, job.target, job.draw): job.overrides for job in final_jobs(study, start_of(study), chosen)
        }
        assert "source=runs/kin-1" in final["MPT", "topic", 1]
        assert {"optim.lr_prompt=0.9", "optim.lr_factors=1.2"} <= set(final["MPT", "topic", 0])
        assert "optim.lr_prompt=.1" in final["plain prompt", "topic", 0]
        assert not any(text.startswith("source=") for text in final["plain prompt", "topic", 0])

    def test_overrides_of_a_target_are_of_its_runs_only_and_a_method_says_the_last(self, tmp_path: Path) -> None:
        text = SMALL.replace("draws: 2", "draws: 2\ntarget_overrides: {topic: [tasks.topic.prefix=say, prompt=shared]}")
        study = load_study(write(tmp_path, text))
        for job in (*source_jobs(study), *tuning_jobs(study, start_of(study))):
            assert ("tasks.topic.prefix=say" in job.overrides) == (job.target == "topic")
            if job.target == "topic" and job.method == "plain prompt":
                assert job.overrides.index("prompt=plain") > job.overrides.index("prompt=shared")

    @pytest.mark.parametrize(
        ("means", "best"),
        [([0.1, 0.5, 0.3], 1), ([0.5, 0.1, 0.5], 0), ([0.5, 0.5, 0.5], 1), ([0.2, 0.5, 0.5], 1), ([0.9, 0.1, 0.2], 0)],
    )
    def test_the_best_validation_score_is_chosen_and_ties_go_to_the_middle(
        self, tmp_path: Path, means: list[float], best: int
    ) -> None:
        text = SMALL.replace("rates: [1, 3]", "rates: [0.3, 1, 3]").replace("grid: [", "grid: [[optim.lr_prompt=1], ")
        study = load_study(write(tmp_path, text))
        scores = {}
        for job in tuning_jobs(study, start_of(study)):
            assert job.candidate is not None
            # Over the two targets the mean is what it should be.
            scores[job.place] = means[job.candidate] + (0.05 if job.target == "topic" else -0.05)
        assert set(choose(study, scores).values()) == {best}
        lost = next(job.place for job in tuning_jobs(study, start_of(study)) if job.candidate == best)
        del scores[lost]
        assert choose(study, scores)["MPT", study.levels[0]] != best  # a candidate with a failed run is out

    def test_a_cut_fits(self, tmp_path: Path) -> None:
        text = SMALL.replace("draws: 2\n", "draws: 16\n").replace("tune: {draws: 1", "tune: {draws: 3")
        study = load_study(write(tmp_path, text.replace("few_shot.k: [4]", "few_shot.k: [4, 16]")))
        costs = Costs({("source", "kin"): 60, ("tuning", "MPT"): 1, ("tuning", "plain prompt"): 2})
        whole = 2 * 60 + 3 * 2 * 2 * 2 * 3 + 16 * 2 * 2 * 2 * 3
        assert costs.total(remaining(study, ())) == whole
        found = list(cuts(study, (), costs, whole / 2))
        assert found == ["draws: 3 in place of 16", "1 of the 2 values of few_shot.k"] or found[0].startswith("draws: ")
        n = int(re.search(r"draws: (\d+)", found[0])[1])
        fewer = dataclasses.replace(study, draws=n)
        more = dataclasses.replace(study, draws=n + 1)
        assert costs.total(remaining(fewer, ())) <= whole / 2 < costs.total(remaining(more, ()))
        finished = {job.place for job in all_jobs(study) if job.phase == "source"}
        assert costs.total(remaining(study, finished)) == whole - 120
        # A method that has not run counts as the dearest that has, and not as a source.
        known = Costs({("source", "kin"): 60, ("tuning", "MPT"): 1})
        tuning, final = 3 * 2 * 2 * 2, 16 * 2 * 2
        assert known.total(remaining(study, finished)) == 2 * tuning + final * 2 + final * 1


def cell(method: str, target: str, draw: int, rows: list[float], **changes: Any) -> Cell:
    known = {
        "validation": 0.5,
        "before": 0.0,
        "n": len(rows),
        "metric": "exact_match",
        "code": code_digest(),
        "mpt": __version__,
    }
    own = {"row_ids": f"rows of {target}", "score": statistics.fmean(rows), "row_scores": rows, **known, **changes}
    return Cell("final", method, "few_shot.k=4", target, draw, None, "hash", f"runs/{method}-{target}-{draw}", **own)


class TestMemory:
    def test_cells_are_read_back_and_the_last_of_a_place_counts(self, tmp_path: Path) -> None:
        memory = Memory(tmp_path / "results" / "cells.jsonl")
        failed = dataclasses.replace(cell("MPT", "topic", 0, [1, 0]), error="out of memory", score=None)
        memory.add([failed, cell("MPT", "topic", 1, [1, 1])])
        memory.add([cell("MPT", "topic", 0, [1, 0])])
        again = Memory(memory.path)
        assert again.cells == memory.cells
        assert again.cells[failed.place].error is None
        again.export(tmp_path / "cells.csv")
        assert len((tmp_path / "cells.csv").read_text().splitlines()) == 3

    def test_a_line_that_was_cut_off_is_dropped_and_another_one_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "cells.jsonl"
        Memory(path).add([cell("MPT", "topic", 0, [1, 0])])
        whole = path.read_text()
        path.write_text(whole + whole[:40])
        assert len(Memory(path).cells) == 1
        assert path.read_text() == whole
        path.write_text("{}\n" + whole)
        with pytest.raises(UserError, match=r"cells.jsonl:1: not a cell of a study"):
            Memory(path)

    def test_other_test_rows_and_other_code_are_refused(self, tmp_path: Path) -> None:
        memory = Memory(tmp_path / "cells.jsonl")
        memory.add([cell("MPT", "topic", 0, [1, 0])])
        memory.refuse_other_code()
        with pytest.raises(UserError, match=r"read other rows of topic than runs/MPT-topic-0"):
            memory.add([cell("MPT", "topic", 1, [1, 0], row_ids="other")])
        memory.add([cell("MPT", "topic", 2, [1, 0], code="older", mpt="0.1.0")])
        with pytest.raises(UserError, match=r"has cells of .*code older, and this is mpt"):
            memory.refuse_other_code()

    def test_a_job_with_other_overrides_is_not_finished(self, study: Study, tmp_path: Path) -> None:
        memory = Memory(tmp_path / "cells.jsonl")
        job = final_jobs(study, start_of(study), {})[0]
        memory.add([dataclasses.replace(cell(job.method, job.target, job.draw, [1, 0]), job=job.hash)])
        assert memory.finished(job) is not None
        assert memory.finished(dataclasses.replace(job, overrides=(*job.overrides, "trainer.max_steps=9"))) is None


class TestAnswer:
    def answer(self, tmp_path: Path, draws: int, text: str = SMALL, seeds: int = 2) -> tuple[Answer, dict[Any, Any]]:
        text = text.replace("draws: 2\n", f"draws: {draws}\n").replace("seeds: 2", f"seeds: {seeds}")
        study, memory = load_study(write(tmp_path, text)), Memory(tmp_path / "cells.jsonl")
        random = np.random.default_rng(3)
        rows = {
            (method, target): (random.random((draws, 20)) < share).astype(float)
            for method, share in (("MPT", 0.8), ("plain prompt", 0.3))
            for target in study.targets
        }
        memory.add(
            cell(method, target, draw, scores[draw].tolist())
            for (method, target), scores in rows.items()
            for draw in range(draws)
        )
        return Answer(study, memory), rows

    def test_estimates_are_those_of_the_formulas_by_hand(self, tmp_path: Path) -> None:
        answer, rows = self.answer(tmp_path, 7)
        level = answer.study.levels[0]
        one = answer.estimate("MPT", level, ["topic"])
        assert one is not None
        assert one.interval == pytest.approx(cross(rows["MPT", "topic"]).interval((0, 1)))
        every = answer.estimate("MPT", level, answer.study.targets)
        expected = average_tasks([rows["MPT", target] for target in answer.study.targets])
        assert every is not None
        assert every.mean == pytest.approx(expected.mean)
        assert every.interval == pytest.approx(expected.interval((0, 1)))
        (compared,) = answer.compare()
        paired = average_tasks([rows["MPT", target] - rows["plain prompt", target] for target in answer.study.targets])
        assert compared.over_targets.interval == pytest.approx(paired.interval((-1, 1)))
        assert compared.over_targets.p == max(2 / 2**7, paired.p())
        assert compared.verdict.p == holm([compared.over_targets.p])[0]
        assert "MPT is better than plain prompt at few_shot.k=4: +0." in say(compared, answer)
        assert say(compared, answer).endswith("of these 2 sources.")

    def test_a_draw_that_failed_on_one_side_is_no_pair_and_is_said(self, tmp_path: Path) -> None:
        answer, _ = self.answer(tmp_path, 7)
        lost = answer.memory.cells["final", "MPT", "few_shot.k=4", "topic", 3, None]
        answer.memory.add([dataclasses.replace(lost, error="loss is not finite", score=None, row_scores=None)])
        (compared,) = answer.compare()
        assert compared.over_targets.runs == 6
        assert compared.by_target["color_else"].runs == 7
        assert "1 of the runs that count are missing" in " ".join(sentences(answer))

    def test_from_six_source_seeds_on_the_source_is_what_is_sampled(self, tmp_path: Path) -> None:
        answer, rows = self.answer(tmp_path, 12, seeds=6)
        found = answer.estimate("MPT", answer.study.levels[0], ["topic"])
        assert found is not None
        assert found.runs == 6
        blocks = (rows["MPT", "topic"][:6] + rows["MPT", "topic"][6:]) / 2  # draw d starts from seed d mod 6
        assert found.interval == pytest.approx(cross(blocks).interval((0, 1)))
        (compared,) = answer.compare()
        assert (compared.over_targets.runs, compared.sources) == (6, 0)
        assert "over 6 sources" in say(compared, answer)

    def test_success_is_a_share_of_draws(self, tmp_path: Path) -> None:
        answer, rows = self.answer(tmp_path, 8)
        found = answer.success("MPT", answer.study.levels[0], "topic")
        assert found is not None
        assert (found.successes, found.draws) == (int((rows["MPT", "topic"].mean(1) >= 0.9).sum()), 8)

    def test_too_few_draws_are_said(self, tmp_path: Path) -> None:
        answer, _ = self.answer(tmp_path, 3)
        assert "So few draws cannot show any of 1 comparisons" in " ".join(sentences(answer))


def numbers(path: Path) -> list[dict[str, Any]]:
    """The cells without what a clock, or another call, says."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    dropped = ("seconds", "cost", "started")
    found = [{key: value for key, value in line.items() if key not in dropped} for line in lines]
    return sorted(found, key=lambda line: json.dumps([line["phase"], line["job"]]))


@pytest.mark.slow
class TestWholeStudy:
    @pytest.mark.slow
    def test_stopped_it_goes_on_to_the_same_page_and_a_fresh_clone_needs_no_run(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.chdir(tmp_path)
        path, results = write(tmp_path), tmp_path / "small-results"
        assert main([str(path), "--dry-run"]) == 0
        assert capsys.readouterr().out.count("python train.py ") == 2 + 8 + 8
        assert not (tmp_path / "runs").exists()

        calls: list[int] = []
        train = Runner.train

        def stop(self: Runner, jobs: Any) -> None:
            if len(calls) == 2:
                raise KeyboardInterrupt
            calls.append(len(jobs))
            train(self, jobs)

        monkeypatch.setattr(Runner, "train", stop)
        assert main([str(path)]) == 130
        assert "the same command goes on" in capsys.readouterr().err
        monkeypatch.setattr(Runner, "train", train)
        assert len(Memory(results / "cells.jsonl").cells) == 1 + 4  # the source of the tuning draws, a method's tuning
        assert main([str(path)]) == 0
        first, said = numbers(results / "cells.jsonl"), capsys.readouterr().out
        assert "page: " in said
        assert len(first) == 2 + 8 + 8
        self.check_numbers(tmp_path, results)

        monkeypatch.setattr(Runner, "train", stop)  # which would stop at once
        assert main([str(path)]) == 0
        shutil.rmtree(tmp_path / "runs")
        assert main([str(path)]) == 0
        monkeypatch.setattr(Runner, "train", train)
        assert numbers(results / "cells.jsonl") == first
        page = (results / "page.html").read_text(encoding="utf-8")
        assert "Does a source help?" in page
        assert all((results / f"scores.{kind}").stat().st_size for kind in ("csv", "md", "tex", "pdf", "png", "svg"))

        # All of it in one go, by the same numbers.
        shutil.rmtree(results)
        assert main([str(path)]) == 0
        assert numbers(results / "cells.jsonl") == first

    def check_numbers(self, place: Path, results: Path) -> None:
        """The page's table against the predictions."""
        rows = [line.split(" | ") for line in (results / "scores.md").read_text().splitlines()[2:]]
        assert [row[1:3] for row in rows] == [
            [target, method] for target in ("all targets", "color_else", "topic") for method in ("MPT", "plain prompt")
        ]
        cells = [cell for cell in Memory(results / "cells.jsonl").cells.values() if cell.phase == "final"]
        for _, target, method, score, *_ in rows[2:]:
            scores = []
            for found in (cell for cell in cells if (cell.target, cell.method) == (target, method)):
                text = (place / found.run / "predictions" / f"{target}.jsonl").read_text()
                lines = [json.loads(line) for line in text.splitlines()]
                scores.append(statistics.fmean(line["prediction"] in line["references"] for line in lines))
            assert float(score) == pytest.approx(statistics.fmean(scores), abs=6e-4)

    def test_methods_that_cannot_be_fused_run_by_themselves_on_fewer_draws(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        text = re.sub(r"(?m)^tune: .*$", "", SMALL).replace("[color_else, topic]", "[topic]")
        text = re.sub(r"(?m)^  plain prompt: .*$", "  LoRA: {overrides: [method=lora], draws: 1}", text)
        assert main([str(write(tmp_path, text.replace("plain prompt", "LoRA").replace("seeds: 2", "seeds: 1")))]) == 0
        cells = list(Memory(tmp_path / "small-results" / "cells.jsonl").cells.values())
        assert [(cell.method, cell.draw) for cell in cells if cell.phase == "final"] == [
            ("MPT", 0),
            ("MPT", 1),
            ("LoRA", 0),
        ]
        assert all((tmp_path / cell.run / "metrics.json").is_file() for cell in cells)

    def test_over_the_budget_it_stops_names_cuts_and_keeps_what_has_run(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(mpt.study.run, "FIRST", 2)
        text = SMALL.replace("draws: 2\n", "draws: 400\n").replace("tune: {draws: 1", "tune: {draws: 200")
        assert main([str(write(tmp_path, text)), "--budget=10s"]) == 2
        printed = capsys.readouterr().err
        assert "the budget is 10 s; " in printed
        assert "what has run is kept" in printed
        kept = Memory(tmp_path / "small-results" / "cells.jsonl").cells.values()
        assert {cell.phase for cell in kept} == {"source", "tuning"}

    @pytest.mark.slow
    def test_a_level_that_fails_is_on_the_page(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.chdir(tmp_path)
        text = re.sub(r"(?m)^tune: .*$", "", SMALL).replace("few_shot.k: [4]", "few_shot.k: [4, 100000]")
        text = re.sub(r", grid: .*\]\]", "", text)
        assert main([str(write(tmp_path, text))]) == 0
        assert "8 of the runs that count are missing" in capsys.readouterr().out
        page = (tmp_path / "small-results" / "page.html").read_text(encoding="utf-8")
        assert "few_shot.k: is 100000" in page


ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.slow
@pytest.mark.parametrize("path", sorted(ROOT.glob("experiments/*/study.yaml")), ids=lambda path: path.parent.name)
def test_every_shipped_study_composes(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "teachers" / "kinship").mkdir(parents=True)  # trained by a command of their own
    study = dataclasses.replace(load_study(path), tune=None)  # a candidate composes as its method does
    with open_jobs(study.folders) as jobs:
        assert plan_study(study, jobs).max_steps


def test_the_study_of_the_docs_composes(tmp_path: Path) -> None:
    (text,) = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / "studies.md").read_text(), re.DOTALL)
    with open_jobs() as jobs:
        assert plan_study(load_study(write(tmp_path, text)), jobs).max_steps


def test_mpt_names_its_commands(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    import mpt.__main__

    for command in mpt.__main__.COMMANDS.keys() - {"lm_eval"}:  # whose help is the harness's
        monkeypatch.setattr("sys.argv", ["mpt", command, "--help"])
        with pytest.raises(SystemExit) as stop:
            mpt.__main__.main()
        assert stop.value.code == 0
        assert f"python -m mpt.{command}" in capsys.readouterr().out


def test_durations_are_shown_in_a_unit_that_fits() -> None:
    assert mpt.study.run.show_seconds(45) == "45 s"
    assert mpt.study.run.show_seconds(600) == "10 min"
    assert mpt.study.run.show_seconds(9000) == "2.5 h"
