"""Admission: which of the waiting leads is sent next. Hot before retry before bulk, each with its configured share.

The topic decides the priority. Bulk leads that return (deferred, replayed) go before new bulk leads, but share the
budget of bulk.

An admitted lead changes its lane and writes its row ahead without an await between the two. So no transaction can
contain one without the other.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

import msgspec

from stream_app.domain.delivery.outcome import Outcome
from stream_app.domain.delivery.recorder import WriteBatch
from stream_app.domain.lane import concurrency, stall_detector
from stream_app.domain.lane.admission import (
    ASK_AGAIN,
    AdmissionRequest,
    Grant,
    Held,
    admit,
    admit_dead_letter,
    at_limit,
    is_held,
)
from stream_app.domain.policy import Destination, Plan, Workspace
from stream_app.partition.in_flight import PRIORITY, GiveUp, InFlight, Recalled, Source
from stream_app.partition.lanes import Lanes
from stream_app.partition.ports import Alarm
from stream_app.pipeline.ports import Clock

_LONGEST_TIMER_S = 60.0  # the wall clock may step while the loop's clock does not
_RECORD_HOLD_AFTER_MS = 1_000  # a shorter hold is not worth an event for each lead
_TOO_OLD = Held("not_after", "its not_after passed before it was sent", 0, "expired")


Answer = tuple[Grant, asyncio.Future[None]] | Held | GiveUp | Recalled
"""The grant with its commit, or why the lead must not wait here."""


class Waiter:
    """A lead that waits for admission. Most are answered at once; the future is made only for those that wait."""

    __slots__ = ("_answer", "_answered", "in_flight", "number", "request", "write_ahead")

    def __init__(
        self, in_flight: InFlight, request: AdmissionRequest, write_ahead: Callable[[Grant], WriteBatch], number: int
    ) -> None:
        self.in_flight = in_flight
        self.request = request
        self.write_ahead = write_ahead
        self.number = number
        self._answer: Answer | None = None
        self._answered: asyncio.Future[None] | None = None

    @property
    def left(self) -> bool:
        """True if it has its answer, or its task was cancelled."""
        return self._answer is not None or (self._answered is not None and self._answered.done())

    def resolve(self, answer: Answer) -> None:
        self._answer = answer
        if self._answered is not None and not self._answered.done():
            self._answered.set_result(None)

    async def answer(self) -> Answer:
        if self._answer is None:
            self._answered = asyncio.get_running_loop().create_future()
            await self._answered
        assert self._answer is not None  # resolve sets both
        return self._answer


class AdmissionQueue:
    """The leads of one partition that wait for their lane. No lead is admitted between `shut` and `open`.

    Args:
        plan: The configuration.
        lanes: The lanes of the partition, changed in place.
        shared: True if several workspaces live in the partition.
        clock: The time.
        submit: Submits a step to the partition's committer.
        alarm: Ends the process after a bug.
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
        self.on_breaker_open: Callable[[Destination], None] = lambda _: None
        self._waiters: list[Waiter] = []
        self._in_flight: dict[str, int] = {}
        self._owed: dict[tuple[str, Source], float] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._numbers = 0
        self._open = True
        self._ended = False

    @property
    def waits(self) -> bool:
        """True if a lead waits."""
        return bool(self._waiters)

    def waits_for(self, workspace: str) -> bool:
        """True if a lead waits for this lane."""
        return any(waiter.request.destination.workspace == workspace for waiter in self._waiters)

    @property
    def in_flight(self) -> int:
        """How many POSTs are under way in this partition."""
        return sum(self._in_flight.values())

    def in_flight_of(self, workspace: str) -> int:
        """How many POSTs of one lane are under way."""
        return self._in_flight.get(workspace, 0)

    def shut(self) -> None:
        """Admit no lead, whatever the lanes say."""
        self._open = False

    def open(self) -> None:
        """Admit leads again."""
        self._open = not self._ended
        self.pump()

    def end(self, bug: BaseException) -> None:
        """Shut for good and end the process. A send during its shutdown would be uncertain."""
        self._ended = True
        self.shut()
        self._alarm(bug)

    async def admit(
        self, in_flight: InFlight, request: AdmissionRequest, write_ahead: Callable[[Grant], WriteBatch]
    ) -> Grant | Held:
        """Wait until the lane admits this lead; see `pipeline.ports.PartitionState.admit`.

        Raises:
            GiveUp: The stream is suspended.
            Recalled: A callback waits for the lock of this lead.
        """
        if in_flight.suspended.is_set():
            raise GiveUp
        if in_flight.recalled:
            raise Recalled
        self._numbers += 1
        waiter = Waiter(in_flight, request, write_ahead, self._numbers)
        self._waiters.append(waiter)
        self.pump()
        try:
            answer = await waiter.answer()
        except asyncio.CancelledError:
            with suppress(ValueError):  # it may just have been admitted
                self._waiters.remove(waiter)
            raise
        if isinstance(answer, GiveUp | Recalled):
            raise answer
        if isinstance(answer, Held):
            return answer
        grant, committed = answer
        await committed
        if not request.as_dead_letter:
            name = grant.destination.workspace
            self._lanes.stalls[name] = stall_detector.begun(self._stall(name), self._clock.now_ms())
        return grant

    def leave(self, grant: Grant, outcome: Outcome | None) -> None:
        """Free the slot of a POST that has ended."""
        name = grant.destination.workspace
        self._in_flight[name] -= 1
        self._lanes.stalls[name] = stall_detector.ended(
            self._stall(name), outcome, self._in_flight[name], self._clock.now_ms()
        )

    def pump(self) -> None:
        """Admit each lead that may go now, and set a timer for the next one. Called on every change."""
        try:
            self._pump()
        except Exception as bug:  # noqa: BLE001 - an exception in a timer is only logged, and the lane would stall
            self.end(bug)

    def _pump(self) -> None:
        if not self._open:
            return
        now_ms, boot_ms = self._clock.now_ms(), self._clock.boot_ms()
        next_ms: int | None = None
        held: dict[tuple[str, bool], Held] = {}
        for waiter in self._in_order():
            until_ms, not_after_ms = waiter.request.not_before_ms, waiter.request.not_after_ms
            if not_after_ms is not None:
                if now_ms > not_after_ms:
                    self._answer(waiter, _TOO_OLD)
                    continue
                next_ms = _earlier(next_ms, not_after_ms + 1)
            if until_ms <= now_ms:
                kind = (waiter.request.destination.alias, waiter.request.bulk)
                answer = held.get(kind) or self._try_admit(waiter, now_ms, boot_ms)
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
        """True if such a lead would be held now; see `pipeline.ports.PartitionState.is_held`."""
        name, now_ms = destination.workspace, self._clock.now_ms()
        policy, lane, stall = self._plan.workspaces[name], self._lanes[name], self._stall(name)
        return is_held(policy, lane, destination, now_ms, not bulk, stall)

    def ask_again(self) -> None:
        """Have each waiting lead check again whether it may be sent: an operator has changed something."""
        for waiter in self._in_order():
            self._answer(waiter, ASK_AGAIN)

    def give_up(self, suspended: asyncio.Event) -> None:
        """Give up the waiting leads of a suspended stream: they are delivered again later."""
        for waiter in [waiter for waiter in self._in_order() if waiter.in_flight.suspended is suspended]:
            self._answer(waiter, GiveUp())

    def recall(self, in_flight: InFlight) -> None:
        """Have a lead start again from its rows, unless it is concluded before it waits here (again)."""
        in_flight.recalled = True
        for waiter in [waiter for waiter in self._in_order() if waiter.in_flight is in_flight]:
            self._answer(waiter, Recalled())

    def clear(self) -> None:
        """Forget all leads: their tasks were cancelled, or the partition is no longer ours."""
        self._waiters.clear()
        self._in_flight.clear()
        self._set_timer(None, 0)

    def _try_admit(self, waiter: Waiter, now_ms: int, boot_ms: int) -> Held | None:
        """Admit the lead (None), or say why its lane holds it. Changes memory without an await."""
        destination = waiter.request.destination
        name = destination.workspace
        policy = self._plan.workspaces[name]
        lane = self._lanes[name]
        if waiter.request.as_dead_letter:
            # It must not block other workspaces of the partition, or a workspace whose leads are not to wait.
            waits = not self.shared and policy.hold == "pause"
            self._lanes[name], answer = admit_dead_letter(policy, lane, destination, now_ms, boot_ms, waits)
        else:
            slots = min(self._plan.delivery.max_in_flight, concurrency.current(policy.concurrency, lane.concurrency))
            if self._in_flight.get(name, 0) >= slots:
                answer = at_limit(policy, lane, self._stall(name), now_ms)
            else:
                hot, stall = not waiter.request.bulk, self._stall(name)
                self._lanes[name], answer = admit(policy, lane, destination, now_ms, boot_ms, hot, stall)
        if isinstance(answer, Held):
            if answer.reason == "breaker_open":
                self.on_breaker_open(destination)
            return self._wait_for_stall(policy, answer, now_ms) if answer.reason == stall_detector.REASON else answer
        self._waiters.remove(waiter)
        if not waiter.request.as_dead_letter:
            self._in_flight[name] = self._in_flight.get(name, 0) + 1
            self._count_share(waiter)
        committed = self._submit(waiter.write_ahead(answer))
        waiter.resolve((answer, committed))
        waiter.in_flight.release_next()
        return None

    def _wait_for_stall(self, policy: Workspace, held: Held, now_ms: int) -> Held:
        """Let a lead wait for a short stall even if it must not wait for a held lane: any answer ends a stall."""
        since_ms = self._stall(policy.name).since_ms
        until_ms = min(held.until_ms, since_ms + int(self._plan.delivery.patience_s * 1000))
        waits = (self.shared or policy.hold == "degrade") and now_ms < until_ms
        return Held("in_flight", "", until_ms) if waits else held

    def _stall(self, workspace: str) -> stall_detector.StallDetector:
        return self._lanes.stalls.get(workspace, stall_detector.NOTHING)

    def _answer_held(self, waiter: Waiter, held: Held, now_ms: int) -> bool:
        """Answer a held lead if it must not wait here, or if the hold is to be recorded. False: it goes on waiting."""
        policy = self._plan.workspaces[waiter.request.destination.workspace]
        wait_ms = held.until_ms - now_ms
        is_hold = held.status is not None
        # A lead must not block others for long if workspaces share the partition or leads are to be served at once,
        # not even for a Retry-After. Returned bulk leads must not block replays that may go.
        degrades = policy.hold == "degrade"
        blocks = self.shared or degrades or (held.bulk_only and waiter.in_flight.source == "retry")
        if (blocks and wait_ms > self._plan.delivery.patience_s * 1000) or (is_hold and degrades):
            held = msgspec.structs.replace(held, defer=True)
        elif not is_hold or waiter.request.patient or wait_ms <= _RECORD_HOLD_AFTER_MS:
            return False
        self._answer(waiter, held)
        return True

    def _answer(self, waiter: Waiter, answer: Held | GiveUp | Recalled) -> None:
        self._waiters.remove(waiter)
        waiter.resolve(answer)

    def _in_order(self) -> list[Waiter]:
        """The waiting leads in the order in which they may go, without those whose task was cancelled."""
        waiters = [waiter for waiter in self._waiters if not waiter.left]
        return sorted(waiters, key=self._order) if len(waiters) > 1 else waiters

    def _order(self, waiter: Waiter) -> tuple[int, int]:
        """Sort key: retries in place first, then sources that are owed a turn, then by priority, then by arrival."""
        source = waiter.in_flight.source
        if waiter.request.not_before_ms:
            return (-2, waiter.number)
        if self._owed.get((waiter.request.destination.workspace, source), 0.0) >= 1.0:
            return (-1, waiter.number)
        return (PRIORITY[source], waiter.number)

    def _count_share(self, admitted: Waiter) -> None:
        """Credit the sources that wait behind a send with their share; a send of theirs uses it up."""
        name = admitted.request.destination.workspace
        shares: dict[Source, float] = {
            "retry": self._plan.shares.retry,
            "bulk": self._plan.shares.bulk,
        }
        for source, share in shares.items():
            key = (name, source)
            if source == admitted.in_flight.source:
                self._owed[key] = max(0.0, self._owed.get(key, 0.0) - 1.0)
            elif any(w.in_flight.source == source and w.request.destination.workspace == name for w in self._waiters):
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
