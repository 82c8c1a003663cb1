"""What is broken when, drawn from a seed: a shuffled deck of faults, dealt one after the other."""

import random
from collections.abc import Iterator
from typing import Final, Literal, NamedTuple

OfBrokers = Literal["broker_kill", "broker_stop", "broker_freeze"]
OfWorkers = Literal["kill", "term", "stop", "join", "recovery"]
Kind = OfWorkers | OfBrokers | Literal["broker", "cut", "stall", "hang", "reset", "replay"]

MEANING: Final[dict[Kind, str]] = {
    "kill": "kill -9 of a worker",
    "term": "SIGTERM of a worker",
    "stop": "SIGSTOP past the session",
    "join": "one more worker, for a while",
    "broker": "broker restarted or killed",
    "cut": "connection to the broker reset",
    "stall": "connection to the broker silent",
    "hang": "Clay reads and never answers",
    "reset": "Clay reads and resets",
    "replay": "kill -9 of replay",
    "recovery": "three kill -9 in a row, each in the take-over that the one before caused",
}
SESSION_S: Final = 6.0
_LASTS_S: Final[dict[Kind, tuple[float, float]]] = {
    "stop": (SESSION_S + 1, SESSION_S + 6),
    "join": (5, 10),
    "cut": (1, SESSION_S + 4),
    "stall": (1, SESSION_S + 4),
    "hang": (1, 3),
    "reset": (1, 3),
}
_ONCE: Final[tuple[Kind, ...]] = (
    "broker",
    "cut",
    "stall",
    "hang",
    "reset",
    "replay",
    "join",
    "recovery",
)
_MIXED: Final[tuple[Kind, ...]] = (*_ONCE, "kill", "kill", "kill", "term", "term", "stop", "stop")
_KILL: Final[tuple[Kind, ...]] = ("kill",)
_KILLS: Final[tuple[Kind, ...]] = (*_ONCE, "term", "stop", *_KILL * 10)


class Fault(NamedTuple):
    """`after_s` the one before.

    `who`: which of the workers, counted round; `lasts_s`; `hard`: the nastier form.
    """

    after_s: float
    kind: Kind
    who: int
    lasts_s: float
    hard: bool


def draw(seed: int, *, mostly_kills: bool = False) -> Iterator[Fault]:
    """Faults without end. `mostly_kills`: for a campaign that counts them."""
    rng = random.Random(seed)
    while True:
        deck = list(_KILLS if mostly_kills else _MIXED)
        rng.shuffle(deck)
        for kind in deck:
            lasts_s = rng.uniform(*_LASTS_S.get(kind, (0, 0)))
            yield Fault(rng.uniform(1, 3), kind, rng.randrange(3), lasts_s, rng.random() < 0.5)
