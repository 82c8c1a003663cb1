"""The books read from a real Kafka without a worker: what each place on Kafka counts as."""

import sqlite3
from typing import Any, Final

import msgspec
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from stream_app.client.books import read as module
from stream_app.client.books.compare import Books
from stream_app.client.books.read import _BooksReader, read_books
from stream_app.config import Kafka, Settings
from stream_app.dev.kafka import Broker
from stream_app.domain.books.money import BooksReport
from stream_app.domain.delivery.envelope import HEADERS
from stream_app.domain.delivery.state_machine import Delivery, delivery_key, lane_key
from stream_app.domain.lane.lane import Lane
from stream_app.domain.limits.budget import Budget, Period
from stream_app.domain.model.errors import StreamAppError, UnreadableBatch
from stream_app.domain.model.messages import Status
from stream_app.domain.plan import Destination, Workspace
from tests.board.model_records import event
from tests.support.kafka import create_planned, delete_records

HOME = 1
NOW_MS = 1_790_000_000_000
BOOKED: Final[dict[str, Any]] = {
    "credits": 7,
    "actions": 2,
    "day": "2026-09-21",
    "month": "2026-09",
}
LANE = Lane(
    "acme",
    HOME,
    budget=Budget((Period("2026-09-21", credits_spent=7, actions_spent=2),)),
)


def settings_for(bootstrap: str, namespace: str) -> Settings:
    return Settings(
        kafka=Kafka(bootstrap=bootstrap, namespace=namespace, partitions=2, replication=1),
        workspaces={"acme": Workspace("acme", partition=HOME)},
        destinations={"people": Destination("people", "acme", webhooks_env=("A",))},
    )


class Line:
    """Writes what a worker of workspace acme would have written."""

    def __init__(self, settings: Settings, producer: AIOKafkaProducer) -> None:
        self.settings = settings
        self.names = settings.names
        self._producer = producer

    async def write(self, topic: str, key: bytes | None, value: bytes | None, **more: Any) -> None:
        await self._producer.send_and_wait(topic, value, key, partition=HOME, **more)

    async def history(self, offset: int, *statuses: Status, row: bool = True, **more: Any) -> None:
        """The events of the record at that offset of `leads`, and its row after them."""
        origin = f"{self.names.leads}/{HOME}/{offset}"
        lead_id = f"crm-{offset}"
        for seq, status in enumerate(statuses, 1):
            told = more if seq == len(statuses) else {}
            made = event(self.names, lead_id, status, seq, origin=origin, **told)
            await self.write(made.topic, made.key, made.value)
        if row:
            delivery = Delivery(1, statuses[-1], origin, len(statuses), NOW_MS, NOW_MS, "t")
            key = delivery_key("acme", "people", lead_id)
            await self.write(self.names.state, key, msgspec.json.encode(delivery))

    async def pass_over(self, group: str, topic: str, offset: int) -> None:
        tp = TopicPartition(topic, HOME)
        async with AIOKafkaConsumer(
            bootstrap_servers=self.settings.kafka.bootstrap,
            group_id=group,
            enable_auto_commit=False,
        ) as consumer:
            consumer.assign([tp])
            await consumer.commit({tp: offset})


async def read(
    settings: Settings,
    seen: list[tuple[int, int]] | None = None,
    limit: int = 9,
) -> BooksReport:
    return await read_books(
        settings,
        limit=limit,
        progress=lambda done, total: None if seen is None else seen.append((done, total)),
        say=lambda _: None,
    )


async def test_each_record_is_counted_by_where_kafka_holds_it(
    kafka: Broker,
    namespace: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of 8 records retention has deleted the first 2, and the worker's group has passed 6."""
    settings = settings_for(kafka.bootstrap, namespace)
    names = settings.names
    await create_planned(settings)
    async with AIOKafkaProducer(bootstrap_servers=kafka.bootstrap) as producer:
        line = Line(settings, producer)
        for offset in range(8):
            await line.write(names.leads, b"acme", b'{"lead_id": "crm-%d"}' % offset)
        await line.history(0, "received", "sending", "accepted", "enriched", row=False)
        await line.history(2, "received", "sending", "accepted", "enriched", **BOOKED)
        await line.history(3, "received", "sending", "accepted")
        await line.history(4, "received", "sending", "dead_lettered")
        await line.write(names.status, b"odd", b"{no event")
        await line.write(names.state, lane_key("acme"), msgspec.json.encode(LANE))
        gone = delivery_key("acme", "people", "crm-2b")
        stale = Delivery(1, "parked", f"{names.leads}/{HOME}/2", 1, NOW_MS, NOW_MS, "t")
        await line.write(names.state, gone, msgspec.json.encode(stale))
        await line.write(names.state, gone, None)
        back = {
            "origin": f"{names.leads}/{HOME}/4",
            "disposition": "failed",
            "destination": "people",
        }
        headers = [(HEADERS[name], text.encode()) for name, text in back.items()]
        await line.write(names.dlq, b"acme", b"{}", headers=headers)
        await line.pass_over(names.worker_app, names.leads, 6)
    await delete_records(kafka.bootstrap, TopicPartition(names.leads, HOME), 2)
    seen: list[tuple[int, int]] = []
    report = await read(settings, seen)
    counted = {name: column.records for name, column in report.columns.items() if column.records}
    assert counted == {"enriched": 1, "under_way": 2, "waiting": 2}
    assert report.records == 6
    assert report.accounted == 5
    assert report.copies == 1
    assert report.outlived == 1
    assert report.events == 15
    problems = {problem.where: problem.what for problem in report.problems}
    assert problems.pop(f"{names.leads}/{HOME}/5").startswith("lost: ")
    assert problems == {f"{names.status}/{HOME}/14": "an event that cannot be read"}
    assert report.problem_count == 2
    assert not report.balanced
    spent = {account.meter: account.spent_by_events for account in report.accounts}
    assert spent == {"credits": 7, "actions": 2}
    assert seen[-1][0] == seen[-1][1], "all of it was read at the end"
    assert seen == sorted(seen), "a bar that shows it never goes back"
    assert {total for _, total in seen} == {6 + 15 + 6 + 1}

    monkeypatch.setattr(module, "_CUT_WITHIN_S", 0.2)
    async with AIOKafkaProducer(
        bootstrap_servers=kafka.bootstrap,
        transactional_id=f"{namespace}stranger",
    ) as stranger:
        await stranger.begin_transaction()
        await stranger.send_and_wait(names.status, b"not to be seen", partition=HOME)
        open_report = await read(settings, limit=1)
        await stranger.abort_transaction()
    assert open_report.columns == report.columns
    assert open_report.problem_count == 2
    assert [problem.where for problem in open_report.problems] == [
        f"{names.status}/{HOME}/14",
    ]
    assert [account.spent_by_events for account in open_report.accounts] == [None, None], (
        "rows and events are not of the same moment"
    )


async def test_a_full_disk_says_how_much_room_the_books_need(
    kafka: Broker,
    namespace: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = settings_for(kafka.bootstrap, namespace)
    await create_planned(settings)

    def full(*_: Any) -> BooksReport:
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(Books, "close", full)
    with pytest.raises(StreamAppError, match=r"disk is full\): set TMPDIR .* 300 MB"):
        await read(settings)


def test_a_batch_that_cannot_be_read_is_named_and_not_counted() -> None:
    """Of the state or the events it ends the books: without all of them they cannot be closed."""
    settings = settings_for("nowhere:1", "")
    names = settings.names
    collected = Books(settings.plan)
    reader = _BooksReader(settings, collected, lambda *_: None)
    reader._unreadable(UnreadableBatch(names.bulk, HOME, 5, 9, "zstd"))
    collected.partition(HOME, exact=True, kept=True)
    (problem,) = collected.close(NOW_MS).problems
    assert problem.where == f"{names.bulk}/{HOME}/5"
    assert "up to offset 9" in problem.what
    assert "zstd" in problem.what
    for topic in (names.state, names.status):
        with pytest.raises(UnreadableBatch):
            reader._unreadable(UnreadableBatch(topic, HOME, 5, 9, "zstd"))
