"""The checks of a set-up. Each is independent and bounded in time. Without Kafka, checks that need it are skipped."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import suppress
from typing import Final, Literal
from urllib.parse import urlsplit

import msgspec

from stream_app import __version__
from stream_app.clay.egress import Egress
from stream_app.client.lookup import check_board
from stream_app.client.messages import NO_URL, NotDelivered, Receiver, trial_body
from stream_app.config import Settings
from stream_app.config.egress import egress_of
from stream_app.config.kafka_access import connection_of, kafka_ready, stranger_connection
from stream_app.doctor.probes import (
    ProbeFailed,
    callbacks_come_in,
    clocks_agree,
    gateway_answers,
    host_answers,
    kafka_answers,
    may_join,
    may_transact,
    redis_answers,
    runs,
    strangers_may_not_write,
)
from stream_app.domain.errors import BoardUnavailable, BrokerUnavailable, KafkaRefused, NotTheBoard, TopicsError
from stream_app.domain.hosts import is_loopback_url
from stream_app.domain.topics import shared_partitions
from stream_app.kafka.topics import check_topics
from stream_app.ops.clock import SystemClock
from stream_app.trace.otlp import OtlpClient, ReceiverUnavailable, SpansRefused

_WITHIN_S: Final = 10.0

_NO_PEPPER: Final = (
    "no pepper: hashes of people can be guessed from a list of addresses; set privacy.pepper_env (docs/privacy.md)"
)

Verdict = Literal["ok", "advice", "failed", "skipped"]


class Check(msgspec.Struct, frozen=True):
    """One check. `text` is the finding and, unless "ok", the remedy. It holds no secret."""

    name: str
    verdict: Verdict
    text: str


async def examine(settings: Settings, *, notify: bool = False) -> AsyncIterator[Check]:
    """Yield each check when it is done. `notify`: send a test message, too. Raises SettingsError as `egress_of`."""
    egress = egress_of(settings)
    connection, names = connection_of(settings), settings.names
    kafka = await _probe("kafka", kafka_answers(connection, _WITHIN_S))
    yield kafka
    if kafka.verdict == "ok":
        there = True
        async for check in _topics(settings):
            there = there and check.verdict == "ok"
            yield check
        if there:
            yield await _strangers(settings)
        else:
            yield Check("strangers", "skipped", "it needs the topics")
        yield await _probe("transactions", may_transact(connection, f"{names.worker_app}-doctor", _WITHIN_S))
        if there:
            agree = clocks_agree(connection, f"{names.worker_app}-doctor", names.audit, _WITHIN_S)
            yield await _probe("clock", agree)
        else:
            yield Check("clock", "skipped", "it needs the topics")
        for name, group in (("worker", names.worker_app), ("replay", names.replay_app)):
            opened = await _probe("group", may_join(connection, group, _WITHIN_S))
            yield opened
            if opened.verdict == "ok":
                yield await _probe(name, runs(connection, name, group, _WITHIN_S))
            else:
                yield Check(name, "skipped", f"it needs to see the group {group}")
    else:
        for name in ("topics", "strangers", "transactions", "clock", "group", "worker", "replay"):
            yield Check(name, "skipped", "it needs Kafka")
    if not settings.privacy.pepper_env:
        yield Check("privacy", "advice", _NO_PEPPER)
    for line in shared_partitions(settings.homes, settings.kafka.partitions, settings.pins):
        yield Check("partitions", "advice", line)
    if settings.redis.url_env is None:
        yield Check("redis", "skipped", "none is configured: the cache is in memory")
    else:
        url = settings.secrets[settings.redis.url_env]
        yield await _probe("redis", redis_answers(url, _WITHIN_S, settings.redis.ca_file))
    for url in _webhook_hosts(settings):
        yield await _probe("clay", host_answers(url, egress, _WITHIN_S))
    async for check in _callbacks(settings, egress):
        yield check
    yield await _board(settings)
    if settings.trace.endpoint is not None:
        yield await trace_check(settings)
    if notify:
        yield await message_check(settings, egress)


async def _probe(name: str, asked: Awaitable[str]) -> Check:
    try:
        return Check(name, "ok", await asked)
    except ProbeFailed as error:
        return Check(name, "failed", str(error))


async def _board(settings: Settings) -> Check:
    """Give advice where no board answers, because nothing waits for one."""
    try:
        await asyncio.to_thread(check_board, settings.board_url)
    except NotTheBoard as error:
        return Check("board", "failed", str(error))
    except BoardUnavailable as error:
        return Check("board", "advice", str(error))
    return Check("board", "ok", f"the board answers at {settings.board_url}")


async def _strangers(settings: Settings) -> Check:
    """Give advice, not a failure: the network may be closed, which `doctor` cannot see."""
    topics = [settings.names.commands, settings.names.callbacks]
    check = await _probe("strangers", strangers_may_not_write(stranger_connection(settings), topics, _WITHIN_S))
    return msgspec.structs.replace(check, verdict="advice") if check.verdict == "failed" else check


async def _topics(settings: Settings) -> AsyncIterator[Check]:
    plan = settings.topic_plan()
    try:
        with suppress(TopicsError):
            await kafka_ready(settings, "doctor")
        await check_topics(connection_of(settings), plan, _WITHIN_S)
    except TopicsError as error:
        for line in error.problems:
            yield Check("topics", "failed", line)
    except (BrokerUnavailable, KafkaRefused) as error:
        for line in str(error).split("\n"):
            yield Check("topics", "failed", line)
    else:
        yield Check("topics", "ok", f"{len(plan)} topics are as planned")


async def trace_check(settings: Settings) -> Check:
    """Send an empty request to the receiver of `[trace]`. Give advice, not a failure: leads need no traces."""
    name = settings.trace.headers_env
    if name is not None and name not in settings.secrets:
        return Check("traces", "skipped", f"it needs {name}, the headers of the trace process")
    check = await _probe("traces", _empty_traces(settings))
    return msgspec.structs.replace(check, verdict="advice") if check.verdict == "failed" else check


async def _empty_traces(settings: Settings) -> str:
    endpoint = settings.trace.endpoint or ""
    async with OtlpClient(endpoint, settings.trace_headers, __version__, "doctor") as client:
        try:
            await client.send([])
        except (ReceiverUnavailable, SpansRefused) as error:
            raise ProbeFailed(str(error)) from error
    return f"{endpoint} takes traces"


async def message_check(settings: Settings, egress: Egress) -> Check:
    """Send a test message to the webhook of `[notify]`."""
    return await _probe("notify", _test_message(settings, egress))


async def _test_message(settings: Settings, egress: Egress) -> str:
    name = settings.notify.url_env
    if name is None:
        raise ProbeFailed(NO_URL)
    async with Receiver(settings.secrets[name], egress) as receiver:
        try:
            await receiver.post(trial_body(settings.notify.format, SystemClock().now_ms()))
        except NotDelivered as error:
            raise ProbeFailed(str(error)) from error
        return f"{receiver.host} took a test message"


def _webhook_hosts(settings: Settings) -> list[str]:
    """Return the hosts of the webhooks, as URLs without the path, which is secret."""
    found = set()
    for there in settings.destinations.values():
        for name in there.webhooks_env:
            parts = urlsplit(settings.secrets[name])
            found.add(f"{parts.scheme}://{parts.netloc}")
    return sorted(found)


def _proxy(public_url: str, *, is_proxied: bool) -> Check:
    if is_proxied:
        return Check("proxy", "ok", f"a reverse proxy answers at {public_url}")
    if is_loopback_url(public_url):
        return Check("proxy", "skipped", "gateway.public_url is this machine, and no reverse proxy answers there")
    return Check(
        "proxy",
        "failed",
        f"the gateway itself answers at {public_url}, so that any peer could exhaust its memory: put a reverse proxy "
        "with TLS in front of it, such as deploy/nginx.conf, which keeps the header Connection to itself",
    )


async def _callbacks(settings: Settings, egress: Egress) -> AsyncIterator[Check]:
    waiting = [alias for alias, there in settings.destinations.items() if there.callbacks]
    if not waiting:
        yield Check("callbacks", "skipped", "no destination has callbacks (callbacks = false)")
        return
    if urlsplit(settings.gateway.public_url or "").scheme == "http":
        yield Check(
            "callbacks", "advice", "gateway.public_url is http: results and tokens are not encrypted; use https"
        )
    try:
        is_proxied = await gateway_answers(settings, egress, _WITHIN_S)
    except ProbeFailed as error:
        yield Check("callbacks", "failed", str(error))  # once, not per destination
        return
    yield _proxy(settings.gateway.public_url or "", is_proxied=is_proxied)
    for alias in waiting:
        yield await _probe("callbacks", callbacks_come_in(settings, alias, egress, _WITHIN_S))
