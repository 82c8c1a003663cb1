"""Faust apps in this process on real Kafka: what handlers and owners see, and what is committed."""

import asyncio
import functools
from collections import Counter
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.protocol.fetch import FetchRequest

from stream_app.dev.kafka import Broker
from stream_app.domain.model.errors import BrokerUnavailable
from stream_app.domain.model.records import ConsumedRecord
from stream_app.faust_app.run import (
    assigned,
    membership,
    run_app,
    unreadable,
    unreadable_partitions,
)
from stream_app.faust_app.stream import Generations, LostRecords, PartitionStream
from stream_app.kafka import consumer as consumer_module
from stream_app.kafka.bounded_client import BoundedClient
from tests.support.faust_bench import PARTITIONS, FaustBench, Owner, Recorder, make_bench, running
from tests.support.kafka import publish, publish_transactions, topic_names, until
from tests.support.pace import BUSY, slowness
from tests.support.tampering import Damage, bad_checksum, tampered


@pytest.fixture
async def bench(kafka: Broker, namespace: str) -> FaustBench:
    return await make_bench(kafka, namespace)


async def test_events_arrive_unchanged_and_a_restart_continues_after_them(
    bench: FaustBench,
) -> None:
    async with AIOKafkaProducer(bootstrap_servers=bench.bootstrap) as producer:
        headers = [("trace", b"1"), ("trace", b"2"), ("none", None)]
        await producer.send_and_wait(
            bench.leads,
            b"\xff\xfe",
            b"key",
            2,
            1_700_000_000_123,
            headers,
        )
        await producer.send_and_wait(bench.leads, None, b"tombstone", 2)
        await producer.send_and_wait(bench.leads, b"", None, 2)
    first = Recorder()
    async with running(bench.app({bench.leads: first})):
        await until(lambda: len(first.consumed) == 3)
    assert first.consumed[0] == ConsumedRecord(
        bench.leads,
        2,
        0,
        b"key",
        b"\xff\xfe",
        (("trace", b"1"), ("trace", b"2"), ("none", b"")),
        1_700_000_000_123,
    )
    assert [(consumed.key, consumed.value) for consumed in first.consumed[1:]] == [
        (b"tombstone", None),
        (None, b""),
    ]
    await publish(bench.bootstrap, bench.leads, [b"next"])
    second = Recorder()
    async with running(bench.app({bench.leads: second})):
        await until(lambda: second.consumed)
    assert second.values == [b"next"]


class HoldsOne(Recorder):
    """Finishes all events but `held`, in any order. That one waits until it is suspended."""

    def __init__(self, held: bytes) -> None:
        super().__init__()
        self.held = held
        self.tasks: set[asyncio.Task[None]] = set()

    async def work(self, stream: PartitionStream, consumed: ConsumedRecord) -> None:
        task = asyncio.create_task(self.finish(stream, consumed))
        self.tasks.add(task)

    async def finish(self, stream: PartitionStream, consumed: ConsumedRecord) -> None:
        if consumed.value == self.held:
            await stream.suspended.wait()
            stream.give_up(consumed)
        else:
            await stream.ack(consumed)


async def test_an_abandoned_event_is_never_committed_and_comes_again(bench: FaustBench) -> None:
    """Stock Faust commits past an event in flight at the committed offset, and before the first
    commit.
    """
    await publish(bench.bootstrap, bench.leads, [b"%d" % number for number in range(20)])
    first = HoldsOne(held=b"0")
    async with running(bench.app({bench.leads: first})) as app:
        await until(lambda: len(first.consumed) == 20)
        await app.consumer.commit()
        assert await bench.committed() == {}
    second = HoldsOne(held=b"7")
    async with running(bench.app({bench.leads: second})) as app:
        await until(lambda: len(second.consumed) == 20)
        await until(lambda: second.streams[0].committed() == 7)
        await app.consumer.commit()
    assert await bench.committed() == {(bench.leads, 0): 7}
    third = Recorder()
    async with running(bench.app({bench.leads: third})):
        await until(lambda: len(third.consumed) == 13)
    assert third.values[0] == b"7"
    assert await bench.committed() == {(bench.leads, 0): 20}


async def test_the_owner_takes_over_first_and_the_topics_of_a_partition_move_together(
    bench: FaustBench,
    namespace: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Three apps join and one leaves: a partition has the same owner in all topics and in the
    state.
    """
    before = await topic_names(bench.bootstrap, namespace)
    names = [bench.leads, bench.bulk]
    owners = [Owner() for _ in range(3)]
    handlers = [Recorder(owner) for owner in owners]
    apps = [
        bench.app(dict.fromkeys(names, handler), owner)
        for handler, owner in zip(handlers, owners, strict=True)
    ]

    def settled(*members: int) -> bool:
        owned = [partition for member in members for partition in owners[member].owned]
        return sorted(owned) == list(range(PARTITIONS)) and all(
            owners[member].owned for member in members
        )

    async def check(number: int, *members: int) -> None:
        await until(lambda: settled(*members))
        for handler in handlers:
            handler.consumed.clear()
        for name in names:
            await publish(bench.bootstrap, name, [b"%d" % number] * PARTITIONS, PARTITIONS)
        await until(lambda: sum(len(handler.consumed) for handler in handlers) >= 2 * PARTITIONS)
        seen = Counter(
            (consumed.topic, consumed.partition)
            for handler in handlers
            for consumed in handler.consumed
        )
        assert seen == Counter(
            {(name, partition): 1 for name in names for partition in range(PARTITIONS)},
        )
        for member in members:
            mine = apps[member].consumer.assignment()
            assert {tuple(tp) for tp in mine} == {
                (name, partition)
                for name in (*names, bench.state)
                for partition in owners[member].owned
            }

    async with running(apps[0]):
        await check(0, 0)
        async with running(apps[1]):
            await check(1, 0, 1)
            async with running(apps[2]):
                await check(2, 0, 1, 2)
        await check(3, 0)
    assert await topic_names(bench.bootstrap, namespace) == before, "no topic is created"
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert not [text for text in warnings if "rebalance" in text]
    # What was kept was not taken over again.
    for owner in owners:
        owned: set[int] = set()
        for what, partitions in owner.calls:
            assert not partitions & owned if what == "assigned" else partitions <= owned
            owned ^= partitions


async def test_records_that_cannot_be_read_are_counted_and_are_no_stall(
    bench: FaustBench,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A restart mends a stall. It does not mend these, so their alert is another one."""
    monkeypatch.setattr(consumer_module, "_TRY_AGAIN_S", 1.0)
    await publish(bench.bootstrap, bench.leads, [b"0"])
    damages: dict[tuple[TopicPartition, int], Damage] = {
        (TopicPartition(bench.leads, number), 0): bad_checksum for number in range(PARTITIONS)
    }
    seen = Recorder()
    with tampered(damages):
        async with running(bench.app({bench.leads: seen})) as app:
            await until(lambda: unreadable_partitions(app) == {bench.leads: 1})
            (batch,) = unreadable(app).values()
            assert "its checksum does not match" in str(batch)
            assert not any("cannot be read" in what for what in membership(app))
            assert not any(assigned(app).values()), "nothing waits for this process"
            damages.clear()
            await until(lambda: unreadable_partitions(app) == {bench.leads: 0})
            await until(lambda: seen.values, what="the record that can be read again")
    assert seen.values == [b"0"]


async def test_nothing_is_fetched_during_a_takeover(
    bench: FaustBench,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A fetch that finds nothing would delay the seek behind it, and so the first record, by half a
    second.
    """
    owner = Owner()
    seen = Recorder()
    owned = list[bool]()
    owner.taking_s = 1
    send = BoundedClient.send

    async def noted(client: BoundedClient, node: Any, request: Any, **options: Any) -> Any:
        if isinstance(request, FetchRequest) and client._client_id.startswith("faust"):
            owned.append(bool(owner.owned))
        return await send(client, node, request, **options)

    monkeypatch.setattr(BoundedClient, "send", noted)
    await publish(bench.bootstrap, bench.leads, [b"1"])
    async with running(bench.app({bench.leads: seen}, owner)):
        await until(lambda: seen.consumed)
    assert set(owned) == {True}


async def test_a_rebalance_interrupts_a_takeover_and_then_revokes(bench: FaustBench) -> None:
    slow = Owner()
    quick = Owner()
    slow.taking_s = 60
    async with running(bench.app({bench.leads: Recorder(slow)}, slow)):
        await until(lambda: slow.calls)
        slow.taking_s = 0
        async with running(bench.app({bench.leads: Recorder(quick)}, quick)):
            await until(lambda: len(slow.owned) == len(quick.owned) == PARTITIONS // 2)
    assert slow.calls[:2] == [("assigned", {0, 1, 2, 3}), ("revoked", {0, 1, 2, 3})]


async def test_a_stop_ends_although_the_group_rebalances_while_a_record_is_in_flight(
    bench: FaustBench,
) -> None:
    """Another worker leaves at the same time: the consumer's thread joins the next generation
    before the ack.
    """
    finished = asyncio.Event()

    class Late(Recorder):
        async def work(self, stream: PartitionStream, consumed: ConsumedRecord) -> None:
            await finished.wait()
            await stream.ack(consumed)

    def next_generation() -> None:
        app.consumer_generation_id += 1
        finished.set()

    await publish(bench.bootstrap, bench.leads, [b"0"])
    handler = Late()
    async with running(bench.app({bench.leads: handler})) as app:
        await until(lambda: handler.consumed)
        asyncio.get_running_loop().call_later(0.5, next_generation)


async def test_an_exception_of_a_handler_ends_the_app_and_its_event_is_not_acked(
    bench: FaustBench,
) -> None:
    class Fails(Recorder):
        async def work(self, stream: PartitionStream, consumed: ConsumedRecord) -> None:
            if consumed.value == b"2":
                raise LookupError("a bug")
            await stream.ack(consumed)

    await publish(bench.bootstrap, bench.leads, [b"0", b"1", b"2", b"3"])
    async with asyncio.timeout(20 * BUSY):
        with pytest.raises(LookupError, match="a bug"):
            await run_app(bench.app({bench.leads: Fails()}))
    assert (await bench.committed()).get((bench.leads, 0), 0) <= 2


@pytest.mark.parametrize("leaves", ["its stream", "its partition"])
async def test_an_agent_that_reads_no_further_ends_the_app(bench: FaustBench, leaves: str) -> None:
    app = bench.app({})

    @app.agent(bench.leads)  # type: ignore[untyped-decorator]  # Faust ships no types
    async def hasty(generations: Generations) -> None:
        async for records in generations:
            await records.ack(await anext(records))
            if leaves == "its partition":
                return

    await publish(bench.bootstrap, bench.leads, [b"0", b"1"])
    says = (
        f"left the records of {bench.leads}/0 before their end|hasty returned before its "
        "partition was revoked"
    )
    async with asyncio.timeout(20 * BUSY):
        with pytest.raises(RuntimeError, match=says.split("|")[leaves == "its partition"]):
            await run_app(app)


@pytest.mark.parametrize(
    ("error", "kind", "says"),
    [
        (BrokerUnavailable("the state cannot be read"), BrokerUnavailable, "state cannot be read"),
        # out of aiokafka
        (asyncio.CancelledError(), RuntimeError, "was cancelled without a request"),
    ],
)
async def test_an_exception_of_the_owner_ends_the_app(
    bench: FaustBench,
    caplog: pytest.LogCaptureFixture,
    error: BaseException,
    kind: type[Exception],
    says: str,
) -> None:
    """It is raised, and not logged as well: there is no second traceback."""

    class Fails(Owner):
        async def assigned(self, partitions: set[int]) -> None:
            raise error

    seen = Recorder()
    await publish(bench.bootstrap, bench.leads, [b"0"])
    async with asyncio.timeout(20 * BUSY):
        with pytest.raises(kind, match=says):
            await run_app(bench.app({bench.leads: seen}, Fails()))
    assert not seen.consumed
    assert not [
        record.getMessage() for record in caplog.records if record.exc_info and record.exc_info[0]
    ]


async def test_markers_and_aborted_records_are_skipped(bench: FaustBench) -> None:
    """Aborted records are not delivered, gaps do no harm, and the committed offset passes them."""
    batches = [
        (number % 3 != 1, [b"%d-%d" % (number, lead) for lead in range(3)]) for number in range(20)
    ]
    expected = [value for commit, values in batches if commit for value in values]
    await publish_transactions(bench.bootstrap, bench.leads, batches)
    first = HoldsOne(held=b"9-1")
    async with running(bench.app({bench.leads: first})) as app:
        await until(lambda: len(first.consumed) == len(expected))
        assert app.gaps.empty >= 10
    assert first.values == expected
    second = Recorder()
    async with running(bench.app({bench.leads: second})):
        await until(
            lambda: second.values == expected[expected.index(b"9-1") :],
            what="the rest from 9-1 on",
        )
    third = Recorder()
    await publish(bench.bootstrap, bench.leads, [b"new"])
    async with running(bench.app({bench.leads: third})):
        await until(lambda: third.consumed)
    assert third.values == [b"new"]


async def test_a_record_that_faust_skips_ends_the_app_before_an_ack_hides_it(
    bench: FaustBench,
) -> None:
    await publish(bench.bootstrap, bench.leads, [b"%d" % number for number in range(10)])
    app = bench.app({bench.leads: Recorder()})
    deliver = app.topics.on_message

    async def lossy(message: Any) -> None:
        if message.offset not in (4, 5):
            await deliver(message)

    app.topics.on_message = lossy
    async with asyncio.timeout(20 * BUSY):
        with pytest.raises(
            LostRecords,
            match=rf"{bench.leads}/0/4 was fetched but never delivered",
        ):
            await run_app(app)
    assert (await bench.committed()).get((bench.leads, 0), 0) <= 4


async def test_a_blocked_handler_delays_no_other_partition_or_topic(bench: FaustBench) -> None:
    """20,000 events wait for a blocked handler and for a slow one. Others arrive within 100 ms."""
    closed = asyncio.Event()

    class Closed(Recorder):
        async def work(self, stream: PartitionStream, consumed: ConsumedRecord) -> None:
            if consumed.partition == 0:
                suspended = asyncio.ensure_future(stream.suspended.wait())
                await asyncio.wait(
                    {suspended, asyncio.ensure_future(closed.wait())},
                    return_when="FIRST_COMPLETED",
                )
                stream.give_up(consumed)
            else:
                await stream.ack(consumed)
                await asyncio.sleep(0.01)

    arrived: dict[bytes, float] = {}
    loop = asyncio.get_running_loop()

    class Hot(Recorder):
        async def work(self, stream: PartitionStream, consumed: ConsumedRecord) -> None:
            arrived[consumed.value or b""] = loop.time()
            await stream.ack(consumed)

    bulk = Closed()
    await publish(bench.bootstrap, bench.bulk, (b"x" * 200 for _ in range(20_000)), 2)
    async with running(bench.app({bench.bulk: bulk, bench.leads: Hot()})):
        await until(lambda: len(bulk.consumed) > 100)
        late: list[float] = []
        async with AIOKafkaProducer(bootstrap_servers=bench.bootstrap) as producer:
            await producer.partitions_for(bench.leads)
            for number in range(40):
                value = b"%d" % number
                await producer.send_and_wait(bench.leads, value, partition=number % PARTITIONS)
                sent_at = loop.time()
                await until(functools.partial(arrived.__contains__, value))
                late.append(arrived[value] - sent_at)
                await asyncio.sleep(0.05)
        assert max(late) < 0.1 * slowness(), sorted(late)[-5:]
        assert len({consumed.partition for consumed in bulk.consumed}) == 2


async def test_an_event_that_waits_for_its_handler_does_not_delay_the_stop(
    bench: FaustBench,
) -> None:
    """The handler is blocked before it takes its first event.

    Faust has that event and must not wait for it.
    """
    called = asyncio.Event()

    async def gated(stream: PartitionStream) -> None:
        called.set()
        await stream.suspended.wait()

    await publish(bench.bootstrap, bench.leads, [b"0", b"1"])
    loop = asyncio.get_running_loop()
    async with running(bench.app({bench.leads: gated})):
        async with asyncio.timeout(10 * BUSY):
            await called.wait()
        start = loop.time()
    assert loop.time() - start < 2 * slowness()
    assert await bench.committed() == {}
