"""Reads topics from the outside, in no group: whole partitions or parts of them, committed records only, in batches."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from typing import Any, Final, Self

from aiokafka import TopicPartition
from aiokafka.errors import KafkaError

from stream_app.domain.errors import BrokerUnavailable
from stream_app.kafka.closing import stop_consumer
from stream_app.kafka.connection import KafkaConnection
from stream_app.kafka.consumer import Consumer
from stream_app.kafka.counting import count_records

_FETCH_BYTES: Final = 1 * 2**20
_MOST_RECORDS: Final = 5_000
_SILENT_S: Final = 30.0

Progress = Callable[[int, int], None]
"""Told offsets read and offsets to read of the topic that is being read."""


class TopicReader:
    """A context manager. Everything raises BrokerUnavailable when Kafka does not answer."""

    def __init__(self, connection: KafkaConnection, partitions: int, progress: Progress) -> None:
        self._connection = connection
        self._partitions = range(partitions)
        self._progress = progress

    async def __aenter__(self) -> Self:
        self._consumer = Consumer(
            **self._connection.settings(),
            group_id=None,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            isolation_level="read_committed",
            fetch_max_wait_ms=100,
            max_partition_fetch_bytes=_FETCH_BYTES,
        )
        try:
            await self._consumer.start()
        except KafkaError as error:
            await stop_consumer(self._consumer)
            raise self._connection.lost(error) from error
        return self

    async def __aexit__(self, *_: object) -> None:
        await stop_consumer(self._consumer)

    async def bounds(self, topic: str) -> dict[int, tuple[int, int]]:
        """By partition: the first offset, and the one behind the last."""
        places = [TopicPartition(topic, number) for number in self._partitions]
        try:
            begins = await self._consumer.beginning_offsets(places)
            ends = await self._consumer.end_offsets(places)
        except KafkaError as error:
            raise self._connection.lost(error) from error
        return {place.partition: (begins[place], ends[place]) for place in places}

    async def offsets_at(self, topic: str, time_ms: int) -> dict[int, int | None]:
        """By partition: the first offset appended at or after that time; None: there is none."""
        places = {TopicPartition(topic, number): time_ms for number in self._partitions}
        try:
            found = await self._consumer.offsets_for_times(places)
        except KafkaError as error:
            raise self._connection.lost(error) from error
        return {place.partition: at.offset if at else None for place, at in found.items()}

    async def count(self, topics: Iterable[str], passed: Mapping[tuple[str, int], int]) -> dict[tuple[str, int], int]:
        """By topic and partition, the records from an offset (the first one that is kept without) to the end.

        Where many wait it is at most so many: see `count_records`.
        """
        spans = {
            TopicPartition(topic, number): (max(begin, passed.get((topic, number), 0)), end)
            for topic in topics
            for number, (begin, end) in (await self.bounds(topic)).items()
        }
        try:
            counted = await count_records(self._consumer, spans)
        except KafkaError as error:
            raise self._connection.lost(error) from error
        return {(place.topic, place.partition): records for place, records in counted.items()}

    async def read(self, topic: str, ranges: Mapping[int, tuple[int, int]] | None = None) -> AsyncIterator[list[Any]]:
        """aiokafka's records in batches, in the order of each partition; `ranges`: first offset and the one behind the
        last, by partition (all of the topic as it is now without).
        """
        bounds = await self.bounds(topic)
        wanted = {
            TopicPartition(topic, number): (max(begin, bounds[number][0]), min(end, bounds[number][1]))
            for number, (begin, end) in (bounds if ranges is None else ranges).items()
        }
        left = {place: span for place, span in wanted.items() if span[0] < span[1]}
        total = sum(end - begin for begin, end in left.values())
        done = 0
        try:
            self._consumer.assign(list(left))
            for place, (begin, _) in left.items():
                self._consumer.seek(place, begin)
            heard_s = time.monotonic()
            while left:
                got = await self._consumer.getmany(*left, timeout_ms=500, max_records=_MOST_RECORDS)
                for place, records in got.items():
                    end = left[place][1]
                    yield records if records[-1].offset < end else [each for each in records if each.offset < end]
                for place, (position, end) in list(left.items()):
                    now = min(await self._consumer.position(place), end)
                    if now > position:
                        heard_s = time.monotonic()
                        done += now - position
                        left[place] = (now, end)
                    if now >= end:
                        del left[place]
                        self._consumer.pause(place)
                self._progress(done, total)
                if time.monotonic() - heard_s > _SILENT_S:
                    raise BrokerUnavailable(f"{topic} gave nothing for {_SILENT_S:.0f} s: is its broker up?")
        except KafkaError as error:
            raise self._connection.lost(error) from error
