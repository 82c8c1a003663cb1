"""A worker under load while its broker fails, the checks afterwards, and a second broker that a
test may lose.
"""

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from aiokafka import AIOKafkaProducer
from aiokafka.admin import NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from stream_app.dev.kafka import LocalKafka
from stream_app.dev.process import LOOPBACK, free_port
from tests.e2e.fleet import Fleet
from tests.e2e.load import Load
from tests.e2e.member import Member
from tests.support.kafka import admin, committed
from tests.support.pace import BUSY, slowness

PER_S = 60
ENDED_S = 30
CONFIG = """
[delivery]
request_timeout_s = 7
max_request_start_age_s = 4
commit_timeout_s = 2
uncertain_grace_s = 12
"""
SLOW = """
[[fault]]
kind = "slow"
delay_s = 0.05
"""


@asynccontextmanager
async def loaded(
    kafka: LocalKafka,
    namespace: str,
    bootstrap: str = "",
    *,
    says: str = "",
) -> AsyncIterator[Fleet]:
    """Keep a worker under load while the block runs.

    Afterwards it must continue by itself, and everything must balance.

    says: a pattern that one of the reported causes must match.
    """
    async with Fleet(
        kafka.bootstrap,
        namespace,
        2,
        partitions=2,
        config=CONFIG,
        script=SLOW,
    ) as line:
        worker = line.join(bootstrap=bootstrap)
        async with Load(line, PER_S) as load:
            await line.until(lambda: line.last()["accepted"] >= PER_S, 30, "it runs")
            yield line
            await goes_on(line, 30)
        await line.until_rest(load.count, 30)
        assert worker.alive, worker.output()[-5:]
        for member in line.members:
            if member.alive:
                assert await member.stop() == 0, member.output()[-5:]
                tells(member)
        reported = [because for member in line.members for because in recoveries(member)]
        assert any(re.search(says, because) for because in reported) or not says, reported
        for account in await accounts_of_one_moment(line):
            assert account["reserved"] == 0, account
            assert account["spent"] == account["spent_by_events"], account


async def accounts_of_one_moment(line: Fleet) -> list[dict[str, Any]]:
    """Return the accounts of books that balance, once they compare rows with events.

    The books cannot while a transaction is open, and a broker that has just failed ends the last
    ones later.
    """
    deadline = time.monotonic() + ENDED_S * BUSY
    while True:
        accounts: list[dict[str, Any]] = (await line.books_balance())["accounts"]
        open_ones = [account for account in accounts if account["spent_by_events"] is None]
        if not open_ones:
            return accounts
        assert time.monotonic() < deadline, f"a transaction stays open: {open_ones}"
        await asyncio.sleep(1)


async def goes_on(line: Fleet, within_s: float) -> None:
    """Wait until Clay accepts more leads."""
    seen = line.last()["accepted"]
    await line.until(lambda: line.last()["accepted"] >= seen + PER_S, within_s, "it goes on")


async def nothing_is_acked(line: Fleet) -> None:
    """Wait until the requests in flight have ended, then check that no lead passes any more, on
    Kafka or at Clay.
    """
    await asyncio.sleep(1.5 * slowness())
    group = line.settings.names.worker_app
    acked = await committed(line.bootstrap, group)
    sent = len(line.requests())
    await asyncio.sleep(3)
    assert await committed(line.bootstrap, group) == acked
    assert len(line.requests()) == sent, "no POST without its committed row"


def tells(member: Member) -> None:
    """Check that the worker reported its trouble in a few warnings."""
    assert not member.last_words()
    assert not [line for line in member.logged() if line["level"] == "error"]
    assert len(recoveries(member)) <= 12, recoveries(member)


def recoveries(member: Member) -> list[str]:
    """Return why the worker recovered a partition."""
    return [line["because"] for line in member.logged() if line["event"] == "partition_recovered"]


async def alter(line: Fleet, topic: str, key: str, value: str) -> str:
    """Change one setting of an existing topic. Return the planned value."""
    config = next(plan.config for plan in line.settings.topic_plan() if plan.name == topic)
    async with admin(line.bootstrap) as client:
        await client.alter_configs(
            [ConfigResource(ConfigResourceType.TOPIC, topic, {**config, key: value})],
        )
    return config[key]


async def replicate(line: Fleet, kafka: LocalKafka, topic: str, replicas: list[int]) -> None:
    """Assign the replicas of an existing topic."""
    numbers = range(line.settings.kafka.partitions)
    await reassign(
        line,
        kafka,
        [{"topic": topic, "partition": number, "replicas": replicas} for number in numbers],
        "--additional",
    )
    async with admin(kafka.bootstrap) as client, asyncio.timeout(10 * BUSY):
        while True:
            partitions = (await client.describe_topics([topic]))[0]["partitions"]
            if all(
                set(partition["replicas"]) == set(partition["isr"]) == set(replicas)
                for partition in partitions
            ):
                return
            await asyncio.sleep(0.05)


def second_broker(first: LocalKafka, directory: Path) -> LocalKafka:
    """Another broker of the same cluster.

    Once started, it can hold a replica of a topic, even after it stopped.
    """
    listener = f"PLAINTEXT://{LOOPBACK}:{free_port()}"
    overrides = {
        "process.roles": "broker",
        "node.id": "2",
        "listeners": listener,
        "advertised.listeners": listener,
    }
    same = (
        "controller.quorum.voters",
        "listener.security.protocol.map",
        "inter.broker.listener.name",
    )
    overrides |= {key: first.properties[key] for key in same}
    written = (Path(first.properties["log.dirs"]) / "meta.properties").read_text().splitlines()
    kept = [line for line in written if line.startswith(("version", "cluster.id"))]
    directory.mkdir()
    (directory / "meta.properties").write_text("\n".join([*kept, "node.id=2", ""]))
    return LocalKafka(
        port=int(listener.rpartition(":")[2]),
        overrides=overrides,
        data_dir=directory,
    )


@asynccontextmanager
async def to_lose(
    first: LocalKafka,
    directory: Path,
    *topics: str,
    partitions: int = 1,
) -> AsyncIterator[LocalKafka]:
    """Start a second broker that holds only these topics.

    Kafka's internal topics are created on the first one before.
    """
    async with AIOKafkaProducer(bootstrap_servers=first.bootstrap, transactional_id="first"):
        pass
    async with second_broker(first, directory) as second, admin(first.bootstrap) as client:
        only_there = {number: [2] for number in range(partitions)}
        await client.create_topics(
            [NewTopic(name, -1, -1, replica_assignments=only_there) for name in topics],
        )
        yield second


async def reassign(
    line: Fleet,
    kafka: LocalKafka,
    partitions: list[dict[str, Any]],
    *options: str,
) -> None:
    file = line.directory / "replicas.json"
    file.write_text(json.dumps({"version": 1, "partitions": partitions}))
    tool = "org.apache.kafka.tools.reassign.ReassignPartitionsCommand"
    await asyncio.to_thread(
        kafka.run_tool,
        tool,
        "--reassignment-json-file",
        str(file),
        "--execute",
        *options,
    )
