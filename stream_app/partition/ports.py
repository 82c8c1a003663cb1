"""The interfaces through which a partition sees Kafka, Clay, the consumer group and the process."""

import asyncio
import math
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Protocol

from stream_app.domain.cached_results import CacheEntry
from stream_app.domain.commands import CommandAnswer
from stream_app.domain.delivery.recorder import CommitStep
from stream_app.domain.model.outcome import Outcome
from stream_app.domain.model.records import ConsumedRecord, Record
from stream_app.domain.model.run import RunAnswer
from stream_app.domain.plan import Destination
from stream_app.domain.views.lane import LaneView


class StateStore(Protocol):
    """The partition's transactional producer and its rows in Kafka."""

    async def take_over(self, fence_within_s: float = math.inf) -> dict[bytes, bytes]:
        """Fence every earlier owner, then read all rows.

        Args:
            fence_within_s: No owner is fenced after this time, in seconds. The reading may take
                longer.

        Raises:
            BrokerUnavailable: Kafka cannot be reached now.
        """

    async def waiting(self, topic: str, offset: int, max_records: int) -> list[ConsumedRecord]:
        """Read at most `max_records` of the partition's records of a topic, from `offset` on.

        Raises:
            BrokerUnavailable: Kafka cannot be read now.
        """

    async def transact(self, records: Sequence[Record]) -> None:
        """Commit all of the records, or none.

        Raises:
            Fenced: Another process owns the partition.
            Aborted: The transaction failed.
        """

    async def fetch(self, record_ids: Sequence[str]) -> Mapping[str, ConsumedRecord]:
        """Read single records of any partition again: those that Kafka still has.

        Args:
            record_ids: As `topic/partition/offset`.

        Raises:
            BrokerUnavailable: Kafka cannot be read now.
        """

    async def close(self) -> None: ...


class RecordStream(Protocol):
    """The records of one topic of the partition during one assignment.

    Its records come in their order, and `AckTracker` acks them in that order.
    """

    @property
    def topic(self) -> str: ...

    @property
    def partition(self) -> int: ...

    @property
    def suspended(self) -> asyncio.Event:
        """Set before a rebalance or shutdown: records that only wait must be given up then."""

    def __aiter__(self) -> AsyncIterator[ConsumedRecord]: ...

    async def ack(self, consumed: ConsumedRecord) -> None:
        """Mark a record as concluded. Does nothing for a record that was given up."""

    def give_up(self, consumed: ConsumedRecord) -> None:
        """Forget a record without an ack: it is delivered again."""

    def expect(self, offset: int) -> None:
        """Say that all records before `offset` are concluded.

        If the group has no committed offset, any record that is missing from there on was lost:
        Kafka deletes the offsets of a group that has been away for long, and retention may have
        deleted records meanwhile.
        """

    def committed(self) -> int | None:
        """The group's committed offset, if this process knows it."""


class Observer:
    """Is told what happened, for metrics and log. This one ignores all of it."""

    def committed(self, steps: Sequence[CommitStep], records: int, seconds: float) -> None:
        """These steps were committed in one transaction of `records` records, in `seconds`."""

    def lane(self, view: LaneView) -> None:
        """A lane's view was published."""

    def answered(self, answer: CommandAnswer) -> None:
        """A command was answered."""

    def lane_gone(self, workspace: str) -> None:
        """This process no longer owns the lane."""

    def recovering(self, partition: int, error: Exception) -> None:
        """Kafka cannot be used for the partition now. The worker tries again."""

    def polled(self, destination: Destination, answer: RunAnswer) -> None:
        """Clay was asked for the results of a run, and gave this answer."""

    def unknown_rows(self, partition: int, count: int) -> None:
        """The partition has `count` rows of kinds that this version does not know.

        They are kept.
        """


class Clay(Protocol):
    """The webhooks and routines of all destinations."""

    async def send(self, destination: str, webhook_id: str, body: bytes, trace_id: str) -> Outcome:
        """Send one lead. A network failure is an outcome, not an exception."""

    async def host_answers(self, destination: str) -> bool:
        """Ask whether the host of a destination answers at all. The request submits nothing."""


class Runs(Protocol):
    """Clay's Public API: the runs of all routines, and the balances of workspaces with a key.

    Asking costs no credits and changes nothing at Clay.
    """

    async def results(self, destination: str, run: str) -> RunAnswer:
        """Ask for the results of a run. A network failure is an answer, not an exception."""

    async def balance(self, workspace: str) -> float | None:
        """Ask how many credits a workspace has left; None if Clay did not say."""


class Cache(Protocol):
    """The result cache: entries by key (`domain/cached_results.py`).

    Its methods do not raise and return soon. An entry may disappear at any time.
    """

    async def find(self, slots: Sequence[str]) -> list[CacheEntry]:
        """Return one entry for each key.

        An entry is empty if nothing is known, or if the cache did not answer in time.
        """

    async def add(self, changes: Sequence[tuple[str, CacheEntry]]) -> bool:
        """Merge entries into those that are stored; False if not all of them were stored."""

    async def forget(self, slots: Sequence[str]) -> bool:
        """Delete entries; False if some may still be stored."""

    async def filled_to(self, partition: int) -> int | None:
        """The offset of `leads.enriched` up to which the cache is filled.

        It is 0 if the cache is empty, and None if the cache cannot be read.
        """

    async def set_filled_to(self, partition: int, offset: int) -> bool:
        """Store that offset; False if it was not stored."""
