"""Leads and batches that are made to stop a worker: each good lead is sent once.

A batch that is damaged stops its partition until an operator skips it. One that is too large is a
dead letter.
"""

import asyncio
import json
import struct
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Final, Self

import aiokafka.record._crecords.default_records as batches
import psutil
import pytest
from aiokafka import AIOKafkaProducer

from stream_app.dev.kafka import Broker
from stream_app.domain.model.records import Record
from tests.e2e.behind import eventually
from tests.e2e.member import Member
from tests.e2e.pipeline import Pipeline
from tests.support.kafka import committed
from tests.support.odd_batches import gzip_with_more_behind_it, lz4_with_a_wrong_checksum

MAX_GROWTH_MB: Final = 150
"""What a worker or a board may grow by under any batch of a producer, in MiB."""
InBatch = tuple[bytes | None, bytes | None, Sequence[tuple[str, bytes | None]]]
MARKS = "a" + "\u0301" * 25_000 + "\u0316" * 24_000
LETTERS = "".join(chr(0x4E00 + number) for number in range(20_000, 0, -1))
HOSTILE: dict[str, tuple[bytes, str]] = {
    "marks": (
        b'{"fields":{"title":"%s","email":"m@example.com"}}' % MARKS.encode(),
        "too_many_marks",
    ),
    "a long host": (b'{"fields":{"domain":"%s.de"}}' % LETTERS.encode(), "no_identity"),
    "many mailtos": (b'{"fields":{"email":"%s"}}' % (b"mailto:" * 14_000), "no_identity"),
    "nesting": (
        b'{"fields":{"email":"n@example.com"},"more":%s%s}' % (b"[" * 50_000, b"]" * 50_000),
        "nested_too_deep",
    ),
}


async def publish(
    bootstrap: str,
    record: Record,
    value: bytes | None,
    codec: str,
    encode: Callable[..., bytes] | None = None,
) -> None:
    """Publish one batch, compressed by this function."""
    with pytest.MonkeyPatch.context() as patch:
        if encode is not None:
            patch.setattr(batches, f"{codec}_encode", encode)
        await publish_batch(bootstrap, record, [(record.key, value, ())], codec)


async def publish_batch(
    bootstrap: str,
    place: Record,
    records: Iterable[InBatch],
    codec: str | None = "zstd",
) -> None:
    """Publish all of these (key, value, headers) in one batch to the topic and partition of a
    record.
    """
    async with AIOKafkaProducer(
        bootstrap_servers=bootstrap,
        compression_type=codec,
        max_request_size=1 << 30,
        max_batch_size=1 << 30,
    ) as producer:
        batch = producer.create_batch()
        for key, value, headers in records:
            assert (
                batch.append(timestamp=None, key=key, value=value, headers=list(headers))
                is not None
            )
        await (await producer.send_batch(batch, place.topic, partition=place.partition))


@pytest.mark.slow
@pytest.mark.timeout(240)
async def test_hostile_leads_stop_nothing_but_themselves(kafka: Broker, namespace: str) -> None:
    async with Pipeline(kafka.bootstrap, namespace, 1) as line:
        topic = line.settings.names.leads
        home = line.settings.home("w0")
        origins: dict[str, str] = {}
        for number, (name, (value, _)) in enumerate(HOSTILE.items()):
            await line.publish([line.lead(number, "w0")])
            await line.publish([Record(topic, b"w0", value, (), home)])
            origins[name] = f"{topic}/{home}/{2 * number + 1}"
        for number, codec, encode in (
            (10, "lz4", lz4_with_a_wrong_checksum),
            (11, "gzip", gzip_with_more_behind_it),
        ):
            more = line.lead(number, "w0")
            padded = json.dumps(json.loads(more.value or b"") | {"source": "s" * 500}).encode()
            await publish(kafka.bootstrap, more, padded, codec, encode)
        await line.publish([line.lead(12, "w0")])

        worker = line.start("worker")
        await line.until_over(11, 60)
        assert line.last() == {"accepted": 7, "rejected_invalid": 4}
        for name, (_, reason) in HOSTILE.items():
            assert line.histories[origins[name]][-1].reason == reason, name
        assert await worker.get("/healthz") == "ok\n"
        await worker.stop()
        assert set(line.summary()["leads"].values()) == {1}, "none was POSTed twice"


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_batches_that_are_large_once_decompressed_are_concluded_and_take_little_memory(
    kafka: Broker,
    namespace: str,
) -> None:
    """Headers, leads and records without anything, each in batches of a few KB."""
    async with Pipeline(kafka.bootstrap, namespace, 1) as line:
        home = line.lead(0, "w0")
        bomb = line.lead(1, "w0")
        leads = [line.lead(number, "w0", source="s" * 100_000) for number in range(100, 280)]
        await line.publish([home])
        worker = line.start("worker")
        await line.until_over(1, 60)
        usual_mb = rss_mb(worker.process.pid)
        await worker.stop()
        for _ in range(8):
            await publish_batch(
                kafka.bootstrap,
                home,
                [(b"w0", bomb.value, [("", None)] * 1_000_000)],
            )
        await publish_batch(kafka.bootstrap, home, [(b"w0", bomb.value, [("", None)] * 8_000_000)])
        await publish_batch(kafka.bootstrap, home, [(lead.key, lead.value, ()) for lead in leads])
        for _ in range(4):
            await publish_batch(kafka.bootstrap, home, [(None, None, ())] * 5_000)
        await line.publish([line.lead(2, "w0")])

        board = line.start("board")
        await line.ready(board)
        before = rss_mb(board.process.pid)
        code, output = await line.run("status", "no-such-lead")
        assert code == 1, output
        assert rss_mb(board.process.pid) - before < MAX_GROWTH_MB, "it has searched what waits"
        assert await board.get("/healthz") == "ok\n"

        worker = line.start("worker")
        with Peak(worker.process.pid) as peak:
            await line.until_last(
                {"accepted": 2, "rejected_invalid": 10, "without_value": 1},
                110,
            )
        assert usual_mb < peak.mb < usual_mb + MAX_GROWTH_MB
        (run,) = (
            event
            for history in line.histories.values()
            for event in history
            if event.status == "without_value"
        )
        assert run.first_offset == 190
        assert run.last_offset == 20_189
        assert run.records == 20_000
        reasons = Counter(
            event.reason for history in line.histories.values() for event in history[-1:]
        )
        assert reasons["too_many_headers"] == 9
        assert reasons["batch_too_large"] == 1
        letters = await line.read(line.settings.names.dlq)
        assert len(letters) == 10, "none of the records without a value"
        (whole,) = (letter for letter in letters if letter.value != bomb.value)
        batch_id = f"{whole.topic}/{whole.partition}/{whole.offset}"
        books = await line.books_balance()
        assert books["records"] == 12
        assert books["without_value"] == 20_000
        assert books["batches"] == 1
        assert books["in_batches"] == 180

        output = await line.done("dlq", "show", batch_id)
        assert "its value is a batch of 180 records: --leads FILE writes them" in output
        assert "batch_too_large" in output
        file = line.directory / "leads.jsonl"
        output = await line.done("dlq", "show", batch_id, "--leads", str(file))
        assert f"180 records of the batch written; next: stream-app publish {file}" in output
        await line.done("publish", str(file), "--yes")
        await line.until(lambda: line.last()["accepted"] == 182, 90, "the leads of the batch")
        await worker.stop()
        await board.stop()
        assert set(line.summary()["leads"].values()) == {1}, "none was POSTed twice"
        await line.books_balance()


@pytest.mark.slow
@pytest.mark.timeout(240)
async def test_a_batch_with_a_broken_checksum_holds_its_partition_until_it_is_skipped(
    kafka: Broker,
    namespace: str,
) -> None:
    async with Pipeline(kafka.bootstrap, namespace, 2) as line:
        topic = line.settings.names.leads
        other = line.settings.home("w1")
        await line.publish([line.lead(10, "w0")])
        await line.publish([line.lead(20, "w1")])
        await line.publish([line.lead(21, "w1")])
        await asyncio.to_thread(break_checksum, kafka, topic, other, 1)
        place = f"{topic}/{other}/1"
        says = f"{topic}/{other} cannot be read at offset 1: its checksum does not match"
        code, output = await line.run("skip", place, "--yes")
        assert code == 1, output
        assert "the record at offset 0 can be read, and is not finished" in output, output

        worker = line.start("worker")
        await line.until_over(2, 60)
        await eventually(lambda: _logged(worker, says), 20)
        await eventually(lambda: _explained(line, f"w1: HELD, {says}"), 20)
        code, books = await line.ask("books")
        assert code == 1, "all but what cannot be read"
        assert books["records"] == 2, "all but what cannot be read"
        assert books["accounted"] == 2, "all but what cannot be read"
        assert [
            (problem["where"], "cannot be read" in problem["what"]) for problem in books["problems"]
        ] == [(place, True)]
        for wrong, why in (
            (f"{topic}/{other}/2", says),
            (f"{topic}/{line.settings.home('w0')}/3", "can be read"),
        ):
            code, output = await line.run("skip", wrong, "--yes")
            assert code == 1, output
            assert why in output, output
        code, output = await line.run("skip", place)
        assert code == 2
        assert "--yes" in output
        output = await line.done("skip", place, "--yes")
        assert f"skipped {topic}/{other}, offsets 1 to 1" in output
        assert "the process continues at 2" in output, (
            "its offset is committed, although no record follows"
        )
        await line.publish([line.lead(22, "w1")])
        await line.until_over(3, 40)
        assert worker.alive, "the same worker"
        await worker.stop()
        assert line.last() == {"accepted": 3}
        assert set(line.summary()["leads"].values()) == {1}, "none was POSTed twice"

        await line.publish([line.lead(23, "w1")])
        await asyncio.to_thread(break_checksum, kafka, topic, other, 3)
        output = await line.done("skip", f"{topic}/{other}/3", "--yes")
        assert output == f"skipped {topic}/{other}, offsets 3 to 3; the next start continues at 4\n"
        assert (await committed(kafka.bootstrap, line.settings.names.worker_app))[topic, other] == 4


def break_checksum(kafka: Broker, topic: str, partition: int, offset: int) -> None:
    """Change the last byte of the batch that begins there, on the disk of a local broker."""
    output = kafka.run_tool(
        "org.apache.kafka.tools.LogDirsCommand",
        "--describe",
        "--topic-list",
        topic,
    )
    described = json.loads(next(line for line in output.splitlines() if line.startswith("{")))
    directory = Path(described["brokers"][0]["logDirs"][0]["logDir"])
    log = directory / f"{topic}-{partition}" / f"{0:020}.log"
    if not log.exists():
        pytest.skip("the broker's disk is not on this machine")
    raw = log.read_bytes()
    at = 0
    while True:
        base, length = struct.unpack_from(">qi", raw, at)
        if base == offset:
            break
        at += 12 + length
    with log.open("r+b") as file:
        file.seek(at + 11 + length)
        file.write(bytes([raw[at + 11 + length] ^ 0xFF]))


def rss_mb(pid: int) -> float:
    return float(psutil.Process(pid).memory_info().rss) / 2**20


class Peak:
    """Measures the memory of a process ten times a second, inside the block.

    Attributes:
        mb: The most of it, in MiB.
    """

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self.mb = 0.0

    def __enter__(self) -> Self:
        self._measuring = asyncio.create_task(self._measure())
        return self

    def __exit__(self, *_: object) -> None:
        self._measuring.cancel()

    async def _measure(self) -> None:
        while True:
            self.mb = max(self.mb, rss_mb(self._pid))
            await asyncio.sleep(0.1)


async def _logged(member: Member, text: str) -> str:
    return "" if text in member.log.read_text() else f"the log does not say {text!r}"


async def _explained(line: Pipeline, text: str) -> str:
    """`explain` looks at the record behind the committed offset."""
    code, output = await line.run("explain", "--workspace", "w1")
    return "" if (code, text in output) == (1, True) else output
