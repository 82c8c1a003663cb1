"""`stream-app replay` with very many dead letters that wait, while others fall due, on a real
Kafka.

`python -m benchmarks.waiting [--waiting 1000000] [--sorting 100000]`. So many wait in the delay
tiers already, due two to eleven hours from now, and so many more on `leads.dlq` that the process
has to sort into them first. Then others fall due: how late these come, the memory of the process
meanwhile, and how long SIGTERM takes. Exit code 1 when one comes early or more than 2 s late, when
memory grows by more than 20 MB meanwhile or is ever above 300 MB, or when SIGTERM takes 15 s.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import msgspec
import psutil
from aiokafka import AIOKafkaConsumer, TopicPartition

from benchmarks.dead_letters import (
    CAUSES,
    PARTITIONS,
    dead_letter,
    prepare,
    say,
    show_progress,
    write,
)
from stream_app.config import Settings
from stream_app.dev.kafka import kafka_for, unused
from stream_app.dev.process import ChildProcesses, end
from stream_app.domain.dead_letter.replay import returning
from stream_app.domain.delivery.envelope import read_envelope
from stream_app.domain.model.records import ConsumedRecord, Record

MAX_LATE_MS = 2_000
MAX_GROWTH_BYTES = 20 * 2**20
MAX_BYTES = 300 * 2**20
MAX_TERM_S = 15.0
_HOUR_MS = 3_600_000


class Figures(msgspec.Struct):
    """What was seen. Memory is the process's resident set."""

    sorted_s: float
    late_ms: list[int]
    rss_before_bytes: int
    rss_after_bytes: int
    rss_peak_bytes: int
    term_s: float
    exit_code: int


def missed(seen: Figures) -> list[str]:
    """The limits that a process was beyond, one line each."""
    misses = []
    if seen.late_ms[0] < 0:
        misses.append(f"one came {-seen.late_ms[0]} ms before it was due")
    if seen.late_ms[-1] > MAX_LATE_MS:
        misses.append(f"one came {seen.late_ms[-1]} ms late, more than {MAX_LATE_MS}")
    if seen.rss_after_bytes - seen.rss_before_bytes > MAX_GROWTH_BYTES:
        grown = (seen.rss_after_bytes - seen.rss_before_bytes) / 2**20
        misses.append(f"memory grew by {grown:.0f} MB, more than {MAX_GROWTH_BYTES / 2**20:.0f}")
    if seen.rss_peak_bytes > MAX_BYTES:
        misses.append(
            (
                f"memory came to {seen.rss_peak_bytes / 2**20:.0f} MB, more than "
                f"{MAX_BYTES / 2**20:.0f}"
            ),
        )
    if seen.exit_code or seen.term_s > MAX_TERM_S:
        misses.append(f"SIGTERM took {seen.term_s:.1f} s (exit code {seen.exit_code})")
    return misses


def failed(settings: Settings, number: int, now_ms: int, due_ms: int) -> Record:
    """A dead letter that comes back by itself, in a partition that changes with the number."""
    record = dead_letter(number * len(CAUSES), now_ms, due_ms)
    return msgspec.structs.replace(record, topic=settings.names.dlq, partition=number % PARTITIONS)


def waiting_in_tiers(settings: Settings, dead_letters: int, now_ms: int) -> Iterator[Record]:
    """Dead letters as the replay process has put them into the two long tiers, due two to eleven
    hours from now.
    """
    for number in range(dead_letters):
        record = failed(settings, number, now_ms, now_ms + (2 + number % 10) * _HOUR_MS)
        back = returning(
            read_envelope(
                ConsumedRecord(record.topic, 0, 0, record.key, record.value, record.headers),
            ),
            "",
        )
        assert back is not None
        tier_s = (600, 3600)[number % 2]
        yield msgspec.structs.replace(
            record,
            topic=settings.names.wait(tier_s),
            headers=back.to_headers(),
        )


async def measure(
    settings: Settings,
    config: Path,
    waiting: int,
    sorting: int,
    rounds: int = 20,
) -> Figures:
    """One process, from its start to its end."""
    now_ms = time.time_ns() // 1_000_000
    await write(settings, waiting_in_tiers(settings, waiting, now_ms))
    await write(
        settings,
        (failed(settings, n, now_ms, now_ms + (2 + n % 10) * _HOUR_MS) for n in range(sorting)),
    )
    before = await records_in(settings, settings.names.wait(3600))
    with closing(ChildProcesses("benchmark")) as children:
        argv = [sys.executable, "-m", "stream_app", "replay", "--config", str(config)]
        replay = children.spawn(argv, log=children.directory / "replay.log")
        memory = psutil.Process(replay.pid).memory_info
        began_s = time.monotonic()
        while await records_in(settings, settings.names.wait(3600)) < before + sorting:
            assert replay.poll() is None, (children.directory / "replay.log").read_text()[-2000:]
            assert time.monotonic() - began_s < 400, "the dead letters did not go into their tier"
            await asyncio.sleep(0.5)
        sorted_s = time.monotonic() - began_s
        rss = []
        late_ms = list[int]()
        for _ in range(rounds):
            due_ms = time.time_ns() // 1_000_000 + 1_000
            await write(settings, (failed(settings, n, due_ms, due_ms) for n in range(50)))
            seen = await retried(settings, len(late_ms) + 50)
            late_ms += [at_ms - due_ms for at_ms in seen[len(late_ms) :]]
            rss.append(memory().rss)
        began_s = time.monotonic()
        await asyncio.to_thread(end, replay, grace_s=60)
        term_s = time.monotonic() - began_s
    return Figures(sorted_s, sorted(late_ms), rss[0], rss[-1], max(rss), term_s, replay.returncode)


async def records_in(settings: Settings, topic: str) -> int:
    """How many offsets a topic has."""
    consumer = AIOKafkaConsumer(bootstrap_servers=settings.kafka.bootstrap)
    await consumer.start()
    try:
        return sum(
            (
                await consumer.end_offsets([TopicPartition(topic, n) for n in range(PARTITIONS)])
            ).values(),
        )
    finally:
        await consumer.stop()


async def retried(settings: Settings, wanted: int) -> list[int]:
    """The append times of all in leads.retry, as soon as there are so many."""
    consumer = AIOKafkaConsumer(
        bootstrap_servers=settings.kafka.bootstrap,
        auto_offset_reset="earliest",
    )
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
    parser = argparse.ArgumentParser(prog="python -m benchmarks.waiting", description=__doc__)
    parser.add_argument("--waiting", type=int, default=1_000_000)
    parser.add_argument("--sorting", type=int, default=100_000)
    args = parser.parse_args()
    with kafka_for(show_progress) as kafka, tempfile.TemporaryDirectory() as directory:
        config, settings = prepare(Path(directory), kafka.bootstrap, unused("waiting"))
        seen = asyncio.run(measure(settings, config, args.waiting, args.sorting))
    mb = 2**20
    say(
        (
            f"{args.waiting} waited; {args.sorting} more were sorted into their tiers within "
            f"{seen.sorted_s:.0f} s"
        ),
    )
    say(
        (
            f"those that fell due came {statistics.median(seen.late_ms):.0f} ms late (median), "
            f"at most {seen.late_ms[-1]}"
        ),
    )
    say(
        f"memory: {seen.rss_before_bytes / mb:.0f} MB in the first round, "
        f"{seen.rss_after_bytes / mb:.0f} MB in the "
        f"last, at most {seen.rss_peak_bytes / mb:.0f}; SIGTERM took {seen.term_s:.1f} s "
        f"(exit code {seen.exit_code})",
    )
    if wrong := missed(seen):
        raise SystemExit("; ".join(wrong))


if __name__ == "__main__":
    main()
