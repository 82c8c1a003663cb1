"""How leads go out in batches: what is confirmed is counted, and a broker that is gone is told."""

import asyncio
from typing import Any

import pytest
from aiokafka.errors import KafkaConnectionError

from stream_app.client.publish import send
from stream_app.client.publish.send import Sender
from stream_app.domain.model.errors import BrokerUnavailable
from stream_app.kafka.connection import KafkaConnection
from tests.support.partition.virtual import virtual_time

HOLDS = 3
"""Records that a batch of the fake producer has room for."""


class Batch:
    def __init__(self) -> None:
        self.records: list[tuple[bytes, bytes]] = []

    def append(self, *, timestamp: None, key: bytes, value: bytes) -> object:
        if len(self.records) == HOLDS:
            return None
        self.records.append((key, value))
        return object()

    def record_count(self) -> int:
        return len(self.records)


class Acknowledged:
    def __init__(self, partition: int, offset: int) -> None:
        self.partition = partition
        self.offset = offset


class Producer:
    """Acknowledges each batch at once, unless `answers` is False."""

    def __init__(self) -> None:
        self.batches: list[tuple[str, int, list[tuple[bytes, bytes]]]] = []
        self.most_open = 0
        self.answers = True
        self.starts: BaseException | None = None
        self.stops = True
        self.takes: BaseException | None = None
        self.fails: BaseException | None = None
        self.ended: list[str] = []
        self.hangs = ""
        self.client = self
        self._open: list[asyncio.Future[Any]] = []

    async def start(self) -> None:
        await self._hang("start")
        if self.starts is not None:
            raise self.starts

    async def _hang(self, where: str) -> None:
        if self.hangs == where:
            await asyncio.sleep(3_600)

    async def stop(self) -> None:
        self.ended.append("stop")
        await self._hang("stop")
        if not self.stops:
            raise KafkaConnectionError

    async def close(self) -> None:
        self.ended.append("close")

    def create_batch(self) -> Batch:
        return Batch()

    async def send_batch(self, batch: Batch, topic: str, *, partition: int) -> Any:
        await self._hang("send_batch")
        if self.takes is not None:
            raise self.takes
        offset = 40 + 10 * len(self.batches)
        self.batches.append((topic, partition, batch.records))
        future = asyncio.get_running_loop().create_future()
        self._open = [other for other in self._open if not other.done()] + [future]
        self.most_open = max(self.most_open, len(self._open))
        if self.fails is not None:
            future.set_exception(self.fails)
        elif self.answers:
            later = Acknowledged(partition, offset)
            asyncio.get_running_loop().call_later(0.002, future.set_result, later)
        return future


@pytest.fixture
def producer(monkeypatch: pytest.MonkeyPatch) -> Producer:
    made = Producer()
    monkeypatch.setattr(send, "kafka_producer", lambda **_: made)
    return made


def sender_to(confirmed: list[tuple[int, int, int]], wait_s: float = 5) -> Sender:
    return Sender(
        KafkaConnection("kafka.example:9"),
        "leads.bulk",
        wait_s,
        lambda partition, offset, leads: confirmed.append((partition, offset, leads)),
    )


async def test_every_record_goes_out_once_in_its_partition_in_order(producer: Producer) -> None:
    confirmed: list[tuple[int, int, int]] = []
    async with sender_to(confirmed) as sender:
        for number in range(7):
            await sender.put(4, b"acme", b"a%d" % number)
        await sender.put(2, b"beta", b"b0")
        assert sender.acknowledged < 8, "a batch that is not full is kept until the end"
        await sender.flush()
        assert sender.acknowledged == 8
    assert {topic for topic, _, _ in producer.batches} == {"leads.bulk"}
    sent = [
        (partition, *record) for _, partition, records in producer.batches for record in records
    ]
    assert [record for record in sent if record[0] == 4] == [
        (4, b"acme", b"a%d" % number) for number in range(7)
    ]
    assert [record for record in sent if record[0] == 2] == [(2, b"beta", b"b0")]
    assert sorted(confirmed) == [(2, 70, 1), (4, 40, 3), (4, 50, 3), (4, 60, 1)]
    assert producer.ended == ["stop"]


async def test_memory_is_bounded_by_the_batches_in_flight(
    producer: Producer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(send, "MAX_UNDER_WAY", 2)
    async with sender_to([]) as sender:
        for number in range(10 * HOLDS):
            await sender.put(4, b"acme", b"%d" % number)
        await sender.flush()
        assert sender.acknowledged == 10 * HOLDS
    assert producer.most_open == 2


async def send_one(confirmed: list[tuple[int, int, int]], wait_s: float = 5) -> None:
    async with sender_to(confirmed, wait_s) as sender:
        await sender.put(4, b"acme", b"x")
        await sender.flush()


async def test_a_broker_that_confirms_nothing_is_not_waited_for_for_ever(
    producer: Producer,
) -> None:
    producer.answers = False
    says = "Kafka at kafka.example:9 accepted 0 records, then no more: nothing acknowledged within"
    with pytest.raises(BrokerUnavailable, match=f"{says} 0.25 s"):
        await send_one([], wait_s=0.25)
    assert producer.ended == ["close", "stop"], (
        "a stop alone would wait for the broker to confirm what is pending"
    )


@pytest.mark.parametrize("how", ["takes", "fails"])
async def test_a_refused_batch_ends_the_publication_with_what_was_confirmed(
    producer: Producer,
    how: str,
) -> None:
    confirmed: list[tuple[int, int, int]] = []
    async with sender_to(confirmed) as sender:
        await sender.put(4, b"acme", b"x")
        await sender.flush()
        setattr(producer, how, KafkaConnectionError("the leader is away"))
        await sender.put(4, b"acme", b"y")
        says = r"accepted 1 record, then no more: .*the leader is away"
        with pytest.raises(BrokerUnavailable, match=says):
            await sender.flush()
    assert confirmed == [(4, 40, 1)]
    assert producer.ended == ["stop"]


@pytest.mark.parametrize(
    ("error", "says"),
    [(KafkaConnectionError("no route"), "no route"), (TimeoutError(), "more: no response")],
)
async def test_a_producer_that_does_not_start_is_ended_and_told(
    producer: Producer,
    error: BaseException,
    says: str,
) -> None:
    producer.starts = error
    producer.stops = False
    with pytest.raises(BrokerUnavailable, match=f"{says}. Publish the same"):
        await send_one([])
    assert producer.ended == ["stop", "close"]


@pytest.mark.parametrize(
    ("hangs", "after_s", "ended"),
    [("start", 7, ["stop"]), ("send_batch", 7, ["stop"]), ("stop", 2, ["stop", "close"])],
)
@virtual_time
async def test_a_broker_that_hangs_is_waited_for_no_longer_than_told(
    hangs: str,
    after_s: float,
    ended: list[str],
) -> None:
    made = Producer()
    made.hangs = hangs
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(send, "kafka_producer", lambda **_: made)
        began_s = asyncio.get_running_loop().time()
        if hangs == "stop":
            await send_one([], wait_s=7)
        else:
            with pytest.raises(BrokerUnavailable, match="then no more: no response"):
                await send_one([], wait_s=7)
        assert after_s <= asyncio.get_running_loop().time() - began_s < after_s + 0.01
    assert made.ended == ended


async def test_the_producer_sends_batches_of_the_size_that_is_filled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: list[dict[str, Any]] = []

    def producer(**options: Any) -> Producer:
        made.append(options)
        return Producer()

    monkeypatch.setattr(send, "kafka_producer", producer)
    await send_one([])
    (options,) = made
    assert options["max_batch_size"] == send.BATCH_BYTES
    assert options["bootstrap_servers"] == "kafka.example:9"
    assert options["enable_idempotence"] is True
    assert options["acks"] == "all"


async def test_what_was_confirmed_is_told_with_what_to_do(producer: Producer) -> None:
    async with sender_to([]) as sender:
        for number in range(HOLDS + 1):
            await sender.put(4, b"acme", b"%d" % number)
        await sender.flush()
        producer.takes = KafkaConnectionError("no route")
        await sender.put(4, b"acme", b"x")
        with pytest.raises(BrokerUnavailable) as error:
            await sender.flush()
    assert str(error.value) == (
        "Kafka at kafka.example:9 accepted 4 records, then no more: KafkaConnectionError: no route."
        " Publish the same leads again when Kafka is back: those already sent are recognised as "
        "duplicates, unless they were published with force"
    )


@virtual_time
async def test_a_batch_gives_the_producer_its_turn() -> None:
    """`send_batch` may return at once, and aiokafka sends from tasks of its own."""
    made = Producer()
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(send, "kafka_producer", lambda **_: made)
        async with sender_to([]) as sender:
            beside = asyncio.create_task(other())
            for number in range(HOLDS * 5 + 1):
                await sender.put(4, b"acme", b"%d" % number)
            beside.cancel()
            assert len(made.batches) == 5
            assert turns == 5
            assert asyncio.get_running_loop().time() == 0
            await sender.flush()
