"""The doctor's checks: each passes where all is well, and fails elsewhere with what to do."""

import ssl
import time
from pathlib import Path

import msgspec
import pytest
import trustme
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from stream_app.clay import Egress
from stream_app.client.doctor.checks import clocks_agree, examine, host_answers, trace_check
from stream_app.client.doctor.gateways import CheckFailed
from stream_app.config import Settings, load_settings
from stream_app.dev.kafka import Broker
from stream_app.dev.process import free_port
from stream_app.domain.model.tokens import Keys
from stream_app.domain.views.lane import LaneView
from stream_app.kafka import clock as kafka_clock
from stream_app.kafka.connection import KafkaConnection
from stream_app.ops.http import serve_http
from tests.gateway.support import GONE_KEY, Gateway
from tests.support.config import settings_in
from tests.support.doctor import in_groups, settings_for
from tests.support.forward_proxy import forward_proxy
from tests.support.kafka import create_planned
from tests.support.kafka import create_topics as create_topic
from tests.support.pace import BUSY
from tests.support.raw_server import READ, serve

PASSWORD = "s3cret"


@pytest.fixture
def without_kafka(monkeypatch: pytest.MonkeyPatch) -> None:
    """The check of Kafka fails at once, where it would wait for seconds."""

    async def no_answer(*_: object) -> str:
        raise CheckFailed("no broker answers")

    monkeypatch.setattr("stream_app.client.doctor.checks.kafka_answers", no_answer)


async def verdicts(settings: Settings) -> dict[str, list[tuple[str, str]]]:
    """Return verdict and text of each line, by check."""
    lines: dict[str, list[tuple[str, str]]] = {}
    async for check in examine(settings):
        assert "\n" not in check.text
        assert PASSWORD not in check.text
        lines.setdefault(check.name, []).append((check.verdict, check.text))
    return lines


def by_verdict(lines: dict[str, list[tuple[str, str]]]) -> dict[str, set[str]]:
    names: dict[str, set[str]] = {}
    for name, results in lines.items():
        for verdict, _ in results:
            names.setdefault(verdict, set()).add(name)
    return names


async def test_a_correct_setup_passes(
    kafka: Broker,
    namespace: str,
    redis_url: str,
    tmp_path: Path,
) -> None:
    gateway = Gateway()
    async with serve_http(gateway.app, "127.0.0.1", 0, grace_s=1) as port:
        at = f"http://127.0.0.1:{port}"
        settings = settings_for(
            tmp_path,
            kafka.bootstrap,
            namespace,
            webhook=f"{at}/v3/sources/webhook/x",
            public_url=at,
            redis_url=redis_url,
            more=f'[board]\nurl = "{at}"\n',
        )
        await create_planned(settings)
        idle = await verdicts(settings)
        view = LaneView(
            "acme",
            2,
            time.time_ns() // 1_000_000,
            "closed",
            "healthy",
            100.0,
            8.0,
            "paused",
            "by jane",
        )
        async with AIOKafkaProducer(bootstrap_servers=kafka.bootstrap) as producer:
            await producer.send_and_wait(
                settings.names.lanes,
                msgspec.json.encode(view),
                b"acme",
                2,
            )
        async with in_groups(settings):
            lines = await verdicts(settings)
    assert idle["lanes"] == [("ok", "no lane is held")]
    assert lines["lanes"] == [
        ("advice", "1 of 1 lane is held: `stream-app explain` says why, and what lifts it"),
    ]
    names = settings.names
    assert idle["worker"] == [
        (
            "failed",
            (
                f"no worker process runs (group {names.worker_app}): start one with `stream-app "
                "worker`"
            ),
        ),
    ]
    assert idle["replay"] == [
        (
            "failed",
            (
                f"no replay process runs (group {names.replay_app}): start one with `stream-app "
                "replay`"
            ),
        ),
    ]
    assert lines["worker"] == [("ok", f"1 process runs (group {names.worker_app})")]
    assert by_verdict(lines) == {
        "ok": {
            "kafka",
            "topics",
            "namespace",
            "transactions",
            "clock",
            "group",
            "worker",
            "replay",
            "redis",
            "clay",
            "callbacks",
        },
        "advice": {"strangers", "lanes", "callbacks", "privacy"},
        "skipped": {"proxy"},
        "failed": {"board"},
    }
    assert lines["board"][0][1].startswith(
        f"this is not the board: what answers at {at} is not `stream-app board`",
    )
    assert "http" in lines["callbacks"][0][1]
    ((_, strangers),) = lines["strangers"]
    assert (
        f"any client that reaches Kafka may write to {namespace}leads.callbacks, "
        f"{namespace}leads.comm"
    ) in strangers
    assert not gateway.inbox.records, "nothing was written"
    assert gateway.counted() == {"wrong_token": 2}, "one of each run"


async def test_a_clock_that_is_an_hour_off(
    kafka: Broker,
    namespace: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    topic = f"{namespace}audit"
    await create_topic(kafka.bootstrap, topic, config={"message.timestamp.type": "LogAppendTime"})
    connection = KafkaConnection(kafka.bootstrap)
    transactional_id = f"{namespace}doctor"
    right = kafka_clock._now_ms
    assert (
        await clocks_agree(connection, transactional_id, topic, 20 * BUSY)
        == "this machine's clock agrees with Kafka's"
    )
    monkeypatch.setattr(kafka_clock, "_now_ms", lambda: right() - 3_600_000)
    with pytest.raises(
        CheckFailed,
        match=r"^this machine's clock is 60 min behind Kafka's: set it right",
    ):
        await clocks_agree(connection, transactional_id, topic, 20 * BUSY)
    consumer = AIOKafkaConsumer(
        topic,
        bootstrap_servers=kafka.bootstrap,
        isolation_level="read_committed",
    )
    async with consumer:
        await consumer.seek_to_beginning()
        assert not await consumer.getmany(timeout_ms=1_000), "nothing is left for others to read"


async def test_a_setup_in_which_nothing_runs(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("stream_app.client.doctor.checks._WITHIN_S", 2.0)
    nowhere = f"127.0.0.1:{free_port()}"
    settings = settings_for(
        tmp_path,
        nowhere,
        "x.",
        webhook=f"http://{nowhere}/v3/sources/webhook/s3cret",
        public_url=f"http://{nowhere}",
        redis_url=f"redis://:{PASSWORD}@{nowhere}/0",
        more=f'[board]\nurl = "http://{nowhere}"\n',
    )
    lines = await verdicts(settings)
    assert by_verdict(lines) == {
        "failed": {"kafka", "redis", "clay", "callbacks"},
        "skipped": {
            "topics",
            "namespace",
            "strangers",
            "transactions",
            "clock",
            "lanes",
            "group",
            "worker",
            "replay",
        },
        "advice": {"callbacks", "privacy", "board"},
    }
    assert nowhere in lines["kafka"][0][1]
    assert "Without it nothing is lost" in lines["redis"][0][1]


@pytest.mark.usefixtures("without_kafka")
async def test_clay_and_the_public_url_are_reached_through_the_proxy(tmp_path: Path) -> None:
    gateway = Gateway()
    async with (
        serve_http(gateway.app, "127.0.0.1", 0, grace_s=1) as port,
        forward_proxy(f"ada:{PASSWORD}") as (proxy, place),
    ):
        at = f"http://127.0.0.1:{port}"
        url = f"http://ada:{PASSWORD}@{place}"
        webhook = "https://127.0.0.1:1/v3/sources/webhook/x"
        settings = settings_for(
            tmp_path,
            "127.0.0.1:1",
            "x.",
            webhook=webhook,
            public_url=at,
            proxy=url,
        )
        lines = await verdicts(settings)
    assert lines["clay"][0][0] == "failed"
    assert lines["callbacks"][-1][0] == "ok"
    asked = [what.partition("?")[0] for what, status in proxy.asked if status == 200]
    assert asked == ["CONNECT 127.0.0.1:1", f"GET {at}/healthz", f"POST {at}/callbacks/acme/people"]


BETA = """
[workspaces.beta]
budget.unlimited = true
partition = 2
[destinations.firms]
workspace = "beta"
webhooks_env = ["FIRMS"]
allowed_hosts = ["127.0.0.1"]
callbacks = false
"""


async def test_missing_topics_and_workspaces_that_share_a_partition(
    kafka: Broker,
    namespace: str,
    tmp_path: Path,
) -> None:
    settings = settings_for(tmp_path, kafka.bootstrap, namespace, more=BETA)
    lines = await verdicts(settings)
    assert [verdict for verdict, _ in lines["partitions"]] == ["advice"]
    assert "shared by acme, beta" in lines["partitions"][0][1]
    ((verdict, text),) = lines["topics"]
    assert verdict == "failed"
    assert "stream-app topics" in text
    assert lines["clock"] == lines["strangers"] == [("skipped", "it needs the topics")], (
        "the cause is said once"
    )


# ---------------------------------------------------------------------------------------- callbacks


async def callbacks(settings: Settings) -> tuple[str, str]:
    return (await verdicts(settings))["callbacks"][-1]


@pytest.mark.usefixtures("without_kafka")
@pytest.mark.parametrize(
    ("gateway", "path", "key", "says"),
    [
        (Gateway(), "/other", GONE_KEY, "healthz answers 404"),
        (
            Gateway(keys=Keys([GONE_KEY])),
            "",
            "another key, not to be guessed: 7f3",
            "the same gateway.token_keys_env",
        ),
        (
            Gateway(keys=None),
            "",
            "another key, not to be guessed: 7f3",
            "the same gateway.token_keys_env",
        ),
    ],
)
async def test_another_gateway_answers(
    gateway: Gateway,
    path: str,
    key: str,
    says: str,
    tmp_path: Path,
) -> None:
    async with serve_http(gateway.app, "127.0.0.1", 0, grace_s=1) as port:
        verdict, text = await callbacks(
            settings_for(
                tmp_path,
                "127.0.0.1:1",
                "x.",
                public_url=f"http://127.0.0.1:{port}{path}",
                key=key,
            ),
        )
    assert verdict == "failed"
    assert says in text
    assert not gateway.inbox.records


@pytest.mark.usefixtures("without_kafka")
async def test_a_server_that_answers_ok_to_everything_is_no_gateway(tmp_path: Path) -> None:
    async with serve(
        READ,
        b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\nconnection: close\r\n\r\nok\n",
    ) as server:
        verdict, text = await callbacks(
            settings_for(
                tmp_path,
                "127.0.0.1:1",
                "x.",
                public_url=f"http://127.0.0.1:{server.port}",
            ),
        )
    assert verdict == "failed"
    assert "unlike our gateway" in text


async def test_an_untrusted_certificate() -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("localhost").configure_cert(context)
    async with serve(tls=context) as server:
        with pytest.raises(CheckFailed, match=r"no certificate trusted here .*\(ca-certificates\)"):
            await host_answers(f"https://localhost:{server.port}", Egress.of(), 10 * BUSY)


@pytest.mark.parametrize(
    ("status", "verdict", "text"),
    [
        ("200 OK", "ok", "/v1/traces takes traces"),
        (
            "404 Not Found",
            "advice",
            "(HTTP 404): check trace.endpoint, whose path is usually /v1/traces, and trace.",
        ),
    ],
)
async def test_the_receiver_of_traces_gets_its_secret_headers(
    status: str,
    verdict: str,
    text: str,
    tmp_path: Path,
) -> None:
    answer = f"HTTP/1.1 {status}\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{{}}".encode()
    async with serve(READ, answer) as server:
        trace = (
            f'[trace]\nendpoint = "http://127.0.0.1:{server.port}/v1/traces"\nheaders_env = '
            '"HEADERS"\n'
        )
        without = await trace_check(settings_in(tmp_path, "127.0.0.1:1", "x.", trace))
        settings = load_settings(
            tmp_path / "stream_app.toml",
            {"HEADERS": f"x-token={PASSWORD}"},
            (),
        )
        check = await trace_check(settings)
    assert without.verdict == "skipped"
    assert without.text == "it needs HEADERS, the headers of the trace process"
    assert check.verdict == verdict
    assert text in check.text
    assert PASSWORD not in check.text
    assert [b"x-token: s3cret" in head for head, _ in server.requests] == [True]
