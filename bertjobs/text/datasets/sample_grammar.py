"""The grammar behind the sample data: scenes with what they entail, leave open and rule out; and sentences
that are well formed or broken in one place. Draws from the generator it is given, and from nothing else."""

import random
from dataclasses import dataclass


@dataclass(frozen=True)
class Premise:
    """A sentence that describes a scene, and the facts of the scene."""

    text: str
    kind: str
    is_plural: bool
    deed: str
    place: str
    is_outdoors: bool


@dataclass(frozen=True)
class Pair:
    premise: str
    hypothesis: str
    label: str


_SUBJECTS = {  # singular, plural, what each of them is an instance of
    "person": (
        ("man", "men"), ("woman", "women"), ("boy", "boys"), ("girl", "girls"), ("child", "children"),
        ("nurse", "nurses"), ("farmer", "farmers"), ("student", "students"), ("singer", "singers"),
    ),
    "animal": (("dog", "dogs"), ("cat", "cats"), ("horse", "horses"), ("sheep", "sheep"), ("goat", "goats")),
}  # fmt: skip
_PLURAL_OF = {"person": "people", "animal": "animals"}
_LOOKS = ("young", "old", "tall", "small", "tired", "happy", "quiet", "brown", "wet", "hungry")
_NUMBERS = ("two", "three", "four", "several", "some")
_DEEDS = {
    "person": ("running", "walking", "singing", "eating lunch", "reading a map", "painting a fence",
               "carrying boxes", "playing music", "riding a bike", "fixing a car", "dancing", "cooking"),
    "animal": ("running", "jumping", "chasing a ball", "drinking water", "eating", "playing", "swimming"),
}  # fmt: skip
_OUTDOORS = ("in a park", "on a beach", "in a field", "by a river", "on a street", "near a bridge")
_INDOORS = ("in a kitchen", "in a barn", "in a hall", "inside a shop", "in a garage", "in a classroom")
_OPPOSITES = ("sleeping", "asleep in bed", "lying down", "sitting still", "resting")
_PURPOSES = ("to win a prize", "for a friend", "because of a bet", "for the first time", "before going home",
             "to earn money", "for a birthday", "to forget the past")  # fmt: skip
_RELATIONS = ("related", "best friends", "famous", "from another town", "late", "angry", "in love")


def draw_premise(rng: random.Random) -> Premise:
    """Draw a scene."""
    kind = rng.choice(tuple(_SUBJECTS))
    singular, plural = rng.choice(_SUBJECTS[kind])
    is_plural = rng.random() < 0.4
    deed = rng.choice(_DEEDS[kind])
    is_outdoors = rng.random() < 0.5
    place = rng.choice(_OUTDOORS if is_outdoors else _INDOORS)
    look = rng.choice(_LOOKS) + " " if rng.random() < 0.7 else ""
    who = f"{rng.choice(_NUMBERS)} {look}{plural}" if is_plural else _with_article(look + singular)
    text = _sentence(f"{who} {_be(is_plural)} {deed} {place}")
    return Premise(text, kind, is_plural, deed, place, is_outdoors)


def draw_pair(rng: random.Random, premise: Premise, label: str) -> Pair:
    """Draw a hypothesis with this label for the premise."""
    return Pair(premise.text, _sentence(_HYPOTHESES[label](rng, premise)), label)


def _entailed(rng: random.Random, premise: Premise) -> str:
    """Say less: the kind for the subject, the deed or the place alone."""
    is_plural = premise.is_plural
    who = (
        {"person": "people", "animal": "animals"}[premise.kind] if is_plural else _with_article(premise.kind)
    )
    where = "outdoors" if premise.is_outdoors else "indoors"
    return rng.choice(
        (
            f"{who} {_be(is_plural)} {where}",
            f"{who} {_be(is_plural)} {premise.deed}",
            f"{who} {_be(is_plural)} {premise.place}",
            f"there {_be(is_plural)} {who} {where}",
        )
    )


def _left_open(rng: random.Random, premise: Premise) -> str:
    """Add what cannot be seen: a purpose or a relation."""
    who, be = _the(premise), _be(premise.is_plural)
    if rng.random() < 0.6:
        return f"{who} {be} {premise.deed} {rng.choice(_PURPOSES)}"
    return f"{who} {be} {rng.choice(_RELATIONS)}"


def _ruled_out(rng: random.Random, premise: Premise) -> str:
    """Say what cannot be true at once: a deed that excludes theirs, the other kind of place, nobody."""
    who, be = _the(premise), _be(premise.is_plural)
    draw = rng.random()
    if draw < 0.6:
        return f"{who} {be} {rng.choice(_OPPOSITES)}"
    if draw < 0.8:
        return f"nobody is {rng.choice((premise.deed, premise.place))}"
    return f"{who} {be} not {premise.deed}"


_HYPOTHESES = {"entailment": _entailed, "neutral": _left_open, "contradiction": _ruled_out}


def _the(premise: Premise) -> str:
    return f"the {_PLURAL_OF[premise.kind] if premise.is_plural else premise.kind}"


def _be(is_plural: bool) -> str:
    return "are" if is_plural else "is"


def _with_article(words: str) -> str:
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def _sentence(words: str) -> str:
    return f"{words[0].upper()}{words[1:]}."


_NAMES = ("john", "mary", "the teacher", "the doctor", "my sister", "our neighbour", "the old man")
_FOREIGN_NAMES = ("kim", "pat", "the senator", "the pilot", "his uncle", "that lawyer")
_THINGS = ("book", "letter", "cake", "car", "house", "story", "picture", "song", "chair", "garden")
_FOREIGN_THINGS = ("treaty", "engine", "contract", "novel", "bridge", "speech")
_VERBS = (  # present, past, participle
    ("sees", "saw", "seen"), ("writes", "wrote", "written"), ("takes", "took", "taken"),
    ("gives up", "gave up", "given up"), ("breaks", "broke", "broken"), ("draws", "drew", "drawn"),
    ("forgets", "forgot", "forgotten"), ("chooses", "chose", "chosen"),
)  # fmt: skip
_TIMES = ("yesterday", "last week", "in the morning", "before dinner", "on monday", "after the war")


def draw_sentence(rng: random.Random, *, is_foreign: bool) -> tuple[str, bool]:
    """Draw a sentence and whether it is acceptable; foreign ones use names and things unseen in training."""
    who = rng.choice(_FOREIGN_NAMES if is_foreign else _NAMES)
    thing = rng.choice(_FOREIGN_THINGS if is_foreign else _THINGS)
    present, past, participle = rng.choice(_VERBS)
    when = rng.choice(_TIMES)
    frame = rng.randrange(4)
    good = (
        f"{who} has {participle} the {thing} .",
        f"{who} {past} the {thing} {when} .",
        f"the {thing} was {participle} by {who} {when} .",
        f"does {who} know who {present} the {thing} ?",
    )[frame]
    if rng.random() < 0.62:  # CoLA has 70 % acceptable; nearer to even, a few hundred sentences teach more
        return good, True
    bad = (
        (f"{who} has {past} the {thing} .", f"{who} have {participle} the {thing} ."),
        (f"{who} {participle} {past} the {thing} {when} .", f"{who} {past} the the {thing} {when} ."),
        (f"the {thing} was {past} by {who} {when} .", f"was {participle} by {who} {when} the ."),
        (f"does {who} knows who {present} the {thing} ?", f"does know {who} {present} who the {thing} ?"),
    )[frame]
    return rng.choice(bad), False
