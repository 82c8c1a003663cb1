"""What a run of the simulation is made of, as data: leads, fates of POSTs, faults; drawn from a
seed or counted out.
"""

from dataclasses import dataclass, replace
from functools import lru_cache
from random import Random
from typing import Final, Literal

import msgspec

from stream_app.domain.delivery.envelope import Envelope
from stream_app.domain.limits.breaker import BreakerPolicy
from stream_app.domain.limits.budget import BudgetPolicy, Cost
from stream_app.domain.limits.callback_health import CallbackHealthPolicy
from stream_app.domain.limits.rate import RatePolicy
from stream_app.domain.model.records import Headers
from stream_app.domain.model.topics import TopicNames
from stream_app.domain.plan import DeliveryPolicy, Destination, Plan, ReplayPolicy, Workspace
from tests.simulation.clay import COUNTED, Announced, Answer, Fate, PollFate
from tests.simulation.orders import Order, drawn_orders

FaultKind = Literal["crash", "freeze", "stop", "rebalance"]
Loss = Literal["lost", "unknown", "refused"]
LOSSES: Final[tuple[Loss, ...]] = ("lost", "unknown", "refused")
Break = Literal["lost", "unknown", "refused", "half", "crash", "crash_before", "freeze", "evicted"]
BREAKS: Final[tuple[Break, ...]] = (
    "lost",
    "unknown",
    "refused",
    "half",
    "crash",
    "crash_before",
    "freeze",
    "evicted",
)
How = Literal["", "junk", "aborted", "slow_transaction", "nowhere", "long", "nobody"]
CEILING: Final = Cost(credits=20, actions=2)
POLL_AFTER_S: Final = (4.0, 12.0, 30.0)
"""When the results of a run are asked for, within the deadline of `plan_of`."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """A record that a user publishes.

    `topic`: leads or bulk; `away`: in the wrong partition; `headers`: the user's.

    known_by  the identifiers that it has of its person, by kind: see persons.py.
    table     '' for main, or another destination of its workspace.
    how       nowhere: its workspace is not configured; long: a field is too long for Clay; nobody:
    no identity.
    """

    at_s: float
    workspace: str
    lead_id: str
    person: str
    topic: Literal["leads", "bulk"] = "leads"
    away: bool = False
    force: bool = False
    not_after_s: float | None = None
    how: How = ""
    headers: Headers = ()
    known_by: str = "e"
    import_id: str = ""
    table: str = ""


@dataclass(frozen=True, slots=True)
class Fault:
    """What happens to the process that is about to take turn number `at_step` of all turns."""

    at_step: int
    kind: FaultKind
    for_s: float = 0.0

    def __str__(self) -> str:
        return f"{self.kind}@{self.at_step}" + (f"+{self.for_s:g}s" if self.for_s else "")


@dataclass(frozen=True, slots=True)
class Missed:
    """No marker is written in these topics when the ledgers' transaction number `at_end` ends: they
    have no leader.

    rows   the state topic; others: all the rest.
    for_s  for how long.
    """

    at_end: int
    where: Literal["rows", "others", "all"] = "all"
    for_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Setup:
    """What the plan of a run is made from.

    lanes        how many more workspaces, lane0 and so on, share the partition of acme.
    max_waiting  how many leads may wait there.
    tables       more destinations of each workspace, beside main.
    cached       something is known of each person, so that a lead can be answered without Clay.
    routines     the destinations are routines, so that the worker asks for their results.
    announces    their runs are announced.
    """

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
    lanes: int = 0
    max_waiting: int = 500
    patience_s: float = 2.0
    cached: bool = False
    tables: tuple[str, ...] = ()
    routines: bool = False
    announces: bool = False


@dataclass(frozen=True, slots=True)
class Schedule:
    """A whole run. `name` finds it again; `losses` is by the number of a request to the broker.

    preempted     turns that go to the next process, by number.
    checks_money  one workspace whose caps do not change: see money.py.
    well          workspaces whose leads must be sent at once: see neighbours.py.
    missed        end markers that Kafka does not write.
    recovery      what happens to requests of take-overs, by their number since the first missed
    marker.
    markers_s     how long after the end of a transaction its markers are written.
    redrives_s    when an operator sends back some of the dead letters that wait for one.
    give_ups_s    when an operator gives up some of the dead letters that are kept.
    polls         what polls meet.
    announced     how the runs are announced.
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
    preempted: tuple[int, ...] = ()
    jitter_s: float = 0.0
    spacing_s: float = 0.005
    checks_money: bool = False
    well: tuple[str, ...] = ()
    missed: tuple[Missed, ...] = ()
    recovery: tuple[tuple[int, Break], ...] = ()
    markers_s: float = 0.0
    redrives_s: tuple[float, ...] = ()
    give_ups_s: tuple[float, ...] = ()
    polls: tuple[PollFate, ...] = ()
    announced: tuple[Announced, ...] = ()


def routine_of(workspace: str) -> str:
    """The id of a workspace's routine."""
    return f"function:t_{workspace}"


@lru_cache(maxsize=256)
def plan_of(setup: Setup) -> Plan:
    """The plan: `acme` in partition 0, `beta` in the last one, `gamma` beside acme where partitions
    are shared.
    """
    workspaces: dict[str, Workspace] = {}
    destinations: dict[str, Destination] = {}
    pins = {"acme": 0, "beta": setup.partitions - 1} | ({"gamma": 0} if setup.shared else {})
    pins |= {f"lane{number}": 0 for number in range(setup.lanes)}
    for name in pins:
        workspaces[name] = Workspace(
            name,
            f"{name}-main",
            hold=setup.hold,
            breaker=BreakerPolicy(consecutive_failures=setup.trips_after, open_s=2.0, min_calls=20),
            rate=RatePolicy(rate_per_s=setup.rate_per_s, burst=setup.burst),
            budget=BudgetPolicy(credits_per_day=setup.credits_per_day),
            callback_health=CallbackHealthPolicy(setup.silent_after),
            max_in_flight=setup.max_in_flight,
        )
        destinations[f"{name}-main"] = Destination(
            f"{name}-main",
            name,
            (routine_of(name),)
            if setup.routines
            else tuple(f"{name}-{number}" for number in range(setup.webhooks)),
            callbacks=setup.callbacks,
            yield_=COUNTED if setup.callbacks else (),
            ceiling_actions=CEILING.actions,
            callback_deadline_s=50.0,
            callback_grace_s=50.0,
            uncertain=setup.uncertain,
            uncertain_grace_s=60.0,
            kind="routine" if setup.routines else "table",
            routine=routine_of(name) if setup.routines else None,
            poll_after_s=POLL_AFTER_S,
            run_webhook="wh_1" if setup.announces else None,
        )
        for table in setup.tables:
            destinations[f"{name}-{table}"] = msgspec.structs.replace(
                destinations[f"{name}-main"],
                alias=f"{name}-{table}",
                webhook_ids=tuple(f"{name}-{table}-{number}" for number in range(setup.webhooks)),
            )
    return Plan(
        topics=TopicNames(),
        partitions=setup.partitions,
        workspaces=workspaces,
        destinations=destinations,
        pins=pins,
        delivery=DeliveryPolicy(
            max_in_flight=setup.max_in_flight,
            max_attempts=setup.max_attempts,
            retry_base_s=0.2,
            max_request_start_age_s=10.0,
            patience_s=setup.patience_s,
            max_waiting=setup.max_waiting,
        ),
        replay=ReplayPolicy(max_replays=setup.max_replays, backoff_base_s=5.0),
        app="simulation",
    )


# -------------------------------------------------------------------------------------------- drawn

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
    "out",
)
_ANSWERS: Final[tuple[Answer, ...]] = (
    *("enriched", "no_data", "partial", "lost", "doubled", "reordered", "early", "late"),
)
_MIXES: Final[tuple[tuple[int, ...], ...]] = (
    (1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0),  # fine weather
    (6, 1, 1, 2, 1, 1, 1, 1, 1, 0, 0),  # a bit of everything
    (2, 0, 0, 6, 3, 0, 0, 0, 0, 0, 0),  # an outage that is known
    (3, 1, 0, 0, 0, 2, 2, 2, 0, 0, 0),  # an outage in which every outcome is unknown
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
        cached=Random(f"cached {seed}").random() < 0.5,
    )
    # Callbacks of tables are drawn for one destination in a workspace. Routines (runs.py) have two.
    if not setup.callbacks and Random(f"tables {seed}").random() < 0.5:
        setup = replace(setup, tables=("firms",))
    leads = rng.choice((1, 2, 2, 3, 3, 4, 6))
    mix = rng.choice(_MIXES)
    turns = 60 + 60 * leads
    return Schedule(
        name=str(seed),
        seed=seed,
        setup=setup,
        arrivals=_with_tables(
            Random(f"of tables {seed}"),
            setup,
            _with_identifiers(
                Random(f"identifiers {seed}"),
                _with_headers(
                    Random(f"headers {seed}"),
                    [_arrival(rng, setup) for _ in range(leads)],
                ),
            ),
        ),
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


def _with_identifiers(rng: Random, arrivals: tuple[Arrival, ...]) -> tuple[Arrival, ...]:
    """In half of the schedules, leads of one person name the person in different ways."""
    kinds = rng.choice((("e",), ("e", "l", "el", "em", "fl")))
    return tuple(replace(arrival, known_by=rng.choice(kinds)) for arrival in arrivals)


def _with_tables(
    rng: Random,
    setup: Setup,
    arrivals: tuple[Arrival, ...],
) -> tuple[Arrival, ...]:
    """Where there are several tables, half of the leads are of other people, for another table."""
    if not setup.tables:
        return arrivals
    return tuple(
        replace(
            arrival,
            table=rng.choice(setup.tables),
            person=f"other-{arrival.person}",
            lead_id=f"other-{arrival.lead_id}",
        )
        if rng.random() < 0.5
        else arrival
        for arrival in arrivals
    )


def _with_headers(rng: Random, arrivals: list[Arrival]) -> tuple[Arrival, ...]:
    """Some records carry headers, as other programs may write them: ours among them, copied from
    any record.
    """
    return tuple(
        replace(arrival, headers=foreign_headers(rng)) if rng.random() < 0.3 else arrival
        for arrival in arrivals
    )


def foreign_headers(rng: Random) -> Headers:
    """Headers as our own processes write them, about any record."""
    topic = rng.choice(("leads", "leads.bulk", "leads.retry", "elsewhere"))
    envelope = Envelope(
        origin=f"{topic}/{rng.randrange(3)}/{rng.randrange(4)}",
        seq=rng.randrange(5),
        way=rng.choice(("", "rerouted", "replayed", "redriven", "deferred", "uncertain")),
        lead_id=f"id{rng.randrange(4)}",
        destination=rng.choice(("", "acme-main", "beta-main", "nowhere")),
        disposition=rng.choice(("", "failed", "poison", "policy")),
        replay=rng.randrange(4),
        epoch=rng.randrange(2),
        hops=rng.randrange(3),
        redriven_from=rng.choice(("", f"leads.dlq/0/{rng.randrange(3)}")),
    )
    return envelope.to_headers()


def _losses(rng: Random) -> tuple[tuple[int, Loss], ...]:
    if rng.random() < 0.1:  # the broker is away for a while
        first = rng.randrange(40)
        return tuple((number, "lost") for number in range(first, first + rng.randrange(3, 20)))
    return tuple((rng.randrange(60), rng.choice(LOSSES)) for _ in range(rng.choice((0, 0, 1, 2))))


def _fault(rng: Random, turns: int) -> Fault:
    kind: FaultKind = rng.choices(("crash", "freeze", "stop", "rebalance"), (4, 3, 1, 1))[0]
    return Fault(
        rng.randrange(1, turns),
        kind,
        rng.choice((0.05, 3.0, 8.0, 30.0, 100.0)) if kind == "freeze" else 0.0,
    )
