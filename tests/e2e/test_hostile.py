"""Leads and batches that are made to stop a worker: each good lead is sent once.

A batch that cannot be read stops its partition until an operator skips it.
"""

import json
from collections.abc import Callable

import aiokafka.record._crecords.default_records as batches
import psutil
import pytest
from aiokafka import AIOKafkaProducer

from stream_app.dev.kafka import Broker
from stream_app.domain.model.records import Record
from stream_app.kafka.codecs import MOST_BYTES
from tests.e2e.behind import eventually
from tests.e2e.pipeline import Pipeline
from tests.support.kafka import committed
from tests.support.odd_batches import gzip_with_more_behind_it, lz4_with_a_wrong_checksum

BOMB = bytes(8 * MOST_BYTES)
"""A few KB on Kafka."""
MARKS = "a" + "\u0301" * 25_000 + "\u0316" * 24_000
LETTERS = "".join(chr(0x4E00 + number) for number in range(20_000, 0, -1))
HOSTILE: dict[str, tuple[bytes, str]] = {
    "marks": (b'{"fields":{"title":"%s","email":"m@example.com"}}' % MARKS.encode(), "too_many_marks"),
    "a long host": (b'{"fields":{"domain":"%s.de"}}' % LETTERS.encode(), "no_identity"),
    "many mailtos": (b'{"fields":{"email":"%s"}}' % (b"mailto:" * 14_000), "no_identity"),
    "nesting": (
        b'{"fields":{"email":"n@example.com"},"more":%s%s}' % (b"[" * 50_000, b"]" * 50_000),
        "nested_too_deep",
    ),
}


async def publish(
    bootstrap: str, record: Record, value: bytes | None, codec: str, encode: Callable[..., bytes] | None = None
) -> None:
    """Publish one batch, compressed by this function."""
    with pytest.MonkeyPatch.context() as patch:
        if encode is not None:
            patch.setattr(batches, f"{codec}_encode", encode)
        async with AIOKafkaProducer(
            bootstrap_servers=bootstrap, compression_type=codec, max_request_size=1 << 30
        ) as producer:
            await producer.send_and_wait(record.topic, value, record.key, partition=record.partition)


@pytest.mark.slow
@pytest.mark.timeout(240)
async def test_hostile_leads_stop_nothing_but_themselves(kafka: Broker, namespace: str) -> None:
    async with Pipeline(kafka.bootstrap, namespace, 2) as line:
        topic, home, other = line.settings.names.leads, line.settings.home("w0"), line.settings.home("w1")
        assert home != other
        origins: dict[str, str] = {}
        for number, (name, (value, _)) in enumerate(HOSTILE.items()):
            await line.publish([line.lead(number, "w0")])
            await line.publish([Record(topic, b"w0", value, (), home)])
            origins[name] = f"{topic}/{home}/{2 * number + 1}"
        for number, codec, encode in ((10, "lz4", lz4_with_a_wrong_checksum), (11, "gzip", gzip_with_more_behind_it)):
            more = line.lead(number, "w0")
            padded = json.dumps(json.loads(more.value or b"") | {"source": "s" * 500}).encode()
            await publish(kafka.bootstrap, more, padded, codec, encode)
        await line.publish([line.lead(12, "w0")])

        await line.publish([line.lead(20, "w1")])
        await publish(kafka.bootstrap, line.lead(21, "w1"), BOMB, "zstd")
        place = f"{topic}/{other}/1"
        says = f"{topic}/{other} cannot be read at offset 1: it has more than 16 MiB once it is decompressed"
        code, output = await line.run("skip", place, "--yes")
        assert (code, "the record at offset 0 can be read, and is not finished" in output) == (1, True), output

        worker = line.start("worker")
        await line.until_over(12, 60)
        await eventually(lambda: _logged(line, worker.pid, says), 20)
        assert line.last() == {"accepted": 8, "rejected_invalid": 4}
        for name, (_, reason) in HOSTILE.items():
            assert line.histories[origins[name]][-1].reason == reason, name
        assert await line.get(worker, "/healthz") == "ok\n"
        assert psutil.Process(worker.pid).memory_info().rss < 300 << 20, "the batch alone has 128 MiB, and copies"

        await eventually(lambda: _explained(line, f"w1: HELD, {says}"), 20)
        code, books = await line.ask("books")
        assert (code, books["records"], books["accounted"]) == (1, 12, 12), "all but what cannot be read"
        assert [(problem["where"], "cannot be read" in problem["what"]) for problem in books["problems"]] == [
            (place, True)
        ]
        for wrong, why in ((f"{topic}/{other}/2", says), (f"{topic}/{home}/3", "can be read")):
            code, output = await line.run("skip", wrong, "--yes")
            assert (code, why in output) == (1, True), output
        code, output = await line.run("skip", place)
        assert (code, "--yes" in output) == (2, True)
        output = await line.done("skip", place, "--yes")
        assert f"skipped {topic}/{other}, offsets 1 to 1" in output
        assert "the process continues at 2" in output, "its offset is committed, although no record follows"
        await line.publish([line.lead(22, "w1")])
        await line.until_over(13, 40)
        assert worker.poll() is None, "the same worker"
        await line.stop(worker)
        assert line.last() == {"accepted": 9, "rejected_invalid": 4}
        assert set(line.summary()["leads"].values()) == {1}, "none was POSTed twice"

        await publish(kafka.bootstrap, line.lead(23, "w1"), BOMB, "zstd")
        output = await line.done("skip", f"{topic}/{other}/3", "--yes")
        assert output == f"skipped {topic}/{other}, offsets 3 to 3; the next start continues at 4\n"
        assert (await committed(kafka.bootstrap, line.settings.names.worker_app))[topic, other] == 4


async def _logged(line: Pipeline, pid: int, text: str) -> str:
    return "" if text in line.logs[pid].read_text() else f"the log does not say {text!r}"


async def _explained(line: Pipeline, text: str) -> str:
    """`explain` looks at the record behind the committed offset."""
    code, output = await line.run("explain", "--workspace", "w1")
    return "" if (code, text in output) == (1, True) else output
