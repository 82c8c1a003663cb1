"""The checks of a set-up, which spend no credit.

`examine` yields one line for each check, with a remedy if it fails. Each check is independent and
bounded in time. Without Kafka, checks that need it are skipped. Checks of other systems change
nothing in them: each returns what it has found, or raises CheckFailed.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Final, Literal
from urllib.parse import urlsplit

import msgspec
import redis.asyncio
from aiokafka.errors import KafkaError, TransactionalIdAuthorizationFailed

from stream_app import __version__
from stream_app.cache.redis import tls_options
from stream_app.clay import Egress
from stream_app.clay.client import reach
from stream_app.client.doctor import routines
from stream_app.client.doctor.gateways import (
    CheckFailed,
    announcements_come_in,
    callbacks_come_in,
    gateway_answers,
    proxy_waits,
)
from stream_app.client.lanes.views import last_views
from stream_app.client.messages import NO_URL, MessageReceiver, NotDelivered, trial_body
from stream_app.client.results.lookup import check_board
from stream_app.clock import Clock
from stream_app.config import Settings
from stream_app.config.kafka_access import (
    connection_of,
    kafka_ready,
    namespace_problems,
    stranger_connection,
)
from stream_app.domain.model.addresses import is_loopback_url
from stream_app.domain.model.errors import (
    BoardUnavailable,
    BrokerUnavailable,
    KafkaRefused,
    NotTheBoard,
    StreamAppError,
    TopicsError,
)
from stream_app.domain.model.text import count
from stream_app.domain.model.topics import shared_partitions
from stream_app.domain.views.explain import ConsumerGroup, Facts, LaneFacts, explain, held_text
from stream_app.kafka.clock import KafkaClock, ask_kafka_for_its_time
from stream_app.kafka.connection import (
    KafkaConnection,
    admin_of,
    kafka_producer,
    open_admin,
    silent,
    stop_producer,
)
from stream_app.kafka.groups import committed_offsets, look_at
from stream_app.kafka.rights import allowed
from stream_app.kafka.topics import check_topics
from stream_app.trace import OtlpClient, ReceiverUnavailable, SpansRefused


async def kafka_answers(connection: KafkaConnection, within_s: float) -> str:
    """Check that a broker answers and accepts our TLS and SASL settings. Raises CheckFailed."""
    try:
        async with admin_of(connection, within_s) as admin:
            cluster = await admin.describe_cluster()
    except KafkaRefused as refused:
        raise CheckFailed(str(refused)) from refused
    except BrokerUnavailable as error:
        raise CheckFailed(f"{error} Does a firewall let this machine through?") from error
    return (
        f"{count(len(cluster['brokers']), 'broker answers', 'brokers answer')} at "
        f"{connection.bootstrap}"
    )


async def strangers_may_not_write(
    stranger: KafkaConnection,
    topics: Sequence[str],
    within_s: float,
) -> str:
    """Check that a client without credentials may not write to these topics. Nothing is written.

    `topics` are those whose records take effect without a token. Raises CheckFailed if such a
    client may write there.
    """
    try:
        async with admin_of(stranger, within_s) as admin:
            open_to_all = await allowed(admin, "Write", topics)
    except (KafkaRefused, BrokerUnavailable, KafkaError) as error:
        return f"Kafka accepts no client without credentials ({_name(error)})"
    if open_to_all:
        raise CheckFailed(
            f"any client that reaches Kafka may write to {', '.join(sorted(open_to_all))}, "
            "where records take effect without a token: set up authentication and the rights of "
            "docs/kafka-rights.md, or keep Kafka's port on a trusted network",
        )
    return f"only clients with credentials may write to {', '.join(sorted(topics))}"


async def may_transact(connection: KafkaConnection, transactional_id: str, within_s: float) -> str:
    """Check that we get a transactional id like a worker's.

    The id must be unused: its owner would be fenced.
    """
    producer = kafka_producer(**connection.settings(), transactional_id=transactional_id)
    allow = (
        "allow Write and Describe on transactional ids that begin with "
        f"{transactional_id.rpartition('-')[0]}-"
    )
    try:
        async with asyncio.timeout(within_s):
            await producer.start()
    except TransactionalIdAuthorizationFailed as error:
        raise CheckFailed(f"Kafka refuses our transactions: {allow}") from error
    except (KafkaError, TimeoutError) as error:
        raise CheckFailed(
            f"Kafka gives no transactional id ({_name(error)}): is it healthy? Else {allow}",
        ) from error
    finally:
        await stop_producer(producer)
    return "transactions are allowed"


async def clocks_agree(
    connection: KafkaConnection,
    transactional_id: str,
    topic: str,
    within_s: float,
) -> str:
    """Check that this machine's clock agrees with Kafka's.

    Appends to `topic` in a transaction that is aborted.
    """
    clock = KafkaClock(silent)
    try:
        await ask_kafka_for_its_time(connection, transactional_id, topic, clock, within_s)
    except (KafkaError, TimeoutError) as error:
        raise CheckFailed(
            f"cannot read Kafka's time ({_name(error)}): allow Write on {topic}",
        ) from error
    if clock.text:
        raise CheckFailed(clock.text)
    return "this machine's clock agrees with Kafka's"


async def may_join(connection: KafkaConnection, group: str, within_s: float) -> str:
    """Check that we may read the offsets of a group, which joining it requires.

    Raises CheckFailed.
    """
    try:
        async with asyncio.timeout(within_s), open_admin(connection) as admin:
            await committed_offsets(admin, group)
    except (StreamAppError, TimeoutError) as error:
        # What Kafka refused is the cause of our error; that of a timeout is only how the wait was
        # ended.
        why = _name(error if isinstance(error, TimeoutError) else error.__cause__ or error)
        raise CheckFailed(
            f"Kafka does not show the offsets of {group} ({why}): "
            "allow Read and Describe on the group",
        ) from error
    return f"group {group} is open to us"


async def runs(connection: KafkaConnection, process: str, group: str, within_s: float) -> str:
    """Check that at least one process (`worker` or `replay`) is in its consumer group.

    Raises CheckFailed.
    """
    try:
        async with asyncio.timeout(within_s):
            members = (await look_at(connection, [group]))[group][0].members
    except (BrokerUnavailable, KafkaError, TimeoutError) as error:
        raise CheckFailed(
            f"cannot read the members of the group {group} ({_name(error)}): try again",
        ) from error
    if not members:
        raise CheckFailed(
            f"no {process} process runs (group {group}): start one with `stream-app {process}`",
        )
    return f"{count(members, 'process runs', 'processes run')} (group {group})"


async def redis_answers(url: str, within_s: float, ca_file: str | None = None) -> str:
    """Check that Redis answers with the URL's password and TLS.

    The URL is secret and never shown.
    """
    try:
        async with (
            asyncio.timeout(within_s),
            redis.asyncio.from_url(url, **tls_options(url, ca_file)) as client,
        ):
            await client.get("stream-app-doctor")
    except (redis.RedisError, OSError, TimeoutError, ValueError) as error:
        raise CheckFailed(
            f"Redis does not answer ({_name(error)}): are the URL, its password and TLS "
            "(rediss://) right? Without it nothing is lost; the cache only starts cold",
        ) from error
    return "Redis answers"


async def host_answers(url: str, egress: Egress, within_s: float) -> str:
    """Check that the host of a URL accepts a connection of the worker's client.

    Nothing is sent or paid for.

    Raises CheckFailed if the host cannot be reached.
    """
    where = urlsplit(url).netloc
    way = " through the proxy" if egress.proxy_url else ""
    refused = await reach(url, egress, within_s)
    if refused is None:
        return f"{where} accepts connections{way}"
    if refused.reason == "tls":
        others = (
            "install the system's certificate authorities (ca-certificates), or, "
            if egress.tls is True
            else ""
        )
        raise CheckFailed(
            f"{where} has no certificate trusted here ({refused.text}): {others}if this network "
            "inspects TLS, name its authority's PEM file in egress.ca_file",
        )
    if refused.reason == "proxy":
        raise CheckFailed(
            f"{where} cannot be reached ({refused.text}): are address, user and password in the "
            "variable that egress.proxy_env names right, and does the proxy allow this host?",
        )
    raise CheckFailed(
        f"{where} cannot be reached{way} ({refused.text}): does a firewall block this machine, "
        "is DNS right, or must egress.proxy_env name a proxy?",
    )


def _name(error: BaseException) -> str:
    """Return only the error's type: its text may hold a secret."""
    return type(error).__name__


_WITHIN_S: Final = 10.0

_NO_PEPPER: Final = (
    "no pepper: hashes of people can be guessed from a list of addresses; "
    "set privacy.pepper_env (docs/privacy.md)"
)

CheckResult = Literal["ok", "advice", "failed", "skipped"]


class Check(msgspec.Struct, frozen=True):
    """One check. `text` is the finding and, unless "ok", the remedy. It holds no secret."""

    name: str
    verdict: CheckResult
    text: str


async def examine(
    settings: Settings,
    *,
    notify: bool = False,
    hold: bool = False,
) -> AsyncIterator[Check]:
    """Yield each check when it is done. Raises as `make_egress`.

    Args:
        settings: The set-up.
        notify: Send a test message, too.
        hold: Also measure whether the proxy waits as long as a callback is held, which takes
            `gateway.hold_s`.
    """
    egress = settings.make_egress()
    async for check in _of_kafka(settings):
        yield check
    if not settings.privacy.pepper_env:
        yield Check("privacy", "advice", _NO_PEPPER)
    for line in shared_partitions(settings.homes, settings.kafka.partitions, settings.pins):
        yield Check("partitions", "advice", line)
    if settings.redis.url_env is None:
        yield Check("redis", "skipped", "none is configured: the cache is in memory")
    else:
        url = settings.secrets[settings.redis.url_env]
        yield await _check("redis", redis_answers(url, _WITHIN_S, settings.redis.ca_file))
    for url in _webhook_hosts(settings):
        yield await _check("clay", host_answers(url, egress, _WITHIN_S))
    async for check in _routines(settings, egress):
        yield check
    async for check in _callbacks(settings, egress, hold=hold):
        yield check
    yield await _board(settings)
    if settings.trace.endpoint is not None:
        yield await trace_check(settings)
    if notify:
        yield await message_check(settings, egress)


async def _check(name: str, outcome: Awaitable[str], failed: CheckResult = "failed") -> Check:
    try:
        return Check(name, "ok", await outcome)
    except CheckFailed as error:
        return Check(name, failed, str(error))


async def _of_kafka(settings: Settings) -> AsyncIterator[Check]:
    """Yield the checks of Kafka and of the processes that use it."""
    connection = connection_of(settings)
    names = settings.names
    kafka = await _check("kafka", kafka_answers(connection, _WITHIN_S))
    yield kafka
    if kafka.verdict != "ok":
        for name in (
            "topics",
            "namespace",
            "strangers",
            "transactions",
            "clock",
            "lanes",
            "group",
            "worker",
            "replay",
        ):
            yield Check(name, "skipped", "it needs Kafka")
        return
    topics = await _topics(settings)
    own_id = f"{names.worker_app}-doctor"

    async def with_topics(name: str, check: Callable[[], Awaitable[Check]]) -> Check:
        fine = all(topic.verdict == "ok" for topic in topics)
        return await check() if fine else Check(name, "skipped", "it needs the topics")

    for check in topics:
        yield check
    # advice, not a failure: the network may be closed, which `doctor` cannot see
    closed = partial(
        strangers_may_not_write,
        stranger_connection(settings),
        (names.commands, names.callbacks),
    )
    yield await with_topics("namespace", lambda: _namespace(settings))
    yield await with_topics(
        "strangers",
        lambda: _check("strangers", closed(_WITHIN_S), "advice"),
    )
    yield await _check("transactions", may_transact(connection, own_id, _WITHIN_S))
    agree = partial(clocks_agree, connection, own_id, names.audit)
    yield await with_topics("clock", lambda: _check("clock", agree(_WITHIN_S)))
    yield await with_topics("lanes", lambda: _lanes(settings))
    for name, group in (("worker", names.worker_app), ("replay", names.replay_app)):
        opened = await _check("group", may_join(connection, group, _WITHIN_S))
        yield opened
        if opened.verdict == "ok":
            yield await _check(name, runs(connection, name, group, _WITHIN_S))
        else:
            yield Check(name, "skipped", f"it needs to see the group {group}")


async def _namespace(settings: Settings) -> Check:
    """Check that this version and these settings can go on with what is on Kafka."""
    try:
        problems = await namespace_problems(settings)
    except StreamAppError as error:
        problems = [str(error)]
    if problems:
        return Check("namespace", "failed", "; ".join(problems))
    return Check("namespace", "ok", "what is on Kafka began with these settings, or is empty")


async def _lanes(settings: Settings) -> Check:
    """Give advice where lanes are held: nothing of theirs is sent although the set-up is right."""
    try:
        views = await last_views(settings)
        now_ms = Clock().now_ms()
    except StreamAppError as error:
        return Check("lanes", "failed", str(error))
    known = [LaneFacts(name, view.partition, view, {}) for name, view in views.items()]
    running = ConsumerGroup("Stable", 1)
    findings = explain(Facts(now_ms, running, running, known))
    if held := held_text(findings, count(len(settings.workspaces), "lane")):
        return Check("lanes", "advice", f"{held}: `stream-app explain` says why, and what lifts it")
    return Check("lanes", "ok", "no lane is held")


async def _board(settings: Settings) -> Check:
    """Give advice where no board answers, because nothing waits for one."""
    try:
        await asyncio.to_thread(check_board, settings.board_url)
    except BoardUnavailable as error:
        return Check("board", "failed" if isinstance(error, NotTheBoard) else "advice", str(error))
    return Check("board", "ok", f"the board answers at {settings.board_url}")


async def _topics(settings: Settings) -> list[Check]:
    plan = settings.topic_plan()
    try:
        with suppress(TopicsError):
            await kafka_ready(settings, "doctor")
        await check_topics(connection_of(settings), plan, _WITHIN_S)
    except (TopicsError, BrokerUnavailable, KafkaRefused) as error:
        return [Check("topics", "failed", line) for line in str(error).split("\n")]
    return [Check("topics", "ok", f"{len(plan)} topics are as planned")]


async def trace_check(settings: Settings) -> Check:
    """Send an empty request to the receiver of `[trace]`.

    Give advice, not a failure: leads need no traces.
    """
    name = settings.trace.headers_env
    if name is not None and name not in settings.secrets:
        return Check("traces", "skipped", f"it needs {name}, the headers of the trace process")
    endpoint = settings.trace.endpoint or ""
    async with OtlpClient(endpoint, settings.trace_headers, __version__, "doctor") as client:
        try:
            await client.send([])
        except (ReceiverUnavailable, SpansRefused) as error:
            return Check("traces", "advice", str(error))
    return Check("traces", "ok", f"{endpoint} takes traces")


async def message_check(settings: Settings, egress: Egress) -> Check:
    """Send a test message to the webhook of `[notify]`."""
    name = settings.notify.url_env
    if name is None:
        return Check("notify", "failed", NO_URL)
    async with MessageReceiver(settings.secrets[name], egress) as receiver:
        try:
            await receiver.post(trial_body(settings.notify.format, Clock().now_ms()))
        except NotDelivered as error:
            return Check("notify", "failed", str(error))
    return Check("notify", "ok", f"{receiver.host} took a test message")


def _webhook_hosts(settings: Settings) -> list[str]:
    """Return the hosts of webhooks and APIs, as URLs without the path, which may be secret."""
    names = (
        name for destination in settings.destinations.values() for name in destination.webhooks_env
    )
    webhooks = [settings.secrets[name] for name in names]
    apis = [endpoint.url for endpoint in routines.apis_to_try(settings).values()]
    urls = map(urlsplit, [*webhooks, *apis])
    return sorted({f"{url.scheme}://{url.netloc}" for url in urls})


async def _routines(settings: Settings, egress: Egress) -> AsyncIterator[Check]:
    """Try the key of each workspace with routines, and name what the file may have better."""
    for name, endpoint in routines.apis_to_try(settings).items():
        key = await _check("api key", routines.key_works(name, endpoint, egress, _WITHIN_S))
        yield key
        if key.verdict == "ok":
            paid = routines.balance_suffices(settings, name, endpoint, egress, _WITHIN_S)
            yield await _check("balance", paid, "advice")
        else:
            yield Check("balance", "skipped", "it needs the API key")
    for line in routines.advice(settings):
        yield Check("routines", "advice", line)


async def _callbacks(
    settings: Settings,
    egress: Egress,
    *,
    hold: bool = False,
) -> AsyncIterator[Check]:
    waiting = [
        alias for alias, destination in settings.destinations.items() if destination.calls_back
    ]
    announced = [
        alias for alias, destination in settings.destinations.items() if destination.run_webhook
    ]
    if not waiting and not announced:
        text = "no destination has callbacks (callbacks = false, or a routine without run_webhook)"
        yield Check("callbacks", "skipped", text)
        return
    public_url = settings.gateway.public_url or ""
    if urlsplit(public_url).scheme == "http":
        yield Check(
            "callbacks",
            "advice",
            "gateway.public_url is http: results and tokens are not encrypted; use https",
        )
    try:
        is_proxied = await gateway_answers(settings, egress, _WITHIN_S)
    except CheckFailed as error:
        yield Check("callbacks", "failed", str(error))  # once, not per destination
        return
    if is_proxied:
        yield Check("proxy", "ok", f"a reverse proxy answers at {public_url}")
    elif is_loopback_url(public_url):
        yield Check(
            "proxy",
            "skipped",
            "gateway.public_url is this machine, and no reverse proxy answers there",
        )
    else:
        text = (
            f"the gateway itself answers at {public_url}, so that any peer could exhaust its "
            "memory: put a reverse proxy with TLS in front of it, such as deploy/nginx.conf, "
            "which keeps the header Connection to itself"
        )
        yield Check("proxy", "failed", text)
    for alias in waiting:
        yield await _check("callbacks", callbacks_come_in(settings, alias, egress, _WITHIN_S))
    for alias in announced:
        yield await _check("callbacks", announcements_come_in(settings, alias, egress, _WITHIN_S))
    if hold and waiting:
        yield await _check("proxy", proxy_waits(settings, waiting[0], egress))
