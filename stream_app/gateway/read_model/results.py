"""Fetches results from Kafka by their place: the read model knows where they stand, and holds no personal data."""

from __future__ import annotations

import asyncio
from typing import Final

import msgspec

from stream_app.domain.errors import BrokerUnavailable, UnreadableBatch
from stream_app.domain.messages import Result
from stream_app.gateway.lookup_answers import FoundResult
from stream_app.gateway.read_model.query import FoundPlace
from stream_app.kafka.connection import KafkaConnection
from stream_app.kafka.readers import TopicReader

_WITHIN_S: Final = 5.0
_MOVED: Final = "a newer one has just taken its place: ask again"

_result: Final = msgspec.json.Decoder(Result)


class ResultFetcher:
    """One consumer, opened when it is first needed; one question at a time."""

    def __init__(self, connection: KafkaConnection, topic: str, partitions: int) -> None:
        self._connection = connection
        self._topic = topic
        self._partitions = partitions
        self._reader: TopicReader | None = None
        self._turn = asyncio.Lock()

    async def close(self) -> None:
        """Let go of the consumer."""
        reader, self._reader = self._reader, None
        if reader is not None:
            await reader.__aexit__()

    async def fill(self, found: FoundPlace) -> FoundResult:
        """The result with its data, or with the problem in words. Never raises."""
        here = found.result
        try:
            async with asyncio.timeout(_WITHIN_S), self._turn:
                raw = await self._value(found.partition, found.offset)
        except (BrokerUnavailable, TimeoutError):
            await self.close()
            return msgspec.structs.replace(here, problem="Kafka did not answer: ask again")
        except UnreadableBatch as batch:
            return msgspec.structs.replace(here, problem=str(batch))
        if raw is None:
            return msgspec.structs.replace(here, problem=_MOVED)
        try:
            result = _result.decode(raw)
        except msgspec.DecodeError:
            return msgspec.structs.replace(here, problem="this program cannot read it")
        return msgspec.structs.replace(here, age_s=result.age_s, fields=result.fields)

    async def _value(self, partition: int, offset: int) -> bytes | None:
        if self._reader is None:
            reader = TopicReader(self._connection, self._partitions, lambda done, total: None)
            self._reader = await reader.__aenter__()
        value: bytes | None = None
        async for records in self._reader.read(self._topic, {partition: (offset, offset + 1)}):
            for record in records:
                value = record.value
        return value
