"""One partition of the worker: takes it over from Kafka, takes its leads down the line, and goes on after trouble.

    take_over: fence every earlier holder, read the rows, apply what operators have asked meanwhile
    ->  serve: one loop for each topic  ->  close

When a transaction fails, memory is ahead of Kafka. Then all walks are cancelled, the partition is taken over again as
after a crash, and the same records are walked again: their rows say what became of them.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Coroutine, Hashable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any, Final

from stream_app.domain.delivery.outcome import Outcome, Refused
from stream_app.domain.delivery.recorder import WriteBatch
from stream_app.domain.delivery.state_machine import KINDS, Delivery, mark_key
from stream_app.domain.errors import Aborted, BrokerUnavailable, StateStoreError
from stream_app.domain.lane.budget import Reservation
from stream_app.domain.lane.lane import AdmissionRequest, Grant, Held, Lane, charge, letter, settle
from stream_app.domain.lane.settlement import Settlement
from stream_app.domain.lead.suppression import Suppression
from stream_app.domain.policy import Destination, Plan
from stream_app.domain.record import ConsumedRecord
from stream_app.partition.acks import AckTracker
from stream_app.partition.admission import AdmissionQueue
from stream_app.partition.bootstrap import Bootstrap
from stream_app.partition.callback_port import NOTHING_OUTSIDE, CallbackState, Outside
from stream_app.partition.command_port import Console, is_shared
from stream_app.partition.committer import Committer
from stream_app.partition.eager import rest_of
from stream_app.partition.erasures import Erasures
from stream_app.partition.in_flight import RIGHT_OF_WAY, GiveUp, InFlight, Limiter, Recalled, Source
from stream_app.partition.key_locks import KeyLock, KeyLocks, Keys
from stream_app.partition.lanes import Lanes
from stream_app.partition.markers import ProcessedMarkers
from stream_app.partition.ports import Alarm, Membership, Observer, PartitionStream, StateStore
from stream_app.partition.state import Rows
from stream_app.pipeline.callback import Correlation
from stream_app.pipeline.command import CommandResult, Operations, Reload
from stream_app.pipeline.fallback import NOTHING_KNOWN, Known
from stream_app.pipeline.lead import LeadPipeline
from stream_app.pipeline.ports import Clay, Clock
from stream_app.pipeline.ports import InFlight as LineWalk
from stream_app.tasks import cancel, died_of

Taker = Callable[[LineWalk], Coroutine[Any, Any, None]]
"""Takes one record to its conclusion: the line, for leads."""


def _nothing_to_reload() -> CommandResult:
    return CommandResult("nothing can be read anew here", False, "refused")


_UNFINISHED: Final = 4  # walks for each slot in flight: what waits for a commit or for its first copy is bounded too
_FIRST_PAUSE_S: Final = 0.5
_LONGEST_PAUSE_S: Final = 10.0


class PartitionOwner:
    """The line's desk (`ports.PartitionState`) for one partition, and the owner of everything in it.

    known   what leads may be answered with when it is not Clay that answers.
    reload  how the configuration is read anew; it changes the plan in place.
    heard   the lanes as this process last knew them, before it lost a partition: kept by the process.
    outside what is asked about leads that nobody calls back about.
    """

    def __init__(
        self,
        number: int,
        plan: Plan,
        ledger: StateStore,
        clay: Clay,
        clock: Clock,
        observer: Observer,
        alarm: Alarm,
        still_member: Membership,
        spacing_s: float = 0.05,
        reload: Reload = _nothing_to_reload,
        known: Known = NOTHING_KNOWN,
        heard: dict[str, Lane] | None = None,
        outside: Outside = NOTHING_OUTSIDE,
    ) -> None:
        self.number, self._plan, self._ledger, self._clock, self._observer = number, plan, ledger, clock, observer
        self._alarm, self._still_member = alarm, still_member
        line = LeadPipeline(plan, self, clay, clock, known)
        self._takers: dict[Source, Taker] = {"hot": line.take, "retry": line.take, "bulk": line.take}
        self._rows = Rows(int(plan.line.freshness_days * 86_400_000))
        self._lanes = Lanes(number, plan, clock, observer, heard)
        self._markers = ProcessedMarkers(number)
        self._unfinished: dict[InFlight, AckTracker] = {}
        self._streams: dict[str, PartitionStream] = {}
        self._taken: dict[str, int] = {}
        self._admission = AdmissionQueue(plan, self._lanes, is_shared(plan, number), clock, self._submit, alarm)
        self._key_locks = KeyLocks(self._admission.recall, lambda in_flight: self._rooms[in_flight.source])
        console = Console(number, plan, self, self._rows, self._lanes, self._admission, self._key_locks, observer)
        trouble = partial(observer.recovering, number)
        beside = (self._rows, self._lanes, self._admission, clock, self._submit)
        self._way_back = CallbackState(plan, self, *beside, outside, trouble)
        self._takers["callback"] = Correlation(plan, self._way_back, clock).take
        self._erasures = Erasures(plan, self._rows, clock, self._submit)
        self._reload = reload
        self._takers["command"] = Operations(plan, console, clock, self._reloaded).take
        self._committer = Committer(ledger, plan.topics.state, spacing_s, self._lanes, observer, self._commit_failed)
        self._waiting = Bootstrap(plan.topics, ledger, self._markers, self._takers, trouble)
        self._committing: asyncio.Task[None] | None = None
        self._recovering: asyncio.Task[None] | None = None
        self._catching_up: asyncio.Task[None] | None = None
        self._take_overs, self._ready = 0, asyncio.Event()
        # Apart: leads that wait for a callback must not take the room that it needs.
        leads, others = (Limiter(plan.line.max_in_flight * _UNFINISHED) for _ in range(2))
        self._rooms = {source: leads if source in RIGHT_OF_WAY else others for source in self._takers}

    # ------------------------------------------------------------------------------------ take over, serve, close

    async def take_over(self, fence_within_s: float = math.inf) -> None:
        """Fence, then read; afterwards leads may be taken. Raises BrokerUnavailable or RowUnreadable."""
        self._load(await self._ledger.take_over(fence_within_s))
        self._committer.forget()
        self._committing = asyncio.create_task(self._committer.run(), name=f"committer-{self.number}")
        self._committing.add_done_callback(self._watch)
        self._take_overs += 1
        self._admission.shut()
        self._ready.set()
        self._catching_up = asyncio.create_task(self._catch_up(), name=f"catch-up-{self.number}")
        self._catching_up.add_done_callback(self._watch)

    async def _catch_up(self) -> None:
        """From then on leads are sent, and clocks run: for those that nobody calls back about, for what is shown."""
        if await self._waiting.run():
            self._admission.open()
            await asyncio.gather(self._way_back.run(), self._lanes.keep_shown(self._submit), self._erasures.run())

    async def serve(self, stream: PartitionStream, source: Source) -> None:
        """Take the records of one topic, one after the other, each when its predecessor has passed the gate."""
        acks, room, began = AckTracker(stream), self._rooms[source], self._take_overs
        self._streams[stream.topic] = stream
        stream.expect(self._markers.passed(stream.topic))
        suspension = asyncio.create_task(self._when_suspended(stream))
        try:
            async for consumed in stream:
                # An inlet from before a recovery may be a cut-off worker's: others have come further meanwhile.
                if began != self._take_overs and self._markers.is_passed(consumed):
                    stream.give_up(consumed)
                    continue
                self._taken[consumed.topic] = self._taken.get(consumed.topic, 0) + 1
                in_flight = InFlight(consumed, source, stream.suspended)
                acks.add(in_flight)
                self._unfinished[in_flight] = acks
                room.enter()
                if self._ready.is_set():
                    self._start(in_flight)
                elif in_flight.suspended.is_set():
                    self._drop(in_flight)  # else it starts when the partition has been taken over again
                if not in_flight.passed.is_set():
                    await in_flight.passed.wait()
                await room.wait()
        finally:
            suspension.cancel()

    async def close(self) -> None:
        """Forget everything at once: the partition is no longer ours, or the process ends."""
        self._ready.clear()
        own = [self._committing, self._recovering, self._catching_up]
        await cancel([in_flight.task for in_flight in self._unfinished] + own)
        self._admission.clear()
        self._unfinished.clear()
        self._lanes.gone()
        await self._ledger.close()

    @property
    def posts_under_way(self) -> int:
        return self._admission.in_flight

    @property
    def rows(self) -> int:
        """How many are held in memory."""
        return len(self._rows)

    @property
    def parked(self) -> Mapping[str, int]:
        """Leads that wait for a human, by workspace."""
        return self._rows.parked

    @property
    def unfinished(self) -> int:
        """Records taken and not concluded."""
        return len(self._unfinished)

    def takes(self, topic: str) -> int | None:
        """None while a record of this topic is under way, so that no other need be taken; else how many were."""
        return (
            None
            if any(in_flight.consumed.topic == topic for in_flight in self._unfinished)
            else self._taken.get(topic, 0)
        )

    def under_way(self) -> dict[str, Hashable]:
        """What has to end by itself, as a person would call it, with a token that changes when it moves."""
        if not self._ready.is_set():
            return {f"partition {self.number} is being taken over again": self._take_overs}
        seen: dict[str, Hashable] = {}
        if (committed := self._committer.under_way) is not None:
            seen[f"partition {self.number} commits nothing"] = committed
        oldest = next((in_flight for in_flight in self._unfinished if not in_flight.waits), None)
        if oldest is not None:
            seen[f"the lead at {oldest.consumed.place} does not end"] = oldest.turns
        return seen

    # --------------------------------------------------------------------------------------- the desk of the line

    def find(self, key: bytes) -> Delivery | None:
        return self._rows.delivery(key)

    def alias(self, key: bytes) -> bytes | None:
        return self._rows.get(key)

    def marked(self, *places: str) -> bytes | None:
        return next((key for key in map(mark_key, places) if key in self._rows), None)

    def passed(self, consumed: ConsumedRecord) -> bool:
        return self._markers.is_passed(consumed)

    def lock(self, in_flight: object, keys: Keys) -> KeyLock:
        assert isinstance(in_flight, InFlight)
        return self._key_locks.of(in_flight, keys)

    def stands_still(self, destination: Destination, *, bulk: bool) -> bool:
        return self._admission.stands_still(destination, bulk=bulk)

    async def admit(
        self, in_flight: LineWalk, ask: AdmissionRequest, write_ahead: Callable[[Grant], WriteBatch]
    ) -> Grant | Held:
        assert isinstance(in_flight, InFlight)
        with in_flight.waiting():
            return await self._admission.admit(in_flight, ask, write_ahead)

    def settle(self, entry: Grant, outcome: Outcome | None, *, has_slot: bool) -> Settlement:
        name = entry.destination.workspace
        policy, lane = self._plan.workspaces[name], self._lanes[name]
        now_ms, rand, under_way = self._clock.now_ms(), self._clock.rand(), self._admission.in_flight_of(name)
        others_wait = isinstance(outcome, Refused) and self._admission.waits_for(name)
        self._lanes[name], report = settle(policy, lane, entry, outcome, now_ms, rand, under_way, others_wait)
        if has_slot:
            self._admission.leave(entry, outcome)
        if (
            self._admission.waits
        ):  # After the line has written what it settles: whoever goes next comes in a later step.
            asyncio.get_running_loop().call_soon(self._admission.pump)
        return report

    def letter(self, entry: Grant, reason: str) -> None:
        name = entry.destination.workspace
        self._lanes[name] = letter(self._plan.workspaces[name], self._lanes[name], entry, reason, self._clock.now_ms())

    def charge(self, workspace: str, reservation: Reservation) -> None:
        self._lanes.change(workspace, lambda lane: charge(lane, reservation))

    async def commit(self, step: WriteBatch) -> None:
        await self._submit(step)

    async def conclude(self, in_flight: object, step: WriteBatch) -> None:
        committed = self._submit(step)
        self._key_locks.release(in_flight)
        await committed

    async def confirm(self, in_flight: object, key: bytes) -> None:
        await self.conclude(in_flight, WriteBatch([(key, self._rows.get(key))], [], []))

    @property
    def suppressing(self) -> bool:
        return self._rows.suppressing > 0

    def suppression(self, key: bytes) -> Suppression | None:
        return self._rows.suppression(key)

    # ------------------------------------------------------------------------------------------------- one record

    def _start(self, in_flight: InFlight) -> None:
        """Most pass the gate at once: so it goes as far as it can before it costs a task."""
        begun = self._process(in_flight)
        try:
            waits_for = begun.send(None)
        except StopIteration:
            return
        in_flight.task = asyncio.create_task(rest_of(begun, waits_for))

    async def _process(self, in_flight: InFlight) -> None:
        try:
            try:
                await self._takers[in_flight.source](in_flight)
            except Recalled:
                await self._take_again(in_flight)
            await self._leave(in_flight).finish(in_flight)
        except GiveUp:
            self._leave(in_flight).give_up(in_flight)
        except StateStoreError:
            pass  # the committer has told already; the walk starts again when the partition is taken over
        except Exception as bug:  # noqa: BLE001 - nothing dies in silence: the process ends without an ack
            self._admission.end(bug)
        finally:
            in_flight.release_next()

    async def _take_again(self, in_flight: InFlight) -> None:
        """Behind the callback that waits for it, and still before later copies of its lead."""
        while in_flight.recalled:
            in_flight.recalled = False
            with suppress(Recalled):  # by another one
                await self._takers[in_flight.source](in_flight)

    def _leave(self, in_flight: InFlight) -> AckTracker:
        """It is no longer under way: there is room for another."""
        self._rooms[in_flight.source].leave()
        return self._unfinished.pop(in_flight)

    def _watch(self, task: asyncio.Task[None]) -> None:
        """Nothing dies in silence: an exception here is a bug, and the process ends without an ack."""
        if (error := died_of(task)) is not None:
            self._alarm(error)

    async def _when_suspended(self, stream: PartitionStream) -> None:
        await stream.suspended.wait()
        self._admission.give_up(stream.suspended)
        self._give_up_idle()

    def _give_up_idle(self) -> None:
        """Records that wait for the partition to be taken over again must not hold up a rebalance or the end."""
        for in_flight in list(self._unfinished):
            if in_flight.suspended.is_set() and (in_flight.task is None or in_flight.task.done()):
                self._drop(in_flight)

    def _drop(self, in_flight: InFlight) -> None:
        in_flight.release_next()
        self._leave(in_flight).give_up(in_flight)

    # ---------------------------------------------------------------------------------------- rows, lanes, commits

    def _reloaded(self) -> CommandResult:
        told = self._reload()
        self._lanes.reconfigured()
        return told

    def _submit(self, step: WriteBatch) -> asyncio.Future[None]:
        step.rows.extend(self._markers.drop_passed(self._committed))
        for key, value in step.rows:
            if value is not None and key not in self._rows:
                self._markers.note(key)
        self._rows.apply(step.rows)
        gone = self._rows.expired(self._clock.now_ms())  # after that: a row that this step renews has not expired
        self._rows.apply(gone)
        step.rows.extend(gone)
        if step.events:
            self._way_back.note(step)
        return self._committer.submit(step)

    def _committed(self, topic: str) -> int | None:
        stream = self._streams.get(topic)
        return stream.committed() if stream else None

    def _load(self, rows: dict[bytes, bytes]) -> None:
        if unknown := [key for key in rows if key[:2] not in KINDS]:
            self._observer.unknown_rows(self.number, len(unknown))
            for key in unknown:
                del rows[key]
        self._markers.load(rows)
        self._lanes.load(rows)
        self._rows.load(rows)
        self._way_back.clear()

    # ------------------------------------------------------------------------------------------------- after trouble

    def _commit_failed(self, error: StateStoreError) -> None:
        self._ready.clear()
        if isinstance(error, Aborted):
            self._recovering = asyncio.create_task(self._recover(error), name=f"recover-{self.number}")
            self._recovering.add_done_callback(self._watch)
        else:
            self._alarm(error)

    async def _recover(self, error: Aborted) -> None:
        """Take the partition over again and walk its unfinished records once more, as after a crash."""
        await cancel([in_flight.task for in_flight in self._unfinished] + [self._catching_up])
        self._admission.clear()
        self._give_up_idle()
        self._observer.recovering(self.number, error)
        await asyncio.sleep(self._committer.pause_s)
        delay_s = _FIRST_PAUSE_S
        while True:
            try:
                # Else one that was cut off for longer than its session would fence its innocent successor.
                await self.take_over(await self._still_member())
                break
            except BrokerUnavailable as trouble:
                self._observer.recovering(self.number, trouble)
                await asyncio.sleep(delay_s)
                delay_s = min(_LONGEST_PAUSE_S, delay_s * 2)
        self._give_up_idle()
        for in_flight in list(self._unfinished):
            if self._markers.is_passed(in_flight.consumed):
                self._drop(in_flight)
            else:
                self._start(in_flight)
