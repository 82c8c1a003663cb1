"""A take-over of a store, broken at each of its requests: the transaction before it stays what it
was.
"""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from itertools import combinations, product
from random import Random
from typing import Final, Literal, TypeVar

import pytest

from stream_app.domain.model.errors import BrokerUnavailable, StateStoreError
from stream_app.domain.model.records import Record
from stream_app.kafka.takeover.steps import timeout_with_verdict
from tests.simulation.client import MemoryStateStore, NoAnswer, Repair
from tests.simulation.kafka import (
    ConcurrentTransactions,
    InvalidState,
    MemoryKafka,
    NoLeader,
    ProducerFenced,
)
from tests.simulation.parts import each_part, of_part
from tests.support.partition.virtual import run, virtual_time

T = TypeVar("T")
Kind = Literal["lost", "unanswered", "half", "late by 1", "late by 2", "late by 3"]
KINDS: Final[tuple[Kind, ...]] = (
    "lost",
    "unanswered",
    "half",
    "late by 1",
    "late by 2",
    "late by 3",
)
Breaks = tuple[tuple[int, Kind], ...]
ENDINGS: Final = ("committed", "aborted", "open")
STRANDED: Final = (("rows",), ("events",), ("rows", "events"))
REQUESTS: Final = 12
ID: Final = "rows-0"


class BrokenLink:
    """Breaks requests by their number.

    One that is late arrives when so many others have; no request waits for it.
    """

    def __init__(self, breaks: Breaks) -> None:
        self.asked = 0
        self._breaks = dict(breaks)
        self._late: list[tuple[int, Callable[[], object]]] = []

    async def ask(self, what: str, request: Callable[[], T]) -> T:
        self.asked += 1
        self._deliver()
        await asyncio.sleep(0)
        kind = self._breaks.get(self.asked)
        if kind is None:
            return request()
        if kind == "unanswered":
            request()
        elif kind == "half" and isinstance(request, Repair):
            request.half()
        elif kind.startswith("late"):
            self._late.append((self.asked + int(kind[-1]), request))
            raise asyncio.CancelledError  # its take-over is over, and another one begins
        raise NoAnswer(what)

    def _deliver(self) -> None:
        due = [request for at, request in self._late if at <= self.asked]
        self._late = [(at, request) for at, request in self._late if at > self.asked]
        for request in due:
            with suppress(ConcurrentTransactions, InvalidState, NoLeader, ProducerFenced):
                request()


class TakeOverCase:
    """A partition whose last owner is gone, with what its last transaction came to."""

    def __init__(self, ending: str, stranded: Sequence[str], missed_again: int = 0) -> None:
        self.betrayed: list[str] = []
        kafka = MemoryKafka()
        self.kafka = kafka
        kafka.on_betrayal = self.betrayed.append
        self.before = [b"row"] if ending == "committed" else []
        epoch = kafka.init_producer(ID)
        kafka.send(ID, epoch, 0, [Record("rows", b"a", b"row"), Record("events", b"a", b"row")])
        self._stranded = {(topic, 0) for topic in stranded}
        if ending != "open":
            kafka.leaderless = set(self._stranded)
            kafka.end(ID, epoch, ending == "committed")
            kafka.leaderless = set()
        self._missed_again = missed_again
        kafka.on_end = self._miss

    def _miss(self, _: str) -> None:
        """The markers of so many more transactions are missed."""
        self._missed_again -= 1
        if self._missed_again >= 0:
            self.kafka.leaderless = set(self._stranded)
            asyncio.get_running_loop().call_soon(self.kafka.leaderless.clear)

    def store(self, link: BrokenLink | None = None) -> MemoryStateStore:
        return MemoryStateStore(self.kafka, ID, "rows", 0, link)

    def seen(self, topic: str) -> list[bytes | None]:
        return [consumed.value for consumed in self.kafka.log(topic, 0).committed()]

    async def taken_over(self, breaks: Breaks = ()) -> int:
        """By one process after the other, until one succeeds.

        Returns how many requests that took.
        """
        link = BrokenLink(breaks)
        while True:
            try:
                rows = await self.store(link).take_over()
            except (BrokerUnavailable, asyncio.CancelledError):
                continue
            assert list(rows.values()) == self.before
            return link.asked

    async def check(self) -> None:
        owner = self.store()
        await owner.take_over()
        await owner.transact([Record("rows", b"b", b"later"), Record("events", b"b", b"later")])
        assert self.seen("rows") == self.seen("events") == [*self.before, b"later"]
        assert self.betrayed == []


def plans() -> Iterator[tuple[str, Sequence[str], int, Breaks]]:
    """Each request broken once; any two of them, where all is stranded; three that are drawn."""
    everything = list(product(ENDINGS, STRANDED, range(3)))
    for (ending, stranded, missed), number, kind in product(
        everything,
        range(1, REQUESTS + 1),
        KINDS,
    ):
        yield ending, stranded, missed, ((number, kind),)
    pairs = list(combinations(range(1, REQUESTS + 1), 2))
    for ending, (one, two), first, second in product(ENDINGS, pairs, KINDS, KINDS):
        yield ending, STRANDED[-1], 0, ((one, first), (two, second))
    rng = Random(13)
    for _ in range(5_000):
        numbers = sorted(rng.sample(range(1, 2 * REQUESTS), 3))
        yield *rng.choice(everything), tuple((number, rng.choice(KINDS)) for number in numbers)


def may_refuse(ending: str, missed: int, breaks: Breaks) -> bool:
    """Two fences meet an ongoing transaction, and the marker of its abort is missed: it is unknown
    which ended it.
    """
    return ending == "open" and missed > 0 and any(kind.startswith("late") for _, kind in breaks)


async def refused(ending: str, stranded: Sequence[str], missed: int, breaks: Breaks) -> bool:
    """Whether a take-over that breaks so is refused. Else all is as it was."""
    case = TakeOverCase(ending, stranded, missed)
    try:
        await case.taken_over(breaks)
    except StateStoreError:
        assert may_refuse(ending, missed, breaks)
        assert case.betrayed == []
        return True
    await case.check()
    return False


@each_part
def test_a_transaction_keeps_its_outcome_when_take_overs_break_anywhere(part: str) -> None:
    whole = list(plans())
    assert len(whole) > 12_000
    tried = of_part(part, whole)
    refusals = 0
    for plan in tried:
        try:
            refusals += run(refused(*plan))
        except (AssertionError, StateStoreError) as error:
            raise AssertionError(plan) from error
    assert refusals < len(tried) / 50


@pytest.mark.parametrize("ending", ENDINGS)
def test_how_many_requests_an_undisturbed_take_over_takes(ending: str) -> None:
    """A look, the fence, whether anything is open, the rows; and twice a look and a step more for
    the repair.
    """
    asked = run(TakeOverCase(ending, STRANDED[-1]).taken_over())
    assert asked == {"committed": 8, "aborted": 8, "open": 6}[ending]
    assert asked < REQUESTS


def test_a_look_of_before_a_freeze_is_not_acted_upon() -> None:
    """A successor came meanwhile, and Kafka missed the end of its last transaction: a fence would
    hide how it ended.
    """

    class Frozen(BrokenLink):
        async def ask(self, what: str, request: Callable[[], T]) -> T:
            answer = await super().ask(what, request)
            if self.asked == 1:
                await asyncio.sleep(20)
            return answer

    async def main() -> None:
        case = TakeOverCase("committed", ())
        frozen = asyncio.create_task(case.store(Frozen(())).take_over())
        await asyncio.sleep(10)
        successor = case.store()
        await successor.take_over()
        assert successor._epoch is not None
        case.kafka.send(ID, successor._epoch, 0, [Record("rows", b"b", b"2")])
        case.kafka.leaderless = {("rows", 0)}
        case.kafka.end(ID, successor._epoch, True)
        case.kafka.leaderless = set()
        assert await frozen == {b"a": b"row", b"b": b"2"}
        assert case.betrayed == []

    run(main())


@virtual_time
async def test_a_fence_that_arrives_long_after_its_look_carries_no_verdict() -> None:
    """It says that the transaction was committed. A later one was aborted, and is stranded, too."""
    case = TakeOverCase("committed", STRANDED[-1])
    late = timeout_with_verdict(case.kafka.describe(ID).epoch + 1, committed=True)
    await case.taken_over()
    epoch = case.kafka.describe(ID).epoch
    case.kafka.send(ID, epoch, 0, [Record("rows", b"b", b"never")])
    case.kafka.leaderless = {("rows", 0)}
    case.kafka.end(ID, epoch, False)
    case.kafka.leaderless = set()
    case.kafka.init_producer(ID, late)
    with pytest.raises(StateStoreError, match="no longer knows whether it was committed"):
        await case.store().take_over()
    assert case.betrayed == []


@virtual_time
async def test_a_commit_that_another_process_aborts_during_its_repair_is_reported() -> None:
    """Kafka's time-out, or another program's fence, between the two requests of a repair whose
    process is gone.
    """
    case = TakeOverCase("committed", STRANDED[-1])
    with pytest.raises(BrokerUnavailable):
        await case.store(BrokenLink(((4, "half"),))).take_over()
    assert case.kafka.describe(ID).state == "Ongoing"
    with pytest.raises(ConcurrentTransactions):
        case.kafka.init_producer(ID)
    assert len(case.betrayed) == 2
    for _ in range(2):
        with pytest.raises(
            StateStoreError,
            match="Kafka aborted the repair of a transaction that was committed",
        ):
            await case.store().take_over()


@virtual_time
async def test_an_unknown_transactional_id_is_refused() -> None:
    """A program that is not ours fenced the id: whether the transaction was committed is lost."""
    case = TakeOverCase("committed", STRANDED[-1])
    case.kafka.init_producer(ID)
    for _ in range(2):
        with pytest.raises(StateStoreError, match="no longer knows whether it was committed"):
            await case.store().take_over()
