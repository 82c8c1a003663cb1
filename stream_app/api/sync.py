"""The functions of the Python API for programs without an event loop. Each does what its namesake in `aio` does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from typing import Any, TypeVar

from stream_app.api.aio import find, follow_status, publish, read_books, read_results
from stream_app.api.settings import AnySettings
from stream_app.domain.books.report import Report
from stream_app.domain.messages import Lead, Result, StatusEvent
from stream_app.gateway.client import Found
from stream_app.publishing import Refusal, Summary

T = TypeVar("T")


def publish_sync(
    leads: Iterable[Lead | Mapping[str, Any]],
    settings: AnySettings = None,
    *,
    workspace: str | None = None,
    destination: str | None = None,
    import_id: str | None = None,
    bulk: bool = False,
    force: bool = False,
    on_refused: Callable[[Refusal], None] | None = None,
) -> Summary:
    """Do what `publish` does, without an event loop."""
    work = publish(
        leads,
        settings,
        workspace=workspace,
        destination=destination,
        import_id=import_id,
        bulk=bulk,
        force=force,
        on_refused=on_refused,
    )
    return _run("publish", work)


@contextmanager
def follow_status_sync(
    settings: AnySettings = None,
    *,
    lead_id: str | None = None,
    workspace: str | None = None,
    from_beginning: bool = False,
    idle_timeout_s: float | None = None,
) -> Generator[Iterator[StatusEvent]]:
    """Do what `follow_status` does, without an event loop: the events are an iterator."""
    following = follow_status(
        settings,
        lead_id=lead_id,
        workspace=workspace,
        from_beginning=from_beginning,
        idle_timeout_s=idle_timeout_s,
    )
    with _runner("follow_status") as runner:
        events = runner.run(following.__aenter__())
        try:
            yield _each(runner, events)
        finally:
            runner.run(following.__aexit__(None, None, None))


def find_lead_sync(lead: str, settings: AnySettings = None, *, workspace: str | None = None) -> Found:
    """Do what `find_lead` does, without an event loop."""
    return find(lead, settings, workspace)


def read_results_sync(
    settings: AnySettings = None,
    *,
    workspace: str | None = None,
    destination: str | None = None,
    since: datetime | None = None,
    on_unreadable: Callable[[str], None] | None = None,
) -> Generator[Result]:
    """Do what `read_results` does, without an event loop."""
    results = read_results(
        settings, workspace=workspace, destination=destination, since=since, on_unreadable=on_unreadable
    )
    with _runner("read_results") as runner:
        try:
            yield from _each(runner, results)
        finally:
            runner.run(results.aclose())


def read_books_sync(settings: AnySettings = None, *, limit: int = 20) -> Report:
    """Do what `read_books` does, without an event loop."""
    return _run("read_books", read_books(settings, limit=limit))


def _run(name: str, work: Coroutine[Any, Any, T]) -> T:
    try:
        with _runner(name) as runner:
            return runner.run(work)
    finally:
        work.close()


def _runner(name: str) -> asyncio.Runner:
    """Return a runner, unless this thread has a running event loop, which would be blocked."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.Runner()
    raise RuntimeError(f"{name}_sync() cannot be called in a running event loop: use {name}()")


def _each(runner: asyncio.Runner, items: AsyncIterator[T]) -> Iterator[T]:
    async def following() -> T:
        return await anext(items)

    while True:
        try:
            item = runner.run(following())
        except StopAsyncIteration:
            return
        yield item
