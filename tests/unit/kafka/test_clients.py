"""Each request to Kafka has a bound of its own, and a broker that hangs holds up nothing that
others can answer.
"""

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiokafka import TopicPartition
from aiokafka.client import AIOKafkaClient, ConnectionGroup, CoordinationType
from aiokafka.errors import (
    GroupLoadInProgressError,
    NotCoordinatorForGroupError,
    RequestTimedOutError,
)
from aiokafka.protocol.commit import OffsetFetchRequest
from aiokafka.protocol.coordination import FindCoordinatorRequest
from aiokafka.protocol.group import JoinGroupRequest

import stream_app
from stream_app.kafka import bounded_client as bounded
from stream_app.kafka.connection import end, kafka_producer, repeated
from tests.support.fake_broker import (
    DESCRIBE_GROUPS,
    FIND_COORDINATOR,
    JOIN_GROUP,
    METADATA,
    FakeCluster,
)
from tests.support.kafka import admin
from tests.support.pace import BUSY

pytestmark = pytest.mark.timeout(30)
NEVER_S = 3_600.0
JOIN = JoinGroupRequest("group", 6_000, 60_000, "", "", "consumer", [("range", b"")])
LOOK_UP = FindCoordinatorRequest("group", CoordinationType.GROUP)
NOT_COORDINATOR = 16
LOADING = 14


@pytest.fixture
async def cluster() -> AsyncIterator[FakeCluster]:
    async with FakeCluster() as three:
        yield three


def client_of(**options: Any) -> Any:
    return bounded.bind(AIOKafkaClient(**options))


@pytest.fixture
async def client(cluster: FakeCluster) -> AsyncIterator[Any]:
    """A client that knows the cluster and has no connection yet."""
    client = client_of(bootstrap_servers=cluster.bootstrap)
    try:
        await client.bootstrap()
        yield client
    finally:
        await client.close()


def patience(monkeypatch: pytest.MonkeyPatch, **bounds: float) -> None:
    """Shorter bounds: `connect`, `request`, `next`, `look`; or ones that never end."""
    names = {
        "connect": "CONNECT_S",
        "request": "_REQUEST_S",
        "next": "_NEXT_AFTER_S",
        "look": "_LOOK_EVERY_S",
    }
    for name, bound in bounds.items():
        monkeypatch.setattr(bounded, names[name], bound)


@pytest.mark.parametrize("hung", [(0, 1), (0, 2), (1, 2)])
async def test_a_client_begins_although_all_but_one_broker_hang(
    cluster: FakeCluster,
    monkeypatch: pytest.MonkeyPatch,
    hung: tuple[int, ...],
) -> None:
    patience(monkeypatch, connect=NEVER_S, request=NEVER_S, next=0.05)
    for node in hung:
        cluster.brokers[node].hangs = True
    client = client_of(bootstrap_servers=cluster.bootstrap)
    try:
        await client.bootstrap()
        assert {broker.nodeId for broker in client.cluster.brokers()} == {0, 1, 2}
        assert await client.force_metadata_update(), "metadata are read from the one that answers"
        assert await client.coordinator_lookup(CoordinationType.GROUP, "group") == 0
    finally:
        await client.close()


async def test_a_request_to_a_broker_that_hangs_ends_and_so_does_its_connection(
    cluster: FakeCluster,
    client: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    patience(monkeypatch, request=0.2)
    await client.send(1, LOOK_UP)
    cluster.brokers[1].hangs = True
    with pytest.raises(RequestTimedOutError):
        await client.send(1, LOOK_UP)
    cluster.brokers[1].hangs = False
    before = cluster.brokers[1].connections
    await client.send(1, LOOK_UP)
    assert cluster.brokers[1].connections > before, "on a new connection"


async def test_a_broker_that_hangs_does_not_hold_up_connections_to_others(
    cluster: FakeCluster,
    client: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    patience(monkeypatch, connect=NEVER_S, request=NEVER_S)
    cluster.brokers[1].hangs = True
    hung = [asyncio.create_task(client.send(1, LOOK_UP)) for _ in range(3)]
    await asyncio.sleep(0)
    assert (await client.send(2, LOOK_UP)).coordinator_id == 0
    for task in hung:
        task.cancel()
    await asyncio.gather(*hung, return_exceptions=True)
    assert cluster.brokers[1].connections <= 2, "the three shared one, beside that of the bootstrap"


async def test_a_join_may_take_as_long_as_the_coordinator_still_is_one(
    cluster: FakeCluster,
    client: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    patience(monkeypatch, look=0.02, request=0.5)
    asked = asyncio.create_task(client.send(0, JOIN, group=ConnectionGroup.COORDINATION))
    await cluster.brokers[0].until_asked(FIND_COORDINATOR, 5)
    assert not asked.done()
    cluster.brokers[0].joined.set()
    assert (await asked).generation_id == 7


@pytest.mark.parametrize("how", ["hangs", "moved"])
async def test_a_join_ends_when_its_coordinator_is_one_no_longer(
    cluster: FakeCluster,
    client: Any,
    monkeypatch: pytest.MonkeyPatch,
    how: str,
) -> None:
    patience(monkeypatch, look=0.05, request=0.2, connect=0.2)
    asked = asyncio.create_task(client.send(0, JOIN, group=ConnectionGroup.COORDINATION))
    await cluster.brokers[0].until_asked(JOIN_GROUP)
    if how == "hangs":
        cluster.brokers[0].hangs = True
    else:
        cluster.coordinator = 2
    with pytest.raises(RequestTimedOutError):
        await asked


@pytest.mark.parametrize(
    ("code", "error"),
    [(NOT_COORDINATOR, NotCoordinatorForGroupError), (LOADING, GroupLoadInProgressError)],
)
async def test_offsets_of_a_broker_that_does_not_have_them_are_no_offsets(
    cluster: FakeCluster,
    client: Any,
    code: int,
    error: type[Exception],
) -> None:
    """aiokafka reads such an answer as a group that never committed, and its consumer starts from
    the beginning.
    """
    cluster.group_error = code
    with pytest.raises(error):
        await client.send(0, OffsetFetchRequest("group", [("topic", [0])]))
    cluster.group_error = 0
    assert (await client.send(0, OffsetFetchRequest("group", [("topic", [0])]))).topics == []


async def test_an_admin_client_asks_another_broker_and_again(
    cluster: FakeCluster,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    patience(monkeypatch, connect=0.2, request=0.2, next=0.05)
    cluster.brokers[1].hangs = True
    cluster.coordinator = 2
    cluster.group_error = LOADING
    async with admin(cluster.bootstrap) as asking:
        for _ in range(5):
            assert len((await asking.describe_cluster())["brokers"]) == 3
        with pytest.raises(GroupLoadInProgressError):
            await asking.list_consumer_group_offsets("group")
        asked = asyncio.create_task(
            repeated(lambda: asking.describe_consumer_groups(["group"]), within_s=20),
        )
        await cluster.brokers[2].until_asked(DESCRIBE_GROUPS, 2)
        cluster.group_error = 0
        await asked


async def test_retries_of_a_request_are_bounded(cluster: FakeCluster) -> None:
    cluster.group_error = LOADING
    async with admin(cluster.bootstrap) as asking:
        with pytest.raises(GroupLoadInProgressError):
            await repeated(lambda: asking.list_consumer_group_offsets("group"), within_s=0.3)


async def test_closing_does_not_wait_for_a_broker_that_takes_no_more_bytes(
    cluster: FakeCluster,
    client: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    patience(monkeypatch, request=0.2)
    await client.send(1, LOOK_UP)
    cluster.brokers[1].hangs = True
    conn = client._conns[1, ConnectionGroup.DEFAULT]
    conn._writer.write(b"\0" * 64 * 2**20)
    async with asyncio.timeout(10 * BUSY):
        await client.close()


async def test_metadata_that_no_broker_gives_are_missed_and_asked_for_again(
    cluster: FakeCluster,
    client: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    patience(monkeypatch, connect=0.2, request=0.2, next=0.05)
    for broker in cluster.brokers:
        broker.hangs = True
    assert not await client.force_metadata_update()
    cluster.brokers[2].hangs = False
    assert await client.force_metadata_update()
    assert cluster.brokers[2].asked[METADATA]


def test_every_client_of_kafka_is_bounded() -> None:
    """aiokafka's own classes are used where they are bounded, and by what only developers run."""
    package = Path(stream_app.__file__).parent
    made = re.compile(r"\bAIOKafka(Consumer|Producer|AdminClient|Client)\(\*?\*?\w")
    files = {
        str(file.relative_to(package))
        for file in package.rglob("*.py")
        if made.search(file.read_text()) and "dev" not in file.relative_to(package).parts
    }
    assert files == {"kafka/connection.py"}


PLACE = TopicPartition("leads", 0)


async def test_a_batch_may_be_tried_again_after_its_producer_was_dropped() -> None:
    """Its request ends later than the sender, which awaits only some of them."""
    producer = kafka_producer(bootstrap_servers="127.0.0.1:1", transactional_id="id")
    producer._txn_manager.set_pid_and_epoch(1, 1)
    producer._txn_manager.begin_transaction()
    producer._sender._sender_task = asyncio.create_task(asyncio.Event().wait())
    accumulator = producer._message_accumulator
    builder = producer.create_batch()
    builder.append(key=None, value=b"1", timestamp=None)
    batch = accumulator._append_batch(builder, PLACE)
    assert accumulator._pop_batch(PLACE) is batch
    waits = accumulator._append_batch(producer.create_batch(), PLACE)
    await end(producer, None, 0.1)
    assert batch.future.exception() is not None
    assert waits.future.exception() is not None
    accumulator.reenqueue(batch)
