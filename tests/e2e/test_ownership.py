"""A worker that lost its partitions POSTs nothing that its successor also POSTs, wherever it was stopped."""

from __future__ import annotations

import subprocess
from collections import Counter
from pathlib import Path

import pytest

from stream_app.dev.kafka import Broker, LocalKafka
from tests.e2e import freezing
from tests.e2e.fleet import Fleet, Member, now_ms
from tests.e2e.freezing import STATIONS
from tests.e2e.load import Load
from tests.proxy import Proxy, proxied_kafka

pytestmark = pytest.mark.timeout(120)
SESSION_S = 6.0
CONFIG = """
[line]
request_timeout_s = 7
connect_timeout_s = 1
max_request_start_age_s = 4
commit_timeout_s = 5
uncertain_grace_s = 12
"""
SLOW = """
[[fault]]
kind = "slow"
delay_s = 0.3
"""


async def test_a_worker_frozen_at_any_station_sends_nothing_that_its_successor_sends(
    kafka: Broker, namespace: str
) -> None:
    """One worker for each station, all frozen past their session; one more takes all their lanes over."""
    count = len(STATIONS) + 1
    async with Fleet(kafka.bootstrap, namespace, count, partitions=count, config=CONFIG, script=SLOW) as line:
        script = str(Path(freezing.__file__))
        frozen = {
            station: line.join(program=(script, station, str(line.directory))) for station in STATIONS
        }
        successor = line.join()
        async with Load(line, 150) as load:
            await line.spread(line.members, 40)
            (line.directory / "freeze").touch()
            await line.until(lambda: all(member.frozen for member in frozen.values()), 10, "all are frozen")
            stopped_ms = now_ms()
            moved = await line.first_request(line.names, stopped_ms + 1_000, SESSION_S + 10)
            assert max(moved.values()) > 3_000, "some lanes had to wait for the session to end"
            thawed_ms = now_ms()
            for member in frozen.values():
                member.thaw()
            import time; t0=time.time(); print("moved", moved, "startup..thaw", (thawed_ms-stopped_ms))
            ends = {station: await _end_of(member, 20) for station, member in frozen.items()}
        print("ends", ends, time.time()-t0)
        for st, m in frozen.items(): print(st, m.said()[-2:])
        assert successor.alive
        await line.until_rest(load.count, 40)
        for station, member in frozen.items():
            _check_words(station, member, ends[station])
        leads = {station: (line.directory / f"{station}.lead").read_text() for station in STATIONS}
        late = {request.lead_id for request in line.requests() if request.at_ms >= thawed_ms}
        assert leads["before_age_check"] not in late, "its age check lets no POST start so late"
        _check_ends(line, leads)
        for l in leads.values(): print(line.tell(l))
        print(line.last(), load.count)
        assert 0
        assert await line.stop(successor.process) == 0


async def _end_of(member: Member, within_s: float) -> int | None:
    """The exit code of a worker that ends by itself; None for one that joined the group again."""
    try:
        return await member.ended(within_s)
    except subprocess.TimeoutExpired:
        return None


def _check_words(station: str, member: Member, code: int | None) -> None:
    """A fenced worker says so in one line, and its exit code is not 0."""
    words = member.last_words()
    assert not any("Traceback" in line for line in member.said()), (station, member.said())
    if code is None:
        assert not words, (station, words)
        return
    assert code == 1, (station, code, member.said()[-5:])
    assert len(words) == 1, (station, words)
    assert "later owner" in words[0], (station, words)


def _check_ends(line: Fleet, leads: dict[str, str]) -> None:
    """What became of the very lead at which each worker was frozen."""
    by_lead = {story[-1].lead_id: story[-1] for story in line.stories.values()}
    sent = Counter(request.lead_id for request in line.requests())
    where = {station: f"{station}: {line.tell(lead)}" for station, lead in leads.items()}
    for station in ("before_write_ahead", "request_sent", "after_answer", "before_settle", "after_settle"):
        assert sent[leads[station]] == 1, where[station]
    assert by_lead[leads["before_write_ahead"]].status == "accepted", where["before_write_ahead"]
    for station in ("after_write_ahead", "before_age_check", "after_age_check", "after_answer", "request_sent"):
        assert by_lead[leads[station]].status == "parked", where[station]
    assert sent[leads["before_age_check"]] == 0, where["before_age_check"]
    assert by_lead[leads["after_settle"]].status == "accepted", where["after_settle"]
