"""The checks of `doctor` where a system refuses or is away: what is wrong, and what to do about it.

That they pass where all is well, tests/integration/test_checks.py shows on real systems.
"""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
from aiokafka.errors import (
    ClusterAuthorizationFailedError,
    KafkaConnectionError,
    TransactionalIdAuthorizationFailed,
)

from stream_app.clay import Egress
from stream_app.client.doctor import checks as doctor
from stream_app.client.doctor.checks import (
    Check,
    clocks_agree,
    host_answers,
    kafka_answers,
    may_join,
    may_transact,
    redis_answers,
    runs,
    strangers_may_not_write,
)
from stream_app.client.doctor.gateways import CheckFailed
from stream_app.config import Kafka, Settings
from stream_app.config.model import Gateway
from stream_app.domain.model.errors import (
    BoardUnavailable,
    BrokerUnavailable,
    KafkaRefused,
    NotTheBoard,
    StreamAppError,
    TopicsError,
)
from stream_app.domain.model.outcome import Refused
from stream_app.domain.plan import Destination, Workspace
from stream_app.domain.views.explain import ConsumerGroup
from stream_app.domain.views.lane import LaneView
from stream_app.kafka.connection import KafkaConnection
from stream_app.kafka.groups import Offsets

KAFKA = KafkaConnection("kafka.example:9")
SETTINGS = Settings(
    kafka=Kafka(partitions=4, replication=1),
    workspaces={name: Workspace(name) for name in ("acme", "beta", "firms")},
    destinations={"people": Destination("people", "acme", webhooks_env=("A",), callbacks=False)},
)


def raises(error: BaseException) -> Callable[..., Any]:
    async def raising(*_: object, **__: object) -> None:
        raise error

    return raising


def opens(value: object) -> Callable[..., Any]:
    """A context manager like `admin_of`, whose admin is `value`, or which raises it."""

    @asynccontextmanager
    async def opened(*_: object) -> AsyncIterator[object]:
        if isinstance(value, BaseException):
            raise value
        yield value

    return opened


async def failed(check: Awaitable[str]) -> str:
    with pytest.raises(CheckFailed) as error:
        await check
    return str(error.value)


class Cluster:
    def __init__(self, brokers: int) -> None:
        self._brokers = brokers

    async def describe_cluster(self) -> dict[str, Any]:
        return {"brokers": list(range(self._brokers))}


async def test_kafka_that_refuses_or_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    for answer, says in (
        (KafkaRefused("Kafka refuses user jane"), "Kafka refuses user jane"),
        (
            BrokerUnavailable("Kafka is away."),
            "Kafka is away. Does a firewall let this machine through?",
        ),
    ):
        monkeypatch.setattr(doctor, "admin_of", opens(answer))
        assert await failed(kafka_answers(KAFKA, 5)) == says
    for brokers, says in (
        (1, "1 broker answers at kafka.example:9"),
        (3, "3 brokers answer at kafka.example:9"),
    ):
        monkeypatch.setattr(doctor, "admin_of", opens(Cluster(brokers)))
        assert await kafka_answers(KAFKA, 5) == says


async def test_what_strangers_may_do(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, Sequence[str]]] = []
    open_topics: set[str] = {"z", "b"}

    async def allowed(_: object, operation: str, topics: Sequence[str]) -> set[str]:
        asked.append((operation, topics))
        return open_topics

    monkeypatch.setattr(doctor, "allowed", allowed)
    monkeypatch.setattr(doctor, "admin_of", opens(object()))
    text = await failed(strangers_may_not_write(KAFKA, ("z", "a", "b"), 5))
    assert text.startswith("any client that reaches Kafka may write to b, z, where records")
    open_topics.clear()
    assert await strangers_may_not_write(KAFKA, ("z", "a"), 5) == (
        "only clients with credentials may write to a, z"
    )
    assert asked == [("Write", ("z", "a", "b")), ("Write", ("z", "a"))]
    for error in (KafkaRefused("no"), BrokerUnavailable("no"), ClusterAuthorizationFailedError()):
        monkeypatch.setattr(doctor, "admin_of", opens(error))
        assert await strangers_may_not_write(KAFKA, ("a",), 5) == (
            f"Kafka accepts no client without credentials ({type(error).__name__})"
        )


class Producer:
    def __init__(self, error: BaseException) -> None:
        self._error = error

    async def start(self) -> None:
        raise self._error


async def test_a_refused_transaction_names_the_right_that_is_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stopped: list[object] = []

    async def stop(producer: object) -> None:
        stopped.append(producer)

    monkeypatch.setattr(doctor, "stop_producer", stop)
    right = "allow Write and Describe on transactional ids that begin with prod.worker-"
    for error, says in (
        (
            TransactionalIdAuthorizationFailed(),
            f"Kafka refuses our transactions: {right}",
        ),
        (
            KafkaConnectionError("s3cret"),
            f"Kafka gives no transactional id (KafkaConnectionError): is it healthy? Else {right}",
        ),
        (
            TimeoutError(),
            f"Kafka gives no transactional id (TimeoutError): is it healthy? Else {right}",
        ),
    ):
        producer = Producer(error)
        monkeypatch.setattr(doctor, "kafka_producer", lambda producer=producer, **_: producer)
        assert await failed(may_transact(KAFKA, "prod.worker-doctor", 5)) == says
        assert stopped.pop() is producer, "else its connections stay open"


@pytest.mark.parametrize("error", [KafkaConnectionError("s3cret"), TimeoutError()])
async def test_a_time_that_cannot_be_read_is_no_clock_that_agrees(
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
) -> None:
    monkeypatch.setattr(doctor, "ask_kafka_for_its_time", raises(error))
    assert await failed(clocks_agree(KAFKA, "x-doctor", "prod.audit", 5)) == (
        f"cannot read Kafka's time ({type(error).__name__}): allow Write on prod.audit"
    )


async def test_a_group_that_is_closed_names_what_kafka_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(doctor, "open_admin", opens(object()))
    refused = StreamAppError("no")
    refused.__cause__ = ClusterAuthorizationFailedError()
    timed_out = TimeoutError()
    timed_out.__cause__ = asyncio.CancelledError()
    for error, why in (
        (refused, "ClusterAuthorizationFailedError"),
        (StreamAppError("no"), "StreamAppError"),
        (timed_out, "TimeoutError"),
    ):
        monkeypatch.setattr(doctor, "committed_offsets", raises(error))
        assert await failed(may_join(KAFKA, "prod.worker", 5)) == (
            f"Kafka does not show the offsets of prod.worker ({why}): allow Read and Describe "
            "on the group"
        )


async def test_a_process_runs_when_its_group_has_members(monkeypatch: pytest.MonkeyPatch) -> None:
    async def look_at(_: object, groups: Sequence[str]) -> dict[str, tuple[ConsumerGroup, Offsets]]:
        assert groups == ["prod.replay"]
        return {"prod.replay": (ConsumerGroup("Stable", members), {})}

    monkeypatch.setattr(doctor, "look_at", look_at)
    members = 0
    assert await failed(runs(KAFKA, "replay", "prod.replay", 5)) == (
        "no replay process runs (group prod.replay): start one with `stream-app replay`"
    )
    members = 1
    assert await runs(KAFKA, "replay", "prod.replay", 5) == "1 process runs (group prod.replay)"
    members = 3
    assert await runs(KAFKA, "replay", "prod.replay", 5) == "3 processes run (group prod.replay)"
    for error in (BrokerUnavailable("s"), KafkaConnectionError("s"), TimeoutError()):
        monkeypatch.setattr(doctor, "look_at", raises(error))
        assert await failed(runs(KAFKA, "replay", "prod.replay", 5)) == (
            f"cannot read the members of the group prod.replay ({type(error).__name__}): try again"
        )


async def test_redis_that_does_not_take_the_url(monkeypatch: pytest.MonkeyPatch) -> None:
    text = await failed(redis_answers("no-scheme://:s3cret@x", 2))
    assert text.startswith("Redis does not answer (ValueError): are the URL, its password")
    assert "s3cret" not in text


def replace_checks(monkeypatch: pytest.MonkeyPatch, **answers: Any) -> None:
    """Let each of these functions return its answer, or raise it."""
    for name, answer in answers.items():
        monkeypatch.setattr(
            doctor,
            name,
            raises(answer) if isinstance(answer, BaseException) else _returns(answer),
        )


def _returns(value: object) -> Callable[..., Awaitable[object]]:
    async def answer(*_: object, **__: object) -> object:
        return value

    return answer


def view(workspace: str, breaker: str) -> LaneView:
    return LaneView(workspace, 2, 5, breaker, "healthy", 100.0, 8.0, 0)  # type: ignore[arg-type]  # its words


async def test_each_line_of_kafka_has_its_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    replace_checks(monkeypatch, namespace_problems=["a", "b"])
    assert await doctor._namespace(SETTINGS) == Check("namespace", "failed", "a; b")
    replace_checks(monkeypatch, namespace_problems=BrokerUnavailable("Kafka is away"))
    assert await doctor._namespace(SETTINGS) == Check("namespace", "failed", "Kafka is away")
    replace_checks(monkeypatch, namespace_problems=[])
    assert (await doctor._namespace(SETTINGS)).verdict == "ok"

    replace_checks(monkeypatch, kafka_ready=TopicsError(["not created"]), check_topics=[])
    assert await doctor._topics(SETTINGS) == [
        Check("topics", "ok", f"{len(SETTINGS.topic_plan())} topics are as planned"),
    ]
    replace_checks(
        monkeypatch,
        check_topics=TopicsError(["leads is missing", "audit has 3 partitions"]),
    )
    lines = await doctor._topics(SETTINGS)
    assert len(lines) >= 2, "each fault has its own line"
    assert {line.verdict for line in lines} == {"failed"}
    for error in (BrokerUnavailable("Kafka is away"), KafkaRefused("Kafka refuses jane")):
        replace_checks(monkeypatch, kafka_ready=error)
        assert await doctor._topics(SETTINGS) == [Check("topics", "failed", str(error))]

    replace_checks(monkeypatch, last_views=BrokerUnavailable("Kafka is away"))
    assert await doctor._lanes(SETTINGS) == Check("lanes", "failed", "Kafka is away")
    replace_checks(monkeypatch, last_views={"acme": view("acme", "closed")})
    assert await doctor._lanes(SETTINGS) == Check("lanes", "ok", "no lane is held")


async def test_advice_about_the_board_that_nothing_waits_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def answers(error: Exception | None) -> None:
        def check(url: str) -> None:
            assert url == SETTINGS.board_url
            if error is not None:
                raise error

        monkeypatch.setattr(doctor, "check_board", check)

    answers(BoardUnavailable("no board"))
    assert await doctor._board(SETTINGS) == Check("board", "advice", "no board")
    answers(NotTheBoard("another server"))
    assert await doctor._board(SETTINGS) == Check("board", "failed", "another server")
    answers(None)
    assert await doctor._board(SETTINGS) == Check(
        "board",
        "ok",
        f"the board answers at {SETTINGS.board_url}",
    )


async def test_a_system_without_callbacks_has_none_to_check() -> None:
    checks = [check async for check in doctor._callbacks(SETTINGS, SETTINGS.make_egress())]
    assert [(check.name, check.verdict) for check in checks] == [("callbacks", "skipped")]


@pytest.mark.parametrize(
    ("reason", "egress", "says"),
    [
        ("tls", Egress(tls=True), "(the text): install the system's certificate authorities"),
        ("tls", Egress(ssl.create_default_context()), "(the text): if this network inspects TLS"),
        ("proxy", Egress(tls=True, proxy_url="http://p:1"), "are address, user and password in"),
        ("dns", Egress(tls=True, proxy_url="http://p:1"), "through the proxy (the text): does a"),
        ("dns", Egress(tls=True), "api.clay.com:444 cannot be reached (the text): does a firewall"),
    ],
)
async def test_a_host_that_is_not_reached_says_what_is_in_the_way(
    monkeypatch: pytest.MonkeyPatch,
    reason: str,
    egress: Egress,
    says: str,
) -> None:
    async def refused(*_: object) -> Refused:
        return Refused(reason, 7, text="the text")

    monkeypatch.setattr(doctor, "reach", refused)
    text = await failed(host_answers("https://api.clay.com:444/v3/s3cret", egress, 5))
    assert text.startswith("api.clay.com:444 ")
    assert says in text
    assert "s3cret" not in text
    monkeypatch.setattr(doctor, "reach", _returns(None))
    way = " through the proxy" if egress.proxy_url else ""
    accepted = await host_answers("https://api.clay.com:444/v3/s3cret", egress, 5)
    assert accepted == f"api.clay.com:444 accepts connections{way}"


@pytest.mark.parametrize(
    ("public_url", "is_proxied", "proxy"),
    [
        ("https://leads.example.com", True, "ok"),
        ("https://leads.example.com", False, "failed"),
        ("https://127.0.0.1:9", False, "skipped"),
        ("https://127.0.0.1:9", True, "ok"),
        ("http://leads.example.com", True, "ok"),
    ],
)
async def test_a_gateway_without_a_proxy_is_only_right_on_this_machine(
    monkeypatch: pytest.MonkeyPatch,
    public_url: str,
    proxy: str,
    *,
    is_proxied: bool,
) -> None:
    people = SETTINGS.destinations["people"]
    settings = msgspec.structs.replace(
        SETTINGS,
        gateway=Gateway(public_url=public_url),
        destinations={
            "quiet": people,
            "people": msgspec.structs.replace(people, callbacks=True),
            "firms": msgspec.structs.replace(people, callbacks=True),
        },
    )

    async def come_in(_: Settings, alias: str, *__: object) -> str:
        if alias == "firms":
            raise CheckFailed("firms has another key")
        return f"{alias} is refused a forged callback"

    monkeypatch.setattr(doctor, "gateway_answers", _returns(is_proxied))
    monkeypatch.setattr(doctor, "callbacks_come_in", come_in)
    checks = [check async for check in doctor._callbacks(settings, settings.make_egress())]
    plain = [check for check in checks if "is http:" in check.text]
    assert [check.verdict for check in plain] == ["advice"] * public_url.startswith("http:")
    assert [check.verdict for check in checks if check.name == "proxy"] == [proxy]
    assert checks[-2:] == [
        Check("callbacks", "ok", "people is refused a forged callback"),
        Check("callbacks", "failed", "firms has another key"),
    ]

    async def waits(_: Settings, alias: str, __: object) -> str:
        return f"{alias} is waited for"

    monkeypatch.setattr(doctor, "proxy_waits", waits)
    work = doctor._callbacks(settings, settings.make_egress(), hold=True)
    with_hold = [check async for check in work]
    assert with_hold == [*checks, Check("proxy", "ok", "people is waited for")], "once, if asked"

    monkeypatch.setattr(doctor, "gateway_answers", raises(CheckFailed("no gateway")))
    checks = [check async for check in doctor._callbacks(settings, settings.make_egress())]
    assert checks == [*plain, Check("callbacks", "failed", "no gateway")], "once, not for each"
