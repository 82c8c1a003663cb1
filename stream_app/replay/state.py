"""What the replay processes know together, in a compacted topic: how far each rewind epoch came, and the pause.

    dlq/<partition>/<epoch>  ->  core.replay.Came, as JSON: how far the group came on leads.dlq in that epoch pause
    ->  {"by": ..., "why": ..., "at_ms": ...}, deleted by `replay resume` sent/<place>             ->  a letter that an
    operator sent back (domain/dead_letter/redrive_dedup.py); of no use here

A row an epoch, so that a process that was frozen in an old one can never write over a newer one.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from functools import partial
from typing import Any, Final

import msgspec
from aiokafka import TopicPartition
from aiokafka.errors import KafkaError

from stream_app.domain.dead_letter.replay import Begin, Came, begin
from stream_app.domain.errors import BrokerUnavailable
from stream_app.domain.record import Record
from stream_app.domain.topics import TopicNames
from stream_app.kafka.clients import kafka_admin, repeated
from stream_app.kafka.closing import close_admin, stop_consumer
from stream_app.kafka.connection import KafkaConnection
from stream_app.kafka.consumer import Consumer
from stream_app.kafka.producer import KafkaPublisher
from stream_app.ops.logs import Throttled
from stream_app.tasks import cancel

log = logging.getLogger(__name__)

_PAUSE_KEY: Final = b"pause"
_CURRENT_WITHIN_S: Final = 30.0
_RECORD_EVERY_S: Final = 1.0
_LAST_WITHIN_S: Final = 3.0


class Pause(msgspec.Struct, frozen=True):
    """Who stopped all replays, when and why."""

    by: str
    why: str
    at_ms: int


class ReplayState:
    """`agents.replay.State` over Kafka; a context manager."""

    def __init__(
        self, connection: KafkaConnection, names: TopicNames, partitions: int, publisher: KafkaPublisher
    ) -> None:
        self.pause: Pause | None = None
        self.moving = asyncio.Event()
        self.moving.set()
        self._connection = connection
        self._names = names
        self._publisher = publisher
        self._places = [TopicPartition(names.replay_state, number) for number in range(partitions)]
        self._came: dict[int, dict[int, Came]] = defaultdict(dict)
        self._epochs: dict[int, int] = {}
        self._consumer: Any = None
        self._admin: Any = None
        self._following: asyncio.Task[None] | None = None
        self._recording: asyncio.Task[None] | None = None
        self._heard = asyncio.Condition()

    async def __aenter__(self) -> ReplayState:
        self._consumer = Consumer(
            **self._connection.settings(), group_id=None, enable_auto_commit=False, auto_offset_reset="earliest"
        )
        self._admin = kafka_admin(**self._connection.settings())
        try:
            await repeated(self._admin.start, _CURRENT_WITHIN_S)
            await repeated(self._consumer.start, _CURRENT_WITHIN_S)
            self._consumer.assign(self._places)
            await self._consumer.seek_to_beginning(*self._places)
            self._following = asyncio.create_task(self._follow())
            await self._current(self._places)
        except BaseException:
            await self.__aexit__()
            raise
        self._recording = asyncio.create_task(self._record_on())
        return self

    async def __aexit__(self, *_: object) -> None:
        await cancel([self._following, self._recording])
        await stop_consumer(self._consumer)
        await close_admin(self._admin)

    async def begin(self, partition: int) -> Begin:
        """How to begin with a partition that has just become ours; a new epoch is recorded when this returns."""
        await self._current([self._places[partition]])
        committed = (await self.committed()).get(partition)
        how = begin(self._came[partition], committed)
        if how.record is not None:
            await self._record(partition, how.epoch, how.record)
        self._epochs[partition] = how.epoch
        return how

    async def record(self) -> None:
        """How far the group has come in the partitions of this process: now and then, and after its last commit.

        Asks Kafka: what Faust takes for committed may not be, and a plain restart would then look like a rewind.
        """
        for partition, offset in (await self.committed()).items():
            epoch, epochs = self._epochs.get(partition), self._came[partition]
            if epoch is None or epoch < max(epochs, default=0):
                continue
            came = epochs.get(epoch, Came(0))
            if offset > came.offset:
                await self._record(partition, epoch, msgspec.structs.replace(came, offset=offset))

    async def record_last(self) -> None:
        """Record once more at the end. Without Kafka the process ends all the same, as after `kill -9`."""
        try:
            async with asyncio.timeout(_LAST_WITHIN_S):
                await self.record()
        except (KafkaError, OSError, TimeoutError) as error:
            log.warning("could not save the replay checkpoint at the end: %r", error)

    async def set_pause(self, pause: Pause | None) -> None:
        """Stop all replays, or (None) let them go on."""
        value = msgspec.json.encode(pause) if pause else None
        await self._publish(Record(self._names.replay_state, _PAUSE_KEY, value, (), 0))

    async def committed(self) -> dict[int, int]:
        """The group's committed offsets on leads.dlq, for the partitions that have one."""
        places = [TopicPartition(self._names.dlq, place.partition) for place in self._places]
        ask = partial(self._admin.list_consumer_group_offsets, self._names.replay_app, partitions=places)
        found = await repeated(ask, _CURRENT_WITHIN_S)
        return {tp.partition: at.offset for tp, at in found.items() if at.offset >= 0}

    async def _record_on(self) -> None:
        told = Throttled(lambda why: log.warning("how far the replays have come is not recorded: %s", why))
        while True:
            await asyncio.sleep(_RECORD_EVERY_S)
            try:
                await self.record()
            except (KafkaError, OSError) as error:  # a record that is late only makes a small rewind go unnoticed
                told(repr(error))
            else:
                told.over()

    async def _record(self, partition: int, epoch: int, came: Came) -> None:
        self._came[partition][epoch] = came
        key = f"dlq/{partition}/{epoch}".encode()
        await self._publish(Record(self._names.replay_state, key, msgspec.json.encode(came), (), partition))

    async def _publish(self, record: Record) -> None:
        await (await self._publisher.publish(record))

    async def _current(self, places: list[TopicPartition]) -> None:
        """Return when all that is in these partitions now was read. Raises BrokerUnavailable."""
        try:
            async with asyncio.timeout(_CURRENT_WITHIN_S):
                ends = await self._consumer.end_offsets(places)
                async with self._heard:
                    while any([await self._consumer.position(place) < ends[place] for place in places]):
                        if self._following is not None and self._following.done():
                            self._following.result()
                        await self._heard.wait()
        except (KafkaError, TimeoutError) as error:
            raise BrokerUnavailable(f"{self._names.replay_state} could not be read to its end: {error!r}") from error

    async def _follow(self) -> None:
        try:
            while True:
                for records in (await self._consumer.getmany(timeout_ms=200)).values():
                    for record in records:
                        self._hear(record.key, record.value)
                async with self._heard:
                    self._heard.notify_all()
        finally:
            async with self._heard:
                self._heard.notify_all()

    def _hear(self, key: bytes, value: bytes | None) -> None:
        if key == _PAUSE_KEY:
            self.pause = msgspec.json.decode(value, type=Pause) if value else None
            if self.pause:
                self.moving.clear()
            else:
                self.moving.set()
            return
        kind, *place = key.decode().split("/")
        if kind == "dlq" and value:
            partition, epoch = place
            self._came[int(partition)][int(epoch)] = msgspec.json.decode(value, type=Came)
