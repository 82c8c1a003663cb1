"""Partitions are added to a running system: a new one sends no suppressed person, whatever owners know of it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from functools import partial
from typing import Any
from unittest.mock import patch

import msgspec
import pytest

from stream_app.domain.errors import Aborted
from stream_app.domain.lane import move
from stream_app.domain.lane_messages import CommandAnswer
from stream_app.domain.layout import LAYOUT_KEY, Layout, decode_layout
from stream_app.domain.policy import Plan
from stream_app.domain.record import Record
from stream_app.partition.state import RowUnreadable
from tests.partition.test_moves import Bench, moved
from tests.partition.virtual import now_ms
from tests.simulation.client import MemoryLedger
from tests.simulation.orders import hash_of

NEW = 2


class Grown(Bench):
    """Two partitions, to which a third is added. In the new configuration `delta` has it as its home."""

    def __init__(self, **setup: Any) -> None:
        super().__init__(callbacks=False, **setup)
        self.old = self.plan
        (beta,) = self.old.destinations_of("beta")
        self.new: Plan = msgspec.structs.replace(
            self.old,
            partitions=3,
            hashed_partitions=2,
            workspaces=self.old.workspaces
            | {
                "delta": msgspec.structs.replace(
                    self.old.workspaces["beta"], name="delta", default_destination="delta-main"
                )
            },
            destinations=self.old.destinations
            | {"delta-main": msgspec.structs.replace(beta, alias="delta-main", workspace="delta")},
            pins={**self.old.pins, "delta": NEW},
        )
        self._lists = 0

    async def own(self, plan: Plan, *numbers: int) -> None:
        """Take partitions over with a configuration, from owners that are killed."""
        self.plan = plan
        for number in numbers:
            if number in self.owners:
                await self.kill(number)
        await self.start(*numbers)

    def to_delta(self, person: str) -> None:
        lead = {"lead_id": person, "fields": {"email": f"{person}@example.com"}}
        self.kafka.produce(NEW, Record(self.plan.topics.leads, b"delta", json.dumps(lead).encode()))

    def list_(self, kind: str, person: str, sent_to: int, *, says: bool = True) -> None:
        """Change the suppression list, from a program that knows `sent_to` partitions."""
        self._lists += 1
        document: dict[str, Any] = {"id": f"s{self._lists}", "kind": kind, "workspace": "", "at_ms": now_ms()}
        document |= {"who": "jane", "args": {"people": [hash_of(person)]}} | ({"partitions": sent_to} if says else {})
        for number in range(sent_to):
            self.kafka.produce(number, Record(self.plan.topics.commands, b"", json.dumps(document).encode()))

    async def copy_a_part(self) -> None:
        """Suppress 20 people, and return while the new partition copies them one by one."""
        await self.own(self.old, 0, 1)
        for number in range(20):
            self.list_("suppress", f"p{number}", 2)
        await asyncio.sleep(1)
        await self.own(self.new, 0, NEW)
        while not any(key.startswith(b"s/") for key in self.rows(NEW)):  # noqa: ASYNC110 - no event to wait for
            await asyncio.sleep(0.001)

    def sent(self) -> list[str]:
        return sorted(json.loads(body)["lead_id"] for body in self.clay.bodies)

    def answers_in(self, partition: int) -> list[CommandAnswer]:
        found = self.committed("leads.audit", partition)
        return [msgspec.json.decode(each.value or b"", type=CommandAnswer) for each in found]


def grown(main: Any, **setup: Any) -> None:
    async def with_its_bench(_: Bench) -> None:
        await main(Grown(**setup))

    moved(with_its_bench)


def test_a_new_partition_waits_until_the_owner_of_partition_0_knows_of_it() -> None:
    async def main(bench: Grown) -> None:
        await bench.own(bench.old, 0, 1)
        bench.list_("suppress", "ada", 2)
        await asyncio.sleep(1)
        await bench.own(bench.new, NEW)
        bench.to_delta("ada")
        bench.to_delta("bob")
        bench.list_("suppress", "eve", 2)  # from a program with the old configuration
        await asyncio.sleep(100)
        assert bench.owners[NEW].under_way() == {}, "that is no stall: a rolling restart goes on"
        assert (bench.sent(), bench.rows(NEW)) == ([], {})
        await bench.own(bench.new, 0)
        bench.to_delta("eve")
        await asyncio.sleep(5)
        assert bench.sent() == ["bob"]
        suppressed = {key for key in bench.rows(NEW) if key.startswith(b"s/")}
        assert suppressed == {b"s/" + hash_of(each).encode() for each in ("ada", "eve")}

    grown(main)


def test_a_change_of_the_list_that_misses_partitions_is_refused() -> None:
    async def main(bench: Grown) -> None:
        await bench.own(bench.new, 0, 1, NEW)
        await asyncio.sleep(1)
        bench.list_("suppress", "ada", 2)
        bench.list_("unsuppress", "ada", 2, says=False)  # from a program of an earlier version
        await asyncio.sleep(1)
        for number in (0, 1):
            assert [each.reason for each in bench.answers_in(number)] == ["too_few_partitions"] * 2
        text = "it was sent to 2 partitions, and there are 3: set kafka.partitions = 3 and kafka.hashed_partitions = 2 "
        assert bench.answers_in(0)[0].text == text + "where it came from, and submit it again"
        await bench.own(bench.old, 0)  # a worker with the old configuration gets the partition once more
        bench.list_("suppress", "eve", 2)
        bench.list_("suppress", "ada", 3)
        await asyncio.sleep(1)
        assert [each.applied for each in bench.answers_in(0)] == [False, False, False, True]
        bench.to_delta("ada")
        bench.to_delta("eve")
        await asyncio.sleep(1)
        assert bench.sent() == ["eve"], "her command was refused"

    grown(main)


def test_a_system_that_never_grew_takes_commands_of_earlier_versions() -> None:
    async def main(bench: Grown) -> None:
        await bench.own(bench.old, 0, 1)
        bench.list_("suppress", "ada", 2, says=False)
        await asyncio.sleep(1)
        assert [each.applied for each in bench.answers_in(0)] == [True]
        assert decode_layout(bench.rows(0)[LAYOUT_KEY]) == Layout(hashed=2, partitions=2)

    grown(main)


def test_commands_that_wait_in_the_new_partition_count_more_than_the_copy() -> None:
    async def main(bench: Grown) -> None:
        await bench.own(bench.old, 0, 1)
        bench.list_("suppress", "ada", 2)
        bench.list_("suppress", "bob", 3)
        bench.list_("unsuppress", "bob", 3)
        bench.list_("suppress", "eve", 3)
        await asyncio.sleep(1)
        await bench.own(bench.new, 0)
        await asyncio.sleep(1)
        await bench.own(bench.new, NEW)
        bench.list_("unsuppress", "ada", 3)
        await asyncio.sleep(1)
        for person in ("ada", "bob", "eve"):
            bench.to_delta(person)
        await asyncio.sleep(5)
        assert bench.sent() == ["ada", "bob"]

    grown(main)


def test_a_command_that_is_in_the_copy_is_not_applied_once_more() -> None:
    """Partition 0 applied it, and after it a change that the new partition does not get."""

    async def main(bench: Grown) -> None:
        await bench.own(bench.old, 0, 1)
        bench.list_("unsuppress", "ada", 3)
        bench.list_("suppress", "ada", 2)  # from a program with the old configuration
        await asyncio.sleep(1)
        await bench.own(bench.new, 0, NEW)
        await asyncio.sleep(5)
        bench.to_delta("ada")
        bench.list_("suppress", "bob", 3)
        bench.to_delta("eve")
        await asyncio.sleep(5)
        assert bench.sent() == ["eve"]
        assert [each.applied for each in bench.answers_in(NEW)] == [True, True]

    grown(main)


def test_a_copy_that_is_made_again_forgets_whom_partition_0_has_forgotten() -> None:
    async def main(bench: Grown) -> None:
        with patch.object(move, "_CHUNK_BYTES", 1):
            await bench.copy_a_part()
            await bench.kill(NEW)
            bench.list_("unsuppress", "p0", 3)
            bench.list_("unsuppress", "p19", 3)
            await asyncio.sleep(1)
            await bench.own(bench.new, NEW)
            await asyncio.sleep(5)
        assert sum(key.startswith(b"s/") for key in bench.rows(NEW)) == 18
        assert [each.applied for each in bench.answers_in(NEW)] == [True, True]

    grown(main)


def test_a_partition_that_has_served_keeps_what_it_answered() -> None:
    """It was added without `hashed_partitions`, so it has processed commands before it copies the list."""
    person, command = b"s/" + hash_of("ada").encode(), b"k/s1"

    async def main(bench: Grown) -> None:
        value = {"reason": "suppressed", "at_ms": now_ms(), "command": "s1", "who": "jane"}
        rows = {person: value, command: {"at_ms": now_ms(), "applied": True}, b"c/leads.commands": 1}
        await bench.own(bench.old, 0, 1)
        for key, row in rows.items():
            bench.kafka.produce(NEW, Record("stream-app-state", key, json.dumps(row).encode()))
        await bench.own(bench.new, 0, NEW)
        await asyncio.sleep(5)
        assert {person, command, LAYOUT_KEY} <= bench.rows(NEW).keys()

    grown(main)


def test_a_copy_that_was_interrupted_is_made_again() -> None:
    async def main(bench: Grown) -> None:
        with patch.object(move, "_CHUNK_BYTES", 1):
            await bench.copy_a_part()
            bench.to_delta("p19")
            await bench.kill(NEW)
            assert LAYOUT_KEY not in bench.rows(NEW)
            await bench.own(bench.new, NEW)
            await asyncio.sleep(5)
        assert bench.sent() == []
        assert sum(key.startswith(b"s/") for key in bench.rows(NEW)) == 20
        assert decode_layout(bench.rows(NEW)[LAYOUT_KEY]) == Layout(hashed=2, partitions=3)

    grown(main)


@pytest.mark.parametrize("killed", [(0,), (NEW,), (0, NEW)])
def test_no_kill_at_any_moment_lets_a_suppressed_person_through(killed: tuple[int, ...]) -> None:
    """A lead of a person who is suppressed waits in the new partition while its owner, and that of 0, are killed."""

    async def main(bench: Grown, after_s: float) -> None:
        with patch.object(move, "_CHUNK_BYTES", 1):
            await bench.own(bench.old, 0, 1)
            for number in range(4):
                bench.list_("suppress", f"p{number}", 2)
            await asyncio.sleep(1)
            bench.list_("suppress", "ada", 3)
            for person in ("p0", "p3", "ada", "bob"):
                bench.to_delta(person)
            bench.plan = bench.new
            await asyncio.gather(bench.own(bench.new, NEW), bench.own(bench.new, 0))
            await asyncio.sleep(after_s)
            for number in killed:
                await bench.kill(number)
            await bench.own(bench.new, *killed)
            await asyncio.sleep(120)
        assert set(bench.sent()) <= {"bob"}, after_s
        assert sum(key.startswith(b"s/") for key in bench.rows(NEW)) == 5, after_s

    for number in range(60):
        grown(partial(main, after_s=0.002 * number))


@pytest.mark.parametrize("fails", range(1, 8))
def test_a_commit_of_the_copy_that_fails_is_made_again_before_a_lead(fails: int) -> None:
    commit, begun = MemoryLedger.transact, 0

    async def transact(self: MemoryLedger, records: Sequence[Record]) -> None:
        nonlocal begun
        begun += self.partition == NEW
        if self.partition == NEW and begun == fails:
            begun += 1
            raise Aborted("no answer")
        await commit(self, records)

    async def main(bench: Grown) -> None:
        await bench.own(bench.old, 0, 1)
        for number in range(5):
            bench.list_("suppress", f"p{number}", 2)
        await asyncio.sleep(1)
        for person in ("p0", "p4", "bob"):
            bench.to_delta(person)
        await bench.own(bench.new, 0, NEW)
        await asyncio.sleep(60)
        assert bench.sent() == ["bob"]
        assert sum(key.startswith(b"s/") for key in bench.rows(NEW)) == 5

    with patch.object(move, "_CHUNK_BYTES", 1), patch.object(MemoryLedger, "transact", transact):
        grown(main)
    assert begun > fails


def test_a_lane_moves_to_a_new_partition_and_finds_the_list_there() -> None:
    async def main(bench: Grown) -> None:
        await bench.own(bench.old, 0, 1)
        bench.list_("suppress", "ada", 2)
        bench.publish("a", "bob")
        await asyncio.sleep(1)
        await bench.own(bench.new, 0, 1)
        bench.command("move", partition=NEW)
        await asyncio.sleep(1)
        bench.publish("b", "ada")
        bench.publish("c", "bob")
        bench.publish("d", "eve")
        await bench.own(bench.new, NEW)
        await asyncio.sleep(5)
        assert bench.sent() == ["a", "d"]
        assert bench.statuses("b")[-1] == "suppressed"
        assert bench.statuses("c")[-1] == "duplicate"

    grown(main)


def test_other_homes_than_before_are_refused() -> None:
    async def main(bench: Grown) -> None:
        await bench.own(bench.new, 0, 1, NEW)
        await asyncio.sleep(1)
        for number in (0, 1, NEW):
            await bench.kill(number)
            for wrong in (None, 3, 1):
                bench.plan = msgspec.structs.replace(bench.new, hashed_partitions=wrong)
                with pytest.raises(RowUnreadable, match=r"hashed over 2 partitions.*set kafka\.hashed_partitions = 2"):
                    await bench.start(number)

    grown(main)


def test_a_second_growth_makes_its_partitions_wait_again() -> None:
    async def main(bench: Grown) -> None:
        await bench.own(bench.new, 0, 1, NEW)
        bench.list_("suppress", "ada", 3)
        await asyncio.sleep(1)
        more = msgspec.structs.replace(bench.new, partitions=4)
        await bench.own(more, 3)
        await asyncio.sleep(5)
        assert bench.rows(3) == {}
        await bench.own(more, 0)
        await asyncio.sleep(5)
        assert decode_layout(bench.rows(0)[LAYOUT_KEY]) == Layout(hashed=2, partitions=4)
        assert decode_layout(bench.rows(3)[LAYOUT_KEY]) == Layout(hashed=2, partitions=4)
        assert b"s/" + hash_of("ada").encode() in bench.rows(3)
        bench.list_("suppress", "eve", 3)
        await asyncio.sleep(1)
        assert bench.answers_in(0)[-1].reason == "too_few_partitions"

    grown(main)
