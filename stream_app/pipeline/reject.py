"""What leaves the line without a story of a lead: what is no lead, strays, and records of which another one tells.

Each has one event, and a mark by its place: a redelivery repeats nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import msgspec

from stream_app.domain.delivery.envelope import Envelope
from stream_app.domain.delivery.recorder import Rows, Step, Why, brief, rejected, strayed
from stream_app.domain.lane.lane import ASK_AGAIN, Ask, Entry, Held
from stream_app.domain.lead.lead import Unreadable, home_partition, identify
from stream_app.domain.lead.resolve import Subject
from stream_app.domain.messages import Lead, Status
from stream_app.domain.policy import Destination, Plan
from stream_app.domain.record import Record, Taken
from stream_app.pipeline.ports import Walk


class Desk(Protocol):
    """A partition as it is seen here; see `ports.Desk`."""

    def marked(self, *places: str) -> bytes | None: ...

    async def admit(self, walk: Walk, ask: Ask, write_ahead: Callable[[Entry], Step]) -> Entry | Held: ...

    def letter(self, entry: Entry, reason: str) -> None: ...

    async def conclude(self, walk: Walk, step: Step) -> None: ...

    async def confirm(self, walk: Walk, key: bytes) -> None: ...


class Clock(Protocol):
    """Time, as an argument."""

    def now_ms(self) -> int: ...


class Aside:
    """Concludes records of one partition that get no row."""

    def __init__(self, plan: Plan, desk: Desk, clock: Clock) -> None:
        self._plan = plan
        self._desk = desk
        self._clock = clock

    async def reject(self, walk: Walk, envelope: Envelope, lead: Lead | Unreadable, bad: Unreadable) -> None:
        """Not a lead, or not one that this configuration knows: one dead letter with the reason, and it is done.

        It counts in its lane's flood of dead letters, and waits while that stops the lane.
        """
        workspace = self._lane_of(walk.taken, lead)
        if not workspace:
            walk.let_next()
            await self._desk.conclude(walk, self._rejection(walk, envelope, lead, bad, None))
            return
        ask = Ask(Destination("", workspace, ()), patient=True, letter=True)
        while await self._desk.admit(walk, ask, lambda by: self._rejection(walk, envelope, lead, bad, by)) is ASK_AGAIN:
            pass

    def _lane_of(self, taken: Taken, lead: Lead | Unreadable) -> str:
        """Whose lane it counts in, as far as anybody can tell; '' if none that lives here."""
        name = lead.workspace or (taken.key or b"").decode("utf-8", "replace")
        if name not in self._plan.workspaces:
            return ""
        return name if home_partition(name, self._plan.partitions, self._plan.pins) == taken.partition else ""

    def _rejection(
        self, walk: Walk, envelope: Envelope, lead: Lead | Unreadable, bad: Unreadable, by: Entry | None
    ) -> Step:
        taken, now_ms = walk.taken, self._clock.now_ms()
        if (mark := self._desk.marked(taken.place, envelope.origin)) is not None:
            return Step([(mark, b"1")], [], [])
        letter = rejected(self._plan, taken, envelope, bad, now_ms)
        why = Why(bad.reason, bad.text)
        step = brief(self._plan, taken, envelope, "rejected_invalid", now_ms, why, _id_of(lead), letter)
        if by is None:
            return step
        self._desk.letter(by, bad.reason)
        return msgspec.structs.replace(step, workspace=by.destination.workspace)

    async def reroute(self, walk: Walk, stray: Subject, home: int) -> None:
        """It came in a partition that is not its workspace's: publish it there once; a second miss parks it."""
        lost = stray.envelope.hops > 0
        why = Why("wrong_partition", f"its workspace lives in partition {home}: check the pins and the producer's key")
        onward = strayed(self._plan, stray, home, lost, self._clock.now_ms(), why)
        await self.tell(walk, stray, "parked" if lost else "rerouted", why, onward)

    async def tell(
        self, walk: Walk, who: Subject, status: Status, why: Why, *records: Record, rows: Rows | None = None
    ) -> None:
        """Its one event, with what is written for it; unless it is concluded."""
        walk.let_next()
        if await self.is_concluded(walk, who.envelope):
            return
        now_ms, there = self._clock.now_ms(), who.destination
        about = self._plan, walk.taken, who.envelope, status
        told = brief(*about, now_ms, why, who.lead_id, *records, there=there, rows=rows)
        await self._desk.conclude(walk, told)

    async def is_concluded(self, walk: Walk, envelope: Envelope) -> bool:
        """Whether a mark says that this record has told its story. To be asked right before a step, after any await."""
        mark = self._desk.marked(walk.taken.place, envelope.origin)
        if mark is not None:
            await self._desk.confirm(walk, mark)
        return mark is not None


def _id_of(lead: Lead | Unreadable) -> str:
    """By which its sender may look for it; '' where none can be read."""
    if isinstance(lead, Unreadable):
        return lead.lead_id
    who = identify(lead)
    return who.lead_id if who is not None else ""
