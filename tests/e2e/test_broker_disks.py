"""A broker whose disk is full, and transactions that Kafka leaves open while a broker is away."""

import asyncio
import re
import resource
import warnings
from pathlib import Path

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import NewTopic

from stream_app.dev.kafka import LocalKafka
from stream_app.dev.process import end
from stream_app.domain.model.errors import Aborted, BrokerUnavailable
from stream_app.domain.model.records import Record
from stream_app.kafka.connection import KafkaConnection
from stream_app.kafka.connection import end as end_producer
from stream_app.kafka.transactional_state import StateStoreLimits, TransactionalState
from tests.e2e.broken_broker import loaded, nothing_is_acked, reassign, recoveries, to_lose
from tests.e2e.fleet import Fleet
from tests.support.kafka import admin, read_committed
from tests.support.pace import BUSY
from tests.support.proxy import ProxiedKafka
from tests.support.small_disk import NoSmallDiskError, small_disk

pytestmark = pytest.mark.timeout(300)


@pytest.mark.long
@pytest.mark.timeout(300)
async def test_one_of_two_disks_is_full(
    broker: ProxiedKafka,
    namespace: str,
    tmp_path: Path,
) -> None:
    """KAFKA_STORAGE_ERROR: only the status topic is on the disk that is full.

    Kafka uses a disk that failed again only after a restart.
    """
    status = f"{namespace}leads.status"
    fault = (
        rf"{status}/\d (did not take it: KafkaStorageError, its log cannot be written"
        "|has no leader): look at"
    )
    try:
        with small_disk() as disk:
            large = tmp_path / "large"
            disks = {"log.dirs": f"{large},{disk.path}", "metadata.log.dir": str(large)}
            async with (
                LocalKafka(data_dir=large, overrides=disks) as own,
                loaded(own, namespace, says=fault) as line,
            ):
                await keep_apart(line, own, status, disk.path, large)
                await asyncio.to_thread(disk.fill)
                await line.until(
                    lambda: any(
                        re.search(fault, recovery) for recovery in recoveries(line.members[0])
                    ),
                    20,
                    "it is reported",
                )
                await nothing_is_acked(line)
                disk.make_room()
                await asyncio.to_thread(own.restart)
                line.join()
                await line.spread(line.members, 30)
    except NoSmallDiskError as error:
        warnings.warn(
            f"no disk was filled, for this machine allows none of one's own ({error})",
            stacklevel=1,
        )
        await no_write_succeeds(broker, namespace)


@pytest.mark.long
async def test_the_only_disk_is_full(broker: ProxiedKafka, namespace: str) -> None:
    """A broker that cannot write anywhere exits.

    One worker waits for it, another one starts meanwhile.
    """
    await no_write_succeeds(broker, namespace)


@pytest.mark.long
@pytest.mark.parametrize("how", ["committed", "aborted", "open"])
async def test_a_transaction_that_kafka_left_open_ends_as_the_coordinator_decided(
    broker: ProxiedKafka,
    namespace: str,
    tmp_path: Path,
    how: str,
) -> None:
    """Its partitions have no leader when it ends: Kafka reports it as ended, and never shows its
    records.

    One that is still open is not fenced meanwhile, because Kafka would leave that end out, too.
    """
    state = f"{namespace}state"
    events = f"{namespace}events"
    async with to_lose(broker, tmp_path / "second", state, events) as second:
        producer = AIOKafkaProducer(
            bootstrap_servers=broker.bootstrap,
            transactional_id=f"{state}-0",
        )
        await producer.start()
        await producer.begin_transaction()
        for topic in (state, events):
            await producer.send_and_wait(topic, b"row", b"lead", partition=0)
        await asyncio.to_thread(end, second._process, grace_s=20)
        if how != "open":
            await (
                producer.commit_transaction()
                if how == "committed"
                else producer.abort_transaction()
            )
        await end_producer(producer, None, 1)
        with pytest.raises(BrokerUnavailable, match=f"{events}/0, {state}/0 has no leader"):
            await store_of(broker, state, events, take_over_s=2).take_over()
        await asyncio.to_thread(second.restart)
        store = store_of(broker, state, events)
        try:
            before = [(b"lead", b"row")] if how == "committed" else []
            assert await store.take_over() == dict(before)
            await store.transact([Record(events, b"lead", b"later")])
            assert await read_committed(broker.bootstrap, events) == [*before, (b"lead", b"later")]
        finally:
            await store.close()


@pytest.mark.long
async def test_a_committed_transaction_that_kafka_left_open_is_not_aborted(
    broker: ProxiedKafka,
    namespace: str,
    tmp_path: Path,
) -> None:
    """Kafka fault the commit.

    An abort of the next transaction would take the committed records back.
    """
    state = f"{namespace}state"
    events = f"{namespace}events"
    async with to_lose(broker, tmp_path / "second", events) as second:
        async with admin(broker.bootstrap) as client:
            await client.create_topics([NewTopic(state, -1, -1, replica_assignments={0: [1]})])
        store = store_of(broker, state, events)
        try:
            await store.take_over()
            producer = store._producer
            assert producer is not None
            commit = producer.commit_transaction

            async def without_the_second() -> None:
                await asyncio.to_thread(end, second._process, grace_s=20)
                await commit()

            producer.commit_transaction = without_the_second
            with pytest.raises(Aborted, match=f"{events}/0 has no leader"):
                await store.transact(
                    [Record(state, b"lead", b"row"), Record(events, b"lead", b"row")],
                )
            await asyncio.to_thread(second.restart)
            assert await store.take_over() == {b"lead": b"row"}
            await store.transact([Record(events, b"lead", b"later")])
            assert await read_committed(broker.bootstrap, events) == [
                (b"lead", b"row"),
                (b"lead", b"later"),
            ]
        finally:
            await store.close()


async def no_write_succeeds(kafka: LocalKafka, namespace: str) -> None:
    """Let all writes of the broker fail, as on a full disk (EFBIG instead of ENOSPC), until it is
    started again.
    """
    # The coordinator's own log is on that disk, so the broker may also give the transactions up
    # before it ends.
    fault = (
        r"the transaction failed \((no answer within 2 s|.*: look at|.*NotCoordinatorForGroupError)"
    )
    async with loaded(kafka, namespace, says=fault) as line:
        _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.prlimit(kafka.pid, resource.RLIMIT_FSIZE, (1, most))
        await asyncio.wait_for(asyncio.to_thread(kafka.wait), 20 * BUSY)
        line.join()
        await asyncio.sleep(1)
        await asyncio.to_thread(kafka.restart)
        await line.spread(line.members, 30)


async def keep_apart(line: Fleet, kafka: LocalKafka, topic: str, disk: Path, others: Path) -> None:
    """Put one topic alone on one of a broker's two disks, and all others on the other disk."""
    async with admin(kafka.bootstrap) as client:
        partitions = [
            {
                "topic": described["topic"],
                "partition": partition["partition"],
                "replicas": [1],
                "log_dirs": [str(disk if described["topic"] == topic else others)],
            }
            for described in await client.describe_topics()
            for partition in described["partitions"]
        ]
    await reassign(line, kafka, partitions)
    its = {f"{topic}-{number}" for number in range(line.settings.kafka.partitions)}
    await line.until(lambda: logs_on(disk) == its, 20, "it is alone there")


def store_of(
    kafka: LocalKafka,
    state: str,
    events: str,
    take_over_s: float = 20,
) -> TransactionalState:
    limits = StateStoreLimits(take_over_s=take_over_s, transact_s=3, abort_s=0.5)
    return TransactionalState(
        KafkaConnection(kafka.bootstrap),
        f"{state}-0",
        state,
        0,
        limits,
        writes_to=[(events, 0)],
    )


def logs_on(disk: Path) -> set[str]:
    """Return the partitions on this disk and those on their way to it, without those that Kafka
    will delete.
    """
    return {
        path.name for path in disk.iterdir() if path.is_dir() and not path.name.endswith("-delete")
    }
