"""A step is never split, steps keep their order, and a failed transaction fails every step that was
submitted.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import msgspec
import pytest

from stream_app.domain.delivery.recorder import CommitStep
from stream_app.domain.delivery.state_machine import lane_key
from stream_app.domain.lane.lane import Lane
from stream_app.domain.model.errors import Aborted
from stream_app.domain.model.records import Record
from stream_app.domain.plan import Actor
from stream_app.partition.state import PartitionState
from tests.simulation.client import MemoryStateStore
from tests.simulation.kafka import MemoryKafka
from tests.simulation.schedule import Setup, plan_of
from tests.support.partition.clay import NoClay
from tests.support.partition.virtual import parts, virtual_time


class SlowStateStore(MemoryStateStore):
    """Transactions take a second; the ones in `fails` (by number) are aborted."""

    def __init__(self, fails: Sequence[int] = ()) -> None:
        super().__init__(MemoryKafka(), "t-0", "state", 0)
        self.committed: list[list[Record]] = []
        self.begun = 0
        self._fails = fails

    async def transact(self, records: Sequence[Record]) -> None:
        self.begun += 1
        await asyncio.sleep(1.0)
        if self.begun in self._fails:
            raise Aborted("no")
        self.committed.append(list(records))


def _step(name: str, workspace: str = "acme") -> CommitStep:
    return CommitStep(
        [(name.encode(), b"row")],
        [Record("events", name.encode(), b"event")],
        [],
        workspace,
    )


class Committing:
    """The commits of a partition, on a Kafka whose transactions take a second."""

    def __init__(self, store: SlowStateStore, spacing_s: float = 0.005) -> None:
        state = PartitionState(
            0,
            store,
            replace(parts(plan_of(Setup()), NoClay()), spacing_s=spacing_s),
        )
        state.commits.opening = None
        self.commits = state.commits
        self.lanes = state.lanes
        self.running = asyncio.create_task(self.commits.run())

    def pause(self, number: int) -> None:
        """Change the lane: its row has this number from now on."""
        self.lanes["acme"] = msgspec.structs.replace(
            self.lanes["acme"],
            pause=Actor("operator", "", number),
        )


def lane_in(records: Sequence[Record]) -> int:
    """The number in the row of the lane."""
    [row] = [record.value or b"" for record in records if record.key == lane_key("acme")]
    pause = msgspec.json.decode(row, type=Lane).pause
    assert pause is not None
    return pause.at_ms


def steps_in(records: Sequence[Record]) -> list[bytes | None]:
    return [record.key for record in records if record.topic == "events"]


@virtual_time
async def test_steps_that_are_submitted_together_share_a_transaction_with_the_lane() -> None:
    store = SlowStateStore()
    bench = Committing(store)
    commits = bench.commits
    bench.pause(1)
    first = commits.submit(_step("a"))
    second = commits.submit(_step("b"))
    bench.pause(2)
    await asyncio.sleep(0.5)  # the first transaction is on its way
    bench.pause(3)
    third = commits.submit(_step("c"))
    await asyncio.gather(first, second, third)
    assert [steps_in(records) for records in store.committed] == [[b"a", b"b"], [b"c"]]
    assert [lane_in(records) for records in store.committed] == [2, 3]


@pytest.mark.parametrize("fails", [False, True])
@virtual_time
async def test_a_transaction_is_under_way_until_it_ends(fails: bool) -> None:
    """The watchdog ends a process whose transaction hangs: it must see one that has taken all
    steps.
    """
    store = SlowStateStore(fails=[2] if fails else [])
    commits = Committing(store).commits

    def under_way() -> int | None:
        return commits.under_way

    assert under_way() is None
    first = commits.submit(_step("a"))
    assert under_way() == 0, "it waits"
    await asyncio.sleep(0.9)
    assert store.begun == 1, "it is being committed"
    assert store.committed == [], "it is being committed"
    assert under_way() == 0, "it is being committed"
    await first
    assert under_way() is None
    assert commits.failures == 0
    second = commits.submit(_step("b"))
    await asyncio.sleep(0.9)
    assert under_way() == 1
    await asyncio.gather(second, return_exceptions=True)
    assert under_way() is None
    assert commits.failures == int(fails)


@virtual_time
async def test_an_aborted_transaction_fails_its_steps_and_those_behind_it() -> None:
    store = SlowStateStore(fails=[2])
    bench = Committing(store)
    commits = bench.commits
    first = commits.submit(_step("a"))
    await first
    second = commits.submit(_step("b"))
    await asyncio.sleep(0.5)
    third = commits.submit(_step("c"))
    for future in (second, third):
        with pytest.raises(Aborted):
            await future
    assert len(store.committed) == 1
    with pytest.raises(Aborted):
        await bench.running  # only a take-over begins again


@virtual_time
async def test_a_cancelled_step_does_not_affect_others() -> None:
    store = SlowStateStore()
    commits = Committing(store).commits
    gone = commits.submit(_step("a"))
    kept = commits.submit(_step("b"))
    gone.cancel()
    await kept
    assert steps_in(store.committed[0]) == [b"a", b"b"], (
        "what was submitted is committed, though no task waits"
    )


@virtual_time
async def test_steps_that_follow_a_transaction_within_the_spacing_share_the_next_one() -> None:
    store = SlowStateStore()
    commits = Committing(store, spacing_s=0.5).commits
    await commits.submit(_step("a"))
    second = commits.submit(_step("b"))
    await asyncio.sleep(0.4)
    await asyncio.gather(second, commits.submit(_step("c")))
    assert len(store.committed) == 2


@virtual_time
async def test_a_row_that_has_expired_is_deleted_after_the_step_that_writes_it() -> None:
    store = SlowStateStore()
    row = b'{"at_ms": 0}'
    step = CommitStep([(b"k/c-1", row)], [], [], "")
    await Committing(store).commits.submit(step)
    [committed] = store.committed
    assert [record.value for record in committed if record.key == b"k/c-1"] == [row, None]
