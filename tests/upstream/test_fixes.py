"""Our fixes hold: in no scenario does our app lose or repeat an event.

`test_stock_faust.py` shows the faults.
"""

import pytest

from stream_app.dev.kafka import Broker
from tests.support.kafka import create_topics
from tests.support.pace import BUSY
from tests.support.proxy import ProxiedKafka
from tests.upstream.apps import ours
from tests.upstream.scenarios import (
    all_come_again_after_each_rebalance,
    came_again_after_a_commit,
    came_again_after_a_rebalance,
    committed_beside_an_event_in_flight,
    committed_while_rows_are_written,
    lost_after_a_slow_seek,
    stop_without_a_broker_s,
    write_to_a_state,
)


async def test_606_commit_stops_at_an_event_in_flight(
    kafka: Broker,
    namespace: str,
    topics: None,
) -> None:
    assert await committed_beside_an_event_in_flight(kafka, namespace, ours) == 10


async def test_596_a_rebalance_loses_no_event(kafka: Broker, namespace: str, topics: None) -> None:
    assert await lost_after_a_slow_seek(kafka, namespace, ours) == []


async def test_502_pending_acks_are_committed_before_a_rebalance(
    kafka: Broker,
    namespace: str,
    topics: None,
) -> None:
    assert await came_again_after_a_rebalance(kafka, namespace, ours) == set()


async def test_fetched_events_come_again_after_a_rebalance_before_the_first_commit(
    kafka: Broker,
    namespace: str,
    topics: None,
) -> None:
    assert await all_come_again_after_each_rebalance(kafka, namespace, ours, rebalances=8)


async def test_commits_do_not_wait_for_rows(kafka: Broker, namespace: str, topics: None) -> None:
    assert await committed_while_rows_are_written(kafka, namespace, ours, write_to_a_state) == 10


@pytest.mark.slow
async def test_a_stop_ends_soon_while_no_broker_answers(
    broker: ProxiedKafka,
    namespace: str,
) -> None:
    await create_topics(broker.bootstrap, namespace + "leads", namespace + "state")
    assert await stop_without_a_broker_s(broker, namespace, ours) < 15 * BUSY


async def test_a_revoke_waits_for_a_running_commit_and_commits_the_rest(
    kafka: Broker,
    namespace: str,
    topics: None,
) -> None:
    assert await came_again_after_a_commit(kafka, namespace, ours) == set()
