"""Parts that run side by side until one fails: which error counts, and that none of them outlives
the others.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress

from stream_app.tasks import cancel, finish, until_failure
from tests.support.partition.virtual import virtual_time


async def _fails(after_s: float, error: Exception) -> None:
    await asyncio.sleep(after_s)
    raise error


async def _for_ever(ended: Callable[[], None]) -> None:
    try:
        await asyncio.Event().wait()
    finally:
        ended()


@virtual_time
async def test_the_error_of_the_part_that_failed_is_returned_and_the_others_are_cancelled() -> None:
    ended: list[str] = []
    error = ValueError("a bug")
    assert (
        await until_failure(_for_ever(lambda: ended.append("first")), _fails(1.0, error)) is error
    )
    assert ended == ["first"]


@virtual_time
async def test_of_parts_that_fail_at_once_the_first_one_counts() -> None:
    """A step that waits for a failed commit fails with it: the commit's own error says why."""
    failed = asyncio.get_running_loop().create_future()

    async def commits() -> None:
        await asyncio.sleep(1.0)
        failed.set_exception(LookupError("a step"))
        raise ValueError("the commit")

    async def waits() -> None:
        await failed

    assert str(await until_failure(commits(), waits())) == "the commit"


@virtual_time
async def test_a_part_that_completes_ends_nothing() -> None:
    error = ValueError("later")
    assert await until_failure(asyncio.sleep(0.1), _fails(5.0, error)) is error
    assert isinstance(await until_failure(asyncio.sleep(0.1)), RuntimeError)


@virtual_time
async def test_a_cancellation_that_escapes_from_foreign_code_is_a_failure() -> None:
    async def escapes() -> None:
        await asyncio.sleep(1.0)
        raise asyncio.CancelledError

    error = await until_failure(escapes(), _for_ever(lambda: None))
    assert "was cancelled without a request" in str(error)


@virtual_time
async def test_it_does_not_end_before_a_part_that_swallows_its_cancellation() -> None:
    ended: list[str] = []

    async def stubborn() -> None:
        with suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(2.5)
        await _for_ever(lambda: ended.append("stubborn"))

    running = asyncio.create_task(
        until_failure(stubborn(), _for_ever(lambda: ended.append("other"))),
    )
    await asyncio.sleep(1.0)
    await cancel([running])
    assert running.cancelled()
    assert ended == ["other", "stubborn"]


@virtual_time
async def test_a_cancellation_while_the_others_end_is_not_lost() -> None:
    """Else an owner that is closed in this moment would take its partition over again."""

    async def slow_to_end() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.5)

    running = asyncio.create_task(until_failure(_fails(1.0, ValueError("a bug")), slow_to_end()))
    await asyncio.sleep(1.2)
    running.cancel()
    await asyncio.wait([running])
    assert running.cancelled()


@virtual_time
async def test_what_has_to_end_ends_however_often_its_task_is_cancelled() -> None:
    """Otherwise a transaction would stay open in the middle."""
    ended: list[str] = []

    async def ends() -> None:
        await asyncio.sleep(2.5)
        ended.append("work")

    async def works() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await finish(ends())

    task = asyncio.create_task(works())
    await asyncio.sleep(0.1)
    await cancel([task])  # again and again, each second
    assert ended == ["work"]
    assert task.cancelled()
