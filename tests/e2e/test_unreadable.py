"""A batch that is damaged on the broker's disk stops its partition until an operator skips it."""

from pathlib import Path

import pytest
from aiokafka import AIOKafkaProducer

from stream_app.dev.kafka import LocalKafka
from stream_app.domain.model.records import Record
from tests.e2e.behind import eventually
from tests.e2e.pipeline import Pipeline


async def produce(bootstrap: str, records: list[Record], codec: str | None = None) -> None:
    """Write one batch for each record."""
    async with AIOKafkaProducer(bootstrap_servers=bootstrap, compression_type=codec) as producer:
        for record in records:
            await producer.send_and_wait(record.topic, record.value, record.key, partition=record.partition)


def damage(kafka: LocalKafka, topic: str, partition: int, text: bytes) -> None:
    """Change one byte of the log under a running broker, as a bad disk would."""
    (log,) = Path(kafka.properties["log.dirs"]).glob(f"{topic}-{partition}/*.log")
    with log.open("r+b") as file:
        at = file.read().index(text)
        file.seek(at)
        file.write(bytes([text[0] ^ 0xFF]))


@pytest.mark.slow
@pytest.mark.timeout(180)
async def test_a_damaged_batch_stops_only_its_partition_until_it_is_skipped(namespace: str) -> None:
    async with LocalKafka() as kafka, Pipeline(kafka.bootstrap, namespace, 2) as line:
        topic = line.settings.names.leads
        partition, other = (line.settings.home(name) for name in ("w0", "w1"))
        assert partition != other
        await produce(kafka.bootstrap, [line.lead(number, "w0") for number in range(6)])
        await produce(kafka.bootstrap, [line.lead(number, "w1") for number in range(10, 16)])
        damage(kafka, topic, partition, b"person3@example.com")
        place = f"{topic}/{partition}/3"
        says = f"{topic}/{partition} cannot be read at offset 3: its checksum does not match"
        code, output = await line.run("skip", place, "--yes")
        assert (code, "the record at offset 0 can be read, and is not finished" in output) == (1, True), output

        worker = line.start("worker")
        await line.until_over(9, 40)
        await produce(kafka.bootstrap, [line.lead(16, "w1")])
        await line.until_over(10, 20)
        assert line.last() == {"accepted": 10}, "what is sound before it, and all of the other partition"
        assert says in line.logs[worker.pid].read_text()

        async def missing() -> str:
            code, output = await line.run("explain", "--workspace", "w0")
            return "" if (code, f"w0: HELD, {says}" in output) == (1, True) else output

        await eventually(missing, 20)  # `explain` looks at the record behind the committed offset
        await line.stop(worker)

        code, output = await line.ask("books")
        books = output
        assert (code, books["records"], books["columns"]["waiting"]["records"]) == (1, 12, 2)
        assert [(problem["where"], "cannot be read" in problem["what"]) for problem in books["problems"]] == [
            (place, True)
        ]
        for wrong, why in ((f"{topic}/{partition}/4", says), (f"{topic}/{other}/3", "can be read")):
            code, output = await line.run("skip", wrong, "--yes")
            assert (code, why in output) == (1, True), output
        code, output = await line.run("skip", place)
        assert (code, "--yes" in output) == (2, True)
        code, output = await line.run("skip", place, "--yes")
        assert (code, output) == (0, f"skipped {topic}/{partition}, offsets 3 to 3; the next start continues at 4\n")

        worker = line.start("worker")
        await line.until_over(12, 40)
        await line.stop(worker)
        assert line.last() == {"accepted": 12}
        assert set(line.summary()["leads"].values()) == {1}
