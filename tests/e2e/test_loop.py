"""Callbacks on a real Kafka: worker, replay process, gateway, and a Clay that calls back, wrongly
or not at all.
"""

import time
from collections import Counter
from typing import Final

import msgspec
import pytest

from stream_app.dev.kafka import Broker
from stream_app.domain.model.messages import Callback
from tests.e2e.cached_outage import filled
from tests.e2e.fleet import now_ms
from tests.e2e.loop import CONFIG, TABLE, Loop
from tests.e2e.pipeline import ANSWERED
from tests.support.pace import slowness

pytestmark = pytest.mark.timeout(180)

FAULTS: Final = """
[[fault]]
kind = "callbacks_lost"
share = 0.2
[[fault]]
kind = "callbacks_doubled"
share = 0.1
[[fault]]
kind = "callbacks_late"
share = 0.1
delay_s = 9
[[fault]]
kind = "slow"
share = 0.2
delay_s = 0.5
"""
REDIS: Final = """
[redis]
url_env = "CACHE_URL"
"""


@pytest.mark.slow
async def test_every_lead_ends_once_despite_bad_callbacks_and_kills(
    kafka: Broker,
    namespace: str,
    redis_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """300 leads; 20 % of the callbacks are lost, 10 % double, 10 % late; worker and gateway are
    killed. Redis is the cache.
    """
    monkeypatch.setenv("CACHE_URL", redis_url)
    async with Loop(
        kafka.bootstrap,
        namespace,
        2,
        callbacks=True,
        config=CONFIG + REDIS,
        script=TABLE + FAULTS,
        # What is lost here is no silence, also while the gateway is away for long on a busy
        # machine.
        workspace="callback_health = { overdue = 300 }",
        destination="callback_deadline_s = 7\ncallback_grace_s = 6\nestimate_credits = 9",
        rate_per_s=20,
        burst=10,
    ) as line:
        gateway = line.start("gateway")
        await line.receives()
        await line.publish(line.leads(300))
        worker = line.join()
        replay = line.start("replay")
        await line.until(lambda: line.answered() >= 30, 60, "results come back")
        worker.kill()
        killed_ms = time.time_ns() // 1_000_000
        worker = line.join()
        await line.until(lambda: line.answered() >= 100, 60, "another worker goes on")
        gateway.kill()
        gateway = line.start("gateway")
        await line.receives()
        await line.report_again()  # those whose callback met no gateway, with Clay's defaults
        await line.until(lambda: len(line.ended()) >= 300, 90, "every lead ends")
        await line.until_clay_rests(30)
        # Behind the last callback, so that what it changes is seen: none of it may be reported
        # twice.
        records = await line.read(line.settings.names.callbacks)
        settled = ANSWERED | {"callback_duplicate", "callback_unmatched"}
        await line.until(
            lambda: (
                sum(
                    event.status in settled
                    for history in list(line.histories.values())
                    for event in history
                )
                >= len(records)
            ),
            30,
            f"{len(records)} callbacks are concluded",
        )
        ended = line.ended()
        assert len(ended) == 300
        assert len({event.lead_id for event in ended.values()}) == 300, (
            "one final state for each lead"
        )
        line.check_histories()
        assert not line.posted_again()
        parked = Counter(event.reason for event in ended.values() if event.status == "parked")
        # `uncertain`: its POST was under way as the worker died, and its callback was lost, too.
        assert parked.keys() <= {"no_callback", "uncertain"}, parked
        unsure = [
            history for history in line.histories.values() if history[-1].reason == "uncertain"
        ]
        sent_ms = [
            event.at_ms for history in unsure for event in history if event.status == "sending"
        ]
        assert all(at_ms <= killed_ms for at_ms in sent_ms), (
            "only what was under way as the worker died"
        )
        assert parked["no_callback"] >= 30, "20 % of 300, by the seed"
        answered = {event.lead_id for event in ended.values() if event.status in ANSWERED}
        assert len(answered) >= 150
        came = {msgspec.json.decode(record.value, type=Callback).lead_id for record in records}
        assert answered == came, "each callback on Kafka settles its lead, and nothing else does"
        acknowledged = {
            row["lead_id"]
            for row in line.ledger()
            if row["kind"] == "callback" and row["status"] == 200
        }
        assert acknowledged <= came, "what the gateway acknowledged outlived it"
        charged = line.charged()
        booked = line.booked()
        assert {lead: charged[lead] for lead in answered} == {
            lead: booked[lead] for lead in answered
        }
        enriched = {
            event.lead_id for event in ended.values() if event.status in ("enriched", "partial")
        }
        assert enriched
        await filled(line, redis_url, len(enriched))
        # Both copies of a callback that came twice at once share a place in the gateway, so the
        # worker sees one; each caller gets its 200.
        calls = Counter(
            row["lead_id"]
            for row in line.ledger()
            if row["kind"] == "callback" and row["status"] == 200
        )
        assert sum(times > 1 for times in calls.values()) >= 10, "those that came twice"
        late = [
            history
            for history in line.histories.values()
            if "callback_overdue" in {event.status for event in history}
        ]
        assert any(history[-1].status in ANSWERED for history in late), (
            "an answer after the deadline counts"
        )
        for process in (worker, gateway, replay):
            assert await process.stop() == 0
        await line.books_balance()


@pytest.mark.parametrize(
    "cause",
    [
        pytest.param("credits", marks=pytest.mark.slow),
        pytest.param("auto-run", marks=pytest.mark.long),
    ],
)
async def test_a_lane_without_callbacks_is_suspended(
    kafka: Broker,
    namespace: str,
    cause: str,
) -> None:
    """The credits are used up, or auto-run is off: Clay answers 2xx to every lead and calls back
    about none. When that is repaired, the lane continues.
    """
    deadline_s = 3
    overdue = 5
    rate_per_s = 10
    burst = 5
    leads = 110
    async with Loop(
        kafka.bootstrap,
        namespace,
        1,
        callbacks=True,
        script=TABLE + f"[plan]\ncredits = {200 if cause == 'credits' else 6_000}\n",
        workspace=f"callback_health = {{ overdue = {overdue} }}",
        destination=(
            f"callback_deadline_s = {deadline_s}\ncallback_grace_s = 120\nestimate_credits = 9"
        ),
        rate_per_s=rate_per_s,
        burst=burst,
    ) as line:
        gateway = line.start("gateway")
        await line.receives()
        worker = line.join()
        await line.publish(line.leads(leads))
        await line.until(lambda: line.answered() >= 10, 60, "results come back")
        if cause == "auto-run":
            line.control("POST", "/control/auto-run", {"webhook": "w0--crm", "on": False})
        await line.until(
            lambda: line.last()["credits_exhausted_suspected"] == 1,
            90,
            "the silence is reported",
        )
        reported = next(
            s[-1] for s in line.histories.values() if s[-1].status == "credits_exhausted_suspected"
        )
        last_ms = max(row["at_ms"] for row in line.ledger() if row["kind"] == "callback")
        assert reported.at_ms - last_ms <= (2 * deadline_s + 30) * 1_000
        assert reported.reason == "no_callbacks"
        assert reported.text.startswith(f"{overdue} leads of {reported.destination} are overdue")
        assert "auto-run is off in the table of" in reported.text
        assert "it called back last at 2" in reported.text
        await line.until(
            lambda: line.last()["held_paused"] >= 1,
            30,
            "the lane says that it is held",
        )
        # Into the void went what the rate allows until the first leads were overdue, and in the 3 s
        # that a worker may take to notice.
        wasted = [request for request in line.requests() if request.at_ms > last_ms]
        times = slowness()
        most = burst + rate_per_s * (deadline_s + overdue / rate_per_s + 3 * times)
        assert len(wasted) <= most
        assert not await line.requests_after(reported.at_ms + 1_000 * times)
        output = await line.done("lanes", "--json")
        assert '"no_callbacks"' in output

        if cause == "auto-run":
            line.control("POST", "/control/auto-run", {"webhook": "w0--crm", "on": True})
        else:
            line.control("POST", "/control/credits", {"workspace": "w0", "add": 6_000})
        line.control("POST", "/control/rerun", {"webhook": "w0--crm"})
        await line.done("lanes", "resume", "w0", "--why", "repaired")
        resumed_ms = now_ms()
        await line.until(lambda: line.answered() >= leads, 60, "all are answered")
        assert any(request.at_ms > resumed_ms for request in line.requests())
        # A row that is run again costs again what it cost already, and Clay's cell says the sum of
        # both runs. A lead that had an answer before is booked again when its second one comes.
        await line.until(lambda: line.charged() == line.booked(), 30, "each cost is booked")
        line.check_histories()
        assert not line.posted_again()
        for process in (worker, gateway):
            assert await process.stop() == 0
        await line.books_balance()
