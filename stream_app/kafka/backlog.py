"""Counts the records that no worker has taken, for all who show it.

They are commands, the board, the API and the metrics.
"""

import asyncio
from collections import defaultdict
from collections.abc import Collection, Container, Iterable, Mapping
from typing import Final

import msgspec
from aiokafka import TopicPartition

from stream_app.domain.model.errors import UnreadableBatch
from stream_app.domain.model.records import records_of
from stream_app.domain.views.backlog import Place, untaken_from
from stream_app.domain.views.lane import Position
from stream_app.kafka.readers import Reader

MAX_COUNTED_OFFSETS: Final = 2_000
"""Up to this many waiting offsets of a partition, the records among them are read and counted."""
_WITHIN_S: Final = 5.0


class Waiting(msgspec.Struct, frozen=True):
    """Records of a partition that no worker has taken. `at_most`: there may be fewer."""

    records: int
    at_most: bool = False


def places_of(topics: Iterable[str], partitions: int) -> list[TopicPartition]:
    """Return every partition of these topics."""
    return [TopicPartition(topic, number) for topic in topics for number in range(partitions)]


def sum_of(waiting: Mapping[Place, Waiting], topics: Container[str] | None = None) -> Waiting:
    """Return the sum of what waits, of these topics or of all."""
    some = [left for (topic, _), left in waiting.items() if topics is None or topic in topics]
    return Waiting(sum(left.records for left in some), any(left.at_most for left in some))


def waiting_in(waiting: Mapping[Place, Waiting], namespace: str) -> dict[int, dict[str, Waiting]]:
    """Return the same by partition, and by topic without the namespace."""
    by_partition: defaultdict[int, dict[str, Waiting]] = defaultdict(dict)
    for (topic, number), left in waiting.items():
        by_partition[number][topic.removeprefix(namespace)] = left
    return by_partition


class _Read(msgspec.Struct, frozen=True):
    """The offsets of the records between two offsets of a partition."""

    begin: int
    end: int
    offsets: list[int]


class Backlog:
    """Counts what waits, and remembers what it has read, so that each record is read once.

    The number of offsets is no count: the marker of each transaction takes one, and so do aborted
    records. So the records are read. Where more than 2,000 offsets wait, reading them would cost
    more the more wait; the number of offsets is returned there, and of a batch that cannot be read,
    as an upper bound.
    """

    def __init__(self) -> None:
        self._read: dict[TopicPartition, _Read] = {}

    async def count(
        self,
        reader: Reader,
        places: Collection[TopicPartition],
        committed: Mapping[Place, int],
        positions: Mapping[Place, Position],
    ) -> dict[Place, Waiting]:
        """Count the records of these places that no worker has taken, by topic and partition.

        Args:
            reader: Reads the places.
            places: The partitions to count.
            committed: The committed offsets of the group that reads them.
            positions: What the owners said in the views of their lanes.

        Raises:
            BrokerUnavailable: Kafka does not answer.
            KafkaRefused: Kafka does not allow the read.
        """
        starts: dict[TopicPartition, Position] = {}
        spans = await reader.spans(places)
        for place, (begin, end) in spans.items():
            key = place.topic, place.partition
            starts[place] = untaken_from(begin, end, committed.get(key), positions.get(key))
        ends = {place: end for place, (_, end) in spans.items()}
        short = [
            place
            for place, start in starts.items()
            if 0 < ends[place] - start.offset <= MAX_COUNTED_OFFSETS
        ]
        self._read = {
            place: self._known(place, starts[place].offset, ends[place]) for place in short
        }
        await self._read_on(reader, ends)
        return {
            (place.topic, place.partition): self._counted(place, starts[place], ends[place])
            for place in places
        }

    def _known(self, place: TopicPartition, begin: int, end: int) -> _Read:
        """Return what is known between these offsets."""
        known = self._read.get(place)
        if known is None or not known.begin <= begin <= known.end <= end:
            return _Read(begin, begin, [])
        return _Read(begin, known.end, [offset for offset in known.offsets if offset >= begin])

    async def _read_on(self, reader: Reader, ends: Mapping[TopicPartition, int]) -> None:
        """Read what is not known yet, as far as the time suffices. The next call goes on there."""
        spans = {
            place: (known.end, ends[place])
            for place, known in self._read.items()
            if known.end < ends[place]
        }
        offsets_read: dict[TopicPartition, list[int]] = {place: [] for place in spans}
        unread: list[UnreadableBatch] = []
        reached = dict(ends)
        try:
            async with asyncio.timeout(_WITHIN_S):
                async for polled in reader.scan(spans, on_unreadable=unread.append):
                    for place, records in polled.items():
                        # A run of records without a value comes as one, with its last offset.
                        for record in records:
                            offsets_read[place] += [record.offset] * records_of(record.headers)
        except TimeoutError:
            reached = {
                place: offsets[-1] + 1 if offsets else spans[place][0]
                for place, offsets in offsets_read.items()
            }
        for place, offsets in offsets_read.items():
            known = self._read[place]
            self._read[place] = _Read(known.begin, reached[place], known.offsets + offsets)
        for batch in unread:  # how many records it has is not known
            self._read.pop(TopicPartition(batch.topic, batch.partition), None)

    def _counted(self, place: TopicPartition, start: Position, end: int) -> Waiting:
        known = self._read.get(place)
        if known is None:
            return Waiting(start.untaken + end - start.offset, at_most=start.offset < end)
        left = end - known.end
        return Waiting(start.untaken + len(known.offsets) + left, at_most=left > 0)
