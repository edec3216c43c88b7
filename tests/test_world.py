"""The micro-world: same rows for ever, no leak from pretraining, and targets that were never taught."""

from itertools import islice
from random import Random

import pytest
from omegaconf import OmegaConf

from mpt.config import TaskConfig
from mpt.world import rows
from mpt.world.instructions import answer
from mpt.world.lexicon import HELD_OUT_LABEL_WORDS, HELD_OUT_SEPARATOR, LANGUAGES, NAMES
from mpt.world.pretraining import Example, corrupt, stream, vocabulary
from mpt.world.scenes import Clause, Dialogue, Story
from mpt.world.tasks import DRAW, SIZES, SOURCE_TASKS, TARGET_TASKS, TASKS

CLAUSE = Clause("anna", "find", "hat", job="baker", color="red", place="mill", time="monday")
STORY = Story(
    hero=Clause("anna", "find", "hat", color="red", place="mill", time="dawn"),
    other=Clause("ben", "lose", "drum", color="blue", place="park"),
    job="baker",
    feeling="sad",
)
TALK = Dialogue("buy", "anna", "ben", "hat", "blue", "six", "mill", "noon", agreed=True)
NO_TALK = Dialogue("meet", "anna", "ben", "hat", "blue", "six", "mill", "noon", agreed=False)
VELO = set(LANGUAGES["velo"].words.values())


@pytest.fixture(scope="module")
def pretraining() -> list[Example]:
    return list(islice(stream(seed=0), 15_000))


@pytest.mark.parametrize(
    ("instruction", "scene", "expected"),
    [
        ("summarize", STORY, "anna found the hat in the mill ."),
        ("summarize negate", STORY, "anna did not find the hat in the mill ."),
        ("title", STORY, "the baker and the red hat"),
        ("keywords", STORY, "hat mill dawn"),
        ("color else", STORY, "blue"),
        ("gold or stone", STORY, "stone"),
        ("topic", STORY, "clothes"),
        ("future question", CLAUSE, "on monday will anna the baker find the red hat in the mill ?"),
        ("present", CLAUSE, "on monday anna the baker finds the red hat in the mill ."),
        ("politely", CLAUSE, "excuse me , on monday anna the baker found the red hat in the mill ."),
        ("list who where with /", CLAUSE, "anna / mill"),
        ("reply", TALK, "here is the blue hat for six , anna ."),
        ("reply", NO_TALK, "then i stay in the mill , anna ."),
        ("reply politely", TALK, "excuse me , here is the blue hat for six , anna ."),
        ("summarize", TALK, "anna buys the blue hat from ben ."),
        ("summarize", NO_TALK, "anna does not meet ben at noon ."),
        ("good or bad", NO_TALK, "bad"),
        ("silver or iron or copper", TALK, "silver"),
        ("when", TALK, None),
        ("reply", STORY, None),
    ],
)
def test_instruction_is_answered_as_by_hand(
    instruction: str, scene: Clause | Story | Dialogue, expected: str | None
) -> None:
    assert answer(instruction, scene) == expected


def test_translation_follows_dictionary_and_word_order() -> None:
    word = LANGUAGES["taro"].words
    assert CLAUSE.translate("taro") == " ".join(
        [word["monday"], "anna", word["baker"], word["red"], word["hat"], "ta", word["mill"], word["find"], "."]
    )


def test_unknown_instruction_task_and_split_say_so() -> None:
    with pytest.raises(ValueError, match="no instruction 'sing'"):
        answer("sing", CLAUSE)
    with pytest.raises(ValueError, match="no task 'song'; choose one of sum"):
        rows("song", "test")
    with pytest.raises(ValueError, match="no split 'dev'; choose one of train"):
        rows("sum", "dev")


@pytest.mark.parametrize("task", ["sum", "mt", "dlg", "mt_velo_en", "intent_metals"])
def test_rows_are_the_same_for_ever_and_never_shared_between_splits(task: str) -> None:
    splits = {split: rows(task, split) for split in SIZES}
    assert splits["test"] == rows(task, "test")
    assert {split: len(found) for split, found in splits.items()} == SIZES
    texts = [row["text"] for found in splits.values() for row in found]
    assert len(set(texts)) == len(texts)


@pytest.mark.slow
def test_no_evaluation_input_occurs_in_the_pretraining_stream(pretraining: list[Example]) -> None:
    seen = {example.text for example in pretraining}
    for task in TASKS:
        for split in SIZES:
            assert seen.isdisjoint(row["text"] for row in rows(task, split)), (task, split)


def test_no_target_task_was_taught(pretraining: list[Example]) -> None:
    taught = {(example.instruction, len(example.text.split()) > 16) for example in pretraining}
    for name, task in TARGET_TASKS.items():
        if task.language == "english":
            assert all(task.instruction != instruction for instruction, _ in taught), name
    supervised = [example for example in pretraining if example.instruction]
    for example in supervised:
        words = set(f"{example.input} {example.target}".split())
        assert words.isdisjoint({*HELD_OUT_LABEL_WORDS, HELD_OUT_SEPARATOR, "velo"}), example
        assert words.isdisjoint(VELO), example


def test_kesh_is_never_translated_to_lumi(pretraining: list[Example]) -> None:
    kesh, lumi = (set(LANGUAGES[name].words.values()) for name in ("kesh", "lumi"))
    for example in pretraining:
        if example.instruction and kesh & set(example.text.split()):
            assert lumi.isdisjoint(example.target.split()), example


def test_what_a_target_composes_was_taught(pretraining: list[Example]) -> None:
    taught = {example.instruction for example in pretraining}
    assert {
        "summarize in lumi", "translate to taro", "keywords in taro", "who else", "what in kesh", "where in lumi",
        "present question", "future negate", "summarize politely", "reply", "summarize future", "negate",
    } <= taught  # fmt: skip


def test_velo_and_held_out_words_occur_under_span_corruption(pretraining: list[Example]) -> None:
    corrupted = {word for example in pretraining if not example.instruction for word in example.text.split()}
    assert corrupted >= VELO
    assert {*HELD_OUT_LABEL_WORDS, HELD_OUT_SEPARATOR} <= corrupted


def test_one_kind_of_input_serves_many_tasks() -> None:
    for kind in DRAW:
        assert sum(task.kind == kind and task.language == "english" for task in SOURCE_TASKS.values()) >= 4


def test_vocabulary_has_every_word_of_the_world(pretraining: list[Example]) -> None:
    words = vocabulary()
    assert len(set(words)) == len(words) <= 1500
    seen = {word for example in pretraining for word in f"{example.input} {example.target}".split()}
    for task in TASKS:
        seen |= {word for row in rows(task, "test") for word in f"{row['text']} {row['target']}".split()}
    assert {word for word in seen if not word.startswith("<extra_id_")} <= set(words)


def test_corrupted_spans_restore_the_text() -> None:
    random = Random(0)
    for _ in range(200):
        words = [random.choice(NAMES) for _ in range(random.randint(2, 40))]
        text, spans = corrupt(words, random)
        hidden: dict[str, list[str]] = {}
        for word in spans.split():
            if word.startswith("<extra_id_"):
                current = hidden.setdefault(word, [])
            else:
                current.append(word)
        restored = [piece for word in text.split() for piece in hidden.get(word, [word])]
        assert restored == words


def test_every_world_task_has_a_configuration() -> None:
    for name, task in TASKS.items():
        config = OmegaConf.merge(OmegaConf.structured(TaskConfig), OmegaConf.load(f"conf/tasks/{name}.yaml"))
        assert config.rows.world == name
        assert config.prefix == f"{task.instruction} : "
        assert (config.held_out is not None) == (name in TARGET_TASKS), name
