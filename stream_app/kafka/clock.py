"""Compares Kafka's clock with ours.

A broker answers each append to a LogAppendTime topic with its time.
"""

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

from aiokafka.errors import KafkaError
from aiokafka.protocol.produce import ProduceRequest

from stream_app.kafka.connection import KafkaConnection, kafka_producer, stop_producer
from stream_app.ops.logs import Throttled

OFF_S: Final = 30.0
"""The smallest skew, in seconds, that an operator has to correct.

Times in events, delays and budgets are wrong by the skew. Kafka refuses timestamps more than an
hour ahead.
"""
_NO_TIME: Final = -1
_AT_START_S: Final = 30.0


def skew_ms(appended_ms: int, sent_ms: int, answered_ms: int) -> int:
    """Return how far our clock is at least ahead of Kafka's, in ms.

    Below 0 it is behind, and at 0 the clocks may agree.

    Args:
        appended_ms: Kafka's time of the append, epoch ms.
        sent_ms: Our time before the request, epoch ms.
        answered_ms: Our time after its response, epoch ms.
    """
    if appended_ms < sent_ms:
        return sent_ms - appended_ms
    return min(0, answered_ms - appended_ms)


def in_words(skew_ms: int) -> str:
    """Return what to do about a skew in ms; '' if the clocks agree well enough."""
    off_s = abs(skew_ms) / 1000
    if off_s < OFF_S:
        return ""
    how_far = f"{off_s / 60:.0f} min" if off_s >= 120 else f"{off_s:.0f} s"
    side = "ahead of" if skew_ms > 0 else "behind"
    return f"this machine's clock is {how_far} {side} Kafka's: set it right (NTP)"


class KafkaClock:
    """Compares the clocks at each answer to a produce request of the watched clients.

    A process has one.

    `text` says how they differ, and is empty if they agree. `report` gets it while they differ,
    once a minute at most. Relies on all requests of aiokafka 0.14.0's sender going through its
    client's `send`.
    """

    def __init__(self, report: Callable[[str], object]) -> None:
        self.text = ""
        self._report = Throttled(report)

    def watch(self, client: Any) -> None:
        """Compare at the answers that this AIOKafkaClient gets from now on."""
        send = client.send

        async def watched(node_id: int, request: Any, **how: Any) -> Any:
            sent_ms = _now_ms()
            answer = await send(node_id, request, **how)
            if isinstance(request, ProduceRequest):
                for _, partitions in getattr(answer, "topics", ()):
                    for _, _, _, appended_ms, *_ in partitions:
                        if appended_ms != _NO_TIME:
                            self._compare(appended_ms, sent_ms)
            return answer

        client.send = watched

    def _compare(self, appended_ms: int, sent_ms: int) -> None:
        skew = skew_ms(appended_ms, sent_ms, _now_ms())
        self.text = in_words(skew)
        if self.text:  # it has a number that changes with each answer
            self._report(self.text, same="ahead" if skew > 0 else "behind")


async def ask_kafka_for_its_time(
    connection: KafkaConnection,
    transactional_id: str,
    topic: str,
    clock: KafkaClock,
    within_s: float,
) -> None:
    """Compare our clock with Kafka's by an append in a transaction.

    The transaction is aborted, so no consumer sees the record. `topic` has the type LogAppendTime.
    Another client with the `transactional_id` is fenced.

    Raises:
        KafkaError, TimeoutError: There was no answer.
    """
    producer = kafka_producer(**connection.settings(), transactional_id=transactional_id)
    clock.watch(producer.client)
    try:
        async with asyncio.timeout(within_s):
            await producer.start()
            await producer.begin_transaction()
            await producer.send_and_wait(topic, b"the time", partition=0)
            await producer.abort_transaction()
    finally:
        await stop_producer(producer)


async def say_at_start(
    connection: KafkaConnection,
    transactional_id: str,
    topic: str,
    clock: KafkaClock,
) -> None:
    """Compare the clocks at the start of a process.

    No answer is no error: the process reports outages itself.
    """
    with suppress(KafkaError, OSError, TimeoutError):
        await ask_kafka_for_its_time(connection, transactional_id, topic, clock, _AT_START_S)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
