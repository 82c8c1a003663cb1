"""What the gateway's read model of many leads costs: seconds to build, bytes on disk, memory at the
peak.

`python -m benchmarks.read_model [--leads 1000000] [--kafka] [--json]`. For each lead five events
(one with a
reason in words), two rows and an alias of the state, and a result, in the order in which a busy
line writes them: 500 leads at work at a time. Without `--kafka` the records are made up in memory
and go straight to the model, and only its own time counts. With it they are written to topics of
their own there first, and read as the gateway reads them; the time is that of the whole feed. Exits
with 1 when a million leads, in proportion, take 300 s or 2,000 MB of disk, or however many of them
256 MB of memory: it is bounded.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import msgspec
from rich.console import Console

from stream_app.board.read_model.follow import Projection
from stream_app.board.read_model.store import LogPosition, ReadModel, Sources
from stream_app.client.publish.send import Sender
from stream_app.dev.kafka import kafka_for, unused
from stream_app.domain.delivery.state_machine import Delivery, delivery_key
from stream_app.domain.lead.identity import person_key
from stream_app.domain.model.messages import Result, Status, StatusEvent
from stream_app.domain.model.records import trace_of
from stream_app.domain.model.topics import Retention, TopicNames, plan
from stream_app.kafka.connection import KafkaConnection
from stream_app.kafka.topics import create_topics
from stream_app.ops import logs as log

PARTITIONS = 8
AT_WORK = 500
_MAX_RECORDS = 5_000
_TIMER_S = 0.01
MAX_SECONDS = 300.0
MAX_FILE_MB = 2_000.0
PER_LEADS = 1_000_000
MAX_RSS_MB = 256.0
_STEPS: tuple[Status, ...] = ("received", "sending", "refused", "accepted", "enriched")
_encode = msgspec.json.Encoder().encode


class Made(msgspec.Struct, gc=False):
    """A record as aiokafka gives it."""

    topic: str
    partition: int
    offset: int
    key: bytes
    value: bytes
    headers: tuple[tuple[str, bytes], ...]
    timestamp: int


def stream(
    names: TopicNames,
    partition: int,
    leads: int,
    now_ms: int,
) -> Iterator[tuple[str, bytes, bytes]]:
    """Topic, key and value of all records of a partition, in the order of their steps."""
    workspace = f"w{partition}"
    for first in range(0, leads, AT_WORK):
        numbers = range(first, min(first + AT_WORK, leads))
        for seq, status in enumerate(_STEPS, 1):
            for number in numbers:
                yield from _step(names, partition, workspace, number, seq, status, now_ms + number)


def _step(
    names: TopicNames,
    partition: int,
    workspace: str,
    number: int,
    seq: int,
    status: Status,
    at_ms: int,
) -> Iterator[tuple[str, bytes, bytes]]:
    origin = f"{names.leads}/{partition}/{number}"
    lead_id = f"crm-{partition}-{number:08}-0123456789abcdef"
    key = delivery_key(workspace, f"people{partition}", lead_id)
    trace = trace_of(origin)
    refused = status == "refused"
    event = StatusEvent(
        id=f"{origin}#{seq}",
        lead_id=lead_id,
        status=status,
        seq=seq,
        at_ms=at_ms,
        origin=origin,
        workspace=workspace,
        destination=f"people{partition}",
        reason="http_503" if refused else "",
        text="Clay answered 503: it took nothing; tried again in 2.1 s" if refused else "",
        http_status=503 if refused else None,
        due_at_ms=at_ms + 2_100 if refused else None,
        trace_id=trace,
        app="0.1.0",
    )
    yield names.status, lead_id.encode(), _encode(event)
    if status in ("sending", "enriched"):
        yield names.state, key, _encode(Delivery(1, status, origin, seq, at_ms, at_ms, trace))
    if status == "sending":
        yield names.state, person_key(workspace, f"people{partition}", trace[:22]), key
    if status == "enriched":
        fields = {
            "Work Email": f"person{number}@example.com",
            "Title": "Head of Things",
            "Summary": "x" * 300,
        }
        result = Result(
            lead_id,
            workspace,
            f"people{partition}",
            "clay",
            1,
            at_ms,
            0,
            dict(fields),
            origin,
            trace,
        )
        yield names.enriched, key.removeprefix(b"d/"), _encode(result)


def build_in_memory(sources: Sources, path: Path, leads: int, now_ms: int) -> float:
    """Seconds of the model alone."""
    seconds = 0.0
    clock = time.perf_counter
    model = ReadModel(path, sources)
    for partition in range(PARTITIONS):
        batch: dict[str, list[Made]] = {}
        ends = dict.fromkeys(sources.topics, 0)
        waiting = 0
        for topic, key, value in stream(sources.names, partition, leads // PARTITIONS, now_ms):
            batch.setdefault(topic, []).append(
                Made(topic, partition, ends[topic], key, value, (), now_ms),
            )
            ends[topic] += 1
            waiting += 1
            if waiting == _MAX_RECORDS:
                began = clock()
                model.apply(
                    batch,
                    {(topic, partition): LogPosition(end) for topic, end in ends.items()},
                    None,
                )
                seconds += clock() - began
                batch = {}
                waiting = 0
        began = clock()
        model.apply(
            batch,
            {(topic, partition): LogPosition(end) for topic, end in ends.items()},
            None,
        )
        seconds += clock() - began
    began = clock()
    model.apply({}, {}, now_ms)
    seconds += clock() - began
    model.close()
    return seconds


async def fill(bootstrap: str, sources: Sources, leads: int, now_ms: int) -> None:
    """The records onto Kafka."""
    client = KafkaConnection(bootstrap)
    await create_topics(
        client,
        plan(sources.names, PARTITIONS, 1, sources.kept, ()),
        60,
        lambda _: None,
    )
    senders = {
        topic: Sender(client, topic, 120) for topic in (sources.names.status, sources.names.state)
    }
    senders[sources.names.enriched] = Sender(client, sources.names.enriched, 120)
    for sender in senders.values():
        await sender.__aenter__()
    for partition in range(PARTITIONS):
        for topic, key, value in stream(sources.names, partition, leads // PARTITIONS, now_ms):
            await senders[topic].put(partition, key, value)
    for sender in senders.values():
        await sender.flush()
        await sender.__aexit__(None, None, None)


async def build_from_kafka(
    bootstrap: str,
    sources: Sources,
    path: Path,
) -> tuple[float, list[float]]:
    """Seconds from the start of a feed to its being complete, and by how much a timer of 10 ms was
    late meanwhile.
    """
    feed = Projection(KafkaConnection(bootstrap), sources, path, log.get("benchmark"))
    late_s: list[float] = []
    began = time.perf_counter()
    task = asyncio.create_task(feed.run())
    while feed.lag.as_of_ms is None:
        before = time.perf_counter()
        await asyncio.sleep(_TIMER_S)
        late_s.append(time.perf_counter() - before - _TIMER_S)
    seconds = time.perf_counter() - began
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    return seconds, sorted(late_s)


def missed(leads: int, seconds: float, file_mb: float, rss_mb: float) -> list[str]:
    """The goals that were missed, in words."""
    share = leads / PER_LEADS
    goals = {
        "s": (seconds, MAX_SECONDS * share),
        "MB on disk": (file_mb, MAX_FILE_MB * share),
        "MB of memory": (rss_mb, MAX_RSS_MB),
    }
    return [
        f"{took:.0f} {unit}, not below {most:.0f}"
        for unit, (took, most) in goals.items()
        if took >= most
    ]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--leads", type=int, default=1_000_000)
    parser.add_argument(
        "--kafka",
        action="store_true",
        help="read from Kafka (KAFKA_BOOTSTRAP's, or one from pip)",
    )
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    log.configure("console")
    now_ms = time.time_ns() // 1_000_000
    sources = Sources(
        TopicNames(unused("read-model")),
        PARTITIONS,
        Retention(),
        frozenset({"acme"}),
    )
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="read-model-"))
        path = Path(folder) / "model.sqlite"
        if args.kafka:
            bootstrap = stack.enter_context(kafka_for(Console(stderr=True).print)).bootstrap
            # In a process of its own: what writing needs in memory is not the model's.
            filler = os.fork()
            if filler == 0:
                asyncio.run(fill(bootstrap, sources, args.leads, now_ms))
                os._exit(0)
            if os.waitpid(filler, 0)[1]:
                return 1
            seconds, late_s = asyncio.run(build_from_kafka(bootstrap, sources, path))
        else:
            late_s = []
            seconds = build_in_memory(sources, path, args.leads, now_ms)
        size_bytes = sum(file.stat().st_size for file in Path(folder).iterdir())
    rss_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    failed = missed(args.leads, seconds, size_bytes / 1e6, rss_mb)
    figures: dict[str, object] = {
        "leads": args.leads,
        "events": args.leads * len(_STEPS),
        "from": "Kafka" if args.kafka else "memory",
        "seconds": round(seconds, 1),
        # of the whole process, making the records included if in memory
        "cpu_seconds": round(time.process_time(), 1),
        "us_per_event": round(seconds * 1e6 / (args.leads * len(_STEPS)), 2),
        "file_mb": round(size_bytes / 1e6),
        "bytes_per_lead": round(size_bytes / args.leads),
        "rss_at_peak_mb": round(rss_mb),
    }
    if late_s:  # what a callback would wait for beside the work
        figures["loop_late_p99_ms"] = round(late_s[len(late_s) * 99 // 100] * 1000, 1)
        figures["loop_late_max_ms"] = round(late_s[-1] * 1000, 1)
    if args.json:
        sys.stdout.write(json.dumps(figures | {"missed": failed}) + "\n")
    else:
        for name, figure in figures.items():
            Console().print(f"{name:16} {figure}")
    if failed:
        raise SystemExit("; ".join(failed))
    return 0


if __name__ == "__main__":
    sys.exit(main())
