"""Every task of the hub that the paper uses, on a small made-up data set with the hub's columns and splits."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import datasets
import pytest
from omegaconf import OmegaConf

from mpt.config import TaskConfig
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
    "qnli": (
        {"question": "Who?", "sentence": "Ann.", "label": 0},
        "question: Who? sentence: Ann.",
        "entailment",
    ),
    "qqp": (
        {"question1": "Who?", "question2": "Which?", "label": 1},
        "question1: Who? question2: Which?",
        "duplicate",
    ),
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
    "ag_news": (
        {"title": "Snow", "description": "It fell.", "label": 1},
        "title: Snow description: It fell.",
        "world",
    ),
    "cola": ({"sentence": "He go.", "label": 0}, "sentence: He go.", "unacceptable"),
    "mrpc": (PAIR | {"label": 1}, "sentence1: A. sentence2: B.", "equivalent"),
    "rte": (PAIR | {"label": 0}, "premise: A. hypothesis: B.", "entailment"),
    "stsb": (PAIR | {"label": 3.75}, "sentence1: A. sentence2: B.", "3.8"),
    "boolq": (
        {"question": "is it", "passage": "It is.", "answer": True},
        "question: is it passage: It is.",
        "yes",
    ),
    "cb": ({"premise": "A.", "hypothesis": "B.", "label": 1}, "premise: A. hypothesis: B.", "contradiction"),
    "multirc": (
        {"paragraph": "<b>Ann</b>.", "question": "Who?", "answer": "Ben", "label": 0},
        "question: Who? answer: Ben paragraph: Ann.",
        "false",
    ),
    "wic": (
        PAIR | {"word": "bank", "label": 1},
        "word: bank sentence1: A. sentence2: B.",
        "same",
    ),
    "wsc": (
        {
            "text": "He saw Al.",
            "span1_text": "Al",
            "span1_index": 2,
            "span2_text": "He",
            "span2_index": 0,
            "label": 0,
        },
        "text: # He # saw * Al *.",
        "no",
    ),
    **dict.fromkeys(
        ("nq", "hotpotqa", "searchqa", "newsqa"),
        (ANSWERED, "question: Where? context: Ann is in Bern.", "Bern"),
    ),
    "winogrande": (
        {"sentence": "_ ran.", "option1": "Ann", "option2": "Ben", "answer": "2"},
        "sentence: _ ran. option1: Ann option2: Ben",
        "option2",
    ),
    "yelp": ({"text": "Good food.", "label": 1}, "sentence: Good food.", "positive"),
    "scitail": (
        {"premise": "A.", "hypothesis": "B.", "label": "entails"},
        "premise: A. hypothesis: B.",
        "entailment",
    ),
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
