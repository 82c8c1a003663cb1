"""`stream-app trace` as a process, on a real Kafka: every span once more after `kill -9`, and none
lost while the receiver is away.
"""

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
from msgspec.structs import replace

from stream_app.dev.kafka import Broker
from stream_app.dev.process import LOOPBACK
from stream_app.domain.model.topics import TopicNames
from stream_app.domain.spans import spans_of
from tests.e2e.behind import eventually
from tests.support.kafka import committed, create_topics, until
from tests.support.pace import BUSY
from tests.support.raw_server import READ, RawServer, serve
from tests.support.traced import REPLAYED, RUN

PARTITIONS = 2
LEADS = 200
Sent = tuple[str, int, int]
"""Name, beginning and end of a span; the times in epoch ms."""


def spans_in(requests: Iterable[tuple[bytes, bytes]]) -> dict[str, Sent]:
    """Return the spans by id. A span that came twice must have come the same."""
    spans: dict[str, Sent] = {}
    for _, body in requests:
        for raw in msgspec.json.decode(body)["resourceSpans"][0]["scopeSpans"][0]["spans"]:
            begin_ms = int(raw["startTimeUnixNano"]) // 1_000_000
            end_ms = int(raw["endTimeUnixNano"]) // 1_000_000
            span = (raw["name"], begin_ms, end_ms)
            assert spans.setdefault(raw["spanId"], span) == span
    return spans


@contextmanager
def exporter(
    kafka: Broker,
    namespace: str,
    receiver: RawServer,
    directory: Path,
) -> Iterator[subprocess.Popen[bytes]]:
    config = directory / "trace.toml"
    config.write_text(
        f'kafka = {{ bootstrap = "{kafka.bootstrap}", namespace = "{namespace}", partitions '
        f"= {PARTITIONS} }}\n"
        f'trace = {{ endpoint = "http://{LOOPBACK}:{receiver.port}/v1/traces", ratio = 1.0 }}\n'
        "http.trace_port = 0\nworkspaces.acme = {}\n"
        'destinations.people = { workspace = "acme", webhooks_env = ["WEBHOOK"], callbacks = '
        "false }\n",
    )
    argv = [sys.executable, "-m", "stream_app", "trace", "--config", str(config)]
    with (directory / "trace.log").open("ab") as log:
        process = subprocess.Popen(argv, stderr=log, env={"PATH": os.environ["PATH"]})
    try:
        yield process
    finally:
        process.kill()
        process.wait(10)


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_a_killed_exporter_sends_the_same_spans_and_misses_none(
    kafka: Broker,
    namespace: str,
    tmp_path: Path,
) -> None:
    names = TopicNames(namespace)
    await create_topics(kafka.bootstrap, names.status, partitions=PARTITIONS)
    expected: dict[str, Sent] = {}
    written = 0
    async with AIOKafkaProducer(bootstrap_servers=kafka.bootstrap) as producer:
        for number in range(LEADS):
            own = {"origin": f"leads/0/{number}", "lead_id": f"crm-{number}"}
            # Half of the leads of each partition were posted to a webhook, half to a routine.
            history = RUN if number // PARTITIONS % 2 else REPLAYED
            events = [
                replace(event, id=f"leads/0/{number}#{event.seq}", **own) for event in history
            ]
            expected |= {
                span.span_id: (span.name, span.start_ms, span.end_ms) for span in spans_of(events)
            }
            written += len(events)
            for event in events:
                await producer.send(
                    names.status,
                    msgspec.json.encode(event),
                    b"x",
                    partition=number % PARTITIONS,
                )
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
            await until(
                lambda: spans_in([*slow.requests, *receiver.requests]) == expected,
                90,
                "all spans",
            )

            async def unfinished() -> int:
                return written - sum(
                    (await committed(kafka.bootstrap, names.trace_group)).values(),
                )

            await eventually(unfinished, 30)
            process.terminate()
            assert await asyncio.to_thread(process.wait, 60 * BUSY) == 0


def answer(status: int) -> bytes:
    return b"HTTP/1.1 %d X\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}" % status
