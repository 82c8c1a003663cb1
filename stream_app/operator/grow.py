"""`stream-app topics --grow`: adds partitions to a running system, if every workspace keeps its home."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from aiokafka import TopicPartition

from stream_app.config import Settings
from stream_app.config.kafka_access import connection_of
from stream_app.domain.errors import SettingsError
from stream_app.domain.text import count
from stream_app.kafka.connection import Say
from stream_app.kafka.readers import Reader
from stream_app.kafka.topics import TopicReport, create_topics, partitions_of_topics

_NAMED: Final = 5


async def grow(settings: Settings, say: Say) -> TopicReport:
    """Create missing topics, and add missing partitions to the others. What is done already is not done again.

    `kafka.partitions` is the new number. `say` is called with a line for a person while it waits for Kafka.

    Raises:
        SettingsError: The configuration would give workspaces other homes.
        TopicsError: Kafka does not add partitions.
        BrokerUnavailable: No broker answers in time.
        KafkaRefused: Kafka refuses us.
    """
    connection, plan, kafka = connection_of(settings), settings.topic_plan(), settings.kafka
    there = await partitions_of_topics(connection, plan, kafka.broker_wait_s, say)
    if there:
        _check_hashed(settings, min(there.values()))
        await _check_homes(settings, there)
    return await create_topics(connection, plan, kafka.broker_wait_s, say, grow=True)


def _check_hashed(settings: Settings, there: int) -> None:
    hashed, partitions = settings.kafka.hashed_partitions, settings.kafka.partitions
    if there >= partitions:
        return
    if hashed is None:
        raise SettingsError(
            [
                f"kafka.hashed_partitions is not set: set it to {there}, the number of partitions that the topics have "
                "now, in the configuration of every process and producer; then workspaces keep their homes"
            ]
        )
    if hashed > there:
        raise SettingsError(
            [
                f"kafka.hashed_partitions = {hashed}: a topic has {count(there, 'partition')}, and workspaces were "
                f"hashed over no more: set it to {there}"
            ]
        )


async def _check_homes(settings: Settings, there: Mapping[str, int]) -> None:
    """Raise SettingsError if a lane that was ever shown would have another home. A lane is shown at its home."""
    topic, homes = settings.names.lanes, settings.homes
    places = [TopicPartition(topic, number) for number in range(there.get(topic, 0))]
    moved: dict[str, int] = {}
    async with Reader(connection_of(settings)) as reader:
        begins, ends = await reader.begins(places), await reader.ends(places)
        async for got in reader.scan({place: (begins[place], ends[place]) for place in places}):
            for place, records in got.items():
                home = place.partition
                names = {record.key.decode() for record in records if record.key and record.value}
                moved |= {name: home for name in names if homes.get(name, home) != home}
    if moved:
        lines = [
            f"workspace {name} has its home in partition {moved[name]}, the configuration says {homes[name]}"
            for name in sorted(moved)
        ]
        more = [f"and {count(len(lines) - _NAMED, 'more workspace')}"] if len(lines) > _NAMED else []
        raise SettingsError(
            [
                *lines[:_NAMED],
                *more,
                "homes never change: set kafka.hashed_partitions to the number of partitions that the system began "
                "with, and leave `partition` of these workspaces as it was",
            ]
        )
