"""The k-shot draw: balanced, disjoint, nested, replayed, and refused where it cannot be."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from mpt.config import FewShotConfig
from mpt.data.few_shot import draw_examples, replay, row_ids
from mpt.tasks import Example

LABELS = st.lists(st.sampled_from("abc"), min_size=8, max_size=60)


def examples(labels: list[str]) -> list[Example]:
    return [Example(f"train:{i}", f"text {i}", label, (label,), label) for i, label in enumerate(labels)]


@given(LABELS, st.integers(0, 3), st.integers(1, 6))
def test_draws_are_balanced_disjoint_and_repeatable(labels: list[str], seed: int, k: int) -> None:
    # Over both draws, which go round the classes one after the other, a class gives this much at most.
    assume(min(Counter(labels).values()) >= 2 * -(-k // len(set(labels))))
    rows = examples(labels)
    drawn = draw_examples("t", rows, FewShotConfig(k, seed))
    assert drawn == draw_examples("t", rows, FewShotConfig(k, seed))
    ids = [example.row_id for split in drawn.values() for example in split]
    assert len(set(ids)) == len(ids) == 2 * k
    for split in drawn.values():
        counts = Counter(example.label for example in split)
        assert len(split) == k
        assert all(abs(counts[one] - k / len(set(labels))) < 1 for one in set(labels))


@given(LABELS, st.integers(0, 3))
def test_a_smaller_draw_is_a_part_of_a_larger_one(labels: list[str], seed: int) -> None:
    rows = examples(labels)
    small, large = (
        draw_examples("t", rows, FewShotConfig(k, seed, balanced=False))["train"] for k in (2, len(labels) // 2)
    )
    assert large[: len(small)] == small


def test_draws_differ_between_seeds() -> None:
    rows = examples(["a"] * 50)
    draws = {
        tuple(example.row_id for example in draw_examples("t", rows, FewShotConfig(8, seed))["train"])
        for seed in range(20)
    }
    assert len(draws) == 20


def test_every_row_is_as_likely_as_the_next() -> None:
    rows = examples(["a"] * 10)
    counts = Counter(
        example.row_id for seed in range(2000) for example in draw_examples("t", rows, FewShotConfig(2, seed))["train"]
    )
    # Binomial of 2000 draws at 1/5: mean 400, standard deviation 17.9.
    assert all(abs(counts[row.row_id] - 400) < 5 * 17.9 for row in rows)


def test_unbalanced_draws_follow_the_data() -> None:
    rows = examples(["a"] * 900 + ["b"] * 100)
    drawn = draw_examples("t", rows, FewShotConfig(200, balanced=False))["train"]
    assert 8 <= sum(example.label == "b" for example in drawn) <= 36  # 20 +- 4 standard deviations


def test_validation_on_the_split_needs_half_the_rows() -> None:
    rows = examples(["a"] * 8)
    assert draw_examples("t", rows, FewShotConfig(8, validation="split")).keys() == {"train"}
    with pytest.raises(
        ValueError, match=r"few_shot\.k: is 8, and the validation draw 8 more; .* has 8 rows, so choose at most 4"
    ):
        draw_examples("t", rows, FewShotConfig(8))


def test_too_few_rows_are_refused() -> None:
    with pytest.raises(ValueError, match=r"few_shot\.k: is 51; .*tasks\.t has 50 rows, so choose at most 50"):
        draw_examples("t", examples(["a"] * 50), FewShotConfig(51, validation="split"))
    with pytest.raises(ValueError, match=r"tasks\.t has too few rows of class 'b'.*few_shot\.balanced=false"):
        draw_examples("t", examples(["a"] * 50 + ["b"] * 3), FewShotConfig(8))
    assert len(draw_examples("t", examples(["a"] * 50 + ["b"] * 3), FewShotConfig(8, balanced=False))["train"]) == 8


class TestReplay:
    @pytest.fixture
    def run(self, tmp_path: Path) -> Path:
        drawn = draw_examples("t", examples(["a", "b"] * 20), FewShotConfig(4, 1))
        written = row_ids({split: {"t": rows} for split, rows in drawn.items()}, "draw")
        (tmp_path / "draws.json").write_text(json.dumps(written))
        return tmp_path

    def test_gives_the_same_rows_under_another_seed(self, run: Path) -> None:
        rows = examples(["a", "b"] * 20)
        for place in (run, run / "draws.json"):
            assert replay("t", rows, FewShotConfig(4, 7, draws=str(place))) == draw_examples(
                "t", rows, FewShotConfig(4, 1)
            )

    @pytest.mark.parametrize(
        ("task", "rows", "config", "message"),
        [
            ("u", 40, {}, "has no draw of the task 'u'"),
            ("t", 5, {}, "names rows that are not in the training split: train:"),
            ("t", 40, {"k": 5}, "has 4 rows, few_shot.k is 5"),
            ("t", 40, {"validation": "split"}, "was drawn with few_shot.validation=draw"),
        ],
    )
    def test_refuses_what_does_not_fit(
        self, run: Path, task: str, rows: int, config: dict[str, Any], message: str
    ) -> None:
        with pytest.raises(ValueError, match=message.replace(".", r"\.")):
            replay(task, examples(["a", "b"] * 20)[:rows], FewShotConfig(**{"k": 4, "draws": str(run)} | config))

    def test_refuses_what_is_no_draw(self, run: Path) -> None:
        for text in ("[", "[1]", '{"train": 3}', '{"train": {"t": 3}}'):
            (run / "draws.json").write_text(text)
            with pytest.raises(ValueError, match=r"draws\.json: not the draws of a run"):
                replay("t", examples(["a"] * 9), FewShotConfig(4, draws=str(run)))
        (run / "draws.json").unlink()
        with pytest.raises(FileNotFoundError, match=r"few_shot\.draws: no file .*draws\.json"):
            replay("t", examples(["a"] * 9), FewShotConfig(4, draws=str(run)))


def test_an_input_that_the_split_has_twice_is_drawn_once(tmp_path: Path) -> None:
    rows = [Example(f"train:{i}", f"text {i % 12}", "a", ("a",), "a") for i in range(48)]
    drawn = draw_examples("t", rows, FewShotConfig(6))
    assert len({example.input for split in drawn.values() for example in split}) == 12
    with pytest.raises(ValueError, match="48 rows with 12 different inputs, so choose at most 6"):
        draw_examples("t", rows, FewShotConfig(7))


def test_a_draw_of_other_data_is_not_replayed(tmp_path: Path) -> None:
    rows = examples(list("abab") * 5)
    config = FewShotConfig(4)
    drawn = {split: {"t": found} for split, found in draw_examples("t", rows, config).items()}
    (tmp_path / "draws.json").write_text(json.dumps(row_ids(drawn, "draw")))
    again = FewShotConfig(4, draws=str(tmp_path))
    assert replay("t", rows, again) == draw_examples("t", rows, config)
    changed = [Example(each.row_id, each.input + "!", each.target, each.references, each.label) for each in rows]
    with pytest.raises(ValueError, match="train of 't' was drawn from other data"):
        replay("t", changed, again)
    # Draws of before the rows were recorded.
    ids = {split: {"t": [each.row_id for each in found["t"]]} for split, found in drawn.items()}
    (tmp_path / "draws.json").write_text(json.dumps(ids))
    assert replay("t", rows, again) == draw_examples("t", rows, config)
