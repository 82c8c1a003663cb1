"""Admission: which of the waiting leads is sent next.

The topic of a lead decides its priority. Hot leads go before retries, and retries before bulk
leads, but retries and bulk leads get their configured shares. Bulk leads that return (deferred,
replayed) go before new bulk leads, but share the budget of bulk.

Each lane has a queue of its own. Where several workspaces share a partition, a lead that waits does
not hold back the records after it. At most `max_waiting` such leads of the partition wait in
memory, and none for longer than `patience_s`. A lead whose turn comes later is deferred until about
then. If more leads wait, the last lead of the longest queue is deferred. So a lane that cannot keep
up never takes the place of another one.

When a lead is admitted, its lane is changed and its row is written ahead in one turn of the event
loop: decide, write ahead, submit, without an await. So no transaction can contain one without the
other.
"""

import asyncio
from collections.abc import Callable
from contextlib import nullcontext
from operator import attrgetter
from typing import Final

from attrs import define, field

from stream_app.clock import Clock, Now
from stream_app.domain.lane.admission import (
    ASK_AGAIN,
    AdmissionRequest,
    Grant,
    Held,
    at_limit,
    decide,
    decide_dead_letter,
    would_hold,
)
from stream_app.domain.lane.holds import BREAKER_OPEN
from stream_app.domain.lane.settlement import Settlement, settled
from stream_app.domain.limits import concurrency
from stream_app.domain.model.outcome import Outcome
from stream_app.domain.plan import Destination, Plan
from stream_app.partition.commits import Commits
from stream_app.partition.in_flight import InFlight, Recalled, StreamSuspended
from stream_app.partition.lane_queue import (
    Admitted,
    Kind,
    LaneQueue,
    LaneQueues,
    StepAhead,
    Waiter,
    WaitOutcome,
    Withdrawn,
)
from stream_app.partition.lane_timer import LaneTimer
from stream_app.partition.lanes import HostWatch, Lanes
from stream_app.partition.patience import Patience, busy, ends_ms, why_deferred
from stream_app.partition.places import MAX_WAITING_BYTES
from stream_app.partition.poll_tokens import PollTokens

_RECORD_HOLD_AFTER_MS: Final = 1_000  # A shorter hold is not worth an event for each lead.
_TOO_OLD: Final = Held("not_after", "its not_after passed before it was sent", 0, "expired")


@define(eq=False, repr=False)
class AdmissionQueue:
    """The leads of one partition that wait for their lane.

    It changes the lanes in place, and submits the step of each lead that it admits.

    Attributes:
        poll_tokens: What polls of runs take from the rate of the same lanes.
    """

    _plan: Plan
    _lanes: Lanes
    _hosts: HostWatch
    _commits: Commits
    _clock: Clock
    _alarm: Callable[[BaseException], None]
    _queues: LaneQueues = field(init=False, factory=LaneQueues)
    _arrivals: int = field(init=False, default=0)
    _open: bool = field(init=False, default=True)
    poll_tokens: PollTokens = field(init=False)
    _patience: Patience = field(init=False)
    _timer: LaneTimer = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.poll_tokens = PollTokens(
            self._lanes,
            self._clock,
            self._waits_for_rate,
            self.pump_soon,
        )
        self._patience = Patience(self._plan, self._lanes)
        self._timer = LaneTimer(self._clock, self.pump_lane, self.pump)

    @property
    def posts_in_flight(self) -> int:
        """How many POSTs are under way in this partition."""
        return sum(queue.posts_in_flight for queue in self._queues)

    def posts_in_flight_of(self, workspace: str) -> int:
        """How many POSTs of one lane are under way."""
        queue = self._queues.get(workspace)
        return queue.posts_in_flight if queue is not None else 0

    def end(self, bug: BaseException) -> None:
        """Admit no more leads, and end the process.

        A send that the shutdown interrupts would be uncertain.
        """
        self._open = False
        self._alarm(bug)

    # ------------------------------------------------------------------------------------- one lead

    async def admit(
        self,
        in_flight: InFlight,
        request: AdmissionRequest,
        step_ahead: StepAhead,
    ) -> Grant | Held:
        """Wait until the lane admits this lead, and write its row ahead.

        Returns:
            A grant, once the step that was written ahead is committed. Otherwise the reason why the
            lead must not wait here any longer, or `ASK_AGAIN`.

        Raises:
            StreamSuspended: The stream is suspended.
            Recalled: A callback waits for the lock of this lead.
        """
        # `give_up` and `recall` reach only the leads that wait in a queue at that moment. This one
        # may have waited for a commit or the cache then, and learns of either call here.
        if in_flight.suspended.is_set():
            raise StreamSuspended
        if in_flight.admission.recalled:
            in_flight.admission.recalled = False
            raise Recalled
        # It counts as waiting during the commit, too: if a commit hangs, the watchdog names the
        # commit and not each of its leads.
        with in_flight.waiting():
            waiter = self._enter(in_flight, request, step_ahead)
            outcome = waiter.outcome
            if outcome is None:
                outcome = await self._wait(waiter)
            if outcome is Withdrawn.SUSPENDED:
                raise StreamSuspended
            if outcome is Withdrawn.RECALLED:
                raise Recalled
            if isinstance(outcome, Held):
                return outcome
            # Write-ahead: the caller starts the POST only when the row `sending` is on Kafka. If
            # the transaction fails, this await raises, and no POST is started.
            await outcome.committed
        if not request.as_dead_letter:
            # Read after the commit: POSTs of the lane that began or ended during it have replaced
            # its detector.
            stalls = self._lanes.stalls
            name = request.destination.workspace
            stalls[name] = concurrency.begun(stalls[name], self._clock.now_ms())
        return outcome.grant

    async def _wait(self, waiter: Waiter) -> WaitOutcome:
        """Wait until a lead leaves the queue of its lane."""
        # `_bound_memory` bounds the leads that wait in a shared partition, so they take no place of
        # the `Limiter`.
        limiter = waiter.in_flight.limiter
        try:
            with limiter.released(0) if self._lanes.shared else nullcontext():
                return await waiter.wait()
        except asyncio.CancelledError:
            # The outcome may have come in the turn of the cancellation. Then `_leave` has removed
            # the waiter, and there is nothing left to remove.
            if self._queues.waiter(waiter.in_flight) is waiter:
                self._queues.remove(waiter)
            raise

    def _enter(
        self,
        in_flight: InFlight,
        request: AdmissionRequest,
        step_ahead: StepAhead,
    ) -> Waiter:
        """Admit a lead if nothing waits for its lane and the lane takes it. Otherwise queue it.

        A lead that is queued may be deferred at once.
        """
        now = self._clock.now()
        state = in_flight.admission
        if not state.arrival:
            self._arrivals += 1
            state.arrival = self._arrivals
        if state.since_ms is None:
            state.since_ms = now.boot_ms + max(0, request.not_before_ms - now.epoch_ms)
        waiter = Waiter(
            in_flight,
            request,
            step_ahead,
            number=state.arrival,
            since_ms=state.since_ms,
        )
        name = request.destination.workspace
        queue = self._queues.open(name)
        held: dict[Kind, Held] = {}
        if (
            self._open
            and not queue
            and request.not_before_ms <= now.epoch_ms
            and not waiter.is_too_old(now)
        ):
            answer = self._try_admit(queue, waiter, now)
            if not isinstance(answer, Held):
                # Most leads of a lane that keeps up leave here, without a place in the queue.
                waiter.outcome = answer
                return waiter
            held[waiter.kind] = answer
        self._queues.add(queue, waiter)
        self._set_wake(queue, waiter, now)
        self._admit_waiting(name, held)
        if self._open and self._lanes.shared:
            in_flight.release_next()
            # After `_admit_waiting`: it may have ended the wait of this lead, and it sets
            # `queue.held`, from which both bounds read why the kind of this lead waits.
            self._bound_wait(queue, waiter)
            self._bound_memory()
        return waiter

    def settle(self, grant: Grant, outcome: Outcome | None, *, has_slot: bool) -> Settlement:
        """Apply the outcome of a POST to its lane, and free its slot.

        Args:
            grant: What the lead was admitted with.
            outcome: None if the POST was not started.
            has_slot: True if the partition was not taken over again since the lead was admitted.
        """
        name = grant.destination.workspace
        queue = self._queues.open(name)
        now = self._clock.now()
        self._lanes[name], settlement = settled(
            self._lanes.policy(name),
            self._lanes[name],
            grant,
            outcome,
            now.epoch_ms,
            self._clock.rand(),
            # It includes this POST, whose slot is freed below.
            queue.posts_in_flight,
            bool(queue),
            now.boot_ms - grant.at_boot_ms if has_slot else 0,
        )
        if has_slot:
            stalls = self._lanes.stalls
            queue.posts_in_flight -= 1
            stalls[name] = concurrency.ended(
                stalls[name],
                outcome,
                queue.posts_in_flight,
                now.epoch_ms,
            )
        if queue:
            self.pump_soon(name)
        return settlement

    def would_hold(self, destination: Destination, bulk: bool) -> bool:
        """True if the lane holds such a lead now, or would admit it as a probe only.

        The question reserves nothing.
        """
        name = destination.workspace
        now_ms = self._clock.now_ms()
        policy = self._lanes.policy(name)
        lane = self._lanes[name]
        stall = self._lanes.stalls[name]
        return would_hold(policy, lane, destination, now_ms, not bulk, stall)

    def ask_again(self) -> None:
        """Have each waiting lead check again whether it may be sent: an operator changed something.

        They leave by priority, because the first that comes back finds no queue before it.
        """
        for waiter in sorted(self._queues.waiters(), key=attrgetter("place")):
            self._leave(waiter, ASK_AGAIN)

    def give_up(self, suspended: asyncio.Event) -> None:
        """Give up the waiting leads of a suspended stream: they are delivered again later."""
        for waiter in sorted(self._queues.waiters(), key=attrgetter("number")):
            if waiter.in_flight.suspended is suspended:
                self._leave(waiter, Withdrawn.SUSPENDED)

    def recall(self, in_flight: InFlight) -> None:
        """Have a lead start again from its rows.

        A lead that does not wait here goes on, and starts again when it next asks for admission.
        """
        if (waiter := self._queues.waiter(in_flight)) is not None:
            self._leave(waiter, Withdrawn.RECALLED)
        else:
            # It waits for a commit, Clay or the cache. `admit` reads the flag when it comes back.
            in_flight.admission.recalled = True

    def clear(self) -> None:
        """Forget all leads: their tasks were cancelled."""
        self._queues.clear()
        self.poll_tokens.clear()
        self._timer.clear()

    # ------------------------------------------------------------------------------------ the lanes

    def pump(self) -> None:
        """Admit the leads that may go now, of all lanes."""
        now = self._clock.now()
        for queue in self._queues:
            for waiter in queue:
                self._set_wake(queue, waiter, now)
            self.pump_lane(queue.workspace)

    def pump_soon(self, name: str) -> None:
        """Admit leads of a lane once the caller has submitted its own step.

        It runs in the next turn of the event loop, so the steps of those leads come after that one.
        """
        asyncio.get_running_loop().call_soon(self.pump_lane, name)

    def pump_lane(self, name: str) -> None:
        """Admit each lead of a lane that may go now, and set a timer for the next one.

        Every change of the lane or of its queue calls it, and so does the timer.
        """
        try:
            self._admit_waiting(name)
        except Exception as bug:  # noqa: BLE001 - an exception in a timer is only logged, and the lane would stall
            self.end(bug)

    def _admit_waiting(self, name: str, held: dict[Kind, Held] | None = None) -> None:
        """Admit the leads of a lane in their order, and end the wait of those that must not wait.

        `held`: the kinds that the lane is known to hold, with their reasons.
        """
        queue = self._queues.get(name)
        if not queue or not self._open:
            return
        now = self._clock.now()
        woken = queue.pop_woken(now.epoch_ms)
        for waiter in woken:
            self._set_wake(queue, waiter, now)
        # By kind, why the first lead that is left of it must wait.
        held = held or {}
        while (first := queue.first(held)) is not None:
            # If its task was cancelled in this turn, it has left, and only its place is freed.
            if first.has_left or first.is_too_old(now):
                self._leave(first, _TOO_OLD)
                continue
            answer = self._try_admit(queue, first, now)
            if isinstance(answer, Held):
                held[first.kind] = answer
            else:
                self._leave(first, answer)
        queue.held = held
        for kind, hold in held.items():
            for waiter in self._patience.impatient(queue, kind, hold, now):
                self._defer(queue, waiter, hold, now)
            if hold.status is not None and ends_ms(hold) - now.epoch_ms > _RECORD_HOLD_AFTER_MS:
                for waiter in queue.unreported(kind):
                    self._leave(waiter, hold)
        # After the admissions: a lead that has just been admitted has its outcome, even if its
        # patience ends now.
        for waiter in woken:
            self._end_wait(queue, waiter, now)
        times = [hold.until_ms for kind, hold in held.items() if hold.until_ms and queue.has(kind)]
        if queue.wakes.lowest is not None:
            times.append(queue.wakes.lowest)
        self._timer.set(name, min(times, default=None), now.epoch_ms)

    def _waits_for_rate(self, name: str) -> bool:
        """Return True if a lead would go if its lane had a token."""
        queue = self._queues.get(name)
        return queue is not None and queue.waits_for_rate

    def _try_admit(self, queue: LaneQueue, waiter: Waiter, now: Now) -> Admitted | Held:
        """Admit the lead and write ahead, or say why its lane holds it."""
        request = waiter.request
        destination = request.destination
        name = queue.workspace
        policy = self._lanes.policy(name)
        lane = self._lanes[name]
        stall = self._lanes.stalls[name]
        if request.as_dead_letter:
            # A dead letter must not block other workspaces of the partition, nor a workspace whose
            # leads are not to wait.
            waits = not self._lanes.shared and policy.hold == "pause"
            self._lanes[name], answer = decide_dead_letter(
                policy,
                lane,
                destination,
                now.epoch_ms,
                now.boot_ms,
                waits,
            )
        elif queue.posts_in_flight >= concurrency.current(policy.max_in_flight, lane.concurrency):
            answer = at_limit(policy, lane, stall, now.epoch_ms)
        else:
            self._lanes[name], answer = decide(
                policy,
                lane,
                destination,
                now.epoch_ms,
                now.boot_ms,
                not request.bulk,
                stall,
                poll_first=self.poll_tokens.come_first(name),
            )
        if not isinstance(answer, Held):
            self.poll_tokens.lead_went(name)
            return self._write_ahead(queue, waiter, answer, now)
        if answer.reason == BREAKER_OPEN:
            self._hosts.note(destination)
        if answer.reason == concurrency.STALLED:
            return self._patience.wait_for_stall(policy, answer, stall.since_ms, now)
        return answer

    def _write_ahead(self, queue: LaneQueue, waiter: Waiter, grant: Grant, now: Now) -> Admitted:
        """Submit the step that must be committed before the POST, and take a slot of the lane.

        No await may lie between the decision, which has changed the lane, and `submit`, so that one
        transaction writes the row `sending` and what the lane has given for it.
        """
        in_flight = waiter.in_flight
        in_flight.admission.since_ms = None
        step = waiter.step_ahead(grant, now.epoch_ms)
        if not waiter.request.as_dead_letter:
            queue.posts_in_flight += 1
            queue.count_share(in_flight.source, self._patience.shares)
        committed = self._commits.submit(step, in_flight)
        in_flight.release_next()
        return Admitted(grant, committed)

    # -------------------------------------------------------------------------------- its patience

    def _bound_wait(self, queue: LaneQueue, waiter: Waiter) -> None:
        """Defer a lead that has just arrived if its turn comes later than it may wait."""
        if not waiter.ready or waiter.has_left:
            return
        now = self._clock.now()
        if self._patience.comes_too_late(queue, waiter, now):
            self._defer(queue, waiter, why_deferred(queue, waiter), now)

    def _bound_memory(self) -> None:
        """Defer the last lead of the longest queue, until no more leads wait than may wait."""
        delivery = self._plan.delivery
        queues = self._queues
        while len(queues) > delivery.max_waiting or queues.size > MAX_WAITING_BYTES:
            queue = queues.longest()
            self._defer(queue, queue.last(), busy(queue), self._clock.now())

    def _end_wait(self, queue: LaneQueue, waiter: Waiter, now: Now) -> None:
        """End the wait of a lead that has waited for as long as it may."""
        if waiter.has_left:
            return
        if waiter.is_too_old(now):
            self._leave(waiter, _TOO_OLD)
        elif (
            self._lanes.shared
            and waiter.ready
            and now.epoch_ms >= self._patience.until_ms(waiter, now)
        ):
            self._defer(queue, waiter, why_deferred(queue, waiter), now)

    def _defer(self, queue: LaneQueue, waiter: Waiter, held: Held, now: Now) -> None:
        self._leave(waiter, self._patience.deferred(queue, waiter, held, now))

    def _set_wake(self, queue: LaneQueue, waiter: Waiter, now: Now) -> None:
        """Make a lead ready if its `not_before_ms` has come, and set when to check it again."""
        request = waiter.request
        if not waiter.ready and request.not_before_ms <= now.epoch_ms:
            queue.make_ready(waiter)
        times = [] if request.not_after_ms is None else [request.not_after_ms + 1]
        if not waiter.ready:
            times.append(request.not_before_ms)
        elif self._lanes.shared and not request.as_dead_letter:
            times.append(self._patience.until_ms(waiter, now))
        queue.wakes.set(waiter.number, min(times, default=None))

    def _leave(self, waiter: Waiter, outcome: WaitOutcome) -> None:
        """Take a lead out of its queue, and give it its outcome."""
        self._queues.remove(waiter)
        waiter.leave(outcome)
