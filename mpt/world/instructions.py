"""Answer an instruction such as ``summarize in taro`` on a scene."""

from dataclasses import replace

from mpt.world.lexicon import HELD_OUT_SEPARATOR, LANGUAGES, SEPARATORS
from mpt.world.scenes import Clause, Dialogue, Story

Scene = Clause | Story | Dialogue
FIELDS = ("who", "what", "where", "when", "color", "job", "price")
TENSES = ("past", "present", "future")
MOODS = ("plain", "negate", "question")
INTENTS = ("buy", "search", "meet")


def answer(instruction: str, scene: Scene) -> str | None:
    """Carry out an instruction.

    Args:
        instruction: Words without the closing colon: ``summarize``, ``where in lumi``, ``good or bad``.
        scene: What the input tells; an instruction means the same for an input in any language.

    Returns:
        The answer, or None where the instruction does not apply to this scene.

    Raises:
        ValueError: No such instruction.
    """
    words = instruction.split()
    if words[-1] == "politely":
        rest = " ".join(words[:-1]) or "repeat"
        plain = answer(rest, scene)
        return None if plain is None else f"excuse me , {plain}"
    if words[0] in FIELDS:
        return _extract(words, scene)
    match words:
        case ["summarize", *how]:
            return _summarize(how, scene)
        case ["translate", "to", "english"]:
            return scene.english() if isinstance(scene, Clause) else None
        case ["translate", "to", language] if language in LANGUAGES:
            return scene.translate(language) if isinstance(scene, Clause) else None
        case ["keywords", *how]:
            return _keywords(how, scene)
        case ["title"]:
            return f"the {scene.job} and {scene.hero.thing()}" if isinstance(scene, Story) else None
        case ["list", *fields, "with", separator] if separator in [*SEPARATORS, HELD_OUT_SEPARATOR]:
            values = [_field(field, scene) for field in fields]
            return f" {separator} ".join(value for value in values if value) if all(values) else None
        case [one, "or", two]:
            if isinstance(scene, Clause):
                return None
            return one if (scene.good if isinstance(scene, Story) else scene.agreed) else two
        case [one, "or", two, "or", three]:
            labels = dict(zip(INTENTS, (one, two, three), strict=True))
            return labels[scene.intent] if isinstance(scene, Dialogue) else None
        case ["intent"]:
            return scene.intent if isinstance(scene, Dialogue) else None
        case ["topic"]:
            clause = scene.hero if isinstance(scene, Story) else scene
            return clause.topic if isinstance(clause, Clause) else None
        case ["reply"]:
            return scene.reply() if isinstance(scene, Dialogue) else None
        case ["repeat"]:
            return scene.english() if isinstance(scene, Clause) else None
        case _:
            form_mood = _form_mood(words)
            if form_mood is None:
                raise ValueError(f"world: no instruction {instruction!r}; see mpt/world/instructions.py")
            return scene.english(*form_mood) if isinstance(scene, Clause) else None


def _form_mood(words: list[str]) -> tuple[str, str] | None:
    """``future question`` → (future, question); a part that is not named is past and plain."""
    form = next((word for word in words if word in TENSES), "past")
    mood = next((word for word in words if word in MOODS), "plain")
    named = [word for word in words if word in (*TENSES, *MOODS)]
    return (form, mood) if named == words and 0 < len(words) <= 2 else None


def _summarize(how: list[str], scene: Scene) -> str | None:
    if isinstance(scene, Dialogue):
        return scene.summary() if not how else None
    if isinstance(scene, Clause):
        return None
    match how:
        case []:
            return scene.summary().english()
        case ["in", language] if language in LANGUAGES:
            return scene.summary().translate(language)
        case _:
            form_mood = _form_mood(how)
            if form_mood is None:
                raise ValueError(f"world: no way to summarize {' '.join(how)!r}")
            return scene.summary().english(*form_mood)


def _keywords(how: list[str], scene: Scene) -> str | None:
    if not isinstance(scene, Story):
        return None
    words = [scene.hero.object, scene.hero.place or "", scene.hero.time or ""]
    if how:
        words = [LANGUAGES[how[1]].words[word] for word in words]
    return " ".join(words)


def _extract(words: list[str], scene: Scene) -> str | None:
    match words:
        case [field]:
            return _field(field, scene)
        case [field, "else"]:
            return _other_field(field, scene)
        case [field, "in", language] if language in LANGUAGES:
            value = _field(field, scene)
            return LANGUAGES[language].words.get(value) if value else None
        case _:
            raise ValueError(f"world: no instruction {' '.join(words)!r}; see mpt/world/instructions.py")


def _clause_field(field: str, clause: Clause) -> str | None:
    return {
        "who": clause.name,
        "what": clause.object,
        "where": clause.place,
        "when": clause.time,
        "color": clause.color,
        "job": clause.job,
    }.get(field)


def _field(field: str, scene: Scene) -> str | None:
    """The value that belongs to the person in the middle of the scene."""
    if isinstance(scene, Clause):
        return _clause_field(field, scene)
    if isinstance(scene, Story):
        return _clause_field(field, replace(scene.hero, job=scene.job))
    values = {
        "buy": {"what": scene.object, "color": scene.color, "price": scene.price},
        "search": {"what": scene.object, "color": scene.color, "where": scene.place},
        "meet": {"where": scene.place, "when": scene.time},
    }[scene.intent]
    return scene.guest if field == "who" else values.get(field)


def _other_field(field: str, scene: Scene) -> str | None:
    """The value that belongs to the other person."""
    if isinstance(scene, Story):
        return _clause_field(field, scene.other)
    return scene.host if isinstance(scene, Dialogue) and field == "who" else None
