"""The watchdog sees what stands still, and nothing of what only waits."""

import asyncio
import re
from collections.abc import Awaitable, Callable, Hashable
from typing import TypeVar

from stream_app.faust_app.worker import Worker
from stream_app.partition.owner import PartitionOwner
from stream_app.services.process import Watchdog
from tests.simulation.client import NoAnswer
from tests.support.partition.bench import Bench
from tests.support.partition.virtual import virtual_time

T = TypeVar("T")

LEADS = ("leads", 0)


class Refusing:
    """A link whose `send` waits for `instead` while it refuses."""

    refuses = True

    def __init__(self, instead: Callable[[], Awaitable[object]]) -> None:
        self._instead = instead

    async def ask(self, what: str, request: Callable[[], T]) -> T:
        await asyncio.sleep(0)
        if what == "send" and self.refuses:
            await self._instead()
        return request()


async def _no_answer() -> None:
    raise NoAnswer("send")


def test_only_work_with_an_unchanged_token_for_the_whole_time_is_stalled() -> None:
    seen: dict[str, Hashable] = {"moves": 0, "stands": 0, "goes": 0}
    reported: list[list[str]] = []
    watchdog = Watchdog(10.0, lambda: seen, lambda what: reported.append(list(what)))
    for now_s in range(0, 13, 3):
        seen["moves"] = now_s
        if now_s == 9:
            del seen["goes"]
        watchdog.check(now_s)
        assert watchdog.stalled == (["stands"] if now_s >= 10 else [])
    seen["stands"] = 1
    watchdog.check(13)
    assert reported == [["stands"], []]


def _worker(bench: Bench) -> Worker:
    def build(number: int) -> PartitionOwner:
        raise AssertionError(number)

    worker = Worker(build)
    worker.partitions[0] = bench.partition
    return worker


@virtual_time
async def test_an_idle_worker_and_one_that_works_show_nothing_for_long() -> None:
    bench = Bench()
    worker = _worker(bench)
    await bench.serve()
    assert worker.under_way({LEADS: False}) == {}
    tokens = []
    for number in range(20):
        bench.publish(f"id{number}", f"p{number}")
        await asyncio.sleep(0.5)
        tokens.append(worker.under_way({LEADS: True}))
    assert all(
        before.items().isdisjoint(after.items())
        for before, after in zip(tokens, tokens[5:], strict=False)
    )


@virtual_time
async def test_a_lead_that_never_ends_is_named() -> None:
    bench = Bench(clay_takes_s=1e6)
    worker = _worker(bench)
    bench.publish("id0", "p0")
    await bench.serve()
    await asyncio.sleep(60)
    seen = worker.under_way({LEADS: False})
    assert list(seen) == ["the lead at leads/0/0 does not end"]
    bench.publish("id1", "p1")
    await asyncio.sleep(60)
    assert worker.under_way({LEADS: False}) == seen, "others pass, and it is still the same"


@virtual_time
async def test_a_record_that_never_ends_before_it_waits_for_anything_is_named() -> None:
    link = Refusing(asyncio.Event().wait)
    link.refuses = False
    bench = Bench(link=link)
    worker = _worker(bench)
    bench.publish("id0", "p0")
    await bench.serve()
    await asyncio.sleep(10)
    link.refuses = True
    bench.publish("id0", "p0")  # a duplicate, which waits for no lane
    await asyncio.sleep(60)
    assert list(worker.under_way({LEADS: False})) == [
        "partition 0 commits nothing",
        "the lead at leads/0/1 does not end",
    ]
    assert len(bench.partition.state.rows) == len(list(bench.partition.state.rows))


@virtual_time
async def test_leads_that_wait_for_their_lane_are_no_alarm() -> None:
    bench = Bench()
    worker = _worker(bench)
    serving = await bench.serve()
    for number in range(5):
        bench.publish(f"id{number}", "same")
    await asyncio.sleep(0.5)
    assert list(worker.under_way({LEADS: True})) == ["the lead at leads/0/0 does not end"], (
        "not its copies"
    )
    serving.cancel()


@virtual_time
async def test_a_topic_without_a_reader_is_named() -> None:
    bench = Bench()
    worker = _worker(bench)
    await bench.partition.take_over()  # and it is not served
    assert worker.under_way({LEADS: False}) == {}
    assert worker.under_way({LEADS: True, ("leads", 1): False}) == {
        "the records of leads/0 are not consumed": 0,
        "partition 1 is assigned and not taken over": None,
    }


@virtual_time
async def test_a_recovery_without_end_and_a_dead_owner_are_named() -> None:
    bench = Bench()
    worker = _worker(bench)
    await bench.serve()
    await asyncio.sleep(0.5)  # it admits leads
    assert bench.partition._owning is not None
    bench.partition._owning.cancel()
    bench.publish("id0", "p0")
    await asyncio.sleep(1)
    assert list(worker.under_way({LEADS: False})) == ["partition 0 commits nothing"]
    bench.partition.runner.is_resumed = False
    assert list(worker.under_way({LEADS: False})) == ["partition 0 is being taken over again"]


@virtual_time
async def test_a_partition_whose_transactions_fail_says_so_until_one_succeeds() -> None:
    link = Refusing(_no_answer)
    bench = Bench(link=link)
    worker = _worker(bench)
    bench.publish("id0", "p0")
    await bench.serve()
    assert worker.failing == []
    for failures, says in (
        (1, []),
        (2, ["partition 0 commits nothing: 2 transactions failed"]),
        (0, []),
    ):
        bench.partition.state.commits.failures = failures
        assert worker.failing == says, "a single one is repeated"
    await asyncio.sleep(5)
    (text,) = worker.failing
    assert re.fullmatch(r"partition 0 commits nothing: [2-9] transactions failed", text)
    link.refuses = False
    await asyncio.sleep(20)
    assert worker.failing == []
    assert "accepted" in bench.states()
