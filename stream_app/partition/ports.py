"""The interfaces through which a partition sees Kafka, Clay, the consumer group and the process."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Protocol

from stream_app.domain.delivery.outcome import Outcome
from stream_app.domain.delivery.recorder import WriteBatch
from stream_app.domain.lane_messages import CommandAnswer, LaneView
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
