"""What a consumer makes of the bytes of a batch is bounded, and otherwise what aiokafka makes of
them.
"""

import asyncio
import itertools
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Final

import pytest
from aiokafka import TopicPartition
from aiokafka.record.default_records import DefaultRecordBatch
from hypothesis import given
from hypothesis import strategies as st

from stream_app.domain.model.errors import UnreadableBatch
from stream_app.domain.model.records import LeftOut
from stream_app.domain.model.topics import MAX_UNPACKED_BYTES
from stream_app.domain.model.untrusted import MAX_HEADER_BYTES, MAX_HEADERS, MAX_KEY_BYTES
from stream_app.kafka import batches
from stream_app.kafka import consumer as module
from stream_app.kafka.batches import MAX_VALUE_BYTES
from stream_app.kafka.consumer import Consumer
from stream_app.kafka.readers import consumed
from tests.support.fetched import CODECS, PLACE, at_offset, batch_of, fetch_result, fetched
from tests.support.pace import BUSY
from tests.support.tampering import damaged, no_utf8, signed

INPUTS: Final = frozenset({PLACE.topic})
LEAD: Final = b'{"lead_id":"l","workspace":"acme","fields":{"email":"ada@example.com"}}'
TOO_MANY: Final = LeftOut("too_many_headers")


@pytest.fixture
async def consumer() -> AsyncIterator[Consumer]:
    consumer = Consumer(inputs=INPUTS)
    yield consumer
    await consumer.stop()


@pytest.fixture(params=["small", "large"])
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways in which a batch is decoded."""
    if request.param == "large":
        monkeypatch.setattr(batches, "_SMALL_BYTES", -1)
    return str(request.param)


def left_out(record: Any) -> LeftOut | None:
    return consumed(record).left_out


some_bytes = st.none() | st.binary(max_size=40)
some_headers = st.lists(st.tuples(st.text(max_size=10), some_bytes), max_size=5)
some_records = st.lists(st.tuples(some_bytes, some_bytes, some_headers), min_size=1, max_size=8)


@given(some_records, st.sampled_from(sorted(CODECS)), st.booleans(), st.booleans())
def test_a_usual_batch_is_read_as_aiokafka_reads_it(
    records: Any,
    codec: str,
    is_large: bool,
    is_input: bool,
) -> None:
    if is_input:
        records = [(key, value or b"", headers) for key, value, headers in records]
    raw = batch_of(records, codec=codec, base=7)
    expected = [
        (record.offset, record.timestamp, record.key, record.value, tuple(record.headers))
        for record in DefaultRecordBatch(raw)
    ]

    async def read() -> list[Any]:
        consumer = Consumer(inputs=INPUTS if is_input else frozenset())
        try:
            return fetched(consumer, raw, at=7)
        finally:
            await consumer.stop()

    with pytest.MonkeyPatch.context() as patch:
        if is_large:
            patch.setattr(batches, "_SMALL_BYTES", -1)
        seen = asyncio.run(read())
    assert [
        (record.offset, record.timestamp, record.key, record.value, record.headers)
        for record in seen
    ] == expected


@given(
    st.lists(st.booleans(), min_size=1, max_size=40),
    st.integers(0, 39),
    st.integers(1, 12),
    st.booleans(),
)
def test_records_without_a_value_come_as_runs_wherever_the_reading_begins(
    have_values: list[bool],
    start: int,
    most: int,
    is_large: bool,
) -> None:
    """Each run ends where it would end for every other reader, because its last offset is what is
    committed.
    """
    start = min(start, len(have_values) - 1)
    raw = batch_of([(b"k", b"v" if has_value else None, []) for has_value in have_values])

    async def read(at: int) -> list[tuple[int, int, int, bool]]:
        consumer = Consumer(inputs=INPUTS)
        try:
            return [
                (taken.first, taken.offset, taken.records, taken.value is not None)
                for record in fetched(consumer, raw, at=at)
                for taken in [consumed(record)]
            ]
        finally:
            await consumer.stop()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batches, "_MAX_RUN_RECORDS", most)
        if is_large:
            patch.setattr(batches, "_SMALL_BYTES", -1)
        whole = asyncio.run(read(0))
        rest = asyncio.run(read(start))
    assert [first for first, *_ in whole] == [0, *(last + 1 for _, last, *_ in whole[:-1])]
    assert all(records == last - first + 1 for first, last, records, _ in whole)
    assert [last for _, last, *_ in rest] == [last for _, last, *_ in whole if last >= start]
    for first, last, records, has_value in whole:
        assert set(have_values[first : last + 1]) == {has_value}
        assert records <= (1 if has_value else most)
    for (_, before, _, had_value), (first, _, _, has_value) in itertools.pairwise(whole):
        assert had_value or has_value or first % most == 0, (before, first)


@pytest.mark.parametrize("codec", CODECS)
async def test_a_record_has_as_many_headers_as_the_bound_and_no_more(
    consumer: Consumer,
    path: str,
    codec: str,
) -> None:
    most = [("n", b"")] * MAX_HEADERS
    full = [("name", bytes(MAX_HEADER_BYTES - 4))]
    raw = batch_of(
        [
            (b"acme", LEAD, most),
            (b"acme", LEAD, [*most, ("n", b"")]),
            (b"acme", LEAD, full),
            (b"acme", LEAD, [*full, ("n", None)]),
        ],
        codec=codec,
    )
    seen = fetched(consumer, raw)
    assert [record.headers for record in seen] == [tuple(most), (), tuple(full), ()]
    assert [left_out(record) for record in seen] == [None, TOO_MANY, None, TOO_MANY]
    assert {(record.key, record.value) for record in seen} == {(b"acme", LEAD)}, "the rest is there"


async def test_headers_are_bounded_on_every_topic(consumer: Consumer) -> None:
    elsewhere = TopicPartition("leads.dlq", 0)
    (record,) = fetched(consumer, batch_of([(b"k", b"v", [("", None)] * 1_000)]), place=elsewhere)
    assert record.headers == ()
    assert left_out(record) == TOO_MANY


async def test_keys_and_values_are_bounded_where_producers_write(consumer: Consumer) -> None:
    key = bytes(MAX_KEY_BYTES + 1)
    value = b"v" * (MAX_VALUE_BYTES + 5)
    records = [
        (key[1:], value[5:], [("n", b"x")]),
        (key, b"v", [("n", b"x")]),
        (b"k", value, [("n", b"x")]),
    ]
    seen = fetched(consumer, batch_of(records))
    assert [left_out(record) for record in seen] == [
        None,
        LeftOut("key_too_long"),
        LeftOut(cut_bytes=5),
    ]
    assert [record.key for record in seen] == [key[1:], None, b"k"]
    assert [len(record.value) for record in seen] == [MAX_VALUE_BYTES, 1, MAX_VALUE_BYTES]
    assert [len(record.headers) for record in seen] == [1, 0, 1]

    elsewhere = TopicPartition("stream-app-state", 0)
    seen = fetched(consumer, batch_of(records), place=elsewhere)
    assert [(record.key, record.value) for record in seen] == [
        (key, value) for key, value, _ in records
    ]


async def test_names_that_are_not_utf8_are_replaced(consumer: Consumer, path: str) -> None:
    records = [(b"k", b"%d" % number, [("a-name", b"x")]) for number in range(3)]
    raw = damaged(batch_of(records, codec="none"), {0: no_utf8})
    seen = fetched(consumer, raw)
    assert [record.value for record in seen] == [b"0", b"1", b"2"]
    assert [record.headers[0][0] for record in seen] == ["��name", "a-name", "a-name"]


async def test_records_before_such_a_name_come_once(consumer: Consumer, path: str) -> None:
    """A small batch is then read from its beginning again, in the middle of a run."""
    records = [
        (b"k", b"0", []),
        (b"k", None, []),
        (b"k", None, []),
        (b"k", None, [("a-name", b"x")]),
        (b"k", b"4", []),
    ]
    raw = damaged(batch_of(records, codec="none"), {0: no_utf8})
    seen = [consumed(record) for record in fetched(consumer, raw)]
    assert [(record.value, record.first, record.offset, record.records) for record in seen] == [
        (b"0", 0, 0, 1),
        (None, 1, 3, 3),
        (b"4", 4, 4, 1),
    ]


@pytest.mark.parametrize("codec", ["gzip", "snappy", "lz4", "zstd"])
async def test_a_batch_that_is_too_large_comes_as_one_record(
    consumer: Consumer,
    codec: str,
) -> None:
    """Its offset is the last one, so that the committed offset is behind the whole batch."""
    bomb = batch_of([(b"acme", bytes(MAX_UNPACKED_BYTES // 4), [])] * 5, codec=codec, base=3)
    raw = batch_of([(b"acme", LEAD, [])], base=2) + bomb + batch_of([(b"acme", LEAD, [])], base=8)
    for start in (2, 3, 6):
        seen = fetched(consumer, raw, at=start)
        assert [record.offset for record in seen] == [
            offset for offset in (2, 7, 8) if offset >= start
        ]
        whole = seen[-2]
        assert whole.key is None
        assert whole.value == bomb
        assert whole.headers == ()
        assert left_out(whole) == LeftOut("batch_too_large", first=3, records=5)


async def test_elsewhere_a_batch_that_is_too_large_stops_its_partition(consumer: Consumer) -> None:
    elsewhere = TopicPartition("leads.callbacks", 0)
    bomb = batch_of([(b"acme", bytes(MAX_UNPACKED_BYTES), [])], base=1)
    raw = batch_of([(b"k", b"v", [])]) + bomb
    assert len(fetched(consumer, raw, place=elsewhere)) == 1
    stopped: UnreadableBatch = consumer._stopped[elsewhere][0]
    assert stopped.first == 1
    assert stopped.last == 1
    assert "16 MiB" in stopped.cause


async def test_a_broken_checksum_of_a_large_batch_stops_its_partition(consumer: Consumer) -> None:
    """Another replica may have a sound copy."""
    bomb = bytearray(batch_of([(b"acme", bytes(MAX_UNPACKED_BYTES + 1), [])]))
    bomb[-1] ^= 0xFF
    assert not fetched(consumer, bytes(bomb))
    assert "checksum" in consumer._stopped[PLACE][0].cause


async def test_broken_records_stop_their_partition_and_nothing_else(
    consumer: Consumer,
    path: str,
) -> None:
    """Whatever byte is wrong, no error but the one that names the batch leaves the consumer."""
    whole = batch_of([(b"key", b"value", [("n", b"x")])] * 2, codec="none")
    stopped = 0
    for at in range(57, len(whole)):
        for byte in (0x00, 0x01, 0x7F, 0xFF):
            changed = bytearray(whole)
            changed[at] = byte
            signed(changed)
            consumer._stopped.clear()
            seen = fetched(consumer, bytes(changed))
            assert len(seen) <= 2
            stopped += PLACE in consumer._stopped
    assert stopped > 20


async def test_a_poll_ends_after_so_many_bytes(
    consumer: Consumer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "MAX_POLLED_BYTES", 5_000)
    result = fetch_result(consumer, batch_of([(b"acme", b"v" * 1_000, [])] * 20))
    other = fetch_result(
        consumer,
        batch_of([(b"acme", b"v", [])]),
        place=TopicPartition("leads", 1),
    )
    sizes = []
    while result.has_more():
        consumer._room_bytes = module.MAX_POLLED_BYTES
        sizes.append(len(result.getall(100)))
        if sizes[-1] == 5:
            assert not other.getall(100), "all partitions of a poll share the bound"
            assert other.has_more(), "and no record is lost"
    assert sizes == [5, 5, 5, 5, 0]
    assert len(other.getall(100)) == 1


async def test_batches_of_many_partitions_are_not_all_kept_decompressed(consumer: Consumer) -> None:
    """Each partition is in the middle of its batch, as after a rebalance or with a held lane."""
    raw = batch_of([(b"acme", b"%06d" % number * 100, []) for number in range(20_000)])
    places = [TopicPartition("leads", number) for number in range(6)]
    results = [fetch_result(consumer, raw, place=place) for place in places]
    values: dict[TopicPartition, list[bytes]] = {place: [] for place in places}
    while any(result.has_more() for result in results):
        for place, result in zip(places, results, strict=True):
            consumer._room_bytes = module.MAX_POLLED_BYTES
            values[place] += [record.value[:6] for record in result.getall(7_000)]
            assert consumer._unpacked._bytes <= batches._MAX_KEPT_BYTES
    assert all(seen == [b"%06d" % number for number in range(20_000)] for seen in values.values())
    assert consumer._unpacked._bytes == 0
    assert len(consumer._unpacked._kept) == 0


_READ: Final = """
import asyncio
import resource
import sys
from pathlib import Path
from stream_app.kafka.consumer import Consumer
from tests.support.fetched import fetch_result
from stream_app.domain.model.records import consumed_record

def peak_mb():
    status = Path("/proc/self/status")
    # What getrusage says includes the peak of the process that started this one.
    if status.exists():
        return int(status.read_text().partition("VmHWM:")[2].split()[0]) >> 10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 20

async def read():
    consumer = Consumer(inputs=frozenset({"leads"}))
    result = fetch_result(consumer, Path(sys.argv[1]).read_bytes())
    before = peak_mb()
    count = 0
    polls = 0
    while result.has_more() and polls < 40:
        consumer._room_bytes = 8_388_608
        count += len(polled := result.getall(5_000))
        polls += 1
    print(count, peak_mb() - before)
    await consumer.stop()

asyncio.run(read())
"""


def several(batch: bytes, times: int) -> bytes:
    """Return a fetch that has the batch so often."""
    return b"".join(at_offset(batch, number) for number in range(times))


BOMBS: Final[dict[str, Callable[[], bytes]]] = {
    "eight leads of a million headers": lambda: several(
        batch_of([(b"acme", LEAD, [("", None)] * 1_000_000)]),
        8,
    ),
    "a lead of 8,380,000 headers": lambda: batch_of([(b"acme", LEAD, [("", None)] * 8_380_000)]),
    "130,000 headers in each of eight batches that are not compressed": lambda: several(
        batch_of([(b"acme", LEAD, [("", None)] * 130_000)], codec="none"),
        8,
    ),
    "many leads with headers up to the bound": lambda: batch_of(
        [(b"acme", LEAD, [("n", b"x" * 160)] * 100)] * 900,
    ),
    "30 values of 16 MB": lambda: several(
        batch_of([(b"acme", bytes(MAX_UNPACKED_BYTES - 100), [])]),
        30,
    ),
    "20 keys of 16 MB": lambda: several(
        batch_of([(bytes(MAX_UNPACKED_BYTES - 100), b"v", [])]),
        20,
    ),
    "20 batches that are too large": lambda: several(
        batch_of([(b"acme", bytes(MAX_UNPACKED_BYTES), [])]),
        20,
    ),
    "a million records without anything": lambda: batch_of([(None, None, [])] * 1_000_000),
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_no_batch_of_a_producer_takes_150_mb(bomb: str, tmp_path: Path) -> None:
    """A process of its own measures its peak, because a decoder may allocate memory that Python
    does not count.
    """
    (file := tmp_path / "fetch").write_bytes(BOMBS[bomb]())
    ran = subprocess.run(
        [sys.executable, "-c", _READ, str(file)],
        capture_output=True,
        text=True,
        check=True,
        timeout=60 * BUSY,
    )
    count, grown_mb = map(int, ran.stdout.split())
    assert count
    assert grown_mb < 100, "the process keeps and copies what is left of it"
