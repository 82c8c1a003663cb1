"""Many waiting dead letters delay none that is due, and cost no memory (benchmarks/waiting.py has the million)."""

import asyncio
from pathlib import Path

import pytest

from benchmarks.dead_letters import prepare
from benchmarks.waiting import measure
from stream_app.dev.kafka import Broker
from tests.support.pace import slowness

pytestmark = pytest.mark.timeout(240)


@pytest.mark.slow
def test_due_replays_are_sent_while_thousands_wait(kafka: Broker, namespace: str, tmp_path: Path) -> None:
    config, settings = prepare(tmp_path, kafka.bootstrap, namespace)
    seen = asyncio.run(measure(settings, config, waiting=30_000, sorting=2_000, rounds=6))
    assert len(seen.late_ms) == 300
    assert seen.late_ms[0] >= 0, "one came before it was due"
    assert seen.late_ms[270] < 2_000 * slowness(), "others that wait have held it up"
    assert seen.rss_after_bytes - seen.rss_before_bytes < 20 * 2**20
    assert seen.rss_after_bytes < 300 * 2**20
    assert (seen.exit_code, seen.term_s < 15 * slowness()) == (0, True)
