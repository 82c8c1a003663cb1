"""Partitions are added, and `hashed_partitions` is forgotten: a new partition sends no lead, and says what to write."""

from __future__ import annotations

import asyncio
import json
from functools import partial
from itertools import count
from typing import Any
from unittest.mock import patch

import msgspec
import pytest

from stream_app.domain.lane import move
from stream_app.domain.layout import LAYOUT_KEY, Layout, decode_layout
from stream_app.domain.lead.lead import home_partition
from stream_app.domain.policy import Plan
from stream_app.domain.record import Record
from stream_app.partition import growth
from stream_app.partition.growth import Growth
from stream_app.partition.state import RowUnreadable
from tests.partition.test_growth import NEW, Grown, grown
from tests.partition.test_moves import moved
from tests.simulation.client import MemoryLedger

MOVED = "iota"
BESIDE = next(name for name in map("w{}".format, count()) if [home_partition(name, n, {}) for n in (2, 3)] == [0, 1])
SAYS = r"partition \d: .* hashed over 2 partitions, the configuration says 3: set kafka\.hashed_partitions = 2"


class Forgotten(Grown):
    """`name` has no pin. Its home is partition 0, and another one in a configuration without `hashed_partitions`."""

    def __init__(self, name: str = MOVED, other_home: int = NEW, **setup: Any) -> None:
        super().__init__(**setup)
        (beta,) = self.old.destinations_of("beta")
        alias = f"{name}-main"
        more = {name: msgspec.structs.replace(self.old.workspaces["beta"], name=name, default_destination=alias)}
        self.old, self.new = (
            msgspec.structs.replace(
                plan,
                workspaces=plan.workspaces | more,
                destinations=plan.destinations | {alias: msgspec.structs.replace(beta, alias=alias, workspace=name)},
            )
            for plan in (self.old, self.new)
        )
        self.wrong: Plan = msgspec.structs.replace(self.new, hashed_partitions=None)
        assert [plan.home_of(name) for plan in (self.old, self.new, self.wrong)] == [0, 0, other_home]
        self.ended: list[BaseException] = []
        self.alarm = self.ended.append

    def to(self, partition: int, person: str, workspace: str = MOVED) -> None:
        lead = {"lead_id": person, "fields": {"email": f"{person}@example.com"}}
        self.kafka.produce(partition, Record(self.plan.topics.leads, workspace.encode(), json.dumps(lead).encode()))

    async def serve_with_the_earlier_version(self) -> None:
        """Send a lead in each of the two partitions, from owners that record no layout."""
        with earlier_version():
            await self.own(self.old, 0, 1)
            self.to(0, "bob")
            self.to(1, "eve", "beta")
            await asyncio.sleep(1)


async def _records_nothing(_: Growth) -> bool:
    return True


earlier_version = partial(patch.object, Growth, "run", _records_nothing)


def forgotten(main: Any, **setup: Any) -> None:
    async def with_its_bench(_: Any) -> None:
        await main(Forgotten(**setup))

    moved(with_its_bench)


@pytest.mark.parametrize("runs", [(), (0,), (0, 1)])
def test_no_suppressed_person_is_sent_and_no_lead_twice(runs: tuple[int, ...]) -> None:
    """Some workers still have the old configuration, the others refuse to start with the new one."""

    async def main(bench: Forgotten) -> None:
        await bench.own(bench.old, 0, 1)
        bench.to(0, "bob")
        bench.list_("suppress", "ada", 2)
        await asyncio.sleep(1)
        assert bench.sent() == ["bob"]
        for number in {0, 1} - {*runs}:
            await bench.kill(number)
        await bench.own(bench.wrong, NEW)
        for person in ("ada", "bob", "eve"):
            bench.to(NEW, person)
        await asyncio.sleep(100)
        assert bench.sent() == ["bob"]
        (ended,) = bench.ended
        with pytest.raises(RowUnreadable, match=SAYS):
            raise ended
        assert bench.rows(NEW) == {}

    forgotten(main)


def test_a_partition_with_rows_sends_nothing_of_a_workspace_that_has_its_home_elsewhere() -> None:
    """It was there before, and no lane in it contradicts the configuration."""

    async def main(bench: Forgotten) -> None:
        await bench.own(bench.old, 0, 1)
        bench.to(0, "bob", BESIDE)
        bench.to(1, "eve", "beta")
        await asyncio.sleep(1)
        await bench.own(bench.wrong, 1)
        bench.to(1, "bob", BESIDE)
        await asyncio.sleep(100)
        assert bench.sent() == ["bob", "eve"]
        (ended,) = bench.ended
        with pytest.raises(RowUnreadable, match=SAYS):
            raise ended

    forgotten(main, name=BESIDE, other_home=1)


def test_a_wrong_number_is_not_recorded_and_then_defended() -> None:
    async def main(bench: Forgotten) -> None:
        await bench.own(bench.old, 0, 1)
        bench.to(1, "eve", "beta")
        await asyncio.sleep(1)
        await bench.own(msgspec.structs.replace(bench.new, partitions=4, hashed_partitions=3), 1)
        await asyncio.sleep(1)
        assert "set kafka.hashed_partitions = 2" in str(bench.ended)
        assert LAYOUT_KEY not in bench.rows(1)
        await bench.own(bench.new, 0, 1, NEW)
        bench.to(1, "dan", "beta")
        await asyncio.sleep(1)
        assert bench.sent() == ["dan", "eve"]
        assert len(bench.ended) == 1

    forgotten(main)


def test_the_owner_of_partition_0_refuses_to_start_in_a_system_that_never_grew() -> None:
    async def main(bench: Forgotten) -> None:
        await bench.own(bench.old, 0)
        await asyncio.sleep(1)
        with pytest.raises(RowUnreadable, match=SAYS):
            await bench.own(bench.wrong, 0)

    forgotten(main)


def test_a_worker_with_a_lane_that_would_move_says_so_too() -> None:
    """Its partition has no layout, if the system never grew."""

    async def main(bench: Forgotten) -> None:
        bench.old = msgspec.structs.replace(bench.old, pins=bench.old.pins | {MOVED: 1})
        await bench.own(bench.old, 0, 1)
        bench.to(1, "bob")
        await asyncio.sleep(1)
        match = "if partitions were added, set kafka.hashed_partitions to their number at the beginning; otherwise set"
        with pytest.raises(RowUnreadable, match=match):
            await bench.own(bench.wrong, 1)

    forgotten(main)


def test_everything_goes_on_with_the_right_number() -> None:
    async def main(bench: Forgotten) -> None:
        await bench.own(bench.old, 0, 1)
        bench.to(0, "bob")
        bench.list_("suppress", "ada", 2)
        await asyncio.sleep(1)
        await bench.own(bench.wrong, NEW)
        for person in ("ada", "bob", "eve"):
            bench.to(NEW, person)
        await asyncio.sleep(1)
        assert len(bench.ended) == 1
        await bench.own(bench.new, 0, 1, NEW)
        await asyncio.sleep(5)
        assert bench.sent() == ["bob", "eve"], "leads in a wrong partition come back by the retry topic"
        await asyncio.sleep(100)
        assert bench.sent() == ["bob", "eve"]
        assert len(bench.ended) == 1

    forgotten(main)


@pytest.mark.parametrize("after_s", [0.002 * number for number in range(40)])
def test_no_moment_is_too_early_for_it(after_s: float) -> None:
    """The owner of the new partition starts while partition 0 gets the first rows of the whole system."""

    async def main(bench: Forgotten) -> None:
        bench.plan = bench.old
        bench.to(0, "bob")
        bench.list_("suppress", "ada", 2)
        owning = asyncio.create_task(bench.own(bench.old, 0, 1))
        await asyncio.sleep(after_s)
        if bench.kafka.log(bench.plan.topics.state, 0).end:
            await asyncio.gather(bench.own(bench.wrong, NEW), owning)
            for person in ("ada", "bob"):
                bench.to(NEW, person)
            await asyncio.sleep(100)
            assert bench.sent() == ["bob"]
            assert len(bench.ended) == 1
        await owning

    forgotten(main)


def test_a_new_system_waits_for_no_owner_of_partition_0_and_has_one_row_more() -> None:
    async def main(bench: Forgotten) -> None:
        await bench.own(bench.old, 1)
        bench.to(1, "bob", "beta")
        await asyncio.sleep(1)
        assert bench.sent() == ["bob"]
        await bench.own(bench.old, 0)
        await asyncio.sleep(1)
        assert bench.rows(0) == {LAYOUT_KEY: bench.rows(0)[LAYOUT_KEY]}
        assert decode_layout(bench.rows(0)[LAYOUT_KEY]) == Layout(hashed=2, partitions=2)
        assert LAYOUT_KEY not in bench.rows(1)
        await bench.own(bench.old, 0, 1)
        bench.to(1, "eve", "beta")
        await asyncio.sleep(1)
        assert bench.sent() == ["bob", "eve"]
        assert len(bench.committed(bench.plan.topics.state)) == 1

    forgotten(main)


@pytest.mark.parametrize("killed", [(0,), (1,), (0, 1)])
def test_owners_of_a_new_system_may_be_killed_at_any_moment(killed: tuple[int, ...]) -> None:
    async def main(bench: Forgotten, after_s: float) -> None:
        bench.plan = bench.old
        bench.list_("suppress", "ada", 2)
        await asyncio.gather(*(bench.own(bench.old, number) for number in (0, 1)))
        await asyncio.sleep(after_s)
        for number in killed:
            await bench.kill(number)
        await bench.own(bench.old, *killed)
        for partition, workspace in ((0, MOVED), (1, "beta")):
            for person in ("ada", "bob"):
                bench.to(partition, person, workspace)
        await asyncio.sleep(100)
        assert bench.sent() == ["bob", "bob"], after_s
        assert decode_layout(bench.rows(0)[LAYOUT_KEY]) == Layout(hashed=2, partitions=2), after_s

    for number in range(60):
        forgotten(partial(main, after_s=0.001 * number))


def test_an_empty_partition_of_a_running_system_is_served_at_once_without_the_owner_of_partition_0() -> None:
    async def main(bench: Forgotten) -> None:
        await bench.own(bench.old, 0)
        bench.to(0, "bob")
        await asyncio.sleep(1)
        await bench.kill(0)
        await bench.own(bench.old, 1)
        bench.to(1, "eve", "beta")
        await asyncio.sleep(1)
        assert bench.sent() == ["bob", "eve"]
        assert LAYOUT_KEY not in bench.rows(1)

    forgotten(main)


def test_after_an_update_only_empty_partitions_wait_until_the_owner_of_partition_0_is_restarted() -> None:
    async def main(bench: Forgotten) -> None:
        bench.plan = bench.old
        with earlier_version():
            await bench.own(bench.old, 0, 1)
            bench.to(0, "bob")
            await asyncio.sleep(1)
        await bench.own(bench.old, 1)
        bench.to(1, "eve", "beta")
        await asyncio.sleep(100)
        assert bench.owners[1].under_way() == {}, "that is no stall: a rolling restart goes on"
        assert bench.sent() == ["bob"]
        await bench.own(bench.old, 0)
        await asyncio.sleep(5)
        assert bench.sent() == ["bob", "eve"]
        assert bench.ended == []

    forgotten(main)


def test_after_an_update_a_partition_with_a_lane_does_not_wait() -> None:
    async def main(bench: Forgotten) -> None:
        await bench.serve_with_the_earlier_version()
        await bench.own(bench.old, 1)
        bench.to(1, "dan", "beta")
        await asyncio.sleep(1)
        assert bench.sent() == ["bob", "dan", "eve"]

    forgotten(main)


def test_after_an_update_a_lane_of_a_system_that_grew_waits_for_the_owner_of_partition_0() -> None:
    """Nothing shows yet whether the number is right."""

    async def main(bench: Forgotten) -> None:
        await bench.serve_with_the_earlier_version()
        await bench.own(bench.new, 1)
        bench.to(1, "dan", "beta")
        await asyncio.sleep(100)
        assert bench.sent() == ["bob", "eve"]
        await bench.own(bench.new, 0)
        await asyncio.sleep(5)
        assert bench.sent() == ["bob", "dan", "eve"]
        assert bench.ended == []

    forgotten(main)


def test_a_partition_that_had_to_read_far_records_what_it_found() -> None:
    async def main(bench: Forgotten) -> None:
        with patch.object(growth, "_FAR", 0):
            await bench.own(bench.old, 0, 1)
            await asyncio.sleep(1)
        assert decode_layout(bench.rows(1)[LAYOUT_KEY]) == Layout(hashed=2, partitions=2)
        await bench.kill(0)
        with patch.object(MemoryLedger, "beginning", side_effect=AssertionError):
            await bench.own(bench.old, 1)
            bench.to(1, "eve", "beta")
            await asyncio.sleep(1)
        assert bench.sent() == ["eve"]

    forgotten(main)


def test_a_copy_that_was_interrupted_does_not_count_as_a_list() -> None:
    async def main(bench: Forgotten, lead: str) -> None:
        with patch.object(move, "_CHUNK_BYTES", 1):
            await bench.copy_a_part()
            await bench.own(bench.wrong, NEW)
            bench.to(NEW, lead)
            await asyncio.sleep(100)
            assert bench.sent() == []
            assert len(bench.ended) == 1

    forgotten(partial(main, lead="p19"))


def test_a_number_that_is_too_high_is_reported_and_not_waited_for() -> None:
    async def main(bench: Grown) -> None:
        await bench.own(bench.old, 0, 1)
        await asyncio.sleep(1)
        ended: list[BaseException] = []
        bench.alarm = ended.append
        await bench.own(msgspec.structs.replace(bench.new, partitions=4, hashed_partitions=3), 3)
        await asyncio.sleep(1)
        assert "set kafka.hashed_partitions = 2" in str(ended[0])

    grown(main)
