"""What a process asks of the cluster: requests that are shared, answers that are kept, leaders and
topics.
"""

import asyncio
from collections.abc import Collection
from contextlib import nullcontext, suppress
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka import TopicPartition
from aiokafka.errors import (
    KafkaConnectionError,
    NodeNotReadyError,
    NotLeaderForPartitionError,
)

from stream_app.domain.model.errors import BrokerUnavailable, KafkaRefused
from stream_app.kafka.connection import Background, KafkaConnection
from stream_app.kafka.takeover import view as leaders
from stream_app.kafka.takeover.view import Batched, newest_leaders
from tests.support.pace import BUSY


class Counted:
    """A request that takes a second, and what each one was about."""

    def __init__(self) -> None:
        self.about: list[list[int]] = []
        self.answer = asyncio.Event()
        self.fails = False

    async def __call__(self, about: Collection[int]) -> int:
        self.about.append(sorted(about))
        number = len(self.about)
        await self.answer.wait()
        if self.fails:
            raise OSError(f"request {number}")
        return number


async def _asks(batched: Batched[int, int], *about: int) -> asyncio.Task[int]:
    task = asyncio.create_task(batched(about))
    for _ in range(5):
        await asyncio.sleep(0)
    return task


async def test_those_that_ask_at_the_same_time_share_a_request() -> None:
    asked = Counted()
    batched = Batched(asked)
    asked.answer.set()
    assert await asyncio.gather(*(batched([number, 0]) for number in range(64))) == [1] * 64
    assert asked.about == [list(range(64))]


async def test_an_answer_is_of_a_request_that_began_after_the_question() -> None:
    asked = Counted()
    batched = Batched(asked)
    first = await _asks(batched, 1)
    late = await _asks(batched, 1)
    later = await _asks(batched, 2)
    assert asked.about == [[1]]
    asked.answer.set()
    assert [await task for task in (first, late, later)] == [1, 2, 2]
    assert asked.about == [[1], [1, 2]]


async def test_a_question_of_any_turn_is_in_the_request_that_answers_it() -> None:
    requests: list[set[int]] = []

    async def ask(about: Collection[int]) -> int:
        requests.append(set(about))
        number = len(requests) - 1
        await asyncio.sleep(0)
        return number

    batched = Batched(ask)

    async def question(turn: int) -> None:
        for _ in range(turn):
            await asyncio.sleep(0)
        begun = len(requests)
        answer = await batched([turn])
        assert answer >= begun
        assert turn in requests[answer]

    await asyncio.gather(*map(question, range(20)))
    assert len(requests) > 1


async def test_a_failed_request_fails_for_those_that_shared_it_and_for_no_later_one() -> None:
    asked = Counted()
    batched = Batched(asked)
    first = await _asks(batched, 1)
    late = await _asks(batched, 2)
    asked.fails = True
    asked.answer.set()
    for task, number in ((first, 1), (late, 2)):
        with pytest.raises(OSError, match=f"request {number}"):
            await task
    asked.fails = False
    assert await batched([3]) == 3


async def test_a_lane_without_requests_takes_no_share_from_the_others() -> None:
    asked = Counted()
    batched = Batched(asked)
    impatient = await _asks(batched, 1)
    patient = await _asks(batched, 2)
    impatient.cancel()
    with suppress(asyncio.CancelledError):
        await impatient
    asked.answer.set()
    assert await patient == 2


@pytest.mark.parametrize(
    "closed",
    [asyncio.CancelledError(), RuntimeError("the handler is closed")],
)
async def test_a_connection_that_closes_during_a_request_cancels_no_task(
    closed: BaseException,
) -> None:
    async def ask(_: Collection[int]) -> int:
        raise closed

    with pytest.raises(KafkaConnectionError, match="the connection was closed"):
        await Batched(ask)([1])


async def test_a_request_that_hangs_does_not_hold_up_later_questions() -> None:
    hangs = asyncio.Event()
    asked: list[set[int]] = []

    async def ask(about: Collection[int]) -> int:
        asked.append(set(about))
        if len(asked) == 1:
            await hangs.wait()
        return len(asked)

    batched = Batched(ask, patience_s=0.01)
    first = await _asks(batched, 1)
    await asyncio.sleep(0)
    async with asyncio.timeout(5 * BUSY):
        assert await batched([2]) == 2
    assert not first.done()
    assert asked == [{1}, {2}]
    hangs.set()
    assert await first == 2


class CountedQuestions(Background[int]):
    """Counts the questions.

    `fails`: what the next ones raise; `waits`: they take until it is set.
    """

    def __init__(self, fresh_s: float) -> None:
        super().__init__(self._count, fresh_s)
        self.times = 0
        self.fails: Exception | None = None
        self.waits: asyncio.Event | None = None

    async def _count(self) -> int:
        self.times += 1
        if self.waits is not None:
            await self.waits.wait()
        if self.fails is not None:
            raise self.fails
        return self.times


async def test_an_answer_is_shared_until_it_is_old() -> None:
    kept = CountedQuestions(3_600)
    old = CountedQuestions(0)
    assert [await kept.look(60) for _ in range(3)] == [1, 1, 1]
    assert await asyncio.gather(*(old.look(60) for _ in range(3))) == [1, 1, 1], (
        "asked at the same time"
    )
    assert await old.look(60) == 2


async def test_who_does_not_wait_for_an_answer_sees_the_last_one() -> None:
    asked = CountedQuestions(0)
    assert await asked.look(60) == 1
    asked.waits = asyncio.Event()
    assert await asked.look(0) == 1
    asked.waits.set()
    assert await asked.look(60) == 2
    asked.waits.clear()
    await asked.look(0)
    await asked.close()
    assert asked.times == 3


@pytest.mark.parametrize(
    "error",
    [BrokerUnavailable("away"), KafkaRefused("no right"), TimeoutError()],
)
async def test_nothing_is_known_when_kafka_does_not_answer(error: Exception) -> None:
    asked = CountedQuestions(0)
    assert await asked.look(60) == 1
    asked.fails = error
    assert await asked.look(60) is None
    asked.fails = None
    assert await asked.look(60) == 3


PLACE = TopicPartition("rows", 1)
GONE = "gone"
HANGS = "hangs"


class Brokers:
    """A client of brokers, each with the epoch and the leader that it knows of; "gone" or "hangs"
    for one that does not answer, and no epoch for old ones.
    """

    def __init__(self, *known: tuple[int | None, int] | str) -> None:
        self._known = known
        self.cluster = SimpleNamespace(
            brokers=lambda: [SimpleNamespace(nodeId=node) for node in range(len(known))],
        )

    async def send(self, node: int, _request: Any) -> Any:
        known = self._known[node]
        if known == HANGS:
            await asyncio.Event().wait()
        if isinstance(known, str):
            raise NodeNotReadyError
        epoch, leader = known
        other = {"partition": 0, "leader": 7, "leader_epoch": 99}
        partition = {"partition": 1, "leader": leader} | (
            {} if epoch is None else {"leader_epoch": epoch}
        )
        topics = [
            {"topic": "rows", "partitions": [other, partition]},
            {"topic": "others", "partitions": [other]},
        ]
        return SimpleNamespace(to_object=lambda: {"topics": topics})


@pytest.mark.parametrize(
    ("known", "valid"),
    [
        ([(5, 0), (5, 0), (5, 0)], True),
        ([(5, 0), (4, 2), (4, 2)], True),  # the others do not know of it yet
        ([(5, 0), GONE, HANGS], True),
        ([(None, 2), (None, 2), (None, 2)], True),  # before Kafka 2.8
        ([GONE, GONE, GONE], True),
        ([(4, 0), (5, 2), (5, 2)], False),
        ([(4, 0), (5, 2), HANGS], False),
        ([HANGS, GONE, (5, 2)], False),
    ],
)
async def test_a_read_from_an_earlier_leader_is_not_valid(
    monkeypatch: pytest.MonkeyPatch,
    known: list[Any],
    valid: bool,
) -> None:
    monkeypatch.setattr(leaders, "_WITHIN_S", 0.05)
    with (
        nullcontext()
        if valid
        else pytest.raises(NotLeaderForPartitionError, match="rows/1 was read from broker 0")
    ):
        (await newest_leaders(Brokers(*known), ["rows"])).require({PLACE: 0})


async def test_every_read_must_be_from_the_last_leader() -> None:
    brokers = Brokers((4, 0), (5, 0), (5, 0))
    other = TopicPartition("others", 0)
    newest = await newest_leaders(brokers, ["rows", "others"])
    newest.require({PLACE: 0, other: 7})
    with pytest.raises(NotLeaderForPartitionError, match="others/0 was read from broker 0"):
        newest.require({PLACE: 0, other: 0})


class Client:
    """A client of the view. Connecting and closing it take a turn of the loop each."""

    def __init__(self) -> None:
        self.is_closing = False
        self.is_closed = asyncio.Event()

    async def bootstrap(self) -> None:
        await asyncio.sleep(0)

    async def close(self) -> None:
        self.is_closing = True
        await self.is_closed.wait()


async def test_those_that_connect_at_the_same_time_share_a_client(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: list[Client] = []

    def client(**_: object) -> Client:
        made.append(Client())
        return made[-1]

    monkeypatch.setattr(leaders, "kafka_client", client)
    view = leaders.ClusterView(KafkaConnection("127.0.0.1:9"))
    one, other = await asyncio.gather(view._connected(), view._connected())
    assert one is other
    assert len(made) == 1


async def test_a_question_that_comes_while_the_client_closes_gets_another_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(leaders, "kafka_client", lambda **_: Client())
    monkeypatch.setattr(leaders, "forget_dead", lambda _: None)
    view = leaders.ClusterView(KafkaConnection("127.0.0.1:9"))
    first: Any = await view._connected()
    closing = asyncio.create_task(view.close())
    await asyncio.sleep(0)
    assert first.is_closing
    second: Any = await view._connected()
    assert not second.is_closing
    first.is_closed.set()
    await closing
    assert await view._connected() is second


async def test_the_beginning_of_a_partition_is_asked_for_before_its_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Retention may delete records in between, and the beginning must not be beyond the end."""
    begin = 0

    async def offsets(
        client: object,
        node: int,
        places: Collection[TopicPartition],
        when: int,
    ) -> dict[TopicPartition, tuple[int, int]]:
        nonlocal begin
        seen = begin if when == leaders._EARLIEST else 10
        begin = 20  # everything is deleted, and more comes
        return dict.fromkeys(places, (0, seen))

    async def ask_leaders(client: object, places: Collection[TopicPartition], ask: Any) -> Any:
        answers = await ask(0, list(places))
        return {place: span for place, _, span in answers}

    monkeypatch.setattr(leaders, "kafka_client", lambda **_: Client())
    monkeypatch.setattr(leaders, "_offsets", offsets)
    monkeypatch.setattr(leaders, "_ask_leaders", ask_leaders)
    view = leaders.ClusterView(KafkaConnection("127.0.0.1:9"))
    view._topics = {PLACE.topic}
    assert await view._ask_spans([PLACE]) == {PLACE: (0, 10, 0)}
