"""`stream-app trace` as a process, on a real Kafka: every span once more after `kill -9`, and none lost while the
receiver is away."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest
from aiokafka import AIOKafkaProducer
from google.protobuf import json_format
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from stream_app.dev.kafka import Broker
from stream_app.dev.process import LOOPBACK, free_port
from stream_app.domain.model.messages import StatusEvent
from stream_app.domain.model.topics import TopicNames
from stream_app.domain.spans import spans_of
from tests.support.kafka import committed, create_topics, until
from tests.support.pace import BUSY
from tests.support.raw_server import read_request
from tests.unit.domain.test_trace import REPLAYED

PARTITIONS = 2
LEADS = 200


class OtlpReceiver:
    """Keeps what it is sent: span id -> name. It refuses to answer while `away`."""

    def __init__(self) -> None:
        self.port = free_port()
        self.spans: dict[str, str] = {}
        self.requests = 0
        self.refused = 0
        self.away = False
        self.slow_s = 0.0
        self._connections: set[asyncio.StreamWriter] = set()

    def drop(self) -> None:
        """Forget the requests of processes that were killed: one may still wait here."""
        for writer in self._connections:
            writer.close()

    async def __aenter__(self) -> OtlpReceiver:
        self._server = await asyncio.start_server(self._serve, LOOPBACK, self.port)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections.add(writer)
        try:
            while True:
                _, body = await read_request(reader)
                await asyncio.sleep(self.slow_s)
                if writer.is_closing():
                    return
                if self.away:
                    self.refused += 1
                else:
                    self._keep(body)
                status = b"503 Service Unavailable" if self.away else b"200 OK"
                writer.write(b"HTTP/1.1 %s\r\ncontent-length: 2\r\n\r\n{}" % status)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()
        finally:
            self._connections.discard(writer)

    def _keep(self, body: bytes) -> None:
        self.requests += 1
        request = json_format.Parse(body, ExportTraceServiceRequest())
        for raw in msgspec.json.decode(body)["resourceSpans"][0]["scopeSpans"][0]["spans"]:
            assert self.spans.setdefault(raw["spanId"], raw["name"]) == raw["name"]
        assert len(request.resource_spans) == 1


@pytest.fixture
async def receiver() -> AsyncIterator[OtlpReceiver]:
    async with OtlpReceiver() as own:
        yield own


@contextmanager
def exporter(
    kafka: Broker, namespace: str, receiver: OtlpReceiver, directory: Path
) -> Iterator[subprocess.Popen[bytes]]:
    config = directory / "trace.toml"
    config.write_text(
        f'kafka = {{ bootstrap = "{kafka.bootstrap}", namespace = "{namespace}", partitions = {PARTITIONS} }}\n'
        f'trace = {{ endpoint = "http://{LOOPBACK}:{receiver.port}/v1/traces", ratio = 1.0 }}\n'
        "http.trace_port = 0\nworkspaces.acme = {}\n"
        'destinations.people = { workspace = "acme", webhooks_env = ["WEBHOOK"], callbacks = false }\n'
    )
    argv = [sys.executable, "-m", "stream_app", "trace", "--config", str(config)]
    with (directory / "trace.log").open("ab") as log:
        process = subprocess.Popen(argv, stderr=log, env={"PATH": os.environ["PATH"]})
    try:
        yield process
    finally:
        process.kill()
        process.wait(10)


def leads(first: int, count: int) -> list[list[StatusEvent]]:
    """The events of some leads, each of its own record."""
    return [
        [
            msgspec.structs.replace(
                event, id=f"leads/0/{number}#{event.seq}", origin=f"leads/0/{number}", lead_id=f"crm-{number}"
            )
            for event in REPLAYED
        ]
        for number in range(first, first + count)
    ]


async def write(kafka: Broker, topic: str, histories: list[list[StatusEvent]]) -> None:
    async with AIOKafkaProducer(bootstrap_servers=kafka.bootstrap) as producer:
        for number, events in enumerate(histories):
            for event in events:
                await producer.send(topic, msgspec.json.encode(event), b"x", partition=number % PARTITIONS)
        await producer.flush()


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_a_killed_exporter_sends_the_same_spans_and_misses_none(
    kafka: Broker, namespace: str, receiver: OtlpReceiver, tmp_path: Path
) -> None:
    status = TopicNames(namespace).status
    await create_topics(kafka.bootstrap, status, partitions=PARTITIONS)
    histories = leads(0, LEADS)
    expected = {span.span_id: span.name for events in histories for span in spans_of(events)}
    await write(kafka, status, histories)
    receiver.slow_s = 0.05
    for kills in (1, 2):
        with exporter(kafka, namespace, receiver, tmp_path):
            await until(lambda asked=kills: receiver.requests >= asked, 60, "a request")  # type: ignore[misc]
    receiver.drop()
    receiver.away, receiver.slow_s = True, 0.0
    with exporter(kafka, namespace, receiver, tmp_path) as process:
        await until(lambda: receiver.refused, 60, "a request that is refused")
        process.terminate()
        assert await asyncio.to_thread(process.wait, 60) == 0, "it stops though its spans wait"
    with exporter(kafka, namespace, receiver, tmp_path) as process:
        await until(lambda: receiver.refused >= 3, 60, "requests that are refused")
        assert process.poll() is None
        receiver.away = False
        await until(lambda: receiver.spans == expected, 90, "all spans")

        async def all_done() -> bool:
            offsets = await committed(kafka.bootstrap, TopicNames(namespace).trace_group)
            return sum(offsets.values()) == LEADS * len(REPLAYED)

        deadline = asyncio.get_running_loop().time() + 30 * BUSY
        while not await all_done():
            assert asyncio.get_running_loop().time() < deadline
            await asyncio.sleep(0.2)
        process.terminate()
        assert await asyncio.to_thread(process.wait, 20) == 0
    receiver.spans.clear()
    with exporter(kafka, namespace, receiver, tmp_path):
        await write(kafka, status, leads(LEADS, 1))
        await until(lambda: receiver.spans, 60, "the next lead")
        await asyncio.sleep(1)
        assert receiver.spans.keys() == {span.span_id for span in spans_of(leads(LEADS, 1)[0])}, "no earlier one again"
