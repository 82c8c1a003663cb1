"""Fetches results from Kafka by position. The read model stores positions only, no personal data."""

from __future__ import annotations

import asyncio
from typing import Final

import msgspec

from stream_app.board.read_model.query import FoundResultAt
from stream_app.client.answers import NO_ANSWER, FoundResult
from stream_app.domain.errors import BrokerUnavailable, UnreadableBatch
from stream_app.domain.messages import Result
from stream_app.kafka.connection import KafkaConnection
from stream_app.kafka.readers import TopicReader

_WITHIN_S: Final = 5.0
_MOVED: Final = "a newer result has just replaced it: try again"

_result: Final = msgspec.json.Decoder(Result)


class ResultFetcher:
    """Reads one result at a time with one consumer, which opens at the first use."""

    def __init__(self, connection: KafkaConnection, topic: str, partitions: int) -> None:
        self._connection = connection
        self._topic = topic
        self._partitions = partitions
        self._reader: TopicReader | None = None
        self._turn = asyncio.Lock()

    async def close(self) -> None:
        reader, self._reader = self._reader, None
        if reader is not None:
            await reader.__aexit__()

    async def fill(self, found: FoundResultAt) -> FoundResult:
        """Return the result with its data, or with a problem text. Never raises."""
        here = found.result
        try:
            async with asyncio.timeout(_WITHIN_S), self._turn:
                raw = await self._value(found.partition, found.offset)
        except (BrokerUnavailable, TimeoutError):
            await self.close()
            return msgspec.structs.replace(here, problem=NO_ANSWER)
        except UnreadableBatch as batch:
            return msgspec.structs.replace(here, problem=str(batch))
        if raw is None:
            return msgspec.structs.replace(here, problem=_MOVED)
        try:
            result = _result.decode(raw)
        except msgspec.DecodeError:
            return msgspec.structs.replace(here, problem="this version cannot read the result")
        return msgspec.structs.replace(here, age_s=result.age_s, fields=result.fields)

    async def _value(self, partition: int, offset: int) -> bytes | None:
        if self._reader is None:
            reader = TopicReader(self._connection, self._partitions)
            self._reader = await reader.__aenter__()
        value: bytes | None = None
        async for records in self._reader.read(self._topic, {partition: (offset, offset + 1)}):
            for record in records:
                value = record.value
        return value
