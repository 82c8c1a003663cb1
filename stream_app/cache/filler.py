"""Fills the cache from `leads.enriched`: adds committed results and removes erased ones.

The filler follows the topic beside the pipeline, so no lead waits for it. The cache stores the
filler's offset: an empty cache (a new process, FLUSHALL) is filled again from the beginning. It
reads in small pieces, with pauses.
"""

import asyncio
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from stream_app.domain.cached_results import (
    DAY_MS,
    CacheEntry,
    entry_of,
    erased_by,
    merged,
    of_company,
    person_slot,
    slots_of,
)
from stream_app.domain.cached_results import decode as decode_entry
from stream_app.domain.model.errors import BrokerUnavailable, UnreadableBatch
from stream_app.domain.model.messages import Result
from stream_app.domain.model.untrusted import decode
from stream_app.domain.plan import CachePolicy
from stream_app.kafka.connection import KafkaConnection
from stream_app.kafka.readers import TopicReader
from stream_app.partition.ports import Cache

MAX_ENTRIES: Final = 100_000
MAX_CACHE_BYTES: Final = 64 * 2**20
_ENTRY_BYTES: Final = 300
"""What an entry takes in memory beside the bytes of its key and value: their objects, and its place
in the order.
"""
MAX_RESULTS: Final = 200_000
"""Results per partition, counted from its end, that go into the cache. Older tombstones are always
applied.
"""

_PIECE: Final = 50
_PAUSE_S: Final = 0.02  # at most 2,500 results a second
_LOOK_EVERY_S: Final = 1.0
_TRY_AGAIN_S: Final = 5.0
_result: Final = msgspec.json.Decoder(Result)


class MemoryCache:
    """The cache port (`ports.Cache`) for a worker without Redis.

    It evicts the least recently used entries.
    """

    def __init__(
        self,
        max_entries: int = MAX_ENTRIES,
        max_bytes: int = MAX_CACHE_BYTES,
    ) -> None:
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._bytes = 0
        self._values: OrderedDict[str, bytes] = OrderedDict()
        self._filled_to: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._values)

    async def find(self, slots: Sequence[str]) -> list[CacheEntry]:
        for slot in slots:
            if slot in self._values:
                self._values.move_to_end(slot)
        return [decode_entry(self._values.get(slot)) for slot in slots]

    async def add(self, changes: Sequence[tuple[str, CacheEntry]]) -> bool:
        for slot, value in merged(
            {slot: self._values.get(slot) for slot, _ in changes},
            changes,
        ).items():
            self._drop(slot)
            self._values[slot] = value
            self._bytes += _size(slot, value)
        while len(self._values) > self._max_entries or self._bytes > self._max_bytes:
            self._drop(next(iter(self._values)))
        return True

    async def forget(self, slots: Sequence[str]) -> bool:
        for slot in slots:
            self._drop(slot)
        return True

    async def filled_to(self, partition: int) -> int | None:
        return self._filled_to.get(partition, 0)

    async def set_filled_to(self, partition: int, offset: int) -> bool:
        self._filled_to[partition] = offset
        return True

    def _drop(self, slot: str) -> None:
        value = self._values.pop(slot, None)
        if value is not None:
            self._bytes -= _size(slot, value)


def _size(slot: str, value: bytes) -> int:
    return _ENTRY_BYTES + len(slot) + len(value)


@dataclass(eq=False)
class CacheFiller:
    """Copies committed results into the cache.

    Attributes:
        topic: `leads.enriched`.
        policy: Its `stale_days` bound the age of a result.
        owned: Returns the partitions that this process owns now.
    """

    connection: KafkaConnection
    topic: str
    partitions: int
    cache: Cache
    policy: CachePolicy
    owned: Callable[[], Collection[int]]
    now_ms: Callable[[], int]

    async def run(self) -> None:
        """Fill until cancelled.

        Resumes at the stored offset after an outage of Kafka or of the cache.
        """
        while True:
            try:
                async with TopicReader(self.connection, self.partitions) as reader:
                    while True:
                        await self.look(reader)
                        await asyncio.sleep(_LOOK_EVERY_S)
            except (BrokerUnavailable, UnreadableBatch):
                await asyncio.sleep(_TRY_AGAIN_S)

    async def look(self, reader: TopicReader) -> None:
        """Add the new records of the owned partitions. Raises BrokerUnavailable."""
        if not (owned := list(self.owned())):
            return
        bounds = await reader.bounds(self.topic)
        ranges: dict[int, tuple[int, int]] = {}
        for number in owned:
            begin, end = bounds[number]
            filled_to = await self.cache.filled_to(number)
            if filled_to is None:
                return  # the cache does not respond, so reading is pointless
            if filled_to > end:  # the topic was deleted and created again
                filled_to = 0
            begin = max(begin, filled_to)
            if begin < end:
                ranges[number] = (begin, end)
        if not ranges:
            return
        async for records in reader.read(self.topic, ranges):
            oldest = {number: end - MAX_RESULTS for number, (_, end) in ranges.items()}
            wanted = [
                record
                for record in records
                if record.value is None or record.offset >= oldest[record.partition]
            ]
            for first in range(0, len(wanted), _PIECE):
                if not await self.take(wanted[first : first + _PIECE]):
                    return
                await asyncio.sleep(_PAUSE_S)
        for number, (_, end) in ranges.items():  # transaction markers take offsets too
            await self.cache.set_filled_to(number, end)

    async def take(self, records: list[Any]) -> bool:
        """Apply records of one partition, in order. False if the cache did not accept them."""
        changes: defaultdict[str, list[tuple[str, CacheEntry]]] = defaultdict(list)
        for record in records:
            if record.value is None:
                if not await self._add(changes) or not await self._forget(record):
                    return False
                changes.clear()
            elif (result := self._read(record.value)) is not None:
                changes[result.workspace] += self._changes(result)
        if not await self._add(changes):
            return False
        last = records[-1]
        return await self.cache.set_filled_to(last.partition, last.offset + 1)

    def _read(self, value: bytes) -> Result | None:
        try:
            result = decode(_result, value)
        except ValueError:
            return None  # a foreign record, or one of a newer version
        old = self.now_ms() - result.at_ms + result.age_s * 1000 > self.policy.stale_days * DAY_MS
        return None if old else result

    def _changes(self, result: Result) -> list[tuple[str, CacheEntry]]:
        entry = entry_of(result)
        if not entry.fields:
            return []
        persons, firm = slots_of(result)
        changes = [(slot, entry) for slot in persons]
        if firm is not None and (common := of_company(self.policy, entry)).fields:
            changes.append((firm, common))
        return changes

    async def _add(self, changes: dict[str, list[tuple[str, CacheEntry]]]) -> bool:
        return all([await self.cache.add(some) for some in changes.values()])

    async def _forget(self, record: Any) -> bool:
        if (erased := erased_by(record.key, record.headers)) is None:
            return True
        workspace, destination, people = erased
        return await self.cache.forget(
            [person_slot(workspace, destination, person) for person in people],
        )
