"""Each check of `doctor` alone: what it asks, how long it waits, and what it says then."""

import asyncio
import ssl
from collections.abc import Awaitable
from types import SimpleNamespace
from typing import Any, Self

import msgspec
import pytest
from aiokafka.errors import KafkaConnectionError

from stream_app import __version__
from stream_app.cache.redis import tls_options
from stream_app.clay import Egress
from stream_app.client.doctor import checks as doctor
from stream_app.client.doctor.checks import (
    Check,
    clocks_agree,
    host_answers,
    kafka_answers,
    may_join,
    may_transact,
    message_check,
    redis_answers,
    runs,
    strangers_may_not_write,
    trace_check,
)
from stream_app.client.doctor.gateways import CheckFailed
from stream_app.client.messages import NO_URL, NotDelivered
from stream_app.config import Settings
from stream_app.config.model import Notify, Trace
from stream_app.config.secret_files import Secrets
from stream_app.domain.model.outcome import Refused
from stream_app.kafka.connection import KafkaConnection
from stream_app.trace import ReceiverUnavailable, SpansRefused
from tests.support.partition.virtual import virtual_time

SETTINGS = Settings(
    notify=Notify(url_env="HOOK"),
    secrets=Secrets({"HOOK": "https://hooks.example.com/s3cret"}),
)


class Client:
    """A client of anything, that notes how it was made and fails or hangs where it is told to."""

    def __init__(self, fails: BaseException | None = None, *, hangs: bool = False) -> None:
        self.made: list[tuple[Any, ...]] = []
        self.calls: list[Any] = []
        self._fails = fails
        self._hangs = hangs

    def __call__(self, *args: Any, **options: Any) -> Self:
        self.made.append((*args, options))
        return self

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.calls.append("closed")

    async def _work(self, *call: Any) -> None:
        self.calls.append(call)
        if self._hangs:
            await asyncio.sleep(3_600)
        if self._fails is not None:
            raise self._fails

    async def start(self) -> None:
        await self._work("start")

    async def get(self, key: str) -> None:
        await self._work("get", key)

    async def send(self, spans: list[Any]) -> None:
        await self._work("send", spans)

    async def post(self, body: bytes) -> None:
        await self._work("post", body)


async def raised_after(work: Awaitable[object]) -> tuple[str, float]:
    began_s = asyncio.get_running_loop().time()
    with pytest.raises(CheckFailed) as error:
        await work
    return str(error.value), asyncio.get_running_loop().time() - began_s


@virtual_time
async def test_no_check_waits_longer_than_told() -> None:
    async def hangs(*_: object, **__: object) -> None:
        await asyncio.sleep(3_600)

    async def stop(_: object) -> None: ...

    connection = KafkaConnection("kafka.example:9")
    client = Client(hangs=True)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(doctor, "kafka_producer", client)
        patched.setattr(doctor, "stop_producer", stop)
        patched.setattr(doctor, "open_admin", client)
        patched.setattr(doctor, "committed_offsets", hangs)
        patched.setattr(doctor, "look_at", hangs)
        patched.setattr("redis.asyncio.from_url", client)
        for work in (
            may_transact(connection, "t.w-doctor", 7),
            may_join(connection, "t.w", 7),
            runs(connection, "worker", "t.w", 7),
            redis_answers("redis://redis.example", 7),
        ):
            text, after_s = await raised_after(work)
            assert "(TimeoutError)" in text
            assert after_s == pytest.approx(7)


async def test_a_transactional_id_is_asked_for_with_our_own_settings(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    client = Client()
    stopped: list[object] = []

    async def stop(producer: object) -> None:
        stopped.append(producer)

    monkeypatch.setattr(doctor, "kafka_producer", client)
    monkeypatch.setattr(doctor, "stop_producer", stop)
    connection = KafkaConnection("kafka.example:9")
    assert await may_transact(connection, "t.w-doctor", 7) == "transactions are allowed"
    assert client.made == [({**connection.settings(), "transactional_id": "t.w-doctor"},)]
    assert client.calls == [("start",)]
    assert stopped == [client]


async def test_who_is_asked_and_for_how_long(monkeypatch: pytest.MonkeyPatch) -> None:
    admin = Client()
    asked: list[tuple[Any, ...]] = []

    def answers(name: str, answer: object) -> None:
        async def ask(*args: Any) -> object:
            asked.append((name, *args))
            return answer

        monkeypatch.setattr(doctor, name, ask)

    monkeypatch.setattr(doctor, "admin_of", admin)
    monkeypatch.setattr(doctor, "open_admin", admin)
    connection = KafkaConnection("kafka.example:9")
    answers("allowed", [])
    answers("committed_offsets", {})
    await strangers_may_not_write(connection, ("a",), 7)
    assert admin.made == [(connection, 7, {})]
    assert await may_join(connection, "t.w", 7) == "group t.w is open to us"
    assert admin.made[1:] == [(connection, {})]
    assert asked == [("allowed", admin, "Write", ("a",)), ("committed_offsets", admin, "t.w")]

    async def describe() -> dict[str, Any]:
        return {"brokers": [1]}

    monkeypatch.setattr(admin, "describe_cluster", describe, raising=False)
    await kafka_answers(connection, 8)
    assert admin.made[2:] == [(connection, 8, {})]
    members = SimpleNamespace(members=2)
    answers("look_at", {"t.w": (members, {})})
    await runs(connection, "worker", "t.w", 7)
    assert asked[2:] == [("look_at", connection, ["t.w"])]


async def test_the_clocks_are_compared_in_a_transaction_of_our_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[tuple[Any, ...]] = []

    async def ask(connection: Any, own_id: str, topic: str, clock: Any, within_s: float) -> None:
        asked.append((connection, own_id, topic, within_s))
        clock.text = text

    monkeypatch.setattr(doctor, "ask_kafka_for_its_time", ask)
    monkeypatch.setattr(doctor, "KafkaClock", lambda _: SimpleNamespace(text=""))
    connection = KafkaConnection("kafka.example:9")
    text = ""
    assert await clocks_agree(connection, "t.w-doctor", "t.audit", 7) == (
        "this machine's clock agrees with Kafka's"
    )
    text = "this machine's clock is 60 min behind Kafka's"
    with pytest.raises(CheckFailed, match="clock is 60 min behind Kafka's"):
        await clocks_agree(connection, "t.w-doctor", "t.audit", 7)
    assert asked == [(connection, "t.w-doctor", "t.audit", 7)] * 2


@pytest.mark.parametrize("url", ["rediss://:s3cret@redis.example", "redis://redis.example"])
async def test_redis_is_asked_with_the_authority_of_the_settings(
    monkeypatch: pytest.MonkeyPatch,
    url: str,
) -> None:
    client = Client()
    monkeypatch.setattr("redis.asyncio.from_url", client)
    assert await redis_answers(url, 7, "ca.pem") == "Redis answers"
    assert client.made == [(url, tls_options(url, "ca.pem"))]
    assert client.calls == [("get", "stream-app-doctor"), "closed"]
    text = (
        "Redis does not answer (OSError): are the URL, its password and TLS (rediss://) right? "
        "Without it nothing is lost; the cache only starts cold"
    )
    monkeypatch.setattr("redis.asyncio.from_url", Client(OSError("s3cret")))
    assert (await raised_after(redis_answers(url, 7)))[0] == text


@pytest.mark.parametrize(
    ("reason", "egress", "text"),
    [
        (
            "tls",
            Egress(tls=True),
            "api.clay.com:444 has no certificate trusted here (why): install the system's "
            "certificate authorities (ca-certificates), or, if this network inspects TLS, name "
            "its authority's PEM file in egress.ca_file",
        ),
        (
            "tls",
            Egress(ssl.create_default_context()),
            "api.clay.com:444 has no certificate trusted here (why): if this network inspects "
            "TLS, name its authority's PEM file in egress.ca_file",
        ),
        (
            "proxy",
            Egress(tls=True, proxy_url="http://p:1"),
            "api.clay.com:444 cannot be reached (why): are address, user and password in the "
            "variable that egress.proxy_env names right, and does the proxy allow this host?",
        ),
        (
            "dns",
            Egress(tls=True, proxy_url="http://p:1"),
            "api.clay.com:444 cannot be reached through the proxy (why): does a firewall block "
            "this machine, is DNS right, or must egress.proxy_env name a proxy?",
        ),
        (
            "dns",
            Egress(tls=True),
            "api.clay.com:444 cannot be reached (why): does a firewall block this machine, is "
            "DNS right, or must egress.proxy_env name a proxy?",
        ),
    ],
)
async def test_the_remedy_follows_what_is_in_the_way_of_a_host(
    monkeypatch: pytest.MonkeyPatch,
    reason: str,
    egress: Egress,
    text: str,
) -> None:
    asked: list[tuple[Any, ...]] = []

    async def reach(*args: Any) -> Refused:
        asked.append(args)
        return Refused(reason, 7, text="why")

    monkeypatch.setattr(doctor, "reach", reach)
    url = "https://api.clay.com:444/v3"
    with pytest.raises(CheckFailed) as error:
        await host_answers(url, egress, 7)
    assert str(error.value) == text
    assert asked == [(url, egress, 7)]


def with_traces(headers_env: str | None, **secrets: str) -> Settings:
    trace = Trace(endpoint="http://trace.example/v1/traces", headers_env=headers_env)
    return msgspec.structs.replace(SETTINGS, trace=trace, secrets=Secrets(secrets))


async def test_traces_are_tried_with_the_headers_of_their_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    client = Client()
    monkeypatch.setattr(doctor, "OtlpClient", client)
    skipped = Check("traces", "skipped", "it needs HEADERS, the headers of the trace process")
    assert await trace_check(with_traces("HEADERS")) == skipped
    assert client.made == []
    fine = Check("traces", "ok", "http://trace.example/v1/traces takes traces")
    assert await trace_check(with_traces("HEADERS", HEADERS="x-token=t")) == fine
    assert await trace_check(with_traces(None)) == fine
    assert client.made == [
        ("http://trace.example/v1/traces", headers, __version__, "doctor", {})
        for headers in ({"x-token": "t"}, {})
    ]
    assert client.calls == [("send", []), "closed"] * 2
    for error in (ReceiverUnavailable("it is away"), SpansRefused("it refuses")):
        monkeypatch.setattr(doctor, "OtlpClient", Client(error))
        assert await trace_check(with_traces(None)) == Check("traces", "advice", str(error))


async def test_a_message_is_tried_where_a_receiver_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    egress = SETTINGS.make_egress()
    client = Client()
    client.host = "hooks.example.com"  # type: ignore[attr-defined]  # of a `Receiver`
    monkeypatch.setattr(doctor, "MessageReceiver", client)
    without = msgspec.structs.replace(SETTINGS, notify=Notify())
    assert await message_check(without, egress) == Check("notify", "failed", NO_URL)
    assert client.made == []
    fine = Check("notify", "ok", "hooks.example.com took a test message")
    assert await message_check(SETTINGS, egress) == fine
    assert client.made == [(SETTINGS.secrets["HOOK"], egress, {})]
    ((what, body), closed) = client.calls
    assert what == "post"
    assert "a test message" in msgspec.json.decode(body)["text"]
    assert closed == "closed"
    monkeypatch.setattr(doctor, "MessageReceiver", Client(NotDelivered("it answers HTTP 404")))
    assert await message_check(SETTINGS, egress) == Check("notify", "failed", "it answers HTTP 404")


async def test_strangers_that_kafka_does_not_let_in_may_not_write(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def refuses(*_: object) -> None:
        raise KafkaConnectionError("s3cret")

    monkeypatch.setattr(doctor, "admin_of", Client())
    monkeypatch.setattr(doctor, "allowed", refuses)
    text = await strangers_may_not_write(KafkaConnection("kafka.example:9"), ("a",), 7)
    assert text == "Kafka accepts no client without credentials (KafkaConnectionError)"
