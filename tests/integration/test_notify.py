"""`stream-app notify` as a process: real metrics over HTTP, a real receiver, restarts, a proxy."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from prometheus_client import CollectorRegistry

from stream_app.clay.egress import Egress
from stream_app.config import load_settings
from stream_app.dev.process import LOOPBACK, free_port
from stream_app.doctor.checks import message_check
from stream_app.domain.lane_messages import LaneView
from stream_app.gateway.http.server import serve_http
from stream_app.ops import logs
from stream_app.ops.lane_metrics import LaneMetrics
from stream_app.services.process import ops_app
from tests.support.forward_proxy import ForwardProxy
from tests.support.kafka import until
from tests.support.raw_server import read_request

ROOT = Path(__file__).parents[2]
SECRET = "T0P-S3CR3T"
WITHIN_S = 60
IN_HASTE = """
import sys
from stream_app.cli.main import main
from stream_app.notify import outbox, watch
from stream_app.services import notify
notify._EVERY_S, outbox._FIRST_RETRY_MS, watch._CALM_S = 0.2, 200, 1
sys.exit(main(sys.argv[1:]))
"""


class Messages:
    """Keeps the messages that it accepts. It answers `status`."""

    def __init__(self) -> None:
        self.got: list[dict[str, Any]] = []
        self.status, self.asked = 200, 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head, body = await read_request(reader)
                self.asked += 1
                assert SECRET.encode() in head.partition(b"\r\n")[0]
                if self.status == 200:
                    self.got.append(msgspec.json.decode(body))
                writer.write(b"HTTP/1.1 %d X\r\ncontent-length: 0\r\n\r\n" % self.status)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    def alerts(self) -> list[dict[str, Any]]:
        return [each for message in self.got for each in message["alerts"]]

    def changes(self) -> list[tuple[str, str]]:
        return [(each["status"], each["name"]) for each in self.alerts()]


@asynccontextmanager
async def listening(serve: Any) -> AsyncIterator[int]:
    server = await asyncio.start_server(serve, LOOPBACK)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


@asynccontextmanager
async def metrics(port: int, registry: CollectorRegistry) -> AsyncIterator[None]:
    """A process that serves its metrics."""

    async def ready() -> None:
        return None

    async with serve_http(ops_app(registry, ready), LOOPBACK, port, head_within_s=30, grace_s=1):
        yield


def write_config(directory: Path, *lines: str, body_format: str = "json") -> None:
    ports = {name: free_port() for name in ("worker", "replay", "gateway_ops")}
    (directory / "stream_app.toml").write_text(
        "\n".join(
            [
                *(f"http.{name}_port = {port}" for name, port in ports.items()),
                "http.notify_port = 0",
                'notify.url_env = "URL"',
                f'notify.format = "{body_format}"',
                *lines,
                "notify.interval_s = 1",
                "workspaces.acme = {}",
                f'notify.state_path = "{directory}/known.json"',
                'destinations.people = { workspace = "acme", webhooks_env = ["WEBHOOK"], callbacks = false }',
            ]
        )
    )


@contextmanager
def notifier(directory: Path, receiver: int, proxy: int = 0) -> Iterator[subprocess.Popen[bytes]]:
    """The process. Its log is beside its configuration."""
    config = directory / "stream_app.toml"
    env = {"URL": f"http://{LOOPBACK}:{receiver}/services/{SECRET}", "PROXY": f"http://{LOOPBACK}:{proxy}"}
    argv = [sys.executable, "-c", IN_HASTE, "notify", "--config", str(config)]
    with (directory / "notify.log").open("ab") as log:
        process = subprocess.Popen(argv, stderr=log, env=env, cwd=ROOT)
    try:
        yield process
    finally:
        process.kill()
        process.wait(10)


def port_of(directory: Path, name: str) -> int:
    lines = dict(line.split(" = ") for line in (directory / "stream_app.toml").read_text().splitlines()[:3])
    return int(lines[f"http.{name}_port"])


@asynccontextmanager
async def one_worker(directory: Path) -> AsyncIterator[LaneMetrics]:
    """A worker and a replay process of which the notifier reads the metrics."""
    worker = CollectorRegistry()
    lanes = LaneMetrics(worker, logs.get("test"))
    async with (
        metrics(port_of(directory, "worker"), worker),
        metrics(port_of(directory, "replay"), CollectorRegistry()),
    ):
        yield lanes


def lane(name: str, holds: str) -> LaneView:
    return LaneView(name, 0, 1, "closed", "healthy", 100.0, 10.0, holds=holds)


@pytest.mark.timeout(300)
async def test_each_change_is_sent_once_over_a_kill_and_while_the_receiver_fails(tmp_path: Path) -> None:
    receiver = Messages()
    async with listening(receiver.serve) as port:
        write_config(tmp_path)
        async with one_worker(tmp_path) as lanes:
            lanes.show(lane("acme", "no_callbacks"))
            receiver.status = 500
            with notifier(tmp_path, port):
                await until(lambda: receiver.asked >= 2, within_s=WITHIN_S)
                receiver.status = 200
                await until(lambda: (tmp_path / "known.json").exists(), within_s=WITHIN_S)
            assert receiver.changes() == [("firing", "NoCallbacks")]
            with notifier(tmp_path, port) as process:
                lanes.show(lane("globex", "no_callbacks"))
                await until(lambda: len(receiver.got) >= 2, within_s=WITHIN_S)
                lanes.show(lane("acme", ""))
                await until(lambda: len(receiver.got) >= 3, within_s=WITHIN_S)
                assert process.poll() is None
    found = [(each["status"], each["labels"]) for each in receiver.alerts()]
    assert found == [
        ("firing", {"workspace": "acme"}),
        ("firing", {"workspace": "globex"}),
        ("resolved", {"workspace": "acme"}),
    ]
    log = (tmp_path / "notify.log").read_text()
    assert "127.0.0.1 answers HTTP 500 to messages" in log
    assert SECRET not in log


@pytest.mark.timeout(300)
async def test_messages_go_through_the_proxy_and_metrics_do_not(tmp_path: Path) -> None:
    receiver, proxy = Messages(), ForwardProxy()
    async with listening(receiver.serve) as port, listening(proxy.connect) as proxy_port:
        write_config(tmp_path, 'egress.proxy_env = "PROXY"')
        async with one_worker(tmp_path) as lanes:
            lanes.show(lane("acme", "no_callbacks"))
            with notifier(tmp_path, port, proxy_port):
                await until(lambda: bool(receiver.got), within_s=WITHIN_S)
    assert [asked for asked, _ in proxy.asked] == [f"POST http://{LOOPBACK}:{port}/services/{SECRET}"]


@pytest.mark.timeout(300)
async def test_a_second_process_on_the_same_state_is_refused(tmp_path: Path) -> None:
    write_config(tmp_path)
    with notifier(tmp_path, 1):
        await until(lambda: "notify_started" in (tmp_path / "notify.log").read_text(), within_s=WITHIN_S)
        with notifier(tmp_path, 1) as second:
            await until(lambda: second.poll() is not None, within_s=WITHIN_S)
            assert second.returncode == 1
    assert "another `stream-app notify` sends from here" in (tmp_path / "notify.log").read_text()


@pytest.mark.parametrize("body_format", ["json", "slack"])
@pytest.mark.timeout(300)
async def test_doctor_sends_a_test_message(tmp_path: Path, body_format: str) -> None:
    receiver = Messages()
    async with listening(receiver.serve) as port:
        write_config(tmp_path, body_format=body_format)
        settings = load_settings(
            tmp_path / "stream_app.toml",
            {"URL": f"http://{LOOPBACK}:{port}/{SECRET}", "WEBHOOK": "https://api.clay.com/v3/sources/webhook/x"},
            ("clay", "notify"),
        )
        check = await message_check(settings, Egress.of())
        assert (check.name, check.verdict, check.text) == ("notify", "ok", f"{LOOPBACK} took a test message")
        receiver.status = 404
        check = await message_check(settings, Egress.of())
    assert (check.verdict, check.text) == (
        "failed",
        f"{LOOPBACK} answers HTTP 404 to messages: check notify.url_env and notify.format",
    )
    (message,) = receiver.got
    assert message["text"] == "stream-app doctor: a test message. Alerts arrive here."
