"""Intervals and tests against numbers by hand, scipy's, and simulation; row scores against a run's own numbers."""

import csv
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats
from scipy.stats import false_discovery_control, permutation_test

from mpt.metrics import METRICS, Rules
from mpt.report.estimate import summarize
from mpt.report.gather import gather
from mpt.report.row_scores import Answered, row_scores
from mpt.report.statistics import (
    average_tasks,
    cross,
    draws_needed,
    fewest_draws,
    flip_signs,
    holm,
    mean_squares,
    of_draws,
    pseudo_values,
    share,
)
from mpt.run.record import write_lines
from tests.test_report import write_run

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "experiments"))

from intervals import simulate as simulation

MATRIX = np.array([[1.0, 1, 0, 1], [1, 0, 0, 1], [1, 1, 1, 1]])


def test_the_crossed_interval_by_hand() -> None:
    # Means of draws 3/4, 1/2, 1; of rows 1, 2/3, 1/3, 1; of all 3/4.
    draws, rows, rest = mean_squares(MATRIX)
    assert draws == pytest.approx(0.25)
    assert rows == pytest.approx((0.0625 + 0.0069444 + 0.1736111 + 0.0625) * 3 / 3, abs=1e-6)
    total = ((MATRIX - 0.75) ** 2).sum()
    assert rest == pytest.approx((total - 2 * draws - 3 * rows) / 6)
    S = max(draws + rows - rest, draws, rows)
    freedom = max(S**2 / (draws**2 / 2 + rows**2 / 3 + rest**2 / 6), 2)
    found = cross(MATRIX)
    assert found == pytest.approx((0.75, S / 12, freedom))
    half = stats.t.ppf(0.975, freedom) * math.sqrt(S / 12)
    assert found.interval() == pytest.approx((0.75 - half, 0.75 + half))
    assert found.interval((0, 1)) == (max(0, 0.75 - half), 1.0)


@given(arrays(float, st.tuples(st.integers(2, 6), st.integers(2, 8)), elements=st.sampled_from([0.0, 0.5, 1.0])))
def test_mean_squares_are_those_of_a_two_way_analysis_of_variance(values: Any) -> None:
    n, m = values.shape
    draws, rows, rest = mean_squares(values)
    total = ((values - values.mean()) ** 2).sum()
    assert draws * (n - 1) + rows * (m - 1) + rest * (n - 1) * (m - 1) == pytest.approx(total)
    known = cross(values)
    if math.isnan(known.variance):
        assert np.ptp(values) == 0
        assert all(map(math.isnan, known.interval()))
    else:
        assert known.variance * n * m >= max(draws, rows) - 1e-12
        assert known.freedom >= n - 1 - 1e-9


def test_one_draw_and_equal_values_have_no_interval_and_one_row_is_students_t() -> None:
    assert all(map(math.isnan, cross(MATRIX[:1]).interval()))
    assert all(map(math.isnan, cross(np.ones((3, 4))).interval()))
    assert cross(np.ones((3, 4))).p() == 1.0
    by_draw = [0.3, 0.5, 0.9]
    expected = stats.ttest_1samp(by_draw, 0)
    found = of_draws(by_draw)
    assert found.p() == pytest.approx(expected.pvalue)
    assert cross(np.array(by_draw)[:, None]) == found
    interval = expected.confidence_interval(0.95)
    assert found.interval() == pytest.approx((interval.low, interval.high))


def test_the_average_over_tasks_by_hand() -> None:
    other = np.array([[0.0, 1.0], [1.0, 1.0], [0.0, 0.0]])
    averages = [(0.75 + 0.5) / 2, (0.5 + 1) / 2, (1 + 0) / 2]
    of_rows = 0.0
    for values in (MATRIX, other):
        _, rows, rest = mean_squares(values)
        of_rows += max(0, rows - rest) / values.size
    found = average_tasks([MATRIX, other])
    assert found == pytest.approx((np.mean(averages), np.var(averages, ddof=1) / 3 + of_rows / 4, 2))
    assert average_tasks([MATRIX]) == cross(MATRIX)


@given(st.lists(st.floats(-1, 1), min_size=2, max_size=8))
def test_sign_flips_are_scipys_permutation_test(values: list[float]) -> None:
    values = [round(value, 3) for value in values]
    found = permutation_test(
        (values,), np.mean, permutation_type="samples", n_resamples=np.inf, alternative="two-sided", vectorized=False
    )
    # scipy doubles the smaller tail; with signs both tails are equally large.
    assert flip_signs(values) == pytest.approx(found.pvalue, abs=1e-9)


def test_sign_flips_of_many_draws_are_sampled_and_stay_the_same() -> None:
    values = np.random.default_rng(3).normal(0.3, 1, 40)
    assert flip_signs(values) == flip_signs(values)
    assert flip_signs(values) == pytest.approx(stats.ttest_1samp(values, 0).pvalue, abs=0.02)


def test_holm_by_hand_and_between_bonferroni_and_nothing() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.6]) == [1.0, 1.0]
    p = [0.001, 0.2, 0.012, 0.04]
    assert all(raw <= each <= min(1, 4 * raw) for raw, each in zip(p, holm(p), strict=True))
    assert all(each >= fdr - 1e-12 for each, fdr in zip(holm(p), false_discovery_control(p), strict=True))


def test_the_fewest_draws_are_those_at_which_a_difference_can_be_called() -> None:
    for comparisons in (1, 3, 6, 25):
        n = fewest_draws(comparisons)
        assert holm([flip_signs([1.0] * n)] + [1.0] * (comparisons - 1))[0] <= 0.05
        assert holm([flip_signs([1.0] * (n - 1))] + [1.0] * (comparisons - 1))[0] > 0.05
    assert [fewest_draws(c) for c in (1, 3, 6, 25)] == [6, 7, 8, 10]


def test_shares_are_scipys_exact_binomial_interval() -> None:
    assert share(0, 6) == pytest.approx((0, 0, 1 - 0.025 ** (1 / 6)))
    assert share(6, 6)[1:] == pytest.approx((0.025 ** (1 / 6), 1))


def test_as_many_draws_as_needed_find_the_difference_in_four_of_five_studies() -> None:
    random = np.random.default_rng(5)
    needed = draws_needed([-1.0, 0.0, 1.0], 0.6)  # a standard deviation of 1
    assert needed == 24
    samples = random.normal(0.6, 1, (4000, needed))
    assert np.mean(stats.ttest_1samp(samples, 0, axis=1).pvalue < 0.05) == pytest.approx(0.8, abs=0.03)


@given(st.lists(st.floats(0, 1), min_size=2, max_size=12))
def test_pseudo_values_of_a_mean_are_the_row_scores(scores: list[float]) -> None:
    found = pseudo_values(lambda rows: float(np.mean([scores[row] for row in rows])), len(scores))
    assert found == pytest.approx(scores, abs=1e-9)


@pytest.mark.parametrize("metric", ["macro-F1", "Pearson"])
def test_the_simulations_pseudo_values_are_those_of_the_package(metric: str) -> None:
    answer, values = simulation.METRICS[metric]
    answers, truths = answer("small", 1, 30, np.random.default_rng(2))
    name = {"macro-F1": "macro_f1", "Pearson": "pearson"}[metric]
    texts, references = [str(each) for each in answers[0]], [(str(each),) for each in truths]

    def score(rows: list[int]) -> float:
        return METRICS[name].compute([texts[row] for row in rows], [references[row] for row in rows], Rules())[name]

    assert values(answers, truths)[0] == pytest.approx(pseudo_values(score, 30), abs=1e-9)


@pytest.mark.parametrize("metric", ["mean", "macro-F1"])
@pytest.mark.parametrize("effect", ["none", "small", "large"])
@pytest.mark.parametrize("n", [3, 10])
def test_intervals_cover(metric: str, effect: str, n: int) -> None:
    """At .95; of 400 intervals 368 lie three standard deviations below."""
    held, _ = simulation.coverage(metric, effect, n, 100, simulation.true_value(metric, effect, 400), 400)
    assert held >= 0.90


def test_the_page_of_the_docs_has_the_simulated_figures() -> None:
    with (Path(simulation.RESULTS) / "coverage.csv").open() as file:
        lines = list(csv.DictReader(file))
    text = (Path(__file__).parents[1] / "docs" / "statistics.md").read_text()
    for metric in simulation.METRICS:
        for effect in simulation.EFFECTS:
            cells = {
                (int(line["draws"]), float(line["covered"]))
                for line in lines
                if (line["metric"], line["draw_effect"]) == (metric, effect)
            }
            shown = [min(covered for draws, covered in cells if draws == n) for n in simulation.DRAWS]
            assert f"| {metric} | {effect} | " + " | ".join(f"{each:.3f}" for each in shown) + " |" in text


class TestRowScores:
    def answered(self, answers: list[str], references: list[str], **scores: list[float]) -> Answered:
        rows = range(len(answers))
        return Answered(
            tuple(map(str, rows)),
            tuple(answers),
            tuple((each,) for each in references),
            tuple({name: of_metric[row] for name, of_metric in scores.items()} for row in rows),
        )

    def test_scores_of_rows_that_average_to_the_number_are_taken(self) -> None:
        found = row_scores(self.answered(["a", "b"], ["a", "a"], exact_match=[1, 0]), "exact_match", Rules(), 0.5)
        assert found is not None
        assert found.tolist() == [1, 0]

    def test_a_corpus_metric_has_pseudo_values(self) -> None:
        answers, references = ["1", "2", "4"], ["1", "2", "3"]
        recorded = METRICS["pearson"].compute(answers, [(each,) for each in references], Rules())["pearson"]
        found = row_scores(self.answered(answers, references), "pearson", Rules(), recorded)
        pairs = [
            np.corrcoef([float(answers[i]) for i in kept], [float(references[i]) for i in kept])[0, 1]
            for kept in ([1, 2], [0, 2], [0, 1])
        ]
        assert found == pytest.approx([3 * recorded - 2 * each for each in pairs])

    def test_predictions_that_do_not_give_the_number_again_have_none(self) -> None:
        assert row_scores(self.answered(["1", "2"], ["1", "2"]), "pearson", Rules(), 0.3) is None
        assert row_scores(self.answered(["a"], ["a"], exact_match=[1]), "before", Rules(), 0.3) is None


def test_a_report_counts_test_rows_where_every_run_has_the_same(tmp_path: Path) -> None:
    for seed, scores in enumerate(MATRIX):
        write_run(tmp_path / str(seed), {"a": float(scores.mean())}, seed=seed)
        lines = [
            {"row_id": str(row), "prediction": "x", "references": ["x"], "input": "", "scores": {"exact_match": score}}
            for row, score in enumerate(scores)
        ]
        write_lines(tmp_path / str(seed) / "predictions" / "a.jsonl", lines)
    (found,) = summarize(gather([tmp_path])[0], ["task"], "exact_match").values()
    assert found.has_rows
    assert found.interval == pytest.approx(cross(MATRIX).interval((0, 1)))
    write_lines(tmp_path / "2" / "predictions" / "a.jsonl", [*lines[:3], {**lines[3], "row_id": "another"}])
    (found,) = summarize(gather([tmp_path])[0], ["task"], "exact_match").values()
    assert not found.has_rows
    assert found.interval == pytest.approx(of_draws(MATRIX.mean(1)).interval((0, 1)))
