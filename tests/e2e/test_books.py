"""The books on real Kafka: they name a lead that is lost, and an open transaction does not stop them."""

import asyncio

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from stream_app.client.books import read_books
from stream_app.dev.kafka import Broker
from stream_app.domain.books.money import BooksReport
from tests.e2e.pipeline import Pipeline
from tests.support.pace import BUSY

pytestmark = pytest.mark.timeout(150)


async def books(line: Pipeline) -> BooksReport:
    return await read_books(line.settings, limit=5, progress=lambda done, total: None, say=lambda text: None)


async def test_books_name_a_skipped_lead_and_exit_with_1(kafka: Broker, namespace: str) -> None:
    async with Pipeline(kafka.bootstrap, namespace, 1, partitions=1) as line:
        await line.publish(line.leads(3))
        books = await line.books_balance()
        assert books["columns"]["waiting"]["records"] == 3
        await pass_over(kafka, namespace, line.settings.names.leads, 2)
        code, output = await line.run("books")
        assert code == 1
        assert f"{namespace}leads/0/0: lost" in output
        assert f"{namespace}leads/0/1: lost" in output
        assert "3 in, 1 accounted for" in output
        code, output = await line.run("books", "--limit", "1")
        assert code == 1
        assert "and 1 more" in output


@pytest.mark.slow
async def test_an_open_transaction_neither_blocks_the_books_nor_raises_an_alarm(kafka: Broker, namespace: str) -> None:
    async with Pipeline(kafka.bootstrap, namespace, 1, partitions=1) as line:
        await line.publish(line.leads(2))
        worker = line.start("worker")
        await line.until_over(2, 60)
        await line.stop(worker)
        producer = AIOKafkaProducer(
            bootstrap_servers=kafka.bootstrap,
            transactional_id=f"{namespace}stranger",
            transaction_timeout_ms=500_000,  # longer than the test
        )
        async with producer:
            await producer.begin_transaction()
            await producer.send_and_wait(line.settings.names.status, b"not to be seen", partition=0)
            async with asyncio.timeout(30 * BUSY):
                report = await books(line)
            await producer.abort_transaction()
        assert report.balanced, report.problems
        assert report.columns["accepted_final"].records == 2
        assert all(account.spent_by_events is None for account in report.accounts), "not of the same moment for sure"
        assert (await books(line)).accounts[0].spent_by_events is not None


async def pass_over(kafka: Broker, namespace: str, topic: str, offset: int) -> None:
    """Commit an offset as a broken worker would."""
    consumer = AIOKafkaConsumer(
        bootstrap_servers=kafka.bootstrap, group_id=f"{namespace}stream-app", enable_auto_commit=False
    )
    await consumer.start()
    try:
        tp = TopicPartition(topic, 0)
        consumer.assign([tp])
        await consumer.commit({tp: offset})
    finally:
        await consumer.stop()
