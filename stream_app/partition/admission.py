"""The gate: which of the waiting leads is sent next. Hot before retry before bulk, each with its stated share.

Right of way goes by the topic: bulk that comes back (deferred, replayed) came before what is in bulk now. Of the budget
it has what bulk has.

A lead that is let through changes its lane and writes its row ahead in one go, without an await between the two, so
that no commit can hold one without the other.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

import msgspec

from stream_app.domain.dead_letter.reject_admission import let_by
from stream_app.domain.delivery.outcome import Outcome
from stream_app.domain.delivery.recorder import WriteBatch
from stream_app.domain.lane import concurrency
from stream_app.domain.lane import stall_detector as hang
from stream_app.domain.lane.lane import ASK_AGAIN, AdmissionRequest, Grant, Held, admit, stands_still
from stream_app.domain.policy import Destination, Plan, Workspace
from stream_app.partition.in_flight import RIGHT_OF_WAY, GiveUp, InFlight, Recalled, Source
from stream_app.partition.lanes import Lanes
from stream_app.partition.ports import Alarm
from stream_app.pipeline.ports import Clock

_LONGEST_TIMER_S = 60.0  # the wall clock may step while the loop's clock does not
_TELL_AFTER_MS = 1_000  # a shorter hold is not worth an event for each lead
_TOO_OLD = Held("not_after", "its not_after passed before it was sent", 0, "expired")


Answer = tuple[Grant, asyncio.Future[None]] | Held | GiveUp | Recalled
"""The entry with its commit, or why it may not wait here."""


class Waiter:
    """A lead before the gate. Most are answered at once: the future is made for those who have to wait."""

    __slots__ = ("_answer", "_told", "ask", "in_flight", "number", "write_ahead")

    def __init__(
        self, in_flight: InFlight, ask: AdmissionRequest, write_ahead: Callable[[Grant], WriteBatch], number: int
    ) -> None:
        self.in_flight = in_flight
        self.ask = ask
        self.write_ahead = write_ahead
        self.number = number
        self._answer: Answer | None = None
        self._told: asyncio.Future[None] | None = None

    @property
    def left(self) -> bool:
        """It has its answer, or its walk was cancelled."""
        return self._answer is not None or (self._told is not None and self._told.done())

    def tell(self, answer: Answer) -> None:
        self._answer = answer
        if self._told is not None and not self._told.done():
            self._told.set_result(None)

    async def answer(self) -> Answer:
        if self._answer is None:
            self._told = asyncio.get_running_loop().create_future()
            await self._told
        assert self._answer is not None  # tell has set both
        return self._answer


class AdmissionQueue:
    """The leads of one partition that wait for their lane. `lanes` are the partition's own, changed in place.

    shared  whether several workspaces live in the partition. It is open; nobody goes through from `shut` to `open`.
    """

    def __init__(
        self,
        plan: Plan,
        lanes: Lanes,
        shared: bool,
        clock: Clock,
        submit: Callable[[WriteBatch], asyncio.Future[None]],
        alarm: Alarm,
    ) -> None:
        self._plan = plan
        self._lanes = lanes
        self.shared = shared
        self._clock = clock
        self._submit = submit
        self._alarm = alarm
        self._waiters: list[Waiter] = []
        self._in_flight: dict[str, int] = {}
        self._owed: dict[tuple[str, Source], float] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._numbers = 0
        self._open = True
        self._ended = False

    @property
    def waits(self) -> bool:
        """Somebody waits here."""
        return bool(self._waiters)

    def waits_for(self, workspace: str) -> bool:
        """Somebody waits here for this lane."""
        return any(waiter.ask.destination.workspace == workspace for waiter in self._waiters)

    @property
    def in_flight(self) -> int:
        """POSTs under way in this partition."""
        return sum(self._in_flight.values())

    def in_flight_of(self, workspace: str) -> int:
        """Those of one lane."""
        return self._in_flight.get(workspace, 0)

    def shut(self) -> None:
        """Nobody goes through, whatever the lanes say."""
        self._open = False

    def open(self) -> None:
        """Whoever waits may go."""
        self._open = not self._ended
        self.pump()

    def end(self, bug: BaseException) -> None:
        """Shut for good and end the process: whatever it sent on its way out would be uncertain."""
        self._ended = True
        self.shut()
        self._alarm(bug)

    async def admit(
        self, in_flight: InFlight, ask: AdmissionRequest, write_ahead: Callable[[Grant], WriteBatch]
    ) -> Grant | Held:
        """Wait for this lead's turn; see `ports.PartitionState.admit`. Raises GiveUp when the flow is suspended
        meanwhile.
        """
        if in_flight.suspended.is_set():
            raise GiveUp
        if in_flight.recalled:
            raise Recalled
        self._numbers += 1
        waiter = Waiter(in_flight, ask, write_ahead, self._numbers)
        self._waiters.append(waiter)
        self.pump()
        try:
            answer = await waiter.answer()
        except asyncio.CancelledError:
            with suppress(ValueError):  # it may just have been let through
                self._waiters.remove(waiter)
            raise
        if isinstance(answer, GiveUp | Recalled):
            raise answer
        if isinstance(answer, Held):
            return answer
        entry, committed = answer
        await committed
        if not ask.letter:
            name = entry.destination.workspace
            self._lanes.hanging[name] = hang.begun(self._hanging(name), self._clock.now_ms())
        return entry

    def leave(self, entry: Grant, outcome: Outcome | None) -> None:
        """Its POST has ended: the slot is free."""
        name = entry.destination.workspace
        self._in_flight[name] -= 1
        self._lanes.hanging[name] = hang.ended(self._hanging(name), outcome, self._in_flight[name])

    def pump(self) -> None:
        """Let through whoever may go now; set a timer for the next who may go later. Called on every change."""
        try:
            self._pump()
        except Exception as bug:  # noqa: BLE001 - a timer's exception reaches nobody, and the lane would stand still
            self.end(bug)

    def _pump(self) -> None:
        if not self._open:
            return
        now_ms, boot_ms = self._clock.now_ms(), self._clock.boot_ms()
        next_ms: int | None = None
        held: dict[tuple[str, bool], Held] = {}
        for waiter in self._in_turn():
            until_ms, not_after_ms = waiter.ask.not_before_ms, waiter.ask.not_after_ms
            if not_after_ms is not None:
                if now_ms > not_after_ms:
                    self._answer(waiter, _TOO_OLD)
                    continue
                next_ms = _earlier(next_ms, not_after_ms + 1)
            if until_ms <= now_ms:
                kind = (waiter.ask.destination.alias, waiter.ask.bulk)
                answer = held.get(kind) or self._ask(waiter, now_ms, boot_ms)
                if answer is None:
                    continue
                held[kind] = answer
                if self._answer_held(waiter, answer, now_ms):
                    continue
                until_ms = answer.until_ms
            if until_ms:
                next_ms = _earlier(next_ms, until_ms)
        self._set_timer(next_ms, now_ms)

    def is_held(self, destination: Destination, *, bulk: bool) -> bool:
        """Whether such a lead would be held now; see `ports.PartitionState.stands_still`."""
        name, now_ms = destination.workspace, self._clock.now_ms()
        policy, lane, hanging = self._plan.workspaces[name], self._lanes[name], self._hanging(name)
        return stands_still(policy, lane, destination, now_ms, not bulk, hanging)

    def ask_again(self) -> None:
        """An operator has changed what the leads here asked about: each looks at itself anew."""
        for waiter in self._in_turn():
            self._answer(waiter, ASK_AGAIN)

    def give_up(self, suspended: asyncio.Event) -> None:
        """The flow of one inlet is suspended: its leads that wait here come again later."""
        for waiter in [waiter for waiter in self._in_turn() if waiter.in_flight.suspended is suspended]:
            self._answer(waiter, GiveUp())

    def recall(self, in_flight: InFlight) -> None:
        """Have a lead walked again, unless it is sent and concluded before it comes (back) here."""
        in_flight.recalled = True
        for waiter in [waiter for waiter in self._in_turn() if waiter.in_flight is in_flight]:
            self._answer(waiter, Recalled())

    def clear(self) -> None:
        """Forget all: the walks were cancelled, or the partition is gone."""
        self._waiters.clear()
        self._in_flight.clear()
        self._set_timer(None, 0)

    def _ask(self, waiter: Waiter, now_ms: int, boot_ms: int) -> Held | None:
        """None: it went through. All changes of memory for it happen here, at once."""
        destination = waiter.ask.destination
        name = destination.workspace
        policy = self._plan.workspaces[name]
        lane = self._lanes[name]
        if waiter.ask.letter:
            # Where others share the partition, or nothing is to wait, it may not stand in the way.
            waits = not self.shared and policy.hold == "pause"
            self._lanes[name], entry = let_by(policy, lane, destination, now_ms, boot_ms, waits)
        else:
            slots = min(self._plan.line.max_in_flight, concurrency.current(policy.concurrency, lane.concurrency))
            if self._in_flight.get(name, 0) >= slots:
                return Held("in_flight", "", 0)
            hot, hanging = not waiter.ask.bulk, self._hanging(name)
            self._lanes[name], entry = admit(policy, lane, destination, now_ms, boot_ms, hot, hanging)
        if isinstance(entry, Held):
            return self._patient(policy, entry, now_ms) if entry.reason == hang.REASON else entry
        self._waiters.remove(waiter)
        if not waiter.ask.letter:
            self._in_flight[name] = self._in_flight.get(name, 0) + 1
            self._count_share(waiter)
        committed = self._submit(waiter.write_ahead(entry))
        waiter.tell((entry, committed))
        waiter.in_flight.release_next()
        return None

    def _patient(self, policy: Workspace, held: Held, now_ms: int) -> Held:
        """Any answer ends it: where leads do not wait for a lane that stands still, they do so for a mere stall."""
        since_ms = self._hanging(policy.name).since_ms
        until_ms = min(held.until_ms, since_ms + int(self._plan.line.patience_s * 1000))
        waits = (self.shared or policy.hold == "degrade") and now_ms < until_ms
        return Held("in_flight", "", until_ms) if waits else held

    def _hanging(self, workspace: str) -> hang.StallDetector:
        return self._lanes.hanging.get(workspace, hang.NOTHING)

    def _answer_held(self, waiter: Waiter, held: Held, now_ms: int) -> bool:
        """True: it is told that it cannot wait here, or that the lane stands still; False: it goes on waiting."""
        policy = self._plan.workspaces[waiter.ask.destination.workspace]
        wait_ms = held.until_ms - now_ms
        standing = held.status is not None
        # Where others share the partition, or want an answer at once, nobody may stand in the way for long: not even
        # for a Retry-After, which is no standstill. Nor bulk that came back, before replays that may go.
        degrades = policy.hold == "degrade"
        in_the_way = self.shared or degrades or (held.bulk_only and waiter.in_flight.source == "retry")
        if (in_the_way and wait_ms > self._plan.line.patience_s * 1000) or (standing and degrades):
            held = msgspec.structs.replace(held, defer=True)
        elif not standing or waiter.ask.patient or wait_ms <= _TELL_AFTER_MS:
            return False
        self._answer(waiter, held)
        return True

    def _answer(self, waiter: Waiter, answer: Held | GiveUp | Recalled) -> None:
        self._waiters.remove(waiter)
        waiter.tell(answer)

    def _in_turn(self) -> list[Waiter]:
        """Those who wait, in the order in which they may go; one whose walk was just cancelled waits no more."""
        waiters = [waiter for waiter in self._waiters if not waiter.left]
        return sorted(waiters, key=self._turn) if len(waiters) > 1 else waiters

    def _turn(self, waiter: Waiter) -> tuple[int, int]:
        """Sort key: retried in place first, then whoever is owed a turn, then by right of way, then by arrival."""
        source = waiter.in_flight.source
        if waiter.ask.not_before_ms:
            return (-2, waiter.number)
        if self._owed.get((waiter.ask.destination.workspace, source), 0.0) >= 1.0:
            return (-1, waiter.number)
        return (RIGHT_OF_WAY[source], waiter.number)

    def _count_share(self, gone: Waiter) -> None:
        """Each send of a lane owes its share to the sources that wait behind; a send of theirs pays it back."""
        name = gone.ask.destination.workspace
        shares: dict[Source, float] = {
            "retry": self._plan.line.retry_share,
            "bulk": self._plan.line.bulk_share,
        }
        for source, share in shares.items():
            key = (name, source)
            if source == gone.in_flight.source:
                self._owed[key] = max(0.0, self._owed.get(key, 0.0) - 1.0)
            elif any(w.in_flight.source == source and w.ask.destination.workspace == name for w in self._waiters):
                self._owed[key] = min(2.0, self._owed.get(key, 0.0) + share)

    def _set_timer(self, at_ms: int | None, now_ms: int) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if at_ms is not None:
            delay_s = min(_LONGEST_TIMER_S, max(0.001, (at_ms - now_ms) / 1000))
            self._timer = asyncio.get_running_loop().call_later(delay_s, self.pump)


def _earlier(at_ms: int | None, other_ms: int) -> int:
    return other_ms if at_ms is None else min(at_ms, other_ms)
