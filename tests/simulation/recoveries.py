"""Schedules in which Kafka misses the end markers of a transaction, and the take-overs after it are
interrupted.
"""

from collections.abc import Iterator
from dataclasses import replace
from random import Random
from typing import Final, Literal

from tests.simulation.schedule import BREAKS, Arrival, Break, Missed, Schedule, Setup, drawn
from tests.simulation.world import simulate

Where = Literal["rows", "others", "all"]
WHERE: Final[tuple[Where, ...]] = ("rows", "others", "all")

COMMITTED: Final = Schedule(
    "committed",
    setup=Setup(callbacks=False, partitions=1),
    arrivals=(Arrival(0.0, "acme", "a", "p1"), Arrival(0.0, "acme", "b", "p2")),
    workers=2,
)
"""Each of its transactions is committed."""


def missed_once(base: Schedule = COMMITTED) -> list[Schedule]:
    """`base` with no markers at one of its transactions."""
    return [
        replace(base, name=f"{base.name}/missed@{number}-{where}", missed=(Missed(number, where),))
        for number in range(1, simulate(base).ends + 1)
        for where in WHERE
    ]


def aborted() -> list[Schedule]:
    """A commit does not arrive, and the abort by the next fence writes no markers."""
    schedules: list[Schedule] = []
    for lost in simulate(COMMITTED).commits:
        base = replace(COMMITTED, name=f"aborted@{lost}", losses=((lost, "lost"),))
        schedules += missed_once(base)
    return schedules


def interrupted(bases: list[Schedule], breaks: tuple[Break, ...] = BREAKS) -> Iterator[Schedule]:
    """Each of `bases` with one interruption at each request of its take-overs, and with two drawn
    ones more.
    """
    for base in bases:
        requests = simulate(base).recovery_requests
        for first in range(1, requests + 1):
            for how in breaks:
                yield again(base, (first, how))
                rng = Random(f"{base.name} {first} {how}")
                second, third = sorted(rng.sample(range(first + 1, first + 12), 2))
                yield again(
                    base,
                    (first, how),
                    (second, rng.choice(breaks)),
                    (third, rng.choice(breaks)),
                )


def again(base: Schedule, *recovery: tuple[int, Break]) -> Schedule:
    name = ",".join(f"{how}@{number}" for number, how in recovery)
    return replace(base, name=f"{base.name}/{name}", recovery=recovery)


def recovered(seed: int) -> Schedule:
    """A drawn schedule, with faults and losses of every kind, in which markers are missed and
    recoveries break.
    """
    rng = Random(f"recovery {seed}")
    base = drawn(seed)
    missed = [
        Missed(rng.randrange(1, 25), rng.choice(WHERE), rng.choice((0.0, 0.0, 0.02, 1.0)))
        for _ in range(rng.choice((1, 1, 2, 4)))
    ]
    numbers = rng.sample(range(1, 30), rng.choice((1, 2, 3, 5)))
    return replace(
        base,
        name=f"r{seed}",
        missed=tuple(missed),
        recovery=tuple((number, rng.choice(BREAKS)) for number in sorted(numbers)),
        markers_s=rng.choice((0.0, 0.0, 0.001, 0.03)),
    )
