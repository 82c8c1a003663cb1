"""The read model on real Kafka: it is complete, survives kill -9, and detects recreated topics."""

import asyncio
import random
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from aiokafka import AIOKafkaProducer, TopicPartition

from stream_app.board.read_model.history import events_of
from stream_app.dev.kafka import Broker
from tests.board.feeding import fed, make_topics, write
from tests.board.model_records import (
    NOW_MS,
    dead_letter,
    event,
    flat,
    history,
    lane,
    person,
    result,
    sources,
)
from tests.support.kafka import delete_records, delete_topics, until
from tests.support.proxy import ProxiedKafka
from tests.support.tampering import bad_checksum, tampered


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.sqlite"


async def test_the_model_has_the_records_of_all_topics(
    kafka: Broker,
    namespace: str,
    path: Path,
) -> None:
    names = sources(namespace).names
    await make_topics(kafka.bootstrap, namespace)
    await write(
        kafka.bootstrap,
        [*history(names, "crm-1", "received", "sending", "accepted"), result(names, "crm-1")],
    )
    await write(
        kafka.bootstrap,
        [
            lane(names),
            person(names, "hash", "crm-1"),
            dead_letter(names.dlq),
            dead_letter(names.parked),
        ],
    )
    async with fed(kafka.bootstrap, namespace, path) as it:
        await it.up_to_date()
        lead = it.ask.lead("crm-1", NOW_MS)
        assert lead is not None
        assert lead.histories[0].status == "accepted"
        assert it.ask.results("crm-1")[0].offset == 0
        assert it.ask.leads_of("hash")[0] == "crm-1"
        assert [view.workspace for view in it.ask.lanes(NOW_MS)[0]] == ["acme"]
        assert (
            it.ask.dead_letters(names.dlq).written == it.ask.dead_letters(names.parked).written == 1
        )
        assert it.feed.lag.lag == 0
        await write(kafka.bootstrap, [event(names, "crm-1", "enriched", 4)])
        await until(lambda: it.ask.status_counts()[0].status == "enriched", 10, "the next step")


async def test_only_committed_records_are_read_and_markers_are_skipped(
    kafka: Broker,
    namespace: str,
    path: Path,
) -> None:
    names = sources(namespace).names
    await make_topics(kafka.bootstrap, namespace)
    producer = AIOKafkaProducer(
        bootstrap_servers=kafka.bootstrap,
        transactional_id=f"{namespace}writer",
    )
    async with fed(kafka.bootstrap, namespace, path) as it, producer:
        for lead_id, committed in (("crm-1", True), ("crm-2", False)):
            await producer.begin_transaction()
            (reported,) = history(names, lead_id, "received", offset=int(lead_id[-1]))
            await producer.send_and_wait(reported.topic, reported.value, reported.key, 0)
            await (producer.commit_transaction() if committed else producer.abort_transaction())
        await until(lambda: it.ask.lead("crm-1", NOW_MS), 20, "what was committed")
        await it.up_to_date()
        assert it.ask.lead("crm-2", NOW_MS) is None
        assert it.feed.lag.lag == 0


@pytest.mark.timeout(180)
async def test_kill_9_doubles_and_loses_nothing(kafka: Broker, namespace: str, path: Path) -> None:
    names = sources(namespace).names
    leads = 6_000
    await make_topics(kafka.bootstrap, namespace)
    records = flat(
        history(names, f"crm-{n}", "received", "sending", "dead_lettered", offset=n)
        for n in range(leads)
    )
    await write(kafka.bootstrap, [*records, *[dead_letter(names.dlq)] * leads])
    total = len(records) + leads
    chance = random.Random(7)
    kills = 0
    while (read := _read(path)) < total:
        with killed(kafka.bootstrap, namespace, str(path)):
            await until(lambda before=read: _read(path) > before, 30, "some progress")  # type: ignore[misc]  # mypy cannot infer a lambda with a default
            await asyncio.sleep(chance.random() * 0.05)
        kills += 1
    assert kills >= 2
    async with fed(kafka.bootstrap, namespace, path) as it:
        await it.up_to_date()
        assert {count.status: count.leads for count in it.ask.status_counts()} == {
            "dead_lettered": leads,
        }
        assert it.ask.dead_letters(names.dlq).written == leads
    with sqlite3.connect(path) as db:
        numbers = [number for (number,) in db.execute("SELECT id FROM records")]
        assert Counter(len(events_of(db, number)) for number in numbers) == {3: leads}


async def test_topics_recreated_before_the_start_are_read_from_the_beginning(
    kafka: Broker,
    namespace: str,
    path: Path,
) -> None:
    """Also if they have grown beyond the end of the old ones meanwhile."""
    names = sources(namespace).names
    await make_topics(kafka.bootstrap, namespace)
    await write(
        kafka.bootstrap,
        [*history(names, "old", "received", "sending", offset=9), dead_letter(names.dlq, "old")],
    )
    async with fed(kafka.bootstrap, namespace, path) as it:
        await it.up_to_date()
    await delete_topics(kafka.bootstrap, *sources(namespace).topics)
    await make_topics(kafka.bootstrap, namespace)
    new = [
        *history(names, "new", "received", "sending", "accepted", "enriched"),
        dead_letter(names.dlq),
        dead_letter(names.dlq),
    ]
    await write(kafka.bootstrap, new)
    async with fed(kafka.bootstrap, namespace, path) as it:
        await it.up_to_date()
        assert it.ask.lead("old", NOW_MS) is None
        assert it.ask.lead("new", NOW_MS) is not None
        assert [
            (cause.reason, cause.written) for cause in it.ask.dead_letters(names.dlq).causes
        ] == [("http_503", 2)]


async def test_a_removed_or_damaged_file_is_rebuilt(
    kafka: Broker,
    namespace: str,
    path: Path,
) -> None:
    names = sources(namespace).names
    await make_topics(kafka.bootstrap, namespace)
    await write(kafka.bootstrap, history(names, "crm-1", "received"))
    async with fed(kafka.bootstrap, namespace, path) as it:
        await it.up_to_date()
        await asyncio.to_thread(path.unlink)
        await until(path.exists, 20, "a new file")
        await it.up_to_date()
        assert it.ask.lead("crm-1", NOW_MS) is not None
    await asyncio.to_thread(path.write_bytes, b"damaged" * 1_000)
    async with fed(kafka.bootstrap, namespace, path) as it:
        await it.up_to_date()
        assert it.ask.lead("crm-1", NOW_MS) is not None


async def test_records_lost_to_retention_are_skipped(
    kafka: Broker,
    namespace: str,
    path: Path,
) -> None:
    names = sources(namespace).names
    await make_topics(kafka.bootstrap, namespace)
    await write(kafka.bootstrap, history(names, "crm-1", "received"))
    async with fed(kafka.bootstrap, namespace, path) as it:
        await it.up_to_date()
    await write(
        kafka.bootstrap,
        flat(history(names, f"gone-{n}", "received", offset=n) for n in range(1, 4)),
    )
    await delete_records(kafka.bootstrap, TopicPartition(names.status, 0), before=3)
    async with fed(kafka.bootstrap, namespace, path) as it:
        await it.up_to_date()
        assert [
            it.ask.lead(lead_id, NOW_MS) is not None
            for lead_id in ("crm-1", "gone-1", "gone-2", "gone-3")
        ] == [
            True,
            False,
            False,
            True,
        ]


@pytest.mark.long
@pytest.mark.timeout(180)
async def test_a_broker_that_stops_and_returns(
    broker: ProxiedKafka,
    namespace: str,
    path: Path,
) -> None:
    names = sources(namespace).names
    await make_topics(broker.bootstrap, namespace)
    await write(broker.bootstrap, [*history(names, "crm-1", "received"), dead_letter(names.dlq)])
    async with fed(broker.bootstrap, namespace, path) as it:
        await it.up_to_date()
        await asyncio.to_thread(broker.kill)
        await until(lambda: "does not answer" in it.feed.lag.trouble, 60, "its being said")
        assert it.ask.lead("crm-1", NOW_MS) is not None, "what is known is still answered"
        await asyncio.to_thread(broker.restart)
        await write(broker.bootstrap, [event(names, "crm-1", "sending", 2), dead_letter(names.dlq)])
        await it.up_to_date(60)
        assert it.feed.lag.trouble == ""
        assert it.ask.status_counts()[0].status == "sending"
        assert it.ask.dead_letters(names.dlq).written == 2


@contextmanager
def killed(*argv: str) -> Iterator[None]:
    """A feed in a process of its own that is killed at the end of the block."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.board.feeding", *argv],
        stderr=subprocess.DEVNULL,
    )
    try:
        yield
    finally:
        process.kill()
        process.wait()


def _read(path: Path) -> int:
    """Return how many events and dead letters are in the file."""
    if not path.exists():
        return 0
    try:
        with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as db:
            events = db.execute("SELECT coalesce(sum(seq), 0) FROM records").fetchone()[0]
            return int(events + db.execute("SELECT count(*) FROM letters").fetchone()[0])
    except sqlite3.OperationalError:
        return 0  # it has no tables yet


async def test_an_unreadable_batch_is_named_and_other_partitions_are_followed(
    kafka: Broker,
    namespace: str,
    path: Path,
) -> None:
    names = sources(namespace).names
    await make_topics(kafka.bootstrap, namespace)
    await write(kafka.bootstrap, [event(names, "crm-1", "received", 1)])
    with tampered({(TopicPartition(names.status, 0), 0): bad_checksum}):
        async with fed(kafka.bootstrap, namespace, path) as it:
            says = f"{names.status}/0 cannot be read at offset 0: its checksum does not match"
            await until(lambda: says in it.feed.lag.trouble, 15, "the cause")
            await write(kafka.bootstrap, [lane(names)])
            await until(lambda: it.ask.lanes(NOW_MS)[0], 15, "a record of another topic")
            assert it.feed.lag.as_of_ms is None
            assert it.ask.lead("crm-1", NOW_MS) is None
