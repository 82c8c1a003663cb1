"""The records of one partition that are under way.

They are started in their order, and each is acked once it is concluded. After a recovery of the
partition, `resume` starts the unfinished records again, whose rows say what became of them before.
"""

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Final

from attrs import define, field

from stream_app.domain.model.errors import StateStoreError
from stream_app.domain.plan import Plan
from stream_app.partition.ack_tracker import AckTracker
from stream_app.partition.admission import AdmissionQueue
from stream_app.partition.commits import Commits
from stream_app.partition.in_flight import (
    LEAD_SOURCES,
    EmptyRun,
    InFlight,
    Recalled,
    Source,
    StreamSuspended,
)
from stream_app.partition.intake import Intake
from stream_app.partition.lanes import Lanes
from stream_app.partition.places import Limiter, ReadAhead
from stream_app.partition.ports import RecordStream
from stream_app.partition.rows import Rows
from stream_app.tasks import cancel

ProcessRecord = Callable[[InFlight], Coroutine[Any, Any, None]]
"""Takes one record to its conclusion."""

RECORDS_FOR_A_POST: Final = 4
"""How many records may be under way for each POST that may be in flight. Those that wait for a
commit or a lock count, too.
"""


@define(eq=False, repr=False, kw_only=True)
class RecordRunner:
    """Runs the records of partition `number`, between `resume` and `stop`.

    Attributes:
        take_overs: How often the partition was taken over. Each one starts the records again.
        is_resumed: False while the partition is being taken over. Records are kept then, and not
            started.
    """

    _number: int
    _plan: Plan
    _rows: Rows
    _lanes: Lanes
    _intake: Intake
    _commits: Commits
    _admission: AdmissionQueue
    # Those of leads, callbacks and commands: see `PartitionOwner`.
    _pipelines: Mapping[Source, ProcessRecord]
    _limiters: dict[Source, Limiter] = field(init=False)
    _ahead: dict[Source, ReadAhead] = field(init=False)
    _unfinished: dict[InFlight, AckTracker] = field(init=False, factory=dict)
    _received: dict[str, int] = field(init=False, factory=dict)
    _bootstrapped: asyncio.Event = field(init=False, factory=asyncio.Event)
    take_overs: int = field(init=False, default=0)
    is_resumed: bool = field(init=False, default=False)

    def __attrs_post_init__(self) -> None:
        places = self._plan.delivery.max_in_flight * RECORDS_FOR_A_POST
        leads = Limiter(places)
        # Callbacks have a limiter of their own: leads that wait for a callback must not take the
        # place that it needs.
        others = Limiter(places)
        self._limiters = {
            source: leads if source in LEAD_SOURCES else others for source in self._pipelines
        }
        self._ahead = {source: ReadAhead(self._plan.delivery) for source in self._pipelines}

    # ---------------------------------------------------------------------------------- all records

    def resume(self) -> None:
        """Start the unfinished records again, in their order, and let `serve` start new ones.

        Leads wait for `admit_leads`.
        """
        self.take_overs += 1
        self.is_resumed = True
        self._bootstrapped.clear()
        self._give_up_idle()
        previous: dict[tuple[AckTracker, bytes], asyncio.Event] = {}
        for in_flight, acks in list(self._unfinished.items()):
            if self._rows.is_passed(in_flight.consumed):
                self._drop(in_flight)
            else:
                sequence = acks, self._sequence_of(in_flight)
                in_flight.hold_next()
                self._start(in_flight, previous.get(sequence))
                previous[sequence] = in_flight.next_may_start

    def admit_leads(self) -> None:
        """Let leads start, because the commands and callbacks that were waiting are processed."""
        self._bootstrapped.set()

    async def stop(self) -> None:
        """Cancel all records under way, and give up those of suspended streams.

        The others wait for `resume`.
        """
        # Before the await, so that `serve` keeps a record for `resume` that it takes meanwhile.
        self.is_resumed = False
        await cancel([in_flight.execution.task for in_flight in self._unfinished])
        self._admission.clear()
        self._give_up_idle()

    async def close(self, owning: asyncio.Task[None] | None) -> None:
        """Drop all records at once, and cancel the task that owns the partition."""
        # Before the await, as in `stop`.
        self.is_resumed = False
        await cancel([owning, *(in_flight.execution.task for in_flight in self._unfinished)])
        self._admission.clear()
        for in_flight in self._unfinished:
            # A task that was cancelled before its first step has not released the next record.
            in_flight.release_next()
            if not in_flight.execution.begun:
                self._ahead[in_flight.source].leave(in_flight.size)
        self._unfinished.clear()

    async def serve(self, stream: RecordStream, source: Source) -> None:
        """Process the records of one topic during one assignment.

        A record starts when its predecessor no longer waits for admission. Where workspaces share
        the partition, records are read ahead, and the predecessor of a record is the one before it
        in the same workspace. So the leads of one workspace do not wait for a burst of another.

        What bounds what:

        - `sequence`: Records of one sequence start one after the other. The event `next_may_start`
          of a record lets the next one start.
        - `Limiter`: It bounds the records that have begun, by number and bytes. All topics of leads
          share one, and commands and callbacks share another. A place is taken in `_begin` and
          given back in `_leave`. Where no record is read ahead, the next one is not even read
          before there is a place.
        - `ReadAhead`: It bounds the records of this topic that were read and have not begun, by
          number and bytes. It matters where workspaces share the partition.
        - `EmptyRun`: Consecutive input records without a value are concluded by one step.
        - `take_overs` and the passed offset: A record that was read before a recovery is not
          started if another worker may have concluded it meanwhile.
        - `AckTracker`: Only the finished prefix of the stream is acked.
        - `_when_suspended`: Before a rebalance, records that only wait are given up.

        The leads that wait for their lane are bounded by `AdmissionQueue`, and the POSTs of a lane
        by its slots there.
        """
        acks = AckTracker(stream)
        limiter = self._limiters[source]
        take_overs_before = self.take_overs
        ahead = self._ahead[source]
        previous = dict[bytes, asyncio.Event]()
        empty_run: EmptyRun | None = None
        # `Commits` deletes the markers that the committed offset of the stream has passed.
        self._commits.streams[stream.topic] = stream
        self._intake.begin(stream)
        stream.expect(self._rows.passed(stream.topic))
        suspension = asyncio.create_task(self._when_suspended(stream))
        try:
            async for consumed in stream:
                # The stream may hold records from before a recovery. If this worker was cut off,
                # another one may have concluded them. Their markers may be deleted by now, so the
                # passed offset decides.
                if take_overs_before != self.take_overs and self._rows.is_passed(consumed):
                    stream.give_up(consumed)
                    continue
                self._received[consumed.topic] = self._received.get(consumed.topic, 0) + 1
                if consumed.value is not None or consumed.topic not in self._plan.topics.inputs:
                    empty_run = None
                elif empty_run is None:
                    empty_run = EmptyRun()
                in_flight = InFlight(consumed, source, stream.suspended, limiter, empty_run)
                acks.add(in_flight)
                self._unfinished[in_flight] = acks
                self._intake.read(in_flight)
                ahead.enter(in_flight.size)
                sequence = self._sequence_of(in_flight)
                if self.is_resumed:
                    self._start(in_flight, previous.get(sequence))
                elif in_flight.suspended.is_set():
                    self._drop(in_flight)  # A record that is not suspended waits for `resume`.
                previous[sequence] = in_flight.next_may_start
                if source in LEAD_SOURCES and self._lanes.shared:
                    await ahead.wait()
                else:
                    await in_flight.next_may_start.wait()
                    await limiter.wait()
        finally:
            suspension.cancel()

    def received(self, topic: str) -> int | None:
        """How many records of this topic were received; None while one of them is under way."""
        under_way = any(in_flight.consumed.topic == topic for in_flight in self._unfinished)
        return None if under_way else self._received.get(topic, 0)

    def oldest(self) -> InFlight | None:
        """The first record that waits for nothing but its own end."""
        return next((in_flight for in_flight in self._unfinished if not in_flight.waits), None)

    # ----------------------------------------------------------------------------------- one record

    def _start(self, in_flight: InFlight, previous: asyncio.Event | None) -> None:
        """Start a record as soon as the previous one lets it."""
        in_flight.execution.task = asyncio.create_task(self._process(in_flight, previous))

    async def _begin(self, in_flight: InFlight, previous: asyncio.Event | None) -> None:
        """Wait for the previous record, and for a place if this one starts for the first time."""
        if previous is not None and not previous.is_set():
            with in_flight.waiting():
                await previous.wait()
            # Second look: the previous record may have been given up during the wait, and this one
            # must not overtake it.
            if in_flight.suspended.is_set() and in_flight.post is None:
                raise StreamSuspended
        # Until the bootstrap has ended, a lead may not even be answered from the cache: its person
        # may be suppressed by a command that the bootstrap still has to apply.
        if in_flight.source in LEAD_SOURCES and not self._bootstrapped.is_set():
            bootstrapped = asyncio.ensure_future(self._bootstrapped.wait())
            try:
                if in_flight.post is None:
                    await in_flight.wait_or_give_up(bootstrapped)
                else:  # A suspension does not end this wait: the outcome of its POST is recorded.
                    with in_flight.waiting():
                        await bootstrapped
            finally:
                bootstrapped.cancel()
        if in_flight.execution.begun:
            return
        await in_flight.limiter.wait()
        # Second look: the stream may have been suspended while there was no place. Then another
        # process is to get this record.
        if in_flight.suspended.is_set():
            raise StreamSuspended
        self._ahead[in_flight.source].leave(in_flight.size)
        in_flight.limiter.enter(in_flight.size)
        in_flight.execution.begun = True

    def _sequence_of(self, in_flight: InFlight) -> bytes:
        """Return the name of the sequence in which a record starts after the one before it.

        Where workspaces share the partition, each workspace has a sequence of its own, by its name.
        All other records are in the sequence b"".
        """
        key = in_flight.consumed.key or b""
        # Records without a value are in one sequence, whatever their keys are, so that those of a
        # run are concluded in their order.
        shares = self._lanes.shared and in_flight.empty_run is None
        return (
            key
            if shares and key.decode(errors="replace") in self._plan.residents(self._number)
            else b""
        )

    async def _process(self, in_flight: InFlight, previous: asyncio.Event | None) -> None:
        try:
            await self._begin(in_flight, previous)
            while True:
                try:
                    await self._pipelines[in_flight.source](in_flight)
                except Recalled:
                    # It starts again and requests its lock again, after the callback that waits for
                    # that lock and before later copies of its lead.
                    continue
                break
            self._intake.take(in_flight)
            # It leaves before the ack: a recovery that begins during the ack neither cancels this
            # task nor starts a record again whose last step is committed.
            await self._leave(in_flight).finish(in_flight)
        except StreamSuspended:
            self._leave(in_flight).give_up(in_flight)
        except StateStoreError:
            pass  # `Commits.run` raises it, too, and the recovery starts the record again.
        except Exception as bug:  # noqa: BLE001 - a bug ends the process without an ack
            self._admission.end(bug)
        finally:
            in_flight.release_next()

    def _leave(self, in_flight: InFlight) -> AckTracker:
        """Remove a record: it is no longer under way, and another one may start."""
        if in_flight.execution.begun:
            in_flight.limiter.leave(in_flight.size)
        else:
            self._ahead[in_flight.source].leave(in_flight.size)
        return self._unfinished.pop(in_flight)

    async def _when_suspended(self, stream: RecordStream) -> None:
        await stream.suspended.wait()
        self._admission.give_up(stream.suspended)
        self._give_up_idle()

    def _give_up_idle(self) -> None:
        """Give up the records that wait for a recovery.

        They must not delay a rebalance or the shutdown.
        """
        for in_flight in list(self._unfinished):
            if in_flight.suspended.is_set() and in_flight.execution.is_idle:
                self._drop(in_flight)

    def _drop(self, in_flight: InFlight) -> None:
        in_flight.release_next()
        self._leave(in_flight).give_up(in_flight)
