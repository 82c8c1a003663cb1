"""Work that runs until an event or an error."""

import asyncio

import pytest

from stream_app.tasks import run_until


async def test_work_is_cancelled_when_the_process_is_to_stop() -> None:
    stop, ended = asyncio.Event(), asyncio.Event()

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    asyncio.get_running_loop().call_soon(stop.set)
    await run_until(stop, work())
    assert ended.is_set()


async def test_the_error_of_the_work_ends_the_process() -> None:
    async def work() -> None:
        raise ValueError("a bug")

    with pytest.raises(ValueError, match="a bug"):
        await run_until(asyncio.Event(), work())
