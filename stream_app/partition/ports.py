"""The interfaces of a partition: to Kafka, Clay, the consumer group and the process, and between its own parts.

`partition.state.UnitOfWork` implements `PartitionState`, `partition.in_flight.InFlight` implements `InFlight`.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from stream_app.domain.callback.interpret import Booking
from stream_app.domain.delivery.outcome import Outcome
from stream_app.domain.delivery.recorder import Posted, WriteBatch
from stream_app.domain.delivery.state_machine import Delivery
from stream_app.domain.lane.admission import AdmissionRequest, Grant, Held
from stream_app.domain.lane.budget import Reservation
from stream_app.domain.lane.lane import Lane
from stream_app.domain.lane.settlement import Settlement
from stream_app.domain.lane_messages import CommandAnswer, LaneView
from stream_app.domain.lead.suppression import Suppression
from stream_app.domain.messages import Callback
from stream_app.domain.policy import Destination
from stream_app.domain.record import ConsumedRecord, Record

HostAnswers = Callable[[str], Awaitable[bool]]
"""Asks whether the host of a destination answers at all. The request submits nothing."""


class StateStore(Protocol):
    """The partition's transactional producer and its rows in Kafka."""

    async def take_over(self, fence_within_s: float = math.inf) -> dict[bytes, bytes]:
        """Fence every earlier owner, then read all rows. Reading may take longer than `fence_within_s`.

        Args:
            fence_within_s: No owner is fenced after this time, in seconds.

        Raises:
            BrokerUnavailable: Kafka cannot be reached now.
        """

    async def waiting(self, topic: str, offset: int, most: int) -> list[ConsumedRecord]:
        """Read the partition's committed records of a topic from an offset on, `most` of them at most.

        Raises:
            BrokerUnavailable: Kafka cannot be read now.
        """

    async def transact(self, records: Sequence[Record]) -> None:
        """Commit all of the records, or none.

        Raises:
            Fenced: Another process owns the partition.
            Aborted: The transaction failed.
        """

    async def close(self) -> None: ...


class PartitionStream(Protocol):
    """The records of one topic of the partition during one assignment. Records and acks are in order."""

    @property
    def topic(self) -> str: ...

    @property
    def partition(self) -> int: ...

    @property
    def suspended(self) -> asyncio.Event:
        """Set before a rebalance or shutdown: records that only wait must be given up."""

    def __aiter__(self) -> AsyncIterator[ConsumedRecord]: ...

    async def ack(self, consumed: ConsumedRecord) -> None: ...

    def give_up(self, consumed: ConsumedRecord) -> None:
        """Forget a record without an ack: it is delivered again."""

    def expect(self, offset: int) -> None:
        """Say that all records before `offset` are concluded.

        If the group has no committed offset, records that are missing from there on were lost: Kafka deletes the
        offsets of a group that was away for long, and retention may have deleted records meanwhile.
        """

    def committed(self) -> int | None:
        """The group's committed offset, if this process knows it."""


class Observer(Protocol):
    """Gets what happened, once it is committed: metrics and log."""

    def committed(self, steps: Sequence[WriteBatch], records: int, seconds: float) -> None:
        """These steps were committed together, as so many records. It took `seconds`."""

    def lane(self, view: LaneView) -> None: ...

    def answered(self, answer: CommandAnswer) -> None: ...

    def lane_gone(self, workspace: str) -> None:
        """This process no longer owns the lane."""

    def recovering(self, partition: int, error: Exception) -> None: ...

    def unknown_rows(self, partition: int, count: int) -> None:
        """The partition has `count` rows of kinds that this version does not know. They are kept."""


class Membership(Protocol):
    """Asks the group whether this process is still a member."""

    async def __call__(self) -> float:
        """Wait until the group confirms the membership.

        Does not return after an eviction: a rebalance follows and closes the partition.

        Returns:
            For how many seconds the group will not reassign our partitions.
        """


class Alarm(Protocol):
    """Ends the process after a bug, or when another worker owns this partition."""

    def __call__(self, error: BaseException, /) -> None: ...


class InFlight(Protocol):
    """A record under way."""

    posted: Posted | None
    """What is known of its last POST, from the write-ahead on, except while the POST is under way.

    It survives a recovery of the partition.
    """

    @property
    def consumed(self) -> ConsumedRecord: ...

    def release_next(self) -> None:
        """Let the next record of the topic start: this one no longer waits for admission."""


class PartitionState(Protocol):
    """The rows, lanes and transactions of one partition.

    A change of a lane belongs to the step of its workspace that is submitted next: both are written by the same
    transaction, if no await lies between them.
    """

    # Rows

    def find(self, key: bytes) -> Delivery | None:
        """The row of a lead."""

    def row(self, key: bytes) -> bytes | None:
        """Any row, as bytes."""

    def find_marker(self, *record_ids: str) -> bytes | None:
        """The key of the marker that says that one of these records is concluded.

        Args:
            *record_ids: Records without a delivery row, as `topic/partition/offset`.
        """

    def is_passed(self, consumed: ConsumedRecord) -> bool:
        """True if the record is concluded and the group's offset has passed it, so that its marker is deleted."""

    @property
    def has_suppressions(self) -> bool:
        """True if the suppression list is not empty."""

    def suppression(self, key: bytes) -> Suppression | None:
        """An entry of the suppression list."""

    # Locks and admission

    def lock(self, in_flight: InFlight, keys: Callable[[], tuple[bytes, ...]]) -> AbstractAsyncContextManager[None]:
        """Hold an exclusive lock on these keys. Records get a lock in their order; callbacks get it before leads.

        `keys` is called again after each wait, and may then return more keys. `conclude` and `conclude_unchanged`
        release the lock early.
        """

    def is_unlocked(self, keys: tuple[bytes, ...]) -> bool:
        """True if no record under way holds one of these keys. The next step of a holder would undo a change."""

    def is_held(self, destination: Destination, *, bulk: bool) -> bool:
        """True if the lane holds such a lead now, or would admit it as a probe only. Reserves nothing."""

    async def admit(
        self, in_flight: InFlight, request: AdmissionRequest, write_ahead: Callable[[Grant], WriteBatch]
    ) -> Grant | Held:
        """Wait until the lane admits this lead. The lane's change and `write_ahead` are then one committed step."""

    def reconsider_waiting(self) -> None:
        """Have all leads that wait for admission check again whether they may be sent."""

    def posts_in_flight(self, workspace: str) -> int:
        """How many requests to Clay are under way."""

    # Lanes

    def lane(self, workspace: str) -> Lane: ...

    def set_lane(self, lane: Lane) -> None: ...

    def lane_view(self, workspace: str) -> LaneView:
        """The lane as operators see it."""

    def settle(self, grant: Grant, outcome: Outcome | None, *, has_slot: bool) -> Settlement:
        """Apply the outcome of a POST to its lane.

        Args:
            grant: What the lead was admitted with.
            outcome: None if the POST was not started.
            has_slot: True if the partition was not taken over again since the lead was admitted.
        """

    def book(self, row: Delivery, destination: Destination, callback: Callback) -> Booking:
        """Book what a lead did cost, as its callback says."""

    def charge(self, workspace: str, reservation: Reservation) -> None:
        """Book a reservation as spent."""

    def record_dead_letter(self, grant: Grant, reason: str) -> None:
        """Count a dead letter of this lane."""

    # Commits

    def submit(self, step: WriteBatch) -> asyncio.Future[None]:
        """Apply a step in memory, and write it with the next transaction. The future is done when it is committed.

        Steps are committed in the order of these calls.
        """

    async def conclude(self, in_flight: InFlight, step: WriteBatch) -> None:
        """Commit the last step of a record. The locks are released as soon as the step is in memory.

        A copy of the lead then decides by the new rows. Its step is committed with this one or after it, or neither is.
        """

    async def conclude_unchanged(self, in_flight: InFlight, key: bytes) -> None:
        """Commit this row unchanged. The commit proves that this process owns the partition; then the ack is safe."""

    def command_committed(self, answer: CommandAnswer) -> None:
        """Report the answer of a command, and apply what it changed to the leads that wait for admission."""


class Clay(Protocol):
    """Sends one row to a destination's webhook. A network failure is an outcome, not an exception."""

    async def send(self, destination: str, webhook_id: str, body: bytes, trace_id: str) -> Outcome: ...


class Archive(Protocol):
    """Reads single records again."""

    async def fetch(self, record_ids: Sequence[str]) -> Mapping[str, ConsumedRecord]:
        """Read the records that Kafka still has.

        Args:
            record_ids: As `topic/partition/offset`.

        Raises:
            BrokerUnavailable: Kafka cannot be read now.
        """


class CallbackUrlProbe(Protocol):
    """Checks that Clay could reach the callback URL."""

    async def __call__(self) -> str:
        """Return '' if the callback URL answers from here, else what came instead. Takes a few seconds at most."""


class Clock(Protocol):
    """Time and randomness."""

    def now_ms(self) -> int:
        """Milliseconds since the epoch."""

    def boot_ms(self) -> int:
        """Milliseconds of a clock that never steps and runs on while the machine or process is suspended."""

    def rand(self) -> float:
        """A random number from 0 to 1."""
