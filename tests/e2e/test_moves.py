"""Lanes move between partitions under load: nothing is lost, nothing is sent twice, and the books balance."""

from __future__ import annotations

import asyncio
import json
from random import Random

import pytest

from stream_app.dev.kafka import Broker
from tests.chaos.checker import Checker
from tests.chaos.evidence import read_evidence, read_lanes
from tests.chaos.moves import moves_of, moving
from tests.e2e.fleet import Fleet
from tests.e2e.load import Load
from tests.e2e.pipeline import OVER

pytestmark = pytest.mark.timeout(280)
KILLS = 4
SLOW = """
[[fault]]
kind = "slow"
share = 0.5
delay_s = 0.2
"""


@pytest.mark.slow
async def test_lanes_move_while_their_owners_are_killed(kafka: Broker, namespace: str) -> None:
    """Two workers, each the owner of some partitions. One is killed now and then, at a random moment of a move."""
    rng = Random(namespace)
    async with Fleet(kafka.bootstrap, namespace, 6, partitions=4, script=SLOW) as line:
        replay = line.start("replay")
        team = [line.join(), line.join()]
        for member in team:
            await member.joined(60)
        async with Load(line, 40, mixed=True) as load, moving(line, 1, 1.0):
            for _ in range(KILLS):
                await asyncio.sleep(rng.uniform(4, 8))
                gone = team.pop(rng.randrange(len(team)))
                gone.kill()
                team.append(line.join())
        at_rest = OVER - {"rerouted"}
        await line.until(
            lambda: sum(history[-1].status in at_rest for history in list(line.histories.values())) >= load.count,
            200,
            f"{load.count} records at rest",
        )
        line.check_histories()
        await line.stop(replay)
        for member in team:
            await line.stop(member.process)
        lanes = await read_lanes(line)
        assert moves_of(lanes) > KILLS
        checker = Checker(await read_evidence(line, dict(load.kinds), {}, resend=False))
        verdict = checker.verdict()
        assert not verdict.findings, "\n".join(checker.describe(each.about) for each in verdict.findings[:3])
        code, said = await line.run("books")
        assert code == 0, said


@pytest.mark.slow
async def test_an_operator_moves_a_lane(kafka: Broker, namespace: str) -> None:
    async with Fleet(kafka.bootstrap, namespace, 2, partitions=4) as line:
        worker = line.join()
        await worker.joined(60)
        await line.publish(line.leads(20))
        await line.until_over(20, 60)
        for to, text in (
            (0, "it is in partition 0 already"),
            (4, "no partition 4: the partitions are 0 to 3"),
        ):
            code, said = await line.run("lanes", "move", "w0", "--partition", str(to), "--why", "a test")
            assert (code, text in said) == (1, True), said
        code, said = await line.run("lanes", "move", "wx", "--partition", "2", "--why", "a test")
        assert (code, "wx" in said) == (2, True), said
        code, said = await line.run("lanes", "move", "w0", "--partition", "2", "--why", "a test")
        assert code == 0, said
        assert "moves from partition 0 to 2" in said
        await line.publish(line.leads(20))  # the same leads: their rows have moved
        await line.publish([line.lead(100, "w0")])
        await line.until_over(41, 60)
        assert line.summary()["accepted"] == 21
        code, said = await line.run("lanes", "--json", "--workspace", "w0")
        view = json.loads(said)["facts"]["lanes"][0]["view"]
        assert (view["partition"], view["moves"], view.get("holds")) == (2, 1, None), view
        code, said = await line.run("lanes", "pause", "w0", "--why", "its command follows it")
        assert code == 0, said
        code, said = await line.run("lanes", "log", "w0")
        assert "moves from partition 0 to 2" in said
        code, said = await line.run("books")
        assert code == 0, said
