"""`stream-app trace` as a process, on a real Kafka: every span once more after `kill -9`, and none lost while the
receiver is away."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest
from aiokafka import AIOKafkaProducer

from stream_app.dev.kafka import Broker
from stream_app.dev.process import LOOPBACK
from stream_app.domain.model.messages import StatusEvent
from stream_app.domain.model.topics import TopicNames
from stream_app.domain.spans import spans_of
from tests.support.kafka import committed, create_topics, until
from tests.support.pace import BUSY
from tests.support.raw_server import READ, RawServer, serve
from tests.unit.domain.test_trace import REPLAYED

PARTITIONS = 2
LEADS = 200


def spans_in(requests: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    """Return span id -> name. A span that came twice must have come with the same name."""
    spans: dict[str, str] = {}
    for _, body in requests:
        for raw in msgspec.json.decode(body)["resourceSpans"][0]["scopeSpans"][0]["spans"]:
            assert spans.setdefault(raw["spanId"], raw["name"]) == raw["name"]
    return spans


@contextmanager
def exporter(kafka: Broker, namespace: str, receiver: RawServer, directory: Path) -> Iterator[subprocess.Popen[bytes]]:
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
    kafka: Broker, namespace: str, tmp_path: Path
) -> None:
    names = TopicNames(namespace)
    await create_topics(kafka.bootstrap, names.status, partitions=PARTITIONS)
    histories = leads(0, LEADS)
    expected = {span.span_id: span.name for events in histories for span in spans_of(events)}
    await write(kafka, names.status, histories)
    async with serve(READ, 0.05, answer(200)) as slow:
        with exporter(kafka, namespace, slow, tmp_path):
            await until(lambda: slow.requests, 60, "a request")

    status = 503
    async with serve(READ, lambda _: answer(status)) as receiver:
        with exporter(kafka, namespace, receiver, tmp_path) as process:
            await until(lambda: len(receiver.requests) >= 3, 60, "requests that are refused")
            assert process.poll() is None
            status = 200
            receiver.requests.clear()
            await until(lambda: spans_in([*slow.requests, *receiver.requests]) == expected, 90, "all spans")

            async def all_done() -> bool:
                return sum((await committed(kafka.bootstrap, names.trace_group)).values()) == LEADS * len(REPLAYED)

            deadline = asyncio.get_running_loop().time() + 30 * BUSY
            while not await all_done():
                assert asyncio.get_running_loop().time() < deadline
                await asyncio.sleep(0.2)
            status = 503
            receiver.requests.clear()
            await write(kafka, names.status, leads(LEADS, 1))
            await until(lambda: receiver.requests, 60, "a request that is refused")
            process.terminate()
            assert await asyncio.to_thread(process.wait, 60) == 0, "it stops though its spans wait"
        status = 200
        receiver.requests.clear()
        with exporter(kafka, namespace, receiver, tmp_path):
            await until(lambda: receiver.requests, 60, "the next lead")
            await asyncio.sleep(1)
            next_spans = {span.span_id for span in spans_of(leads(LEADS, 1)[0])}
            assert spans_in(receiver.requests).keys() == next_spans, "no earlier one again"


def answer(status: int) -> bytes:
    return b"HTTP/1.1 %d X\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}" % status
