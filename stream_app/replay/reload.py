"""`stream-app lanes reload` in a replay process: it reads the configuration again, and answers like a worker.

A reload goes to every partition of `leads.commands`. Each replay process has a configuration of its own, so each
follows the first of these partitions, outside of a group, and answers for the partitions of `leads.dlq` that it has. A
process without any adopts the configuration as well.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection
from typing import Any, Final

import msgspec
from aiokafka import TopicPartition
from aiokafka.errors import KafkaError

from stream_app.clock import Clock
from stream_app.domain.commands import REPLAY_RELOAD, Command, CommandResult, answer_to, read_command, refusal
from stream_app.domain.model.errors import StreamAppError
from stream_app.domain.model.records import Record
from stream_app.domain.model.topics import TopicNames
from stream_app.kafka.connection import KafkaConnection
from stream_app.kafka.readers import Reader, consumed
from stream_app.ops import logs

log = logs.get("replay")

_AGAIN_S: Final = 2.0
_json: Final = msgspec.json.Encoder()


class Reloads:
    """Carries out reloads, once for each command.

    `reload` adopts the configuration, `served` returns the partitions to answer for, `publish` writes an answer.
    """

    def __init__(
        self,
        connection: KafkaConnection,
        topics: TopicNames,
        reload: Callable[[], CommandResult],
        served: Callable[[], Collection[int]],
        publish: Callable[[Record], Awaitable[Awaitable[object]]],
    ) -> None:
        self._connection = connection
        self._place = TopicPartition(topics.commands, 0)
        self._audit = topics.audit
        self._reload = reload
        self._served = served
        self._publish = publish
        self._clock = Clock()
        self._next: int | None = None
        self._last = ""

    async def run(self) -> None:
        """Carry out the reloads from now on. Without Kafka it tries again: dead letters need no reload."""
        warn = logs.Throttled(lambda why: log.warning("reloads_wait", because=why))
        while True:
            try:
                async with Reader(self._connection, fetch_max_wait_ms=500) as reader:
                    if self._next is None:
                        self._next = (await reader.ends([self._place]))[self._place]
                    async for records in reader.follow({self._place: self._next}, pass_unreadable=True):
                        warn.reset()
                        for record in records.get(self._place, ()):
                            await self._process(record)
                            self._next = record.offset + 1
            except (StreamAppError, KafkaError) as error:
                warn(str(error))
            await asyncio.sleep(_AGAIN_S)

    async def _process(self, record: Any) -> None:
        now_ms, order = self._clock.now_ms(), consumed(record)
        command = read_command(order, now_ms)
        if not isinstance(command, Command) or command.kind != "reload":
            return
        if refusal(command, order, now_ms, is_answered=command.id == self._last):
            return
        result = self._reload()
        log.info("command", id=command.id, kind=REPLAY_RELOAD, who=command.who, text=result.text)
        served = {number: answer_to(command, result, number, now_ms, REPLAY_RELOAD) for number in self._served()}
        answers = [Record(self._audit, b"", _json.encode(answer), (), number) for number, answer in served.items()]
        for written in [await self._publish(answer) for answer in answers]:
            await written
        self._last = command.id
