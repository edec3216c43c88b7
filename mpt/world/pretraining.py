"""The stream of examples that the tiny T5 is pretrained on: corrupted spans, and taught instructions."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random

from mpt.world.instructions import answer
from mpt.world.lexicon import (
    BAD_FEELINGS,
    COLORS,
    GOOD_FEELINGS,
    HELD_OUT_LABEL_WORDS,
    HELD_OUT_SEPARATOR,
    JOBS,
    LABEL_WORDS,
    LANGUAGES,
    NAMES,
    OBJECTS,
    PLACES,
    PRICES,
    SEPARATORS,
    TIMES,
    TOPICS,
    VERBS,
)
from mpt.world.scenes import Clause
from mpt.world.tasks import TARGET_TASKS, draw_scene, tell

SPAN_CORRUPTION_SHARE = 0.2
"""Share of the stream that is span corruption; the rest are taught instructions."""
NUM_SENTINELS = 20
_LIST_FIELDS = ("who", "what", "where", "when", "color")


@dataclass(frozen=True)
class Example:
    """One example of the stream; ``instruction`` is empty for span corruption."""

    input: str
    target: str
    instruction: str
    text: str
    """The input without its prefix."""


@dataclass(frozen=True)
class Taught:
    """A family of instructions that the backbone is taught, and how often."""

    instruction: Callable[[Random], str]
    kind: str
    weight: float
    language: str = "english"


def is_held_out(instruction: str, kind: str, language: str) -> bool:
    """Tell whether an instruction is one of the few-shot targets, or shares with one what makes it new."""
    words = instruction.split()
    exact = any(instruction == target.instruction and language == target.language for target in TARGET_TASKS.values())
    return (
        exact
        or "velo" in words
        or language == "velo"
        or HELD_OUT_SEPARATOR in words
        or any(word in HELD_OUT_LABEL_WORDS for word in words)
    )


def _one_of(*instructions: str) -> Callable[[Random], str]:
    return lambda random: random.choice(instructions)


def _labels(number: int) -> Callable[[Random], str]:
    return lambda random: " or ".join(random.sample(LABEL_WORDS, number))


def _list(random: Random) -> str:
    fields = random.sample(_LIST_FIELDS, random.choice((2, 2, 3)))
    return f"list {' '.join(fields)} with {random.choice(SEPARATORS)}"


def _conjugate(random: Random) -> str:
    form, mood = random.choice(("past", "present", "future")), random.choice(("plain", "negate", "question"))
    # The past and the plain mood go without saying.
    words = [form if form != "past" else "", mood if mood != "plain" else ""]
    return " ".join(word for word in words if word) or "repeat"


TAUGHT = [
    Taught(_one_of("translate to lumi", "translate to taro", "translate to kesh"), "sentence", 4.5),
    Taught(_one_of("translate to english"), "sentence", 1, "lumi"),
    Taught(_one_of("translate to english"), "sentence", 1, "taro"),
    Taught(_one_of("translate to english"), "sentence", 1, "kesh"),
    Taught(_one_of("translate to taro", "translate to kesh"), "sentence", 1, "lumi"),
    Taught(_one_of("translate to lumi", "translate to kesh"), "sentence", 1, "taro"),
    Taught(_one_of("translate to taro"), "sentence", 0.5, "kesh"),
    Taught(_one_of("summarize"), "story", 2.5),
    Taught(_one_of("summarize in lumi", "summarize in kesh"), "story", 1.5),
    Taught(_one_of("summarize present", "summarize future", "summarize question"), "story", 1.5),
    Taught(_one_of("summarize politely"), "story", 0.5),
    Taught(_one_of("keywords", "keywords in lumi", "keywords in taro"), "story", 1.5),
    Taught(_one_of("title"), "story", 1),
    Taught(_one_of("who", "what", "where", "when", "color"), "sentence", 0.8),
    Taught(_one_of("job"), "sentence", 0.2),
    Taught(_one_of("who", "what", "where", "when", "color", "job"), "story", 1.2),
    Taught(_one_of("who else", "what else", "where else"), "story", 1.2),
    Taught(_one_of("what in taro", "what in kesh"), "sentence", 0.6),
    Taught(_one_of("where in lumi", "where in taro", "where in kesh"), "sentence", 0.6),
    Taught(_one_of("color in lumi", "color in taro", "color in kesh"), "sentence", 0.5),
    Taught(_list, "sentence", 1.5),
    Taught(_one_of("good or bad"), "story", 0.6),
    Taught(_labels(2), "story", 1.2),
    Taught(_one_of("topic"), "sentence", 0.3),
    Taught(_one_of("topic"), "story", 0.5),
    Taught(_conjugate, "sentence", 1.5),
    Taught(_one_of("politely", "present politely", "future politely", "negate politely"), "sentence", 0.5),
    Taught(_one_of("reply"), "dialogue", 2.5),
    Taught(_one_of("summarize"), "dialogue", 1.2),
    Taught(_one_of("summarize politely"), "dialogue", 0.6),
    Taught(_one_of("intent"), "dialogue", 0.3),
    Taught(_labels(2), "dialogue", 0.7),
    Taught(_labels(3), "dialogue", 0.7),
    Taught(_one_of("who", "who else", "what", "where", "when", "color", "price"), "dialogue", 1.2),
]
_WORDS = [
    *NAMES, *JOBS, *VERBS, *(word for forms in VERBS.values() for word in forms), *TOPICS, *OBJECTS, *COLORS, *PLACES,
    *TIMES, *GOOD_FEELINGS, *BAD_FEELINGS, *PRICES, *LABEL_WORDS, *HELD_OUT_LABEL_WORDS, *SEPARATORS,
    HELD_OUT_SEPARATOR,
    *(word for language in LANGUAGES.values() for word in language.words.values()),
]  # fmt: skip


def vocabulary() -> list[str]:
    """Every word that the world can say, in a fixed order, without the special tokens."""
    grammar = (
        "a am and another at bad buy buys can color come costs did do does else english excuse find finds for free "
        "from future go good have hello here i in intent is it job keep keywords like list look me meet meets money "
        "negate no not on one or politely present price question reply repeat search see shall stay summarize take "
        "the then there time title to topic translate want was we what when where who will with you . , : ? ="
    ).split()
    return list(dict.fromkeys([*grammar, *_WORDS, *LANGUAGES, *(language.particle for language in LANGUAGES.values())]))


def _document(random: Random) -> str:
    """A plain text for span corruption; the only place where velo and the held-out words occur."""
    kind = random.random()
    if kind < 0.25:
        return draw_scene(random.choice(("story", "dialogue")), "pretraining", random).english()
    if kind < 0.35:  # a word list: every word is somewhere something to write
        return " ".join(random.choice(_WORDS) for _ in range(12))
    scene = draw_scene("sentence", "pretraining", random)
    assert isinstance(scene, Clause)
    language = random.choice((*LANGUAGES, "velo"))
    if kind < 0.5:
        return scene.translate(language)
    sides = [scene.english(), scene.translate(language)]
    random.shuffle(sides)
    return " = ".join(sides)


def corrupt(words: list[str], random: Random, density: float = 0.25, mean_length: float = 2.0) -> tuple[str, str]:
    """Replace random spans by sentinels, as T5 does (Raffel et al., 2020, section 3.1.4).

    Args:
        words: The text; at least two words.
        random: Source of the spans.
        density: Share of the words that is corrupted.
        mean_length: Mean length of a span.

    Returns:
        The text with ``<extra_id_0>``, ``<extra_id_1>``, ... in place of its spans, and the spans, each behind
        its sentinel.
    """
    number = max(1, round(len(words) * density / mean_length))
    starts = sorted(random.sample(range(len(words)), min(number, NUM_SENTINELS)))
    kept: list[str] = []
    spans: list[str] = []
    position = 0
    for index, start in enumerate(starts):
        if start < position:
            start = position
        limit = starts[index + 1] if index + 1 < len(starts) else len(words)
        end = min(start + random.choice((1, 2, 3)), max(limit, start + 1), len(words))
        if start >= len(words):
            break
        kept += [*words[position:start], f"<extra_id_{index}>"]
        spans += [f"<extra_id_{index}>", *words[start:end]]
        position = end
    return " ".join([*kept, *words[position:]]), " ".join(spans)


def stream(seed: int) -> Iterator[Example]:
    """The endless pretraining stream of a seed."""
    random = Random(f"pretraining/{seed}")
    weights = [taught.weight for taught in TAUGHT]
    while True:
        if random.random() < SPAN_CORRUPTION_SHARE:
            text = _document(random)
            corrupted, spans = corrupt(text.split(), random)
            yield Example(corrupted, spans, "", text)
            continue
        taught = random.choices(TAUGHT, weights)[0]
        instruction = taught.instruction(random)
        scene = draw_scene(taught.kind, "pretraining", random)
        target = answer(instruction, scene)
        if target is None or is_held_out(instruction, taught.kind, taught.language):
            continue
        text = tell(scene, taught.language)
        yield Example(f"{instruction} : {text}", target, instruction, text)
