"""The transactional state when Kafka fails.

What every implementation does is in test_transactional_state.py.
"""

import asyncio
import gc
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace

import pytest
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.cluster import ClusterMetadata
from aiokafka.errors import (
    BrokerResponseError,
    ConcurrentTransactions,
    GroupLoadInProgressError,
    IncompatibleBrokerVersion,
    InvalidTransactionTimeout,
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

from stream_app.domain.model.errors import Aborted, BrokerUnavailable, StateStoreError
from stream_app.domain.model.records import Record
from stream_app.kafka.bounded_client import BoundedClient
from stream_app.kafka.connection import KafkaConnection
from stream_app.kafka.protocol import DescribeProducers, DescribeTransactions
from stream_app.kafka.takeover import refusals
from stream_app.kafka.takeover.view import NewestLeaders
from stream_app.kafka.transactional_state import StateStoreLimits, TransactionalState
from stream_app.tasks import cancel
from tests.support.kafka import create_topics, publish
from tests.support.pace import BUSY, slowness
from tests.support.proxy import ProxiedKafka
from tests.support.state_stores import KafkaHarness, on


async def test_a_takeover_aborts_the_open_transaction_of_the_earlier_owner(
    on_kafka: KafkaHarness,
) -> None:
    old = on_kafka.store()
    await old.take_over()
    await old.transact([Record(on_kafka.rows, b"a", b"1")])
    producer = old._producer
    assert producer is not None
    await producer.begin_transaction()
    await producer.send_and_wait(on_kafka.rows, b"never", b"a", partition=0)
    new = on_kafka.store()
    # the topic ends in an aborted record and two markers
    assert await new.take_over() == {b"a": b"1"}
    assert await on_kafka.store().take_over() == {b"a": b"1"}


async def test_a_refused_batch_aborts_the_whole_transaction(on_kafka: KafkaHarness) -> None:
    """aiokafka itself commits what is left."""
    store = on_kafka.store()
    await store.take_over()
    with pytest.raises(Aborted, match="MessageSizeTooLarge"):
        await store.transact(
            [Record(on_kafka.rows, b"a", b"1"), Record(on_kafka.tight, b"a", b"x" * 2000)],
        )
    with pytest.raises(Aborted, match="take_over"):
        await store.transact([Record(on_kafka.rows, b"b", b"1")])
    assert await store.take_over() == {}
    await store.transact([Record(on_kafka.rows, b"b", b"1")])
    assert await on_kafka.seen(on_kafka.rows) == [(b"b", b"1")]


async def test_a_missing_topic_aborts_in_bounded_time(on_kafka: KafkaHarness) -> None:
    on_kafka.events += ".no"
    store = on_kafka.store()
    await store.take_over()
    _be_impatient(store)
    async with asyncio.timeout(5 * slowness()):
        with pytest.raises(
            Aborted,
            match=rf"{on_kafka.events}/0 has no leader: look at whether it exists",
        ):
            await store.transact(
                [Record(on_kafka.rows, b"a", b"1"), Record(on_kafka.events, b"a", b"1")],
            )
    with pytest.raises(BrokerUnavailable, match=rf"{on_kafka.events}/0, .* has no leader"):
        await store.take_over()
    await create_topics(on_kafka.bootstrap, on_kafka.events, partitions=2)
    store._limits = on_kafka.limits
    assert await store.take_over() == {}


async def test_records_go_only_to_partitions_that_a_takeover_checks(on_kafka: KafkaHarness) -> None:
    store = on_kafka.store()
    await store.take_over()
    for record in (Record("elsewhere", b"a", b"1"), Record(on_kafka.rows, b"a", b"1", partition=1)):
        with pytest.raises(ValueError, match="add it to writes_to"):
            await store.transact([record])


async def test_a_refusal_that_aiokafka_hides_is_reported_until_the_same_request_succeeds(
    on_kafka: KafkaHarness,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """aiokafka retries and reports nothing, so that a refusal looks like an unavailable broker."""
    # Silence hides a refusal, and on a busy machine the broker is slow to answer the requests that
    # are not refused here.
    monkeypatch.setattr(refusals, "_SILENT_S", BUSY * refusals._SILENT_S)
    refusing = _answer_for_the_broker(monkeypatch)
    store = on_kafka.store()
    await store.take_over()
    refusing[ProduceRequest] = lambda: _refused(on_kafka.events, NotEnoughReplicasError)
    where = rf"{on_kafka.events}/0 did not take it: NotEnoughReplicasError, .*min\.insync\.replicas"
    _be_impatient(store)
    with pytest.raises(Aborted, match=where):
        await store.transact([Record(on_kafka.events, b"a", b"1")])
    refusing[InitProducerIdRequest] = lambda: InitProducerIdResponse_v0(
        0,
        ConcurrentTransactions.errno,
        -1,
        -1,
    )
    with pytest.raises(BrokerUnavailable, match=rf"not ended .* transaction .*{where}"):
        await store.take_over()
    another = on_kafka.store()
    _be_impatient(another)
    with pytest.raises(
        BrokerUnavailable,
        match=r"not ended .* transaction .*one of them takes no records",
    ):
        await another.take_over()
    refusing.clear()
    store._limits = on_kafka.limits
    await store.take_over()
    refusing[ProduceRequest] = lambda: _refused(on_kafka.events, NotEnoughReplicasError)
    asyncio.get_running_loop().call_later(0.3, refusing.clear)
    await store.transact([Record(on_kafka.events, b"a", b"2")])
    assert await on_kafka.seen(on_kafka.events) == [(b"a", b"2")]
    refusing[EndTxnRequest] = lambda: EndTxnResponse_v0(0, GroupLoadInProgressError.errno)
    _be_impatient(store)
    with pytest.raises(Aborted, match=r"\(the end of the transaction: GroupLoadInProgressError\)"):
        await store.transact([Record(on_kafka.events, b"a", b"3")])


async def test_the_cause_of_a_producers_failure_is_reported(
    on_kafka: KafkaHarness,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """aiokafka calls it unexpected."""

    def bug() -> object:
        raise OSError("no such answer")

    refusing = _answer_for_the_broker(monkeypatch)
    store = on_kafka.store()
    await store.take_over()
    refusing[AddPartitionsToTxnRequest] = bug
    with pytest.raises(
        Aborted,
        match=r"ended with OSError\('no such answer'\): look at the brokers",
    ):
        await store.transact([Record(on_kafka.rows, b"a", b"1")])
    refusing.clear()
    assert await store.take_over() == {}


async def test_a_transaction_has_ended_when_each_partition_shows_its_end(
    on_kafka: KafkaHarness,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The end of the next transaction also ends one that Kafka left open: an abort would take back
    what was committed.
    """
    refusing = _answer_for_the_broker(monkeypatch)
    store = on_kafka.store()
    await store.take_over()
    assert store._producer is not None
    no_tags = dict[int, bytes]()
    is_open = (store._producer._txn_manager.producer_id, 0, 0, 0, 0, 7, no_tags)
    active: dict[str, list[object]] = {on_kafka.events: [is_open], on_kafka.rows: []}
    places = [
        (topic, [(0, 0, None, producers, no_tags)], no_tags) for topic, producers in active.items()
    ]
    refusing[DescribeProducers] = lambda: SimpleNamespace(topics=places)
    _be_impatient(store)
    with pytest.raises(
        Aborted,
        match=f"not ended the last transaction .* {on_kafka.events}/0 takes no records",
    ):
        await store.transact(
            [Record(on_kafka.events, b"a", b"1"), Record(on_kafka.rows, b"a", b"1")],
        )
    refusing.clear()
    store._limits = on_kafka.limits
    assert await store.take_over() == {b"a": b"1"}
    refusing[DescribeProducers] = lambda: SimpleNamespace(
        topics=[
            (on_kafka.events, [(0, NotLeaderForPartitionError.errno, None, [], no_tags)], no_tags),
        ],
    )
    asyncio.get_running_loop().call_later(0.3, refusing.clear)
    await store.transact([Record(on_kafka.rows, b"a", b"2")])
    assert await on_kafka.store().take_over() == {b"a": b"2"}


async def test_a_refusal_before_a_timeout_is_not_reported(
    on_kafka: KafkaHarness,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A broker that freezes while it ends a transaction has just refused the next one."""
    refusing = _answer_for_the_broker(monkeypatch)
    transact_s = min(round(slowness()), 4)  # shorter than `request_s`
    limits = replace(on_kafka.limits, transact_s=transact_s, abort_s=0.5)
    store = on_kafka.store()
    await store.take_over()
    store._limits = limits
    waits = [(on_kafka.rows, [(0, ConcurrentTransactions.errno)])]
    answers = iter([AddPartitionsToTxnResponse_v0(0, waits), asyncio.Event().wait()])
    refusing[AddPartitionsToTxnRequest] = lambda: next(answers)
    with pytest.raises(Aborted, match=rf"\(no answer within {transact_s} s\)"):
        await store.transact([Record(on_kafka.rows, b"b", b"1")])


@pytest.mark.parametrize("asked", ["_metadata_update", "send"])
async def test_a_connection_that_closes_during_a_request_is_a_connection_error(
    on_kafka: KafkaHarness,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    asked: str,
) -> None:
    """uvloop then raises RuntimeError, which ends aiokafka's metadata task, and those who wait for
    it wait for ever.
    """
    real = getattr(BoundedClient, asked)
    fails = False

    async def closed(self: BoundedClient, *args: object, **how: object) -> object:
        nonlocal fails
        if fails:
            fails = False
            raise RuntimeError(
                "unable to perform operation on <TCPTransport closed=True>; the handler is closed",
            )
        return await real(self, *args, **how)

    monkeypatch.setattr(BoundedClient, asked, closed)
    store = on_kafka.store()
    for value in (b"1", b"2"):
        fails = True
        async with asyncio.timeout(5 * slowness()):
            await store.take_over()
        assert not fails
        await store.transact([Record(on_kafka.rows, b"a", value)])
    await store.close()
    gc.collect()
    assert [record for record in caplog.records if record.name == "asyncio"] == []


async def test_a_kafka_that_cannot_describe_transactions_is_refused(
    on_kafka: KafkaHarness,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def too_old() -> object:
        raise IncompatibleBrokerVersion("DescribeTransactions cannot be used")

    _answer_for_the_broker(monkeypatch)[DescribeTransactions] = too_old
    with pytest.raises(StateStoreError, match=r"needs Kafka 3\.0 or newer"):
        await on_kafka.store().take_over()


async def test_a_kafka_that_allows_no_timeout_of_ten_minutes_is_refused(
    on_kafka: KafkaHarness,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The verdict on a transaction that Kafka left open is stored as such a timeout."""
    refusing = _answer_for_the_broker(monkeypatch)
    refusing[InitProducerIdRequest] = lambda: InitProducerIdResponse_v0(
        0,
        InvalidTransactionTimeout.errno,
        -1,
        -1,
    )
    with pytest.raises(StateStoreError, match=r"transaction\.max\.timeout\.ms of at least 601000"):
        await on_kafka.store().take_over()


async def test_rows_after_a_transaction_of_a_forgotten_id_are_refused(
    on_kafka: KafkaHarness,
) -> None:
    """Kafka forgets an id that was idle for days, and how its last transaction ended.

    Only the owner writes rows.
    """
    async with AIOKafkaProducer(
        bootstrap_servers=on_kafka.bootstrap,
        transactional_id=f"{on_kafka.rows}-x",
    ) as other:
        await other.begin_transaction()
        await other.send_and_wait(on_kafka.rows, b"1", b"a", partition=0)
        with pytest.raises(
            StateStoreError,
            match=f"{on_kafka.rows}/0 from offset 0 and no longer knows",
        ):
            await on_kafka.store().take_over()
        await other.commit_transaction()
        assert await on_kafka.store().take_over() == {b"a": b"1"}


async def test_the_end_of_a_transaction_is_checked_with_one_request(
    on_kafka: KafkaHarness,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Everything else about the last transaction is checked when the partition is taken over."""
    asked = list[str]()
    real = BoundedClient.send

    async def send(self: BoundedClient, node: int, request: object, **how: object) -> object:
        asked.append(type(request).__name__)
        return await real(self, node, request, **how)

    monkeypatch.setattr(BoundedClient, "send", send)
    store = on_kafka.store()
    await store.take_over()
    assert "DescribeTransactions" in asked
    asked.clear()
    await store.transact([Record(on_kafka.rows, b"a", b"1"), Record(on_kafka.events, b"a", b"1")])
    assert set(asked) == {
        "AddPartitionsToTxnRequest",
        "ProduceRequest",
        "EndTxnRequest",
        "DescribeProducers",
    }


async def test_a_cancelled_transaction_does_not_change_later(on_kafka: KafkaHarness) -> None:
    store = on_kafka.store()
    await store.take_over()
    step = asyncio.create_task(store.transact([Record(on_kafka.rows, b"a", b"1")]))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    step.cancel()
    with pytest.raises(asyncio.CancelledError):
        await step
    rows = await store.take_over()
    await store.transact([Record(on_kafka.rows, b"b", b"1")])
    assert await on_kafka.store().take_over() == {**rows, b"b": b"1"}


@pytest.mark.parametrize("under_way", [AddPartitionsToTxnRequest, ProduceRequest, EndTxnRequest])
async def test_a_process_that_ends_leaves_no_transaction_open(
    on_kafka: KafkaHarness,
    monkeypatch: pytest.MonkeyPatch,
    under_way: type,
) -> None:
    """Readers would see nothing beyond it until Kafka aborts it, a minute later."""
    asked = asyncio.Event()
    send = BoundedClient.send

    async def noted(self: BoundedClient, node: int, request: object, **how: object) -> object:
        if isinstance(request, under_way):
            asked.set()
        return await send(self, node, request, **how)

    monkeypatch.setattr(BoundedClient, "send", noted)
    store = on_kafka.store()
    await store.take_over()
    step = asyncio.create_task(
        store.transact(
            [Record(on_kafka.rows, b"a", b"1"), Record(on_kafka.events, b"a", b"1")],
        ),
    )
    await asked.wait()
    await cancel([step])
    await store.close()
    # What is written behind it can be read at once.
    await publish(on_kafka.bootstrap, on_kafka.events, [b"2"])
    assert await on_kafka.seen(on_kafka.events) == [(b"a", b"1"), (None, b"2")]
    assert await on_kafka.seen(on_kafka.rows) == [(b"a", b"1")]


@pytest.mark.slow
async def test_a_frozen_broker_aborts_in_bounded_time_and_the_rows_stay_exact(
    broker: ProxiedKafka,
    namespace: str,
) -> None:
    async with on(broker.bootstrap, namespace) as on_kafka:
        await _freeze(broker, on_kafka)


async def _freeze(kafka: ProxiedKafka, on_kafka: KafkaHarness) -> None:
    limits = replace(on_kafka.limits, transact_s=1, abort_s=0.5, request_s=2, take_over_s=2)
    store = on_kafka.store()
    idle = on_kafka.store(partition=1, limits=limits)
    await store.take_over()
    await store.transact([Record(on_kafka.rows, b"a", b"1")])
    store._limits = limits  # before it froze, the broker may take longer
    kafka.freeze()
    try:
        async with asyncio.timeout(3 * slowness()):
            with pytest.raises(Aborted, match="no answer within 1 s"):
                await store.transact(
                    [Record(on_kafka.rows, b"a", b"2"), Record(on_kafka.events, b"a", b"2")],
                )
        async with asyncio.timeout(4 * slowness()):
            with pytest.raises(BrokerUnavailable, match=kafka.bootstrap):
                await idle.take_over()
    finally:
        kafka.thaw()
    rows = await on_kafka.store().take_over()
    events = await on_kafka.seen(on_kafka.events)
    # whole, or not at all
    assert (rows, events) in [({b"a": b"1"}, []), ({b"a": b"2"}, [(b"a", b"2")])]


async def test_no_broker(namespace: str) -> None:
    nowhere = KafkaConnection("127.0.0.1:1")
    store = TransactionalState(nowhere, namespace, namespace, 0, StateStoreLimits(take_over_s=0.5))
    async with asyncio.timeout(3 * slowness()):
        with pytest.raises(BrokerUnavailable, match=r"127\.0\.0\.1:1"):
            await store.take_over()
    await store.close()


async def test_a_broker_without_metadata_is_waited_for(
    on_kafka: KafkaHarness,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A broker that was frozen for long does not even name itself."""
    known = ClusterMetadata.brokers
    asked = 0

    def none_at_first(self: ClusterMetadata) -> object:
        nonlocal asked
        asked += 1
        return known(self) if asked > 3 else set()

    monkeypatch.setattr(ClusterMetadata, "brokers", none_at_first)
    assert await on_kafka.store().take_over() == {}
    assert asked > 3


async def test_rows_of_a_former_leader_are_read_again(
    on_kafka: KafkaHarness,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = _one_former_leader(monkeypatch)
    assert await on_kafka.store().take_over() == {}
    assert [nodes for nodes in asked if len(nodes) == 1] == [
        {TopicPartition(on_kafka.rows, 0): 1},
    ] * 2


async def test_a_former_leader_is_not_asked_for_open_transactions(
    on_kafka: KafkaHarness,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await on_kafka.store().take_over()
    asked = _one_former_leader(monkeypatch)
    assert await on_kafka.store().take_over() == {}
    first, second, _ = asked  # the last is of the rows
    assert first == second
    assert {TopicPartition(on_kafka.rows, 0), TopicPartition(on_kafka.events, 1)} < first.keys()


def _be_impatient(store: TransactionalState) -> None:
    """Let a store that Kafka refuses something give up soon.

    Where Kafka answers, a busy machine may take longer than that.
    """
    times = slowness()
    store._limits = replace(
        store._limits,
        # shorter than `request_s`, after which aiokafka gives up by itself
        transact_s=min(round(times), 4),
        take_over_s=2 * times,
    )


def _answer_for_the_broker(monkeypatch: pytest.MonkeyPatch) -> dict[type, Callable[[], object]]:
    """Requests of these kinds do not reach the broker: they are answered here."""
    send = BoundedClient.send
    answers = dict[type, Callable[[], object]]()

    async def instead(self: BoundedClient, node_id: int, request: object, **how: object) -> object:
        if (answer := answers.get(type(request))) is None:
            return await send(self, node_id, request, **how)
        given = answer()
        return await given if asyncio.iscoroutine(given) else given

    monkeypatch.setattr(BoundedClient, "send", instead)
    return answers


def _one_former_leader(monkeypatch: pytest.MonkeyPatch) -> list[dict[TopicPartition, int]]:
    """The first answer was of a broker that leads no longer.

    Returns who answered about what, also later.
    """
    asked: list[dict[TopicPartition, int]] = []

    def once(_: object, nodes: dict[TopicPartition, int]) -> None:
        asked.append(nodes)
        if len(asked) == 1:
            raise NotLeaderForPartitionError

    monkeypatch.setattr(NewestLeaders, "require", once)
    return asked


def _refused(topic: str, error: type[BrokerResponseError]) -> ProduceResponse_v0:
    return ProduceResponse_v0([(topic, [(0, error.errno, -1)])])
