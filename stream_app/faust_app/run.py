"""Runs a Faust app in an existing event loop, without Faust's web server.

It also shows how the app's consumer group fares.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable, Iterator
from typing import Any

from stream_app.domain.model.errors import UnreadableBatch
from stream_app.faust_app.fixes.safe_app import SafeApp
from stream_app.kafka.connection import wait_for_kafka
from stream_app.tasks import cancel, died_of, run_until, stop_signal

log = logging.getLogger(__name__)


async def run_app(
    app: SafeApp,
    *,
    broker_wait_s: float = 60.0,
    beside: Iterable[Coroutine[Any, Any, None]] = (),
) -> None:
    """Run until SIGTERM, SIGINT or a crash.

    Then wait for the records in flight, commit their acks, and stop.

    Args:
        app: The Faust app.
        broker_wait_s: How long to wait for Kafka at the start, in seconds.
        beside: Coroutines that run as long as the app. If one fails, the app crashes.

    Raises:
        StreamAppError: As `wait_for_kafka` raises it when Kafka does not answer at the start.
        Exception: The error that crashed the app.
    """
    alarm = alarm_of(app)

    def watch(task: asyncio.Task[None]) -> None:
        if (error := died_of(task)) is not None:
            alarm(error)

    others = [asyncio.create_task(coroutine) for coroutine in beside]
    for other in others:
        other.add_done_callback(watch)
    try:
        with stop_signal() as stop:
            await run_until(stop, _run(app, broker_wait_s))
    finally:
        if app.started:
            await app.stop()
            await app.gaps.close()
        await cancel(others)
    if app.crash_reason is not None:
        raise app.crash_reason


def alarm_of(app: SafeApp) -> Callable[[BaseException], None]:
    """Return a function that crashes the app with an error."""
    crashes: set[asyncio.Future[None]] = set()
    return lambda error: crashes.add(asyncio.ensure_future(app.crash(error)))


async def _run(app: SafeApp, broker_wait_s: float) -> None:
    await wait_for_kafka(app.connection, broker_wait_s, log.warning)
    await app.start()
    await app.wait_until_stopped()


def assigned(app: SafeApp) -> dict[tuple[str, int], bool]:
    """Return for each assigned topic and partition whether records wait there or are in flight.

    Reads state of the consumer's thread, so it may be slightly out of date.
    """
    fetched = {message.tp for message in tuple(app.consumer._unacked_messages)}
    stopped = unreadable(app)
    return {
        (tp.topic, tp.partition): (
            state.has_valid_position
            and (state.highwater or 0) > state.position
            and tp not in stopped
        )
        or tp in fetched
        for tp, state in _states(app)
    }


def heartbeats(app: SafeApp) -> dict[str, int]:
    """Return a token that changes with each heartbeat that the group accepts, by description."""
    if not app.started:
        return {}
    return {"the group accepts no heartbeat of this process": app.consumer._thread.heartbeats_taken}


def membership(app: SafeApp) -> dict[str, int]:
    """Return progress tokens of the group membership for the watchdog, by description.

    - Heartbeats: only they show that an idle process has lost Kafka. - The take-over after a
    rebalance, with its generation: until it ends, no records are fetched, so none seem to wait.

    A batch that cannot be read is no stall, because a restart would not help: `unreadable` has it.
    """
    if not app.started:
        return {}
    facts = heartbeats(app)
    if app.tables.recovery.taking_over:
        facts["no records are consumed since the last rebalance"] = app.consumer_generation_id
    return facts


def unreadable(app: SafeApp) -> dict[Any, UnreadableBatch]:
    """Return the unreadable batch that has stopped a partition, by topic and partition."""
    consumer = app.consumer._thread._consumer if app.started else None
    return consumer.unreadable if consumer is not None else {}


def unreadable_partitions(app: SafeApp) -> dict[str, int]:
    """Return how many partitions of each assigned topic have stopped before an unreadable batch."""
    counts = {tp.topic: 0 for tp, _ in _states(app)}
    for tp in unreadable(app):
        if tp.topic in counts:
            counts[tp.topic] += 1
    return counts


def committed(app: SafeApp) -> dict[tuple[str, int], int]:
    """Return the committed offset of each assigned topic and partition.

    Where nothing is committed, it is the position at which reading began.
    """
    offsets: dict[tuple[str, int], int] = {}
    for tp, state in _states(app):
        offset = app.consumer._committed_offset.get(tp)
        if offset is None and state.has_valid_position:
            offset = state.position
        if offset is not None:
            offsets[tp.topic, tp.partition] = offset
    return offsets


def _states(app: SafeApp) -> Iterator[tuple[Any, Any]]:
    """Yield each assigned partition of a topic that has an agent, with aiokafka's state of it."""
    consumer = app.consumer._thread._consumer if app.started else None
    assignment = (
        consumer
        and consumer._subscription.subscription
        and consumer._subscription.subscription.assignment
    )
    if assignment:
        yield from (
            (tp, assignment.state_value(tp)) for tp in assignment.tps if tp.topic in app.agents
        )
