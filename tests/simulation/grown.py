"""A checker of systems whose partitions grow: a new partition has the whole suppression list before it sends a lead."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from stream_app.domain.lead.suppression import person_row
from stream_app.domain.messages import StatusEvent
from stream_app.domain.policy import Plan


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
