"""A broker whose disk is full, and what Kafka itself forgets while one of its brokers is away."""

from __future__ import annotations

import asyncio
import re
import resource
import warnings
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import NewTopic

from stream_app.adapters.connection import KafkaConnection
from stream_app.adapters.ledger import KafkaLedger, LedgerLimits
from stream_app.core.errors import Aborted
from stream_app.core.record import Record
from stream_app.dev.kafka import LocalKafka
from stream_app.dev.process import end
from tests.adapters.support import admin, read_committed
from tests.e2e.broken_broker import loaded, nothing_is_acked, reassign, recoveries, second_broker
from tests.e2e.fleet import Fleet
from tests.proxy import ProxiedKafka
from tests.small_disk import NoSmallDiskError, small_disk

pytestmark = pytest.mark.timeout(120)


@pytest.mark.long
@pytest.mark.timeout(180)
async def test_a_full_disk(broker: ProxiedKafka, namespace: str, tmp_path: Path) -> None:
    """KAFKA_STORAGE_ERROR: the events are alone on a disk that is full; the broker's other disk is not.

    Kafka takes a disk that failed back when it is started again, no earlier.
    """
    status = f"{namespace}leads.status"
    told = rf"{status}/\d (did not take it: KafkaStorageError, its log cannot be written|has no leader): look at"
    try:
        with small_disk() as disk:
            large = tmp_path / "large"
            disks = {"log.dirs": f"{large},{disk.path}", "metadata.log.dir": str(large)}
            async with LocalKafka(data_dir=large, overrides=disks) as own, loaded(own, namespace, says=told) as line:
                await keep_apart(line, own, status, disk.path, large)
                await asyncio.to_thread(disk.fill)
                await line.until(
                    lambda: any(re.search(told, each) for each in recoveries(line.members[0])), 20, "it is told"
                )
                await nothing_is_acked(line)
                line.join()
                disk.make_room()
                await asyncio.to_thread(own.restart)
                await line.spread(line.members, 30)
    except NoSmallDiskError as error:
        warnings.warn(f"no disk was filled, for this machine allows none of one's own ({error})", stacklevel=1)
        await no_write_succeeds(broker, namespace)


@pytest.mark.long
async def test_the_only_disk_is_full(broker: ProxiedKafka, namespace: str) -> None:
    """A broker that cannot write anywhere ends. One worker waits for it, another is started meanwhile."""
    await no_write_succeeds(broker, namespace)


@pytest.mark.long
async def test_a_transaction_that_kafka_forgot_to_end(broker: ProxiedKafka, namespace: str, tmp_path: Path) -> None:
    """Its partition has no leader while it is committed: Kafka says that it is, and hides it from all for ever."""
    topic = f"{namespace}state"
    async with to_lose(broker, tmp_path / "second") as second:
        ledger = await forgotten(broker, second, topic, topic)
        await asyncio.to_thread(second.restart)
        try:
            assert await ledger.take_over() == {b"lead": b"row"}
            await ledger.transact([Record(topic, b"lead", None)])
            assert await ledger.take_over() == {}
        finally:
            await ledger.close()


@pytest.mark.long
async def test_what_kafka_forgot_to_end_is_not_aborted(broker: ProxiedKafka, namespace: str, tmp_path: Path) -> None:
    """The end of the next transaction of its owner ends it, too: there is none before its partition is back."""
    state, events = f"{namespace}state", f"{namespace}events"
    async with to_lose(broker, tmp_path / "second") as second:
        ledger = await forgotten(broker, second, state, events)
        try:
            await ledger.take_over()
            with pytest.raises(Aborted, match=f"{events}/0 has no leader"):
                await ledger.transact([Record(events, b"lead", b"later")])
            await asyncio.to_thread(second.restart)
            await ledger.take_over()
            await ledger.transact([Record(events, b"lead", b"later")])
            assert await read_committed(broker.bootstrap, events) == [(b"lead", b"row"), (b"lead", b"later")]
        finally:
            await ledger.close()


async def no_write_succeeds(kafka: LocalKafka, namespace: str) -> None:
    """All of the broker's fail, as on a full disk (EFBIG instead of ENOSPC), until it is started again."""
    told = r"the transaction failed \((no answer within 2 s|.*: look at)"
    async with loaded(kafka, namespace, says=told) as line:
        _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.prlimit(kafka.pid, resource.RLIMIT_FSIZE, (1, most))
        await asyncio.wait_for(asyncio.to_thread(kafka.wait), 20)
        line.join()
        await asyncio.sleep(1)
        await asyncio.to_thread(kafka.restart)
        await line.spread(line.members, 30)


async def keep_apart(line: Fleet, kafka: LocalKafka, topic: str, disk: Path, others: Path) -> None:
    """Say on which of a broker's two disks a running topic is, alone; all others are on the other one."""
    async with admin(kafka.bootstrap) as client:
        partitions = [
            {
                "topic": each["topic"],
                "partition": partition["partition"],
                "replicas": [1],
                "log_dirs": [str(disk if each["topic"] == topic else others)],
            }
            for each in await client.describe_topics()
            for partition in each["partitions"]
        ]
    await reassign(line, kafka, partitions)
    its = {f"{topic}-{number}" for number in range(line.settings.kafka.partitions)}
    await line.until(lambda: logs_on(disk) == its, 20, "it is alone there")


@asynccontextmanager
async def to_lose(first: LocalKafka, directory: Path) -> AsyncIterator[LocalKafka]:
    """A second broker that has nothing of Kafka's own: the topic of the transactions is made before it is there."""
    async with AIOKafkaProducer(bootstrap_servers=first.bootstrap, transactional_id="first"):
        pass
    async with second_broker(first, directory) as second:
        yield second


async def forgotten(kafka: LocalKafka, second: LocalKafka, state: str, topic: str) -> KafkaLedger:
    """The ledger of a transaction that was committed after its topic's only broker, `second`, had ended."""
    async with admin(kafka.bootstrap) as client:
        on = {state: [1], topic: [2]}
        await client.create_topics([NewTopic(name, -1, -1, replica_assignments={0: it}) for name, it in on.items()])
    producer = AIOKafkaProducer(bootstrap_servers=kafka.bootstrap, transactional_id=f"{state}-0")
    async with producer:
        await producer.begin_transaction()
        await producer.send_and_wait(topic, b"row", b"lead", partition=0)
        await asyncio.to_thread(end, second._process, grace_s=20)
        await producer.commit_transaction()
    limits = LedgerLimits(take_over_s=20, transact_s=3, abort_s=0.5)
    return KafkaLedger(KafkaConnection(kafka.bootstrap), f"{state}-0", state, 0, limits)


def logs_on(disk: Path) -> set[str]:
    """The partitions there, and those on their way to it; not those that Kafka will delete in a while."""
    return {path.name for path in disk.iterdir() if path.is_dir() and not path.name.endswith("-delete")}
