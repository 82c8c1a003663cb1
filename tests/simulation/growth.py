"""Schedules in which partitions are added to a running system, and a checker of what the new ones must know.

Each worker is restarted, one after the other. A new partition has the whole suppression list before it sends a lead.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from random import Random
from typing import Any, Final

import msgspec

from stream_app.domain.lane_messages import CommandKind
from stream_app.domain.lead.suppression import person_row
from stream_app.domain.messages import StatusEvent
from stream_app.domain.policy import Plan
from tests.simulation.orders import Order
from tests.simulation.schedule import Arrival, Growth, Schedule, Setup, drawn


def before_growth(plan: Plan) -> Plan:
    """Return the plan as it was before partitions were added: without them and the workspaces that are pinned there."""
    pins = {name: pin for name, pin in plan.pins.items() if pin < plan.hashed}
    if len(pins) == len(plan.pins):
        return plan
    return msgspec.structs.replace(
        plan,
        partitions=plan.hashed,
        workspaces={name: workspace for name, workspace in plan.workspaces.items() if name in pins},
        destinations={alias: each for alias, each in plan.destinations.items() if each.workspace in pins},
        pins=pins,
    )


class GrowthChecks:
    """Compares the suppression list of each added partition with that of partition 0.

    A change that was sent to all partitions reaches each of them in its own time. One that was sent to fewer must be in
    an added partition before it sends its first lead.
    """

    def __init__(self, plan: Plan, problem: Callable[[str], None]) -> None:
        self._plan = plan
        self._problem = problem
        self._sent_to_fewer: set[bytes] = set()
        self._listed: set[tuple[int, bytes]] = set()
        self._was_listed: set[tuple[int, bytes]] = set()

    def asked(self, command: dict[str, Any]) -> None:
        """An operator changes the list."""
        keys = {person_row(person) for person in command["args"].get("people", ())}
        if command["partitions"] < self._plan.partitions and command["kind"] == "suppress":
            self._sent_to_fewer |= keys
        else:
            self._sent_to_fewer -= keys

    def on_row(self, partition: int, key: bytes, *, is_gone: bool) -> None:
        """A row of the list is committed."""
        (self._listed.discard if is_gone else self._listed.add)((partition, key))
        self._was_listed.add((partition, key))

    def on_sending(self, event: StatusEvent, partition: int, keys: set[bytes]) -> None:
        """A lead of a person with these keys is let through."""
        if partition < self._plan.hashed:
            return
        for key in keys & self._sent_to_fewer:
            if (0, key) in self._listed and (partition, key) not in self._was_listed:
                self._problem(f"8: {event.id} is sent from partition {partition}, which lacks a suppressed person")

    def at_rest(self) -> None:
        """Every added partition has the list of partition 0."""
        wanted = {key for number, key in self._listed if number == 0}
        for number in range(self._plan.hashed, self._plan.partitions):
            if missing := wanted - {key for other, key in self._listed if other == number}:
                self._problem(f"8: partition {number} lacks {len(missing)} suppressed persons of partition 0")


# ------------------------------------------------------------------------------------------------------- schedules

_SETUP: Final = Setup(callbacks=False, added=1)
_KINDS: Final[tuple[CommandKind, ...]] = ("suppress", "suppress", "unsuppress")
_LEADS: Final = (
    Arrival(0.0, "acme", "a", "p1"),
    Arrival(0.2, "beta", "b", "p2"),
    Arrival(1.1, "beta", "c", "p2", away=True),
    Arrival(1.2, "delta", "d", "p1"),
    Arrival(1.2, "delta", "e", "p3"),
    Arrival(4.0, "delta", "f", "p4"),
    Arrival(30.0, "delta", "g", "p5"),
    Arrival(30.0, "delta", "h", "p6"),
    Arrival(9.0, "delta", "i", "p7"),
)
_SUPPRESSED: Final = (
    Order(0.1, "", "suppress", "p1"),
    Order(1.5, "", "suppress", "p3"),
    Order(1.6, "", "suppress", "p6"),
    Order(2.5, "", "suppress", "p5", is_late=True),
    Order(8.0, "", "suppress", "p7", is_late=True),
    Order(20.0, "", "unsuppress", "p6"),
)


def late_command() -> list[Schedule]:
    """Partition 0 applies a change of the list that the added partition gets too, and then one that it does not get."""
    leads = Arrival(20.0, "delta", "a", "p1"), Arrival(40.0, "acme", "b", "p2"), Arrival(40.0, "beta", "c", "p2")
    growth = Growth(0.0, 0.1, (5.0, 6.0))
    orders = Order(1.0, "", "unsuppress", "p1"), Order(1.5, "", "suppress", "p1", is_late=True)
    return [Schedule("added_late", setup=_SETUP, arrivals=leads, orders=orders, growth=growth)]


def growth_bases() -> list[Schedule]:
    """Small schedules in which every await is to be broken once.

    In `added_last`, the worker of partition 0 is restarted after that of the new partition.
    """
    first_0, last_0 = Growth(1.0, 2.0, (0.0, 8.0)), Growth(1.0, 2.0, (12.0, 8.0, 0.0))
    to_2 = Order(25.0, "acme", "move", "2")
    return [
        Schedule("added", setup=_SETUP, arrivals=_LEADS, orders=_SUPPRESSED, growth=first_0),
        Schedule("added_last", setup=_SETUP, arrivals=_LEADS, orders=_SUPPRESSED, growth=last_0, workers=3),
        Schedule("added_alone", setup=_SETUP, arrivals=_LEADS, orders=_SUPPRESSED, growth=first_0, workers=1),
        Schedule("added_moved", setup=_SETUP, arrivals=_LEADS, orders=(*_SUPPRESSED, to_2), growth=first_0),
        *late_command(),
    ]


def growing(number: int) -> Schedule:
    """The drawn schedule of a number, in which a partition is added as well."""
    rng, base = Random(f"growing {number}"), drawn(number)
    topics_s = rng.choice((0.0, 0.5, 1.0, 3.0, 21.0))
    config_s = topics_s + rng.choice((0.0, 0.3, 2.0, 30.0))
    arrivals = [
        Arrival(topics_s + rng.choice((0.0, 0.5, 2.0, 10.0, 60.0)), "delta", f"id{person}d", f"p{person}")
        for person in rng.choices(range(4), k=rng.choice((1, 2, 3)))
    ]
    orders: list[Order] = []
    for _ in range(rng.choice((1, 1, 2, 3))):
        at_s, kind = rng.random() * (config_s + 5.0), rng.choice(_KINDS)
        person, times = f"p{rng.randrange(4)}", rng.choice((1, 1, 2))
        orders.append(Order(at_s, "", kind, person, times, is_late=rng.random() < 0.4))
    if rng.random() < 0.3:
        orders.append(Order(config_s + rng.random() * 20.0, rng.choice(("acme", "beta")), "move", "2"))
    return replace(
        base,
        name=f"g{number}",
        setup=replace(base.setup, added=1),
        arrivals=(*base.arrivals, *arrivals),
        orders=(*base.orders, *orders),
        growth=Growth(topics_s, config_s, tuple(rng.random() * 10.0 for _ in range(3))),
        workers=rng.choice((base.workers, 3)),
    )
