"""Creates the topics that are missing, compares the others with the plan, and sets what they have otherwise."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Final

import msgspec
from aiokafka.admin import NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import InvalidReplicationFactorError, TopicAlreadyExistsError, for_code

from stream_app.domain.model.errors import TopicsError
from stream_app.domain.model.topics import ExistingTopic, TopicPlan, by_topics, differences, more_than_planned, unequal
from stream_app.kafka.background import Background
from stream_app.kafka.connection import KafkaConnection, Say, admin_of, open_admin, repeated, silent
from stream_app.kafka.protocol import AlterTopics

_VISIBLE_POLL_S: Final = 0.05
_FRESH_S: Final = 10.0


class TopicReport(msgspec.Struct, frozen=True):
    """The result of `create_topics`.

    Attributes:
        problems: One line for each way in which topics have less than is needed.
        more: One line for each setting that is enough, though not as planned.
        lacking: The planned settings of which a topic has less, by topic.
        surplus: The planned settings of which a topic has more, by topic.
    """

    created: list[str]
    unchanged: list[str]
    problems: list[str]
    more: list[str]
    lacking: dict[str, dict[str, str]]
    surplus: dict[str, dict[str, str]]


async def create_topics(connection: KafkaConnection, plan: Sequence[TopicPlan], wait_s: float, say: Say) -> TopicReport:
    """Create the topics that are missing. Existing topics are compared with the plan and not changed.

    `say` gets a line for a person while this waits for the broker.

    Raises:
        BrokerUnavailable: No broker answers in time.
        KafkaRefused: Kafka refuses us.
    """
    async with admin_of(connection, wait_s, say) as admin:
        seen = await repeated(partial(_look, admin, [topic.name for topic in plan]), wait_s)
        missing = [topic for topic in plan if topic.name not in seen]
        created, failed = await _create(admin, missing)
        existing = [topic for topic in plan if topic.name not in failed]
        while any(topic.name not in seen for topic in existing):
            # A broker lists a topic only some time after its creation.
            await asyncio.sleep(_VISIBLE_POLL_S)
            seen = await _look(admin, [topic.name for topic in existing])
        unchanged = [topic.name for topic in existing if topic.name not in created]
        lacking, surplus = (
            {topic.name: other for topic in existing if (other := unequal(topic, seen[topic.name], enough=enough))}
            for enough in (False, True)
        )
        problems = [*by_topics(list(failed.items())), *differences(existing, seen)]
        return TopicReport(created, unchanged, problems, more_than_planned(existing, seen), lacking, surplus)


async def alter_topics(
    connection: KafkaConnection, settings: Mapping[str, Mapping[str, str]], wait_s: float, say: Say
) -> None:
    """Set these settings of topics, by topic. All others stay.

    Raises:
        TopicsError: Kafka refuses some of them; one line for each reason.
        BrokerUnavailable: No broker answers in time.
        KafkaRefused: Kafka refuses us.
    """
    async with admin_of(connection, wait_s, say) as admin:
        answers = (await admin._client.ask_any(AlterTopics(settings))).responses
        if refused := [
            (name, f"Kafka refuses to change it: {message or for_code(code).__name__}")
            for code, message, _, name, _ in answers
            if code
        ]:
            raise TopicsError(by_topics(refused))
        seen = await _look(admin, [*settings])
        while any(settings[name].items() - topic.config.items() for name, topic in seen.items()):
            # A broker shows a setting only some time after its change.
            await asyncio.sleep(_VISIBLE_POLL_S)
            seen = await _look(admin, [*settings])


async def check_topics(
    connection: KafkaConnection, plan: Sequence[TopicPlan], wait_s: float, say: Say = silent
) -> None:
    """Compare the topics with the plan.

    Raises:
        TopicsError: Topics have less than the plan says; one line for each difference.
        BrokerUnavailable: No broker answers in time.
        KafkaRefused: Kafka refuses us.
    """
    async with admin_of(connection, wait_s, say) as admin:
        if problems := differences(plan, await repeated(partial(_look, admin, [topic.name for topic in plan]), wait_s)):
            raise TopicsError(problems)


class TopicsThere(Background[dict[str, ExistingTopic]]):
    """Looks at the planned topics that exist, by name. Asks Kafka every 10 s at most."""

    def __init__(self, connection: KafkaConnection, plan: Sequence[TopicPlan]) -> None:
        super().__init__(_FRESH_S)
        self._connection = connection
        self._plan = plan

    async def _ask(self) -> dict[str, ExistingTopic]:
        async with open_admin(self._connection) as admin:
            return await _look(admin, [topic.name for topic in self._plan])


async def _look(admin: Any, names: Sequence[str]) -> dict[str, ExistingTopic]:
    """Return the topics that exist, by name."""
    described = {topic["topic"]: topic for topic in await admin.describe_topics(names) if not topic["error_code"]}
    if not described:
        return {}
    resources = [ConfigResource(ConfigResourceType.TOPIC, name) for name in described]
    configs: dict[str, dict[str, str | None]] = {}
    for response in await admin.describe_configs(resources):
        for code, message, _, name, entries in response.resources:
            if code:
                raise for_code(code)(message)
            configs[name] = {key: value for key, value, *_ in entries}
    return {
        name: ExistingTopic(
            partitions=len(topic["partitions"]),
            replication=min(len(partition["replicas"]) for partition in topic["partitions"]),
            config=configs[name],
        )
        for name, topic in described.items()
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
    how_many = "there is one broker" if brokers == 1 else f"there are {brokers} brokers"
    return (
        f"could not be created with kafka.replication = {replication}: {how_many}; set kafka.replication = {brokers}, "
        "or start more brokers"
    )
