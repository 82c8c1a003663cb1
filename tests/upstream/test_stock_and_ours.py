"""Faults of Faust 0.15.3 that lose or repeat leads: each shown on stock Faust, and mended in ours.

A scenario returns what came of it, and the same run on stock Faust must go wrong: when it no longer does, upstream
has mended it, and our mending can go.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import pytest

from stream_app.dev.kafka import Broker
from stream_app.domain.record import Record
from stream_app.kafka.transactional_state import TransactionalState
from tests.support.kafka import committed, create_topics, publish, until
from tests.upstream.apps import Ack, Build, Work, ours, rebalance, running, stock


@pytest.fixture
async def topics(kafka: Broker, namespace: str) -> None:
    """Stock Faust's changelog, too: one that it makes itself is not always there at its first assignment."""
    names = ("leads", "state", "stock-counts-changelog")
    await create_topics(kafka.bootstrap, *(namespace + name for name in names))


async def publish_numbers(kafka: Broker, namespace: str, count: int) -> None:
    await publish(kafka.bootstrap, namespace + "leads", (b"%d" % number for number in range(count)))


@pytest.mark.parametrize(("build", "committed_to"), [(stock, 20), (ours, 10)])
async def test_606_an_event_in_flight_at_the_committed_offset_is_committed_over(
    kafka: Broker, namespace: str, topics: None, build: Build, committed_to: int
) -> None:
    """0 to 9 are done and committed, 10 is in flight, 11 to 19 are done: a kill now would lose 10."""
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
        group = app.conf.id
        assert await committed(kafka.bootstrap, group) == {(namespace + "leads", 0): committed_to}
        await acks[10]()  # so that the app can stop


async def lost_after_a_slow_seek(kafka: Broker, namespace: str, build: Build) -> list[int]:
    """The fetcher runs between the resuming of the partitions and the seek, while the agent is busy."""
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
        seek, fetched_to = app.consumer.perform_seek, app.consumer._read_offset

        async def slow_seek() -> None:
            """The recovery's takes as long as it takes to fetch a few, if anybody fetches."""
            by_recovery = app.consumer.flow_active or (build is ours and app.consumer._idle.is_set())
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


async def ever(kafka: Broker, namespace: str, fails: Callable[[str], Awaitable[bool]]) -> bool:
    """Whether stock Faust failed in one of four tries, each in a namespace of its own: it is a race."""
    for attempt in range(4):
        mine = f"{namespace}{attempt}."
        await create_topics(kafka.bootstrap, mine + "leads", mine + "stock-counts-changelog")
        if await fails(mine):
            return True
    return False


async def test_596_a_rebalance_with_a_table_loses_events_of_stock_faust(kafka: Broker, namespace: str) -> None:
    async def fails(mine: str) -> bool:
        return bool(await lost_after_a_slow_seek(kafka, mine, stock))

    assert await ever(kafka, namespace, fails)


async def test_596_a_rebalance_loses_nothing_of_ours(kafka: Broker, namespace: str, topics: None) -> None:
    assert await lost_after_a_slow_seek(kafka, namespace, ours) == []


def by_hand() -> tuple[list[int], dict[int, Ack], Work]:
    """What was seen, the acks of the first ten events, and work that leaves these to the test and acks what follows."""
    seen: list[int] = []
    acks: dict[int, Ack] = {}

    async def work(offset: int, ack: Ack) -> None:
        seen.append(offset)
        acks[offset] = ack
        if len(seen) > 10:
            await ack()

    return seen, acks, work


@pytest.mark.parametrize(("build", "again"), [(stock, True), (ours, False)])
async def test_502_acks_that_are_not_committed_yet_are_forgotten_by_a_rebalance(
    kafka: Broker, namespace: str, topics: None, build: Build, again: bool
) -> None:
    """Ten events are done, five of them committed, the group rebalances: stock Faust delivers the others again."""
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
    assert bool(came_again(seen)) is again


def came_again(seen: list[int]) -> set[int]:
    """Of eleven events, five of them committed before a rebalance, those that came a second time.

    Stock Faust delivers all five others again, and in one run of some hundreds but four: why is not known.
    """
    counted = Counter(seen)
    twice = {offset for offset, times in counted.items() if times == 2}
    assert counted.keys() == set(range(11))
    assert len(seen) == 11 + len(twice)
    assert twice <= set(range(5, 10))
    return twice


@pytest.mark.parametrize(("build", "rebalances", "all_came"), [(stock, 40, False), (ours, 8, True)])
async def test_a_rebalance_before_the_first_commit_loses_what_was_fetched(
    kafka: Broker, namespace: str, topics: None, build: Build, rebalances: int, all_came: bool
) -> None:
    """Ten events are given up before each rebalance, so they must come again after it.

    Not known upstream: a poll under way takes them in the new generation, Faust drops them, and aiokafka's
    seek_to_committed leaves the position of a partition that has no commit.
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
    assert (len(seen) >= 10 * rebalances) == all_came


async def write_to_a_table(app: Any) -> None:
    """Rows without end, as fast as Faust sends them; in an event's context, which says of which partition."""
    table, buffer = app.tables["counts"], app.producer.buffer
    for number in itertools.count():
        while buffer.size < 50:
            table["row"] = number
        await asyncio.sleep(0.001)


async def write_to_a_ledger(app: Any) -> None:
    ledger = TransactionalState(app.connection, f"{app.conf.id}-0", app.conf.id.removesuffix("ours") + "state", 0)
    try:
        await ledger.take_over()
        for number in itertools.count():
            await ledger.transact([Record(ledger._rows_at.topic, b"row", b"%d" % number)])
    finally:
        await ledger.close()


async def committed_while_rows_are_written(
    kafka: Broker, namespace: str, build: Build, write: Callable[[Any], Coroutine[Any, Any, None]]
) -> int | None:
    """The group's offset, 3 s after ten events were acked: it commits every 0.1 s."""
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
        async with asyncio.timeout(15):
            await acked.wait()
        await asyncio.sleep(3)
        found = await committed(kafka.bootstrap, app.conf.id)
        assert not writing[0].done()
        writing[0].cancel()
        await asyncio.wait(writing)
    return found.get((namespace + "leads", 0))


async def test_commits_of_stock_faust_starve_while_rows_are_written(kafka: Broker, namespace: str) -> None:
    """It commits when nothing is left to be sent, which a table forbids that is written to all the time.

    Or when 0.1 s have gone by in which nothing was sent, as on a busy machine.
    """

    async def fails(mine: str) -> bool:
        return await committed_while_rows_are_written(kafka, mine, stock, write_to_a_table) is None

    assert await ever(kafka, namespace, fails)


async def test_commits_wait_for_no_rows(kafka: Broker, namespace: str, topics: None) -> None:
    assert await committed_while_rows_are_written(kafka, namespace, ours, write_to_a_ledger) == 10


async def came_again_after_a_commit(kafka: Broker, namespace: str, build: Build) -> set[int]:
    """Five events are being committed, five more are done meanwhile, the group rebalances: which come again."""
    seen, acks, work = by_hand()
    await publish_numbers(kafka, namespace, 10)
    app = build(kafka.bootstrap, namespace, work, 3600)
    app.conf.stream_wait_empty = True
    async with running(app):
        await until(lambda: len(seen) == 10)
        for offset in range(5):
            await acks[offset]()
        commit, another_runs = app.consumer._commit, app.consumer.maybe_wait_for_commit_to_finish
        begun, revoking = asyncio.Event(), asyncio.Event()

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
    return came_again(seen)


async def test_the_last_commit_of_stock_faust_before_a_rebalance_is_left_out(kafka: Broker, namespace: str) -> None:
    async def fails(mine: str) -> bool:
        return await came_again_after_a_commit(kafka, mine, stock) == set(range(5, 10))

    assert await ever(kafka, namespace, fails)


async def test_the_last_commit_before_a_rebalance_waits_for_one_that_runs(
    kafka: Broker, namespace: str, topics: None
) -> None:
    assert await came_again_after_a_commit(kafka, namespace, ours) == set()
