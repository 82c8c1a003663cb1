"""The first step of a partition writes what its namespace began with, once; every later owner
compares it.
"""

import asyncio

import msgspec
import pytest

from stream_app.domain.model.errors import SettingsError
from stream_app.domain.model.records import Record
from stream_app.domain.model.system import SYSTEM_KEY, SYSTEM_VERSION, SystemRow
from tests.simulation.kafka import MemoryKafka
from tests.support.partition.bench import Bench
from tests.support.partition.virtual import now_ms, virtual_time


class Fresh(Bench):
    """The first owner of a namespace."""

    def __init__(self) -> None:
        super().__init__(clay_takes_s=0.1)
        self.kafka = MemoryKafka(now_ms)

    def state(self) -> list[bytes | None]:
        """The keys of what the partition has written, in order."""
        return [record.key for record in self.kafka.log(self.plan.topics.state, 0).committed()]

    async def used(self) -> None:
        """Send one lead, and leave."""
        await self.start()
        self.publish("a", "p1")
        await asyncio.sleep(1.0)
        await self.kill()
        assert self.clay.bodies


@virtual_time
async def test_the_first_step_begins_with_it_and_no_later_one_has_it() -> None:
    bench = await Fresh.started()
    await asyncio.sleep(5.0)
    assert bench.state() == [], "a take-over writes nothing"
    await bench.order("pause", "c1")
    await bench.kill()
    await bench.start()
    bench.command("resume", "c2")
    bench.publish("a", "p1")
    await asyncio.sleep(1.0)
    first, *others = bench.kafka.log(bench.plan.topics.state, 0).committed()
    assert first.key == SYSTEM_KEY
    assert msgspec.json.decode(first.value or b"", type=SystemRow) == SystemRow(
        SYSTEM_VERSION,
        bench.plan.partitions,
    )
    assert SYSTEM_KEY not in [key.key for key in others]
    await bench.kill()


@virtual_time
async def test_an_owner_with_another_number_of_partitions_is_refused() -> None:
    bench = Fresh()
    await bench.used()
    bench.plan = msgspec.structs.replace(bench.plan, partitions=bench.plan.partitions + 1)
    with pytest.raises(
        SettingsError,
        match=r"^stream-app-state/0: kafka.partitions = 3, and this namespace began",
    ):
        await bench.start()


@virtual_time
async def test_an_owner_of_rows_of_an_earlier_build_is_refused_and_sends_nothing() -> None:
    bench = Fresh()
    bench.kafka.produce(0, Record(bench.plan.topics.state, b"k/c1", b'{"at_ms":1,"applied":true}'))
    bench.publish("a", "p1")
    with pytest.raises(
        SettingsError,
        match=r"^stream-app-state/0: it has rows that were written by an earlier",
    ):
        await bench.start()
    assert not bench.clay.bodies
    assert len(bench.state()) == 1
