"""What a partition needs from outside, as small protocols."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Sequence
from typing import Protocol

from stream_app.domain.messages import CommandAnswer, LaneView, StatusEvent
from stream_app.domain.record import ConsumedRecord, Record


class StateStore(Protocol):
    """The partition's transactional producer and its rows in Kafka."""

    async def take_over(self, fence_within_s: float = math.inf) -> dict[bytes, bytes]:
        """Fence every earlier holder, then read all rows. Raises BrokerUnavailable, and fences nobody after that time.

        Reading may take longer: whoever owns the partition by then has fenced us.
        """

    async def waiting(self, topic: str, offset: int, most: int) -> list[ConsumedRecord]:
        """The partition's committed records of a topic from an offset to its present end, `most` of them at most.

        Raises BrokerUnavailable.
        """

    async def transact(self, records: Sequence[Record]) -> None:
        """All of it or nothing, in Kafka when it returns. Raises Fenced or Aborted."""

    async def close(self) -> None: ...


class PartitionStream(Protocol):
    """One topic of the partition for the time of one assignment: records come in order, acks go back in order."""

    @property
    def topic(self) -> str: ...

    @property
    def partition(self) -> int: ...

    @property
    def suspended(self) -> asyncio.Event:
        """Set when the flow stops for a rebalance or the end: whatever only waits must be given up."""

    def __aiter__(self) -> AsyncIterator[ConsumedRecord]: ...

    async def ack(self, consumed: ConsumedRecord) -> None: ...

    def give_up(self, consumed: ConsumedRecord) -> None:
        """Forget it without an ack: it comes again."""

    def expect(self, offset: int) -> None:
        """All before `offset` is known to be concluded: where the group has no commit, records are missed from there.

        Kafka forgets the offsets of a group that was away for long, and retention may have taken records meanwhile.
        """

    def committed(self) -> int | None:
        """The group's committed offset as far as this process knows."""


class Observer(Protocol):
    """Told what happened, once it is committed: metrics and log."""

    def told(self, event: StatusEvent) -> None: ...

    def lane(self, view: LaneView) -> None: ...

    def answered(self, answer: CommandAnswer) -> None: ...

    def lane_gone(self, workspace: str) -> None:
        """Another process has it now, or none."""

    def committed(self, steps: int, records: int, seconds: float) -> None: ...

    def recovering(self, partition: int, error: Exception) -> None: ...

    def unknown_rows(self, partition: int, count: int) -> None:
        """So many rows of the partition are of kinds that this version does not know; they are left alone."""


class Membership(Protocol):
    """Asks the group whether this process is still its member."""

    async def __call__(self) -> float:
        """Return once the group has said so anew: for how many seconds it will not take anything away from us.

        Never returns after an eviction: a rebalance follows, and closes the partition.
        """


class Alarm(Protocol):
    """Ends the process: a bug, or another worker has taken this partition over."""

    def __call__(self, error: BaseException, /) -> None: ...
