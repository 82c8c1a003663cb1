"""Admission: which of the waiting leads is sent next. Hot before retry before bulk, each with its configured share.

The topic decides the priority. Bulk leads that return (deferred, replayed) go before new bulk leads, but share the
budget of bulk.

Each lane has a queue of its own. Where several workspaces share a partition, a lead that waits does not hold back the
records behind it. Such leads stand in a window of the partition, and none waits there for longer than `patience_s`. A
lead whose turn comes later is deferred until about then. If the window is full, the lane with the longest line gives up
its last lead. So a lane that cannot keep up never takes the place of another one.

An admitted lead changes its lane and writes its row ahead without an await between the two. So no transaction can
contain one without the other.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import nullcontext
from operator import attrgetter
from typing import Final

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
from stream_app.domain.lane.turns import LANE_BUSY, Horizon, postpone, sends_per_s
from stream_app.domain.policy import Destination, Plan, Workspace
from stream_app.domain.text import count
from stream_app.partition.in_flight import GiveUp, InFlight, Limiter, Recalled, Source
from stream_app.partition.lane_queue import Answer, Kind, LaneQueue, Waiter
from stream_app.partition.lanes import Lanes
from stream_app.partition.ports import Alarm
from stream_app.partition.timetable import Timetable
from stream_app.pipeline.ports import Clock

_LONGEST_TIMER_S = 60.0  # the wall clock may step while the loop's clock does not
_RECORD_HOLD_AFTER_MS: Final = 1_000  # a shorter hold is not worth an event for each lead
_IN_FLIGHT: Final = "in_flight"  # held until a request ends, which may be at any moment
_TOO_OLD: Final = Held("not_after", "its not_after passed before it was sent", 0, "expired")


class AdmissionQueue:
    """The leads of one partition that wait for their lane. No lead is admitted between `shut` and `open`.

    Args:
        number: The partition.
        plan: The configuration. It may change in place.
        lanes: The lanes of the partition, changed in place.
        clock: The time.
        submit: Submits a step to the partition's committer.
        alarm: Ends the process after a bug.
        limiter_of: The limiter that counts a record.
    """

    def __init__(
        self,
        number: int,
        plan: Plan,
        lanes: Lanes,
        clock: Clock,
        submit: Callable[[WriteBatch], asyncio.Future[None]],
        alarm: Alarm,
        limiter_of: Callable[[InFlight], Limiter],
    ) -> None:
        self._number = number
        self._plan = plan
        self._lanes = lanes
        self._clock = clock
        self._submit = submit
        self._alarm = alarm
        self._limiter_of = limiter_of
        self._patience_ms = int(plan.delivery.patience_s * 1000)
        self._shares: dict[Source, float] = {"retry": plan.shares.retry, "bulk": plan.shares.bulk}
        self._waiters: dict[InFlight, Waiter] = {}
        self._waiting_bytes = 0
        self._queues: dict[str, LaneQueue] = {}
        self._lengths: Timetable[str] = Timetable()
        self._looks: Timetable[str] = Timetable()  # when to look at a lane again
        self._horizons: dict[tuple[str, bool], Horizon] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at_ms: int | None = None
        self._looked_at_ms = 0
        self._arrivals = 0
        self._open = True
        self._ended = False
        self.on_breaker_open: Callable[[Destination], None] = lambda _: None

    @property
    def shared(self) -> bool:
        """True if several workspaces live in the partition."""
        return len(self._plan.residents(self._number)) > 1

    def waits_for(self, workspace: str) -> bool:
        """True if a lead waits for this lane."""
        return bool(self._queues.get(workspace))

    @property
    def waiting(self) -> int:
        """How many leads wait."""
        return len(self._waiters)

    @property
    def in_flight(self) -> int:
        """How many POSTs are under way in this partition."""
        return sum(queue.in_flight for queue in self._queues.values())

    def in_flight_of(self, workspace: str) -> int:
        """How many POSTs of one lane are under way."""
        queue = self._queues.get(workspace)
        return queue.in_flight if queue is not None else 0

    def shut(self) -> None:
        """Admit no lead, whatever the lanes say."""
        self._open = False

    def open(self) -> None:
        """Admit leads again."""
        self._open = not self._ended
        if self._open and self.shared:
            for waiter in self._waiters.values():
                waiter.in_flight.release_next()
        self.pump()

    def end(self, bug: BaseException) -> None:
        """Shut for good and end the process. A send during its shutdown would be uncertain."""
        self._ended = True
        self.shut()
        self._alarm(bug)

    # -------------------------------------------------------------------------------------------------- one lead

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
        waiter = self._enter(in_flight, request, write_ahead)
        try:
            answer = await self._answer_to(waiter)
        except asyncio.CancelledError:
            if self._waiters.get(in_flight) is waiter:  # otherwise it has just been answered
                self._remove(waiter)
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

    async def _answer_to(self, waiter: Waiter) -> Answer:
        if waiter.answered.done():
            return waiter.answered.result()
        limiter = self._limiter_of(waiter.in_flight)
        # The window bounds the leads that wait in a shared partition, so they take no place of the limiter.
        with limiter.outside() if self.shared else nullcontext():
            return await waiter.answered

    def _enter(
        self, in_flight: InFlight, request: AdmissionRequest, write_ahead: Callable[[Grant], WriteBatch]
    ) -> Waiter:
        """Put a lead into the queue of its lane, and admit or defer it if that can be decided now."""
        name, now_ms, boot_ms = request.destination.workspace, self._clock.now_ms(), self._clock.boot_ms()
        if not in_flight.arrival:
            self._arrivals += 1
            in_flight.arrival = self._arrivals
        if in_flight.waits_since_ms is None:
            in_flight.waits_since_ms = boot_ms + max(0, request.not_before_ms - now_ms)
        waiter = self._waiters[in_flight] = Waiter(in_flight, request, write_ahead, in_flight.waits_since_ms)
        self._waiting_bytes += waiter.size
        queue = self._queues.get(name)
        if queue is None:
            queue = self._queues[name] = LaneQueue()
        queue.add(waiter)
        self._lengths.set(name, len(queue))
        self._set_wake(queue, waiter, now_ms, boot_ms)
        self._look_at(name)
        if self._open and self.shared:
            in_flight.release_next()
            self._bound_wait(name, queue, waiter)
            self._bound_window()
        return waiter

    def leave(self, grant: Grant, outcome: Outcome | None) -> None:
        """Free the slot of a POST that has ended."""
        name = grant.destination.workspace
        queue = self._queues[name]
        queue.in_flight -= 1
        self._lanes.stalls[name] = stall_detector.ended(
            self._stall(name), outcome, queue.in_flight, self._clock.now_ms()
        )

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
        for waiter in self._in_order():
            if waiter.in_flight.suspended is suspended:
                self._answer(waiter, GiveUp())

    def recall(self, in_flight: InFlight) -> None:
        """Have a lead start again from its rows, unless it is concluded before it waits here (again)."""
        in_flight.recalled = True
        if (waiter := self._waiters.get(in_flight)) is not None:
            self._answer(waiter, Recalled())

    def clear(self) -> None:
        """Forget all leads: their tasks were cancelled, or the partition is no longer ours."""
        self._waiters.clear()
        self._queues.clear()
        self._waiting_bytes = 0
        self._lengths, self._looks = Timetable(), Timetable()
        self._set_timer(0)

    # -------------------------------------------------------------------------------------------------- the lanes

    def pump(self) -> None:
        """Look at all lanes."""
        now_ms, boot_ms = self._clock.now_ms(), self._clock.boot_ms()
        for name, queue in list(self._queues.items()):
            for waiter in queue:
                self._set_wake(queue, waiter, now_ms, boot_ms)
            self.pump_lane(name)

    def pump_lane(self, name: str) -> None:
        """Admit each lead of a lane that may go now, and set a timer for the next one. Called on every change."""
        try:
            self._look_at(name)
        except Exception as bug:  # noqa: BLE001 - an exception in a timer is only logged, and the lane would stall
            self.end(bug)

    def _look_at(self, name: str) -> None:
        queue = self._queues.get(name)
        if queue is None or not self._open:
            return
        now_ms, boot_ms = self._clock.now_ms(), self._clock.boot_ms()
        woken = queue.pop_woken(now_ms)
        for waiter in woken:
            self._set_wake(queue, waiter, now_ms, boot_ms)
        queue.held = held = self._admit_all(queue, now_ms, boot_ms)
        for kind, answer in held.items():
            self._answer_held(name, queue, kind, answer, now_ms)
        for waiter in woken:
            self._end_wait(name, queue, waiter, now_ms, boot_ms)
        times = [answer.until_ms for kind, answer in held.items() if answer.until_ms and queue.has(kind)]
        if queue.next_wake_ms is not None:
            times.append(queue.next_wake_ms)
        self._looks.set(name, min(times, default=None))
        self._set_timer(now_ms)

    def _admit_all(self, queue: LaneQueue, now_ms: int, boot_ms: int) -> dict[Kind, Held]:
        """Admit the leads of a lane in their order. Returns why the first one of each kind that is left must wait."""
        held: dict[Kind, Held] = {}
        while (waiter := queue.first(held)) is not None:
            if waiter.answered.done() or self._is_too_old(waiter, now_ms):  # done: its task was cancelled
                self._answer(waiter, _TOO_OLD)
            elif (answer := self._try_admit(queue, waiter, now_ms, boot_ms)) is not None:
                held[waiter.kind] = answer
        return held

    def _try_admit(self, queue: LaneQueue, waiter: Waiter, now_ms: int, boot_ms: int) -> Held | None:
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
            if queue.in_flight >= slots:
                answer = at_limit(policy, lane, self._stall(name), now_ms)
            else:
                hot, stall = not waiter.request.bulk, self._stall(name)
                self._lanes[name], answer = admit(policy, lane, destination, now_ms, boot_ms, hot, stall)
        if isinstance(answer, Held):
            if answer.reason == "breaker_open":
                self.on_breaker_open(destination)
            return self._wait_for_stall(policy, answer, now_ms) if answer.reason == stall_detector.REASON else answer
        self._remove(waiter)
        if not waiter.request.as_dead_letter:
            queue.in_flight += 1
            queue.count_share(waiter, self._shares)
        waiter.in_flight.waits_since_ms = None
        committed = self._submit(waiter.write_ahead(answer))
        waiter.answered.set_result((answer, committed))
        waiter.in_flight.release_next()
        return None

    def _wait_for_stall(self, policy: Workspace, held: Held, now_ms: int) -> Held:
        """Let a lead wait for a short stall even if it must not wait for a held lane: any answer ends a stall."""
        until_ms = min(held.until_ms, self._stall(policy.name).since_ms + self._patience_ms)
        waits = (self.shared or policy.hold == "degrade") and now_ms < until_ms
        return Held(_IN_FLIGHT, "", until_ms) if waits else held

    def _stall(self, workspace: str) -> stall_detector.StallDetector:
        return self._lanes.stalls.get(workspace, stall_detector.NOTHING)

    # ------------------------------------------------------------------------------------------- holds and patience

    def _answer_held(self, name: str, queue: LaneQueue, kind: Kind, held: Held, now_ms: int) -> None:
        """Answer the leads of a held kind that must not wait here, and those whose hold is to be recorded."""
        wait_ms = _ends_ms(held) - now_ms
        is_hold = held.status is not None
        degrades = self._plan.workspaces[name].hold == "degrade"
        # A lead must not wait for long if workspaces share the partition or leads are to be served at once, not even
        # for a Retry-After. Returned bulk leads must not block replays that may go.
        if (is_hold and degrades) or (wait_ms > self._patience_ms and (self.shared or degrades)):
            for waiter in queue.ready(kind):
                self._defer(name, queue, waiter, held, now_ms)
            return
        if held.bulk_only and wait_ms > self._patience_ms:
            for waiter in queue.ready(kind):
                if waiter.in_flight.source == "retry":
                    self._defer(name, queue, waiter, held, now_ms)
        if is_hold and wait_ms > _RECORD_HOLD_AFTER_MS:
            for waiter in queue.unreported(kind):
                self._answer(waiter, held)

    def _bound_wait(self, name: str, queue: LaneQueue, waiter: Waiter) -> None:
        """Defer a lead that has just arrived if its turn comes later than it may wait."""
        if not waiter.ready or waiter.answered.done():
            return
        now_ms, boot_ms = self._clock.now_ms(), self._clock.boot_ms()
        held = queue.held[waiter.kind]
        if max(now_ms, _ends_ms(held)) + self._line_ms(name, queue, waiter) > self._waits_until_ms(
            waiter, now_ms, boot_ms
        ):
            self._defer(name, queue, waiter, held if held.status else self._busy(queue), now_ms)

    def _end_wait(self, name: str, queue: LaneQueue, waiter: Waiter, now_ms: int, boot_ms: int) -> None:
        """Answer a lead that has waited for as long as it may."""
        if waiter.answered.done():
            return
        if self._is_too_old(waiter, now_ms):
            self._answer(waiter, _TOO_OLD)
        elif self.shared and waiter.ready and now_ms >= self._waits_until_ms(waiter, now_ms, boot_ms):
            held = queue.held[waiter.kind]
            self._defer(name, queue, waiter, held if held.status else self._busy(queue), now_ms)

    def _bound_window(self) -> None:
        """Defer the last leads of the longest lines until the waiting leads fit into the window."""
        delivery = self._plan.delivery
        while len(self._waiters) > delivery.max_waiting or self._waiting_bytes > delivery.max_waiting_bytes:
            name = self._lengths.highest_key
            queue = self._queues[name]
            self._defer(name, queue, queue.last(), self._busy(queue), self._clock.now_ms())

    def _busy(self, queue: LaneQueue) -> Held:
        return Held(LANE_BUSY, f"{count(len(queue), 'lead')} of its workspace wait for the lane", 0)

    def _defer(self, name: str, queue: LaneQueue, waiter: Waiter, held: Held, now_ms: int) -> None:
        """Answer a lead with the time of about its turn, behind the leads that were deferred before."""
        policy, lane = self._plan.workspaces[name], self._lanes[name]
        at_ms = max(held.back_ms or _ends_ms(held), now_ms + self._line_ms(name, queue, waiter))
        per_s, key = sends_per_s(policy, lane), (name, waiter.request.bulk)
        returned = waiter.in_flight.source == "retry"
        self._horizons[key], due_ms = postpone(self._horizons.get(key, Horizon()), at_ms, per_s, returned=returned)
        self._answer(waiter, msgspec.structs.replace(held, defer=True, back_ms=due_ms))

    def _line_ms(self, name: str, queue: LaneQueue, waiter: Waiter) -> int:
        """How long the lane needs for the leads that go before this one."""
        if not waiter.ready:
            return 0
        per_s = sends_per_s(self._plan.workspaces[name], self._lanes[name])
        return round(queue.sends_before(waiter, self._shares.get(waiter.in_flight.source, 0.0)) * 1000 / per_s)

    def _waits_until_ms(self, waiter: Waiter, now_ms: int, boot_ms: int) -> int:
        """Until when (epoch ms) a lead may wait in a shared partition."""
        return now_ms + waiter.since_ms + self._patience_ms - boot_ms

    def _set_wake(self, queue: LaneQueue, waiter: Waiter, now_ms: int, boot_ms: int) -> None:
        """Set when to look at a lead again, by its own times; from `not_before_ms` on it is ready."""
        request = waiter.request
        if not waiter.ready and request.not_before_ms <= now_ms:
            queue.make_ready(waiter)
        times = [] if request.not_after_ms is None else [request.not_after_ms + 1]
        if not waiter.ready:
            times.append(request.not_before_ms)
        elif self.shared and not request.as_dead_letter:
            times.append(self._waits_until_ms(waiter, now_ms, boot_ms))
        queue.wake_at(waiter, min(times, default=None))

    def _is_too_old(self, waiter: Waiter, now_ms: int) -> bool:
        not_after_ms = waiter.request.not_after_ms
        return not_after_ms is not None and now_ms > not_after_ms

    # ------------------------------------------------------------------------------------------------- bookkeeping

    def _answer(self, waiter: Waiter, answer: Held | GiveUp | Recalled) -> None:
        self._remove(waiter)
        if not waiter.answered.done():  # otherwise its task was cancelled
            waiter.answered.set_result(answer)

    def _remove(self, waiter: Waiter) -> None:
        name = waiter.request.destination.workspace
        del self._waiters[waiter.in_flight]
        self._waiting_bytes -= waiter.size
        queue = self._queues[name]
        queue.remove(waiter)
        self._lengths.set(name, len(queue))

    def _in_order(self) -> list[Waiter]:
        return sorted(self._waiters.values(), key=attrgetter("number"))

    def _look_at_due(self) -> None:
        """Look at the lanes whose time has come; at all of them if the wall clock stepped back."""
        self._timer = self._timer_at_ms = None
        now_ms, before_ms = self._clock.now_ms(), self._looked_at_ms
        self._looked_at_ms = now_ms
        if now_ms < before_ms:
            self.pump()
            return
        for name in self._looks.pop_until(now_ms):
            self.pump_lane(name)
        self._set_timer(now_ms)

    def _set_timer(self, now_ms: int) -> None:
        at_ms = self._looks.lowest
        if at_ms == self._timer_at_ms:
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._timer_at_ms = at_ms
        if at_ms is not None:
            delay_s = min(_LONGEST_TIMER_S, max(0.001, (at_ms - now_ms) / 1000))
            self._timer = asyncio.get_running_loop().call_later(delay_s, self._look_at_due)


def _ends_ms(held: Held) -> int:
    """When the hold ends at the latest (epoch ms); 0 if it may end at any moment."""
    return 0 if held.reason == _IN_FLIGHT else held.until_ms
