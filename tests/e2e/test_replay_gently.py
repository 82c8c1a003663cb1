"""Replays on real Kafka while the lane is held."""

from collections import Counter

import pytest

from stream_app.dev.kafka import Broker
from tests.e2e.behind import behind, eventually
from tests.e2e.pipeline import Pipeline
from tests.e2e.test_replay import DOWN

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
