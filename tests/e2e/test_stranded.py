"""Transactions that Kafka left open, and takeovers that are interrupted at each of their requests.

One broker stops while many transactions are open in partitions that only it has. Then the
coordinator ends them and writes no marker. Each partition is taken over once the broker is back.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

import pytest
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.errors import KafkaError
from aiokafka.protocol.transaction import (
    AddPartitionsToTxnRequest,
    EndTxnRequest,
    InitProducerIdRequest,
)

from stream_app.dev.kafka import LocalKafka
from stream_app.dev.process import end
from stream_app.domain.model.errors import StateStoreError
from stream_app.domain.model.records import Record
from stream_app.kafka.bounded_client import BoundedClient
from stream_app.kafka.connection import KafkaConnection
from stream_app.kafka.connection import end as end_producer
from stream_app.kafka.protocol import DescribeProducers, DescribeTransactions
from stream_app.kafka.takeover.steps import timeout_with_verdict
from stream_app.kafka.transactional_state import StateStoreLimits, TransactionalState
from tests.e2e.broken_broker import to_lose
from tests.support.kafka import read_committed
from tests.support.proxy import ProxiedKafka

Ending = Literal["committed", "aborted", "open"]
Kind = Literal["lost", "unanswered", "cancelled"]
ENDINGS: Final[tuple[Ending, ...]] = ("open", "committed", "aborted")
KINDS: Final[tuple[Kind, ...]] = ("lost", "unanswered", "cancelled")
EACH: Final = 64
COUNTED: Final = (
    DescribeTransactions,
    DescribeProducers,
    InitProducerIdRequest,
    AddPartitionsToTxnRequest,
    EndTxnRequest,
)
LIMITS: Final = StateStoreLimits(take_over_s=200, transact_s=60)


class Partition(NamedTuple):
    """One partition of the topics, with its transactional id and the outcome of its last
    transaction.
    """

    broker: LocalKafka
    state: str
    events: str
    number: int
    ending: Ending

    @property
    def transactional_id(self) -> str:
        return f"{self.state}-{self.number}"

    def store(self) -> TransactionalState:
        connection = KafkaConnection(self.broker.bootstrap)
        own = (connection, self.transactional_id, self.state, self.number, LIMITS)
        return TransactionalState(*own, writes_to=[(self.events, self.number)])

    async def check(self, rows: dict[bytes, bytes]) -> None:
        """Check that the transaction has its outcome, and that the next ones do not change it."""
        before = [(b"lead", b"row")] if self.ending == "committed" else []
        assert rows == dict(before), self
        store = self.store()
        try:
            assert await store.take_over() == dict(before), self
            await store.transact([Record(self.events, b"lead", b"later")])
        finally:
            await store.close()
        seen = await read_committed(self.broker.bootstrap, self.events, self.number)
        assert seen == [*before, (b"lead", b"later")], self


class Interruptions:
    """Break takeovers at their n-th request to Kafka, counted over all attempts of one
    transactional id.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.requests: dict[str, list[str]] = {}
        self._at: dict[str, tuple[Kind, frozenset[int]]] = {}
        self._task: dict[str, asyncio.Task[dict[bytes, bytes]]] = {}
        real = BoundedClient.send
        interrupted = self

        async def send(self: BoundedClient, node: int, request: object, **how: Any) -> Any:
            name = str(self._client_id).removesuffix("-producer")
            if not isinstance(request, COUNTED) or name not in interrupted._at:
                return await real(self, node, request, **how)
            requests = interrupted.requests.setdefault(name, [])
            requests.append(type(request).__name__)
            kind, numbers = interrupted._at[name]
            breaks = len(requests) in numbers
            if breaks and kind == "lost":
                raise KafkaError("this request is lost")
            if breaks and kind == "cancelled":
                interrupted._task[name].cancel()
                # it is on its way all the same
                return await asyncio.shield(real(self, node, request, **how))
            answer = await real(self, node, request, **how)
            if breaks and kind == "unanswered":
                raise KafkaError("this answer is lost")
            return answer

        monkeypatch.setattr(BoundedClient, "send", send)

    async def take_over(
        self,
        partition: Partition,
        kind: Kind = "lost",
        at: Sequence[int] = (),
    ) -> dict[bytes, bytes]:
        """Take over with interruptions at these requests.

        Another process takes over after each cancelled attempt.
        """
        name = partition.transactional_id
        self._at[name] = kind, frozenset(at)
        stores: list[TransactionalState] = []
        try:
            while True:
                stores.append(partition.store())
                attempt = asyncio.create_task(stores[-1].take_over())
                self._task[name] = attempt
                await asyncio.wait({attempt})
                if not attempt.cancelled():
                    return attempt.result()
        finally:
            del self._at[name]
            await asyncio.gather(*(store.close() for store in stores))


@asynccontextmanager
async def stranded(
    broker: LocalKafka,
    namespace: str,
    directory: Path,
    per_ending: int,
) -> AsyncIterator[dict[Ending, list[Partition]]]:
    """Make this many partitions of each ending.

    "open": the owner is gone, and nothing was decided.
    """
    state = f"{namespace}state"
    events = f"{namespace}events"
    endings = [ending for ending in ENDINGS for _ in range(per_ending)]
    async with to_lose(broker, directory, state, events, partitions=len(endings)) as second:
        partitions = [
            Partition(broker, state, events, *numbered) for numbered in enumerate(endings)
        ]
        producers = list(await asyncio.gather(*map(begun, partitions)))
        await asyncio.to_thread(end, second._process, grace_s=20)
        for partition, producer in zip(partitions, producers, strict=True):
            if partition.ending == "committed":
                await producer.commit_transaction()
            elif partition.ending == "aborted":
                await producer.abort_transaction()
            await end_producer(producer, None, 1)
        await asyncio.to_thread(second.restart)
        yield {
            ending: [place for place in partitions if place.ending == ending] for ending in ENDINGS
        }


async def begun(partition: Partition) -> AIOKafkaProducer:
    """Return the partition's producer, in a transaction that has a record in each topic."""
    producer = AIOKafkaProducer(
        bootstrap_servers=partition.broker.bootstrap,
        transactional_id=partition.transactional_id,
        transaction_timeout_ms=500_000,  # longer than the test: Kafka itself aborts none
    )
    await producer.start()
    await producer.begin_transaction()
    for topic in (partition.state, partition.events):
        await producer.send_and_wait(topic, b"row", b"lead", partition=partition.number)
    return producer


@pytest.mark.long
@pytest.mark.timeout(600)
async def test_a_transaction_keeps_its_outcome_when_take_overs_are_interrupted_anywhere(
    broker: ProxiedKafka,
    namespace: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each request of a takeover is lost, or its answer is, or the takeover is cancelled while it
    is on its way.
    """
    interrupted = Interruptions(monkeypatch)
    async with stranded(broker, namespace, tmp_path / "second", EACH) as partitions:
        for ending, free in partitions.items():
            for whole in (free.pop(), free.pop()):  # the first one waits for the leaders
                await whole.check(await interrupted.take_over(whole))
                requests = interrupted.requests[whole.transactional_id]
            assert ("EndTxnRequest" in requests) == (ending != "open")
            plans = [(kind, [number]) for kind in KINDS for number in range(1, len(requests) + 1)]
            # Attempt n is broken at its request n: 1, 1 + 2, 1 + 2 + 3, ...
            plans += [
                (kind, [number * (number + 1) // 2 for number in range(1, 9)]) for kind in KINDS
            ]
            assert len(plans) <= len(free), f"{len(plans)} interruptions, {len(free)} partitions"
            running = [
                one_interruption(interrupted, partition, kind, at)
                for partition, (kind, at) in zip(free, plans, strict=False)
            ]
            await asyncio.gather(*running)


async def one_interruption(
    interrupted: Interruptions,
    partition: Partition,
    kind: Kind,
    at: Sequence[int],
) -> None:
    try:
        rows = await interrupted.take_over(partition, kind, at)
        await partition.check(rows)
    except BaseException as error:
        requests = interrupted.requests.get(partition.transactional_id)
        raise AssertionError(f"{partition.ending}, {kind} at {at}: {requests}") from error


@pytest.mark.long
@pytest.mark.timeout(200)
async def test_a_takeover_stops_until_the_operator_has_decided(
    broker: ProxiedKafka,
    namespace: str,
    tmp_path: Path,
) -> None:
    """Kafka's own tool does what the errors ask for."""
    tool = "org.apache.kafka.tools.TransactionsCommand"
    async with stranded(broker, namespace, tmp_path / "second", 1) as partitions:
        (unknown,) = partitions["committed"]
        (other,) = partitions["aborted"]
        foreign = AIOKafkaProducer(
            bootstrap_servers=broker.bootstrap,
            transactional_id=unknown.transactional_id,
        )
        await foreign.start()  # the verdict is gone
        await foreign.stop()
        store = unknown.store()
        lost = (
            f"{unknown.events}/1 from offset 0, {unknown.state}/1 from offset 0 and no longer knows"
        )
        for _ in range(2):
            with pytest.raises(StateStoreError, match=lost):
                await store.take_over()
        for topic in (unknown.state, unknown.events):
            where = ("--topic", topic, "--partition", "1", "--start-offset", "0")
            await asyncio.to_thread(broker.run_tool, tool, "abort", *where)
        assert await store.take_over() == {}
        await store.close()

        repairing = AIOKafkaProducer(
            bootstrap_servers=broker.bootstrap,
            transactional_id=other.transactional_id,
            transaction_timeout_ms=timeout_with_verdict(1, committed=True),
        )
        await repairing.start()
        await repairing.begin_transaction()
        repairing._txn_manager.maybe_add_partition_to_txn(
            TopicPartition(other.events, other.number),
        )
        await repairing.abort_transaction()
        await repairing.stop()
        store = other.store()
        with pytest.raises(StateStoreError, match="Kafka aborted the repair"):
            await store.take_over()
        forced = ("forceTerminateTransaction", "--transactionalId", other.transactional_id)
        await asyncio.to_thread(broker.run_tool, tool, *forced)
        with pytest.raises(
            StateStoreError,
            match=f"open in {other.state}/{other.number} from offset 0",
        ):
            await store.take_over()
        await store.close()
