"""Replays from the board and by hand on real Kafka: plans, their price and extent, and that each is sent once."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiokafka import AIOKafkaProducer

from stream_app.board.replays import Busy, Plan, Planner, Wanted
from stream_app.config import Settings
from stream_app.dev.kafka import Broker
from stream_app.domain.dead_letter.causes import Filter
from stream_app.domain.dead_letter.orders import PLAN_LIFE_MS
from stream_app.domain.model.records import Record
from tests.support.config import one_way, settings_in
from tests.support.kafka import create_planned
from tests.support.pace import BUSY

NOW_MS = 1_800_000_000_000
ALL = Wanted("dlq", Filter(kinds=frozenset({"foreign"})))


class Bench:
    def __init__(self, settings: Settings) -> None:
        self.now_ms = NOW_MS
        self.put: list[Record] = []
        self.planner = Planner(settings, self._put, lambda: self.now_ms)

    async def _put(self, record: Record) -> None:
        self.put.append(record)

    async def ready(self, plan: Plan) -> Plan:
        """Wait until the plan is made."""
        async with asyncio.timeout(60 * BUSY):
            while plan.under_way:  # noqa: ASYNC110 - it is read from a thread, too
                await asyncio.sleep(0.02)
        return plan


def planned(folder: Path, kafka: Broker, namespace: str) -> Settings:
    lanes = one_way(people="w0", firms="w0").replace("[workspaces.w0]\n", f"[workspaces.w0]{LANE}")
    return settings_in(folder, kafka.bootstrap, namespace, lanes, broker_wait_s=5)


@pytest.fixture
async def bench(kafka: Broker, namespace: str, tmp_path: Path) -> AsyncIterator[Bench]:
    settings = planned(tmp_path, kafka, namespace)
    await create_planned(settings)
    async with AIOKafkaProducer(bootstrap_servers=kafka.bootstrap) as producer:
        for value in foreign(12):
            await producer.send_and_wait(settings.names.dlq, value, b"w0", partition=0)
    made = Bench(settings)
    yield made
    await made.planner.close()


async def test_a_plan_is_made_kept_and_sent_once(bench: Bench) -> None:
    planner = bench.planner
    plan = planner.begin(ALL, "jane")
    with pytest.raises(Busy):
        planner.begin(ALL, "joe")
    assert (await bench.ready(plan)).problem == ""
    assert plan.priced is not None
    assert (plan.priced.go, plan.priced.credits_at_most, plan.ends) == (12, 12 * 20, {0: 12})
    assert plan.done == plan.total > 0
    assert planner.find(plan.id) is plan
    for _ in range(2):
        assert await planner.send(plan, "jane", "Clay is back", over_budget=False) == f"r-{plan.id}"
    first, second = (json.loads(record.value or b"") for record in bench.put)
    assert {record.key for record in bench.put} == {f"command/r-{plan.id}".encode()}
    assert {record.partition for record in bench.put} == {0}
    assert without_time(first) == without_time(second), "a second click orders the same replay"
    assert (first["plan"]["ends"], first["plan"]["dead_letters"], first["why"]) == ({"0": 12}, 12, "Clay is back")

    limited = await bench.ready(planner.begin(msgspec.structs.replace(ALL, limit=5), "joe"))
    assert limited.priced is not None
    assert limited.priced.go == 5
    bench.now_ms += PLAN_LIFE_MS + 1
    assert planner.find(plan.id) is None


def without_time(command: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in command.items() if name != "at_ms"}


LANE = """
default_destination = "people"
[workspaces.w0.rate]
rate_per_s = 8
[workspaces.w0.budget]
credits_per_day = 100
"""


def foreign(count: int, **more: str) -> list[bytes]:
    return [
        json.dumps({"fields": {"email": f"p{n}@example.com"}, "workspace": "w0", **more}).encode() for n in range(count)
    ]
