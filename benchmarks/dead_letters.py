"""Dead letters in large numbers, on a real Kafka: counting them, and many that wait.

`python -m benchmarks.dead_letters count [--letters 1000000]`: `stream-app dlq` over that many, its time and memory.
`python -m benchmarks.dead_letters waiting [--letters 100000]`: `stream-app replay` with that many letters that are due
in an hour, while others fall due: how late these come, and the memory of the process before and after.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psutil
from aiokafka import AIOKafkaConsumer, TopicPartition
from rich.console import Console

from stream_app.adapters.ledger import KafkaLedger, LedgerLimits
from stream_app.adapters.topics import create_topics
from stream_app.app import connection_of
from stream_app.core.envelope import Envelope
from stream_app.core.record import Record
from stream_app.dev.kafka import LocalKafka
from stream_app.dev.process import ChildProcesses, end, free_port
from stream_app.settings import Settings, client_options, load_settings

PARTITIONS = 4
CONFIG = """
[kafka]
bootstrap = "{bootstrap}"
partitions = {partitions}
replication = 1
[http]
replay_port = {port}
[replay]
tiers_s = [1, 3600]
[workspaces.w0.rate]
rate_per_s = 1000
burst = 1000
[destinations.people]
workspace = "w0"
webhooks_env = ["NOT_NEEDED"]
"""
CAUSES = ("http_503", "connect_error", "dns_error", "http_422", "not_json", "unknown_workspace")

say = Console(stderr=True).print


def letter(number: int, now_ms: int, not_before_ms: int) -> Record:
    """A dead letter as the line writes it, with 400 bytes of value."""
    cause = CAUSES[number % len(CAUSES)]
    envelope = Envelope(
        origin=f"leads/{number % PARTITIONS}/{number}",
        origin_ms=now_ms,
        seq=4,
        lead_id=f"lead-{number}",
        destination="people",
        disposition="failed" if number % len(CAUSES) < 3 else "poison",
        reason=cause,
        text="Something went wrong.",
        http_status=503 if cause == "http_503" else 0,
        attempt=4,
        first_failure_ms=now_ms - 5_000,
        last_failure_ms=now_ms,
        not_before_ms=not_before_ms,
        trace_id="0af7651916cd43dd8448eb211c80319c",
        app="0.1.0",
    )
    return Record("leads.dlq", b"w0", b"x" * 400, envelope.to_headers(), number % PARTITIONS)


async def write(settings: Settings, letters: Iterator[Record]) -> None:
    """All of them, in transactions of 20,000."""
    ledger = KafkaLedger(connection_of(settings), "benchmark", settings.names.replay_state, 0, LedgerLimits(60, 60))
    await ledger.take_over()
    batch: list[Record] = []
    for record in letters:
        batch.append(record)
        if len(batch) == 20_000:
            await ledger.transact(batch)
            batch.clear()
    await ledger.transact(batch)
    await ledger.close()


def count(config: Path, letters: int) -> None:
    """Print what `stream-app dlq` needs."""
    with tempfile.TemporaryFile() as out:
        began_s = time.monotonic()
        argv = [sys.executable, "-m", "stream_app", "dlq", "--config", str(config), "--json"]
        process = subprocess.Popen(argv, stdout=out)
        peaks = [0]
        while process.poll() is None:
            try:
                peaks.append(psutil.Process(process.pid).memory_info().rss)
            except psutil.NoSuchProcess:
                break
            time.sleep(0.1)
        took_s = time.monotonic() - began_s
        assert process.wait(10) == 0
        out.seek(0)
        assert f'"letters": {letters}'.encode() in out.read()
    third = len(peaks) // 3
    say(f"{letters} letters counted in {took_s:.1f} s, {letters / took_s:,.0f} a second")
    say(f"memory: {max(peaks[:third]) / 2**20:.0f} MB in the first third, at most {max(peaks) / 2**20:.0f} MB")


async def waiting(settings: Settings, config: Path, letters: int) -> None:
    """Print how late those come that are due while the others wait."""
    now_ms = time.time_ns() // 1_000_000
    hour_ms = 3_600_000
    await write(settings, (letter(n * 6, now_ms, now_ms + hour_ms) for n in range(letters)))
    with closing(ChildProcesses("benchmark")) as children:
        argv = [sys.executable, "-m", "stream_app", "replay", "--config", str(config)]
        replay = children.spawn(argv, log=children.directory / "replay.log")
        memory = psutil.Process(replay.pid).memory_info
        began_s = time.monotonic()
        while await records_in(settings, settings.names.wait(3600)) < letters:
            assert time.monotonic() - began_s < 300, "the letters did not go into their tier"
            await asyncio.sleep(0.5)
        say(f"{letters} letters were sorted into their tier within {time.monotonic() - began_s:.0f} s")
        before = memory().rss
        late_ms: list[int] = []
        for _ in range(10):
            due_ms = time.time_ns() // 1_000_000 + 1_000
            await write(settings, (letter(n * 6, due_ms, due_ms) for n in range(50)))
            seen = await retried(settings, len(late_ms) + 50)
            late_ms += [at_ms - due_ms for at_ms in seen[len(late_ms) :]]
        say(f"those that fell due came {statistics.median(late_ms):.0f} ms late (median), at most {max(late_ms)} ms")
        say(f"memory: {before / 2**20:.0f} MB with all waiting, {memory().rss / 2**20:.0f} MB at the end")
        end(replay, grace_s=30)


async def records_in(settings: Settings, topic: str) -> int:
    """How many offsets a topic of our own producer's records has."""
    consumer = AIOKafkaConsumer(bootstrap_servers=settings.kafka.bootstrap)
    await consumer.start()
    try:
        return sum((await consumer.end_offsets([TopicPartition(topic, n) for n in range(PARTITIONS)])).values())
    finally:
        await consumer.stop()


async def retried(settings: Settings, wanted: int) -> list[int]:
    """The append times of all in leads.retry, as soon as there are so many."""
    consumer = AIOKafkaConsumer(bootstrap_servers=settings.kafka.bootstrap, auto_offset_reset="earliest")
    await consumer.start()
    try:
        consumer.assign([TopicPartition(settings.names.retry, n) for n in range(PARTITIONS)])
        await consumer.seek_to_beginning()
        times: list[int] = []
        async with asyncio.timeout(60):
            while len(times) < wanted:
                for records in (await consumer.getmany(timeout_ms=100)).values():
                    times += [record.timestamp for record in records]
        return sorted(times)
    finally:
        await consumer.stop()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.dead_letters", description=__doc__)
    parser.add_argument("what", choices=("count", "waiting"))
    parser.add_argument("--letters", type=int)
    args = parser.parse_args()
    with LocalKafka(progress=say) as kafka, tempfile.TemporaryDirectory() as directory:
        config = Path(directory) / "stream_app.toml"
        config.write_text(CONFIG.format(bootstrap=kafka.bootstrap, partitions=PARTITIONS, port=free_port()))
        settings = load_settings(config, os.environ, clay=False)
        asyncio.run(create_topics(client_options(settings), settings.topic_plan(), 30, say))
        if args.what == "waiting":
            asyncio.run(waiting(settings, config, args.letters or 100_000))
            return
        letters = args.letters or 1_000_000
        now_ms = time.time_ns() // 1_000_000
        asyncio.run(write(settings, (letter(n, now_ms, now_ms) for n in range(letters))))
        count(config, letters)


if __name__ == "__main__":
    main()
