"""What every implementation of the transactional state has to do.

A harness makes one, and reads what others see.
"""

import pytest

from stream_app.domain.model.errors import Aborted, Fenced
from stream_app.domain.model.records import Record
from tests.simulation.client import MemoryStateStore
from tests.simulation.kafka import MemoryKafka
from tests.support.state_stores import KafkaHarness, Seen


class MemoryHarness:
    """The simulation's implementation. It must not offer more than Kafka's."""

    rows = "state"
    events = "events"

    def __init__(self) -> None:
        self._kafka = MemoryKafka()

    def store(self, partition: int = 0) -> MemoryStateStore:
        return MemoryStateStore(
            self._kafka,
            f"state-{partition}",
            self.rows,
            partition,
            max_record_bytes=50_000,
        )

    async def seen(self, topic: str, partition: int = 0) -> Seen:
        return [
            (consumed.key, consumed.value)
            for consumed in self._kafka.log(topic, partition).committed()
        ]


Harness = KafkaHarness | MemoryHarness
"""`rows` and `events` are its topics, of two partitions each. What it made is closed with it."""


@pytest.fixture
def in_memory() -> MemoryHarness:
    return MemoryHarness()


@pytest.fixture(params=["on_kafka", "in_memory"])
def harness(request: pytest.FixtureRequest) -> Harness:
    made: Harness = request.getfixturevalue(request.param)
    return made


async def test_a_successor_reads_the_last_value_of_each_row_and_no_deleted_one(
    harness: Harness,
) -> None:
    first = harness.store()
    await first.take_over()
    await first.transact([Record(harness.rows, b"a", b"1"), Record(harness.rows, b"b", b"1")])
    await first.transact([Record(harness.rows, b"a", b"2"), Record(harness.rows, b"b", None)])
    await first.transact([Record(harness.rows, b"c", b"3"), Record(harness.rows, b"c", b"4")])
    assert await harness.store().take_over() == {b"a": b"2", b"c": b"4"}


async def test_another_topic_is_read_from_an_offset_to_its_end_past_markers(
    harness: Harness,
) -> None:
    store = harness.store()
    await store.take_over()
    assert await store.waiting(harness.events, 0, 9) == []
    for value in (b"1", b"2", b"3"):  # each with a commit marker behind it: offsets 0, 2 and 4
        await store.transact([Record(harness.events, b"k", value)])
    assert [
        (record.offset, record.value) for record in await store.waiting(harness.events, 1, 9)
    ] == [
        (2, b"2"),
        (4, b"3"),
    ]
    assert (
        await store.waiting(harness.events, 5, 9) == await store.waiting(harness.events, 6, 9) == []
    )


async def test_records_go_to_the_owned_partition_unless_they_name_another(harness: Harness) -> None:
    store = harness.store(partition=1)
    await store.take_over()
    headers = (("trace", b"x"), ("empty", b""))
    await store.transact(
        [
            Record(harness.rows, b"row", b"1"),
            Record(harness.events, b"own", b"1", headers),
            Record(harness.events, b"stray", b"1", partition=0),
            Record(harness.events, None, b"no key"),
        ],
    )
    assert await harness.seen(harness.events, 1) == [(b"own", b"1"), (None, b"no key")]
    assert await harness.seen(harness.events, 0) == [(b"stray", b"1")]
    assert await harness.store(partition=0).take_over() == {}
    assert await harness.store(partition=1).take_over() == {b"row": b"1"}


async def test_an_earlier_owner_is_fenced_and_none_of_its_records_is_seen(harness: Harness) -> None:
    old = harness.store()
    new = harness.store()
    await old.take_over()
    await old.transact([Record(harness.rows, b"a", b"old")])
    assert await new.take_over() == {b"a": b"old"}
    with pytest.raises(Fenced, match="later owner"):
        await old.transact(
            [Record(harness.rows, b"a", b"late"), Record(harness.events, b"a", b"late")],
        )
    await new.transact([Record(harness.rows, b"b", b"new")])
    assert await harness.seen(harness.events) == []
    assert await harness.store().take_over() == {b"a": b"old", b"b": b"new"}


async def test_another_partitions_owner_is_not_fenced(harness: Harness) -> None:
    zero = harness.store(0)
    one = harness.store(1)
    await zero.take_over()
    await one.take_over()
    await zero.transact([Record(harness.rows, b"a", b"1")])


async def test_a_transaction_needs_a_takeover(harness: Harness) -> None:
    with pytest.raises(Aborted, match="take_over"):
        await harness.store().transact([Record(harness.rows, b"a", b"1")])


async def test_a_record_that_is_too_large_is_refused_before_a_transaction_begins(
    harness: Harness,
) -> None:
    store = harness.store()
    await store.take_over()
    too_large = Record(harness.events, b"a", b"x" * 60_000)
    with pytest.raises(
        ValueError,
        match=rf"{harness.events} has 60\d\d\d bytes, 50000 are allowed",
    ):
        await store.transact([Record(harness.rows, b"a", b"1"), too_large])
    await store.transact([])
    await store.transact([Record(harness.rows, b"b", b"1")])
    assert await harness.seen(harness.rows) == [(b"b", b"1")]


async def test_many_records_keep_their_order_in_each_topic(harness: Harness) -> None:
    store = harness.store()
    await store.take_over()
    payload = b"x" * 1000  # so that they do not fit into one batch
    await store.transact(
        [
            Record(topic, b"%d" % number, payload)
            for number in range(1000)
            for topic in (harness.rows, harness.events)
        ],
    )
    for topic in (harness.rows, harness.events):
        assert [key for key, _ in await harness.seen(topic)] == [
            b"%d" % number for number in range(1000)
        ]
