"""Connects to Kafka by the settings: each process and command does this before its work."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from stream_app.config import Settings, client_options
from stream_app.domain.rights import rights_of
from stream_app.kafka.connection import KafkaConnection, admin_of, repeated
from stream_app.kafka.readers import Progress, TopicReader
from stream_app.kafka.rights import check_access


def connection_of(settings: Settings) -> KafkaConnection:
    """Return the address of Kafka and the connection arguments."""
    options = client_options(settings)
    return KafkaConnection(options.pop("bootstrap_servers"), options)


def topic_reader(settings: Settings, progress: Progress | None = None) -> TopicReader:
    """Return a reader of this system's topics."""
    return TopicReader(connection_of(settings), settings.kafka.partitions, progress)


async def kafka_ready(settings: Settings, program: str, say: Callable[[str], None]) -> None:
    """Return when Kafka responds, has the program's topics, and grants it the rights that it needs.

    Args:
        settings: `kafka.broker_wait_s` bounds the wait.
        program: A key of `kafka.rights.rights_of`.
        say: Called with a line for each attempt while Kafka does not respond.

    Raises:
        KafkaRefused: Kafka rejects our credentials or certificate, or rights are missing. Raised at once.
        TopicsError: Topics are missing, or have another number of partitions.
        BrokerUnavailable: Kafka does not respond.
    """
    rights = rights_of(settings.names, settings.replay.tiers_s)[program]
    plan = [topic for topic in settings.topic_plan() if topic.name in rights.topics]
    async with admin_of(connection_of(settings), settings.kafka.broker_wait_s, say) as admin:
        await repeated(partial(check_access, admin, program, rights, plan), settings.kafka.broker_wait_s)
