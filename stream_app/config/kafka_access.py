"""The first contact with Kafka by the settings: what every process and command does before its work."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from stream_app.config import Settings, client_options
from stream_app.domain.rights import rights_of
from stream_app.kafka.access import admin_of
from stream_app.kafka.clients import repeated
from stream_app.kafka.connection import KafkaConnection
from stream_app.kafka.rights import check_access


def connection_of(settings: Settings) -> KafkaConnection:
    """Where Kafka is, and how to connect to it."""
    options = client_options(settings)
    return KafkaConnection(options.pop("bootstrap_servers"), options)


async def kafka_ready(settings: Settings, program: str, say: Callable[[str], None]) -> None:
    """Return when Kafka answers, has the topics that the program touches, and allows it what it has to do.

    Args:
        settings: Its `kafka.broker_wait_s` bounds the wait.
        program: A key of `core.rights.rights_of`.
        say: Takes a line for each try while Kafka does not answer.

    Raises:
        KafkaRefused: Kafka refuses our credentials or certificate, or rights are missing; at once.
        TopicsError: Topics are missing, or have another number of partitions.
        BrokerUnavailable: Kafka does not answer.
    """
    rights = rights_of(settings.names, settings.replay.tiers_s)[program]
    plan = [topic for topic in settings.topic_plan() if topic.name in rights.topics]
    async with admin_of(client_options(settings), settings.kafka.broker_wait_s, say) as admin:
        await repeated(partial(check_access, admin, program, rights, plan), settings.kafka.broker_wait_s)
