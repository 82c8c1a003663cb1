"""The search among leads that no worker has taken yet, on real Kafka."""

import json

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from stream_app.board.read_model.on_kafka import WaitingLeads
from stream_app.dev.kafka import Broker
from stream_app.kafka.connection import KafkaConnection
from tests.support.kafka import create_topics

PARTITIONS = 2


async def test_a_lead_behind_the_offset_of_the_workers_is_found(kafka: Broker, namespace: str) -> None:
    topics, group = (f"{namespace}leads", f"{namespace}bulk"), f"{namespace}group"
    hot, bulk = topics
    place = TopicPartition(hot, 1)
    await create_topics(kafka.bootstrap, *topics, partitions=PARTITIONS)

    async def pass_to(offset: int) -> None:
        consumer = AIOKafkaConsumer(bootstrap_servers=kafka.bootstrap, group_id=group, enable_auto_commit=False)
        async with consumer:
            consumer.assign([place])
            await consumer.commit({place: offset})

    async with AIOKafkaProducer(bootstrap_servers=kafka.bootstrap) as producer:
        for number in range(3):
            value = json.dumps({"lead_id": f"crm-{number}", "fields": {"email": "ada@example.com"}}).encode()
            await producer.send_and_wait(hot, value, b"acme", partition=1)
        await producer.send_and_wait(bulk, b"{}", b"acme", partition=0)
    waiting = WaitingLeads(KafkaConnection(kafka.bootstrap), group, topics, PARTITIONS)
    await pass_to(1)
    search = await waiting.find("crm-2", "", "")
    (match,) = search.matches
    assert (match.lead_id, match.workspace, match.topic, match.partition) == ("crm-2", "acme", hot, 1)
    assert (match.offset, match.ahead, match.blocked) == (2, 1, None)
    assert search.lag == {(hot, 0): 0, (hot, 1): 2, (bulk, 0): 1, (bulk, 1): 0}
    assert (search.worker.members, search.problem) == (0, "")
    await pass_to(3)
    search = await waiting.find("crm-2", "", "")
    assert (search.matches, search.searched, search.left, search.problem) == ([], 1, 0, "")
