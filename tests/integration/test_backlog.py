"""The count of records that no worker has taken, on a real Kafka: without markers, and each record
is read once.
"""

import asyncio
from pathlib import Path
from typing import Any

import msgspec
from aiokafka import AIOKafkaProducer, TopicPartition

from stream_app.client.lanes.views import read_lanes
from stream_app.config import Settings
from stream_app.dev.kafka import Broker
from stream_app.domain.views.explain import LaneFacts
from stream_app.domain.views.lane import LaneView, Position
from stream_app.kafka.backlog import MAX_COUNTED_OFFSETS, Backlog, Waiting
from stream_app.kafka.connection import KafkaConnection
from stream_app.kafka.readers import Reader
from tests.support.kafka import create_planned, create_topics, publish, publish_transactions
from tests.support.pace import BUSY
from tests.support.settings import settings_of


class CountingReader(Reader):
    """Counts the offsets that it is asked to scan."""

    scanned = 0

    async def scan(self, spans: Any, **options: Any) -> Any:
        self.scanned += sum(end - begin for begin, end in spans.values())
        async for polled in super().scan(spans, **options):
            yield polled


async def lane(settings: Settings, workspace: str) -> LaneFacts:
    """What `lanes` and `explain` see of a lane."""
    report = await read_lanes(settings, lambda _: None)
    return next(lane for lane in report.facts.lanes if lane.workspace == workspace)


async def test_markers_and_aborted_records_are_no_leads(
    kafka: Broker,
    namespace: str,
    tmp_path: Path,
) -> None:
    """A lead in a transaction takes two offsets."""
    settings = settings_of(tmp_path, kafka.bootstrap, namespace)
    await create_planned(settings)
    transactions = [(number % 10 != 9, [b"{}"]) for number in range(178)]
    await publish_transactions(kafka.bootstrap, settings.names.leads, transactions)
    committed = sum(is_committed for is_committed, _ in transactions)
    assert committed == 161
    async with asyncio.timeout(20 * BUSY):
        # the last transaction is readable some time after its commit returns
        while (busy := await lane(settings, "busy")).waiting["leads"] < committed:  # noqa: ASYNC110 - nothing here says when
            await asyncio.sleep(0.1)
    assert busy.waiting["leads"] == committed
    assert busy.at_most is False


async def test_what_the_owner_has_taken_does_not_wait(
    kafka: Broker,
    namespace: str,
    tmp_path: Path,
) -> None:
    """The newest view of a partition says so, whichever lane it is of. Nothing is committed yet."""
    settings = settings_of(tmp_path, kafka.bootstrap, namespace)
    names = settings.names
    await create_planned(settings)
    async with AIOKafkaProducer(bootstrap_servers=kafka.bootstrap) as producer:
        for number, positions in (("beside", {}), ("quiet", {names.leads: Position(5, 2)})):
            about = (1, 1_000 + len(positions), "closed", "healthy", 100.0, 8.0)
            view = LaneView(number, *about, positions=positions)  # type: ignore[arg-type]  # literals in a tuple
            await producer.send_and_wait(names.lanes, msgspec.json.encode(view), number.encode(), 1)
        for _ in range(8):
            await producer.send_and_wait(names.leads, b"{}", b"quiet", 1)
    counts = [(await lane(settings, name)).waiting["leads"] for name in ("beside", "quiet", "busy")]
    assert counts == [2 + 3, 2 + 3, 0]


async def test_each_record_is_read_once_and_a_large_backlog_never(
    kafka: Broker,
    namespace: str,
) -> None:
    topic = namespace + "leads"
    await create_topics(kafka.bootstrap, topic)
    place = TopicPartition(topic, 0)
    backlog = Backlog()
    async with CountingReader(KafkaConnection(kafka.bootstrap)) as reader:

        async def count(committed: int = 0, position: Position | None = None) -> Waiting:
            positions = {} if position is None else {(topic, 0): position}
            counts = await backlog.count(reader, [place], {(topic, 0): committed}, positions)
            return counts[topic, 0]

        async def ends_at(offset: int) -> None:
            """A transaction is readable some time after its commit returns."""
            async with asyncio.timeout(20 * BUSY):
                while (await reader.ends([place]))[place] < offset:  # noqa: ASYNC110 - nothing here says when
                    await asyncio.sleep(0.05)

        assert await count() == Waiting(0)
        await publish_transactions(kafka.bootstrap, topic, [(True, [b"0", b"1"]), (True, [b"2"])])
        await ends_at(5)
        assert await count() == Waiting(3)
        assert await count() == Waiting(3)
        assert reader.scanned == 5, "five offsets, of which two are of markers"
        await publish_transactions(kafka.bootstrap, topic, [(True, [b"3"])])
        await ends_at(7)
        assert await count(2) == Waiting(2)
        assert reader.scanned == 7, "only what is new"
        assert await count(2, Position(4, 1)) == Waiting(2), (
            "one waits in memory, another one is not read"
        )
        assert await count(7) == Waiting(0)
        await publish(kafka.bootstrap, topic, [b"x"] * MAX_COUNTED_OFFSETS)
        assert await count(6) == Waiting(MAX_COUNTED_OFFSETS + 1, at_most=True)
        assert reader.scanned == 7, "a poll of a large backlog costs as much as one of a small one"
        assert await count(7) == Waiting(MAX_COUNTED_OFFSETS)
        assert await count(1 << 40) == Waiting(MAX_COUNTED_OFFSETS + 7, at_most=True), (
            "the topic was created again"
        )
