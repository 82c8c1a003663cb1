"""Asks Clay for the results of runs, and ends their leads with them, top to bottom.

    due -> a token of the lane -> ask Clay -> look at the row again -> settle, park, or ask later

POSTs and polls take their tokens from the one bucket of their lane (`PollTokens`). A poll is a GET
that costs no credits, so it may be repeated after a crash, and nothing is written for it. What it
finds is one step, like a callback's, and an owner that was fenced meanwhile cannot commit that
step.

No await lies between the second look at a row and the step of that row, as in `callback.py` and
`timeout.py`. So a lead in one of these states needs no lock.
"""

import asyncio
from collections import Counter
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, Final

from attrs import define, field

from stream_app.clock import Clock
from stream_app.domain.callback.interpret import MAX_FAILED_IN_A_ROW, suspend_without_credits
from stream_app.domain.callback.routine import callback_of_run
from stream_app.domain.delivery.recorder import CommitStep
from stream_app.domain.delivery.state_machine import Reason
from stream_app.domain.lane.admission import Poll, PollHeld
from stream_app.domain.lane.holds import BREAKER_OPEN
from stream_app.domain.lane.settlement import polled
from stream_app.domain.limits import suspension
from stream_app.domain.model.errors import BrokerUnavailable, StateStoreError
from stream_app.domain.model.messages import Callback
from stream_app.domain.model.run import (
    RunAnswer,
    RunDenied,
    RunFinished,
    RunGone,
    RunLimited,
    RunTooLarge,
    RunUnfinished,
    RunUnread,
)
from stream_app.domain.plan import Destination, Plan
from stream_app.partition.admission import AdmissionQueue
from stream_app.partition.commits import Commits
from stream_app.partition.endings import Endings, empty_record
from stream_app.partition.lane_timer import Timetable
from stream_app.partition.lanes import Lanes
from stream_app.partition.poll_queue import OpenRun, PollQueue, RunningLead
from stream_app.partition.poll_tokens import PollTokens
from stream_app.partition.ports import Observer, Runs, StateStore
from stream_app.tasks import cancel, died_of

_AT_ONCE: Final = 20  # Polls of a lane: those that hang must not hold up the others for long.
_MOVED_AT_ONCE: Final = 200  # Runs that are moved to their next times before others get the loop.
_MAX_SLEEP_S: Final = 60.0  # The wall clock may step while the loop's clock does not.
_MAX_HOLD_MS: Final = 60_000
_GONE_AGAIN_MS: Final = 45_000
_MAX_GONE_ANSWERS: Final = 3  # The run is asked for twice more, within two minutes.
_RETRY_AFTER_MS: Final = 5_000


@define(eq=False, repr=False, kw_only=True)
class ResultPipeline:
    """Polls the open runs of one partition when they are due, while this process owns it."""

    _number: int
    _plan: Plan
    _clock: Clock
    _observer: Observer
    _store: StateStore
    _lanes: Lanes
    _polls: PollQueue
    _admission: AdmissionQueue
    _tokens: PollTokens
    _commits: Commits
    _endings: Endings
    _runs: Runs
    _times: Timetable[str] = field(init=False, factory=Timetable)
    _asking: dict[asyncio.Task[None], str] = field(init=False, factory=dict)
    _busy: Counter[str] = field(init=False, factory=Counter)
    # By destination, how many of its leads have failed in a row; by workspace, the destination that
    # has the balance asked for next. A crash forgets both, which delays the question by as many
    # failed leads.
    _failed: Counter[str] = field(init=False, factory=Counter)
    _doubted: dict[str, Destination] = field(init=False, factory=dict)

    async def run(self) -> None:
        """Poll runs until cancelled."""
        self._times = Timetable()
        self._busy.clear()
        self._doubted.clear()
        try:
            while True:
                self._reap()
                now_ms = self._clock.now_ms()
                names = dict.fromkeys([*self._polls.changed, *self._times.pop_until(now_ms)])
                self._polls.changed.clear()
                for name in names:
                    self._poll_lane(name, now_ms)
                await self._wait(now_ms)
        finally:
            await cancel(list(self._asking))
            self._asking.clear()

    async def _wait(self, now_ms: int) -> None:
        at_ms = self._times.lowest
        longest_s = (
            None if at_ms is None else min(_MAX_SLEEP_S, max(0.001, (at_ms - now_ms) / 1000))
        )
        await self._polls.wait(longest_s)

    def _reap(self) -> None:
        """Free the places of requests that have ended. If one of them failed, raise its error."""
        for task in [task for task in self._asking if task.done()]:
            name = self._asking.pop(task)
            self._busy[name] -= 1
            if (error := died_of(task)) is not None:
                raise error

    # ------------------------------------------------------------------------------------- one lane

    def _poll_lane(self, name: str, now_ms: int) -> None:
        """Ask for each run of the lane that may be asked for now, and set when to poll again."""
        if name in self._doubted and self._busy[name] < _AT_ONCE:
            asked = self._doubted[name]
            if isinstance(self._tokens.take(asked, may_probe=False), Poll):
                del self._doubted[name]
                self._start(name, self._ask_balance(asked))
        moved = 0
        # At the bound, the lane is polled again when one of its requests ends (`_start`).
        while self._busy[name] < _AT_ONCE and (opened := self._polls.due(name, now_ms)) is not None:
            lead = self._polls.find(opened)
            if lead is None:
                self._polls.close(opened)
                continue
            answer = self._tokens.take(lead.destination)
            if isinstance(answer, PollHeld) and answer.by_breaker:
                # Bounded, because an operator may end the hold earlier.
                until_ms = min(answer.until_ms, now_ms + _MAX_HOLD_MS)
                self._polls.postpone(opened, lead.next_poll_ms(now_ms), until_ms)
                moved += 1
                if moved == _MOVED_AT_ONCE:
                    self._times.set(name, now_ms)
                    return
            elif isinstance(answer, PollHeld):
                # Bounded, because an operator may end the hold earlier.
                self._times.set(name, min(answer.until_ms, now_ms + _MAX_HOLD_MS))
                return
            else:
                self._polls.take(opened)
                self._start(name, self._poll(opened, lead, answer))
        self._tokens.end(name)
        self._times.set(name, self._polls.next_ms(name) if self._busy[name] < _AT_ONCE else None)

    def _start(self, name: str, request: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(request)
        self._asking[task] = name
        self._busy[name] += 1
        task.add_done_callback(lambda _: self._polls.change(name))

    # -------------------------------------------------------------------------------------- one run

    async def ask(self, alias: str, run: str) -> RunAnswer:
        """Ask for the results of a run that belongs to no lead yet, within the rate of its lane.

        Args:
            alias: The routine.
            run: The id of the run.
        """
        destination = self._plan.destinations[alias]
        while isinstance(poll := self._tokens.take(destination), PollHeld):
            if poll.by_breaker:
                return RunUnread(BREAKER_OPEN, "the circuit breaker is open")
            if not poll.for_token:
                return RunDenied(401, "Clay refuses the key of the workspace")
            wait_ms = poll.until_ms - self._clock.now_ms()
            if wait_ms > _MAX_HOLD_MS:
                return RunLimited(None)
            await asyncio.sleep(max(1, wait_ms) / 1000)
        return await self._ask(destination, run, poll)

    async def _ask(self, destination: Destination, run: str, poll: Poll) -> RunAnswer:
        """Ask Clay, and record the answer in the lane."""
        began_ms = self._clock.boot_ms()
        answer = await self._runs.results(destination.alias, run)
        self._observer.polled(destination, answer)
        self._settle_lane(destination, poll, answer, self._clock.boot_ms() - began_ms)
        return answer

    async def _poll(self, opened: OpenRun, lead: RunningLead, poll: Poll) -> None:
        """Ask for the results of a run, and act on the answer."""
        answer = await self._ask(lead.destination, opened.run, poll)
        # Second look: while Clay was asked, another answer or its deadline may have ended the lead,
        # or an operator may have sent it again.
        again = self._polls.find(opened)
        if again is None:
            self._polls.close(opened)
            return
        now_ms = self._clock.now_ms()
        if not isinstance(answer, RunGone):
            opened.gone = 0
        match answer:
            case RunUnfinished() | RunUnread() | RunDenied():
                self._polls.put_back(opened, again.next_poll_ms(now_ms))
            case RunLimited():
                self._polls.put_back(opened, now_ms)  # The lane's bucket says when it is polled.
            case RunGone():
                opened.gone += 1
                if opened.gone < _MAX_GONE_ANSWERS:
                    self._polls.put_back(opened, now_ms + _GONE_AGAIN_MS)
                else:
                    why = Reason(
                        "result_gone",
                        f"Clay does not know its run any more: {answer.text}",
                    )
                    await self._park(opened, again, why)
            case RunTooLarge():
                await self._park(opened, again, _too_large(answer.text))
            case RunFinished():
                await self._finish(opened, again, callback_of_run(opened.key, answer, now_ms))

    def _settle_lane(
        self,
        destination: Destination,
        poll: Poll,
        answer: RunAnswer,
        latency_ms: int,
    ) -> None:
        """Record the answer in the lane. If the lane changes, that is committed."""
        name = destination.workspace
        # Read after the answer: leads and operators may have changed the lane while Clay was asked.
        before = self._lanes[name]
        after = polled(
            self._lanes.policy(name),
            before,
            destination,
            poll,
            answer,
            self._clock.now_ms(),
            self._clock.rand(),
            latency_ms,
        )
        if after != before:
            self._lanes[name] = after
            self._admission.pump_soon(name)
            # A step of its own, because the answer may end no lead, and a successor must keep to a
            # 429, too.
            self._commits.submit(CommitStep([], [], [], name))

    async def _finish(self, opened: OpenRun, lead: RunningLead, says: Callback | Reason) -> None:
        """Settle the lead of a finished run, or park it."""
        if isinstance(says, Reason):
            await self._park(opened, lead, says)
            return
        step = self._endings.settle(says, lead.key, lead.row, empty_record(lead.row))
        if isinstance(step, Reason):
            await self._park(opened, lead, _too_large(step.text))
            return
        # No await since the second look, so the step is made from the row as it is now.
        self._polls.close(opened)
        self._count(lead.destination, failed=says.outcome == "enrich_error")
        await self._commit(step)

    async def _park(self, opened: OpenRun, lead: RunningLead, why: Reason) -> None:
        """Park a lead whose result cannot be had, with a copy of its record."""
        try:
            records = await self._store.fetch([lead.row.origin])
        except BrokerUnavailable as error:
            self._observer.recovering(self._number, error)
            self._polls.put_back(opened, self._clock.now_ms() + _RETRY_AFTER_MS)
            return
        # Second look: a callback may have settled the lead while its record was fetched.
        again = self._polls.find(opened)
        self._polls.close(opened)
        if again is not None:
            record = records.get(again.row.origin)
            step = self._endings.park(again.key, again.row, again.destination, record, why)
            await self._commit(step)

    async def _commit(self, step: CommitStep) -> None:
        """Submit a step, and keep the place of its request until it is committed."""
        # `Commits.run` raises the error, too, and the partition is taken over again.
        with suppress(StateStoreError):
            await self._commits.submit(step)

    # -------------------------------------------------------------------------------- failed leads

    def _count(self, destination: Destination, *, failed: bool) -> None:
        """Count failed leads in a row. After `MAX_FAILED_IN_A_ROW`, the balance is asked for."""
        alias = destination.alias
        if not failed:
            self._failed.pop(alias, None)
            return
        self._failed[alias] += 1
        stopped = self._lanes[destination.workspace].suspension
        if self._failed[alias] >= MAX_FAILED_IN_A_ROW and not suspension.holds(stopped, alias):
            self._doubted[destination.workspace] = destination

    async def _ask_balance(self, asked: Destination) -> None:
        """Ask for the balance of a workspace whose leads fail. Without credits, suspend."""
        name = asked.workspace
        balance = await self._runs.balance(name)
        # Second look: while Clay was asked, a lead may have succeeded, or a reload may have changed
        # the destination.
        destination = self._plan.destination(name, asked.alias)
        if destination is None or self._failed[asked.alias] < MAX_FAILED_IN_A_ROW:
            return
        del self._failed[asked.alias]
        before = self._lanes[name]
        self._lanes[name] = suspend_without_credits(
            self._lanes.policy(name),
            before,
            destination,
            balance,
            self._clock.now_ms(),
        )
        if self._lanes[name] != before:
            self._admission.pump_soon(name)
            self._commits.submit(CommitStep([], [], [], name))


def _too_large(text: str) -> Reason:
    """Return why a lead is parked whose result cannot be kept. `text` says what is too large."""
    return Reason("result_too_large", f"its result is too large: {text}")
