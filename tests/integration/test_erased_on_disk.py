"""An erased result leaves Kafka's disk, also in a partition without another result.

It needs a broker of its own.
"""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from aiokafka import AIOKafkaProducer

from stream_app.dev.kafka import LocalKafka
from stream_app.domain.cached_results import seal, tombstone
from stream_app.domain.model.topics import RESULTS
from tests.support.kafka import create_topics

SECRET = b"ada@example.com"
LAG_S = 2


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[LocalKafka]:
    with LocalKafka(overrides={"log.cleaner.backoff.ms": "200"}, data_dir=tmp_path) as kafka:
        yield kafka


@pytest.mark.long
@pytest.mark.timeout(120)
async def test_an_erased_result_leaves_the_disk_once_the_seal_is_there(
    broker: LocalKafka,
    tmp_path: Path,
) -> None:
    assert "max.compaction.lag.ms" in RESULTS
    config = RESULTS | {"max.compaction.lag.ms": str(LAG_S * 1000)}
    await create_topics(broker.bootstrap, "leads.enriched", config=config)
    gone = tombstone("leads.enriched", "acme", "people", "crm-1", ["A" * 22])
    async with AIOKafkaProducer(bootstrap_servers=broker.bootstrap) as producer:
        await producer.send_and_wait("leads.enriched", SECRET, gone.key)
        await producer.send_and_wait(
            "leads.enriched",
            gone.value,
            gone.key,
            headers=list(gone.headers),
        )
        await asyncio.sleep(LAG_S * 3)
        assert on_disk(tmp_path), "an idle partition keeps it: what the seal is for"
        sealed = seal("leads.enriched", "acme")
        await producer.send_and_wait("leads.enriched", sealed.value, sealed.key)
        for _ in range(120):
            if not on_disk(tmp_path):
                return
            await asyncio.sleep(0.5)
        pytest.fail("it is still there a minute later")


def on_disk(data_dir: Path) -> bool:
    return any(SECRET in path.read_bytes() for path in data_dir.rglob("leads.enriched-0/*.log"))
