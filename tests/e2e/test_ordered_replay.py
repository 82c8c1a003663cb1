"""Ordered replays on real Kafka: the command and the replay process are killed in the middle, and
it is stopped.
"""

import asyncio
import sys
from collections import Counter
from typing import Any

import msgspec
import pytest

from stream_app.dev.kafka import Broker
from stream_app.replay.orders import change_command, ordered_replays, submit
from tests.e2e.behind import eventually
from tests.e2e.pipeline import Pipeline
from tests.e2e.replaying import CONFIG, DOWN, LANE
from tests.support.pace import BUSY

pytestmark = pytest.mark.timeout(300)


@pytest.mark.slow
async def test_a_killed_replay_process_is_continued_and_sends_each_dead_letter_once(
    kafka: Broker,
    namespace: str,
) -> None:
    leads = 30
    async with Pipeline(
        kafka.bootstrap,
        namespace,
        1,
        config=CONFIG,
        lane=LANE,
    ) as line:
        assert (await line.run("replay", "pause", "--why", "only what is ordered"))[0] == 0
        line.control("POST", "/control/faults", DOWN)
        await line.publish(line.leads(leads))
        worker = line.start("worker")
        replay = line.start("replay")
        await line.until(lambda: line.last()["dead_lettered"] == leads, 60, "all are dead letters")
        line.control("DELETE", "/control/faults")

        # The command is killed as soon as some dead letters were sent.
        argv = [
            "-m",
            "stream_app",
            "replay",
            "select",
            "--yes",
            "--rate",
            "2",
            "--why",
            "Clay is back",
        ]
        config = str(line.directory / "stream_app.toml")
        log = line.directory / "select.log"
        select = line.children.spawn([sys.executable, *argv, "--config", config], log=log)
        await sent(line, 3)
        select.kill()
        await asyncio.to_thread(select.wait, 30 * BUSY)

        replay.kill()
        replay = line.start("replay")
        after_kill = await sent(line, (await state(line))["sent"] + 3)

        # Stopped, it sends nothing; resumed, the rest.
        await submit(line.settings, change_command("stop", after_kill["id"], "joe", "a look first"))
        stopped = await state(line, "stopped")
        assert stopped["sent"] < leads
        assert stopped["sent"] == len(await line.read(line.settings.names.retry))
        code, resumed = await line.ask("replay", "resume", after_kill["id"])
        assert code == 0, resumed
        assert resumed["state"] == "running", resumed
        await line.until(lambda: line.last()["accepted"] == leads, 120, "all are accepted")
        done = await state(line, "done")
        assert done["sent"] == leads
        assert done["total"] == leads
        assert done["why"] == "Clay is back"
        places = Counter(
            dict(record.headers)["stream-app-redriven-from"]
            for record in await line.read(line.settings.names.retry)
        )
        assert sorted(places.values()) == [1] * leads, "each dead letter went back once"
        output = await line.done("lanes", "log")
        assert "Clay is back" in output, "the audit has both"
        assert "a look first" in output, "the audit has both"
        line.check_histories()
        assert set(line.summary()["leads"].values()) == {1}
        assert await replay.stop() == 0
        assert await worker.stop() == 0
        await line.books_balance()


async def state(line: Pipeline, wanted: str = "") -> Any:
    """Return the only replay, once it is in this state."""
    progress: dict[str, Any] = {"sent": 0, "state": ""}

    async def missing() -> bool:
        nonlocal progress
        for replay in (await ordered_replays(line.settings)).replays.values():
            progress = msgspec.structs.asdict(replay)
        return bool(wanted) and progress["state"] != wanted

    await eventually(missing, 60)
    return progress


async def sent(line: Pipeline, least: int) -> Any:
    """Wait until so many were sent back, or all, and return the replay."""
    progress: Any = None

    async def too_few() -> bool:
        nonlocal progress
        progress = await state(line)
        return bool(progress["state"] != "done" and progress["sent"] < least)

    await eventually(too_few, 90)
    return progress
