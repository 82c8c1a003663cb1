"""Topics on a real Kafka: created as planned, and every difference is reported."""

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import InvalidReplicationFactorError

from stream_app.cli.main import main
from stream_app.client.doctor.checks import Check, examine
from stream_app.config import Settings
from stream_app.dev.kafka import Broker
from stream_app.domain.model.errors import TopicsError
from stream_app.domain.model.topics import Retention, TopicNames, TopicPlan, plan
from stream_app.kafka.connection import KafkaConnection
from stream_app.kafka.topics import alter_topics, check_topics, create_topics, existing_topics
from tests.support.doctor import settings_for
from tests.support.pace import BUSY

WAIT_S = 20.0 * BUSY
DAY_MS = 86_400_000


def client(broker: Broker) -> KafkaConnection:
    return KafkaConnection(broker.bootstrap)


def small(namespace: str, **retention: int) -> list[TopicPlan]:
    return plan(TopicNames(namespace), 2, 1, Retention(**retention), (2,))


async def test_missing_topics_are_created_as_planned_and_only_once(
    kafka: Broker,
    namespace: str,
) -> None:
    topics = small(namespace)
    lines: list[str] = []
    with pytest.raises(TopicsError) as caught:
        await check_topics(client(kafka), topics, WAIT_S, lines.append)
    (line,) = caught.value.problems
    assert line.startswith(
        f"{len(topics)} topics, each: there is no such topic; create it with: stream-app topics (",
    )
    assert all(topic.name in line for topic in topics)
    first = await create_topics(client(kafka), topics, WAIT_S, lines.append)
    assert first.created == [topic.name for topic in topics]
    assert first.problems == []
    again = await create_topics(client(kafka), topics, WAIT_S, lines.append)
    assert again.created == []
    assert again.problems == []
    assert again.unchanged == first.created
    await check_topics(client(kafka), topics, WAIT_S, lines.append)
    assert lines == []


async def test_topics_are_created_once_the_broker_has_joined_its_cluster(
    kafka: Broker,
    namespace: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One that has just started answers before the controller places a partition on it."""
    create = AIOKafkaAdminClient.create_topics
    times = 0

    async def create_later(self: AIOKafkaAdminClient, wanted: Sequence[NewTopic]) -> object:
        nonlocal times
        times += 1
        if times > 2:
            return await create(self, wanted)
        refused = InvalidReplicationFactorError.errno
        return SimpleNamespace(
            topic_errors=[(topic.name, refused, "all brokers are fenced") for topic in wanted],
        )

    monkeypatch.setattr(AIOKafkaAdminClient, "create_topics", create_later)
    topics = small(namespace)
    report = await create_topics(client(kafka), topics, WAIT_S, print)
    assert report.problems == []
    assert report.created == [topic.name for topic in topics]
    assert times == 3


async def test_each_difference_is_a_line_and_nothing_is_changed(
    kafka: Broker,
    namespace: str,
) -> None:
    await create_topics(client(kafka), small(namespace, leads_days=3), WAIT_S, print)
    wanted = [msgspec.structs.replace(topic, partitions=5) for topic in small(namespace)[:1]]
    report = await create_topics(client(kafka), wanted, WAIT_S, print)
    partitions, retention = report.problems
    assert partitions.startswith(
        f"{namespace}leads: has 2 partitions, the config says 5; a system keeps",
    )
    assert (
        "retention.ms is 259200000, the plan says 604800000; set it with: stream-app topics --apply"
        in retention
    )
    with pytest.raises(TopicsError) as caught:
        await check_topics(client(kafka), wanted, WAIT_S, print)
    assert caught.value.problems == report.problems


async def test_settings_that_differ_are_set_and_all_others_stay(
    kafka: Broker,
    namespace: str,
) -> None:
    before = small(namespace, leads_days=3)
    after = small(namespace)
    before[0].config["compression.type"] = "zstd"
    await create_topics(client(kafka), before, WAIT_S, print)
    report = await create_topics(client(kafka), after, WAIT_S, print)
    leads = f"{namespace}leads"
    week = {"retention.ms": str(7 * DAY_MS)}
    assert report.lacking == {leads: week, f"{namespace}leads.retry": week}
    assert report.surplus == {}
    await alter_topics(client(kafka), report.lacking, WAIT_S, print)
    report = await create_topics(client(kafka), after, WAIT_S, print)
    assert report.problems == []
    assert report.more == []
    assert report.lacking == {}
    assert report.surplus == {}
    seen = await existing_topics(client(kafka), after).look(WAIT_S)
    assert seen is not None
    assert seen[leads].config["compression.type"] == "zstd"


def test_topics_apply_sets_what_is_lacking_and_shortens_nothing_without_yes(
    kafka: Broker,
    namespace: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "stream_app.toml"
    text = (
        f'kafka = {{ bootstrap = "{kafka.bootstrap}", namespace = "{namespace}", partitions = 2, '
        "replication = 1 }"
    )
    path.write_text(text)
    assert main(["topics", "--config", str(path)]) == 0
    path.write_text(f"{text}\n[topics]\nparked_days = 366\nstatus_days = 29\n")
    assert main(["topics", "--config", str(path)]) == 1
    errors = capsys.readouterr().err
    assert (
        f"{namespace}leads.parked: retention.ms is 31536000000, the plan says 31622400000; set it"
        in errors
    )
    assert (
        f"warning: {namespace}leads.status: retention.ms is 2592000000, the plan says "
        "2505600000; that is"
    ) in errors
    assert main(["topics", "--apply", "--config", str(path)]) == 0
    printed = capsys.readouterr()
    assert f"changed {namespace}leads.parked: retention.ms = 31622400000\n" in printed.out
    assert printed.out.endswith("0 created, 1 changed, 18 were there, 0 problems\n")
    assert "set it with" not in printed.err, "it is set"
    assert main(["topics", "--config", str(path)]) == 0
    (left,) = capsys.readouterr().err.splitlines()
    assert left.startswith(f"warning: {namespace}leads.status: "), (
        "records would be deleted, so nothing is shortened"
    )
    assert main(["topics", "--apply", "--yes", "--json", "--config", str(path)]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["changed"] == {f"{namespace}leads.status": {"retention.ms": "2505600000"}}
    assert main(["topics", "--config", str(path)]) == 0
    assert capsys.readouterr().err == ""


def test_a_namespace_of_an_earlier_build_is_named(
    kafka: Broker,
    namespace: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A process refuses it at its start, so that who prepares an upgrade learns of it before."""
    settings = settings_for(tmp_path, kafka.bootstrap, namespace)
    path = str(settings.path)
    assert main(["topics", "--config", path]) == 0
    checks = asyncio.run(_examined(settings))
    assert ("namespace", "ok") in [(check.name, check.verdict) for check in checks]
    asyncio.run(_write(kafka.bootstrap, settings.names.state, b"d/acme/people/crm-1"))
    capsys.readouterr()
    assert main(["topics", "--config", path]) == 1
    printed = capsys.readouterr()
    assert (
        f"{settings.names.state}/0: it has rows that were written by an earlier build"
        in printed.err
    )
    assert printed.out.endswith("1 problem\n")
    failed = [check for check in asyncio.run(_examined(settings)) if check.name == "namespace"]
    assert [(check.verdict, "written by an earlier build" in check.text) for check in failed] == [
        ("failed", True),
    ]


async def _write(bootstrap: str, topic: str, key: bytes) -> None:
    async with AIOKafkaProducer(bootstrap_servers=bootstrap) as producer:
        await producer.send_and_wait(topic, b"{}", key=key, partition=0)


async def _examined(settings: Settings) -> list[Check]:
    return [check async for check in examine(settings)]


async def test_replication_that_differs_or_cannot_be(kafka: Broker, namespace: str) -> None:
    (leads,) = [topic for topic in small(namespace) if topic.name == f"{namespace}leads"]
    await create_topics(client(kafka), [leads], WAIT_S, print)
    wanted = plan(TopicNames(namespace), 2, 3, Retention(), (2,))[:3]
    report = await create_topics(client(kafka), wanted, WAIT_S, print)
    assert report.created == []
    assert report.problems == [
        "2 topics, each: could not be created with kafka.replication = 3: there is one "
        "broker; set kafka.replication "
        f"= 1, or start more brokers ({namespace}leads.retry, {namespace}leads.bulk)",
        f"{namespace}leads: has replication 1, the config says 3; set kafka.replication = 1, "
        "or change the topic with "
        "kafka-reassign-partitions.sh",
    ], "and no min.insync.replicas that one broker can never have"
