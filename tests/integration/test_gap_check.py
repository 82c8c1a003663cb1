"""Gaps in offsets and replaced topics on real Kafka: harmless ones are counted, others end the
process.
"""

import asyncio
import re
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.errors import (
    KafkaConnectionError,
    KafkaError,
    KafkaTimeoutError,
    TopicAuthorizationFailedError,
)

from stream_app.dev.kafka import Broker
from stream_app.domain.model.errors import TopicsError
from stream_app.faust_app.stream import GapCheck
from stream_app.kafka import topics
from stream_app.kafka.connection import KafkaConnection
from stream_app.kafka.readers import Reader
from stream_app.kafka.topics import KnownTopics, TopicWatch, alter_topics, watch_partitions
from stream_app.kafka.transactional_state import TransactionalState
from stream_app.tasks import cancel
from tests.support.kafka import (
    add_partitions,
    create_topics,
    delete_records,
    delete_topics,
    publish,
)
from tests.support.pace import BUSY


async def _one_record(bootstrap: str, topic: str) -> TopicPartition:
    """A topic with one record at offset 0, and a transaction marker after it."""
    await create_topics(bootstrap, topic)
    async with AIOKafkaProducer(bootstrap_servers=bootstrap, transactional_id=topic) as producer:
        for _ in range(2):
            async with producer.transaction():
                await producer.send_and_wait(topic, b"x", partition=0)
    return TopicPartition(topic, 0)


@pytest.fixture
async def gaps(kafka: Broker) -> AsyncIterator[GapCheck]:
    check = GapCheck(KafkaConnection(kafka.bootstrap))
    yield check
    await check.close()


async def test_a_broker_that_stops_during_the_check_is_waited_for(
    kafka: Broker,
    namespace: str,
    gaps: GapCheck,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """aiokafka gives up after 40 s. An error that waiting cannot repair is raised."""
    tp = await _one_record(kafka.bootstrap, f"{namespace}gaps")
    real = AIOKafkaConsumer.beginning_offsets
    errors: list[KafkaError] = [KafkaTimeoutError(), KafkaConnectionError()]

    async def fails(self: AIOKafkaConsumer, partitions: Any) -> Any:
        if errors:
            raise errors.pop(0)
        return await real(self, partitions)

    monkeypatch.setattr(AIOKafkaConsumer, "beginning_offsets", fails)
    await asyncio.wait_for(gaps.verify(tp, 1, 2), 10 * BUSY)
    assert gaps.empty == 1
    assert not errors
    errors.append(TopicAuthorizationFailedError())
    with pytest.raises(TopicAuthorizationFailedError):
        await gaps.verify(tp, 0, 2)


class OldKafka:
    """As a Reader and its client see it: no ids, and logs that end where the test says."""

    def __init__(self) -> None:
        self.end = 50
        self.error = 0
        self.names = ["leads"]
        self.client = self

    async def ask_any(self, _request: Any) -> Any:
        return self

    def to_object(self) -> dict[str, Any]:
        return {
            "topics": [
                {"error_code": self.error, "topic": name, "partitions": [0]} for name in self.names
            ],
        }

    async def ends(self, logs: list[TopicPartition]) -> dict[TopicPartition, int]:
        return dict.fromkeys(logs, self.end)


async def test_without_topic_ids_a_shorter_log_is_another_topic() -> None:
    kafka: Any = OldKafka()
    watch = TopicWatch(KafkaConnection(""), KnownTopics(), ["leads"], 1)
    await watch.look(kafka)
    kafka.error = 3
    # it may only have started: it is missed for a while before it is called deleted
    await watch.look(kafka)
    kafka.error = 0
    kafka.end = 49
    with pytest.raises(
        TopicsError,
        match=re.escape("leads: partition 0 was at offset 50 and ends at 49"),
    ):
        await watch.look(kafka)


async def test_without_topic_ids_a_shorter_log_of_the_lanes_is_filled_again() -> None:
    kafka: Any = OldKafka()
    kafka.names = ["lanes"]
    lost = []
    watch = TopicWatch(
        KafkaConnection(""),
        KnownTopics(),
        [],
        1,
        on_lost={"lanes": lambda: lost.append(kafka.end)},
    )
    await watch.look(kafka)
    kafka.error = 3
    for _ in range(3):
        await watch.look(kafka)  # nothing can be written to a topic that is missing
    assert lost == []
    kafka.error = 0
    kafka.end = 49
    await watch.look(kafka)
    await watch.look(kafka)
    assert lost == [49]


async def test_the_lanes_are_written_again_when_their_topic_is_another_one(
    kafka: Broker,
    namespace: str,
) -> None:
    """Even if the new one was filled at once beyond the former end."""
    lanes = namespace + "lanes"
    connection = KafkaConnection(kafka.bootstrap)
    await create_topics(kafka.bootstrap, lanes)
    await publish(kafka.bootstrap, lanes, [b"1"])
    lost = asyncio.Event()
    watch = TopicWatch(connection, KnownTopics(1), [], 1, on_lost={lanes: lost.set})
    watching = asyncio.create_task(watch.run())
    async with Reader(connection, isolation_level="read_uncommitted") as reader:
        await watch.look(reader)
    await delete_topics(kafka.bootstrap, lanes)
    await create_topics(kafka.bootstrap, lanes)
    await publish(kafka.bootstrap, lanes, [b"1", b"2", b"3"])
    await asyncio.wait_for(lost.wait(), 10 * BUSY)
    lost.clear()
    await asyncio.sleep(2.5)
    assert not lost.is_set(), "once"
    await cancel([watching])


async def test_a_state_whose_rows_kafka_would_delete_ends_the_process(
    kafka: Broker,
    namespace: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Within the time between two looks. A policy that only adds the deletion is as bad."""
    state = namespace + "state"
    connection = KafkaConnection(kafka.bootstrap)
    monkeypatch.setattr(topics, "_POLICIES_EVERY_S", 0.5)
    await create_topics(kafka.bootstrap, state, config={"cleanup.policy": "compact"})
    watching = asyncio.create_task(
        TopicWatch(connection, KnownTopics(1), [state], 1, [state]).run(),
    )
    await asyncio.sleep(3.0)
    assert not watching.done()
    await alter_topics(
        connection,
        {state: {"cleanup.policy": "compact,delete"}},
        60 * BUSY,
        lambda _: None,
    )
    with pytest.raises(
        TopicsError,
        match=f"^{re.escape(state)}: cleanup.policy is compact,delete. Kafka deletes rows",
    ):
        await asyncio.wait_for(watching, 10 * BUSY)


async def test_a_takeover_names_why_rows_are_missing(kafka: Broker, namespace: str) -> None:
    """Even if all are, so that the partition looks like a new one."""
    state = namespace + "state"
    connection = KafkaConnection(kafka.bootstrap)
    await create_topics(kafka.bootstrap, state, config={"cleanup.policy": "delete"})
    await publish(kafka.bootstrap, state, [b"1", b"2", b"3"])
    for before in (2, 3):
        await delete_records(kafka.bootstrap, TopicPartition(state, 0), before)
        store = TransactionalState(connection, f"{state}-0", state, 0)
        with pytest.raises(
            TopicsError,
            match=f"^{re.escape(state)}/0: it begins at offset {before}, so rows were",
        ):
            await store.take_over()
        await store.close()


async def test_a_takeover_refuses_a_recreated_topic(kafka: Broker, namespace: str) -> None:
    """In any partition, also one that was not taken over before: its rows are gone."""
    state = namespace + "state"
    connection = KafkaConnection(kafka.bootstrap)
    known = KnownTopics()
    await create_topics(kafka.bootstrap, state, partitions=2)
    stores = [
        TransactionalState(connection, f"{state}-{number}", state, number, known=known)
        for number in range(2)
    ]
    assert await stores[0].take_over() == {}
    await delete_topics(kafka.bootstrap, state)
    await create_topics(kafka.bootstrap, state, partitions=2)
    for store in stores:
        with pytest.raises(
            TopicsError,
            match=f"^{re.escape(state)}: the topic was deleted and created again",
        ):
            await store.take_over()
        await store.close()


async def test_partitions_that_are_added_end_a_process(kafka: Broker, namespace: str) -> None:
    """Where it looks each second, and where a partition is taken over."""
    leads = namespace + "leads"
    state = namespace + "state"
    connection = KafkaConnection(kafka.bootstrap)
    await create_topics(kafka.bootstrap, leads, state, partitions=2)
    known = KnownTopics(2)
    watching = asyncio.create_task(TopicWatch(connection, known, [leads], 2).run())
    counting = asyncio.create_task(watch_partitions(connection, [leads], 2))
    store = TransactionalState(connection, f"{state}-0", state, 0, known=known)
    assert await store.take_over() == {}
    assert not watching.done()
    assert not counting.done()
    await add_partitions(kafka.bootstrap, 3, leads, state)
    for ended in (asyncio.wait_for(watching, 30 * BUSY), asyncio.wait_for(counting, 30 * BUSY)):
        with pytest.raises(
            TopicsError,
            match=f"^{re.escape(leads)} has 3 partitions, and this process runs with 2",
        ):
            await ended
    with pytest.raises(
        TopicsError,
        match=f"^{re.escape(state)} has 3 partitions, and this process runs with 2",
    ):
        await store.take_over()
    await store.close()
