"""What every ledger has to do. A harness makes ledgers of one kind and looks at what others see of their writes."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from types import SimpleNamespace
from typing import Protocol

import pytest
from aiokafka.client import AIOKafkaClient
from aiokafka.cluster import ClusterMetadata
from aiokafka.errors import (
    BrokerResponseError,
    ConcurrentTransactions,
    GroupLoadInProgressError,
    IncompatibleBrokerVersion,
    NotEnoughReplicasError,
    NotLeaderForPartitionError,
)
from aiokafka.protocol.produce import ProduceRequest, ProduceResponse_v0
from aiokafka.protocol.transaction import (
    AddPartitionsToTxnRequest,
    AddPartitionsToTxnResponse_v0,
    EndTxnRequest,
    EndTxnResponse_v0,
    InitProducerIdRequest,
    InitProducerIdResponse_v0,
)

from stream_app.adapters.connection import KafkaConnection
from stream_app.adapters.endings import producer_id
from stream_app.adapters.ledger import KafkaLedger, LedgerLimits
from stream_app.adapters.transaction_requests import DescribeProducers, DescribeTransactions
from stream_app.core.errors import Aborted, BrokerUnavailable, Fenced, LedgerError
from stream_app.core.record import Record, Taken
from stream_app.dev.kafka import Broker, LocalKafka
from tests.adapters.support import create_topics, read_committed
from tests.simulation.client import MemoryLedger
from tests.simulation.kafka import MemoryKafka

Seen = list[tuple[bytes | None, bytes | None]]


class Ledger(Protocol):
    async def take_over(self) -> dict[bytes, bytes]: ...
    async def waiting(self, topic: str, offset: int, most: int) -> list[Taken]: ...
    async def transact(self, records: list[Record]) -> None: ...
    async def close(self) -> None: ...


class Harness(Protocol):
    """`rows` and `events` are its topics, of two partitions each; a ledger closes with it."""

    rows: str
    events: str

    def ledger(self, partition: int = 0) -> Ledger: ...
    async def seen(self, topic: str, partition: int = 0) -> Seen: ...


class KafkaHarness:
    limits = LedgerLimits(take_over_s=20, transact_s=5, abort_s=1, request_s=5, max_record_bytes=50_000)

    def __init__(self, bootstrap: str, namespace: str) -> None:
        self.bootstrap = bootstrap
        self.rows, self.events, self.tight = namespace + "state", namespace + "events", namespace + "tight"
        self.made: list[KafkaLedger] = []

    def ledger(self, partition: int = 0, limits: LedgerLimits | None = None) -> KafkaLedger:
        connection = KafkaConnection(self.bootstrap)
        name = f"{self.rows}-{partition}"
        events = [(self.events, 0), (self.events, 1), (self.tight, partition)]
        self.made.append(KafkaLedger(connection, name, self.rows, partition, limits or self.limits, writes_to=events))
        return self.made[-1]

    async def seen(self, topic: str, partition: int = 0) -> Seen:
        return await read_committed(self.bootstrap, topic, partition)


@pytest.fixture
async def on_kafka(kafka: Broker, namespace: str) -> AsyncIterator[KafkaHarness]:
    async with _on(kafka, namespace) as harness:
        yield harness


@asynccontextmanager
async def _on(kafka: Broker, namespace: str) -> AsyncIterator[KafkaHarness]:
    harness = KafkaHarness(kafka.bootstrap, namespace)
    await create_topics(kafka.bootstrap, harness.rows, harness.events, partitions=2)
    await create_topics(kafka.bootstrap, harness.tight, partitions=2, config={"max.message.bytes": "1000"})
    yield harness
    await asyncio.gather(*(ledger.close() for ledger in harness.made))


class MemoryHarness:
    """The simulation's ledger: what runs on it may only rely on what Kafka's does, too."""

    rows, events = "state", "events"

    def __init__(self) -> None:
        self._kafka = MemoryKafka()

    def ledger(self, partition: int = 0) -> MemoryLedger:
        return MemoryLedger(self._kafka, f"state-{partition}", self.rows, partition, max_record_bytes=50_000)

    async def seen(self, topic: str, partition: int = 0) -> Seen:
        return [(taken.key, taken.value) for taken in self._kafka.log(topic, partition).committed()]


@pytest.fixture
def in_memory() -> MemoryHarness:
    return MemoryHarness()


@pytest.fixture(params=["on_kafka", "in_memory"])
def harness(request: pytest.FixtureRequest) -> Harness:
    made: Harness = request.getfixturevalue(request.param)
    return made


async def test_a_new_partition_is_empty(harness: Harness) -> None:
    assert await harness.ledger().take_over() == {}


async def test_a_successor_reads_the_last_value_of_each_row_and_no_deleted_one(harness: Harness) -> None:
    first = harness.ledger()
    await first.take_over()
    await first.transact([Record(harness.rows, b"a", b"1"), Record(harness.rows, b"b", b"1")])
    await first.transact([Record(harness.rows, b"a", b"2"), Record(harness.rows, b"b", None)])
    await first.transact([Record(harness.rows, b"c", b"3"), Record(harness.rows, b"c", b"4")])
    assert await harness.ledger().take_over() == {b"a": b"2", b"c": b"4"}


async def test_what_waits_in_another_topic_is_read_from_an_offset_to_its_end_past_markers(harness: Harness) -> None:
    ledger = harness.ledger()
    await ledger.take_over()
    assert await ledger.waiting(harness.events, 0, 9) == []
    for value in (b"1", b"2", b"3"):  # each with a commit marker behind it: offsets 0, 2 and 4
        await ledger.transact([Record(harness.events, b"k", value)])
    assert [(each.offset, each.value) for each in await ledger.waiting(harness.events, 1, 9)] == [(2, b"2"), (4, b"3")]
    assert await ledger.waiting(harness.events, 5, 9) == await ledger.waiting(harness.events, 6, 9) == []


async def test_records_go_to_the_ledgers_partition_unless_they_name_another(harness: Harness) -> None:
    ledger = harness.ledger(partition=1)
    await ledger.take_over()
    headers = (("trace", b"x"), ("empty", b""))
    await ledger.transact(
        [
            Record(harness.rows, b"row", b"1"),
            Record(harness.events, b"own", b"1", headers),
            Record(harness.events, b"stray", b"1", partition=0),
            Record(harness.events, None, b"no key"),
        ]
    )
    assert await harness.seen(harness.events, 1) == [(b"own", b"1"), (None, b"no key")]
    assert await harness.seen(harness.events, 0) == [(b"stray", b"1")]
    assert await harness.ledger(partition=0).take_over() == {}
    assert await harness.ledger(partition=1).take_over() == {b"row": b"1"}


async def test_an_earlier_owner_is_fenced_and_none_of_its_records_is_seen(harness: Harness) -> None:
    old, new = harness.ledger(), harness.ledger()
    await old.take_over()
    await old.transact([Record(harness.rows, b"a", b"old")])
    assert await new.take_over() == {b"a": b"old"}
    with pytest.raises(Fenced, match="later owner"):
        await old.transact([Record(harness.rows, b"a", b"late"), Record(harness.events, b"a", b"late")])
    await new.transact([Record(harness.rows, b"b", b"new")])
    assert await harness.seen(harness.events) == []
    assert await harness.ledger().take_over() == {b"a": b"old", b"b": b"new"}


async def test_another_partitions_owner_is_not_fenced(harness: Harness) -> None:
    zero, one = harness.ledger(0), harness.ledger(1)
    await zero.take_over()
    await one.take_over()
    await zero.transact([Record(harness.rows, b"a", b"1")])


async def test_the_same_ledger_takes_over_again_and_goes_on(harness: Harness) -> None:
    ledger = harness.ledger()
    await ledger.take_over()
    await ledger.transact([Record(harness.rows, b"a", b"1")])
    assert await ledger.take_over() == {b"a": b"1"}
    await ledger.transact([Record(harness.rows, b"b", b"2")])
    assert await ledger.take_over() == {b"a": b"1", b"b": b"2"}


async def test_no_transaction_without_taking_over(harness: Harness) -> None:
    with pytest.raises(Aborted, match="take_over"):
        await harness.ledger().transact([Record(harness.rows, b"a", b"1")])


async def test_a_record_too_large_is_refused_before_anything_is_begun(harness: Harness) -> None:
    ledger = harness.ledger()
    await ledger.take_over()
    too_large = Record(harness.events, b"a", b"x" * 60_000)
    with pytest.raises(ValueError, match=rf"{harness.events} has 60\d\d\d bytes, 50000 are allowed"):
        await ledger.transact([Record(harness.rows, b"a", b"1"), too_large])
    await ledger.transact([])
    await ledger.transact([Record(harness.rows, b"b", b"1")])
    assert await harness.seen(harness.rows) == [(b"b", b"1")]


async def test_many_records_keep_their_order_in_each_topic(harness: Harness) -> None:
    ledger = harness.ledger()
    await ledger.take_over()
    payload = b"x" * 1000  # so that they do not fit into one batch
    await ledger.transact(
        [Record(topic, b"%d" % number, payload) for number in range(1000) for topic in (harness.rows, harness.events)]
    )
    for topic in (harness.rows, harness.events):
        assert [key for key, _ in await harness.seen(topic)] == [b"%d" % number for number in range(1000)]


# From here on: what only Kafka can do to a ledger.


async def test_an_open_transaction_of_the_earlier_owner_is_aborted_and_the_load_ends_behind_it(
    on_kafka: KafkaHarness,
) -> None:
    old = on_kafka.ledger()
    await old.take_over()
    await old.transact([Record(on_kafka.rows, b"a", b"1")])
    producer = old._producer
    assert producer is not None
    await producer.begin_transaction()
    await producer.send_and_wait(on_kafka.rows, b"never", b"a", partition=0)
    new = on_kafka.ledger()
    assert await new.take_over() == {b"a": b"1"}  # the topic ends in an aborted record and two markers
    assert await on_kafka.ledger().take_over() == {b"a": b"1"}


async def test_a_batch_that_the_broker_refuses_takes_the_whole_transaction_with_it(on_kafka: KafkaHarness) -> None:
    """aiokafka itself commits what is left."""
    ledger = on_kafka.ledger()
    await ledger.take_over()
    with pytest.raises(Aborted, match="MessageSizeTooLarge"):
        await ledger.transact([Record(on_kafka.rows, b"a", b"1"), Record(on_kafka.tight, b"a", b"x" * 2000)])
    with pytest.raises(Aborted, match="take_over"):
        await ledger.transact([Record(on_kafka.rows, b"b", b"1")])
    assert await ledger.take_over() == {}
    await ledger.transact([Record(on_kafka.rows, b"b", b"1")])
    assert await on_kafka.seen(on_kafka.rows) == [(b"b", b"1")]


async def test_a_topic_that_does_not_exist_aborts_in_bounded_time(on_kafka: KafkaHarness) -> None:
    on_kafka.events += ".no"
    ledger = on_kafka.ledger(limits=replace(on_kafka.limits, transact_s=1, take_over_s=2))
    await ledger.take_over()
    async with asyncio.timeout(5):
        with pytest.raises(Aborted, match=rf"{on_kafka.events}/0 has no leader: look at whether it exists"):
            await ledger.transact([Record(on_kafka.rows, b"a", b"1"), Record(on_kafka.events, b"a", b"1")])
    with pytest.raises(BrokerUnavailable, match=rf"{on_kafka.events}/0, .* has no leader"):
        await ledger.take_over()
    await create_topics(on_kafka.bootstrap, on_kafka.events, partitions=2)
    assert await ledger.take_over() == {}


async def test_nothing_goes_where_no_successor_would_look_for_what_was_left_open(on_kafka: KafkaHarness) -> None:
    ledger = on_kafka.ledger()
    await ledger.take_over()
    for record in (Record("elsewhere", b"a", b"1"), Record(on_kafka.rows, b"a", b"1", partition=1)):
        with pytest.raises(ValueError, match="name it in writes_to"):
            await ledger.transact([record])


async def test_a_refusal_that_aiokafka_hides_is_told_until_the_same_is_taken(
    on_kafka: KafkaHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It tries again by itself and tells nobody, so that a refusal looks like a broker that is away."""
    refusing = _answer_for_the_broker(monkeypatch)
    ledger = on_kafka.ledger(limits=replace(on_kafka.limits, transact_s=1, take_over_s=1))
    await ledger.take_over()
    refusing[ProduceRequest] = lambda: _refused(on_kafka.events, NotEnoughReplicasError)
    where = rf"{on_kafka.events}/0 did not take it: NotEnoughReplicasError, .*min\.insync\.replicas"
    with pytest.raises(Aborted, match=where):
        await ledger.transact([Record(on_kafka.events, b"a", b"1")])
    refusing[InitProducerIdRequest] = lambda: InitProducerIdResponse_v0(0, ConcurrentTransactions.errno, -1, -1)
    with pytest.raises(BrokerUnavailable, match=rf"not ended .* transaction .*{where}"):
        await ledger.take_over()
    with pytest.raises(BrokerUnavailable, match=r"not ended .* transaction .*one of them takes no records"):
        await on_kafka.ledger(limits=replace(on_kafka.limits, take_over_s=1)).take_over()
    refusing.clear()
    await ledger.take_over()
    refusing[ProduceRequest] = lambda: _refused(on_kafka.events, NotEnoughReplicasError)
    asyncio.get_running_loop().call_later(0.3, refusing.clear)
    await ledger.transact([Record(on_kafka.events, b"a", b"2")])
    assert await on_kafka.seen(on_kafka.events) == [(b"a", b"2")]
    refusing[EndTxnRequest] = lambda: EndTxnResponse_v0(0, GroupLoadInProgressError.errno)
    with pytest.raises(Aborted, match=r"\(the end of the transaction: GroupLoadInProgressError\)"):
        await ledger.transact([Record(on_kafka.events, b"a", b"3")])


async def test_what_a_producer_died_of_is_told(on_kafka: KafkaHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    """aiokafka says of it that it was unexpected."""

    def bug() -> object:
        raise OSError("no such answer")

    refusing = _answer_for_the_broker(monkeypatch)
    ledger = on_kafka.ledger()
    await ledger.take_over()
    refusing[AddPartitionsToTxnRequest] = bug
    with pytest.raises(Aborted, match=r"ended with OSError\('no such answer'\): look at the brokers"):
        await ledger.transact([Record(on_kafka.rows, b"a", b"1")])
    refusing.clear()
    assert await ledger.take_over() == {}


async def test_a_transaction_is_over_when_its_end_is_seen_everywhere(
    on_kafka: KafkaHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What Kafka forgot to end, the end of the next one ends: an abort would take with it what was committed."""
    refusing = _answer_for_the_broker(monkeypatch)
    ledger = on_kafka.ledger(limits=replace(on_kafka.limits, transact_s=1))
    await ledger.take_over()
    assert ledger._producer is not None
    no_tags = dict[int, bytes]()
    is_open = (producer_id(ledger._producer), 0, 0, 0, 0, 7, no_tags)
    active: dict[str, list[object]] = {on_kafka.events: [is_open], on_kafka.rows: []}
    places = [(topic, [(0, 0, None, producers, no_tags)], no_tags) for topic, producers in active.items()]
    refusing[DescribeProducers] = lambda: SimpleNamespace(topics=places)
    with pytest.raises(Aborted, match=f"not ended the last transaction .* {on_kafka.events}/0 takes no records"):
        await ledger.transact([Record(on_kafka.events, b"a", b"1"), Record(on_kafka.rows, b"a", b"1")])
    refusing.clear()
    assert await ledger.take_over() == {b"a": b"1"}
    refusing[DescribeProducers] = lambda: SimpleNamespace(
        topics=[(on_kafka.events, [(0, NotLeaderForPartitionError.errno, None, [], no_tags)], no_tags)]
    )
    asyncio.get_running_loop().call_later(0.3, refusing.clear)
    await ledger.transact([Record(on_kafka.rows, b"a", b"2")])
    assert await on_kafka.ledger().take_over() == {b"a": b"2"}


async def test_a_partition_without_a_leader_is_told(on_kafka: KafkaHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = on_kafka.ledger(limits=replace(on_kafka.limits, transact_s=1))
    await ledger.take_over()
    with monkeypatch.context() as away:
        away.setattr(ClusterMetadata, "leader_for_partition", lambda *_: -1)
        with pytest.raises(Aborted, match=rf"{on_kafka.events}/0 has no leader: look at"):
            await ledger.transact([Record(on_kafka.events, b"a", b"2")])
    assert await ledger.take_over() == {}


async def test_a_refusal_that_silence_followed_is_not_told(
    on_kafka: KafkaHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A broker that freezes while it ends a transaction has refused the next one just before."""
    refusing = _answer_for_the_broker(monkeypatch)
    ledger = on_kafka.ledger(limits=replace(on_kafka.limits, transact_s=1, abort_s=0.5))
    await ledger.take_over()
    waits = [(on_kafka.rows, [(0, ConcurrentTransactions.errno)])]
    answers = iter([AddPartitionsToTxnResponse_v0(0, waits), asyncio.Event().wait()])
    refusing[AddPartitionsToTxnRequest] = lambda: next(answers)
    with pytest.raises(Aborted, match=r"\(no answer within 1 s\)"):
        await ledger.transact([Record(on_kafka.rows, b"b", b"1")])


@pytest.mark.parametrize("asked", ["_metadata_update", "send"])
async def test_a_connection_that_closes_under_a_request_is_only_a_connection(
    on_kafka: KafkaHarness, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, asked: str
) -> None:
    """uvloop raises RuntimeError then: aiokafka's metadata task dies of it, and who waits for that waits for ever."""
    real, fails = getattr(AIOKafkaClient, asked), False

    async def closed(self: AIOKafkaClient, *args: object, **how: object) -> object:
        nonlocal fails
        if fails:
            fails = False
            raise RuntimeError("unable to perform operation on <TCPTransport closed=True>; the handler is closed")
        return await real(self, *args, **how)

    monkeypatch.setattr(AIOKafkaClient, asked, closed)
    ledger = on_kafka.ledger()
    for value in (b"1", b"2"):
        fails = True
        async with asyncio.timeout(5):
            await ledger.take_over()
        assert not fails
        await ledger.transact([Record(on_kafka.rows, b"a", value)])
    await ledger.close()
    gc.collect()
    assert [record for record in caplog.records if record.name == "asyncio"] == []


async def test_a_kafka_that_cannot_tell_what_is_open_is_refused(
    on_kafka: KafkaHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_old() -> object:
        raise IncompatibleBrokerVersion("DescribeTransactions cannot be used")

    _answer_for_the_broker(monkeypatch)[DescribeTransactions] = too_old
    with pytest.raises(LedgerError, match=r"needs Kafka 3\.0 or newer"):
        await on_kafka.ledger().take_over()


async def test_a_cancelled_transaction_is_not_committed_later(on_kafka: KafkaHarness) -> None:
    ledger = on_kafka.ledger()
    await ledger.take_over()
    step = asyncio.create_task(ledger.transact([Record(on_kafka.rows, b"a", b"1")]))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    step.cancel()
    with pytest.raises(asyncio.CancelledError):
        await step
    assert await ledger.take_over() == {}
    await ledger.transact([Record(on_kafka.rows, b"b", b"1")])
    assert await on_kafka.ledger().take_over() == {b"b": b"1"}


async def test_a_frozen_broker_aborts_in_bounded_time_and_the_rows_stay_exact(namespace: str) -> None:
    async with LocalKafka() as kafka, _on(kafka, namespace) as on_kafka:
        await _freeze(kafka, on_kafka)


async def _freeze(kafka: LocalKafka, on_kafka: KafkaHarness) -> None:
    limits = replace(on_kafka.limits, transact_s=1, abort_s=0.5, request_s=2, take_over_s=2)
    ledger, idle = on_kafka.ledger(limits=limits), on_kafka.ledger(partition=1, limits=limits)
    await ledger.take_over()
    await ledger.transact([Record(on_kafka.rows, b"a", b"1")])
    kafka.freeze()
    try:
        async with asyncio.timeout(3):
            with pytest.raises(Aborted, match="no answer within 1 s"):
                await ledger.transact([Record(on_kafka.rows, b"a", b"2"), Record(on_kafka.events, b"a", b"2")])
        async with asyncio.timeout(4):
            with pytest.raises(BrokerUnavailable, match=kafka.bootstrap):
                await idle.take_over()
    finally:
        kafka.thaw()
    rows = await on_kafka.ledger().take_over()
    events = await on_kafka.seen(on_kafka.events)
    assert (rows, events) in [({b"a": b"1"}, []), ({b"a": b"2"}, [(b"a", b"2")])]  # whole, or not at all


async def test_no_broker_at_all(namespace: str) -> None:
    nowhere = KafkaConnection("127.0.0.1:1")
    ledger = KafkaLedger(nowhere, namespace, namespace, 0, LedgerLimits(take_over_s=0.5))
    async with asyncio.timeout(3):
        with pytest.raises(BrokerUnavailable, match=r"127\.0\.0\.1:1"):
            await ledger.take_over()
    await ledger.close()


async def test_a_broker_that_names_no_broker_yet_is_waited_for(
    on_kafka: KafkaHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even itself: so answers one that was frozen for long. aiokafka asserts then that it was never asked."""
    known, asked = AIOKafkaClient.get_random_node, 0

    def none_at_first(self: AIOKafkaClient) -> object:
        nonlocal asked
        asked += 1
        return known(self) if asked > 1 else None

    monkeypatch.setattr(AIOKafkaClient, "get_random_node", none_at_first)
    assert await on_kafka.ledger().take_over() == {}
    assert asked > 1


def _answer_for_the_broker(monkeypatch: pytest.MonkeyPatch) -> dict[type, Callable[[], object]]:
    """Requests of the kinds that are put in here do not reach the broker: they are answered from here."""
    send, answers = AIOKafkaClient.send, dict[type, Callable[[], object]]()

    async def instead(self: AIOKafkaClient, node_id: int, request: object, **how: object) -> object:
        if (answer := answers.get(type(request))) is None:
            return await send(self, node_id, request, **how)
        given = answer()
        return await given if asyncio.iscoroutine(given) else given

    monkeypatch.setattr(AIOKafkaClient, "send", instead)
    return answers


def _refused(topic: str, error: type[BrokerResponseError]) -> ProduceResponse_v0:
    return ProduceResponse_v0([(topic, [(0, error.errno, -1)])])
