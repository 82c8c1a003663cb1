"""What a take-over looks at again, because an earlier owner may still write and a broker that was
frozen does not know its successor.
"""

import asyncio
import math
from collections.abc import Collection
from types import SimpleNamespace
from typing import Any
from unittest.mock import AsyncMock

import pytest
from aiokafka import TopicPartition
from aiokafka.errors import (
    CoordinatorNotAvailableError,
    NotLeaderForPartitionError,
    UnknownTopicOrPartitionError,
)
from aiokafka.protocol.transaction import EndTxnRequest

from stream_app.domain.model.errors import Aborted, Fenced
from stream_app.domain.model.records import Record
from stream_app.kafka import transactional_state
from stream_app.kafka.connection import KafkaConnection
from stream_app.kafka.takeover.refusals import Refusals
from stream_app.kafka.takeover.requests import KafkaTransactions
from stream_app.kafka.takeover.steps import LastTransaction
from stream_app.kafka.takeover.view import NewestLeaders, PartitionProducers
from stream_app.kafka.transactional_state import TransactionalState
from tests.support.partition.virtual import virtual_time

ROWS = TopicPartition("state", 3)
EVENTS = TopicPartition("leads.status", 3)
OURS = 17
"""The producer id of the earlier owner."""
DONE = LastTransaction("CompleteCommit", OURS, 7, 60_000, 1_000)
ONGOING = LastTransaction("Ongoing", OURS, 7, 60_000, 2_000)
ABORTED = LastTransaction("CompleteAbort", OURS, 7, 60_000, 2_000)


class Cluster:
    """A coordinator with these answers in turn, leaders that see these open transactions in turn,
    and who leads by the newest metadata.
    """

    def __init__(
        self,
        lasts: list[LastTransaction],
        seen: list[dict[TopicPartition, PartitionProducers]],
        newest: dict[TopicPartition, int],
    ) -> None:
        self.lasts = lasts
        self.seen = seen
        self.newest = newest

    async def send(self, node: int, request: object, group: object) -> Any:
        last = self.lasts.pop(0)
        answer: tuple[object, ...] = (
            0,
            "state-3",
            last.state,
            last.timeout_ms,
            last.started_ms,
            last.producer_id,
            last.epoch,
            [],
        )
        return SimpleNamespace(transactions=[answer])

    async def producers(
        self,
        places: Collection[TopicPartition],
    ) -> dict[TopicPartition, PartitionProducers]:
        return self.seen.pop(0)

    async def leaders(self, topics: Collection[str]) -> NewestLeaders:
        assert set(topics) == {place.topic for place in self.newest}
        return NewestLeaders(self.newest, {})

    def transactions(self) -> KafkaTransactions:
        """Look at this cluster."""
        view: Any = self
        return KafkaTransactions(
            self,
            0,
            "state-3",
            lambda: [ROWS, EVENTS],
            ROWS,
            view,
            Refusals(),
        )


def open_at(offset: int | None, node: int = 0) -> dict[TopicPartition, PartitionProducers]:
    """The leaders answer that our producer has a transaction open in the rows since this offset."""
    rows = {} if offset is None else {OURS: offset, 99: 1}
    return {ROWS: PartitionProducers(node, rows), EVENTS: PartitionProducers(1, {99: 1})}


async def test_what_is_open_after_two_equal_looks_at_the_last_transaction_is_stranded() -> None:
    cluster = Cluster([DONE, DONE], [open_at(5)], {ROWS: 0, EVENTS: 1})
    assert await cluster.transactions().look() == (DONE, {tuple(ROWS): 5})
    assert cluster.lasts == []


async def test_a_transaction_that_began_behind_the_first_look_is_not_stranded() -> None:
    """An earlier owner that is not fenced yet began it. It is not what the look before it saw
    committed, and a repair by that verdict would commit half of it.
    """
    cluster = Cluster(
        [DONE, ONGOING, ABORTED, ABORTED],
        [open_at(5), open_at(5), open_at(6)],
        {ROWS: 0, EVENTS: 1},
    )
    assert await cluster.transactions().look() == (ABORTED, {tuple(ROWS): 6})
    assert cluster.lasts == []
    assert cluster.seen == []


async def test_where_nothing_is_open_one_look_is_enough() -> None:
    cluster = Cluster([DONE], [open_at(None)], {ROWS: 0, EVENTS: 1})
    assert await cluster.transactions().look() == (DONE, {})


@pytest.mark.parametrize("open_from", [None, 5])
async def test_a_look_that_an_earlier_leader_answered_is_refused(open_from: int | None) -> None:
    """Its log ends before newer transactions, and says nothing about them."""
    cluster = Cluster([DONE, DONE], [open_at(open_from, node=2)], {ROWS: 0, EVENTS: 1})
    with pytest.raises(NotLeaderForPartitionError, match="state/3 was read from broker 2"):
        await cluster.transactions().look()


class Moving(Cluster):
    """Another broker becomes the leader of the rows while the one before it answers."""

    async def producers(
        self,
        places: Collection[TopicPartition],
    ) -> dict[TopicPartition, PartitionProducers]:
        answers = await super().producers(places)
        self.newest = self.newest | {ROWS: 5}
        return answers


async def test_a_look_that_was_answered_while_the_leader_changed_is_refused() -> None:
    cluster = Moving([DONE, DONE], [open_at(5)], {ROWS: 0, EVENTS: 1})
    with pytest.raises(NotLeaderForPartitionError, match="state/3 was read from broker 0"):
        await cluster.transactions().look()


class Frozen(TransactionalState):
    """Reads the rows from these brokers in turn, while these describe their topic. 0 leads it."""

    def __init__(self, brokers: list[int], describing: list[list[int]]) -> None:
        self.brokers = brokers
        self._describing = describing
        view: Any = self
        super().__init__(KafkaConnection("127.0.0.1:9"), "state-3", "state", 3, view=view)

    async def _fence(self) -> None:
        pass

    async def span(self, place: TopicPartition) -> tuple[int, int, int]:
        return 0, 3, self.brokers[0]

    async def _read(self) -> tuple[dict[bytes, bytes], int]:
        node = self.brokers.pop(0)
        return {b"read from": str(node).encode()}, node

    async def leaders(self, topics: Collection[str]) -> NewestLeaders:
        answered = self._describing.pop(0)
        topic = {"error_code": 0, "topic": "state", "partitions": []}
        return NewestLeaders({ROWS: 0}, {node: [topic] for node in answered})


@virtual_time
async def test_rows_of_an_earlier_leader_are_read_again() -> None:
    state = Frozen([2, 0], [[0, 2], [0, 2]])
    assert await state.take_over(math.inf) == {b"read from": b"0"}
    assert state.brokers == []


@virtual_time
async def test_rows_of_a_broker_that_does_not_describe_their_topic_are_read_again() -> None:
    """It answered the read, and hangs now."""
    state = Frozen([0, 0], [[2], [0]])
    assert await state.take_over(math.inf) == {b"read from": b"0"}
    assert state.brokers == []


async def test_a_late_answer_to_an_earlier_client_is_no_refusal_of_this_one() -> None:
    answer = asyncio.get_running_loop().create_future()

    async def send(node_id: int, request: object) -> Any:
        return await answer

    refusals = Refusals()
    earlier = SimpleNamespace(send=send)
    refusals.watch(earlier)
    asked = asyncio.create_task(earlier.send(0, EndTxnRequest("state-3", OURS, 7, True)))
    await asyncio.sleep(0)
    cluster = SimpleNamespace(leader_for_partition=lambda place: 0)
    refusals.watch(SimpleNamespace(send=send, cluster=cluster))
    answer.set_result(SimpleNamespace(error_code=CoordinatorNotAvailableError.errno))
    await asked
    assert refusals.text() == ""


@pytest.mark.parametrize(("stood_still_s", "error"), [(0.0, Aborted), (100.0, Fenced)])
async def test_after_a_freeze_a_failed_transaction_is_taken_for_fenced(
    monkeypatch: pytest.MonkeyPatch,
    stood_still_s: float,
    error: type[Exception],
) -> None:
    """No answer of Kafka shows that the group has given the partition away meanwhile."""
    loop = asyncio.get_running_loop()
    now = loop.time

    async def commit(*_: object) -> None:
        monkeypatch.setattr(loop, "time", lambda: now() + stood_still_s)
        raise CoordinatorNotAvailableError

    async def end(*_: object) -> None:
        pass

    monkeypatch.setattr(transactional_state, "commit", commit)
    monkeypatch.setattr(transactional_state, "end", end)
    producer = AsyncMock(
        create_batch=lambda: SimpleNamespace(append=lambda **_: True),
        _sender=SimpleNamespace(sender_task=None),
    )
    store = TransactionalState(KafkaConnection("127.0.0.1:9"), "state-3", "state", 3)
    store._producer = producer
    cluster = SimpleNamespace(leader_for_partition=lambda place: 0)
    store._refusals.watch(SimpleNamespace(send=None, cluster=cluster))
    with pytest.raises(error):
        await store.transact([Record("state", b"a", b"1")])
    producer.abort_transaction.assert_awaited_once_with()


async def test_a_transaction_to_a_missing_topic_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where `request_s` ends before `transact_s`, aiokafka says only that a topic is unknown."""

    async def end(*_: object) -> None:
        pass

    monkeypatch.setattr(transactional_state, "end", end)
    taken = asyncio.get_running_loop().create_future()
    producer = AsyncMock(
        create_batch=lambda: SimpleNamespace(append=lambda **_: True),
        _sender=SimpleNamespace(sender_task=None),
    )
    producer.send_batch.side_effect = [taken, UnknownTopicOrPartitionError()]
    store = TransactionalState(
        KafkaConnection("127.0.0.1:9"),
        "state-3",
        "state",
        3,
        writes_to=[("leads.status", 1)],
    )
    store._producer = producer
    cluster = SimpleNamespace(leader_for_partition=lambda place: 0)
    store._refusals.watch(SimpleNamespace(send=None, cluster=cluster))
    with pytest.raises(Aborted, match=r"leads.status/1 has no leader: look at whether it exists"):
        await store.transact(
            [Record("state", b"a", b"1"), Record("leads.status", b"a", b"1", partition=1)],
        )
    producer.abort_transaction.assert_awaited_once_with()
    producer.commit_transaction.assert_not_awaited()
