"""Topics in memory that are read as those of Kafka are, by everything that `TopicReader` offers."""

from collections.abc import AsyncIterator, Callable, Collection, Mapping
from typing import Any, Self

import msgspec
from aiokafka import TopicPartition

from stream_app.domain.model.errors import UnreadableBatch
from stream_app.kafka.readers import OffsetSpan, Progress, TopicReader
from tests.board.model_records import Made


class Logs(TopicReader):
    """A reader of these records.

    Whose ends were asked for is in `looked_at`, and what was read in `scanned`.

    An offset of `begins` or `ends` that is not set follows from the records. A batch of `broken`
    cannot be read.
    """

    def __init__(self, partitions: int) -> None:
        self._partitions = partitions
        self._progress = None
        self._records: dict[TopicPartition, list[Made]] = {}
        self.begin_of: dict[TopicPartition, int] = {}
        self.end_of: dict[TopicPartition, int] = {}
        self.broken: list[UnreadableBatch] = []
        self.looked_at: list[list[TopicPartition]] = []
        self.scanned: list[dict[TopicPartition, OffsetSpan]] = []

    def add(
        self,
        topic: str,
        partition: int,
        offset: int,
        value: bytes | msgspec.Struct | None,
        key: bytes | None = b"",
        at_ms: int = 0,
        headers: Mapping[str, str] = {},
    ) -> None:
        """Add a record behind those that the partition has."""
        raw = value if value is None or isinstance(value, bytes) else msgspec.json.encode(value)
        encoded = tuple((name, text.encode()) for name, text in headers.items())
        made = Made(topic, key, raw, partition, offset, encoded, at_ms)
        self._records.setdefault(TopicPartition(topic, partition), []).append(made)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None: ...

    async def begins(self, partitions: Collection[TopicPartition]) -> dict[TopicPartition, int]:
        return {place: self.begin_of.get(place, 0) for place in partitions}

    async def ends(self, partitions: Collection[TopicPartition]) -> dict[TopicPartition, int]:
        self.looked_at.append(list(partitions))
        last = {place: records[-1].offset + 1 for place, records in self._records.items()}
        return {place: self.end_of.get(place, last.get(place, 0)) for place in partitions}

    async def offsets_at(self, topic: str, time_ms: int) -> dict[int, int | None]:
        return {
            number: next(
                (
                    record.offset
                    for record in self._records.get(TopicPartition(topic, number), [])
                    if record.timestamp >= time_ms
                ),
                None,
            )
            for number in range(self._partitions)
        }

    async def scan(
        self,
        spans: Mapping[TopicPartition, OffsetSpan],
        *,
        max_records: int = 500,
        on_unreadable: Callable[[UnreadableBatch], object] | None = None,
        progress: Progress | None = None,
    ) -> AsyncIterator[dict[TopicPartition, list[Any]]]:
        left = {place: span for place, span in spans.items() if span[0] < span[1]}
        self.scanned.append(left)
        for place, (begin, end) in left.items():
            broken = [
                batch
                for batch in self.broken
                if (batch.topic, batch.partition) == place and begin <= batch.first < end
            ]
            records: list[Any] = [
                record for record in self._records.get(place, []) if begin <= record.offset < end
            ]
            before = [record for record in records if not broken or record.offset < broken[0].first]
            if progress is not None:
                progress(len(before), end - begin)
            if before:
                yield {place: before[:max_records]}
            for batch in broken:
                if on_unreadable is None:
                    raise batch
                on_unreadable(batch)
            behind = records[len(before) :]
            if behind:
                yield {place: behind[:max_records]}
