"""Records read again by their ids, and the search among those that no worker has taken yet, on real Kafka."""

import json

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from stream_app.board.read_model.on_kafka import WaitingLeads
from stream_app.dev.kafka import Broker
from stream_app.domain.lead.identity import hashes
from stream_app.kafka.connection import KafkaConnection
from stream_app.kafka.readers import fetch
from tests.support.kafka import create_topics, delete_records

PARTITIONS = 2


class Leads:
    """Lead topics of one namespace."""

    def __init__(self, kafka: Broker, namespace: str) -> None:
        self.bootstrap = kafka.bootstrap
        self.topics = (f"{namespace}leads", f"{namespace}bulk")
        self.group = f"{namespace}group"
        self.search = WaitingLeads(KafkaConnection(kafka.bootstrap), self.group, self.topics, PARTITIONS)

    async def publish(self, topic: str, partition: int, *values: bytes) -> None:
        async with AIOKafkaProducer(bootstrap_servers=self.bootstrap) as producer:
            for value in values:
                await producer.send_and_wait(topic, value, b"acme", partition=partition)

    async def pass_to(self, topic: str, partition: int, offset: int) -> None:
        consumer = AIOKafkaConsumer(bootstrap_servers=self.bootstrap, group_id=self.group, enable_auto_commit=False)
        async with consumer:
            consumer.assign([TopicPartition(topic, partition)])
            await consumer.commit({TopicPartition(topic, partition): offset})


@pytest.fixture
async def leads(kafka: Broker, namespace: str) -> Leads:
    made = Leads(kafka, namespace)
    await create_topics(kafka.bootstrap, *made.topics, partitions=PARTITIONS)
    return made


def lead(lead_id: str | None, email: str, **more: object) -> bytes:
    return json.dumps({"lead_id": lead_id, "fields": {"email": email}, **more}).encode()


async def test_a_lead_is_found_by_its_id_and_by_its_person(leads: Leads) -> None:
    hot, bulk = leads.topics
    await leads.publish(hot, 1, b"\xff", lead("crm-0", "a@example.com"), lead("crm-1", "Ada@Example.com"))
    await leads.publish(bulk, 0, lead(None, "bob@example.com"), lead("a b", "c@example.com", workspace="beta"))
    await leads.publish(bulk, 1, b'{"lead_id": "crm\\u002d7", "fields": {"email": "x@example.com"}}')
    await leads.pass_to(hot, 1, 1)
    search = await leads.search.find("crm-1", "", "")
    (match,) = search.matches
    assert (match.lead_id, match.workspace, match.topic, match.partition) == ("crm-1", "acme", hot, 1)
    assert (match.offset, match.ahead, match.blocked) == (2, 1, None)
    assert search.lag == {(hot, 0): 0, (hot, 1): 2, (bulk, 0): 2, (bulk, 1): 1}
    assert (search.worker.members, search.problem) == (0, "")
    _, ada, _ = hashes({"email": "ada@example.com"})
    _, bob, _ = hashes({"email": "bob@example.com"})
    assert [waiting.lead_id for waiting in (await leads.search.find("", ada, "")).matches] == ["crm-1"]
    assert [waiting.lead_id for waiting in (await leads.search.find("", bob, "")).matches] == [f"p-{bob}"]
    assert [waiting.lead_id for waiting in (await leads.search.find(f"p-{bob}", "", "")).matches] == [f"p-{bob}"]
    assert [waiting.offset for waiting in (await leads.search.find("crm-7", "", "")).matches] == [0], (
        "written with an escape"
    )
    assert not (await leads.search.find("crm-1", "", "beta")).matches
    await leads.pass_to(hot, 1, 3)
    search = await leads.search.find("crm-1", "", "")
    assert (search.matches, search.searched, search.left, search.problem) == ([], 3, 0, "")


async def test_kept_records_are_found_by_their_ids(kafka: Broker, namespace: str) -> None:
    topic = f"{namespace}leads"
    await create_topics(kafka.bootstrap, topic, partitions=2)
    producer = AIOKafkaProducer(bootstrap_servers=kafka.bootstrap, transactional_id=f"{namespace}p")
    async with producer:
        for number in range(1_200):  # three transactions of 400, a marker behind each: offsets 400, 801 and 1202
            if number % 400 == 0:
                await producer.begin_transaction()
            await producer.send(topic, f"{number}".encode(), b"k", partition=1, headers=[("h", b"1")])
            if number % 400 == 399:
                await producer.commit_transaction()
        await producer.begin_transaction()
        await producer.send(topic, b"aborted", partition=1)
        await producer.flush()
        await producer.abort_transaction()
    await delete_records(kafka.bootstrap, TopicPartition(topic, 1), before=10)
    connection = KafkaConnection(kafka.bootstrap)
    asked = [9, 10, 11, 400, 1_000, 1_202, 1_203, 9_999]  # 1203 was aborted
    places = [f"{topic}/1/{offset}" for offset in asked]
    places += [f"{topic}/0/0", f"{namespace}nothing/0/0", "no place"]
    fetched = await fetch(connection, places)
    assert {place: consumed.value for place, consumed in fetched.items()} == {
        f"{topic}/1/10": b"10",
        f"{topic}/1/11": b"11",
        f"{topic}/1/1000": b"998",
    }
    one = fetched[f"{topic}/1/10"]
    assert (one.key, one.headers, one.record_id) == (b"k", (("h", b"1"),), f"{topic}/1/10")
    assert one.timestamp_ms > 1_600_000_000_000
    assert await fetch(connection, []) == {}
