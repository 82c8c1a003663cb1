"""The functions of the Python API for programs without an event loop. Each does what its namesake in `aio` does."""

from __future__ import annotations

import asyncio
import inspect
import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Generator, Iterator
from contextlib import AbstractAsyncContextManager, AbstractContextManager, contextmanager
from functools import update_wrapper
from typing import Any, ParamSpec, TypeVar

from stream_app.api import aio
from stream_app.api.settings import AnySettings
from stream_app.client.lookup import Found

P = ParamSpec("P")
T = TypeVar("T")


def find_lead_sync(lead: str, settings: AnySettings = None, *, workspace: str | None = None) -> Found:
    """Do what `find_lead` does, without an event loop."""
    return aio.find(lead, settings, workspace)


def _blocking_call(function: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, T]:
    """Return a blocking version of a coroutine function."""

    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        with _runner(function) as runner:
            return runner.run(function(*args, **kwargs))

    return _described(call, function)


def _blocking_generator(function: Callable[P, AsyncGenerator[T]]) -> Callable[P, Generator[T]]:
    """Return a blocking version of an asynchronous generator function."""

    def call(*args: P.args, **kwargs: P.kwargs) -> Generator[T]:
        with _runner(function) as runner:
            items = function(*args, **kwargs)
            try:
                yield from _each(runner, items)
            finally:
                runner.run(items.aclose())

    return _described(call, function)


def _blocking_context(
    function: Callable[P, AbstractAsyncContextManager[AsyncIterator[T]]],
) -> Callable[P, AbstractContextManager[Iterator[T]]]:
    """Return a blocking version of a function whose context manager yields an iterator."""

    @contextmanager
    def call(*args: P.args, **kwargs: P.kwargs) -> Generator[Iterator[T]]:
        with _runner(function) as runner:
            following = function(*args, **kwargs)
            items = runner.run(_entered(following))
            try:
                yield _each(runner, items)
            finally:
                runner.run(following.__aexit__(None, None, None))

    return _described(call, function)


def _blocking(text: str) -> str:
    """Return an example in a docstring as it is written without an event loop."""
    plain = text.replace("async ", "").replace("await ", "")
    return re.sub(r"\b(publish|follow_status)\(", r"\1_sync(", plain)


async def _entered(following: AbstractAsyncContextManager[T]) -> T:
    return await following.__aenter__()


def _described(call: Callable[P, T], function: Callable[..., Any]) -> Callable[P, T]:
    """Give `call` the arguments and the documentation of `function`, and its name with `_sync`."""
    update_wrapper(call, function)
    call.__name__ = call.__qualname__ = f"{function.__name__}_sync"
    call.__module__ = __name__
    call.__doc__ = (
        f"Do what `{function.__name__}` does, without an event loop.\n\n    {_blocking(function.__doc__ or '')}"
    )
    signature = inspect.signature(function)
    returned = str(signature.return_annotation).replace("Async", "")
    call.__signature__ = signature.replace(return_annotation=returned)  # type: ignore[attr-defined]  # help() shows it
    return call


def _runner(function: Callable[..., Any]) -> asyncio.Runner:
    """Return a runner, unless this thread has a running event loop, which would be blocked."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.Runner()
    name = function.__name__
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


publish_sync = _blocking_call(aio.publish)
read_books_sync = _blocking_call(aio.read_books)
read_results_sync = _blocking_generator(aio.read_results)
follow_status_sync = _blocking_context(aio.follow_status)
