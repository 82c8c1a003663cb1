"""Faults of stock Faust 0.15.3.

When one of these tests fails, upstream has fixed the fault and our fix can go.

They are long tests: a change of ours cannot break them.
"""

from collections.abc import Awaitable, Callable

import pytest

from stream_app.dev.kafka import Broker
from tests.support.kafka import create_topics
from tests.support.proxy import ProxiedKafka
from tests.upstream.apps import stock
from tests.upstream.scenarios import (
    all_come_again_after_each_rebalance,
    came_again_after_a_commit,
    came_again_after_a_rebalance,
    committed_beside_an_event_in_flight,
    committed_while_rows_are_written,
    lost_after_a_slow_seek,
    stop_without_a_broker_s,
    write_to_a_table,
)

pytestmark = pytest.mark.long


async def ever(kafka: Broker, namespace: str, fails: Callable[[str], Awaitable[bool]]) -> bool:
    """Return true if stock Faust fails in one of four tries, each in a namespace of its own: it is
    a race.
    """
    for attempt in range(4):
        mine = f"{namespace}{attempt}."
        await create_topics(kafka.bootstrap, mine + "leads", mine + "stock-counts-changelog")
        if await fails(mine):
            return True
    return False


async def test_606_commits_over_an_event_in_flight(
    kafka: Broker,
    namespace: str,
    topics: None,
) -> None:
    assert await committed_beside_an_event_in_flight(kafka, namespace, stock) == 20


async def test_596_a_rebalance_with_a_table_loses_events(kafka: Broker, namespace: str) -> None:
    async def fails(mine: str) -> bool:
        return bool(await lost_after_a_slow_seek(kafka, mine, stock))

    assert await ever(kafka, namespace, fails)


async def test_502_a_rebalance_forgets_pending_acks(
    kafka: Broker,
    namespace: str,
    topics: None,
) -> None:
    assert await came_again_after_a_rebalance(kafka, namespace, stock)


async def test_a_rebalance_before_the_first_commit_loses_fetched_events(
    kafka: Broker,
    namespace: str,
    topics: None,
) -> None:
    assert not await all_come_again_after_each_rebalance(kafka, namespace, stock, rebalances=40)


async def test_commits_starve_while_rows_are_written(kafka: Broker, namespace: str) -> None:
    """Faust commits when its send buffer is empty, which never happens while a table is written to.

    It also commits when nothing was sent for 0.1 s, as happens on a busy machine.
    """

    async def fails(mine: str) -> bool:
        return await committed_while_rows_are_written(kafka, mine, stock, write_to_a_table) is None

    assert await ever(kafka, namespace, fails)


async def test_a_stop_takes_a_minute_while_no_broker_answers(
    broker: ProxiedKafka,
    namespace: str,
) -> None:
    await create_topics(broker.bootstrap, namespace + "leads", namespace + "stock-counts-changelog")
    assert await stop_without_a_broker_s(broker, namespace, stock) > 30


async def test_the_last_commit_before_a_rebalance_is_left_out(
    kafka: Broker,
    namespace: str,
) -> None:
    async def fails(mine: str) -> bool:
        return await came_again_after_a_commit(kafka, mine, stock) == set(range(5, 10))

    assert await ever(kafka, namespace, fails)
