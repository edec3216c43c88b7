"""Scenes of the micro-world, drawn from a seed, and the texts that tell them."""

from dataclasses import dataclass
from random import Random

from mpt.world.lexicon import (
    BAD_FEELINGS,
    COLORS,
    GOOD_FEELINGS,
    JOBS,
    LANGUAGES,
    NAMES,
    OBJECTS,
    PLACES,
    PRICES,
    TIMES,
    TOPICS,
    VERBS,
)


@dataclass(frozen=True)
class Clause:
    """One event: who did what to which thing, where and when; None for a part that is left out."""

    name: str
    verb: str
    object: str
    job: str | None = None
    color: str | None = None
    place: str | None = None
    time: str | None = None

    @staticmethod
    def draw(random: Random) -> "Clause":
        """Draw a clause in which every part may be asked for."""
        return Clause(
            name=random.choice(NAMES),
            verb=random.choice(list(VERBS)),
            object=random.choice(OBJECTS),
            job=random.choice(JOBS) if random.random() < 0.5 else None,
            color=random.choice(COLORS),
            place=random.choice(PLACES),
            time=random.choice(list(TIMES)),
        )

    @property
    def topic(self) -> str:
        """The kind of thing that the object is."""
        return next(topic for topic, words in TOPICS.items() if self.object in words)

    def thing(self) -> str:
        """``the red hat``."""
        return f"the {self.color} {self.object}" if self.color else f"the {self.object}"

    def english(self, form: str = "past", mood: str = "plain") -> str:
        """Tell the clause.

        Args:
            form: past, present or future.
            mood: plain, negate or question.
        """
        past, third = VERBS[self.verb]
        who = f"{self.name} the {self.job}" if self.job else self.name
        helper = {"past": "did", "present": "does", "future": "will"}[form]
        plain = {"past": past, "present": third, "future": f"will {self.verb}"}[form]
        start = {
            "plain": f"{who} {plain}",
            "negate": f"{who} {helper} not {self.verb}",
            "question": f"{helper} {who} {self.verb}",
        }[mood]
        parts = [
            f"{TIMES[self.time]} {self.time}" if self.time else "",
            start,
            self.thing(),
            f"in the {self.place}" if self.place else "",
            "?" if mood == "question" else ".",
        ]
        return " ".join(part for part in parts if part)

    def translate(self, language: str) -> str:
        """Tell the clause in one of the invented languages."""
        spoken = LANGUAGES[language]
        word = spoken.words
        noun = [word[self.object]]
        if self.color:
            noun.insert(0 if spoken.adjective_first else 1, word[self.color])
        parts = {
            "time": [word[self.time]] if self.time else [],
            "subject": [self.name, word[self.job]] if self.job else [self.name],
            "verb": [word[self.verb]],
            "object": noun,
            "place": [spoken.particle, word[self.place]] if self.place else [],
        }
        return " ".join([piece for part in spoken.order for piece in parts[part]] + ["."])


@dataclass(frozen=True)
class Story:
    """A person with a job and a feeling, what happened to them, and what somebody else did meanwhile."""

    hero: Clause
    other: Clause
    job: str
    feeling: str

    @staticmethod
    def draw(random: Random) -> "Story":
        """Draw a story; the two people, things, colors and places differ."""
        name, name2 = random.sample(NAMES, 2)
        verb, verb2 = random.sample(list(VERBS), 2)
        object_, object2 = random.sample(OBJECTS, 2)
        color, color2 = random.sample(COLORS, 2)
        place, place2 = random.sample(PLACES, 2)
        return Story(
            hero=Clause(name, verb, object_, None, color, place, random.choice(list(TIMES))),
            other=Clause(name2, verb2, object2, None, color2, place2),
            job=random.choice(JOBS),
            feeling=random.choice(random.choice([GOOD_FEELINGS, BAD_FEELINGS])),
        )

    @property
    def good(self) -> bool:
        """True where the person's feeling is a good one."""
        return self.feeling in GOOD_FEELINGS

    def summary(self) -> Clause:
        """The event without color and time."""
        return Clause(self.hero.name, self.hero.verb, self.hero.object, place=self.hero.place)

    def english(self) -> str:
        """Tell the story in three sentences."""
        return " ".join(
            [f"{self.hero.name} the {self.job} was {self.feeling} .", self.hero.english(), self.other.english()]
        )


@dataclass(frozen=True)
class Dialogue:
    """A guest wants something of a host and hears an offer; the host has the last word on the guest's answer."""

    intent: str
    guest: str
    host: str
    object: str
    color: str
    price: str
    place: str
    time: str
    agreed: bool

    @staticmethod
    def draw(random: Random) -> "Dialogue":
        """Draw a dialogue between two different people."""
        guest, host = random.sample(NAMES, 2)
        return Dialogue(
            intent=random.choice(["buy", "search", "meet"]),
            guest=guest,
            host=host,
            object=random.choice(OBJECTS),
            color=random.choice(COLORS),
            price=random.choice(PRICES),
            place=random.choice(PLACES),
            time=random.choice(list(TIMES)),
            agreed=random.random() < 0.5,
        )

    @property
    def when(self) -> str:
        """``on monday``, ``at noon``."""
        return f"{TIMES[self.time]} {self.time}"

    def english(self) -> str:
        """The talk up to the host's last turn, which :meth:`reply` gives."""
        question, offer, yes, no = {
            "buy": (
                f"hello , i want to buy a {self.object} .",
                f"the {self.color} {self.object} costs {self.price} .",
                "i take it .",
                "i have no money .",
            ),
            "search": (
                f"where can i find a {self.object} ?",
                f"a {self.color} {self.object} is in the {self.place} .",
                "i go there .",
                f"i do not like {self.color} .",
            ),
            "meet": (
                f"shall we meet in the {self.place} ?",
                f"i am free {self.when} .",
                "i will come .",
                "i have no time .",
            ),
        }[self.intent]
        reaction = yes if self.agreed else no
        return f"{self.guest} : {question} {self.host} : {offer} {self.guest} : {reaction} {self.host} :"

    def reply(self) -> str:
        """The host's last turn."""
        yes, no = {
            "buy": (
                f"here is the {self.color} {self.object} for {self.price}",
                f"then i keep the {self.color} {self.object}",
            ),
            "search": (f"see you in the {self.place}", f"then look for another {self.object}"),
            "meet": (f"see you {self.when} in the {self.place}", f"then i stay in the {self.place}"),
        }[self.intent]
        return f"{yes if self.agreed else no} , {self.guest} ."

    def summary(self) -> str:
        """One line that says what came of it."""
        verb, third, rest = {
            "buy": ("buy", "buys", f"the {self.color} {self.object} from {self.host}"),
            "search": ("find", "finds", f"the {self.color} {self.object} in the {self.place}"),
            "meet": ("meet", "meets", f"{self.host} {self.when}"),
        }[self.intent]
        return f"{self.guest} {third if self.agreed else f'does not {verb}'} {rest} ."
