"""Helpers of the partition tests: virtual time, records under way and a stream that records its
acks.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from functools import wraps
from random import Random
from typing import Any, Final, ParamSpec, TypeVar

from stream_app.clock import Clock
from stream_app.domain.delivery.recorder import CommitStep
from stream_app.domain.lane.admission import Grant
from stream_app.domain.model.records import ConsumedRecord
from stream_app.domain.plan import Plan
from stream_app.partition.commits import Commits
from stream_app.partition.in_flight import InFlight, Source
from stream_app.partition.places import Limiter
from stream_app.partition.ports import Clay, Observer
from stream_app.partition.runner import ProcessRecord, RecordRunner
from stream_app.partition.state import PartitionState, WorkerParts
from tests.simulation.loop import SimLoop

P = ParamSpec("P")
T = TypeVar("T")


_at_end: list[Callable[[], None]] = []


def at_end(check: Callable[[], None]) -> None:
    """Have this checked after the test that runs."""
    _at_end.append(check)


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run on virtual time. A wait that would never end raises RuntimeError at once."""
    loop = SimLoop(Random(0))
    _at_end.clear()
    try:
        result = loop.run_until_complete(main)
        for check in _at_end:
            check()
        return result
    finally:
        errors = loop.errors
        loop.end()
        assert not errors, errors


def virtual_time(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Run a test on virtual time."""

    @wraps(test)
    def on_virtual_time(*args: P.args, **kwargs: P.kwargs) -> None:
        run(test(*args, **kwargs))

    return on_virtual_time


def now_ms() -> int:
    return 1_796_083_140_000 + round(asyncio.get_running_loop().time() * 1000)


class VirtualClock(Clock):
    """The loop's time."""

    def now_ms(self) -> int:
        return now_ms()

    def boot_ms(self) -> int:
        return now_ms()

    def rand(self) -> float:
        return 0.5


MEMBER_S: Final = 5.0


async def still_member() -> float:
    return MEMBER_S


def fail(error: BaseException) -> None:
    raise AssertionError("a bug in the partition") from error


def parts(plan: Plan, clay: Clay, **others: Any) -> WorkerParts:
    """What a worker gives to its partitions, on virtual time.

    A bug fails the test, unless an alarm is given.
    """
    given = {
        "clock": VirtualClock(),
        "observer": Observer(),
        "alarm": fail,
        "still_member": still_member,
        **others,
    }
    return WorkerParts(plan=plan, clay=clay, **given)


def runner_of(state: PartitionState, pipelines: Mapping[Source, ProcessRecord]) -> RecordRunner:
    """A runner of this partition whose records are processed by these."""
    return RecordRunner(
        number=state.number,
        plan=state.plan,
        rows=state.rows,
        lanes=state.lanes,
        intake=state.intake,
        commits=state.commits,
        admission=state.admission,
        pipelines=pipelines,
    )


class CommitsAtOnce(Commits):
    """Every step is committed as soon as it is submitted."""

    def __init__(self) -> None:
        pass

    def submit(self, step: CommitStep, in_flight: InFlight | None = None) -> asyncio.Future[None]:
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        done.set_result(None)
        return done


def nothing_ahead(grant: Grant, now_ms: int) -> CommitStep:
    """Write nothing ahead of a POST."""
    return CommitStep([], [], [])


def consumed(offset: int, value: bytes | None = b"{}", topic: str = "leads") -> ConsumedRecord:
    return ConsumedRecord(topic, 0, offset, b"acme", value)


def in_flight(
    offset: int = 0,
    source: Source = "hot",
    suspended: asyncio.Event | None = None,
) -> InFlight:
    return InFlight(consumed(offset), source, suspended or asyncio.Event(), Limiter(1_000))


class RecordingStream:
    """A `PartitionStream` of these records.

    It records acks (each takes `ack_s`), and ends when `over` is set.
    """

    partition = 0

    def __init__(
        self,
        records: list[ConsumedRecord] | None = None,
        ack_s: dict[int, float] | None = None,
        topic: str = "leads",
    ) -> None:
        self.topic = topic
        self.suspended = asyncio.Event()
        self.acked: list[int] = []
        self.given_up: list[int] = []
        self.expected: int | None = None
        self.over = asyncio.Event()
        self._records = records or []
        self._ack_s = ack_s or {}

    async def __aiter__(self) -> AsyncIterator[ConsumedRecord]:
        for record in self._records:
            yield record
        await self.over.wait()

    async def ack(self, consumed: ConsumedRecord) -> None:
        await asyncio.sleep(self._ack_s.get(consumed.offset, 0.0))
        self.acked.append(consumed.offset)

    def give_up(self, consumed: ConsumedRecord) -> None:
        self.given_up.append(consumed.offset)

    def expect(self, offset: int) -> None:
        self.expected = offset

    def committed(self) -> int | None:
        return None
