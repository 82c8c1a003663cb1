"""Single records read again on real Kafka."""

from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic, RecordsToDelete
from aiokafka.producer import AIOKafkaProducer

from stream_app.dev.kafka import Broker
from stream_app.kafka.connection import KafkaConnection
from stream_app.kafka.readers import fetch


async def test_kept_records_are_found_by_their_ids(kafka: Broker, namespace: str) -> None:
    topic = f"{namespace}leads"
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka.bootstrap)
    await admin.start()
    await admin.create_topics([NewTopic(topic, 2, 1)])
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
    await admin.delete_records({TopicPartition(topic, 1): RecordsToDelete(before_offset=10)})
    await admin.close()
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
