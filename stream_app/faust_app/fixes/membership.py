"""Fixes of the membership in the group, from the first subscription to the stop of its thread."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from aiokafka.errors import KafkaConnectionError
from faust.transport.conductor import Conductor
from faust.transport.drivers.aiokafka import AIOKafkaConsumerThread
from mode import Service
from mode.threads import WorkerThread
from mode.utils.futures import notify

from stream_app.kafka.connection import stop_consumer

log = logging.getLogger(__name__)

_STOP_S = 3.0
_BROKER_AWAY_S = 1.0


class DaemonThread(WorkerThread):  # type: ignore[misc]  # mode ships no types
    """Does not keep the process alive."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.daemon = True


class BoundedLifecycle(AIOKafkaConsumerThread):  # type: ignore[misc]  # faust ships no types
    """Fix: the consumer's thread retries its start until Kafka answers, and its stop is bounded.

    Upstream: the app ends if the broker goes away between the first check and the start of the
    thread. A stop takes a minute while no broker answers, and raises if the thread has already
    ended.

    Report: docs/reference/upstream/ends-without-a-broker.md, for the start.

    Tests: tests/integration/test_faust_processes.py
    (test_a_broker_that_stops_while_the_app_starts_is_waited_for),
    tests/upstream/test_stock_faust.py (test_a_stop_takes_a_minute_while_no_broker_answers),
    tests/upstream/test_fixes.py (test_a_stop_ends_soon_while_no_broker_answers),
    tests/unit/faust_app/test_faust_bookkeeping.py
    (test_a_stop_of_a_thread_that_has_ended_by_itself_is_no_crash).

    Remove it when upstream retries the start and bounds the stop.
    """

    Worker = DaemonThread

    async def on_start(self) -> None:
        started = False
        while not started and not self.should_stop:
            try:
                await super().on_start()
                started = True
            except KafkaConnectionError as error:
                log.warning(
                    "cannot connect to Kafka: %s; next attempt in %.0f s",
                    error,
                    _BROKER_AWAY_S,
                )
                await stop_consumer(self._consumer)
                await self.sleep(_BROKER_AWAY_S)

    async def on_thread_stop(self) -> None:
        try:
            async with asyncio.timeout(_STOP_S):
                await super().on_thread_stop()
        # aiokafka lets the CancelledError of a fetch that it has cancelled escape.
        except (TimeoutError, asyncio.CancelledError):
            log.warning(
                "closed without a LeaveGroup request: Kafka or a rebalance did not answer "
                "within %.0f s",
                _STOP_S,
            )
            if self._consumer is not None:
                await self._consumer._client.close()

    def _stopped_set(self) -> None:
        try:
            super()._stopped_set()
        except RuntimeError:  # the thread has ended by itself and its loop is closed
            self._stopped.set()


class SubscribeOnce(Conductor):  # type: ignore[misc]  # faust ships no types
    """Fix: subscribe to the topics once, when all agents and tables are registered.

    Upstream: the conductor subscribes again 45 s after the stream of a revoked partition has ended,
    which causes one more rebalance. If the app stops during that wait, the conductor calls a thread
    that has ended, and the stop hangs.

    Report: docs/reference/upstream/subscribes-again.md.

    Tests: tests/unit/faust_app/test_faust_bookkeeping.py
    (test_a_stream_that_ends_subscribes_to_nothing_again), tests/integration/test_faust_processes.py
    stops processes after rebalances.

    Remove it when upstream subscribes again only if its topics have changed. Ours never change.
    """

    async def _run(self) -> None:
        await self.app.agents.wait_until_agents_started()
        await self.app.tables.wait_until_tables_registered()
        if not self.should_stop:
            await self.app.consumer.subscribe(await self._update_indices())
            notify(self._subscription_done)

    _subscriber = Service.task(_run)
