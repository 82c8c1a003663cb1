"""What a run of the simulation is made of, as data: leads, fates of POSTs, faults; drawn from a seed or counted out."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from random import Random
from typing import Final, Literal

from stream_app.core.breaker import BreakerPolicy
from stream_app.core.budget import BudgetPolicy, Cost
from stream_app.core.policy import Destination, LinePolicy, Plan, Workspace
from stream_app.core.rate import RatePolicy
from stream_app.core.replay import ReplayPolicy
from stream_app.core.silence import SilencePolicy
from stream_app.core.topics import TopicNames
from tests.simulation.clay import Answer, Fate
from tests.simulation.orders import Order, drawn_orders

FaultKind = Literal["crash", "freeze", "stop", "rebalance"]
Loss = Literal["lost", "unknown", "refused"]
_LOSSES: Final[tuple[Loss, ...]] = ("lost", "unknown", "refused")
How = Literal["", "junk", "aborted", "slow_transaction"]
CEILING: Final = Cost(credits=20, actions=2)


@dataclass(frozen=True, slots=True)
class Arrival:
    """A record that a user publishes. `topic`: leads or bulk; `away`: in the wrong partition."""

    at_s: float
    workspace: str
    lead_id: str
    person: str
    topic: Literal["leads", "bulk"] = "leads"
    away: bool = False
    force: bool = False
    not_after_s: float | None = None
    how: How = ""


@dataclass(frozen=True, slots=True)
class Fault:
    """What happens to the process that is about to take turn number `at_step` of all turns."""

    at_step: int
    kind: FaultKind
    for_s: float = 0.0

    def __str__(self) -> str:
        return f"{self.kind}@{self.at_step}" + (f"+{self.for_s:g}s" if self.for_s else "")


@dataclass(frozen=True, slots=True)
class Setup:
    """What the plan of a run is made from."""

    partitions: int = 2
    shared: bool = False
    callbacks: bool = True
    uncertain: Literal["park", "resend"] = "park"
    hold: Literal["pause", "degrade"] = "pause"
    credits_per_day: int | None = None
    rate_per_s: float = 8.0
    burst: int = 10
    max_in_flight: int = 4
    max_attempts: int = 3
    max_replays: int = 2
    webhooks: int = 2
    trips_after: int = 5
    silent_after: int = 5


@dataclass(frozen=True, slots=True)
class Schedule:
    """A whole run. `name` finds it again; `losses` is by the number of a request to the broker.

    judges_money  one workspace whose caps nobody changes: see money.py.
    """

    name: str
    seed: int = 0
    setup: Setup = Setup()
    arrivals: tuple[Arrival, ...] = ()
    fates: tuple[Fate, ...] = ()
    answers: tuple[Answer, ...] = ()
    faults: tuple[Fault, ...] = ()
    losses: tuple[tuple[int, Loss], ...] = ()
    orders: tuple[Order, ...] = ()
    workers: int = 2
    restart_s: float = 1.0
    drop_in_flight: bool = False
    reopen: bool = False
    replay_again: float = 0.0
    shuffle: float = 0.0
    jitter_s: float = 0.0
    spacing_s: float = 0.005
    judges_money: bool = False


@lru_cache(maxsize=256)
def plan_of(setup: Setup) -> Plan:
    """The plan: `acme` in partition 0, `beta` in the last one, `gamma` beside acme where partitions are shared."""
    workspaces: dict[str, Workspace] = {}
    destinations: dict[str, Destination] = {}
    pins = {"acme": 0, "beta": setup.partitions - 1} | ({"gamma": 0} if setup.shared else {})
    for name in pins:
        workspaces[name] = Workspace(
            name,
            f"{name}-main",
            hold=setup.hold,
            breaker=BreakerPolicy(consecutive_failures=setup.trips_after, open_s=2.0, min_calls=20),
            rate=RatePolicy(rate_per_s=setup.rate_per_s, burst=setup.burst),
            budget=BudgetPolicy(credits_per_day=setup.credits_per_day),
            silence=SilencePolicy(setup.silent_after),
        )
        destinations[f"{name}-main"] = Destination(
            f"{name}-main",
            name,
            tuple(f"{name}-{number}" for number in range(setup.webhooks)),
            callbacks=setup.callbacks,
            ceiling=CEILING,
            callback_deadline_s=50.0,
            callback_grace_s=50.0,
            uncertain=setup.uncertain,
        )
    return Plan(
        topics=TopicNames(),
        partitions=setup.partitions,
        workspaces=workspaces,
        destinations=destinations,
        pins=pins,
        line=LinePolicy(
            max_in_flight=setup.max_in_flight,
            max_attempts=setup.max_attempts,
            retry_base_s=0.2,
            uncertain_grace_s=60.0,
            start_within_s=10.0,
            patience_s=2.0,
        ),
        replay=ReplayPolicy(max_replays=setup.max_replays, base_s=5.0),
        app="simulation",
    )


# ---------------------------------------------------------------------------------------------------------- drawn

_FATES: Final[tuple[Fate, ...]] = (
    "accepted",
    "slow",
    "limited",
    "busy",
    "unreachable",
    "lost_before",
    "lost_after",
    "hang",
    "poison",
    "denied",
    "gone",
)
_ANSWERS: Final[tuple[Answer, ...]] = (
    *("enriched", "no_data", "partial", "lost", "doubled", "reordered", "early", "late"),
)
_MIXES: Final[tuple[tuple[int, ...], ...]] = (
    (1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0),  # fine weather
    (6, 1, 1, 2, 1, 1, 1, 1, 1, 0, 0),  # a bit of everything
    (2, 0, 0, 6, 3, 0, 0, 0, 0, 0, 0),  # an outage that is known
    (3, 1, 0, 0, 0, 2, 2, 2, 0, 0, 0),  # an outage in which nobody knows
    (4, 0, 3, 1, 0, 0, 0, 0, 1, 1, 1),  # limits, tokens, webhooks
)


def drawn(seed: int) -> Schedule:
    """The schedule of a seed."""
    rng = Random(seed)
    setup = Setup(
        shared=rng.random() < 0.2,
        callbacks=rng.random() < 0.5,
        uncertain=rng.choice(("park", "park", "resend")),
        hold=rng.choice(("pause", "pause", "degrade")),
        credits_per_day=rng.choice((None, None, None, 40, 60, 100)),
        rate_per_s=rng.choice((8.0, 8.0, 1.0)),
        burst=rng.choice((10, 2)),
        max_in_flight=rng.choice((1, 2, 4, 100)),
        max_attempts=rng.choice((1, 2, 3)),
        max_replays=rng.choice((0, 1, 2)),
        webhooks=rng.choice((1, 2)),
        trips_after=rng.choice((2, 5)),
        silent_after=Random(f"silence {seed}").choice((1, 2, 5)),
    )
    leads = rng.choice((1, 2, 2, 3, 3, 4, 6))
    mix = rng.choice(_MIXES)
    turns = 60 + 60 * leads
    return Schedule(
        name=str(seed),
        seed=seed,
        setup=setup,
        arrivals=tuple(_arrival(rng, setup) for _ in range(leads)),
        fates=tuple(rng.choices(_FATES, mix, k=rng.choice((3, 6, 12)))),
        faults=tuple(_fault(rng, turns) for _ in range(rng.choice((0, 1, 1, 2, 3)))),
        losses=_losses(rng),
        orders=drawn_orders(Random(f"orders {seed}"), setup.credits_per_day is not None),
        workers=rng.choice((1, 2, 2)),
        restart_s=rng.choice((0.2, 1.0, 10.0)),
        drop_in_flight=rng.random() < 0.5,
        reopen=rng.random() < 0.3,
        replay_again=rng.choice((0.0, 0.0, 0.3, 1.0)),
        shuffle=rng.choice((0.0, 0.0, 0.3)),
        jitter_s=rng.choice((0.0, 0.003, 0.05)),
        spacing_s=rng.choice((0.0, 0.005)),
        answers=tuple(rng.choices(_ANSWERS, k=rng.choice((0, 3, 6)))),
    )


def _arrival(rng: Random, setup: Setup) -> Arrival:
    person = rng.randrange(4)
    workspaces = ("acme", "acme", "beta") + (("gamma",) if setup.shared else ())
    how: How = rng.choices(("", "junk", "aborted", "slow_transaction"), (20, 1, 1, 1))[0]
    return Arrival(
        at_s=rng.choice((0.0, 0.0, 0.5, 1.0, 3.0, 20.0)),
        workspace=rng.choice(workspaces),
        lead_id=f"id{person}" if rng.random() < 0.7 else f"id{rng.randrange(4)}x{person}",
        person=f"p{person}",
        topic="bulk" if rng.random() < 0.2 else "leads",
        away=rng.random() < 0.1,
        force=rng.random() < 0.1,
        not_after_s=rng.choice((2.0, 30.0)) if rng.random() < 0.15 else None,
        how=how,
    )


def _losses(rng: Random) -> tuple[tuple[int, Loss], ...]:
    if rng.random() < 0.1:  # the broker is away for a while
        first = rng.randrange(40)
        return tuple((number, "lost") for number in range(first, first + rng.randrange(3, 20)))
    return tuple((rng.randrange(60), rng.choice(_LOSSES)) for _ in range(rng.choice((0, 0, 1, 2))))


def _fault(rng: Random, turns: int) -> Fault:
    kind: FaultKind = rng.choices(("crash", "freeze", "stop", "rebalance"), (4, 3, 1, 1))[0]
    return Fault(rng.randrange(1, turns), kind, rng.choice((0.05, 3.0, 8.0, 30.0, 100.0)) if kind == "freeze" else 0.0)


# -------------------------------------------------------------------------------------------------------- counted

_BASES: Final = (
    Schedule(
        "fine",
        arrivals=(
            Arrival(0.0, "acme", "a", "p1"),
            Arrival(0.0, "acme", "b", "p2"),
            Arrival(0.0, "beta", "c", "p3"),
        ),
    ),
    Schedule(
        "twice",
        setup=Setup(callbacks=False),
        arrivals=(
            Arrival(0.0, "acme", "a", "p1"),
            Arrival(0.0, "acme", "a", "p1"),
            Arrival(0.0, "acme", "other", "p1", away=True),
        ),
    ),
    Schedule(
        "refused",
        setup=Setup(callbacks=False, max_attempts=2, max_replays=1),
        arrivals=(Arrival(0.0, "acme", "a", "p1"), Arrival(0.0, "acme", "b", "p2")),
        fates=("busy", "limited", "unreachable", "busy", "busy", "busy"),
    ),
    Schedule(
        "unsure",
        setup=Setup(uncertain="resend"),
        arrivals=(Arrival(0.0, "acme", "a", "p1"), Arrival(0.0, "beta", "b", "p2")),
        fates=("lost_after", "hang", "lost_before"),
        answers=("lost", "lost", "lost"),
        replay_again=1.0,
    ),
    Schedule(
        "bad",
        setup=Setup(callbacks=False, credits_per_day=20, webhooks=1),
        arrivals=(
            Arrival(0.0, "acme", "a", "p1", how="junk"),
            Arrival(0.0, "acme", "b", "p2", not_after_s=30.0),
            Arrival(0.0, "acme", "c", "p3"),
        ),
        fates=("poison",),
    ),
    Schedule(
        "held",
        setup=Setup(hold="degrade", shared=True, trips_after=1),
        arrivals=(
            Arrival(0.0, "acme", "z", "p0"),
            Arrival(0.4, "acme", "a", "p1"),
            Arrival(0.4, "gamma", "other", "p1"),
            Arrival(0.6, "acme", "other", "p1"),
        ),
        fates=("busy", "lost_before"),
    ),
    Schedule(
        "crowd",
        setup=Setup(callbacks=False, max_in_flight=1),
        arrivals=tuple(Arrival(0.5, "acme", "a", "p1") for _ in range(5)),
        fates=("slow",),
        losses=tuple((number, "lost") for number in range(8, 14)),
    ),
    Schedule(
        "late",
        arrivals=(Arrival(0.5, "acme", "a", "p1"), Arrival(0.5, "acme", "a", "p1")),
        answers=("lost",),
        losses=((8, "refused"),),
    ),
    Schedule(
        # The first callback is there before its POST has ended, the second comes twice.
        "answered",
        arrivals=(Arrival(0.0, "acme", "a", "p1"), Arrival(0.0, "acme", "b", "p2")),
        fates=("hang",),
        answers=("early", "doubled"),
    ),
    Schedule(
        # A lead is to be sent again and waits for its stopped lane, when the callback of the first POST comes.
        "news",
        setup=Setup(uncertain="resend"),
        arrivals=(Arrival(0.0, "acme", "a", "p1"),),
        fates=("lost_after", "denied", "denied"),
        answers=("late",),
    ),
    Schedule(
        # Nobody calls back about the first two: the lane stops, and goes on once a probe is answered.
        "silent",
        setup=Setup(silent_after=2),
        arrivals=(
            Arrival(0.0, "acme", "a", "p1"),
            Arrival(0.0, "acme", "b", "p2"),
            Arrival(55.0, "acme", "c", "p3"),
            Arrival(56.0, "acme", "d", "p4"),
        ),
        answers=("lost", "late", "lost"),
    ),
)


_RARE: Final = (
    Schedule(
        "ordered",
        setup=Setup(callbacks=False, partitions=1),
        arrivals=(
            Arrival(0.0, "acme", "a", "p1"),
            Arrival(0.5, "acme", "b", "p2"),
            Arrival(0.5, "beta", "c", "p3"),
        ),
        orders=(
            Order(0.0, "acme", "correct", "1", 2),
            Order(0.4, "acme", "pause"),
            Order(0.6, "", "suppress", "p3"),
            Order(2.0, "acme", "resume"),
        ),
    ),
    Schedule(
        # Parked, and then its callback comes; the second lead comes back in two parts, and is bought again.
        "parked",
        arrivals=(
            Arrival(0.0, "acme", "a", "p1"),
            Arrival(0.0, "acme", "b", "p2"),
            Arrival(20.0, "acme", "b", "p2", force=True),
            Arrival(40.0, "acme", "b", "p2", force=True),
        ),
        fates=("lost_after",),
        answers=("late", "partial"),
    ),
    Schedule(
        # Two stories end and their rows are taken by the next one, while their records are not acked yet.
        "replaced",
        arrivals=(
            Arrival(0.0, "acme", "a", "p1", away=True, not_after_s=0.01),
            Arrival(0.1, "acme", "a", "p1", not_after_s=-1.0),
            Arrival(0.2, "acme", "a", "p1"),
        ),
    ),
    Schedule(
        # An ended story's record comes again and has to wait, for the very lead that takes its row meanwhile.
        "outlived",
        arrivals=(
            Arrival(0.0, "acme", "x", "p2", topic="bulk", not_after_s=20.0),
            Arrival(0.1, "acme", "a", "p1", topic="bulk", not_after_s=-1.0),
            Arrival(4.5, "acme", "a", "p1"),
        ),
        fates=("limited", "limited", "limited"),
    ),
)


def bases() -> list[Schedule]:
    """The small schedules without faults, in each of which every await is to be broken once."""
    return list(_BASES)


def rare() -> list[Schedule]:
    """The same for what hardly ever happens: to be asked for by name."""
    return list(_RARE)


def broken_once(base: Schedule, turns: int, requests: int) -> list[Schedule]:
    """`base` with one fault at every turn, and one loss at every request to the broker."""
    found: list[Schedule] = []
    for step in range(1, turns + 1):
        for fault, changes in (
            (Fault(step, "crash"), {"drop_in_flight": True, "restart_s": 0.2}),
            (Fault(step, "crash"), {"drop_in_flight": False, "restart_s": 10.0}),
            (Fault(step, "freeze", 8.0), {}),
            (Fault(step, "freeze", 100.0), {}),
            (Fault(step, "stop"), {}),
            (Fault(step, "rebalance"), {}),
        ):
            how = "-dropped" if changes.get("drop_in_flight") else ""
            found.append(
                replace(base, name=f"{base.name}/{fault}{how}", faults=(fault,), **changes)  # type: ignore[arg-type]  # mixed values
            )
    found.extend(
        replace(base, name=f"{base.name}/{loss}@{number}", losses=(*base.losses, (number, loss)))
        for number in range(requests)
        for loss in _LOSSES
    )
    return found
