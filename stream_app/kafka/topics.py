"""Creates the topics that are missing, and compares the others with the plan."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Final

import msgspec
from aiokafka.admin import NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import InvalidReplicationFactorError, TopicAlreadyExistsError, for_code

from stream_app.domain.errors import TopicsError
from stream_app.domain.plural import count
from stream_app.domain.topics import TopicPlan
from stream_app.kafka.connection import Say, admin_of, repeated

_VISIBLE_POLL_S: Final = 0.05

_MIGRATE: Final = (
    "Partitions never change under a running system: each workspace's state lives in its partition. "
    "To migrate, stop the producers, let the worker finish, set a new kafka.namespace, create its topics and go on "
    "there; leads sent before are not known as duplicates in it"
)


class Seen(msgspec.Struct, frozen=True):
    """A topic as the broker has it."""

    partitions: int
    replication: int
    config: dict[str, str | None]


class TopicReport(msgspec.Struct, frozen=True):
    """The result of `create_topics`. `problems` has one line for each difference from the plan."""

    created: list[str]
    unchanged: list[str]
    problems: list[str]


async def create_topics(client: Mapping[str, Any], plan: Sequence[TopicPlan], wait_s: float, say: Say) -> TopicReport:
    """Create the topics that are missing. Existing topics are compared with the plan and not changed.

    Args:
        client: aiokafka's arguments (`client_options`).
        plan: The topics.
        wait_s: How long to wait for the broker, in seconds.
        say: Called with a line for a person while it waits.

    Raises:
        BrokerUnavailable: No broker answers in time.
        KafkaRefused: Kafka refuses us.
    """
    async with admin_of(client, wait_s, say) as admin:
        seen = await repeated(partial(_look, admin, plan), wait_s)
        missing = [topic for topic in plan if topic.name not in seen]
        created, failed = await _create(admin, missing)
        there = [topic for topic in plan if topic.name not in failed]
        while any(topic.name not in seen for topic in there):
            # A broker lists a topic only some time after its creation.
            await asyncio.sleep(_VISIBLE_POLL_S)
            seen = await _look(admin, there)
        unchanged = [topic.name for topic in there if topic.name not in created]
        return TopicReport(created, unchanged, [*_lines(list(failed.items())), *differences(there, seen)])


async def check_topics(client: Mapping[str, Any], plan: Sequence[TopicPlan], wait_s: float, say: Say) -> None:
    """Compare the topics with the plan.

    Args:
        client: aiokafka's arguments (`client_options`).
        plan: The topics.
        wait_s: How long to wait for the broker, in seconds.
        say: Called with a line for a person while it waits.

    Raises:
        TopicsError: Topics differ from the plan; one line for each difference.
        BrokerUnavailable: No broker answers in time.
        KafkaRefused: Kafka refuses us.
    """
    async with admin_of(client, wait_s, say) as admin:
        if problems := differences(plan, await repeated(partial(_look, admin, plan), wait_s)):
            raise TopicsError(problems)


def differences(plan: Sequence[TopicPlan], seen: Mapping[str, Seen]) -> list[str]:
    """Return one line for each difference from the plan, with what to do."""
    found = []
    for topic in plan:
        there = seen.get(topic.name)
        if there is None:
            found.append((topic.name, "there is no such topic; create it with: stream-app topics"))
            continue
        if there.partitions != topic.partitions:
            text = f"has {count(there.partitions, 'partition')}, the config says {topic.partitions}. {_MIGRATE}"
            found.append((topic.name, text))
        if there.replication != topic.replication:
            text = (
                f"has replication {there.replication}, the config says {topic.replication}; set kafka.replication = "
                f"{there.replication}, or change the topic with kafka-reassign-partitions.sh"
            )
            found.append((topic.name, text))
        found += [
            (
                topic.name,
                f"{key} is {there.config.get(key)}, the plan says {wanted}; kafka-configs.sh --alter "
                f"--entity-type topics --entity-name TOPIC --add-config {key}={wanted}",
            )
            for key, wanted in topic.config.items()
            if there.config.get(key) != wanted
            # With fewer replicas than planned, Kafka would refuse every write.
            and (key != "min.insync.replicas" or there.replication == topic.replication)
        ]
    return _lines(found)


def _lines(found: Sequence[tuple[str, str]]) -> list[str]:
    """Return one line for each text, with the names of all its topics."""
    names: dict[str, list[str]] = {}
    for name, text in found:
        names.setdefault(text, []).append(name)
    return [
        f"{those[0]}: {text.replace('TOPIC', those[0])}"
        if len(those) == 1
        else f"{len(those)} topics, each: {text} ({', '.join(those)})"
        for text, those in names.items()
    ]


async def _look(admin: Any, plan: Sequence[TopicPlan]) -> dict[str, Seen]:
    """Return the planned topics that exist, by name."""
    names = [topic.name for topic in plan]
    there = {each["topic"]: each for each in await admin.describe_topics(names) if not each["error_code"]}
    if not there:
        return {}
    resources = [ConfigResource(ConfigResourceType.TOPIC, name) for name in there]
    configs: dict[str, dict[str, str | None]] = {}
    for response in await admin.describe_configs(resources):
        for code, message, _, name, entries in response.resources:
            if code:
                raise for_code(code)(message)
            configs[name] = {key: value for key, value, *_ in entries}
    return {
        name: Seen(
            partitions=len(each["partitions"]),
            replication=min(len(partition["replicas"]) for partition in each["partitions"]),
            config=configs[name],
        )
        for name, each in there.items()
    }


async def _create(admin: Any, missing: Sequence[TopicPlan]) -> tuple[list[str], dict[str, str]]:
    """Return the names of the created topics, and the reason for each that failed. Existing ones are in neither."""
    if not missing:
        return [], {}
    wanted = [
        NewTopic(topic.name, topic.partitions, topic.replication, topic_configs=topic.config) for topic in missing
    ]
    created, failed = [], {}
    for name, code, message in (await admin.create_topics(wanted)).topic_errors:
        error = for_code(code)
        if not code:
            created.append(name)
        elif error is InvalidReplicationFactorError:
            failed[name] = await _too_few_brokers(admin, missing[0].replication)
        elif error is not TopicAlreadyExistsError:
            failed[name] = f"could not be created: {message or error.__name__}"
    return created, failed


async def _too_few_brokers(admin: Any, replication: int) -> str:
    brokers = len((await admin.describe_cluster())["brokers"])
    there = "there is one broker" if brokers == 1 else f"there are {brokers} brokers"
    return (
        f"could not be created with kafka.replication = {replication}: {there}; set kafka.replication = {brokers}, "
        "or start more brokers"
    )
