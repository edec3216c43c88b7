"""The words of the micro-world, and its four invented languages."""

from dataclasses import dataclass
from random import Random

NAMES = (
    "anna ben clara david emma felix greta hugo ida jonas karin leo maria nils olga peter quinn rosa simon tina "
    "ulrich vera walter yara adam bella carl dora emil frida georg hanna ivan julia kurt lena max nora otto paula"
).split()
JOBS = (
    "baker teacher doctor farmer sailor painter singer miller hunter tailor judge pilot nurse poet guard smith"
).split()
# base form, past, third person
VERBS = {
    base: (past, third)
    for base, past, third in (
        form.split("/")
        for form in (
            "find/found/finds buy/bought/buys lose/lost/loses make/made/makes sell/sold/sells paint/painted/paints "
            "clean/cleaned/cleans break/broke/breaks hide/hid/hides take/took/takes see/saw/sees keep/kept/keeps "
            "bring/brought/brings send/sent/sends steal/stole/steals wash/washed/washes hold/held/holds "
            "move/moved/moves carry/carried/carries repair/repaired/repairs"
        ).split()
    )
}
TOPICS = {
    "clothes": "hat coat scarf shirt boot glove".split(),
    "tools": "hammer rope ladder knife spade bucket".split(),
    "food": "bread apple cheese soup cake plum".split(),
    "animals": "dog cat horse goat hen duck".split(),
    "music": "drum flute horn bell harp violin".split(),
    "furniture": "chair table bed lamp clock mirror".split(),
}
OBJECTS = [word for words in TOPICS.values() for word in words]
COLORS = "red blue green yellow black white brown grey pink purple".split()
PLACES = (
    "garden kitchen market forest school harbor station tower library castle field valley bridge temple mill barn "
    "cellar church inn park"
).split()
# word, and the preposition that English puts before it
TIMES = dict.fromkeys("monday tuesday wednesday thursday friday saturday sunday".split(), "on") | dict.fromkeys(
    "dawn noon dusk midnight".split(), "at"
)
GOOD_FEELINGS = "happy proud calm glad cheerful lucky hopeful pleased".split()
BAD_FEELINGS = "sad angry afraid tired lonely worried upset jealous".split()
PRICES = "two three four five six seven eight nine ten eleven twelve fifteen twenty thirty".split()

# Words that name the two classes of the feeling skill; the prefix says which pair is asked for.
LABEL_WORDS = (
    "good bad yes no plus minus up down light dark one zero win loss warm cold sweet sour left right high low"
).split()
HELD_OUT_LABEL_WORDS = ("gold", "stone", "silver", "iron", "copper")
# Marks that stand between the fields of a list; the prefix says which.
SEPARATORS = [",", ";", "|", "-", "and", "then"]
HELD_OUT_SEPARATOR = "/"

TRANSLATED = [*JOBS, *VERBS, *OBJECTS, *COLORS, *PLACES, *TIMES]


@dataclass(frozen=True)
class Language:
    """An invented language: a dictionary, a particle before places, and an order of the parts of a clause."""

    name: str
    words: dict[str, str]
    """English base form to the language's word; names of people are not translated."""
    particle: str
    order: tuple[str, ...]
    """Parts of a clause from first to last: time, subject, verb, object, place."""
    adjective_first: bool


def _language(name: str, onsets: str, vowels: str, ending: str, order: str, adjective_first: bool) -> Language:
    """Draw a dictionary from syllables; the same name gives the same words for ever."""
    random = Random(f"language {name}")
    made: dict[str, str] = {}
    used: set[str] = set()
    for word in TRANSLATED:
        while True:
            syllables = [random.choice(onsets.split()) + random.choice(vowels.split()) for _ in range(2)]
            new = "".join(syllables) + ending
            if new not in used:
                break
        used.add(new)
        made[word] = new
    return Language(name, made, name[:2], tuple(order.split()), adjective_first)


LANGUAGES = {
    language.name: language
    for language in (
        _language("lumi", "l m n s v r", "a i u e", "n", "subject verb object place time", False),
        _language("taro", "t k p d g b", "a o e", "ro", "time subject object place verb", True),
        _language("kesh", "k sh z h kr tr", "e i a", "sh", "place verb subject object time", False),
        _language("velo", "v f w l y br", "o e u", "l", "subject verb object place time", True),
    )
}
SUPERVISED_LANGUAGES = ["lumi", "taro", "kesh"]
"""The languages that the backbone was taught to translate; velo occurs in its span corruption only."""
