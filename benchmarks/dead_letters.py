"""Dead letters in large numbers, on a real Kafka: `stream-app dlq` counts them; its time and
memory.

`python -m benchmarks.dead_letters [--dead-letters 1000000] [--suppressed 1000]`. Counts them once
more with people on the suppression list, for then the values are read, too. Exit code 1 when a
million take more than 30 s (fewer: as much less, and 3 s for the start), or when memory grows by
more than 50 MB after the first third, or ever is above 250 MB. Dead letters that wait:
benchmarks/waiting.py.
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
from itertools import product
from pathlib import Path

import msgspec
import psutil
from msgspec.structs import replace
from rich.console import Console

from stream_app.config import Settings, load_settings
from stream_app.config.kafka_access import connection_of
from stream_app.dev.kafka import kafka_for, unused
from stream_app.dev.process import free_port
from stream_app.domain.delivery.envelope import Envelope
from stream_app.domain.delivery.suppression import Suppression, person_row
from stream_app.domain.lead.identity import people
from stream_app.domain.model.records import Record
from stream_app.kafka.topics import create_topics
from stream_app.kafka.transactional_state import StateStoreLimits, TransactionalState

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
MAX_S_PER_MILLION = 30.0
START_S = 3.0
MAX_GROWTH_BYTES = 50 * 2**20
MAX_BYTES = 250 * 2**20
CAUSES = ("http_503", "connect_error", "dns_error", "http_422", "not_json", "unknown_workspace")

say = Console().print
show_progress = Console(stderr=True).print


class Counted(msgspec.Struct):
    """One count. `early_bytes`: the most that was resident in its first third, or its first 3 s."""

    dead_letters: int
    took_s: float
    cpu_s: float
    early_bytes: int
    peak_bytes: int


def dead_letter(number: int, now_ms: int, not_before_ms: int) -> Record:
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
    lead = {
        "lead_id": f"lead-{number}",
        "fields": {"email": f"person{number}@example.com", "title": "x" * 320},
    }
    return Record(
        "leads.dlq",
        b"w0",
        msgspec.json.encode(lead),
        envelope.to_headers(),
        number % PARTITIONS,
    )


def suppressions(settings: Settings, people_: int) -> Iterator[Record]:
    """Rows of so many people, in each partition; each of them has a dead letter."""
    row = msgspec.json.encode(Suppression("suppressed", 0, "c-1", "jane"))
    for number in range(people_):
        (person,) = people({"email": f"person{number}@example.com"})
        for partition in range(PARTITIONS):
            yield Record(settings.names.state, person_row(person), row, (), partition)


def prepare(directory: Path, bootstrap: str, namespace: str) -> tuple[Path, Settings]:
    """A configuration in a file, with its topics on that broker."""
    config = directory / "stream_app.toml"
    config.write_text(
        CONFIG.format(
            bootstrap=bootstrap,
            namespace=namespace,
            partitions=PARTITIONS,
            port=free_port(),
        ),
    )
    settings = load_settings(config, os.environ, ())
    asyncio.run(create_topics(connection_of(settings), settings.topic_plan(), 30, show_progress))
    return config, settings


async def write(settings: Settings, dead_letters: Iterator[Record]) -> None:
    """All of them, in transactions of 20,000."""
    store = TransactionalState(
        connection_of(settings),
        "benchmark",
        settings.names.replay_state,
        0,
        StateStoreLimits(60, 60),
        writes_to=product((topic.name for topic in settings.topic_plan()), range(PARTITIONS)),
    )
    await store.take_over()
    batch: list[Record] = []
    for record in dead_letters:
        batch.append(record)
        if len(batch) == 20_000:
            await store.transact(batch)
            batch.clear()
    await store.transact(batch)
    await store.close()


def missed(seen: Counted) -> list[str]:
    """The limits that a count is beyond, one line each."""
    limit_s = MAX_S_PER_MILLION * seen.dead_letters / 1_000_000 + (
        START_S if seen.dead_letters < 1_000_000 else 0
    )
    failed = []
    if seen.took_s > limit_s:
        failed.append(
            f"{seen.dead_letters} dead letters took {seen.took_s:.1f} s, more than {limit_s:.1f}",
        )
    if seen.peak_bytes - seen.early_bytes > MAX_GROWTH_BYTES:
        grown = (seen.peak_bytes - seen.early_bytes) / 2**20
        failed.append(f"memory grew by {grown:.0f} MB, more than {MAX_GROWTH_BYTES / 2**20:.0f}")
    if seen.peak_bytes > MAX_BYTES:
        failed.append(
            f"memory came to {seen.peak_bytes / 2**20:.0f} MB, more than {MAX_BYTES / 2**20:.0f}",
        )
    return failed


def count(config: Path, dead_letters: int) -> Counted:
    """What `stream-app dlq` needs for them."""
    with tempfile.TemporaryFile() as out:
        began_s = time.monotonic()
        argv = [sys.executable, "-m", "stream_app", "dlq", "--config", str(config), "--json"]
        process = subprocess.Popen(argv, stdout=out)
        sizes = [(0.0, 0)]
        cpu_s = 0.0
        while process.poll() is None:
            try:
                seen = psutil.Process(process.pid)
                sizes.append((time.monotonic() - began_s, seen.memory_info().rss))
                cpu_s = sum(seen.cpu_times()[:2])
            except psutil.NoSuchProcess:
                break
            time.sleep(0.1)
        took_s = time.monotonic() - began_s
        assert process.wait(10) == 0
        out.seek(0)
        assert f'"dead_letters": {dead_letters}'.encode() in out.read()
    early = [size for at_s, size in sizes if at_s <= max(took_s / 3, START_S)]
    return Counted(dead_letters, took_s, cpu_s, max(early), max(size for _, size in sizes))


def show(seen: Counted) -> None:
    say(
        (
            f"{seen.dead_letters} dead letters counted in {seen.took_s:.1f} s, of which "
            f"{seen.cpu_s:.1f} s of CPU"
        ),
    )
    say(
        (
            f"memory: {seen.early_bytes / 2**20:.0f} MB in the first third, at most "
            f"{seen.peak_bytes / 2**20:.0f} MB"
        ),
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.dead_letters", description=__doc__)
    parser.add_argument("--dead-letters", type=int, default=1_000_000)
    parser.add_argument(
        "--suppressed",
        type=int,
        default=1_000,
        help="people on the list, for a second count",
    )
    args = parser.parse_args()
    with kafka_for(show_progress) as kafka, tempfile.TemporaryDirectory() as directory:
        config, settings = prepare(Path(directory), kafka.bootstrap, unused("dead-letters"))
        now_ms = time.time_ns() // 1_000_000
        dead_letters = (dead_letter(number, now_ms, now_ms) for number in range(args.dead_letters))
        asyncio.run(
            write(settings, (replace(letter, topic=settings.names.dlq) for letter in dead_letters)),
        )
        show(plain := count(config, args.dead_letters))
        asyncio.run(write(settings, suppressions(settings, args.suppressed)))
        say(f"with {args.suppressed} people on the suppression list, so that values are read:")
        show(reading := count(config, args.dead_letters))
    if failed := missed(plain) + missed(reading):
        raise SystemExit("; ".join(failed))


if __name__ == "__main__":
    main()
