"""Dead letters in large numbers, on a real Kafka: `stream-app dlq` counts them; its time and memory.

`python -m benchmarks.dead_letters [--letters 1000000] [--suppressed 1000]`. Counts them once more with people on the
suppression list, for then the values are read, too. Letters that wait: benchmarks/waiting.py.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import psutil
from rich.console import Console

from stream_app.adapters.ledger import KafkaLedger, LedgerLimits
from stream_app.adapters.topics import create_topics
from stream_app.app import connection_of
from stream_app.core.envelope import Envelope
from stream_app.core.lead import people
from stream_app.core.record import Record
from stream_app.core.suppression import Suppression, person_row
from stream_app.dev.kafka import kafka_for, unused
from stream_app.dev.process import free_port
from stream_app.settings import Settings, client_options, load_settings

PARTITIONS = 4
CONFIG = """
[kafka]
bootstrap = "{bootstrap}"
namespace = "{namespace}"
partitions = {partitions}
replication = 1
[http]
replay_port = {port}
[replay]
tiers_s = [1, 10, 600, 3600]
[workspaces.w0.rate]
rate_per_s = 1000
burst = 1000
[destinations.people]
workspace = "w0"
webhooks_env = ["NOT_NEEDED"]
callbacks = false
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
    lead = {"lead_id": f"lead-{number}", "fields": {"email": f"person{number}@example.com", "title": "x" * 320}}
    return Record("leads.dlq", b"w0", msgspec.json.encode(lead), envelope.to_headers(), number % PARTITIONS)


def suppressions(settings: Settings, people_: int) -> Iterator[Record]:
    """Rows of so many people, in each partition; each of them has a letter."""
    row = msgspec.json.encode(Suppression("suppressed", 0, "c-1", "jane"))
    for number in range(people_):
        (person,) = people({"email": f"person{number}@example.com"})
        for partition in range(PARTITIONS):
            yield Record(settings.names.state, person_row(person), row, (), partition)


def prepare(directory: Path, bootstrap: str, namespace: str) -> tuple[Path, Settings]:
    """A configuration in a file, with its topics on that broker."""
    config = directory / "stream_app.toml"
    config.write_text(CONFIG.format(bootstrap=bootstrap, namespace=namespace, partitions=PARTITIONS, port=free_port()))
    settings = load_settings(config, os.environ, clay=False)
    asyncio.run(create_topics(client_options(settings), settings.topic_plan(), 30, say))
    return config, settings


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
        peaks, cpu_s = [0], 0.0
        while process.poll() is None:
            try:
                seen = psutil.Process(process.pid)
                peaks.append(seen.memory_info().rss)
                cpu_s = sum(seen.cpu_times()[:2])
            except psutil.NoSuchProcess:
                break
            time.sleep(0.1)
        took_s = time.monotonic() - began_s
        assert process.wait(10) == 0
        out.seek(0)
        assert f'"letters": {letters}'.encode() in out.read()
    third = len(peaks) // 3
    say(f"{letters} letters counted in {took_s:.1f} s, of which {cpu_s:.1f} s of CPU")
    say(f"memory: {max(peaks[:third]) / 2**20:.0f} MB in the first third, at most {max(peaks) / 2**20:.0f} MB")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.dead_letters", description=__doc__)
    parser.add_argument("--letters", type=int, default=1_000_000)
    parser.add_argument("--suppressed", type=int, default=1_000, help="people on the list, for a second count")
    args = parser.parse_args()
    with kafka_for(say) as kafka, tempfile.TemporaryDirectory() as directory:
        config, settings = prepare(Path(directory), kafka.bootstrap, unused("dead-letters"))
        now_ms = time.time_ns() // 1_000_000
        asyncio.run(write(settings, (letter(n, now_ms, now_ms) for n in range(args.letters))))
        count(config, args.letters)
        asyncio.run(write(settings, suppressions(settings, args.suppressed)))
        say(f"with {args.suppressed} people on the suppression list, so that values are read:")
        count(config, args.letters)


if __name__ == "__main__":
    main()
