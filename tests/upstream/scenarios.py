"""Scenarios in which Faust 0.15.3 loses or repeats events. Each runs on stock Faust or on ours.

The function returns what happened.
"""

import asyncio
import contextlib
import functools
import itertools
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any

from stream_app.dev.kafka import Broker
from stream_app.domain.model.records import Record
from stream_app.kafka.transactional_state import TransactionalState
from tests.support.kafka import committed, publish, until
from tests.support.pace import BUSY
from tests.support.proxy import ProxiedKafka
from tests.upstream.apps import Ack, Build, Work, ours, rebalance, running


async def publish_numbers(kafka: Broker, namespace: str, count: int) -> None:
    await publish(kafka.bootstrap, namespace + "leads", (b"%d" % number for number in range(count)))


async def committed_beside_an_event_in_flight(kafka: Broker, namespace: str, build: Build) -> int:
    """Commit 0 to 9, leave 10 in flight, finish 11 to 19.

    Return the committed offset: beyond 10, a kill loses 10.
    """
    acks: dict[int, Ack] = {}

    async def work(offset: int, ack: Ack) -> None:
        acks[offset] = ack

    await publish_numbers(kafka, namespace, 20)
    app = build(kafka.bootstrap, namespace, work, 3600)
    async with running(app):
        await until(lambda: len(acks) == 20)
        for offset in range(10):
            await acks[offset]()
        await app.consumer.commit()
        for offset in range(11, 20):
            await acks[offset]()
        await app.consumer.commit()
        offsets = await committed(kafka.bootstrap, app.conf.id)
        await acks[10]()  # so that the app can stop
    ((where, offset),) = offsets.items()
    assert where == (namespace + "leads", 0)
    return offset


async def stop_without_a_broker_s(kafka: ProxiedKafka, namespace: str, build: Build) -> float:
    """Freeze the broker of an app that has joined its group, and stop the app.

    Return how long that takes, in s.
    """
    seen: list[int] = []

    async def work(offset: int, ack: Ack) -> None:
        seen.append(offset)
        await ack()

    await publish_numbers(kafka, namespace, 1)
    app = build(kafka.bootstrap, namespace, work, 0.1)
    starting = asyncio.create_task(app.start())
    await until(lambda: seen)
    await asyncio.sleep(1.0)
    kafka.freeze()
    began_s = asyncio.get_running_loop().time()
    try:
        async with asyncio.timeout(120):
            await app.stop()
        return asyncio.get_running_loop().time() - began_s
    finally:
        kafka.thaw()
        await asyncio.wait({starting}, timeout=30 * BUSY)


async def lost_after_a_slow_seek(kafka: Broker, namespace: str, build: Build) -> list[int]:
    """Let the fetcher run between resume and seek of a rebalance, while the agent is busy.

    Return what was lost.
    """
    count = 3000
    seen: set[int] = set()
    busy = asyncio.Event()

    async def work(offset: int, ack: Ack) -> None:
        seen.add(offset)
        await ack()
        if offset == 0:
            await asyncio.wait({asyncio.create_task(busy.wait())}, timeout=0.1)
        elif len(seen) == 11:
            await asyncio.sleep(0.3)  # the first event after the rebalance

    await publish_numbers(kafka, namespace, 10)
    app = build(kafka.bootstrap, namespace, work, 0.1)
    async with running(app):
        await until(lambda: len(seen) == 10)
        seek = app.consumer.perform_seek
        fetched_to = app.consumer._read_offset

        async def slow_seek() -> None:
            """Make the seek of the recovery wait until some records are fetched, if the fetcher
            runs.
            """
            by_recovery = app.consumer.flow_active or (
                build is ours and app.consumer._idle.is_set()
            )
            for _ in range(100 if by_recovery else 0):
                if any((offset or 0) > 15 for offset in fetched_to.values()):
                    break
                await asyncio.sleep(0.01)
            await seek()

        app.consumer.perform_seek = slow_seek
        await rebalance(app)
        await publish_numbers(kafka, namespace, count - 10)
        await until(lambda: count - 1 in seen, what="the last event")
    return sorted(set(range(count)) - seen)


def by_hand() -> tuple[list[int], dict[int, Ack], Work]:
    """Return the events seen, the acks of the first ten, and work that acks only the events after
    these.
    """
    seen: list[int] = []
    acks: dict[int, Ack] = {}

    async def work(offset: int, ack: Ack) -> None:
        seen.append(offset)
        acks[offset] = ack
        if len(seen) > 10:
            await ack()

    return seen, acks, work


async def came_again_after_a_rebalance(kafka: Broker, namespace: str, build: Build) -> set[int]:
    """Finish ten events, commit five of them, let the group rebalance.

    Return the events that came again.
    """
    seen, acks, work = by_hand()
    await publish_numbers(kafka, namespace, 10)
    app = build(kafka.bootstrap, namespace, work, 3600)
    async with running(app):
        await until(lambda: len(seen) == 10)
        for offset in range(5):
            await acks[offset]()
        await app.consumer.commit()
        for offset in range(5, 10):
            await acks[offset]()
        await rebalance(app)
        await publish(kafka.bootstrap, namespace + "leads", [b"last"])
        await until(lambda: 10 in seen, what="the event after the rebalance")
    return seen_twice(seen)


def seen_twice(seen: list[int]) -> set[int]:
    """Of eleven events, five of them committed before a rebalance, return those that came a second
    time.

    Stock Faust delivers all five others again. In one run of several hundred it delivered only
    four, for
    an unknown reason.
    """
    counted = Counter(seen)
    twice = {offset for offset, times in counted.items() if times == 2}
    assert counted.keys() == set(range(11))
    assert len(seen) == 11 + len(twice)
    assert twice <= set(range(5, 10))
    return twice


async def all_come_again_after_each_rebalance(
    kafka: Broker,
    namespace: str,
    build: Build,
    rebalances: int,
) -> bool:
    """Give up ten events before each rebalance. Return true if they come again after each.

    Not reported upstream: a poll under way takes them in the new generation, Faust drops them, and
    aiokafka's seek_to_committed leaves the position of a partition that has no commit.
    """
    seen: list[int] = []

    async def work(offset: int, ack: Ack) -> None:
        seen.append(offset)

    def came(count: int) -> bool:
        return len(seen) >= count

    await publish_numbers(kafka, namespace, 10)
    app = build(kafka.bootstrap, namespace, work, 3600)
    async with running(app):
        for times in range(1, rebalances + 1):
            with contextlib.suppress(AssertionError):
                await until(functools.partial(came, 10 * times), 15 if times == 1 else 3)
            app.consumer._unacked_messages.clear()
            if len(seen) < 10 * times:
                break
            await asyncio.sleep(0.1)  # the fetcher sits in its next poll
            await rebalance(app)
    return len(seen) >= 10 * rebalances


async def write_to_a_table(app: Any) -> None:
    """Write rows as fast as Faust sends them.

    It runs in an event's context, which has the partition.
    """
    table = app.tables["counts"]
    buffer = app.producer.buffer
    for number in itertools.count():
        while buffer.size < 50:
            table["row"] = number
        await asyncio.sleep(0.001)


async def write_to_a_state(app: Any) -> None:
    store = TransactionalState(
        app.connection,
        f"{app.conf.id}-0",
        app.conf.id.removesuffix("ours") + "state",
        0,
    )
    try:
        await store.take_over()
        for number in itertools.count():
            await store.transact([Record(store._rows_at.topic, b"row", b"%d" % number)])
    finally:
        await store.close()


async def committed_while_rows_are_written(
    kafka: Broker,
    namespace: str,
    build: Build,
    write: Callable[[Any], Coroutine[Any, Any, None]],
) -> int | None:
    """Return the group's offset 3 s after ten events were acked. The app commits every 0.1 s."""
    writing: list[asyncio.Task[None]] = []
    kept: list[Ack] = []  # and with it the event, whose context the writing needs
    acked = asyncio.Event()

    async def work(offset: int, ack: Ack) -> None:
        kept.append(ack)
        if not writing:
            writing.append(asyncio.create_task(write(app)))
            await asyncio.sleep(0.2)
        await ack()
        if offset == 9:
            acked.set()

    await publish_numbers(kafka, namespace, 10)
    app = build(kafka.bootstrap, namespace, work, 0.1)
    async with running(app):
        async with asyncio.timeout(15 * BUSY):
            await acked.wait()
        await asyncio.sleep(3)
        offsets = await committed(kafka.bootstrap, app.conf.id)
        assert not writing[0].done()
        writing[0].cancel()
        await asyncio.wait(writing)
    return offsets.get((namespace + "leads", 0))


async def came_again_after_a_commit(kafka: Broker, namespace: str, build: Build) -> set[int]:
    """Start to commit five events, finish five more, let the group rebalance.

    Return the events that came again.
    """
    seen, acks, work = by_hand()
    await publish_numbers(kafka, namespace, 10)
    app = build(kafka.bootstrap, namespace, work, 3600)
    app.conf.stream_wait_empty = True
    async with running(app):
        await until(lambda: len(seen) == 10)
        for offset in range(5):
            await acks[offset]()
        commit = app.consumer._commit
        another_runs = app.consumer.maybe_wait_for_commit_to_finish
        begun = asyncio.Event()
        revoking = asyncio.Event()

        async def slow_commit(offsets: Any) -> Any:
            begun.set()
            await revoking.wait()
            return await commit(offsets)

        async def asked_by_the_revoke() -> bool:
            revoking.set()
            return bool(await another_runs())

        app.consumer._commit = slow_commit
        committing = asyncio.create_task(app.consumer.commit())
        await begun.wait()
        app.consumer.maybe_wait_for_commit_to_finish = asked_by_the_revoke
        for offset in range(5, 10):
            await acks[offset]()
        await rebalance(app)
        await committing
        await publish(kafka.bootstrap, namespace + "leads", [b"last"])
        await until(lambda: 10 in seen, what="the event after the rebalance")
    return seen_twice(seen)
