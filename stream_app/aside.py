"""What leaves the line without a story of a lead: what is no lead, strays, and records of which another one tells.

Each has one event, and a mark by its place: a redelivery repeats nothing.
"""

from __future__ import annotations

from typing import Protocol

from stream_app.core.case import Subject
from stream_app.core.envelope import Envelope
from stream_app.core.lead import Unreadable
from stream_app.core.messages import Status
from stream_app.core.policy import Plan
from stream_app.core.record import Record, Taken
from stream_app.core.story import Step, Why, brief, rejected, strayed


class Walk(Protocol):
    """The walk of a record; see `line.Walk`."""

    @property
    def taken(self) -> Taken: ...

    def let_next(self) -> None: ...


class Desk(Protocol):
    """A partition as it is seen here; see `line.Desk`."""

    def marked(self, *places: str) -> bytes | None: ...

    async def commit(self, step: Step) -> None: ...

    async def confirm(self, key: bytes) -> None: ...


class Clock(Protocol):
    """Time, as an argument."""

    def now_ms(self) -> int: ...


class Aside:
    """Concludes records of one partition that get no row."""

    def __init__(self, plan: Plan, desk: Desk, clock: Clock) -> None:
        self._plan = plan
        self._desk = desk
        self._clock = clock

    async def reject(self, walk: Walk, envelope: Envelope, bad: Unreadable) -> None:
        """Not a lead, or not one that this configuration knows: one dead letter with the reason, and it is done."""
        letter = rejected(self._plan, walk.taken, envelope, bad, self._clock.now_ms())
        await self.tell(walk, envelope, "rejected_invalid", Why(bad.reason, bad.text), "", letter)

    async def reroute(self, walk: Walk, stray: Subject, home: int) -> None:
        """It came in a partition that is not its workspace's: publish it there once; a second miss parks it."""
        lost = stray.envelope.hops > 0
        why = Why("wrong_partition", f"its workspace lives in partition {home}: check the pins and the producer's key")
        onward = strayed(self._plan, stray, home, lost, self._clock.now_ms(), why)
        await self.tell(walk, stray.envelope, "parked" if lost else "rerouted", why, stray.lead_id, onward)

    async def tell(
        self, walk: Walk, envelope: Envelope, status: Status, why: Why, lead_id: str, *records: Record
    ) -> None:
        """Its one event, with what is written for it; unless it is concluded."""
        walk.let_next()
        if await self.is_concluded(walk.taken, envelope):
            return
        now_ms = self._clock.now_ms()
        await self._desk.commit(brief(self._plan, walk.taken, envelope, status, now_ms, why, lead_id, *records))

    async def is_concluded(self, taken: Taken, envelope: Envelope) -> bool:
        """Whether a mark says that this record has told its story. To be asked right before a step, after any await."""
        mark = self._desk.marked(taken.place, envelope.origin)
        if mark is not None:
            await self._desk.confirm(mark)
        return mark is not None
