"""A partition that recovers after a failed commit, and one that is closed."""

import asyncio
import math
from collections.abc import Awaitable, Callable
from contextlib import suppress
from itertools import pairwise
from typing import TypeVar

import pytest
from msgspec.structs import replace

from stream_app.domain.model.outcome import Accepted, Outcome, RateLimited
from stream_app.domain.model.records import ConsumedRecord, Record
from stream_app.partition.in_flight import InFlight, StreamSuspended
from stream_app.partition.owner import Erasures
from stream_app.partition.state import PartitionState
from tests.simulation.client import MemoryStateStore, NoAnswer
from tests.simulation.schedule import Setup
from tests.support.partition.bench import Bench
from tests.support.partition.clay import SlowClay
from tests.support.partition.kafka import AwayStateStore
from tests.support.partition.virtual import (
    MEMBER_S,
    RecordingStream,
    consumed,
    parts,
    run,
    runner_of,
    virtual_time,
)

T = TypeVar("T")


class ManyRows:
    """A link whose first transaction is lost; reading takes longer than the group's word that we
    are in it holds.
    """

    lost = False
    fence_s = 0.0
    fences: BaseException | None = None

    async def ask(self, what: str, request: Callable[[], T]) -> T:
        if what == "fence" and self.fences is not None:
            raise self.fences
        await asyncio.sleep({"fence": self.fence_s, "load": 2 * MEMBER_S}.get(what, 0.0))
        if what == "send" and not self.lost:
            self.lost = True
            raise NoAnswer(what)
        return request()


@virtual_time
async def test_a_partition_recovers_although_reading_its_rows_takes_longer_than_a_session() -> None:
    """Only the fence must come while the worker is in the group.

    The partition stays its own until the next fence.
    """
    bench = Bench(Setup(callbacks=False), link=ManyRows())
    bench.publish("id0", "p0")
    await bench.serve_for(20 * MEMBER_S)
    assert bench.states() == ["received", "sending", "accepted"]
    assert bench.stream.committed() == 1


def test_the_pause_between_attempts_to_take_a_partition_over_grows_to_ten_seconds() -> None:
    """It spares a broker that is away for long, and a partition still goes on soon after it is
    back.
    """

    class Away(ManyRows):
        def __init__(self) -> None:
            self.asked_s: list[float] = []

        async def ask(self, what: str, request: Callable[[], T]) -> T:
            if what == "fence":
                self.asked_s.append(asyncio.get_running_loop().time())
            return await super().ask(what, request)

    async def main() -> None:
        link = Away()
        bench = Bench(Setup(callbacks=False), link=link)
        bench.publish("id0", "p0")
        await bench.serve()
        link.asked_s.clear()
        link.fences = NoAnswer("fence")
        await asyncio.sleep(60)
        pauses_s = [round(after - before, 3) for before, after in pairwise(link.asked_s)]
        assert pauses_s == [0.5, 1.0, 2.0, 4.0, 8.0, 10.0, 10.0, 10.0, 10.0]
        link.fences = None
        asked = len(link.asked_s)
        back_s = link.asked_s[-1] + 10.0
        await asyncio.sleep(20 * MEMBER_S)
        assert [round(at_s - back_s, 3) for at_s in link.asked_s[asked:]] == [0.0]
        assert bench.states() == ["received", "sending", "accepted"]

    run(main())


@virtual_time
async def test_a_fence_that_comes_later_than_the_groups_word_holds_is_none() -> None:
    """Who was cut off must not fence its innocent successor."""
    link = ManyRows()
    bench = Bench(link=link)
    bench.publish("id0", "p0")
    await bench.serve()
    link.fence_s = 2 * MEMBER_S
    await asyncio.sleep(20 * MEMBER_S)
    successor = MemoryStateStore(bench.kafka, "t-0", bench.plan.topics.state, 0)
    await successor.take_over()
    await asyncio.sleep(20 * MEMBER_S)
    await successor.transact([Record(bench.plan.topics.state, b"row", b"")])
    assert bench.states() == []


@virtual_time
async def test_a_failed_recovery_ends_the_process() -> None:
    """aiokafka let a CancelledError of its own out: it looked like a cancellation, and the
    partition stood still.
    """
    link = ManyRows()
    bench = Bench(link=link)
    bench.publish("id0", "p0")
    await bench.serve()
    link.fences = asyncio.CancelledError()
    await asyncio.sleep(20 * MEMBER_S)
    assert [str(error) for error in bench.alarmed()] == [
        "the task owner-0 was cancelled without a request",
    ]


class LosesOne(ManyRows):
    """The same, but reading is quick, and the first transaction gets through."""

    sent = 0

    async def ask(self, what: str, request: Callable[[], T]) -> T:
        self.sent += what == "send"
        if self.sent == 2 and what == "send":
            raise NoAnswer(what)
        return request()


class DeafClay(SlowClay):
    """A client that swallows a cancellation, as libraries do."""

    async def send(self, destination: str, webhook_id: str, body: bytes, trace_id: str) -> Outcome:
        with suppress(asyncio.CancelledError):
            await super().send(destination, webhook_id, body, trace_id)
        return await super().send(destination, webhook_id, body, trace_id)


@virtual_time
async def test_a_recovery_waits_for_no_task_that_has_swallowed_its_cancellation() -> None:
    """aiokafka swallows them: the partition stood still until the process was ended."""
    bench = Bench(None, 1_000.0, LosesOne(), DeafClay)
    bench.publish("id0", "p0")
    await bench.serve_for(1.0)
    bench.publish("id1", "p1")
    await asyncio.sleep(20.0)
    assert sorted(bench.states()) == [
        "received",
        "received",
        "send_uncertain",
        "sending",
        "sending",
    ]


class LosesOneAt:
    """A link that loses the first transaction after `at_s`."""

    at_s = 1.5
    lost = False

    async def ask(self, what: str, request: Callable[[], T]) -> T:
        await asyncio.sleep(0)
        if what == "send" and not self.lost and asyncio.get_running_loop().time() > self.at_s:
            self.lost = True
            raise NoAnswer(what)
        return request()


class RefusesTheFirst(SlowClay):
    """Answers the first lead with a 429 soon, and accepts the second one later."""

    async def send(self, destination: str, webhook_id: str, body: bytes, trace_id: str) -> Outcome:
        self.bodies.append(body)
        if len(self.bodies) == 1:
            await asyncio.sleep(0.5)
            return RateLimited(429, 500, "60")
        await asyncio.sleep(2.0)
        return Accepted(200, 1)


@virtual_time
async def test_after_a_recovery_a_sent_lead_does_not_wait_for_a_retry_of_an_earlier_one() -> None:
    link = LosesOneAt()
    bench = Bench(Setup(callbacks=False), link=link, clay=RefusesTheFirst)
    bench.publish_leads(2)
    await bench.serve_for(10.0)
    assert link.lost
    assert bench.states()[-2:] == ["refused", "accepted"]
    await asyncio.sleep(100.0)
    assert bench.stream.committed() == 2


class StartedAgain:
    """A runner whose records were under way when it was stopped, and were started again a second
    ago.
    """

    def __init__(self, *records: ConsumedRecord) -> None:
        bench = Bench()
        self.stream = RecordingStream(list(records))
        state = PartitionState(0, bench.store, parts(bench.plan, bench.clay))
        self.runner = runner_of(state, {"hot": self._process})
        self.began: list[int] = []

    async def begin(self, process: Callable[[InFlight], Awaitable[None]]) -> asyncio.Task[None]:
        """`process` takes the records once they are started again; before, all of them wait."""
        self._again = process
        self.runner.resume()
        self.runner.admit_leads()
        serving = asyncio.create_task(self.runner.serve(self.stream, "hot"))
        await asyncio.sleep(1.0)
        await self.runner.stop()
        self.runner.resume()
        self.runner.admit_leads()
        await asyncio.sleep(1.0)
        return serving

    async def _process(self, in_flight: InFlight) -> None:
        if self.runner.take_overs == 1:
            in_flight.release_next()
            await asyncio.sleep(60.0)
        self.began.append(in_flight.consumed.offset)
        await self._again(in_flight)


@virtual_time
async def test_a_record_that_was_started_again_does_not_overtake_one_that_is_given_up() -> None:
    async def wait_for_the_lane(in_flight: InFlight) -> None:
        await in_flight.suspended.wait()
        raise StreamSuspended

    again = StartedAgain(consumed(0), consumed(1))
    serving = await again.begin(wait_for_the_lane)
    again.stream.suspended.set()
    await asyncio.sleep(1.0)
    assert again.began == [0]
    assert again.stream.given_up == [0, 1]
    again.stream.over.set()
    await serving


@virtual_time
async def test_in_a_partition_of_one_workspace_all_records_start_again_one_after_the_other() -> (
    None
):
    async def take(_: InFlight) -> None:
        await asyncio.sleep(5.0)

    again = StartedAgain(consumed(0), replace(consumed(1), key=b"nobody"))
    serving = await again.begin(take)
    assert again.began == [0]
    await asyncio.sleep(10.0)
    assert again.began == [0, 1]
    assert again.stream.acked == [0, 1]
    again.stream.over.set()
    await serving


@virtual_time
async def test_close_forgets_everything_at_once() -> None:
    bench = Bench()
    bench.publish("id0", "p0")
    await bench.serve_for(0.5)
    await bench.partition.close()
    await asyncio.sleep(10.0)
    assert bench.states() == ["received", "sending"]
    assert bench.stream.committed() is None


class SlowToClose(AwayStateStore):
    """Its connections take two seconds to close."""

    take_overs = 0

    async def take_over(self, fence_within_s: float = math.inf) -> dict[bytes, bytes]:
        self.take_overs += 1
        return await super().take_over(fence_within_s)

    async def close(self) -> None:
        await super().close()
        await asyncio.sleep(2.0)


@virtual_time
async def test_nothing_is_taken_over_again_while_the_connections_of_a_partition_close() -> None:
    """A lead that is answered meanwhile would find no transaction, and have the partition fenced
    again, although it is another worker's by then.
    """
    bench = Bench(clay_takes_s=1.0)
    store = SlowToClose(bench.kafka, "t-0", bench.plan.topics.state, 0)
    bench.store = store
    bench.partition = bench.owner()
    bench.publish("id0", "p0")
    await bench.serve_for(0.5)
    assert bench.states() == ["received", "sending"]
    await bench.partition.close()
    assert store.take_overs == 1


class LimitedWhileCancelled(SlowClay):
    """Answers the first lead with a 429, although its request is cancelled meanwhile."""

    async def send(self, destination: str, webhook_id: str, body: bytes, trace_id: str) -> Outcome:
        if self.bodies:
            return await super().send(destination, webhook_id, body, trace_id)
        self.bodies.append(body)
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(1_000.0)
        return RateLimited(429, 500, "60")


@virtual_time
async def test_a_retry_after_that_comes_while_a_partition_closes_holds_for_its_next_owner() -> None:
    """It is in no transaction, and this process may be the next owner."""
    bench = Bench(clay=LimitedWhileCancelled, last_known_lanes={})
    bench.publish("id0", "p0")
    await bench.serve_for(1.0)
    assert bench.states() == ["received", "sending"]
    await bench.kill()
    bench.publish("id1", "p1")
    await bench.start()
    await asyncio.sleep(50.0)
    assert bench.clay.lead_ids == ["id0"]
    await asyncio.sleep(20.0)
    assert bench.clay.lead_ids == ["id0", "id1"]


@virtual_time
async def test_a_bug_in_a_periodic_task_sends_no_more_and_records_what_is_under_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def fails(_: object) -> None:
        await asyncio.sleep(0.5)
        raise LookupError("a bug")

    monkeypatch.setattr(Erasures, "run", fails)
    bench = Bench(clay_takes_s=1.0)
    bench.publish("id0", "p0")
    await bench.serve_for(0.8)
    assert [type(error) for error in bench.alarmed()] == [LookupError]
    bench.publish("id1", "p1")
    await asyncio.sleep(10.0)
    assert len(bench.clay.bodies) == 1
    assert bench.states()[:3] == ["received", "sending", "accepted"], "and it is not uncertain"


@virtual_time
async def test_a_partition_that_is_closed_while_it_recovers_fences_nobody() -> None:
    bench = Bench()
    fences: list[float] = []
    failed = asyncio.Event()

    async def ask(what: str, request: Callable[[], object]) -> object:
        await asyncio.sleep(0.01)
        if what == "fence":
            fences.append(asyncio.get_running_loop().time())
        if what == "send" and not failed.is_set():
            failed.set()
            raise NoAnswer(what)
        return request()

    bench.store._link.ask = ask  # type: ignore[method-assign,assignment]  # it fails
    bench.publish("id0", "p0")
    await bench.serve()
    await failed.wait()
    await bench.partition.close()
    before = len(fences)
    await asyncio.sleep(60.0)
    assert len(fences) == before == 1


@virtual_time
async def test_a_record_whose_ack_is_under_way_is_not_started_again_by_a_recovery() -> None:
    bench = Bench()
    began: list[int] = []

    async def process(in_flight: InFlight) -> None:
        in_flight.release_next()
        began.append(in_flight.consumed.offset)

    stream = RecordingStream([consumed(0)], ack_s={0: 10.0})
    runner = runner_of(
        PartitionState(0, bench.store, parts(bench.plan, bench.clay)),
        {"hot": process},
    )
    runner.resume()
    runner.admit_leads()
    serving = asyncio.create_task(runner.serve(stream, "hot"))
    await asyncio.sleep(1.0)
    await runner.stop()
    runner.resume()
    runner.admit_leads()
    await asyncio.sleep(20.0)
    assert began == [0]
    assert stream.acked == [0]
    stream.over.set()
    await serving
