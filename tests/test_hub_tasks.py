"""Every task of the hub that the paper uses, on a small made-up data set with the hub's columns and splits."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import datasets
import pytest
from omegaconf import OmegaConf

from mpt.config import RowsConfig, TaskConfig
from mpt.tasks import check_task, load_split

CONF = Path(__file__).resolve().parent.parent / "conf" / "tasks"

# A row as the hub has it, and what it becomes.
PAIR = {"sentence1": "A.", "sentence2": "B."}
ANSWERED = {"context": "Ann is in Bern.", "question": "Where?", "answers": ["Bern", "in Bern"], "key": "k"}
HUB: dict[str, tuple[dict[str, Any], str, str]] = {
    "mnli": (
        {"premise": "A.", "hypothesis": "B.", "label": 2, "idx": 0},
        "premise: A. hypothesis: B.",
        "contradiction",
    ),
    "qnli": ({"question": "Who?", "sentence": "Ann.", "label": 0}, "question: Who? sentence: Ann.", "entailment"),
    "qqp": ({"question1": "Who?", "question2": "Which?", "label": 1}, "question1: Who? question2: Which?", "duplicate"),
    "sst2": ({"sentence": "Fine.", "label": 1}, "sentence: Fine.", "positive"),
    "squad": (
        {"context": "Ann.", "question": "Who?", "answers": {"text": ["Ann", "ann"], "answer_start": [0, 0]}},
        "question: Who? context: Ann.",
        "Ann",
    ),
    "record": (
        {
            "passage": "Ann met Ben.\n@highlight\nBen ran",
            "query": "@placeholder met Ben",
            "entities": ["Ann", "Ben"],
            "answers": ["Ann"],
        },
        "query: @placeholder met Ben entities: Ann, Ben passage: Ann met Ben. Ben ran",
        "Ann",
    ),
    "ag_news": ({"title": "Snow", "description": "It fell.", "label": 1}, "title: Snow description: It fell.", "world"),
    "cola": ({"sentence": "He go.", "label": 0}, "sentence: He go.", "unacceptable"),
    "mrpc": (PAIR | {"label": 1}, "sentence1: A. sentence2: B.", "equivalent"),
    "rte": (PAIR | {"label": 0}, "premise: A. hypothesis: B.", "entailment"),
    "stsb": (PAIR | {"label": 3.75}, "sentence1: A. sentence2: B.", "3.8"),
    "boolq": ({"question": "is it", "passage": "It is.", "answer": True}, "question: is it passage: It is.", "yes"),
    "cb": ({"premise": "A.", "hypothesis": "B.", "label": 1}, "premise: A. hypothesis: B.", "contradiction"),
    "multirc": (
        {"paragraph": "<b>Ann</b>.", "question": "Who?", "answer": "Ben", "label": 0},
        "question: Who? answer: Ben paragraph: Ann.",
        "false",
    ),
    "wic": (PAIR | {"word": "bank", "label": 1}, "word: bank sentence1: A. sentence2: B.", "same"),
    "wsc": (
        {"text": "He saw Al.", "span1_text": "Al", "span1_index": 2, "span2_text": "He", "span2_index": 0, "label": 0},
        "text: # He # saw * Al *.",
        "no",
    ),
    **dict.fromkeys(
        ("nq", "hotpotqa", "searchqa", "newsqa"), (ANSWERED, "question: Where? context: Ann is in Bern.", "Bern")
    ),
    "winogrande": (
        {"sentence": "_ ran.", "option1": "Ann", "option2": "Ben", "answer": "2"},
        "sentence: _ ran. option1: Ann option2: Ben",
        "option2",
    ),
    "yelp": ({"text": "Good food.", "label": 1}, "sentence: Good food.", "positive"),
    "scitail": ({"premise": "A.", "hypothesis": "B.", "label": "entails"}, "premise: A. hypothesis: B.", "entailment"),
    "paws": (PAIR | {"label": 1}, "sentence1: A. sentence2: B.", "paraphrase"),
    "e2e": (
        {"meaning_representation": "name[X]", "target": "X is.", "references": ["X is.", "There is X."]},
        "name[X]",
        "X is.",
    ),
    "webnlg": (
        {"input": ["X | in | Y", "Y | is | Z"], "target": "X is in Y.", "references": ["X is in Y.", "Y."]},
        "X | in | Y && Y | is | Z",
        "X is in Y.",
    ),
}


def task(name: str) -> TaskConfig:
    config = OmegaConf.to_object(
        OmegaConf.merge(OmegaConf.structured(TaskConfig), OmegaConf.load(CONF / f"{name}.yaml"))
    )
    assert isinstance(config, TaskConfig)
    return config


@pytest.mark.parametrize("name", HUB)
def test_rows_of_the_hub_become_text(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    row, text, target = HUB[name]
    config = task(name)
    assert not check_task(name, config)
    # The same loading code, on a folder in place of the hub: its slices of splits, its columns.
    folder = tmp_path / f"{name}_hub"
    folder.mkdir()
    for split, count in (
        ("train", 1004),
        ("validation", 4),
        ("test", 4),
        ("validation_matched", 4),
        ("validation_mismatched", 4),
    ):
        (folder / f"{split}.jsonl").write_text((json.dumps(row) + "\n") * count)
    names = dict.fromkeys(("train", "validation", "test", "validation_matched", "validation_mismatched"))
    (folder / "README.md").write_text(
        "---\nconfigs:\n- config_name: default\n  data_files:\n"
        + "".join(f"  - split: {split}\n    path: {split}.jsonl\n" for split in names)
        + "---\n"
    )
    config.rows = dataclasses.replace(config.rows, hub=str(folder), subset=None, revision=None)
    for split in ("train", "validation", "test"):
        examples = load_split(name, config, split)[:2]
        assert (examples[0].input, examples[0].target) == (text, target)
        assert examples[0].references[0] == target
    if "answers" in row or "references" in row:
        assert len(examples[0].references) == (1 if name == "record" else 2)


def test_every_task_of_the_paper_is_there() -> None:
    assert {path.stem for path in CONF.glob("*.yaml")} >= HUB.keys()


class TestHubRows:
    @pytest.fixture
    def hub(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """A data set of 40 numbered rows, whose test labels are hidden."""
        monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
        folder = tmp_path / "hub"
        folder.mkdir()
        for split in ("train", "validation", "test"):
            rows = [{"text": f"{split} {i}", "kind": -1 if split == "test" else i % 2} for i in range(40)]
            (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return folder

    @pytest.mark.parametrize("labels", [{}, {"kind": {"0": "calm", "1": "loud"}}], ids=["no words", "words"])
    def test_hidden_test_labels_are_refused(self, hub: Path, labels: dict[str, dict[str, str]]) -> None:
        config = TaskConfig(
            rows=RowsConfig(hub=str(hub)), input="{text}", target="{kind}", labels=labels, metrics=["accuracy"]
        )
        assert load_split("t", config, "validation")
        with pytest.raises(ValueError, match=r"is -1, by which the hub hides the labels|'-1', which has no label word"):
            load_split("t", config, "test")

    def test_row_ids_are_those_of_the_data_also_in_a_slice(self, hub: Path) -> None:
        rows = RowsConfig(hub=str(hub), paper_split="small")
        config = TaskConfig(rows=rows, input="{text}", target="{kind}", metrics=["accuracy"])
        halves = {split: load_split("t", config, split) for split in ("validation", "test")}
        for split, examples in halves.items():
            assert [each.row_id for each in examples] == [f"{split}:{each.input.split()[1]}" for each in examples]
            assert sum(each.target == "1" for each in examples) == 10  # each class in its proportion
        numbers = [each.input.split()[1] for examples in halves.values() for each in examples]
        assert sorted(map(int, numbers)) == list(range(40))
        assert list(map(int, numbers)) != list(range(40))  # the halves are of shuffled rows

    def test_slices_that_share_rows_are_refused(self, hub: Path) -> None:
        rows = RowsConfig(hub=str(hub), splits={"validation": "train[:10]", "train": "train"})
        config = TaskConfig(rows=rows, input="{text}", target="{kind}", metrics=["accuracy"])
        with pytest.raises(ValueError, match=r"rows\.splits: validation \(train\[:10\]\) and train \(train\) share 10"):
            load_split("t", config, "validation")


def test_the_sets_count_as_in_the_papers_lineage() -> None:
    """Small and large as in the lists of ATTEMPT's attempt/data/tasks.py."""
    small = {"boolq", "multirc", "scitail", "cola", "rte", "cb", "copa", "wic", "wsc", "mrpc", "stsb"}
    large = {"qqp", "qnli", "record", "sst2", "squad", "yelp", "winogrande", "newsqa", "searchqa", "nq", "hotpotqa"}
    for name in small | large:
        assert task(name).rows.paper_split == ("small" if name in small else "large"), name
    assert task("mnli").rows.splits == {"validation": "validation_mismatched", "test": "validation_matched"}
