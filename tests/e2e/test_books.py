"""The books on real Kafka: an open transaction does not stop them, and they name a lead that is
lost.
"""

import asyncio
from datetime import UTC, datetime

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from stream_app.client.books.read import read_books
from stream_app.dev.kafka import Broker
from stream_app.domain.books.money import BooksReport
from tests.e2e.behind import eventually
from tests.e2e.pipeline import Pipeline
from tests.support.pace import BUSY


async def books(line: Pipeline) -> BooksReport:
    return await read_books(
        line.settings,
        limit=5,
        progress=lambda done, total: None,
        say=lambda text: None,
    )


@pytest.mark.slow
@pytest.mark.timeout(150)
async def test_an_open_transaction_is_no_alarm_and_a_skipped_lead_is_one(
    kafka: Broker,
    namespace: str,
) -> None:
    async with Pipeline(kafka.bootstrap, namespace, 1, partitions=1) as line:
        await line.publish(line.leads(2))
        worker = line.start("worker")
        await line.until_over(2, 60)
        await worker.stop()
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
        assert all(account.spent_by_events is None for account in report.accounts), (
            "not of the same moment for sure"
        )
        # The end of the transaction is visible some time after the abort has returned.
        await eventually(lambda: _not_of_one_moment(line), 30)

        topic = line.settings.names.leads
        await line.publish(line.leads(5)[2:])
        assert (await line.books_balance())["columns"]["waiting"]["records"] == 3
        await pass_over(kafka, line.settings.names.worker_app, topic, 4)
        code, output = await line.run("books", "--limit", "1")
        assert code == 1
        assert f"{topic}/0/2: lost" in output
        assert "and 1 more" in output
        assert "5 in, 3 accounted for" in output


async def _not_of_one_moment(line: Pipeline) -> str:
    """Return '' once what the events say was spent is of the moment of the accounts."""
    report = await books(line)
    return "" if report.accounts[0].spent_by_events is not None else repr(report.accounts)


async def pass_over(kafka: Broker, group: str, topic: str, offset: int) -> None:
    """Commit an offset as a broken worker would."""
    tp = TopicPartition(topic, 0)
    async with AIOKafkaConsumer(
        bootstrap_servers=kafka.bootstrap,
        group_id=group,
        enable_auto_commit=False,
    ) as consumer:
        consumer.assign([tp])
        await consumer.commit({tp: offset})


DAY = """
[workspaces.{name}.budget]
credits_per_day = 12
"""


def _zone_at_noon() -> str:
    """Return a time zone in which it is about noon, so that no day begins during the test."""
    # Etc/GMT+5 is five hours behind UTC.
    return f"Etc/GMT{datetime.now(UTC).hour - 12:+d}"


@pytest.mark.timeout(150)
async def test_a_lead_that_clay_does_not_have_is_sent_again_and_booked_once(
    kafka: Broker,
    namespace: str,
) -> None:
    """Its ceiling is all that the day has, so it can only be sent because what was booked for it is
    returned first.
    """
    prices = "estimate_credits = 1\nceiling_credits = 12"
    async with Pipeline(
        kafka.bootstrap,
        namespace,
        1,
        partitions=1,
        workspace=f'time_zone = "{_zone_at_noon()}"',
        lane=DAY,
        destination=prices,
    ) as line:
        line.control("POST", "/control/faults", {"kind": "status_before", "status": 500})
        worker = line.start("worker")
        replay = line.start("replay")
        await line.publish(line.leads(1))
        await line.until(lambda: line.last() == {"parked": 1}, 60, "parked")
        before = await line.books_balance()
        assert [(cost["lead_id"], cost["booked"]["credits"]) for cost in before["open_costs"]] == [
            ("lead-0", 12),
        ]
        line.control("DELETE", "/control/faults")
        about = "dlq", "resolve", "lead-0", "--workspace", "w0", "--send", "--why", "no row in Clay"
        output = await line.done(*about)
        assert "12 credits and 5 actions were booked, now it is 0 and 0" in output
        assert "1 dead letter was sent back, 0 refused" in output
        await line.until(lambda: line.last()["accepted"] == 1, 60, "accepted")
        after = await line.books_balance()
        spent = {account["spent"] for account in after["accounts"] if account["meter"] == "credits"}
        assert spent == {1}
        assert after["open_costs"] == []
        assert after["possible_doubles"] == {"w0": 1}
        metric = 'stream_app_possible_double_spends_total{destination="w0-crm",workspace="w0"} 1.0'
        assert metric in await worker.get("/metrics")
        assert set(line.summary()["leads"].values()) == {1}
        code, output = await line.run(*about)
        assert code == 1, output
        assert "NOT APPLIED, this lead is not parked" in output, output
        await line.done("lanes", "budget", "w0", "--credits-per-day", "400", "--why", "more money")
        rows = line.directory / "rows.jsonl"
        rows.write_text('{"email":"ada@example.com"}\n')
        output = await line.done("publish", str(rows), "--workspace", "w0", "--dry-run")
        assert "w0: 399 credits of today are left" in output, (
            "400 are in force, and not the 12 of the configuration"
        )
        await replay.stop()
        await worker.stop()
