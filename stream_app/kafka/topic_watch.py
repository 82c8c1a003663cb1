"""Detects that a topic was deleted, created again or given more partitions while a process runs.

The offsets of a new topic of the same name mean other records. With more partitions, names of workspaces hash to other
ones.

Rows identify records by topic, partition and offset. A worker that continued would take new leads for old ones, and
with a new state topic it would forget which leads were paid for. A changed topic id shows a new topic. A log that ends
earlier than before has lost records, which is as bad.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

from aiokafka import TopicPartition
from aiokafka.errors import KafkaError

from stream_app.domain.model.errors import BrokerUnavailable, KafkaRefused, TopicsError
from stream_app.domain.model.text import count
from stream_app.domain.model.topics import MORE_PARTITIONS
from stream_app.kafka.connection import KafkaConnection, open_admin, refusal_or_silence
from stream_app.kafka.protocol import NO_TOPIC_ID, Metadata
from stream_app.kafka.readers import Reader
from stream_app.ops.logs import Throttled

log = logging.getLogger(__name__)

_WHAT_NOW: Final = (
    "Rows and group offsets speak of its old records: stop all processes, set a new kafka.namespace, create its topics "
    "with: stream-app topics; leads sent before are not known as duplicates there"
)
_EVERY_S: Final = 1.0
_MISSING_S: Final = 10.0  # a broker that has just started may not list its topics yet


class KnownTopics:
    """The ids of the topics as the process first saw them. The whole process shares one instance.

    `partitions`: how many each topic must have; None: any number.
    """

    def __init__(self, partitions: int | None = None) -> None:
        self._partitions = partitions
        self._ids: dict[str, bytes] = {}

    async def check(self, client: Any, topics: Iterable[str]) -> set[str]:
        """Ask a broker of a BoundedClient, and `compare`. Raises KafkaError too."""
        answer = await client.ask_any(Metadata(topics))
        return self.compare(topics, answer.to_object()["topics"])

    def compare(self, topics: Iterable[str], described: Iterable[Mapping[str, Any]]) -> set[str]:
        """Compare topics with the ids that are known.

        Args:
            topics: Their names.
            described: The topics of an answer to Metadata. Of a topic that was read, take that of its leader.

        Returns:
            Those that are missing.

        Raises:
            TopicsError: Another topic has the name of one that was seen, or a topic has more partitions.
        """
        missing = set(topics)
        for topic in described:
            if topic["error_code"]:
                continue
            name, seen = topic["topic"], topic.get("topic_id", NO_TOPIC_ID)
            missing.discard(name)
            if self._ids.setdefault(name, seen) != seen:
                raise TopicsError(
                    [f"{name}: the topic was deleted and created again while this process ran. {_WHAT_NOW}"]
                )
            if self._partitions is not None:
                _check_partitions(topic, self._partitions)
        return missing


def _check_partitions(topic: Mapping[str, Any], partitions: int) -> None:
    """Raise TopicsError if a topic of an answer to Metadata has more partitions.

    One with fewer is the answer of a broker that does not know of all of them yet: Kafka removes none.
    """
    if (number := len(topic["partitions"])) > partitions:
        raise TopicsError(
            [
                f"{topic['topic']} has {count(number, 'partition')}, and this process runs with {partitions}: "
                f"partitions were added while it ran, and Kafka removes none; {MORE_PARTITIONS}"
            ]
        )


async def watch_partitions(connection: KafkaConnection, topics: Collection[str], partitions: int) -> None:
    """Look every second, until cancelled. Raises TopicsError with one line if a topic has more partitions."""
    while True:
        with suppress(BrokerUnavailable, KafkaRefused):  # the process reports that Kafka is away
            async with open_admin(connection) as admin:
                while True:
                    for topic in (await admin._client.ask_any(Metadata(topics))).to_object()["topics"]:
                        if not topic["error_code"]:
                            _check_partitions(topic, partitions)
                    await asyncio.sleep(_EVERY_S)
        await asyncio.sleep(_EVERY_S)


class TopicWatch:
    """Checks `topics`, each with `partitions` partitions, every second."""

    def __init__(
        self,
        connection: KafkaConnection,
        known: KnownTopics,
        topics: Sequence[str],
        partitions: int,
    ) -> None:
        self._connection = connection
        self._known = known
        self._topics = topics
        self._logs = [TopicPartition(topic, number) for topic in topics for number in range(partitions)]
        self._ends: dict[TopicPartition, int] = {}
        self._missing_since_s: float | None = None
        self._refused = Throttled(lambda why: log.error("Kafka refuses this process: %s", why))

    async def run(self) -> None:
        """Check until cancelled. Raises TopicsError with one line; waits while no broker answers."""
        while True:
            try:
                async with Reader(self._connection, isolation_level="read_uncommitted") as reader:
                    while True:
                        await self.look(reader)
                        await asyncio.sleep(_EVERY_S)
            except (KafkaError, BrokerUnavailable, KafkaRefused):
                await self._say_refusal()
                await asyncio.sleep(_EVERY_S)

    async def _say_refusal(self) -> None:
        """Log why Kafka refuses the connection, if it does. The process continues: other brokers may accept it."""
        try:
            await refusal_or_silence(self._connection)
        except KafkaRefused as refused:
            self._refused(str(refused))
        else:
            self._refused.reset()

    async def look(self, reader: Reader) -> None:
        """Check once. Raises TopicsError, BrokerUnavailable, KafkaRefused or KafkaError."""
        if gone := await self._known.check(reader.client, self._topics):
            now_s = asyncio.get_running_loop().time()
            if self._missing_since_s is None:
                self._missing_since_s = now_s
            if now_s - self._missing_since_s >= _MISSING_S:
                raise TopicsError([f"{min(gone)}: the topic was deleted while this process ran. {_WHAT_NOW}"])
            return
        self._missing_since_s = None
        for log, end in (await reader.ends(self._logs)).items():
            if end < self._ends.get(log, 0):
                fell = f"partition {log.partition} was at offset {self._ends[log]} and ends at {end}"
                why = "the topic was deleted and created again, or Kafka lost records"
                raise TopicsError([f"{log.topic}: {fell}: {why}. {_WHAT_NOW}"])
            self._ends[log] = end
