"""Asks others whether they answer, and changes nothing there. Each says in words what it found, or ProbeFailed."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final
from urllib.parse import urlsplit

import redis.asyncio
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import GroupCoordinatorNotAvailableError, KafkaError, TransactionalIdAuthorizationFailed

from stream_app.cache.redis import tls_options
from stream_app.clay.client import ClayClient
from stream_app.clay.egress import Egress
from stream_app.domain.errors import BrokerUnavailable, KafkaRefused, StreamAppError
from stream_app.domain.plural import count
from stream_app.kafka.access import admin_of
from stream_app.kafka.clients import kafka_admin, kafka_producer
from stream_app.kafka.clock import KafkaClock, ask_kafka_for_its_time
from stream_app.kafka.closing import close_admin, stop_producer
from stream_app.kafka.connection import KafkaConnection
from stream_app.kafka.groups import look_at
from stream_app.kafka.rights import allowed

_PAUSE_S: Final = 0.5


class ProbeFailed(StreamAppError):
    """What was asked does not answer as it should: one line, with what to do."""


async def kafka_answers(connection: KafkaConnection, within_s: float) -> str:
    """A broker is there, and takes our TLS and SASL settings."""
    try:
        async with admin_of(connection.settings(), within_s, lambda _: None) as admin:
            cluster = await admin.describe_cluster()
    except KafkaRefused as refused:
        raise ProbeFailed(str(refused)) from refused
    except BrokerUnavailable as error:
        raise ProbeFailed(f"{error} Does a firewall let this machine through?") from error
    return f"{len(cluster['brokers'])} brokers answer at {connection.bootstrap}"


async def strangers_may_not_write(stranger: KafkaConnection, topics: Sequence[str], within_s: float) -> str:
    """Kafka keeps a client that proves nothing about itself from writing to these topics. Nothing is written.

    Args:
        stranger: A connection without a user or certificate.
        topics: Topics whose records are obeyed without a token.
        within_s: How long to wait for a broker.

    Raises:
        ProbeFailed: Any client that reaches Kafka may write there.
    """
    try:
        async with admin_of(stranger.settings(), within_s, lambda _: None) as admin:
            open_to_all = await allowed(admin, "Write", topics)
    except (KafkaRefused, BrokerUnavailable, KafkaError) as error:
        return f"Kafka takes no client without credentials ({_name(error)})"
    if open_to_all:
        raise ProbeFailed(
            f"any client that reaches Kafka may write to {', '.join(sorted(open_to_all))}, where records are obeyed "
            "without a token: set up authentication and the rights of docs/kafka-rights.md, or keep Kafka's port on a "
            "network that you trust"
        )
    return f"only clients with credentials may write to {', '.join(sorted(topics))}"


async def may_transact(connection: KafkaConnection, transactional_id: str, within_s: float) -> str:
    """A transactional id like those of the worker is given to us. Use one that no worker has: it would be fenced."""
    producer = kafka_producer(**connection.settings(), transactional_id=transactional_id)
    allow = f"allow Write and Describe on transactional ids that begin with {transactional_id.rpartition('-')[0]}-"
    try:
        async with asyncio.timeout(within_s):
            await producer.start()
    except TransactionalIdAuthorizationFailed as error:
        raise ProbeFailed(f"Kafka refuses our transactions: {allow}") from error
    except (KafkaError, TimeoutError) as error:
        raise ProbeFailed(f"Kafka gives no transactional id ({_name(error)}): is it healthy? Else {allow}") from error
    finally:
        await stop_producer(producer)
    return "transactions are allowed"


async def clocks_agree(connection: KafkaConnection, transactional_id: str, topic: str, within_s: float) -> str:
    """This machine's clock is Kafka's, but for seconds. Appends to `topic` in a transaction that is aborted."""
    clock = KafkaClock(lambda _: None)
    try:
        await ask_kafka_for_its_time(connection, transactional_id, topic, clock, within_s)
    except (KafkaError, TimeoutError) as error:
        raise ProbeFailed(f"Kafka does not tell its time ({_name(error)}): allow Write on {topic}") from error
    if clock.text:
        raise ProbeFailed(clock.text)
    return "this machine's clock agrees with Kafka's"


async def may_join(connection: KafkaConnection, group: str, within_s: float) -> str:
    """The offsets of a group are shown to us: without that right nobody may join it."""
    admin = kafka_admin(**connection.settings())
    try:
        async with asyncio.timeout(within_s):
            await admin.start()
            await _offsets(admin, group)
    except (KafkaError, TimeoutError) as error:
        raise ProbeFailed(
            f"Kafka does not show the offsets of {group} ({_name(error)}): allow Read and Describe on the group"
        ) from error
    finally:
        await close_admin(admin)
    return f"group {group} is open to us"


async def runs(connection: KafkaConnection, process: str, group: str, within_s: float) -> str:
    """At least one process is in its consumer group.

    Args:
        connection: Where Kafka is.
        process: `worker` or `replay`.
        group: Its consumer group.
        within_s: How long to wait for Kafka, in seconds.

    Raises:
        ProbeFailed: None is, or Kafka does not say.
    """
    try:
        async with asyncio.timeout(within_s):
            members = (await look_at(connection, [group]))[group][0].members
    except (BrokerUnavailable, KafkaError, TimeoutError) as error:
        raise ProbeFailed(f"Kafka does not say who is in the group {group} ({_name(error)}): try again") from error
    if not members:
        raise ProbeFailed(f"no {process} process runs (group {group}): start one with `stream-app {process}`")
    return f"{count(members, 'process runs', 'processes run')} (group {group})"


async def redis_answers(url: str, within_s: float, ca_file: str | None = None) -> str:
    """It lets us read, with the URL's password and TLS. The URL is a secret and shows nowhere."""
    try:
        async with asyncio.timeout(within_s), redis.asyncio.from_url(url, **tls_options(url, ca_file)) as client:
            await client.get("stream-app-doctor")
    except (redis.RedisError, OSError, TimeoutError, ValueError) as error:
        raise ProbeFailed(
            f"Redis does not answer ({_name(error)}): are the URL, its password and TLS (rediss://) right? "
            "Nothing is lost without it, the cache only starts cold"
        ) from error
    return "Redis answers"


async def host_answers(url: str, egress: Egress, within_s: float) -> str:
    """The host of a webhook takes a connection, as the worker's client makes it. Nothing is sent, nothing is paid for.

    url  scheme, host and port; its path is not used.
    """
    where = urlsplit(url).netloc
    way = " through the proxy" if egress.proxy_url else ""
    async with ClayClient(
        request_timeout_s=within_s + 2, connect_timeout_s=within_s, pool_timeout_s=1, egress=egress
    ) as client:
        refused = await client.reach(url)
    if refused is None:
        return f"{where} takes connections{way}"
    if refused.reason == "tls":
        raise ProbeFailed(
            f"{where} has no certificate that is trusted here ({refused.text}): if this network inspects TLS, name its "
            "authority's PEM file in egress.ca_file"
        )
    if refused.reason == "proxy":
        raise ProbeFailed(
            f"{where} cannot be reached ({refused.text}): are address, user and password in the variable that "
            "egress.proxy_env names right, and does the proxy allow this host?"
        )
    raise ProbeFailed(
        f"{where} cannot be reached{way} ({refused.text}): does a firewall let this machine out, is DNS right, or is "
        "there a proxy to be named in egress.proxy_env?"
    )


async def _offsets(admin: AIOKafkaAdminClient, group: str) -> None:
    while True:
        try:
            await admin.list_consumer_group_offsets(group)
        except GroupCoordinatorNotAvailableError:  # of a cluster whose first group this is
            await asyncio.sleep(_PAUSE_S)
        else:
            return


def _name(error: BaseException) -> str:
    """What went wrong without what it was said about, which may be a secret."""
    return type(error).__name__
