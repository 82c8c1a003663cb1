"""Static members of the group: a restart within the session moves no partition, and no two have one name."""

import asyncio

import pytest

from stream_app.dev.kafka import Broker
from stream_app.domain.errors import NameTaken
from stream_app.faust_app.run import run_app
from tests.support.bench import PARTITIONS, Owner, Recorder, make_bench, running
from tests.support.kafka import publish, until
from tests.support.pace import BUSY


async def test_a_restart_within_the_session_moves_nothing(kafka: Broker, namespace: str) -> None:
    bench = await make_bench(kafka, namespace)
    stays, before, after = Owner(), Owner(), Owner()
    seen = Recorder(after)
    async with running(bench.app({bench.leads: Recorder(stays)}, stays, "one")):
        await until(lambda: len(stays.owned) == PARTITIONS)
        async with running(bench.app({bench.leads: Recorder(before)}, before, "two")):
            await until(lambda: len(stays.owned) == len(before.owned) == PARTITIONS // 2)
            mine, calls = set(before.owned), len(stays.calls)
        async with running(bench.app({bench.leads: seen}, after, "two")):
            await until(lambda: after.owned == mine)
            await publish(bench.bootstrap, bench.leads, [b"0", b"1", b"2", b"3"], PARTITIONS)
            await until(lambda: len(seen.values) == len(mine))
            assert len(stays.calls) == calls, "the other one was not asked to let anything go"
            assert stays.owned.isdisjoint(mine)


async def test_of_two_with_one_name_the_first_ends_and_says_why(kafka: Broker, namespace: str) -> None:
    bench = await make_bench(kafka, namespace)
    first, second = Owner(), Owner()
    runs = asyncio.create_task(run_app(bench.app({bench.leads: Recorder(first)}, first, "worker-0")))
    await until(lambda: len(first.owned) == PARTITIONS)
    async with running(bench.app({bench.leads: Recorder(second)}, second, "worker-0")):
        await until(lambda: len(second.owned) == PARTITIONS)
        async with asyncio.timeout(20 * BUSY):
            with pytest.raises(NameTaken, match=r"another process has joined the group .*group as worker-0"):
                await runs
        calls = len(second.calls)
        await asyncio.sleep(2)
        assert len(second.calls) == calls, "it keeps what it has"
