"""Follow `leads.status` outside a consumer group."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, AsyncIterator, Collection
from itertools import chain
from typing import Any, Final, Self

import msgspec
from aiokafka import TopicPartition

from stream_app.domain.model.errors import StreamAppError
from stream_app.domain.model.messages import StatusEvent
from stream_app.kafka.connection import KafkaConnection
from stream_app.kafka.readers import Reader

_events: Final = msgspec.json.Decoder(StatusEvent)


class StatusFollower(Reader):
    """Read partitions of `leads.status`, committed events only. A context manager.

    It reads what is committed after its block began, or everything that Kafka keeps.

    Raises:
        BrokerUnavailable: Kafka does not answer.
        KafkaRefused: Kafka does not allow the read.
        StreamAppError: An event cannot be read by this version.
    """

    def __init__(
        self, connection: KafkaConnection, topic: str, partitions: Collection[int], *, from_beginning: bool = False
    ) -> None:
        start = "earliest" if from_beginning else "latest"
        super().__init__(connection, auto_offset_reset=start, fetch_max_wait_ms=500)
        self._partitions = [TopicPartition(topic, number) for number in partitions]
        self._from_beginning = from_beginning

    async def __aenter__(self) -> Self:
        await super().__aenter__()
        try:
            self._starts = await (self.begins if self._from_beginning else self.ends)(self._partitions)
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def events(
        self,
        lead_ids: Collection[str] | None = None,
        workspace: str | None = None,
        idle_timeout_s: float | None = None,
    ) -> AsyncGenerator[StatusEvent]:
        """Yield events of these leads and this workspace (None: all), each partition in its order.

        Ends after `idle_timeout_s` without an event to yield, half a second more at most; None: never.
        """
        keys = None if lead_ids is None else {lead_id.encode() for lead_id in lead_ids}
        last_s = time.monotonic()
        async for got in self.follow(self._starts):
            for record in chain.from_iterable(got.values()):
                if keys is not None and record.key not in keys:
                    continue
                event = _decoded(record)
                if workspace in (None, event.workspace):
                    yield event
                    last_s = time.monotonic()
            if idle_timeout_s is not None and time.monotonic() - last_s >= idle_timeout_s:
                return

    async def batches(self) -> AsyncIterator[list[StatusEvent]]:
        """Yield all events, in the order of each partition. A batch is empty when none came for half a second.

        It does not end by itself.
        """
        async for got in self.follow(self._starts):
            yield [_decoded(record) for record in chain.from_iterable(got.values())]


def _decoded(record: Any) -> StatusEvent:
    try:
        return _events.decode(record.value)
    except msgspec.DecodeError as error:
        raise StreamAppError(
            f"{record.topic}/{record.partition}/{record.offset} is not a status event that this version can read: "
            "update stream-app"
        ) from error
