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
from stream_app.domain.dead_letter.orders import PAUSE, PLAN_LIFE_MS, ReplayPause, price_lines
from stream_app.domain.lane.lane import Lane
from stream_app.domain.model.records import Record
from stream_app.domain.plan import Actor, Workspace
from stream_app.domain.views.lane_now import view
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

    # What keeps them from being sent is said as it is when the plan is made.
    assert plan.priced.paused is None
    assert plan.priced.quotes[0].holds == ""
    paused = Lane("w0", 0, pause=Actor("eve", "a new table", now_ms))
    people = settings.destinations["people"]
    async with AIOKafkaProducer(bootstrap_servers=kafka.bootstrap) as producer:
        for topic, key, row in (
            (settings.names.lanes, b"w0", view(Workspace("w0"), paused, [people], now_ms)),
            (settings.names.replay_state, PAUSE, ReplayPause("eve", "wait", now_ms)),
        ):
            await producer.send_and_wait(topic, msgspec.json.encode(row), key, partition=0)
    held = await made(planner.begin(ALL, "jane"))
    assert held.priced is not None
    *_, of_lane, of_all = price_lines(held.priced, "send fewer")
    assert of_lane == (
        "w0: its lane is held now: paused by eve: a new table; lifted by: stream-app lanes "
        'resume w0 --why "..."'
    )
    assert of_all == (
        "replays are paused by eve: wait; what is sent by hand goes all the same, and comes back "
        "after a failure or a deferral only after: stream-app replay resume"
    )

    await planner.give_up(planner.begin(ALL, "jane"))  # makes room for the next
    limited = await made(planner.begin(msgspec.structs.replace(ALL, limit=5), "joe"))
    assert limited.priced is not None
    assert limited.priced.go == 5
    now_ms += PLAN_LIFE_MS + 1
    assert planner.find(plan.id) is None
    await planner.close()
