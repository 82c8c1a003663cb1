"""Leads that are run by routines, on a real Kafka, with worker, replay process and gateway."""

import asyncio
import time
import urllib.error
import urllib.request
from collections import Counter
from functools import partial
from typing import Final

import msgspec
import pytest

from stream_app.dev.kafka import Broker
from stream_app.domain.callback.run_webhook import sign_run
from tests.e2e.fleet import Run, now_ms
from tests.e2e.loop import CONFIG
from tests.e2e.pipeline import ANSWERED
from tests.e2e.routine_line import TABLE, RoutineLine
from tests.support.pace import BUSY, slowness
from tests.support.proxy import ProxiedKafka
from tests.support.terminal import COLUMNS, run_at_terminal

pytestmark = pytest.mark.timeout(240)

LATE: Final = (600,)
"""Nobody asks for a result while a test runs, unless a notification says that it is there."""
LOST: Final = '[[fault]]\nkind = "reset_after_read"\nendpoint = "run"\n'
"""Each run is made, and its answer is lost."""
KILLS_AT: Final = (20, 60, 100)
"""A worker is killed when this many leads have answers."""
MAX_IN_FLIGHT: Final = 3
"""POSTs of one partition and of one lane: what a kill leaves uncertain at most."""


def after_a_command() -> tuple[int]:
    """Return when a result is asked for first, in seconds: later than a command takes before."""
    return (min(90, round(30 * slowness())),)


def has_answered(line: RoutineLine, least: int) -> bool:
    return line.answered() >= least


async def test_results_come_back_by_polling_alone_without_a_public_address(
    kafka: Broker,
    namespace: str,
) -> None:
    async with RoutineLine(
        kafka.bootstrap,
        namespace,
        2,
        routines=("w0", "w1"),
        public=False,
        rate_per_s=20,
        burst=20,
    ) as line:
        await line.publish(line.leads(60))
        worker = line.join()
        await line.until(lambda: line.answered() >= 60, 60, "all results are fetched")
        await line.check_account()
        assert line.charged() == line.booked()
        polls = line.polls()
        assert polls.keys() == {f"lead-{number}" for number in range(60)}
        assert polls.total() <= 3 * 60
        await line.end_balanced(worker)


async def test_a_notification_makes_it_one_poll_a_lead(kafka: Broker, namespace: str) -> None:
    async with RoutineLine(
        kafka.bootstrap,
        namespace,
        2,
        routines=("w0", "w1"),
        notified=("w0", "w1"),
        poll_after_s=LATE,
        rate_per_s=20,
        burst=20,
    ) as line:
        gateway = line.start("gateway")
        await line.receives()
        await line.publish(line.leads(60))
        worker = line.join()
        await line.until(lambda: line.answered() >= 60, 60, "all results are fetched")
        await line.check_account()
        assert line.charged() == line.booked()
        # Clay notes an announcement once the gateway has answered it. The worker may be sooner.
        await line.until(lambda: line.told().total() >= 60, 30, "Clay noted its announcements")
        assert line.polls() == line.told() == {f"lead-{number}": 1 for number in range(60)}
        await line.end_balanced(worker, gateway)


async def test_a_lost_answer_settles_itself_by_its_notification(
    kafka: Broker,
    namespace: str,
) -> None:
    async with RoutineLine(
        kafka.bootstrap,
        namespace,
        1,
        routines=("w0",),
        notified=("w0",),
        script=TABLE + LOST,
        poll_after_s=LATE,
    ) as line:
        gateway = line.start("gateway")
        await line.receives()
        await line.publish(line.leads(10))
        worker = line.join()
        await line.until(lambda: line.answered() >= 10, 60, "all results are fetched")
        await line.check_account()
        assert len(line.uncertain()) == 10
        assert len(line.requests()) == 10
        assert line.charged() == line.booked()
        await line.end_balanced(worker, gateway)


async def test_a_lost_answer_without_a_notification_waits_for_a_person(
    kafka: Broker,
    namespace: str,
) -> None:
    """A person sends it again, knowing that it may be paid twice: then it has two runs."""
    async with RoutineLine(
        kafka.bootstrap,
        namespace,
        1,
        routines=("w0",),
        public=False,
        script=TABLE + LOST,
    ) as line:
        await line.publish(line.leads(3))
        worker = line.join()
        replay = line.start("replay")
        await line.until_last({"parked": 3}, 60)
        assert {event.reason for event in line.ended().values()} == {"uncertain"}
        assert len(line.requests()) == 3, "nothing is sent again by itself"
        line.control("DELETE", "/control/faults")
        await line.done(
            "replay",
            "redrive",
            "--uncertain",
            "--limit",
            "10",
            "--yes",
        )
        await line.until(lambda: line.answered() >= 3, 60, "the second runs are fetched")
        again = frozenset(f"lead-{number}" for number in range(3))
        await line.check_account(again=again)
        assert Counter(line.runs().values()) == dict.fromkeys(again, 2)
        await line.end_balanced(worker, replay)


async def test_a_storm_of_429_on_polls_delays_results_and_loses_none(
    kafka: Broker,
    namespace: str,
) -> None:
    async with RoutineLine(
        kafka.bootstrap,
        namespace,
        1,
        routines=("w0",),
        public=False,
        rate_per_s=20,
        burst=20,
    ) as line:
        line.control(
            "POST",
            "/control/faults",
            {"kind": "rate_limited", "endpoint": "results", "share": 0.7},
        )
        await line.publish(line.leads(40))
        worker = line.join()
        await line.until(lambda: line.polls(429).total() >= 5, 90, "Clay refuses polls")
        line.control("DELETE", "/control/faults")
        await line.until(lambda: line.answered() >= 40, 90, "all results are fetched")
        await line.check_account()
        assert not [request for request in line.requests() if not request.accepted]
        await line.end_balanced(worker)


@pytest.mark.slow
async def test_kafka_is_away_while_results_are_asked_for(
    broker: ProxiedKafka,
    namespace: str,
) -> None:
    async with RoutineLine(
        broker.bootstrap,
        namespace,
        1,
        routines=("w0",),
        public=False,
        rate_per_s=20,
        burst=20,
    ) as line:
        worker = line.join()
        replay = line.start("replay")
        await line.publish(line.leads(200))
        await line.until(lambda: line.answered() >= 20, 60, "results come back")
        await asyncio.to_thread(broker.kill)
        await asyncio.sleep(5)  # questions of the runs under way fall due
        await asyncio.to_thread(broker.restart)
        await line.until(lambda: len(line.ended()) >= 200, 120, "every lead ends")
        await line.check_account()
        parked = [event for event in line.ended().values() if event.status == "parked"]
        assert {event.reason for event in parked} <= {"uncertain"}
        await line.end_balanced(worker, replay)


@pytest.mark.slow
async def test_killed_workers_lose_no_run_and_start_none_twice(
    kafka: Broker,
    namespace: str,
) -> None:
    async with RoutineLine(
        kafka.bootstrap,
        namespace,
        2,
        routines=("w0", "w1"),
        notified=("w1",),
        config=CONFIG.replace("[delivery]", f"[delivery]\nmax_in_flight = {MAX_IN_FLIGHT}"),
        rate_per_s=20,
        burst=20,
    ) as line:
        gateway = line.start("gateway")
        replay = line.start("replay")
        await line.receives()
        await line.publish(line.leads(200))
        for least in KILLS_AT:
            worker = line.join()
            await line.until(partial(has_answered, line, least), 60, "results come back")
            worker.kill()
        worker = line.join()
        await line.until(lambda: len(line.ended()) >= 200, 90, "every lead ends")
        await line.check_account()
        parked = [event for event in line.ended().values() if event.status == "parked"]
        assert {event.reason for event in parked} <= {"uncertain"}
        at_clay = {event.lead_id for event in parked} & set(line.runs().values())
        of_w1 = {event.lead_id for event in parked if event.workspace == "w1"}
        assert not at_clay & of_w1, "the gateway of w1 is told of runs whose answers were lost"
        # Kills leave at most 3 x 2 lanes x 3 in flight = 18 uncertain, at any load. A POST that
        # takes longer than its timeout would be uncertain as well, and the reasons would show it.
        assert line.answered() >= 180, Counter(
            event.reason
            for history in line.histories.values()
            for event in history
            if event.status == "send_uncertain"
        )
        await line.end_balanced(worker, gateway, replay)


async def test_an_erased_lead_gets_no_result(kafka: Broker, namespace: str) -> None:
    """It is erased between the answer to its POST and its result."""
    async with RoutineLine(
        kafka.bootstrap,
        namespace,
        1,
        routines=("w0",),
        public=False,
        # Time for the erasure, which is a command of its own.
        poll_after_s=after_a_command(),
    ) as line:
        await line.publish(line.leads(2))
        worker = line.join()
        await line.until_last({"accepted": 2}, 60)
        await line.done("erase", "person0@example.com", "--yes", "--why", "asked for it")
        await line.until(lambda: line.answered() >= 2, 90, "both runs are settled")
        results = [
            record
            for record in await line.read(line.settings.names.enriched)
            if record.value is not None
        ]
        assert [record.key for record in results] == [b"w0/w0-crm/lead-1"]
        assert line.charged() == line.booked(), "the erased one is paid for all the same"
        await line.end_balanced(worker)


@pytest.mark.slow
async def test_without_credits_a_backlog_is_held_and_not_burnt(
    kafka: Broker,
    namespace: str,
) -> None:
    """Items fail one after the other, and the balance is below what one lead may cost."""
    leads = 200
    async with RoutineLine(
        kafka.bootstrap,
        namespace,
        1,
        routines=("w0",),
        notified=("w0",),
        script=TABLE + "[plan]\ncredits = 60\n",
        destination="estimate_credits = 6\nceiling_credits = 9",
        rate_per_s=10,
        burst=5,
    ) as line:
        gateway = line.start("gateway")
        await line.receives()
        worker = line.join()
        await line.publish(line.leads(leads))
        await line.until(
            lambda: line.last()["held_paused"] >= 1,
            90,
            "the lane says that it is held",
        )
        held_ms = now_ms()
        _, explained = await line.run("explain")
        assert "20 leads of w0-crm in a row have failed" in explained
        assert "its workspace has 0 credits left" in explained
        failed = line.last()["enrich_error"]
        assert not await line.requests_after(held_ms + 1_000 * BUSY), "nothing more is sent"
        assert 20 <= failed < leads / 2
        line.control("POST", "/control/credits", {"workspace": "w0", "add": 6_000})
        await line.done("lanes", "resume", "w0", "--why", "topped up")
        await line.until(lambda: len(line.ended()) >= leads, 90, "the rest is run")
        await line.check_account()
        assert line.last()["enriched"] + line.last()["partial"] > leads / 3
        await line.end_balanced(worker, gateway)


@pytest.mark.slow
async def test_results_that_are_gone_are_named_and_booked(kafka: Broker, namespace: str) -> None:
    """The worker was away for longer than Clay keeps results."""
    async with RoutineLine(
        kafka.bootstrap,
        namespace,
        1,
        routines=("w0",),
        public=False,
        # Time to end the worker before it asks.
        poll_after_s=after_a_command(),
        destination="estimate_credits = 6\nceiling_credits = 9",
    ) as line:
        worker = line.join()
        await line.publish(line.leads(5))
        await line.until_last({"accepted": 5}, 60)
        assert await worker.stop() == 0
        await line.until_clay_rests(30)
        line.control("POST", "/control/limits", {"results_kept_s": 0})
        worker = line.join()
        await line.until_last({"parked": 5}, 240)
        last = [history[-1] for history in line.histories.values()]
        assert {event.reason for event in last} == {"result_gone"}
        assert sum(line.booked().values()) == 5 * 9, "at most so much was paid"
        assert line.polls(404).total() <= 3 * 5
        await line.end_balanced(worker)


async def test_posts_and_polls_together_keep_to_the_rate(kafka: Broker, namespace: str) -> None:
    """At the default of a routine, 4 a second, Clay refuses nothing of its 300 a minute."""
    async with RoutineLine(
        kafka.bootstrap,
        namespace,
        1,
        routines=("w0",),
        public=False,
        rate_per_s=4,
        burst=5,
    ) as line:
        line.control("POST", "/control/limits", {"api_per_minute": 300, "api_burst": 5})
        await line.publish(line.leads(200))
        worker = line.join()
        began_s = time.monotonic()
        await line.until(lambda: line.answered() >= 60, 90, "results come back")
        took_s = time.monotonic() - began_s
        assert await worker.stop() == 0
        assert line.most_a_minute("w0") <= 4 * min(took_s, 60) + 5 + 1
        ledger = line.ledger()
        assert not [row for row in ledger if row.get("status") == 429]
        posts = sum(row["kind"] == "run" for row in ledger)
        polls = sum(row["kind"] == "poll" for row in ledger)
        assert posts >= polls, "POSTs keep at least half"


async def test_doubled_notifications_and_those_of_a_test_do_no_harm(
    kafka: Broker,
    namespace: str,
) -> None:
    async with RoutineLine(
        kafka.bootstrap,
        namespace,
        1,
        routines=("w0",),
        notified=("w0",),
        poll_after_s=LATE,
        script=TABLE
        + '[[fault]]\nkind = "notification_doubled"\n[[fault]]\nkind = "notification_test"\n',
    ) as line:
        gateway = line.start("gateway")
        await line.receives()
        worker = line.join()
        await line.publish(line.leads(5))
        await line.until(lambda: line.answered() >= 5, 60, "all results are fetched")
        await line.check_account()
        assert line.polls() == {f"lead-{number}": 1 for number in range(5)}
        assert {event.status for event in line.ended().values()} <= ANSWERED
        await line.end_balanced(worker, gateway)


REFUSED: Final = {
    ("unauthorized", "run"): "http_401",
    ("payment", "run"): "http_402",
    ("forbidden", "run"): "http_403",
    ("status_before", "run"): "http_409",
    ("gone", "run"): "webhook_out",
    ("unauthorized", "results"): "http_401",
    ("payment", "results"): "http_402",
    ("forbidden", "results"): "http_403",
    ("status_before", "results"): "http_409",
    ("gone", "results"): "",  # of this run only: it may be too new, and is asked for again
}
"""What holds a lane while Clay refuses its runs, or questions about them; '' if nothing does."""


async def holds(line: RoutineLine) -> dict[str, str]:
    """Return what holds each lane, as `stream-app lanes` says it."""
    _, answer = await line.ask("lanes")
    views = [lane["view"] for lane in answer["facts"]["lanes"] if lane["view"]]
    return {view["workspace"]: view.get("holds", "") for view in views}


async def until_held(line: RoutineLine, wanted: dict[str, str], within_s: float) -> None:
    """Wait until these hold the lanes, and nothing else does."""
    deadline_s = time.monotonic() + within_s * BUSY
    while (seen := await holds(line)) != wanted:
        assert time.monotonic() < deadline_s, (seen, wanted)
        await asyncio.sleep(0.5)


@pytest.mark.slow
async def test_a_refusal_of_runs_or_of_polls_is_named_and_ends(
    kafka: Broker,
    namespace: str,
) -> None:
    """Each lane has a refusal of its own. When Clay refuses no more, a probe shows that."""
    lanes = {f"w{number}": refusal for number, refusal in enumerate(REFUSED)}
    async with RoutineLine(
        kafka.bootstrap,
        namespace,
        len(lanes),
        routines=tuple(lanes),
        public=False,
        workspace="suspension = { probe_s = 2, probe_cap_s = 4 }",
    ) as line:
        for lane, (kind, endpoint) in lanes.items():
            fault: dict[str, object] = {"kind": kind, "workspace": lane, "endpoint": endpoint}
            if kind == "status_before":
                fault["status"] = 409
            line.control("POST", "/control/faults", fault)
        worker = line.start("worker")
        replay = line.start("replay")
        await line.ready(worker, replay)
        await line.publish([line.lead(number, lane) for number, lane in enumerate(lanes)])
        await line.until(lambda: len(line.histories) >= len(lanes), 60, "all leads are taken")
        await until_held(line, {lane: REFUSED[refusal] for lane, refusal in lanes.items()}, 60)
        assert line.answered() == 0
        line.control("DELETE", "/control/faults")
        await line.until(lambda: line.answered() >= len(lanes), 120, "all results are fetched")
        await line.publish(
            [line.lead(len(lanes) + number, lane) for number, lane in enumerate(lanes)],
        )
        await line.until(lambda: line.answered() >= 2 * len(lanes), 60, "the lanes go on")
        await until_held(line, dict.fromkeys(lanes, ""), 60)
        await line.check_account()
        assert line.charged() == line.booked()
        await line.end_balanced(worker, replay)


def announce(line: RoutineLine, run: str, secret: str | None) -> int:
    """Announce a run of w0 to the gateway, as Clay does. Return the status of its answer.

    secret: what signs it; None for an announcement without a signature.
    """
    body = msgspec.json.encode({"webhookId": "wh_w0", "data": {"routine_run_id": run}})
    headers = {"content-type": "application/json"}
    if secret is not None:
        headers["x-clay-signature"] = sign_run(body, secret.encode())
    address = f"http://127.0.0.1:{line.gateway_port}/callbacks/w0/w0-crm/run"
    try:
        with urllib.request.urlopen(
            urllib.request.Request(address, body, headers),
            timeout=30 * BUSY,
        ) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as refusal:
        with refusal:
            return refusal.code


def unmatched(line: RoutineLine) -> Counter[str]:
    """Count the callbacks that settle nothing by their reasons."""
    return Counter(
        event.reason
        for history in list(line.histories.values())
        for event in history
        if event.status == "callback_unmatched"
    )


async def test_only_a_signed_notification_has_a_result_fetched_also_after_a_kill(
    kafka: Broker,
    namespace: str,
) -> None:
    """Clay's own are lost, so what settles the lead is one of these. A forged one never does."""
    async with RoutineLine(
        kafka.bootstrap,
        namespace,
        1,
        routines=("w0",),
        notified=("w0",),
        poll_after_s=LATE,
        script=TABLE + '[[fault]]\nkind = "notification_lost"\n',
    ) as line:
        gateway = line.start("gateway")
        await line.receives()
        worker = line.join()
        await line.publish(line.leads(1))
        await line.until_last({"accepted": 1}, 60)
        await line.until_clay_rests(30)
        [run] = line.runs()
        assert await asyncio.to_thread(announce, line, run, "whsec_other") == 403
        assert await asyncio.to_thread(announce, line, run, None) == 401
        assert await asyncio.to_thread(announce, line, "run_other", "whsec_w0") == 200
        await line.until(lambda: unmatched(line)["unknown_run"] == 1, 60, "it is reported")
        assert line.polls() == {}, "nobody was asked, by the forged ones neither"
        assert await asyncio.to_thread(announce, line, run, "whsec_w0") == 200
        await line.until(lambda: line.answered() == 1, 60, "its result is fetched")
        worker.kill()
        worker = line.join()
        assert await asyncio.to_thread(announce, line, run, "whsec_w0") == 200
        assert await asyncio.to_thread(announce, line, "run_last", "whsec_w0") == 200
        await line.until(lambda: unmatched(line)["unknown_run"] == 2, 60, "the last is reported")
        for process in (worker, gateway):
            assert await process.stop() == 0
        assert unmatched(line) == {"unknown_run": 2}, "the run that has settled its lead is known"
        assert line.polls() == {"lead-0": 1}
        await line.check_account()
        await line.books_balance()


async def doctor_at_terminal(line: RoutineLine, answer: str) -> tuple[int, str]:
    """Have `doctor` send a test lead, at a terminal, and answer whether it may.

    Where the machine is busy, a check may have no answer in time. Then nothing is asked, and it is
    run again.
    """
    argv = ["doctor", "--config", str(line.directory / "stream_app.toml"), "--round-trip", "w0-crm"]
    deadline_s = time.monotonic() + 60 * BUSY
    while True:
        code, shown = await asyncio.to_thread(
            run_at_terminal,
            argv,
            "[y/N]",
            answer,
            line.directory,
            deadline_s - time.monotonic(),
        )
        if "correct the failed checks first" not in shown:
            return code, shown
        assert time.monotonic() < deadline_s, shown


@pytest.mark.timeout(700)
@pytest.mark.slow
async def test_doctor_runs_a_routine_for_a_test_lead_only_if_the_answer_at_the_terminal_is_yes(
    kafka: Broker,
    namespace: str,
) -> None:
    async with RoutineLine(
        kafka.bootstrap,
        namespace,
        1,
        routines=("w0",),
        public=False,
    ) as line:
        worker = line.start("worker")
        replay = line.start("replay")
        await line.ready(worker, replay)
        code, shown = await doctor_at_terminal(line, "n")
        assert code == 1, shown
        assert shown.endswith("cancelled: nothing was changed\n")
        assert line.requests() == []
        code, shown = await doctor_at_terminal(line, "y")
        assert code == 0, shown
        question = " ".join(shown.split())
        assert (
            "send one test lead to Clay through w0-crm, which costs about 6 credits and 1 action, "
            "at most 20 credits and 5 actions, and leaves its run in Clay? [y/N]" in question
        )
        [run] = line.requests()
        assert isinstance(run, Run)
        assert run.accepted
        assert line.polls(200).total() == 1
        assert f"round trip of {run.lead_id}: it came back as" in question
        assert max(map(len, shown.splitlines())) <= COLUMNS
        checks, _, _ = shown.partition("send one test lead")
        verdicts = {text[:8].strip() for text in checks.splitlines()}
        assert verdicts <= {"ok", "advice", "-", ""}, "a text goes on beside its verdict"
        assert line.charged() == line.booked()
        await line.end_balanced(worker, replay)
