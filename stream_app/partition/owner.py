"""The owner of one partition: takes it over from Kafka, processes its records, and recovers after a failed commit.

    take_over: fence every earlier owner, read the rows, process pending commands and callbacks
    ->  serve: one loop for each topic  ->  close

When a transaction fails, memory is ahead of Kafka. Then all records under way are cancelled, the partition is taken
over again as after a crash, and the same records are processed again. Their rows say what became of them.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Coroutine, Hashable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any, Final

from stream_app.domain.errors import Aborted, BrokerUnavailable, StateStoreError
from stream_app.domain.topics import TopicNames
from stream_app.partition.callback import CallbackPipeline
from stream_app.partition.command import CommandPipeline
from stream_app.partition.commits import FIRST_PAUSE_S, LONGEST_PAUSE_S
from stream_app.partition.erasures import Erasures
from stream_app.partition.in_flight import PRIORITY, AckTracker, GiveUp, InFlight, Limiter, Recalled, Source, TakenAhead
from stream_app.partition.lead import LeadPipeline
from stream_app.partition.ports import PartitionStream, StateStore
from stream_app.partition.rows import Rows
from stream_app.partition.state import PartitionTable, WorkerParts, build_state
from stream_app.partition.timeout import TimeoutScheduler
from stream_app.tasks import cancel, died_of

Process = Callable[[InFlight], Coroutine[Any, Any, None]]
"""Takes one record to its conclusion."""

_READ: Final = 2_000  # records at a time, so that memory is bounded
_PARALLEL: Final[dict[Source, int]] = {"command": 1, "callback": 200}
_PAUSE_S: Final = 1.0
_UNFINISHED: Final = 4  # records for each slot in flight: those that wait for a commit or a lock are bounded too


class PartitionOwner:
    """Owns one partition from `take_over` to `close`.

    Args:
        number: The partition.
        store: The partition's transactional producer and its rows in Kafka.
        parts: What it shares with the other partitions of the worker.
    """

    def __init__(self, number: int, store: StateStore, parts: WorkerParts) -> None:
        self.number = number
        self._plan, self._observer, self._alarm = parts.plan, parts.observer, parts.alarm
        self._store, self._still_member = store, parts.still_member
        # Callbacks have a limiter of their own: leads that wait for a callback must not take its place.
        leads, others = (Limiter(parts.plan.delivery.max_in_flight * _UNFINISHED) for _ in range(2))
        self.state = state = build_state(number, store, parts, self._commit_failed)
        self.table = PartitionTable(state)
        lead = LeadPipeline(state, parts).process
        self._pipelines: dict[Source, Process] = {
            "hot": lead,
            "retry": lead,
            "bulk": lead,
            "callback": CallbackPipeline(state).process,
            "command": CommandPipeline(state, parts).process,
        }
        self._limiters = {source: leads if source in PRIORITY else others for source in self._pipelines}
        self._ahead = {source: TakenAhead(parts.plan.delivery) for source in self._pipelines}
        self._timeouts = TimeoutScheduler(state, store)
        self._erasures = Erasures(state)
        unavailable = partial(parts.observer.recovering, number)
        self._bootstrap = Bootstrap(parts.plan.topics, store, state.rows, self._pipelines, others, unavailable)
        self._unfinished: dict[InFlight, AckTracker] = {}
        self._taken: dict[str, int] = {}
        self._committing: asyncio.Task[None] | None = None
        self._recovering: asyncio.Task[None] | None = None
        self._bootstrapping: asyncio.Task[None] | None = None
        self._take_overs, self._ready = 0, asyncio.Event()

    # ------------------------------------------------------------------------------------ take over, serve, close

    async def take_over(self, fence_within_s: float = math.inf) -> None:
        """Fence earlier owners and read the rows. Records may be processed afterwards.

        Args:
            fence_within_s: No owner is fenced after this time, in seconds.

        Raises:
            BrokerUnavailable: Kafka cannot be reached now.
            RowUnreadable: A row does not decode.
            SettingsError: The settings of this process are not those that the namespace began with.
        """
        self.state.load(await self._store.take_over(fence_within_s))
        self.state.commits.forget()
        self._committing = asyncio.create_task(self.state.commits.run(), name=f"committer-{self.number}")
        self._committing.add_done_callback(self._watch)
        self._take_overs += 1
        self.state.admission.shut()
        self._ready.set()
        self._bootstrapping = asyncio.create_task(self._bootstrap_and_run(), name=f"bootstrap-{self.number}")
        self._bootstrapping.add_done_callback(self._watch)

    async def _bootstrap_and_run(self) -> None:
        """Process pending commands and callbacks, then admit leads and run the partition's periodic tasks."""
        if await self._bootstrap.run():
            self.state.admission.open()
            await asyncio.gather(
                self._timeouts.run(),
                self.state.lanes.keep_shown(self.state.commits.submit),
                self._erasures.run(),
                self.state.hosts.run(self.state.admission.pump_lane),
            )

    async def serve(self, stream: PartitionStream, source: Source) -> None:
        """Process the records of one topic. A record starts when its predecessor no longer waits for admission.

        Where workspaces share the partition, records are taken ahead, and the predecessor is that of the workspace. So
        the leads of a workspace do not wait until a burst of another one before them is processed.
        """
        acks, limiter, began = AckTracker(stream), self._limiters[source], self._take_overs
        ahead, previous = self._ahead[source], dict[bytes, asyncio.Event]()
        self.state.commits.streams[stream.topic] = stream
        stream.expect(self.state.rows.passed(stream.topic))
        suspension = asyncio.create_task(self._when_suspended(stream))
        try:
            async for consumed in stream:
                # A worker that was cut off before a recovery may hold records that another worker has concluded.
                if began != self._take_overs and self.state.rows.is_passed(consumed):
                    stream.give_up(consumed)
                    continue
                self._taken[consumed.topic] = self._taken.get(consumed.topic, 0) + 1
                in_flight = InFlight(consumed, source, stream.suspended, limiter)
                acks.add(in_flight)
                self._unfinished[in_flight] = acks
                ahead.enter(in_flight)
                line = self._line_of(in_flight)
                if self._ready.is_set():
                    self._start(in_flight, previous.get(line))
                elif in_flight.suspended.is_set():
                    self._drop(in_flight)  # else the recovery starts it
                previous[line] = in_flight.passed
                if source in PRIORITY and self.state.lanes.shared:
                    await ahead.wait()
                else:
                    await in_flight.passed.wait()
                    await limiter.wait()
        finally:
            suspension.cancel()

    async def close(self) -> None:
        """Drop everything at once: the partition is no longer ours, or the process ends."""
        self._ready.clear()
        own = [self._committing, self._recovering, self._bootstrapping]
        await cancel([in_flight.task for in_flight in self._unfinished] + own)
        self.state.admission.clear()
        for in_flight in self._unfinished:
            in_flight.release_next()  # a task that was cancelled before its first step has not done so
            if not in_flight.begun:
                self._ahead[in_flight.source].leave(in_flight)
        self._unfinished.clear()
        self.state.lanes.gone()
        await self._store.close()

    @property
    def unfinished(self) -> int:
        """The number of records under way."""
        return len(self._unfinished)

    def takes(self, topic: str) -> int | None:
        """How many records of this topic were taken, or None while one is under way: then no other has to start."""
        return (
            None
            if any(in_flight.consumed.topic == topic for in_flight in self._unfinished)
            else self._taken.get(topic, 0)
        )

    @property
    def failing(self) -> str:
        """Why nothing of this partition can be committed now; '' if it can. One failed transaction is repeated."""
        failures = self.state.commits.failures
        return f"partition {self.number} commits nothing: {failures} transactions failed" if failures > 1 else ""

    def under_way(self) -> dict[str, Hashable]:
        """What must end by itself, described for the operator, with a token that changes when it progresses."""
        if not self._ready.is_set():
            return {f"partition {self.number} is being taken over again": self._take_overs}
        seen: dict[str, Hashable] = {}
        if (committed := self.state.commits.under_way) is not None:
            seen[f"partition {self.number} commits nothing"] = committed
        oldest = next((in_flight for in_flight in self._unfinished if not in_flight.waits), None)
        if oldest is not None:
            seen[f"the lead at {oldest.consumed.record_id} does not end"] = oldest.turns
        return seen

    # ------------------------------------------------------------------------------------------------- one record

    def _start(self, in_flight: InFlight, previous: asyncio.Event | None) -> None:
        """Start a record as soon as the previous one lets it."""
        in_flight.task = asyncio.create_task(self._process(in_flight, previous))

    async def _begin(self, in_flight: InFlight, previous: asyncio.Event | None) -> None:
        """Wait for the previous record, and for a place if this one starts for the first time."""
        if previous is not None and not previous.is_set():
            with in_flight.waiting():
                await previous.wait()
        if in_flight.begun:
            return
        await in_flight.limiter.wait()
        if in_flight.suspended.is_set():
            raise GiveUp
        self._ahead[in_flight.source].leave(in_flight)
        in_flight.limiter.enter()
        in_flight.begun = True

    def _line_of(self, in_flight: InFlight) -> bytes:
        """Return whose records start one after the other: those of a workspace, where workspaces share the partition.

        Records whose key names no workspace of the partition are one line.
        """
        key = in_flight.consumed.key or b""
        shares = in_flight.source in PRIORITY and self.state.lanes.shared
        return key if shares and key.decode(errors="replace") in self._plan.residents(self.number) else b""

    async def _process(self, in_flight: InFlight, previous: asyncio.Event | None) -> None:
        try:
            await self._begin(in_flight, previous)
            try:
                await self._pipelines[in_flight.source](in_flight)
            except Recalled:
                await self._process_again(in_flight)
            await self._leave(in_flight).finish(in_flight)
        except GiveUp:
            self._leave(in_flight).give_up(in_flight)
        except StateStoreError:
            pass  # the committer has reported it; the recovery starts the record again
        except Exception as bug:  # noqa: BLE001 - a bug ends the process without an ack
            self.state.admission.end(bug)
        finally:
            in_flight.release_next()

    async def _process_again(self, in_flight: InFlight) -> None:
        """Process a recalled record again: behind the callback that waits for it, before later copies of its lead."""
        while in_flight.recalled:
            in_flight.recalled = False
            with suppress(Recalled):  # by another callback
                await self._pipelines[in_flight.source](in_flight)

    def _leave(self, in_flight: InFlight) -> AckTracker:
        """Remove a record: it is no longer under way, and another one may start."""
        if in_flight.begun:
            in_flight.limiter.leave()
        else:
            self._ahead[in_flight.source].leave(in_flight)
        return self._unfinished.pop(in_flight)

    def _watch(self, task: asyncio.Task[None]) -> None:
        """End the process if a task has failed: an exception here is a bug."""
        if (error := died_of(task)) is not None:
            self._alarm(error)

    async def _when_suspended(self, stream: PartitionStream) -> None:
        await stream.suspended.wait()
        self.state.admission.give_up(stream.suspended)
        self._give_up_idle()

    def _give_up_idle(self) -> None:
        """Give up the records that wait for a recovery: they must not delay a rebalance or the shutdown."""
        for in_flight in list(self._unfinished):
            if in_flight.suspended.is_set() and (in_flight.task is None or in_flight.task.done()):
                self._drop(in_flight)

    def _drop(self, in_flight: InFlight) -> None:
        in_flight.release_next()
        self._leave(in_flight).give_up(in_flight)

    # ---------------------------------------------------------------------------------------------------- recovery

    def _commit_failed(self, error: StateStoreError) -> None:
        self._ready.clear()
        if isinstance(error, Aborted):
            self._recovering = asyncio.create_task(self._recover(error), name=f"recover-{self.number}")
            self._recovering.add_done_callback(self._watch)
        else:
            self._alarm(error)

    async def _recover(self, error: Aborted) -> None:
        """Take the partition over again and start its unfinished records again, as after a crash."""
        await cancel([in_flight.task for in_flight in self._unfinished] + [self._bootstrapping])
        self.state.admission.clear()
        self._give_up_idle()
        self._observer.recovering(self.number, error)
        await asyncio.sleep(self.state.commits.pause_s)
        delay_s = FIRST_PAUSE_S
        while True:
            try:
                # Without this check, a worker that was cut off longer than its session would fence its successor.
                await self.take_over(await self._still_member())
                break
            except BrokerUnavailable as unavailable:
                self._observer.recovering(self.number, unavailable)
                await asyncio.sleep(delay_s)
                delay_s = min(LONGEST_PAUSE_S, delay_s * 2)
        self._give_up_idle()
        previous: dict[tuple[AckTracker, bytes], asyncio.Event] = {}
        for in_flight, acks in list(self._unfinished.items()):
            if self.state.rows.is_passed(in_flight.consumed):
                self._drop(in_flight)
            else:
                line = acks, self._line_of(in_flight)
                in_flight.passed.clear()
                self._start(in_flight, previous.get(line))
                previous[line] = in_flight.passed


class Bootstrap:
    """Processes the commands, then the callbacks that came while no worker owned the partition.

    All of them are processed before the first lead. A pause issued meanwhile takes effect before any lead is sent. A
    lead with a callback is neither sent again nor reported as overdue.

    `limiter` counts them. `unavailable` is called when Kafka cannot be read, which is then tried again.
    """

    def __init__(
        self,
        topics: TopicNames,
        store: StateStore,
        rows: Rows,
        pipelines: Mapping[Source, Process],
        limiter: Limiter,
        unavailable: Callable[[Exception], None],
    ) -> None:
        self._topics = topics
        self._store = store
        self._rows = rows
        self._pipelines = pipelines
        self._limiter = limiter
        self._unavailable = unavailable

    async def run(self) -> bool:
        """Process all of them.

        Returns:
            False if a commit failed. The partition is then taken over again, and bootstraps again.
        """
        try:
            await self._each(self._topics.commands, "command")
            await self._each(self._topics.callbacks, "callback")
        except* StateStoreError:
            pass  # the committer has reported it
        else:
            return True
        return False

    async def _each(self, topic: str, source: Source) -> None:
        """Process the records of one topic. `serve` gets them too: the first of the two concludes a record."""
        offset, more = self._rows.passed(topic), True
        while more:
            try:
                found = await self._store.waiting(topic, offset, _READ)
            except BrokerUnavailable as error:
                self._unavailable(error)
                await asyncio.sleep(_PAUSE_S)
                continue
            for first in range(0, len(found), _PARALLEL[source]):
                async with asyncio.TaskGroup() as group:
                    for consumed in found[first : first + _PARALLEL[source]]:
                        if not self._rows.is_passed(consumed):
                            in_flight = InFlight(consumed, source, asyncio.Event(), self._limiter)
                            group.create_task(self._pipelines[source](in_flight))
            more = len(found) == _READ
            offset = found[-1].offset + 1 if found else offset
