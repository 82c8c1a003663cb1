"""A step is never split, steps keep their order, and a failed transaction fails every step that was submitted."""

import asyncio
from collections.abc import Sequence

import pytest

from stream_app.domain.delivery.recorder import Duration, WriteBatch
from stream_app.domain.errors import Aborted, StateStoreError
from stream_app.domain.lane_messages import CommandAnswer, LaneView
from stream_app.domain.record import ConsumedRecord, Record
from stream_app.partition.commits import Committer
from stream_app.partition.lanes import Lanes
from tests.partition.virtual import virtual_time


class SlowLedger:
    """`ports.StateStore` whose transactions take a second; the ones in `fails` (by number) are aborted."""

    def __init__(self, fails: Sequence[int] = ()) -> None:
        self.committed: list[list[Record]] = []
        self.begun = 0
        self._fails = fails

    async def take_over(self, fence_within_s: float = 0.0) -> dict[bytes, bytes]:
        return {}

    async def waiting(self, topic: str, offset: int, most: int) -> list[ConsumedRecord]:
        return []

    async def transact(self, records: Sequence[Record]) -> None:
        self.begun += 1
        await asyncio.sleep(1.0)
        if self.begun in self._fails:
            raise Aborted("no")
        self.committed.append(list(records))

    async def close(self) -> None: ...


class Silent:
    def __init__(self) -> None:
        self.durations: list[Duration] = []

    def committed(self, steps: Sequence[WriteBatch], records: int, seconds: float) -> None:
        self.durations += [duration for step in steps for duration in step.durations]

    def lane(self, view: LaneView) -> None: ...
    def answered(self, answer: CommandAnswer) -> None: ...
    def lane_gone(self, workspace: str) -> None: ...

    def recovering(self, partition: int, error: Exception) -> None: ...

    def unknown_rows(self, partition: int, count: int) -> None: ...


def _step(name: str, workspace: str = "acme") -> WriteBatch:
    return WriteBatch([(name.encode(), b"row")], [Record("events", name.encode(), b"event")], [], workspace)


class Numbers(Lanes):
    """Lanes that are a number each."""

    def __init__(self, state: dict[str, int]) -> None:
        self.state = state

    def records(self, workspaces: set[str]) -> list[Record]:
        return [Record("state", name.encode(), str(self.state[name]).encode()) for name in sorted(workspaces)]

    def committed(self) -> None: ...


def _committer(
    ledger: SlowLedger, failed: list[StateStoreError], state: dict[str, int], spacing_s: float = 0.005
) -> Committer:
    return Committer(ledger, "state", spacing_s, Numbers(state), Silent(), failed.append)


@virtual_time
async def test_steps_that_are_submitted_together_share_a_transaction_with_the_lane() -> None:
    ledger, state = SlowLedger(), {"acme": 1}
    committer = _committer(ledger, [], state)
    running = asyncio.create_task(committer.run())
    first, second = committer.submit(_step("a")), committer.submit(_step("b"))
    state["acme"] = 2
    await asyncio.sleep(0.5)  # the first transaction is on its way
    state["acme"] = 3
    third = committer.submit(_step("c"))
    await asyncio.gather(first, second, third)
    keys = [[record.key for record in records] for records in ledger.committed]
    assert keys == [[b"a", b"a", b"b", b"b", b"acme"], [b"c", b"c", b"acme"]]
    assert [records[-1].value for records in ledger.committed] == [b"2", b"3"]
    running.cancel()


@pytest.mark.parametrize("fails", [False, True])
@virtual_time
async def test_a_transaction_is_under_way_until_it_ends(fails: bool) -> None:
    """The watchdog ends a process whose transaction hangs: it must see one that has taken all steps."""
    ledger = SlowLedger(fails=[2] if fails else [])
    committer = _committer(ledger, [], {"acme": 1})
    running = asyncio.create_task(committer.run())

    def under_way() -> int | None:
        return committer.under_way

    assert under_way() is None
    first = committer.submit(_step("a"))
    assert under_way() == 0, "it waits"
    await asyncio.sleep(0.9)
    assert (ledger.begun, ledger.committed, under_way()) == (1, [], 0), "it is being committed"
    await first
    assert under_way() is None
    second = committer.submit(_step("b"))
    await asyncio.sleep(0.9)
    assert under_way() == 1
    await asyncio.gather(second, return_exceptions=True)
    assert under_way() is None
    running.cancel()


@virtual_time
async def test_an_aborted_transaction_fails_its_steps_and_those_behind_it() -> None:
    ledger, failed = SlowLedger(fails=[2]), list[StateStoreError]()
    committer = _committer(ledger, failed, {"acme": 1})
    running = asyncio.create_task(committer.run())
    first = committer.submit(_step("a"))
    await first
    second = committer.submit(_step("b"))
    await asyncio.sleep(0.5)
    third = committer.submit(_step("c"))
    for future in (second, third):
        with pytest.raises(Aborted):
            await future
    assert len(failed) == 1
    assert len(ledger.committed) == 1
    await running  # it has ended by itself: only a take-over begins again


@virtual_time
async def test_a_cancelled_step_does_not_affect_others() -> None:
    ledger = SlowLedger()
    committer = _committer(ledger, [], {"acme": 1})
    running = asyncio.create_task(committer.run())
    gone, kept = committer.submit(_step("a")), committer.submit(_step("b"))
    gone.cancel()
    await kept
    assert len(ledger.committed[0]) == 5  # what was submitted is committed, even if no task waits for it
    running.cancel()


@virtual_time
async def test_steps_that_follow_a_transaction_within_the_spacing_share_the_next_one() -> None:
    ledger = SlowLedger()
    committer = _committer(ledger, [], {"acme": 1}, spacing_s=0.5)
    running = asyncio.create_task(committer.run())
    await committer.submit(_step("a"))
    second = committer.submit(_step("b"))
    await asyncio.sleep(0.4)
    await asyncio.gather(second, committer.submit(_step("c")))
    assert len(ledger.committed) == 2
    running.cancel()
