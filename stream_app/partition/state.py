"""The state of one partition: rows, lanes and locks in memory, and the transactions that write them.

A change applies to memory at once and is written by the next transaction. If a transaction fails, memory is ahead of
Kafka, and `load` replaces it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator, Mapping
from typing import Any

from stream_app.domain.callback.interpret import Booking, book
from stream_app.domain.delivery.outcome import Outcome, Refused
from stream_app.domain.delivery.recorder import WriteBatch
from stream_app.domain.delivery.state_machine import KINDS, Delivery, mark_key
from stream_app.domain.errors import SettingsError, StateStoreError
from stream_app.domain.lane.admission import AdmissionRequest, Grant, Held
from stream_app.domain.lane.budget import Reservation
from stream_app.domain.lane.lane import Lane
from stream_app.domain.lane.settlement import Settlement, charge, record_dead_letter, settle
from stream_app.domain.lane_messages import CommandAnswer, LaneView
from stream_app.domain.lead.suppression import Suppression
from stream_app.domain.messages import Callback
from stream_app.domain.policy import Destination, Plan
from stream_app.domain.record import ConsumedRecord, Record
from stream_app.domain.system import SYSTEM_KEY, system_problem, system_row
from stream_app.partition.admission import AdmissionQueue
from stream_app.partition.commits import Committer
from stream_app.partition.deadlines import DeadlineQueue
from stream_app.partition.in_flight import InFlight
from stream_app.partition.lanes import Lanes
from stream_app.partition.locks import KeyLock, KeyLocks, Keys
from stream_app.partition.ports import Alarm, Clock, Observer, PartitionStream, StateStore
from stream_app.partition.rows import ProcessedMarkers, Rows


class UnitOfWork:
    """Reads and changes the state of partition `number`. The arguments are those of `PartitionOwner`.

    A change of a lane belongs to the step of its workspace that is submitted next: both are written by the same
    transaction, if no await lies between them.

    `commit_failed` is called after a failed transaction.
    """

    def __init__(
        self,
        number: int,
        plan: Plan,
        store: StateStore,
        clock: Clock,
        observer: Observer,
        alarm: Alarm,
        spacing_s: float,
        previous: dict[str, Lane] | None,
        commit_failed: Callable[[StateStoreError], None],
    ) -> None:
        self._number = number
        self._plan = plan
        self._clock = clock
        self._observer = observer
        self.rows = Rows(int(plan.delivery.freshness_days * 86_400_000))
        self.lanes = Lanes(number, plan, clock, observer, previous)
        self.markers = ProcessedMarkers(number)
        self.deadlines = DeadlineQueue(plan, self.rows, self.lanes)
        self.admission = AdmissionQueue(number, plan, self.lanes, clock, self.submit, alarm)
        self.key_locks = KeyLocks(self.admission.recall)
        self.committer = Committer(store, plan.topics.state, spacing_s, self.lanes, observer, commit_failed)
        self.streams: dict[str, PartitionStream] = {}

    def load(self, rows: dict[bytes, bytes]) -> None:
        """Replace the state by these rows, which were read from Kafka.

        Raises:
            RowUnreadable: A row does not decode.
            SettingsError: The settings of this process are not those that the namespace began with.
        """
        self.committer.opening = self._opening(rows)
        if unknown := [key for key in rows if key[:2] not in KINDS]:
            self._observer.unknown_rows(self._number, len(unknown))
            for key in unknown:
                del rows[key]
        self.markers.load(rows)
        self.lanes.load(rows)
        self.rows.load(rows)
        self.deadlines.clear()

    def _opening(self, rows: dict[bytes, bytes]) -> Record | None:
        """Return what the partition begins with, if it has no row yet. Removes the row of the system from `rows`."""
        if not rows:
            return Record(self._plan.topics.state, SYSTEM_KEY, system_row(self._plan.partitions))
        began = rows.pop(SYSTEM_KEY, None)
        if problem := system_problem(None if began is None else SYSTEM_KEY, began, self._plan.partitions):
            raise SettingsError([f"{self._plan.topics.state}/{self._number}: {problem}"])
        return None

    # ------------------------------------------------------------------------------------------------------- rows

    def find(self, key: bytes) -> Delivery | None:
        """The row of a lead."""
        return self.rows.delivery(key)

    def row(self, key: bytes) -> bytes | None:
        """Any row, as bytes."""
        return self.rows.get(key)

    def find_marker(self, *record_ids: str) -> bytes | None:
        """The key of the marker that says that one of these records is concluded.

        Args:
            *record_ids: Records without a delivery row, as `topic/partition/offset`.
        """
        return next((key for key in map(mark_key, record_ids) if key in self.rows), None)

    def is_passed(self, consumed: ConsumedRecord) -> bool:
        """True if the record is concluded and the group's offset has passed it, so that its marker is deleted."""
        return self.markers.is_passed(consumed)

    @property
    def has_suppressions(self) -> bool:
        """True if the suppression list is not empty."""
        return self.rows.suppressing > 0

    def suppression(self, key: bytes) -> Suppression | None:
        """An entry of the suppression list."""
        return self.rows.suppression(key)

    # ------------------------------------------------------------------------------------------ locks and admission

    def lock(self, in_flight: InFlight, keys: Keys) -> KeyLock:
        """Hold an exclusive lock on these keys. Records get a lock in their order; callbacks get it before leads.

        `keys` is called again after each wait, and may then return more keys. `conclude` and `conclude_unchanged`
        release the lock early.
        """
        return self.key_locks.of(in_flight, keys)

    def is_unlocked(self, keys: tuple[bytes, ...]) -> bool:
        """True if no record under way holds one of these keys. The next step of a holder would undo a change."""
        return self.key_locks.is_free(keys)

    def is_held(self, destination: Destination, *, bulk: bool) -> bool:
        """True if the lane holds such a lead now, or would admit it as a probe only. Reserves nothing."""
        return self.admission.is_held(destination, bulk=bulk)

    async def admit(
        self, in_flight: InFlight, request: AdmissionRequest, write_ahead: Callable[[Grant], WriteBatch]
    ) -> Grant | Held:
        """Wait until the lane admits this lead. The lane's change and `write_ahead` are then one committed step."""
        with in_flight.waiting():  # for the commit too: the watchdog names a commit that hangs, not each of its leads
            return await self.admission.admit(in_flight, request, write_ahead)

    def reconsider_waiting(self) -> None:
        """Have all leads that wait for admission check again whether they may be sent."""
        self.admission.ask_again()

    def posts_in_flight(self, workspace: str) -> int:
        """How many requests to Clay are under way."""
        return self.admission.in_flight_of(workspace)

    # ------------------------------------------------------------------------------------------------------ lanes

    def lane(self, workspace: str) -> Lane:
        return self.lanes[workspace]

    def set_lane(self, lane: Lane) -> None:
        self.lanes[lane.workspace] = lane

    def lane_view(self, workspace: str) -> LaneView:
        """The lane as operators see it."""
        return self.lanes.view(workspace)

    def settle(self, grant: Grant, outcome: Outcome | None, *, has_slot: bool) -> Settlement:
        """Apply the outcome of a POST to its lane.

        Args:
            grant: What the lead was admitted with.
            outcome: None if the POST was not started.
            has_slot: True if the partition was not taken over again since the lead was admitted.
        """
        name = grant.destination.workspace
        policy, lane = self._plan.workspaces[name], self.lanes[name]
        now_ms, rand, in_flight = self._clock.now_ms(), self._clock.rand(), self.admission.in_flight_of(name)
        others_wait = isinstance(outcome, Refused) and self.admission.waits_for(name)
        self.lanes[name], settlement = settle(policy, lane, grant, outcome, now_ms, rand, in_flight, others_wait)
        if has_slot:
            self.admission.leave(grant, outcome, now_ms)
        if self.admission.waits_for(name):
            self._pump_soon(name)
        return settlement

    def book(self, row: Delivery, destination: Destination, callback: Callback) -> Booking:
        """Book what a lead did cost, as its callback says."""
        name = destination.workspace
        policy, lane = self._plan.workspaces[name], self.lanes[name]
        booking = book(policy, lane, row, destination, callback, self._clock.now_ms())
        self.lanes[name] = booking.lane
        self._pump_soon(name)  # the budget may have room again, or a suspension may have ended
        return booking

    def charge(self, workspace: str, reservation: Reservation) -> None:
        """Book a reservation as spent."""
        self.lanes[workspace] = charge(self.lanes[workspace], reservation)

    def record_dead_letter(self, grant: Grant, reason: str) -> None:
        """Count a dead letter of this lane."""
        name = grant.destination.workspace
        self.lanes[name] = record_dead_letter(
            self._plan.workspaces[name], self.lanes[name], grant, reason, self._clock.now_ms()
        )

    def _pump_soon(self, workspace: str) -> None:
        """Admit others after the caller has submitted its own step: their steps then come later."""
        asyncio.get_running_loop().call_soon(self.admission.pump_lane, workspace)

    # ---------------------------------------------------------------------------------------------------- commits

    def submit(self, step: WriteBatch) -> asyncio.Future[None]:
        """Apply a step in memory, and write it with the next transaction. The future is done when it is committed.

        Steps are committed in the order of these calls.
        """
        step.rows.extend(self.markers.drop_passed(self._committed))
        for key in self.rows.apply(step.rows):
            self.markers.note(key)
        step.rows.extend(self.rows.expire(self._clock.now_ms()))  # after `apply`: it may renew a row
        if step.events:
            self.deadlines.note(step)
        return self.committer.submit(step)

    async def conclude(self, in_flight: InFlight, step: WriteBatch) -> None:
        """Commit the last step of a record. The locks are released as soon as the step is in memory.

        A copy of the lead then decides by the new rows. Its step is committed with this one or after it, or neither is.
        """
        committed = self.submit(step)
        self.key_locks.release(in_flight)
        await committed

    def conclude_unchanged(self, in_flight: InFlight, key: bytes) -> Coroutine[Any, Any, None]:
        """Commit this row unchanged. The commit proves that this process owns the partition; then the ack is safe."""
        return self.conclude(in_flight, WriteBatch([(key, self.rows.get(key))], [], []))

    def command_committed(self, answer: CommandAnswer) -> None:
        """Report the answer of a command, and apply what it changed to the leads that wait for admission."""
        self._observer.answered(answer)
        self.reconsider_waiting()

    def _committed(self, topic: str) -> int | None:
        """The group's committed offset of a topic, if known."""
        stream = self.streams.get(topic)
        return stream.committed() if stream else None


class PartitionTable(Mapping[bytes, bytes]):
    """All rows of one partition by their key on the state topic, those of the lanes included.

    They are read in memory, which may be one transaction ahead of the state topic.
    """

    def __init__(self, rows: Rows, lanes: Lanes) -> None:
        self._rows = rows
        self._lanes = lanes

    def __getitem__(self, key: bytes) -> bytes:
        row = self._rows.get(key)
        if row is None:
            row = self._lanes.row(key)
        if row is None:
            raise KeyError(key)
        return row

    def __iter__(self) -> Iterator[bytes]:
        yield from self._lanes.keys()
        yield from self._rows

    def __len__(self) -> int:
        return len(self._lanes.keys()) + len(self._rows)
