"""Replays on real Kafka while the lane is held, and by several processes at once."""

import asyncio
from collections import Counter

import pytest

from stream_app.dev.kafka import Broker
from tests.e2e.behind import behind, caught_up, eventually
from tests.e2e.pipeline import Pipeline
from tests.e2e.test_replay import CONFIG, DOWN, LANE

pytestmark = pytest.mark.timeout(240)


async def test_an_outage_uses_no_replay_attempt_and_causes_no_loop(kafka: Broker, namespace: str) -> None:
    config = """
[delivery]
max_attempts = 1
max_in_flight = 2
[replay]
max_replays = 1
backoff_base_s = 1
backoff_cap_s = 1
tiers_s = [1, 600]
"""
    lane = """
[workspaces.{name}.breaker]
consecutive_failures = 4
open_s = 1
"""
    async with Pipeline(kafka.bootstrap, namespace, 1, config=config, lane=lane) as line:
        names = line.settings.names
        line.control("POST", "/control/faults", DOWN)
        worker, replay = line.start("worker"), line.start("replay")
        await line.publish(line.leads(40))
        # Long enough for each dead letter to have come back many times over, and parked.
        await line.until(lambda: line.summary()["requests"] >= 16, 60, "the breaker has probed again and again")
        await eventually(lambda: behind(line, {names.replay_app: [names.dlq, names.wait(1)]}), 30)
        dead_letters, back = len(await line.read(names.dlq)), len(await line.read(names.retry))
        assert 1 <= dead_letters <= 6, "only those that failed while the breaker was still closed"
        assert back == dead_letters, "each has come back once, and waits at the gate"
        assert "parked" not in line.last()

        line.control("DELETE", "/control/faults")
        await line.until(lambda: line.last() == {"accepted": 40}, 40, "all are accepted")
        await line.stop(replay)
        await line.stop(worker)
        line.check_histories()
        steps = Counter(event.status for history in line.histories.values() for event in history)
        assert (steps["dead_lettered"], steps["replayed"], steps["parked"]) == (dead_letters, dead_letters, 0)
        assert all(event.attempt <= 1 for history in line.histories.values() for event in history)
        assert set(line.summary()["leads"].values()) == {1}


@pytest.mark.long
async def test_replay_processes_join_die_and_leave_under_load(kafka: Broker, namespace: str) -> None:
    async with Pipeline(kafka.bootstrap, namespace, 4, config=CONFIG, lane=LANE, rate_per_s=40) as line:
        line.control("POST", "/control/faults", DOWN)
        await line.publish(line.leads(600))
        worker = line.start("worker")
        await line.until(lambda: line.last()["dead_lettered"] == 600, 60, "600 dead letters")
        line.control("DELETE", "/control/faults")
        line.control("POST", "/control/faults", {**DOWN, "share": 0.6})

        first, second, third = (line.start("replay") for _ in range(3))
        await line.until(lambda: replayed(line) >= 100, 60, "they are at work")
        first.kill()
        await asyncio.to_thread(first.wait, 10)
        late = line.start("replay")
        await line.until(lambda: replayed(line) >= 500, 60, "the others go on")
        assert await line.stop(second) == 0
        await line.until_over(600, 90)
        await caught_up(line)
        for replay in (third, late, worker):
            assert await line.stop(replay) == 0
        check(line)
        states = line.last()
        assert states["accepted"] + states["parked"] == 600, states
        assert min(states["accepted"], states["parked"]) > 50, states
        await line.books_balance()


def replayed(line: Pipeline) -> int:
    return sum(event.status == "replayed" for history in list(line.histories.values()) for event in history)


def check(line: Pipeline) -> None:
    """Check what must hold whenever nothing is under way."""
    line.check_histories()
    for history in line.histories.values():
        steps = Counter((event.status, event.epoch) for event in history)
        assert all(times <= {"replayed": 2, "parked": 1}.get(status, 99) for (status, _), times in steps.items()), steps
    rows = line.summary()["leads"]
    assert set(rows.values()) <= {1}, "none was POSTed twice into a row"
    accepted = {history[0].lead_id for history in line.histories.values() if history[-1].status == "accepted"}
    assert accepted == set(rows)
