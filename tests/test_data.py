"""Batches: every row where it belongs, cut texts counted, steps split over processes and micro-batches."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

from mpt.backbone import Tokenization
from mpt.config import MixtureConfig, TaskConfig
from mpt.data.batches import EvalLoader, TrainLoader
from mpt.data.data_module import MixtureDataModule
from mpt.data.mixture import Mixture
from mpt.data.token_rows import TokenizedExamples, TokenRows
from mpt.data.tokenize import check_labels, tokenize
from mpt.tasks import SPLITS, Example


def token_rows(sizes: list[int]) -> list[TokenizedExamples]:
    """Row r of task t is the input [100 t + r] * (1 + r % 3) and a target of 1 + t tokens."""
    return [
        TokenizedExamples(
            TokenRows([100 * t + r] * (1 + r % 3) for r in range(size)),
            TokenRows([7] * (1 + t) for _ in range(size)),
            0,
            0,
        )
        for t, size in enumerate(sizes)
    ]


def loader(accumulate: int = 1, rank: int = 0, world_size: int = 1, batch_size: int = 12) -> TrainLoader:
    mixture = Mixture([9, 30], batch_size, MixtureConfig(), seed=4)
    return TrainLoader(
        token_rows([9, 30]),
        mixture,
        max_steps=5,
        accumulate=accumulate,
        pad_token_id=0,
        rank=rank,
        world_size=world_size,
    )


def pairs(batch: dict[str, Any]) -> list[tuple[int, int]]:
    return list(zip(batch["task_ids"].tolist(), batch["example_indices"].tolist(), strict=True))


def test_batch_holds_the_rows_that_it_names() -> None:
    for batch in loader():
        for index, (task, row) in enumerate(pairs(batch)):
            length = 1 + row % 3
            assert batch["input_ids"][index, :length].tolist() == [100 * task + row] * length
            assert batch["attention_mask"][index].sum() == length
            assert (batch["labels"][index] != -100).sum() == 1 + task
        tokens = [sum(1 + t for t, _ in pairs(batch) if t == task) for task in (0, 1)]
        assert batch["target_tokens"].tolist() == tokens


@pytest.mark.parametrize(("accumulate", "world_size"), [(1, 1), (2, 1), (1, 2), (3, 2), (2, 4)])
def test_processes_and_micro_batches_share_out_each_step(accumulate: int, world_size: int) -> None:
    whole = list(loader())
    parts = [list(loader(accumulate, rank, world_size)) for rank in range(world_size)]
    assert all(len(part) == len(loader(accumulate)) == 5 * accumulate for part in parts)
    for step, batch in enumerate(whole):
        micro = [part[step * accumulate + i] for part in parts for i in range(accumulate)]
        assert sorted(pair for one in micro for pair in pairs(one)) == sorted(pairs(batch))
        assert all(torch.equal(one["target_tokens"], batch["target_tokens"]) for one in micro)


def test_more_parts_than_rows_are_refused() -> None:
    with pytest.raises(ValueError, match=r"trainer\.batch_size: is 3, for 2 processes with 2 micro-batches"):
        loader(accumulate=2, world_size=2, batch_size=3)


@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize("taken", [0, 1, 2, 4, 5])
def test_loader_goes_on_after_the_last_batch(accumulate: int, taken: int) -> None:
    every = [pairs(batch) for batch in loader(accumulate)]
    first = loader(accumulate)
    stream = iter(first)
    for _ in range(taken):
        next(stream)
    resumed = loader(accumulate)
    resumed.load_state_dict(first.state_dict())
    assert [pairs(batch) for batch in resumed] == every[taken:]


@pytest.mark.parametrize("world_size", [1, 3])
def test_evaluation_sees_each_row_once_over_all_processes(world_size: int) -> None:
    settings = [{"max_new_tokens": 5}, {"max_new_tokens": 9}, {"max_new_tokens": 5}]
    seen = []
    for rank in range(world_size):
        evaluation = EvalLoader(
            token_rows([7, 5, 4]), settings, batch_size=4, pad_token_id=0, rank=rank, world_size=world_size
        )
        batches = list(evaluation)
        assert len(batches) == len(evaluation)
        for batch in batches:
            assert {settings[task]["max_new_tokens"] for task, _ in pairs(batch)} == {
                batch["generation"]["max_new_tokens"]
            }
            seen += pairs(batch)
    assert sorted(seen) == [(t, r) for t, size in enumerate([7, 5, 4]) for r in range(size)]


@pytest.mark.parametrize("world_size", [1, 2, 5, 20])
def test_no_process_is_without_a_batch(world_size: int) -> None:
    settings = [{"max_new_tokens": 5}, {"max_new_tokens": 9}]
    seen: dict[tuple[int, int], int] = {}
    for rank in range(world_size):
        evaluation = EvalLoader(
            token_rows([4, 3]), settings, batch_size=4, pad_token_id=0, rank=rank, world_size=world_size
        )
        assert len(evaluation) >= 1
        for batch in evaluation:
            for pair in pairs(batch):
                seen[pair] = seen.get(pair, 0) + 1
    assert sorted(seen) == [(t, r) for t, size in enumerate([4, 3]) for r in range(size)]
    assert sum(seen.values()) == sum(max(size, world_size) for size in (4, 3))


def example(text: str, target: str) -> Example:
    return Example("train:0", text, target, (target,))


def test_long_texts_lose_their_end_but_not_its_mark_and_are_counted(tiny_t5_folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_t5_folder)
    config = TaskConfig(max_source_tokens=6, max_target_tokens=4)
    long, short = "anna found the red hat in the mill", "a"
    rows = tokenize([example(long, short), example(short, long)], Tokenization(tokenizer), config)
    whole = tokenizer(long)["input_ids"]
    assert rows.inputs[0] == [*whole[:5], tokenizer.eos_token_id]
    assert rows.targets[1] == [*whole[:3], tokenizer.eos_token_id]
    assert rows.shares == {"input": 0.5, "target": 0.5}


def data_module(folder: Path, **changes: Any) -> MixtureDataModule:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    rows = [[example("anna found a hat", "hat"), example("ben", "b")], [example("the mill is red", "red")]]
    configs = [TaskConfig(prefix="what : "), TaskConfig()]
    settings: dict[str, Any] = {
        "batch_size": 4, "accumulate": 1, "eval_batch_size": 2, "max_steps": 3, "mixture": MixtureConfig(), "seed": 0,
    }  # fmt: skip
    return MixtureDataModule(
        ["a", "b"], dict.fromkeys(SPLITS, rows), Tokenization(tokenizer), configs, **(settings | changes)
    )


def test_prefixed_rows_are_those_of_tasks_with_a_prefix(tiny_t5_folder: Path) -> None:
    data = data_module(tiny_t5_folder)
    texts = [
        data.tokenization.tokenizer.decode(ids, skip_special_tokens=True)
        for batch in data.eval_loader("test", prefixed=True)
        for ids in batch["input_ids"]
    ]
    assert sorted(texts) == ["what  anna found a hat", "what  ben"]  # the tokenizer knows no colon
    assert sum(len(batch["example_indices"]) for batch in data.eval_loader("test", tasks=["b"])) == 1


def test_truncation_is_reported_by_split_and_task(tiny_t5_folder: Path) -> None:
    data = data_module(tiny_t5_folder)
    assert data.truncation["train"] == {"a": {"input": 0.0, "target": 0.0}, "b": {"input": 0.0, "target": 0.0}}
    assert set(data.truncation) == {"train", "validation", "test"}


def test_unknown_tokens_are_counted(tiny_t5_folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_t5_folder)
    rows = tokenize([example("anna", "hat"), example("qqq ☃", "☃")], Tokenization(tokenizer), TaskConfig())
    of_snowman = tokenizer("☃")["input_ids"]
    assert of_snowman.count(tokenizer.unk_token_id) == 1
    assert rows.unknown_targets == 1 / (len(tokenizer("hat")["input_ids"]) + len(of_snowman))
    assert rows.unknown_inputs > 0
    assert tokenize([example("anna", "hat")], Tokenization(tokenizer), TaskConfig()).unknown_inputs == 0


def test_labels_that_are_the_same_tokens_are_refused(tiny_t5_folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_t5_folder)
    rows = [Example(f"train:{i}", "a", label, (label,), label) for i, label in enumerate(("☃", "☂", "hat"))]
    with pytest.raises(ValueError, match=r"tasks\.weather\.labels: the tokenizer gives '☂' back as ''"):
        check_labels("weather", rows, Tokenization(tokenizer), TaskConfig())
    with pytest.raises(ValueError, match=r"the tokenizer gives '☂' back as ''"):
        check_labels("weather", rows[1:], Tokenization(tokenizer), TaskConfig())
    check_labels("weather", rows[2:], Tokenization(tokenizer), TaskConfig())


def test_texts_are_tokenized_piece_by_piece(tiny_t5_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenization = Tokenization(AutoTokenizer.from_pretrained(tiny_t5_folder))
    examples = [Example(f"train:{n}", "a " * (n + 1), "b " * (1 + n % 4), ("b",)) for n in range(11)]
    config = TaskConfig(max_source_tokens=6, max_target_tokens=3)
    whole = tokenize(examples, tokenization, config)
    monkeypatch.setattr("mpt.data.tokenize.PIECE", 3)
    pieces = tokenize(examples, tokenization, config)
    assert list(pieces.inputs) == list(whole.inputs)
    assert list(pieces.targets) == list(whole.targets)
    assert (pieces.cut_inputs, pieces.cut_targets) == (whole.cut_inputs, whole.cut_targets)
    assert whole.cut_inputs
    assert whole.cut_targets
