"""The data sets of the micro-world: which instruction, on which kind of scene, and which rows in which split."""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random

from mpt.world.instructions import Scene, answer
from mpt.world.scenes import Clause, Dialogue, Story

DRAW: dict[str, Callable[[Random], Scene]] = {"sentence": Clause.draw, "story": Story.draw, "dialogue": Dialogue.draw}
SIZES = {"train": 2000, "validation": 200, "test": 500}
# A scene belongs to one part of the world for ever, by a hash of its English text out of 16: no input of a test,
# validation or training row can come by in the pretraining stream.
PARTS = {"test": range(0, 2), "validation": range(2, 4), "train": range(4, 8), "pretraining": range(8, 16)}


@dataclass(frozen=True)
class WorldTask:
    """A data set: an instruction that is never written down, on one kind of scene, in one language."""

    instruction: str
    kind: str
    language: str = "english"


# Skills that the backbone was taught behind their instruction.
SOURCE_TASKS = {
    "sum": WorldTask("summarize", "story"),
    "sum_dialogue": WorldTask("summarize", "dialogue"),
    "sum_lumi": WorldTask("summarize in lumi", "story"),
    "keywords": WorldTask("keywords", "story"),
    "title": WorldTask("title", "story"),
    "mt": WorldTask("translate to lumi", "sentence"),
    "mt_taro": WorldTask("translate to taro", "sentence"),
    "mt_kesh": WorldTask("translate to kesh", "sentence"),
    "mt_lumi_en": WorldTask("translate to english", "sentence", "lumi"),
    "mt_lumi_taro": WorldTask("translate to taro", "sentence", "lumi"),
    "who": WorldTask("who", "sentence"),
    "who_else": WorldTask("who else", "story"),
    "where": WorldTask("where", "story"),
    "when": WorldTask("when", "sentence"),
    "color": WorldTask("color", "story"),
    "price": WorldTask("price", "dialogue"),
    "where_kesh": WorldTask("where in kesh", "sentence"),
    "list_who_what": WorldTask("list who what with ;", "sentence"),
    "feeling": WorldTask("good or bad", "story"),
    "intent": WorldTask("intent", "dialogue"),
    "topic": WorldTask("topic", "sentence"),
    "present": WorldTask("present", "sentence"),
    "negate": WorldTask("negate", "sentence"),
    "question": WorldTask("question", "sentence"),
    "polite": WorldTask("politely", "sentence"),
    "dlg": WorldTask("reply", "dialogue"),
}
# Few-shot targets: what the backbone was never taught; conf/tasks/<name>.yaml says how each is held out.
TARGET_TASKS = {
    "sum_taro": WorldTask("summarize in taro", "story"),
    "sum_negate": WorldTask("summarize negate", "story"),
    "keywords_kesh": WorldTask("keywords in kesh", "story"),
    "mt_velo": WorldTask("translate to velo", "sentence"),
    "mt_velo_en": WorldTask("translate to english", "sentence", "velo"),
    "mt_kesh_lumi": WorldTask("translate to lumi", "sentence", "kesh"),
    "color_else": WorldTask("color else", "story"),
    "what_lumi": WorldTask("what in lumi", "sentence"),
    "list_when_who": WorldTask("list when who with ;", "sentence"),
    "list_slash": WorldTask("list who where with /", "sentence"),
    "feeling_gold": WorldTask("gold or stone", "story"),
    "intent_metals": WorldTask("silver or iron or copper", "dialogue"),
    "future_question": WorldTask("future question", "sentence"),
    "reply_polite": WorldTask("reply politely", "dialogue"),
}
TASKS = SOURCE_TASKS | TARGET_TASKS


def part_of(scene: Scene) -> str:
    """Return the part of the world that a scene belongs to."""
    bucket = hashlib.sha1(scene.english().encode()).digest()[0] % 16
    return next(part for part, buckets in PARTS.items() if bucket in buckets)


def draw_scene(kind: str, part: str, random: Random) -> Scene:
    """Draw a scene of one part by rejection."""
    while True:
        scene = DRAW[kind](random)
        if part_of(scene) == part:
            return scene


def tell(scene: Scene, language: str) -> str:
    """Write the input text of a scene; only sentences exist in other languages than English."""
    if language == "english":
        return scene.english()
    if not isinstance(scene, Clause):
        raise ValueError(f"world: only a sentence can be written in {language!r}, not {type(scene).__name__}")
    return scene.translate(language)


def _stream(task: WorldTask, split: str, random: Random) -> Iterator[tuple[str, str]]:
    while True:
        scene = draw_scene(task.kind, split, random)
        target = answer(task.instruction, scene)
        if target is not None:
            yield tell(scene, task.language), target


def rows(task: str, split: str) -> list[dict[str, str]]:
    """Return the rows of a data set, always the same.

    Args:
        task: A name of :data:`TASKS`.
        split: train (2,000 rows), validation (200) or test (500).

    Returns:
        One ``{"text": ..., "target": ...}`` per row; no text occurs twice in the three splits.

    Raises:
        ValueError: Unknown task or split.
    """
    if task not in TASKS:
        raise ValueError(f"world: no task {task!r}; choose one of {', '.join(TASKS)}")
    if split not in SIZES:
        raise ValueError(f"world: no split {split!r}; choose one of {', '.join(SIZES)}")
    found: dict[str, str] = {}
    for text, target in _stream(TASKS[task], split, Random(f"{task}/{split}")):
        found.setdefault(text, target)
        if len(found) == SIZES[split]:
            break
    return [{"text": text, "target": target} for text, target in found.items()]
