"""How many records each group still has to pass, seen from outside."""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient

from tests.e2e.pipeline import Pipeline
from tests.support.pace import BUSY


async def caught_up(line: Pipeline, timeout_s: float = 40) -> None:
    """Wait until both groups have passed every record in the topics of replays that have one."""
    names = line.settings.names
    waits = [names.wait(tier) for tier in line.settings.replay.tiers_s]
    topics = {names.replay_app: [names.dlq, *waits], names.worker_app: [names.retry]}
    await eventually(lambda: behind(line, topics), timeout_s)


async def eventually(missing: Callable[[], Awaitable[object]], timeout_s: float) -> None:
    """Wait until `missing()` is empty, or fail with its last answer."""
    deadline = time.monotonic() + timeout_s * BUSY
    while lacking := await missing():
        assert time.monotonic() < deadline, lacking
        await asyncio.sleep(0.2)


async def behind(line: Pipeline, topics: dict[str, list[str]]) -> dict[str, int]:
    """Return by topic how many committed records its group still has to pass.

    `topics`: the topics of each group.
    """
    bootstrap = line.settings.kafka.bootstrap
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap, isolation_level="read_committed")
    await admin.start()
    await consumer.start()
    try:
        counts: Counter[str] = Counter()
        for group, names in topics.items():
            tps = [
                TopicPartition(name, number)
                for name in names
                for number in range(line.settings.kafka.partitions)
            ]
            passed = await admin.list_consumer_group_offsets(group, partitions=tps)
            for tp, end in (await consumer.end_offsets(tps)).items():
                counts[tp.topic] += await _records(consumer, tp, max(0, passed[tp].offset), end)
        return {name: count for name, count in counts.items() if count}
    finally:
        await consumer.stop()
        await admin.close()


async def _records(consumer: AIOKafkaConsumer, tp: TopicPartition, begin: int, end: int) -> int:
    """Count the records from `begin` to before `end`, without the markers of transactions."""
    if begin >= end:
        return 0
    consumer.assign([tp])
    consumer.seek(tp, begin)
    count = 0
    while await consumer.position(tp) < end:
        for records in (await consumer.getmany(tp, timeout_ms=200)).values():
            count += len(records)
    return count
