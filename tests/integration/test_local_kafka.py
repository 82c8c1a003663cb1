"""The broker from pip: it answers, keeps its data over a restart and a crash, and leaves nothing behind."""

import asyncio
import tempfile
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from stream_app.dev.kafka import LocalKafka, broker_answers
from stream_app.dev.process import StartError, port_is_free
from tests.support.kafka import create_topics
from tests.support.proxy import ProxiedKafka
from tests.unit.dev.test_process import eventually, is_alive


def port_of(bootstrap: str) -> int:
    return int(bootstrap.rpartition(":")[2])


async def write(bootstrap: str, topic: str, value: bytes) -> None:
    size = 4 * 2**20
    async with AIOKafkaProducer(bootstrap_servers=bootstrap, max_request_size=size) as producer:
        await producer.send_and_wait(topic, value)


async def read(bootstrap: str, topic: str) -> bytes | None:
    async with AIOKafkaConsumer(bootstrap_servers=bootstrap, auto_offset_reset="earliest") as consumer:
        consumer.assign([TopicPartition(topic, 0)])
        records = await consumer.getmany(timeout_ms=20_000)
        return next((record.value for batch in records.values() for record in batch), None)


async def test_data_and_port_survive_a_crash(broker: ProxiedKafka, namespace: str) -> None:
    before = broker.pid
    await create_topics(broker.bootstrap, f"{namespace}kept")
    await write(broker.bootstrap, f"{namespace}kept", b"x" * 3_000_000)
    broker.kill()
    assert not broker_answers(port_of(broker.bootstrap))
    broker.restart()
    assert broker.pid != before
    assert await read(broker.bootstrap, f"{namespace}kept") == b"x" * 3_000_000


async def test_a_start_that_is_cancelled_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    started = asyncio.create_task(LocalKafka().__aenter__())
    assert await asyncio.to_thread(eventually, lambda: bool(list(tmp_path.glob("*/data/meta.properties"))))
    started.cancel()
    with pytest.raises(asyncio.CancelledError):
        await started
    assert await asyncio.to_thread(eventually, lambda: not list(tmp_path.iterdir()))


@pytest.mark.slow
async def test_stop_removes_the_data_but_not_the_users_directory(tmp_path: Path) -> None:
    async with LocalKafka(data_dir=tmp_path / "mine", overrides={"num.partitions": "7"}) as broker:
        pid, bootstrap = broker.pid, broker.bootstrap
    assert not is_alive(pid)
    assert port_is_free(port_of(bootstrap))
    assert (tmp_path / "mine" / "meta.properties").exists()
    broker.stop()
    with pytest.raises(StartError, match="not started"):
        broker.freeze()
