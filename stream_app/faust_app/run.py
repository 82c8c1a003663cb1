"""Runs a Faust app in an existing event loop, without Faust's web server, stdout and logging."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, TypeVar

from stream_app.faust_app.fixes.app import SafeApp
from stream_app.kafka.connection import wait_for_kafka
from stream_app.tasks import cancel, died_of

log = logging.getLogger(__name__)

T = TypeVar("T")


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine as `asyncio.run` does, on uvloop if it is installed."""
    factory = None
    with contextlib.suppress(ImportError):
        import uvloop

        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(main)


async def run_app(
    app: SafeApp, *, broker_wait_s: float = 60.0, beside: Iterable[Coroutine[Any, Any, None]] = ()
) -> None:
    """Run until SIGTERM, SIGINT or a crash, then wait for records in flight, commit their acks, and stop.

    Args:
        app: the Faust app.
        broker_wait_s: how long to wait for Kafka at the start, in seconds.
        beside: coroutines that run as long as the app. If one fails, the app crashes.

    Raises:
        StreamAppError: as `wait_for_kafka` raises when Kafka does not answer at the start.
        Exception: the error that crashed the app.
    """
    loop = asyncio.get_running_loop()
    asked_to_stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, asked_to_stop.set)
    asking = asyncio.create_task(asked_to_stop.wait())
    running = asyncio.create_task(_run(app, broker_wait_s))
    alarm = alarm_of(app)

    def watch(task: asyncio.Task[None]) -> None:
        if (error := died_of(task)) is not None:
            alarm(error)

    others = [asyncio.create_task(each) for each in beside]
    for other in others:
        other.add_done_callback(watch)
    try:
        await asyncio.wait({asking, running}, return_when=asyncio.FIRST_COMPLETED)
        if running.done():
            running.result()
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
        for task in (asking, running):
            task.cancel()
        if app.started:
            await app.stop()
            await app.gaps.close()
        await cancel([asking, running, *others])
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
