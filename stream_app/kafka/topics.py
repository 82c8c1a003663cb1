"""Holds the topics to their plan: creates, compares and alters them, and watches them.

A process has to notice that a topic was deleted, created again or given more partitions while it
runs. Rows identify records by topic, partition and offset: a worker that continued would take new
leads for old ones, and with a new state topic it would forget which leads were paid for. With more
partitions, names of workspaces hash to other partitions. A changed topic id shows a new topic. A
log that ends earlier than before has lost records, which is as bad.
"""

import asyncio
import logging
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from types import MappingProxyType
from typing import Any, Final

import msgspec
from aiokafka import TopicPartition
from aiokafka.admin import NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import (
    InvalidReplicationFactorError,
    KafkaError,
    NodeNotReadyError,
    TopicAlreadyExistsError,
    for_code,
)

from stream_app.domain.model.errors import BrokerUnavailable, KafkaRefused, TopicsError
from stream_app.domain.model.text import count
from stream_app.domain.model.topics import (
    MORE_PARTITIONS,
    ExistingTopic,
    TopicPlan,
    by_topics,
    differences,
    more_than_planned,
    unequal,
)
from stream_app.kafka.connection import (
    Background,
    KafkaConnection,
    Say,
    admin_of,
    open_admin,
    refusal_or_silence,
    repeated,
    silent,
)
from stream_app.kafka.protocol import NO_TOPIC_ID, AlterTopics, Metadata
from stream_app.kafka.readers import Reader
from stream_app.ops.logs import Throttled

_VISIBLE_POLL_S: Final = 0.05
_FRESH_S: Final = 10.0
log = logging.getLogger(__name__)
_WHAT_NOW: Final = (
    "Rows and group offsets speak of its old records: stop all processes, set a new "
    "kafka.namespace, create its topics "
    "with: stream-app topics; leads sent before are not known as duplicates there"
)
_ROWS_ARE_DELETED: Final = (
    "Kafka deletes rows by their age then, and without them a lead that comes again is paid "
    "for again: set it to "
    "compact with: stream-app topics --apply; then start the processes, which say if rows "
    "are lost already"
)
_EVERY_S: Final = 1.0
_POLICIES_EVERY_S: Final = 20.0
_MISSING_S: Final = 10.0  # a broker that has just started may not list its topics yet


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


async def create_topics(
    connection: KafkaConnection,
    plan: Sequence[TopicPlan],
    wait_s: float,
    say: Say,
) -> TopicReport:
    """Create the topics that are missing.

    Existing topics are compared with the plan and not changed.

    `say` gets a line for a person while this waits for the broker.

    Raises:
        BrokerUnavailable: No broker answers in time, or the work takes too long.
        KafkaRefused: Kafka refuses us.
    """
    async with admin_of(connection, wait_s, say, work="the creation of topics") as admin:
        seen = await repeated(partial(_look, admin, [topic.name for topic in plan]), wait_s)
        missing = [topic for topic in plan if topic.name not in seen]
        created, failed = await repeated(partial(_create, admin, missing), wait_s)
        existing = [topic for topic in plan if topic.name not in failed]
        while any(topic.name not in seen for topic in existing):
            # A broker lists a topic only some time after its creation.
            await asyncio.sleep(_VISIBLE_POLL_S)
            seen = await _look(admin, [topic.name for topic in existing])
        unchanged = [topic.name for topic in existing if topic.name not in created]
        lacking = _unequal_topics(existing, seen, enough=False)
        surplus = _unequal_topics(existing, seen, enough=True)
        problems = [*by_topics(list(failed.items())), *differences(existing, seen)]
        return TopicReport(
            created,
            unchanged,
            problems,
            more_than_planned(existing, seen),
            lacking,
            surplus,
        )


async def alter_topics(
    connection: KafkaConnection,
    settings: Mapping[str, Mapping[str, str]],
    wait_s: float,
    say: Say,
) -> None:
    """Set these settings of topics, by topic. All others stay.

    Raises:
        TopicsError: Kafka refuses some of them; one line for each reason.
        BrokerUnavailable: No broker answers in time, or the work takes too long.
        KafkaRefused: Kafka refuses us.
    """
    async with admin_of(connection, wait_s, say, work="the change of topics") as admin:
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
    connection: KafkaConnection,
    plan: Sequence[TopicPlan],
    wait_s: float,
    say: Say = silent,
) -> None:
    """Compare the topics with the plan.

    Raises:
        TopicsError: Topics have less than the plan says; one line for each difference.
        BrokerUnavailable: No broker answers in time, or the work takes too long.
        KafkaRefused: Kafka refuses us.
    """
    async with admin_of(connection, wait_s, say, work="the description of topics") as admin:
        if problems := differences(
            plan,
            await repeated(partial(_look, admin, [topic.name for topic in plan]), wait_s),
        ):
            raise TopicsError(problems)


def existing_topics(
    connection: KafkaConnection,
    plan: Sequence[TopicPlan],
) -> Background[dict[str, ExistingTopic]]:
    """Look at the planned topics that exist, by name. Asks Kafka every 10 s at most."""

    async def ask() -> dict[str, ExistingTopic]:
        async with open_admin(connection) as admin:
            return await _look(admin, [topic.name for topic in plan])

    return Background(ask, _FRESH_S)


async def _look(admin: Any, names: Sequence[str]) -> dict[str, ExistingTopic]:
    """Return the topics that exist, by name."""
    described = {
        topic["topic"]: topic
        for topic in await admin.describe_topics(names)
        if not topic["error_code"]
    }
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
    """Return the names of the created topics, and the reason for each that failed.

    Existing ones are in neither.

    Raises:
        NodeNotReadyError: A broker has not joined its cluster yet.
    """
    if not missing:
        return [], {}
    wanted = [
        NewTopic(plan.name, plan.partitions, plan.replication, topic_configs=plan.config)
        for plan in missing
    ]
    created = []
    failed = {}
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
    if not brokers or brokers >= replication:
        # A broker that has just started answers before the controller places a partition on it.
        raise NodeNotReadyError("a broker has not joined its cluster yet")
    how_many = "there is one broker" if brokers == 1 else f"there are {brokers} brokers"
    return (
        f"could not be created with kafka.replication = {replication}: {how_many}; set "
        f"kafka.replication = {brokers}, "
        "or start more brokers"
    )


def _unequal_topics(
    plan: Sequence[TopicPlan],
    existing: Mapping[str, ExistingTopic],
    *,
    enough: bool,
) -> dict[str, dict[str, str]]:
    """Return by topic the settings that `unequal` names. Topics without any are left out."""
    by_topic = {topic.name: unequal(topic, existing[topic.name], enough=enough) for topic in plan}
    return {name: settings for name, settings in by_topic.items() if settings}


class KnownTopics:
    """The ids of the topics as the process first saw them. The whole process shares one instance.

    `partitions`: how many each topic must have; None: any number.
    """

    def __init__(self, partitions: int | None = None) -> None:
        self._partitions = partitions
        self._ids: dict[str, bytes] = {}

    def compare(self, topics: Iterable[str], described: Iterable[Mapping[str, Any]]) -> set[str]:
        """Compare topics with the ids that are known, and return those that are missing.

        `described`: the topics of an answer to Metadata. Of a topic that was read, take that of its
            leader.

        Raises:
            TopicsError: Another topic has the name of one that was seen, or a topic has more
                partitions.
        """
        missing = set(topics)
        for topic in described:
            if topic["error_code"]:
                continue
            name = topic["topic"]
            seen = topic.get("topic_id", NO_TOPIC_ID)
            missing.discard(name)
            if self._ids.setdefault(name, seen) != seen:
                raise TopicsError(
                    [
                        (
                            f"{name}: the topic was deleted and created again while this process "
                            f"ran. {_WHAT_NOW}"
                        ),
                    ],
                )
            if self._partitions is not None:
                _check_partitions(topic, self._partitions)
        return missing


def _check_partitions(topic: Mapping[str, Any], partitions: int) -> None:
    """Raise TopicsError if a topic of an answer to Metadata has more partitions.

    One with fewer is the answer of a broker that does not know of all of them yet: Kafka removes
    none.
    """
    if (number := len(topic["partitions"])) > partitions:
        raise TopicsError(
            [
                f"{topic['topic']} has {count(number, 'partition')}, and this process runs "
                f"with {partitions}: "
                f"partitions were added while it ran, and Kafka removes none; {MORE_PARTITIONS}",
            ],
        )


async def watch_partitions(
    connection: KafkaConnection,
    topics: Collection[str],
    partitions: int,
) -> None:
    """Look every second, until cancelled.

    Raises TopicsError with one line if a topic has more partitions.
    """
    while True:
        with suppress(BrokerUnavailable, KafkaRefused):  # the process reports that Kafka is away
            async with open_admin(connection) as admin:
                while True:
                    for topic in (await admin._client.ask_any(Metadata(topics))).to_object()[
                        "topics"
                    ]:
                        if not topic["error_code"]:
                            _check_partitions(topic, partitions)
                    await asyncio.sleep(_EVERY_S)
        await asyncio.sleep(_EVERY_S)


class TopicWatch:
    """Checks topics every second.

    Args:
        connection: How to connect to Kafka.
        known: The ids of the topics as the process first saw them.
        topics: The topics whose loss ends the process.
        partitions: How many partitions each topic has.
        compacted: Those whose records must not be deleted by age. The process ends if Kafka is set
            to do so.
        on_lost: The topics that a process fills again, with what to call when such a topic is
            another one, or has lost records. A topic that is missing cannot be filled, so nothing
            is called before it is there again.
    """

    def __init__(
        self,
        connection: KafkaConnection,
        known: KnownTopics,
        topics: Sequence[str],
        partitions: int,
        compacted: Sequence[str] = (),
        on_lost: Mapping[str, Callable[[], None]] = MappingProxyType({}),
    ) -> None:
        self._connection = connection
        self._known = known
        self._topics = topics
        self._partitions = partitions
        self._compacted = compacted
        self._policies_at_s = 0.0
        self._on_lost = on_lost
        self._logs = [
            TopicPartition(topic, number) for topic in topics for number in range(partitions)
        ]
        self._ends: dict[TopicPartition, int] = {}
        self._ids: dict[str, bytes] = {}
        self._missing_since_s: float | None = None
        self._refused = Throttled(lambda why: log.error("Kafka refuses this process: %s", why))

    async def run(self) -> None:
        """Check until cancelled.

        Raises TopicsError with one line; waits while no broker answers.
        """
        while True:
            try:
                async with Reader(self._connection, isolation_level="read_uncommitted") as reader:
                    while True:
                        await self.look(reader)
                        await self._look_at_policies()
                        await asyncio.sleep(_EVERY_S)
            except (KafkaError, BrokerUnavailable, KafkaRefused):
                try:
                    await refusal_or_silence(self._connection)
                    self._refused.reset()
                # The process continues, because other brokers may accept it.
                except KafkaRefused as refused:
                    self._refused(str(refused))
                await asyncio.sleep(_EVERY_S)

    async def look(self, reader: Reader) -> None:
        """Check once. Raises TopicsError, BrokerUnavailable, KafkaRefused or KafkaError."""
        wanted = [*self._topics, *self._on_lost]
        described = (await reader.client.ask_any(Metadata(wanted))).to_object()["topics"]
        await self._look_for_lost(
            reader,
            [topic for topic in described if topic["topic"] in self._on_lost],
        )
        strict = [topic for topic in described if topic["topic"] not in self._on_lost]
        if gone := self._known.compare(self._topics, strict):
            now_s = asyncio.get_running_loop().time()
            if self._missing_since_s is None:
                self._missing_since_s = now_s
            if now_s - self._missing_since_s >= _MISSING_S:
                raise TopicsError(
                    [f"{min(gone)}: the topic was deleted while this process ran. {_WHAT_NOW}"],
                )
            return
        self._missing_since_s = None
        for log, end in (await reader.ends(self._logs)).items():
            if end < self._ends.get(log, 0):
                fell = (
                    f"partition {log.partition} was at offset {self._ends[log]} and ends at {end}"
                )
                why = "the topic was deleted and created again, or Kafka lost records"
                raise TopicsError([f"{log.topic}: {fell}: {why}. {_WHAT_NOW}"])
            self._ends[log] = end

    async def _look_at_policies(self) -> None:
        """Check now and then that Kafka deletes no rows.

        It deletes them some minutes after such a change.
        """
        now_s = asyncio.get_running_loop().time()
        if not self._compacted or now_s < self._policies_at_s:
            return
        self._policies_at_s = now_s + _POLICIES_EVERY_S
        async with open_admin(self._connection) as admin:
            seen = await _look(admin, self._compacted)
        for name, topic in seen.items():
            policy = topic.config.get("cleanup.policy")
            if policy != "compact":
                raise TopicsError([f"{name}: cleanup.policy is {policy}. {_ROWS_ARE_DELETED}"])

    async def _look_for_lost(self, reader: Reader, described: Sequence[Mapping[str, Any]]) -> None:
        for topic in described:
            if topic["error_code"]:
                continue
            _check_partitions(topic, self._partitions)
            name = topic["topic"]
            seen = topic.get("topic_id", NO_TOPIC_ID)
            is_lost = self._ids.setdefault(name, seen) != seen
            self._ids[name] = seen
            ends = await reader.ends(
                [TopicPartition(name, number) for number in range(self._partitions)],
            )
            is_lost |= any(end < self._ends.get(place, 0) for place, end in ends.items())
            self._ends |= ends
            if is_lost:
                log.warning(
                    "%s lost its records, or was deleted and created again: it is filled again",
                    name,
                )
                self._on_lost[name]()
