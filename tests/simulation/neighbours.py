"""Several lanes in one partition, with windows so small that leads are deferred; and a checker of
the healthy lanes.

Drawn schedules with faults of every kind; and some without faults, in which a well lane must not
notice the others.
"""

from collections.abc import Callable, Iterable
from dataclasses import replace
from random import Random
from typing import Final

from stream_app.domain.model.messages import StatusEvent
from stream_app.domain.model.records import ConsumedRecord
from tests.simulation.orders import Order
from tests.simulation.schedule import Arrival, Schedule, Setup, drawn

SOON_MS: Final = 1_000
WELL: Final = "lane0"


class NeighbourChecks:
    """Of some workspaces, each lead is sent within a second, and none is deferred."""

    def __init__(self, well: Iterable[str], problem: Callable[[str], None]) -> None:
        self._well = frozenset(well)
        self._problem = problem
        self._published_ms: dict[str, int] = {}

    def published(self, consumed: ConsumedRecord) -> None:
        self._published_ms[consumed.record_id] = consumed.timestamp_ms

    def on_event(self, event: StatusEvent) -> None:
        if event.workspace not in self._well:
            return
        if event.status == "deferred":
            self._problem(f"fair: {event.id} is deferred, though its lane is well")
        waited_ms = event.at_ms - self._published_ms[event.origin]
        if event.status == "sending" and waited_ms > SOON_MS:
            self._problem(
                f"fair: {event.id} is sent {waited_ms} ms after its publication, though its "
                "lane is well",
            )


def crowded(seed: int) -> Schedule:
    """A drawn schedule whose leads are of four lanes in one partition, some of them in a burst."""
    rng = Random(f"neighbours {seed}")
    base = drawn(seed)
    setup = replace(
        base.setup,
        shared=True,
        lanes=2,
        max_waiting=rng.choice((1, 2, 3, 500)),
        patience_s=rng.choice((0.5, 2.0)),
        burst=rng.choice((1, 2, 10)),
    )
    lanes = ("acme", "gamma", "lane0", "lane1")
    arrivals = [
        replace(arrival, workspace=rng.choice(lanes))
        for arrival in base.arrivals
        if arrival.workspace != "beta"
    ]
    at_s = rng.choice((0.0, 1.0, 3.0))
    workspace = rng.choice(lanes)
    topic = rng.choice(("leads", "bulk"))
    burst = [
        Arrival(at_s, workspace, f"more{number}", f"q{number}", topic)  # type: ignore[arg-type]  # of two literals
        for number in range(rng.choice((2, 4, 8)))
    ]
    return replace(base, name=f"n{seed}", setup=setup, arrivals=(*arrivals, *burst))


def troubled(number: int) -> Schedule:
    """No faults: one lane bursts or is paused, and another one has all that it needs."""
    rng = Random(f"troubled {number}")
    per_s = rng.choice((2.0, 8.0))
    setup = Setup(
        callbacks=False,
        hold=rng.choice(("pause", "degrade")),
        lanes=2,
        rate_per_s=per_s,
        burst=2,
        max_waiting=rng.choice((4, 6, 500)),
        max_in_flight=100,
    )
    ill = [
        Arrival(3.0, "acme", f"a{nth}", f"p{nth}", rng.choice(("leads", "leads", "bulk")))
        for nth in range(rng.choice((8, 15)))
    ]
    rest_s = 4 / per_s
    well = [
        Arrival(at_s, WELL, f"w{batch}-{nth}", f"w{batch}-{nth}")
        for batch in range(4)
        for at_s in [3.0 + batch * rest_s]
        for nth in range(rng.choice((1, 2, 3)))
    ]
    # a new lane has an empty bucket, and this one fills it until then
    first = Arrival(1.0, WELL, "w", "w")
    orders = rng.choice(((), (Order(1.0, "acme", "pause"), Order(8.0, "acme", "resume"))))
    return Schedule(
        f"t{number}",
        number,
        setup,
        (first, *ill, *well),
        orders=orders,
        workers=1,
        well=(WELL,),
        spacing_s=0.005,
    )
