"""The broker fails in every way in the middle of a load: the worker waits, says so, and goes on by itself.

Judged afterwards from outside: nothing lost, nothing sent twice, every story legal, and the books balance.
"""

from __future__ import annotations

import asyncio
import json
import re
import resource
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from stream_app.adapters.connection import KafkaConnection
from stream_app.adapters.ledger import KafkaLedger, LedgerLimits
from stream_app.core.errors import Aborted
from stream_app.core.record import Record
from stream_app.dev.kafka import LocalKafka
from stream_app.dev.process import LOOPBACK, StartError, end, free_port
from tests.adapters.support import committed, read_committed
from tests.e2e.fleet import Fleet, Member
from tests.e2e.load import Load
from tests.proxy import ProxiedKafka
from tests.small_disk import NoSmallDiskError, small_disk

pytestmark = pytest.mark.timeout(120)
FROZEN_S = 30  # five times the session timeout
PER_S = 60
CONFIG = """
[line]
request_timeout_s = 7
connect_timeout_s = 1
max_request_start_age_s = 4
commit_timeout_s = 2
uncertain_grace_s = 12
"""
SLOW = """
[[fault]]
kind = "slow"
delay_s = 0.05
"""
Broken = Callable[[], Awaitable[None]]


@pytest.fixture(scope="module")
def broker() -> Iterator[ProxiedKafka]:
    try:
        with ProxiedKafka() as own:
            yield own
    except StartError as error:
        pytest.fail(str(error), pytrace=False)


async def test_a_restart(broker: ProxiedKafka, namespace: str) -> None:
    async with loaded(broker, namespace):
        await asyncio.to_thread(broker.restart)


@pytest.mark.long
@pytest.mark.timeout(180)
async def test_frozen_for_longer_than_the_session(broker: ProxiedKafka, namespace: str) -> None:
    """Nobody can take over meanwhile, but whoever is told to stop can."""
    async with loaded(broker, namespace, says="no answer within 2 s") as line:
        worker, other = line.members[0], line.join()
        await line.spread([worker, other], 30)
        broker.freeze()
        try:
            code, _ = await asyncio.gather(line.stop(other.process), asyncio.sleep(FROZEN_S))
        finally:
            broker.thaw()
        assert code == 0, other.said()[-3:]


async def test_connections_are_cut_again_and_again(broker: ProxiedKafka, namespace: str) -> None:
    async with broker.proxy() as proxy, loaded(broker, namespace, proxy.address) as line:
        for _ in range(4):
            proxy.cut()
            await asyncio.sleep(0.3)
            proxy.mend()
            await goes_on(line, 20)


@pytest.mark.long
async def test_too_few_replicas(broker: ProxiedKafka, namespace: str, tmp_path: Path) -> None:
    """NOT_ENOUGH_REPLICAS: the events' topic has a replica on a broker that is gone, and wants both."""
    where = rf"{namespace}leads\.status/\d did not take it: NotEnoughReplicasError, fewer of its replicas are in sync"
    async with loaded(broker, namespace, says=where) as line:
        status = line.settings.names.status
        async with second_broker(broker, tmp_path / "second"):
            await replicate(line, broker, status, [1, 2])
        was = await alter(line, status, "min.insync.replicas", "2")
        await nothing_is_acked(line)
        # Nor can Kafka end the transaction that was refused, or the one before, and so the take-over waits as well.
        waits = re.compile(rf"not taken over .*Kafka has not ended the transaction before .*{status}")
        await line.until(lambda: any(map(waits.search, recoveries(line.members[0]))), 20, "the take-over tells why")
        await replicate(line, broker, status, [1])
        await alter(line, status, "min.insync.replicas", was)


@pytest.mark.long
async def test_records_are_too_large(broker: ProxiedKafka, namespace: str) -> None:
    """MESSAGE_TOO_LARGE, for whatever the line says: it tries again, and ever more rarely."""
    async with loaded(broker, namespace, says="did not take it: MessageSizeTooLargeError") as line:
        status = line.settings.names.status
        was = await alter(line, status, "max.message.bytes", "100")
        await nothing_is_acked(line)
        await alter(line, status, "max.message.bytes", was)


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


# ------------------------------------------------------------------------------------------------- what all share


@asynccontextmanager
async def loaded(kafka: LocalKafka, namespace: str, bootstrap: str = "", *, says: str = "") -> AsyncIterator[Fleet]:
    """A worker under load while the block runs; then it must go on by itself, and everything must be in order.

    says: a pattern of what a worker must have told as the reason of its trouble.
    """
    async with Fleet(kafka.bootstrap, namespace, 2, partitions=2, config=CONFIG, script=SLOW) as line:
        worker = line.join(bootstrap=bootstrap)
        async with Load(line, PER_S) as load:
            await line.until(lambda: line.last()["accepted"] >= PER_S, 30, "it runs")
            yield line
            await goes_on(line, 30)
        await line.until_rest(load.count, 30)
        assert worker.alive, worker.said()[-5:]
        for member in line.members:
            if member.alive:
                assert await line.stop(member.process) == 0, member.said()[-5:]
                tells(member)
        told = [because for member in line.members for because in recoveries(member)]
        assert any(re.search(says, because) for because in told) or not says, told
        code, said = await line.run("books", "--json")
        assert code == 0, said
        for account in json.loads(said[: said.rindex("}") + 1])["accounts"]:
            assert account["reserved"] == 0, account
            assert account["spent"] == account["spent_by_events"], account


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


async def goes_on(line: Fleet, within_s: float) -> None:
    """Leads of each workspace reach Clay that did not before."""
    seen = line.last()["accepted"]
    await line.until(lambda: line.last()["accepted"] >= seen + PER_S, within_s, "it goes on")


async def nothing_is_acked(line: Fleet) -> None:
    """Once what was under way has come to rest, no lead passes any more, in Kafka's books or in Clay's."""
    await asyncio.sleep(1.5)
    group = line.settings.names.worker_app
    acked, sent = await committed(line.bootstrap, group), len(line.requests())
    await asyncio.sleep(3)
    assert await committed(line.bootstrap, group) == acked
    assert len(line.requests()) == sent, "no POST without its committed row"


def tells(member: Member) -> None:
    """All that it said of its trouble are a few lines of warning."""
    assert not member.last_words()
    assert not [line for line in logged(member) if line["level"] == "error"]
    assert len(recoveries(member)) <= 12, recoveries(member)


def logged(member: Member) -> list[dict[str, Any]]:
    return [json.loads(line) for line in member.said() if line.startswith("{")]


def recoveries(member: Member) -> list[str]:
    """Why it took a partition over again."""
    return [line["because"] for line in logged(member) if line["event"] == "partition_taken_over_again"]


async def alter(line: Fleet, topic: str, key: str, value: str) -> str:
    """Change one setting of a running topic; returns what the plan says of it."""
    config = next(plan.config for plan in line.settings.topic_plan() if plan.name == topic)
    async with admin(line.bootstrap) as client:
        await client.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, {**config, key: value})])
    return config[key]


@asynccontextmanager
async def admin(bootstrap: str) -> AsyncIterator[Any]:
    client = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await client.start()
    try:
        yield client
    finally:
        await client.close()


async def replicate(line: Fleet, kafka: LocalKafka, topic: str, replicas: list[int]) -> None:
    """Say which brokers have a running topic."""
    numbers = range(line.settings.kafka.partitions)
    await reassign(
        line, kafka, [{"topic": topic, "partition": number, "replicas": replicas} for number in numbers], "--additional"
    )
    async with admin(kafka.bootstrap) as client, asyncio.timeout(10):
        while True:
            there = (await client.describe_topics([topic]))[0]["partitions"]
            if all(set(each["replicas"]) == set(each["isr"]) == set(replicas) for each in there):
                return
            await asyncio.sleep(0.05)


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


def logs_on(disk: Path) -> set[str]:
    """The partitions there, and those on their way to it; not those that Kafka will delete in a while."""
    return {path.name for path in disk.iterdir() if path.is_dir() and not path.name.endswith("-delete")}


async def reassign(line: Fleet, kafka: LocalKafka, partitions: list[dict[str, Any]], *options: str) -> None:
    file = line.directory / "replicas.json"
    file.write_text(json.dumps({"version": 1, "partitions": partitions}))
    tool = "org.apache.kafka.tools.reassign.ReassignPartitionsCommand"
    await asyncio.to_thread(kafka.run_tool, tool, "--reassignment-json-file", str(file), "--execute", *options)


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


def second_broker(first: LocalKafka, directory: Path) -> LocalKafka:
    """Another broker of the same cluster; once it was started, it can be a topic's replica, gone or not."""
    listener = f"PLAINTEXT://{LOOPBACK}:{free_port()}"
    overrides = {
        "process.roles": "broker",
        "node.id": "2",
        "listeners": listener,
        "advertised.listeners": listener,
    }
    same = ("controller.quorum.voters", "listener.security.protocol.map", "inter.broker.listener.name")
    overrides |= {key: first.properties[key] for key in same}
    written = (Path(first.properties["log.dirs"]) / "meta.properties").read_text().splitlines()
    kept = [line for line in written if line.startswith(("version", "cluster.id"))]
    directory.mkdir()
    (directory / "meta.properties").write_text("\n".join([*kept, "node.id=2", ""]))
    return LocalKafka(port=int(listener.rpartition(":")[2]), overrides=overrides, data_dir=directory)
