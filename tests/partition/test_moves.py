"""A lane moves to another partition: its rows and money go with it, once, and what comes later follows it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any
from unittest.mock import patch

import msgspec
import pytest

from stream_app.domain.delivery.state_machine import delivery_key
from stream_app.domain.lane import move
from stream_app.domain.lane.lane import Lane
from stream_app.domain.lane_messages import CommandAnswer, LaneView
from stream_app.domain.messages import Callback
from stream_app.domain.record import ConsumedRecord, Record
from stream_app.partition.owner import PartitionOwner
from stream_app.partition.ports import Alarm
from stream_app.partition.state import RowUnreadable
from tests.partition.test_committer import Silent
from tests.partition.test_owner import SlowClay, _member
from tests.partition.virtual import VirtualClock, now_ms, run
from tests.simulation.client import MemoryInlet, MemoryLedger
from tests.simulation.kafka import MemoryKafka
from tests.simulation.schedule import Setup, plan_of
from tests.simulation.worker import sources

LEAD = delivery_key("acme", "acme-main", "a")


class Bench:
    """Two partitions with an owner each: acme has its home in 0, beta in 1."""

    def __init__(self, clay_takes_s: float = 0.1, **setup: Any) -> None:
        self.plan = plan_of(Setup(**setup))
        self.kafka = MemoryKafka(now_ms)
        self.clay = SlowClay(clay_takes_s)
        self.alarm: Alarm = _fail
        self.owners: dict[int, PartitionOwner] = {}
        self._serving: dict[int, list[asyncio.Task[None]]] = {}

    async def start(self, *numbers: int) -> None:
        topics = self.plan.topics
        for number in numbers:
            generation = self.kafka.next_generation("g")
            ledger = MemoryLedger(self.kafka, f"t-{number}", topics.state, number)
            owner = PartitionOwner(
                number, self.plan, ledger, self.clay, VirtualClock(), Silent(), self.alarm, _member, 0.005
            )
            await owner.take_over()
            self.owners[number] = owner
            self._serving[number] = [
                asyncio.create_task(owner.serve(MemoryInlet(self.kafka, "g", generation, topic, number), source))
                for topic, source in sources(topics).items()
            ]

    async def kill(self, number: int) -> None:
        for task in self._serving.pop(number):
            task.cancel()
        await self.owners.pop(number).close()

    def publish(self, lead_id: str, person: str, partition: int = 0) -> None:
        lead = {"lead_id": lead_id, "fields": {"email": f"{person}@example.com"}}
        self.kafka.produce(partition, Record(self.plan.topics.leads, b"acme", json.dumps(lead).encode()))

    def command(self, kind: str, name: str = "c1", **args: Any) -> None:
        document = {"id": name, "kind": kind, "workspace": "acme", "at_ms": now_ms(), "who": "jane", "args": args}
        self.kafka.produce(0, Record(self.plan.topics.commands, b"acme", json.dumps(document).encode()))

    def call_back(self, lead_id: str) -> None:
        callback = Callback(lead_id, "acme", "acme-main", now_ms(), "enriched", {"title": "CTO"}, credits=3)
        self.kafka.produce(0, Record(self.plan.topics.callbacks, b"acme", msgspec.json.encode(callback)))

    def committed(self, topic: str, partition: int = 0) -> list[ConsumedRecord]:
        return self.kafka.log(topic, partition).committed()

    def has(self, topic: str, records: int) -> bool:
        """Whether partition 1 of a topic has so many records."""
        return len(self.committed(topic, 1)) >= records

    def answers(self) -> list[CommandAnswer]:
        """At the home of acme, wherever its lane is."""
        return [msgspec.json.decode(each.value or b"", type=CommandAnswer) for each in self.committed("leads.audit")]

    def statuses(self, lead_id: str) -> list[str]:
        found = [json.loads(event.value or b"") for event in self.committed("leads.status")]
        return [event["status"] for event in found if event["lead_id"] == lead_id]

    def rows(self, partition: int) -> dict[bytes, bytes]:
        rows: dict[bytes, bytes] = {}
        for each in self.committed(self.plan.topics.state, partition):
            if each.value is None:
                rows.pop(each.key or b"", None)
            else:
                rows[each.key or b""] = each.value
        return rows

    def lane(self, partition: int) -> Lane | None:
        row = self.rows(partition).get(b"l/acme")
        return None if row is None else msgspec.json.decode(row, type=Lane)

    def view(self) -> LaneView:
        return msgspec.json.decode(self.committed("leads.lanes")[-1].value or b"", type=LaneView)


def _fail(error: BaseException) -> None:
    raise error


async def _until(done: Callable[[], bool]) -> None:
    while not done():  # noqa: ASYNC110 - the simulated broker has no event to wait for
        await asyncio.sleep(0.001)


def moved(main: Callable[[Bench], Awaitable[None]], **setup: Any) -> None:
    async def whole() -> None:
        await main(Bench(**setup))

    run(whole())


def test_rows_and_money_move_and_a_duplicate_finds_them() -> None:
    async def main(bench: Bench) -> None:
        await bench.start(0, 1)
        bench.publish("a", "p1")
        await asyncio.sleep(1)
        before = bench.lane(0)
        bench.command("move", partition=1)
        await asyncio.sleep(1)
        after = bench.lane(1)
        assert before is not None
        assert after is not None
        assert (after.partition, after.moves, after.move) == (1, 1, None)
        assert (after.budget.days, after.quota) == (before.budget.days, before.quota)
        assert bench.lane(0) is None
        assert LEAD in bench.rows(1)
        assert LEAD not in bench.rows(0)
        bench.publish("a", "p1")
        bench.publish("other", "p1")
        bench.publish("b", "p2")
        await asyncio.sleep(3)
        assert bench.statuses("a") == ["received", "sending", "accepted", "duplicate"]
        assert bench.statuses("other") == ["duplicate"]
        assert bench.statuses("b") == ["received", "sending", "accepted"]
        assert len(bench.clay.bodies) == 2
        assert [answer.text for answer in bench.answers()] == [
            "moves from partition 0 to 1: leads wait until a worker has taken it over there"
        ]
        assert bench.view().partition == 1

    moved(main, callbacks=False)


@pytest.mark.parametrize(
    ("to", "text"),
    [
        (0, "refused: it is in partition 0 already"),
        (2, "there is no partition 2: the partitions are 0 to 1"),
        (-1, "there is no partition -1: the partitions are 0 to 1"),
    ],
)
def test_a_move_to_where_it_is_or_to_no_partition_is_refused(to: int, text: str) -> None:
    async def main(bench: Bench) -> None:
        await bench.start(0, 1)
        bench.command("move", partition=to)
        await asyncio.sleep(1)
        (answer,) = bench.answers()
        assert (answer.applied, answer.reason, answer.text) == (False, "refused", text)
        assert bench.lane(1) is None

    moved(main)


def test_a_second_move_while_requests_end_is_refused() -> None:
    async def main(bench: Bench) -> None:
        bench.clay = SlowClay(5.0)
        await bench.start(0, 1)
        bench.publish("a", "p1")
        await asyncio.sleep(1)
        bench.command("move", "c1", partition=1)
        bench.command("move", "c2", partition=1)
        bench.publish("b", "p2")
        await asyncio.sleep(1)
        first, second = bench.answers()
        assert first.applied
        assert first.under_way == 1
        assert not second.applied
        assert second.text.startswith("refused: it is moving to partition 1 already, by jane at ")
        assert bench.view().holds == "moving"
        assert len(bench.clay.bodies) == 1
        await asyncio.sleep(10)
        assert bench.view().partition == 1
        assert len(bench.clay.bodies) == 2
        assert bench.statuses("a") == ["received", "sending", "accepted"]

    moved(main, callbacks=False)


def test_a_lane_whose_new_partition_has_no_owner_says_so_and_goes_on_by_itself_a_day_later() -> None:
    async def main(bench: Bench) -> None:
        await bench.start(0)
        bench.publish("a", "p1")
        await asyncio.sleep(1)
        bench.command("move", partition=1)
        bench.publish("b", "p2")
        await asyncio.sleep(5)
        view = bench.view()
        assert (view.holds, view.partition, view.moves) == ("moving", 1, 1)
        assert view.text == ("moves to partition 1, ordered by jane; a worker that owns that partition takes it in")
        assert view.lifts == "the end of its requests to Clay, then a worker that owns the partition it moves to"
        assert len(bench.clay.bodies) == 1
        await bench.kill(0)
        await bench.start(0)
        await asyncio.sleep(86_400)
        assert len(bench.clay.bodies) == 1
        await bench.start(1)
        await asyncio.sleep(5)
        assert bench.view().holds == ""
        assert bench.statuses("b") == ["received", "sending", "accepted"]

    moved(main, callbacks=False)


def test_a_callback_follows_its_lead_and_its_result_stays_at_home() -> None:
    async def main(bench: Bench) -> None:
        await bench.start(0, 1)
        bench.publish("a", "p1")
        await asyncio.sleep(1)
        bench.command("move", partition=1)
        await asyncio.sleep(1)
        bench.call_back("a")
        await asyncio.sleep(1)
        assert bench.statuses("a") == ["received", "sending", "accepted", "enriched"]
        assert [each.key for each in bench.committed("leads.enriched")] == [b"acme/acme-main/a"]
        assert not bench.committed("leads.enriched", 1)
        lane = bench.lane(1)
        assert lane is not None
        assert lane.budget.days[-1].credits_spent == 3

    moved(main)


def test_a_lead_without_a_callback_is_overdue_in_its_new_partition() -> None:
    async def main(bench: Bench) -> None:
        await bench.start(0, 1)
        bench.publish("a", "p1")
        await asyncio.sleep(1)
        bench.command("move", partition=1)
        await asyncio.sleep(120)
        assert bench.statuses("a") == ["received", "sending", "accepted", "callback_overdue", "parked"]

    moved(main)


def test_a_command_follows_the_lane_and_is_applied_once() -> None:
    async def main(bench: Bench) -> None:
        await bench.start(0, 1)
        bench.command("correct", "c0", credits=5)
        await asyncio.sleep(1)
        bench.command("move", partition=1)
        await asyncio.sleep(1)
        bench.command("correct", "c0", credits=5)
        bench.command("correct", "c2", credits=2)
        await asyncio.sleep(1)
        assert [(answer.id, answer.applied) for answer in bench.answers()] == [
            ("c0", True),
            ("c1", True),
            ("c0", False),
            ("c2", True),
        ]
        lane = bench.lane(1)
        assert lane is not None
        assert lane.budget.days[-1].credits_elsewhere == 7

    moved(main)


def test_a_move_is_finished_by_the_next_owner_wherever_it_was_cut_off() -> None:
    async def main(bench: Bench) -> None:
        with patch.object(move, "_CHUNK_BYTES", 300):
            await bench.start(0)
            for number in range(6):
                bench.publish(f"lead{number}", f"p{number}")
            await asyncio.sleep(5)
            rows = {key for key in bench.rows(0) if key[:2] in (b"d/", b"p/")}
            bench.command("move", partition=1)
            topic = bench.plan.topics.moves
            for parts in (1, 2, 4):
                await _until(partial(bench.has, topic, parts))
                await bench.kill(0)
                await bench.start(0)
            await asyncio.sleep(5)
            assert not rows & bench.rows(0).keys()
            await bench.start(1)
            await asyncio.sleep(0.02)
            await bench.kill(1)
            await bench.start(1)
            await asyncio.sleep(5)
            assert rows <= bench.rows(1).keys()
            latest = {each.key: each.value for each in bench.committed(topic, 1)}
            assert not any(latest.values()), "what was taken in is deleted"

    moved(main, callbacks=False)


def test_a_changed_pin_of_a_moved_workspace_is_refused() -> None:
    async def main(bench: Bench) -> None:
        await bench.start(0, 1)
        bench.command("move", partition=1)
        await asyncio.sleep(1)
        await bench.kill(1)
        bench.plan = msgspec.structs.replace(bench.plan, pins={**bench.plan.pins, "acme": 1})
        with pytest.raises(RowUnreadable, match="its home is 0, the configuration says 1: set workspaces"):
            await bench.start(1)

    moved(main)
