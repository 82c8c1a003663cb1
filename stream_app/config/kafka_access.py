"""Connects to Kafka by the settings: each process and command does this before its work."""

import ssl
from collections.abc import Callable
from functools import partial
from typing import Any, Final, Literal

import msgspec
from aiokafka import TopicPartition

from stream_app.config.model import OAuth, Security, Settings
from stream_app.config.secret_files import Secrets
from stream_app.domain.model.errors import SettingsError, TopicsError
from stream_app.domain.model.system import deletion_problem, system_problem
from stream_app.kafka.connection import KafkaConnection, Say, admin_of, repeated, silent
from stream_app.kafka.oauth import Token, Tokens, aws_msk, client_credentials
from stream_app.kafka.readers import Progress, Reader, TopicReader
from stream_app.kafka.rights import check_access, rights_of

_COMPARED: Final = frozenset(
    {"worker", "replay", "board", "board with operator_token_env", "erase"}
    | {"suppress add", "suppress remove", "suppress list"},
)
"""The programs that read rows, or write hashes of people: they compare their settings with those of
the namespace.
"""

_NEED_ROWS: Final = frozenset({"worker", "suppress list"})
"""The programs that would do harm on a state that was lost: send leads again, or say that nobody is
suppressed.
"""

_ROWS_ARE_LOST: Final = (
    "the rows of its leads and the suppression list are lost, and a lead that comes again would be "
    "paid for again: take a new kafka.namespace (docs/backup.md, stream-app-state is gone)"
)
_FIRST_BYTES: Final = 4_096  # of each partition; Kafka sends one batch at least


def connection_of(settings: Settings) -> KafkaConnection:
    """Return the address of Kafka, and TLS and SASL as aiokafka's keyword arguments.

    Raises SettingsError if a certificate cannot be read.
    """
    security = settings.kafka.security
    options: dict[str, Any] = {"security_protocol": security.protocol}
    if security.protocol.endswith("SSL"):
        options["ssl_context"] = _ssl_context(security, settings.secrets)
    if security.protocol.startswith("SASL"):
        options["sasl_mechanism"] = security.mechanism
        if security.mechanism == "OAUTHBEARER":
            tokens = Tokens(
                _token_source(security.oauth, settings.secrets),
                security.oauth.extensions,
            )
            options["sasl_oauth_token_provider"] = tokens
        else:
            options["sasl_plain_username"] = security.username
            options["sasl_plain_password"] = settings.secrets.get(security.password_env)
    return KafkaConnection(settings.kafka.bootstrap, options, settings.names.inputs)


def stranger_connection(settings: Settings) -> KafkaConnection:
    """Return the connection of an unauthenticated client: no user, no client certificate."""
    security = settings.kafka.security
    protocol: Literal["PLAINTEXT", "SSL"] = (
        "SSL" if security.protocol.endswith("SSL") else "PLAINTEXT"
    )
    kafka = msgspec.structs.replace(
        settings.kafka,
        security=Security(protocol=protocol, ca_file=security.ca_file),
    )
    return connection_of(msgspec.structs.replace(settings, kafka=kafka))


def topic_reader(settings: Settings, progress: Progress | None = None) -> TopicReader:
    """Return a reader of this system's topics."""
    return TopicReader(connection_of(settings), settings.kafka.partitions, progress)


async def kafka_ready(settings: Settings, program: str, say: Say = silent) -> None:
    """Return when Kafka responds, has the program's topics, and grants it the rights that it needs.

    Args:
        settings: `kafka.broker_wait_s` bounds the wait.
        program: A key of `kafka.rights.rights_of`.
        say: Called with a line for each attempt while Kafka does not respond.

    Raises:
        KafkaRefused: Kafka rejects our credentials or certificate, or rights are missing. Raised at
            once.
        TopicsError: Topics are missing, have another number of partitions, or the state was lost.
        SettingsError: The settings are not those that the namespace began with, and the program
            depends on them.
        BrokerUnavailable: Kafka does not respond.
    """
    rights = rights_of(settings.names, settings.replay.tiers_s)[program]
    plan = [topic for topic in settings.topic_plan() if topic.name in rights.topics]
    wait_s = settings.kafka.broker_wait_s
    work = "the check of topics and rights"
    async with admin_of(connection_of(settings), wait_s, say, work=work) as admin:
        await repeated(partial(check_access, admin, program, rights, plan), wait_s)
    if program in _COMPARED:
        await _check_system(settings, needs_rows=program in _NEED_ROWS)


async def namespace_problems(settings: Settings) -> list[str]:
    """Return how the settings differ from those that the namespace began with, a line each.

    Raises:
        KafkaRefused: We may not read the state.
        BrokerUnavailable: Kafka does not answer.
    """
    try:
        await _check_system(settings, needs_rows=False)
    except SettingsError as error:
        return error.problems
    return []


async def _check_system(settings: Settings, *, needs_rows: bool) -> None:
    """Compare the settings with the first record of each partition of the state.

    With `needs_rows` the state must not be lost: no partition of it is empty whose lanes have
    records, because both are written in the same transactions. A state that has records which
    cannot be read yet is not lost: the take-over ends their transaction.
    """
    names = settings.names
    partitions = settings.kafka.partitions
    connection = connection_of(settings)
    async with Reader(connection, max_partition_fetch_bytes=_FIRST_BYTES) as reader:
        firsts = await reader.firsts(
            [TopicPartition(names.state, number) for number in range(partitions)],
        )
        begins = await reader.begins(
            [TopicPartition(names.state, number) for number in range(partitions)],
        )
        for place, begin in sorted(begins.items()):
            if problem := deletion_problem(begin):
                raise TopicsError([f"{place.topic}/{place.partition}: {problem}"])
        for place, record in sorted(firsts.items()):
            if problem := system_problem(record.key, record.value, partitions):
                raise SettingsError([f"{place.topic}/{place.partition}: {problem}"])
        unread = set(range(partitions)) - {place.partition for place in firsts}
        if not needs_rows or not unread:
            return
        lanes = await reader.firsts([TopicPartition(names.lanes, number) for number in unread])
    if not lanes:
        return
    states = [TopicPartition(names.state, place.partition) for place in sorted(lanes)]
    async with Reader(connection, isolation_level="read_uncommitted") as reader:
        begins = await reader.begins(states)
        ends = await reader.ends(states)
    for topic, number in (place for place in states if begins[place] == ends[place]):
        raise TopicsError(
            [f"{topic}/{number}: it is empty, and {names.lanes}/{number} is not: {_ROWS_ARE_LOST}"],
        )


def _token_source(oauth: OAuth, secrets: Secrets) -> Callable[[], Token]:
    if oauth.aws_region is None:
        secret = secrets[oauth.client_secret_env or ""]
        return client_credentials(oauth.token_url or "", oauth.client_id or "", secret, oauth.scope)
    try:
        return aws_msk(oauth.aws_region)
    except ImportError:
        text = (
            "kafka.security.oauth.aws_region needs Amazon's signer: pip install 'stream-app[msk]'"
        )
        raise SettingsError([text]) from None


def _ssl_context(security: Security, secrets: Secrets) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=security.ca_file)
        if security.cert_file:
            # Without a password OpenSSL asks on the terminal; with an empty one it fails.
            password = secrets.get(security.key_password_env) or ""
            context.load_cert_chain(security.cert_file, security.key_file, password)
    except (OSError, ssl.SSLError) as exc:
        raise SettingsError([f"kafka.security: cannot use a certificate or key: {exc}"]) from exc
    return context
