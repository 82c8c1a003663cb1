"""Helpers for asyncio tasks: find what ended one, stop them, and drop reports of no value."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Coroutine, Iterable, Iterator
from contextlib import contextmanager, suppress
from logging import LogRecord
from typing import Any, Final, TypeVar

T = TypeVar("T")
_AGAIN_S: Final = 1.0


def died_of(task: asyncio.Task[Any]) -> BaseException | None:
    """Return the error that ended a task. None if it completed or was cancelled on request.

    A library can let the CancelledError of its own task escape (aiokafka did). asyncio then reports
    the outer task as cancelled, and a caller that checks only that mistakes a failure for a
    requested cancellation.
    """
    if not task.cancelled():
        return task.exception()
    return (
        None
        if task.cancelling()
        else RuntimeError(f"the task {task.get_name()} was cancelled without a request")
    )


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error, then what caused it, and so on."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def retrieve(task: asyncio.Future[Any]) -> None:
    """Retrieve the exception of a task whose callers may be gone.

    Otherwise asyncio logs an error.
    """
    if not task.cancelled():
        task.exception()


async def cancel(tasks: Iterable[asyncio.Task[Any] | None]) -> None:
    """Cancel tasks and return when all have ended.

    Cancels again if foreign code swallowed the cancellation.
    """
    known = [task for task in tasks if task is not None]
    while left := [task for task in known if not task.done()]:
        for task in left:
            task.cancel()
        await asyncio.wait(left, timeout=_AGAIN_S)
    for task in known:
        retrieve(task)


async def finish(work: Coroutine[Any, Any, Any]) -> None:
    """Run work to its end in a task that is being cancelled, however often that is repeated.

    The work must be bounded. What it returns or raises is dropped.
    """
    task = asyncio.create_task(work)
    while not task.done():
        with suppress(asyncio.CancelledError):
            await asyncio.wait({task})
    retrieve(task)


async def until_failure(*work: Coroutine[Any, Any, None]) -> BaseException:
    """Run all parts until one fails, and return its error.

    If several fail, the part that comes first counts.

    The other parts are cancelled then. It does not end before they have, however often it is
    cancelled itself.
    """
    tasks = [asyncio.create_task(part) for part in work]
    try:
        while left := [task for task in tasks if not task.done()]:
            await asyncio.wait(left, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                if task.done() and (error := died_of(task)) is not None:
                    return error
        return RuntimeError("all that was to run for ever has ended")
    finally:
        cancelled = False
        while left := [task for task in tasks if not task.done()]:
            for task in left:  # in their order, so that a run of the simulation can be repeated
                task.cancel()
            try:
                await asyncio.wait(left, timeout=_AGAIN_S)
            except asyncio.CancelledError:
                cancelled = True
        for task in tasks:
            retrieve(task)
        if cancelled:
            raise asyncio.CancelledError


async def run_until(stop: asyncio.Event, work: Coroutine[Any, Any, T]) -> T | None:
    """Return the result of `work`, or None if `stop` is set first.

    Raises the error that ended the work.
    """
    working = asyncio.create_task(work)
    stopping = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait((working, stopping), return_when=asyncio.FIRST_COMPLETED)
        return working.result() if working.done() else None
    finally:
        await cancel((working, stopping))


@contextmanager
def stop_signal() -> Iterator[asyncio.Event]:
    """Yield an event that SIGTERM and SIGINT set until the block ends."""
    loop = asyncio.get_running_loop()
    event = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, event.set)
    try:
        yield event
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)


def is_not_abandoned(record: LogRecord) -> bool:
    """Return False for a report about a connection, commit or future that aiokafka no longer needs.

    These are connections of a cancelled `bootstrap`, commits whose caller was cancelled, internal
    futures of a failed producer, and TLS connections that were closed while the broker still sent.
    A task of this program that has failed is always reported.
    """
    report = record.getMessage()
    error = record.exc_info[1] if record.exc_info else None
    of_aiokafka = type(error).__module__ == "aiokafka.errors"
    of_closing = getattr(error, "reason", None) == "APPLICATION_DATA_AFTER_CLOSE_NOTIFY"
    coroutine = report.partition(" exception=")[0]
    forgotten = "exception was never retrieved" in report and "stream_app" not in coroutine
    return not (
        (forgotten and (of_aiokafka or of_closing))
        or report.startswith("Unclosed AIOKafkaConnection")
    )
