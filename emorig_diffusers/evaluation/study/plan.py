"""What is asked of whom: every participant's questions, from the study's seed and the participant's number.

Two participants in a row see the same pictures with left and right exchanged, the next two go on in the deck. So
every side is balanced, every picture is judged as often as every other (agreement between participants can be told),
and nobody sees one question twice. The three kinds of question come in blocks, whose order rotates over the
participants: a question that changes at every step is answered by habit.

There are no ties: who cannot decide guesses, which splits such answers evenly, while a third button is used as an
exit and needs a model of its own (forced choice, Macmillan & Creelman, Detection Theory, 2005).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, permutations
from random import Random

EMOTIONS = ("neutral", "happy", "sad", "surprise", "fear", "disgust", "anger", "contempt")
"""As `emorig_diffusers.EMOTIONS`, whose module needs torch; a study does not."""
SIDES = ("left", "right")
NAMED = (*EMOTIONS, "other")
CHECK_EVERY = 10  # questions of a kind for one attention check
ASKED = {
    "real": "Which looks more real?",
    "person": "Which looks more like this person?",
    "emotion": "Which emotion does this face show?",
}
"""Kind of question -> its words, on the page and in the report."""
CONSENT = """## Would you like to take part?

You will look at photos of faces, most of them changed by a computer, and say what you see.

**What is stored:** your answers, when you gave them and how long each took, and a random participant id. No name, no
address, nothing else about you or your device. The answers are used for research and may be published.

**It is voluntary.** You can stop at any time by closing this page; what you answered until then is not counted.
"""
"""What everyone agrees to, unless the study has a text of its own; Markdown."""


@dataclass(frozen=True)
class Question:
    """One question.

    Attributes:
        kind: "real" (which looks more real?), "person" (which is more like this person?), "emotion" (which one?).
        photo: File name of the picture.
        emotion: The emotion that the picture was to show.
        methods: Whose pictures are shown: left and right, or the only one.
        check: The right answer of an attention check, None for a real question. Of a comparison, the picture on the
            other side is ruined; of an identification, the participant is told what to choose.
    """

    kind: str
    photo: str
    emotion: str
    methods: tuple[str, ...]
    check: str | None = None

    @property
    def answers(self) -> tuple[str, ...]:
        """The answers that are possible, in the order of the buttons."""
        return NAMED if self.kind == "emotion" else SIDES


@dataclass(frozen=True)
class Design:
    """What a study is about.

    Attributes:
        methods: Names of the methods that are compared.
        photos: Emotion -> file names of which every method has an edit.
        person: Whether the original can be shown, and the question "person" asked.
        questions: How many questions everyone is asked, attention checks apart; fewer where there are no more.
        seed: The same seed gives the same questions.
    """

    methods: tuple[str, ...]
    photos: Mapping[str, Sequence[str]]
    person: bool
    questions: int
    seed: int

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of question that can be asked."""
        pairs = ("real", "person") if self.person else ("real",)
        return (*pairs, "emotion") if len(self.methods) > 1 else ("emotion",)


def plan_questions(design: Design, number: int) -> list[Question]:
    """The questions of the participant with a number from 0, in order, with attention checks in between."""
    share, more = divmod(design.questions, len(design.kinds))
    blocks = [_block(design, kind, share + (i < more), number) for i, kind in enumerate(design.kinds)]
    orders = list(permutations(blocks))
    return [question for block in orders[number % len(orders)] for question in block]


def build_deck(design: Design, kind: str) -> list[Question]:
    """All questions of a kind: in rounds of one photo for each emotion and pair of methods, sides alternating."""
    random = Random(f"{design.seed} {kind}")
    shown = combinations(design.methods, 1 if kind == "emotion" else 2)
    strata = [(emotion, methods) for methods in shown for emotion in design.photos]
    photos = [random.sample(design.photos[emotion], len(design.photos[emotion])) for emotion, _ in strata]
    deck = []
    for turn in range(max(map(len, photos))):
        cards = [
            Question(kind, names[turn], emotion, methods[:: 1 if (turn + place) % 2 else -1])
            for place, ((emotion, methods), names) in enumerate(zip(strata, photos))
            if turn < len(names)
        ]
        deck += random.sample(cards, len(cards))
    return deck


def _block(design: Design, kind: str, count: int, number: int) -> list[Question]:
    deck, random = build_deck(design, kind), Random(f"{design.seed} {kind} {number}")
    count = min(count, len(deck))
    start = number // 2 * count
    cards = [deck[i % len(deck)] for i in range(start, start + count)]
    if number % 2:
        cards = [Question(c.kind, c.photo, c.emotion, c.methods[::-1]) for c in cards]
    random.shuffle(cards)
    for _ in range(math.ceil(count / CHECK_EVERY)):
        cards.insert(random.randint(0, len(cards)), _check(design, kind, random))
    return cards


def _check(design: Design, kind: str, random: Random) -> Question:
    emotion, method = random.choice(list(design.photos)), random.choice(design.methods)
    photo = random.choice(design.photos[emotion])
    if kind == "emotion":
        return Question(kind, photo, emotion, (method,), random.choice([e for e in EMOTIONS if e != emotion]))
    return Question(kind, photo, emotion, (method, method), random.choice(SIDES))
