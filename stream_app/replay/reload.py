"""`stream-app lanes reload` in a replay process: it reads the configuration again, and answers like a worker.

A reload goes to every partition of `leads.commands`. Each replay process has a configuration of its own, so each
follows the first of these partitions, outside of a group, and answers for the partitions of `leads.dlq` that it has. A
process without any adopts the configuration as well.
"""

import asyncio
from collections.abc import Callable, Collection
from typing import Any, Final

import msgspec
from aiokafka import TopicPartition
from aiokafka.errors import KafkaError
from attrs import define, field

from stream_app.clock import Clock
from stream_app.domain.commands import REPLAY_RELOAD, Command, CommandResult, answer_to, read_command, refusal
from stream_app.domain.model.errors import StreamAppError
from stream_app.domain.model.records import Record
from stream_app.domain.model.topics import TopicNames
from stream_app.kafka.connection import KafkaConnection
from stream_app.kafka.producers import Publish
from stream_app.kafka.readers import Reader, consumed
from stream_app.ops import logs

log = logs.get("replay")

_AGAIN_S: Final = 2.0
_json: Final = msgspec.json.Encoder()


@define(eq=False, repr=False)
class Reloads:
    """Carries out reloads, once for each command.

    `reload` adopts the configuration, `served` returns the partitions to answer for, `publish` writes an answer.
    """

    _connection: KafkaConnection
    _topics: TopicNames
    _reload: Callable[[], CommandResult]
    _served: Callable[[], Collection[int]]
    _publish: Publish
    _clock: Clock = field(init=False, factory=Clock)
    _next: int | None = field(init=False, default=None)
    _last: str = field(init=False, default="")

    async def run(self) -> None:
        """Carry out the reloads from now on. Without Kafka it tries again: dead letters need no reload."""
        place = TopicPartition(self._topics.commands, 0)
        warn = logs.Throttled(lambda why: log.warning("reloads_wait", because=why))
        while True:
            try:
                async with Reader(self._connection, fetch_max_wait_ms=500) as reader:
                    if self._next is None:
                        self._next = (await reader.ends([place]))[place]
                    async for records in reader.follow({place: self._next}, pass_unreadable=True):
                        warn.reset()
                        for record in records.get(place, ()):
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
        answers = [Record(self._topics.audit, b"", _json.encode(reply), (), number) for number, reply in served.items()]
        for written in [await self._publish(answer) for answer in answers]:
            await written
        self._last = command.id
