"""A replay from the board on real Kafka: its plan, price and extent; it is ordered once."""

import asyncio
import json
from pathlib import Path

import msgspec
import pytest
from aiokafka import AIOKafkaProducer

from stream_app.board.replays import Busy, PlanInProgress, Planner, Wanted
from stream_app.dev.kafka import Broker
from stream_app.domain.dead_letter.causes import Filter
from stream_app.domain.dead_letter.orders import PLAN_LIFE_MS
from stream_app.domain.model.records import Record
from tests.support.config import one_way, settings_in
from tests.support.kafka import create_planned
from tests.support.pace import BUSY

ALL = Wanted("dlq", Filter(kinds=frozenset({"foreign"})))


async def made(plan: PlanInProgress) -> PlanInProgress:
    """Wait until the plan is made."""
    async with asyncio.timeout(60 * BUSY):
        while plan.under_way:  # noqa: ASYNC110 - it is read from a thread, too
            await asyncio.sleep(0.02)
    return plan


async def test_a_plan_is_made_kept_and_sent_once(
    kafka: Broker,
    namespace: str,
    tmp_path: Path,
) -> None:
    settings = settings_in(
        tmp_path,
        kafka.bootstrap,
        namespace,
        one_way(people="w0"),
    )
    await create_planned(settings)
    async with AIOKafkaProducer(bootstrap_servers=kafka.bootstrap) as producer:
        for number in range(12):
            lead = {"fields": {"email": f"p{number}@example.com"}, "workspace": "w0"}
            await producer.send_and_wait(
                settings.names.dlq,
                json.dumps(lead).encode(),
                b"w0",
                partition=0,
            )
    now_ms = 1_800_000_000_000
    orders = list[Record]()

    async def put(record: Record) -> None:
        orders.append(record)

    planner = Planner(settings, put, lambda: now_ms)
    plan = planner.begin(ALL, "jane")
    with pytest.raises(Busy):
        planner.begin(ALL, "joe")
    assert (await made(plan)).problem == ""
    assert plan.priced is not None
    assert plan.priced.go == 12
    assert plan.priced.credits_at_most == 12 * 20
    assert plan.ends == {0: 12}
    assert plan.done == plan.total > 0
    assert planner.find(plan.id) is plan
    for _ in range(2):
        assert await planner.send(plan, "jane", "Clay is back", over_budget=False) == f"r-{plan.id}"
    first, second = (json.loads(record.value or b"") for record in orders)
    assert {(record.key, record.partition) for record in orders} == {
        (f"command/r-{plan.id}".encode(), 0),
    }
    assert first | {"at_ms": 0} == second | {"at_ms": 0}, "a second click orders the same replay"
    assert first["plan"]["ends"] == {"0": 12}
    assert first["plan"]["dead_letters"] == 12
    assert first["why"] == "Clay is back"

    await planner.give_up(planner.begin(ALL, "jane"))  # makes room for the next
    limited = await made(planner.begin(msgspec.structs.replace(ALL, limit=5), "joe"))
    assert limited.priced is not None
    assert limited.priced.go == 5
    now_ms += PLAN_LIFE_MS + 1
    assert planner.find(plan.id) is None
    await planner.close()
