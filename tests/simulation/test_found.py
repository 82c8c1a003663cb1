"""What runs of the simulation have found in the line, each as the smallest schedule that shows it.

What needs a fault at one certain turn is among the counted schedules, and has a mutant that undoes
the repair:

- `retry_after_forgotten_with_memory`: a Retry-After came, its step aborted, and it was
  forgotten with the rest.
- A stale row said "done", and a worker that had been evicted acked the record unconcluded. No
  schedule reaches it any more, because an eviction is recognised at the assignment;
  `tests/partition/test_owner.py` breaks the owner itself.
- `given_up_makes_no_room`: records given up while the broker was away made no room, and `serve`
  never ended.
- `dropped_marks_are_asked_for_again`: a cut-off worker took over again and repeated the reports of
  others.
- `acks_overtake_each_other`: two records that finished at once acked in the wrong order.
"""

from dataclasses import replace

import pytest

from tests.simulation.schedule import Arrival, Schedule, Setup
from tests.simulation.world import simulate

A = Arrival(0.0, "acme", "a", "p1")

SMALLEST = [
    # A second copy of the first wait came in during the second one: it was decided before its grace
    # was over.
    Schedule(
        "copies of an uncertain send",
        setup=Setup(uncertain="resend"),
        arrivals=(A,),
        fates=("lost_after", "lost_before"),
        replay_again=1.0,
    ),
    # A lead that was too old when it came made its lane's first step: no lane was there to take a
    # snapshot of.
    Schedule("first of its lane and too old", arrivals=(replace(A, not_after_s=-1.0),)),
    # not_after was looked at only before admission: a lead that waited for it was sent hours late.
    Schedule(
        "too old while it waits",
        setup=Setup(credits_per_day=20),
        arrivals=(A, Arrival(0.0, "acme", "b", "p2", not_after_s=30.0)),
    ),
    # Its own row was of an ended history, so no code checked whether its person had been bought
    # under another id.
    Schedule(
        "same person behind an ended row",
        arrivals=(A, Arrival(1.0, "acme", "other", "p1"), Arrival(2.0, "acme", "a", "p1")),
        fates=("poison",),
    ),
    # A person was known only from its first send on: deferred before it, it was bought again under
    # another id.
    Schedule(
        "same person while the first is deferred",
        setup=Setup(hold="degrade", trips_after=1),
        arrivals=(
            Arrival(0.0, "acme", "z", "p0"),
            Arrival(0.4, "acme", "a", "p1"),
            Arrival(0.6, "acme", "other", "p1"),
        ),
        fates=("busy",),
    ),
    # Sent again by policy and then expired (or refused as poison): the row said that it never was
    # at Clay.
    Schedule(
        "maybe at Clay, then poison",
        setup=Setup(uncertain="resend"),
        arrivals=(A, Arrival(100.0, "acme", "a", "p1")),
        fates=("lost_after", "poison"),
    ),
]


@pytest.mark.parametrize("schedule", SMALLEST, ids=lambda schedule: schedule.name)
def test_found(schedule: Schedule) -> None:
    outcome = simulate(schedule, trace=True)
    assert not outcome.problems, "\n".join(outcome.trace)
