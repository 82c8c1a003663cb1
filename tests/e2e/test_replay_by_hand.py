"""Replays by hand and corrected dead letters with the commands that a user types, on real Kafka.

Deferred records have the same tools. No suppressed or erased people are shown, exported or sent.
"""

import asyncio
import json

import pytest

from stream_app.dev.kafka import Broker
from stream_app.domain.model.records import Record
from tests.e2e.behind import behind, caught_up, eventually
from tests.e2e.commands import answer, command
from tests.e2e.pipeline import Pipeline

pytestmark = pytest.mark.timeout(300)

CONFIG = """
[delivery]
max_attempts = 1
[replay]
max_replays = 2
backoff_base_s = 1
backoff_cap_s = 1
tiers_s = [1, 600]
"""
LANE = """
[workspaces.{name}.breaker]
mode = "shadow"
[workspaces.{name}.flood_guard]
run = 1000000
share = 1
"""
DOWN = {"kind": "status_before", "status": 503}


def of_the_group(kafka: Broker, line: Pipeline, *what: str) -> None:
    """Change where the group of the replay processes stands in `leads.dlq`, as a user does."""
    names = line.settings.names
    tool = "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand"
    kafka.run_tool(tool, "--group", names.replay_app, "--topic", names.dlq, *what)


def pipeline(kafka: Broker, namespace: str, workspaces: int = 2) -> Pipeline:
    return Pipeline(kafka.bootstrap, namespace, workspaces, config=CONFIG, lane=LANE)


@pytest.mark.slow
async def test_price_select_redrive_rewind_and_pause(kafka: Broker, namespace: str) -> None:
    async with pipeline(kafka, namespace, 1) as line:
        names = line.settings.names
        line.control("POST", "/control/faults", DOWN)
        await line.publish(line.leads(30))
        home = line.settings.home("w0")
        for number in (1, 2):
            wrong = {"workspace": "w0", "lead_id": f"wrong{number}", "field": {"email": f"{number}@example.com"}}
            await line.publish([Record(names.leads, b"w0", json.dumps(wrong).encode(), (), home)])
        worker, replay = line.start("worker"), line.start("replay")
        await line.until(lambda: line.last()["parked"] == 30, 40, "30 parked")

        await caught_up(line)
        assert 'stream_app_parked_leads{workspace="w0"} 30.0' in await line.get(worker, "/metrics")

        # Nothing moves while an operator has paused it.
        assert (await line.ask("replay", "pause", "--why", "a test"))[1] == {"paused": True, "was_paused_by": None}

        # What parked leads would cost, and sending some of them back: each once, whatever is run again.
        code, plan = await line.ask("replay", "plan", "--from", "parked", "--status", "503")
        assert (code, plan["dead_letters"], plan["go"], plan["causes"]) == (0, 30, 30, {"http_503": 30})
        ((part,),) = (quoted["parts"] for quoted in plan["quotes"])
        assert (part["leads"], part["credits"], plan["quotes"][0]["left"]) == (30, 180, {})

        line.control("DELETE", "/control/faults")
        await correct_a_parked_lead(line)
        code, answer = await line.ask("replay", "redrive", "--limit", "10", "--yes")
        assert (code, answer) == (0, {"sent": 10, "refused": {}})
        await line.until(lambda: line.last()["accepted"] == 11, 30, "10 accepted")
        both = [line.ask("replay", "redrive", "--limit", "10", "--yes") for _ in range(2)]
        answers = await asyncio.gather(*both)
        assert sum(answer.get("sent", 0) for _, answer in answers) in (10, 20), answers
        await caught_up_line(line)
        done = line.last()["accepted"]
        code, plan = await line.ask("replay", "plan", "--from", "parked")
        assert plan["fates"] == {"sent_back": done - 1, "goes": 30 - done, "replaced": 1}

        await look_at_the_poison(line)
        done += 2

        # The rest by a rewind, which the pause holds back until it is lifted.
        assert await line.stop(replay) == 0
        of_the_group(kafka, line, "--reset-offsets", "--to-datetime", "2020-01-01T00:00:00.000", "--execute")
        replay = line.start("replay")
        await rewound(line)
        assert line.last()["accepted"] == done
        assert (await line.ask("replay", "resume"))[1]["was_paused_by"]
        await line.until(lambda: line.last()["accepted"] == 32, 40, "all accepted")
        await line.stop(replay)

        # Kafka may forget where the group stood: the process has its own record, so nothing comes back once more.
        of_the_group(kafka, line, "--delete-offsets")
        replay = line.start("replay")
        await line.publish(of_other_programs(line))
        ends = {"accepted": 34, "rejected_invalid": 4, "replaced": 1}
        await line.until(lambda: line.last() == ends, 40, "those of other programs")
        await caught_up(line)
        await line.stop(replay)
        await line.stop(worker)
        line.check_histories()
        assert line.last() == ends
        written = [dict(record.headers).get("stream-app-reason") for record in await line.read(names.dlq)]
        assert written[-6:] == [None] * 4 + [b"not_json", b"tombstone"], "one with the reason for each poison"
        assert set(line.summary()["leads"].values()) == {1}
        await line.books_balance()


def of_other_programs(line: Pipeline) -> list[Record]:
    """Two leads and two records that are none, as another program writes them to `leads.dlq`."""
    topic, home = line.settings.names.dlq, line.settings.home("w0")
    foreign = (("another-programs-topic", b"x"), ("another-programs-partition", b"\0\0\0\1"))
    values = [line.lead(number, "w0").value for number in (101, 102)]
    return [
        Record(topic, None, values[0], (), home),
        Record(topic, b"w0", values[1], foreign, home),
        Record(topic, b"w0", b"no lead", (), home),
        Record(topic, b"w0", None, (), home),
    ]


async def caught_up_line(line: Pipeline) -> None:
    """The worker has passed all records of leads.retry."""
    names = line.settings.names
    await eventually(lambda: behind(line, {names.worker_app: [names.retry]}), 30)


async def rewound(line: Pipeline) -> None:
    """A replay process has logged the rewind."""

    async def silent() -> bool:
        return not any('"rewound"' in log.read_text() for log in line.directory.glob("replay-*.log"))

    await eventually(silent, 30)


async def correct_a_parked_lead(line: Pipeline) -> None:
    """Export parked leads, and publish one again with another field: it replaces its dead letters."""
    file = line.directory / "parked.jsonl"
    code, exported = await line.ask("dlq", "export", str(file), "--from", "parked")
    assert (code, exported["dead_letters"]) == (0, 30)
    document = json.loads(file.read_text().splitlines()[0])
    document["lead"]["fields"]["title"] = "corrected"
    file.write_text(json.dumps(document))
    code, published = await line.ask("publish", str(file), "--yes")
    assert (code, published["published"]) == (0, 1)
    ends = {"accepted": 1, "replaced": 1, "parked": 29, "rejected_invalid": 2}
    await line.until(lambda: line.last() == ends, 30, "one is corrected")
    code, plan = await line.ask("replay", "plan", "--from", "parked")
    assert (code, plan["fates"]) == (0, {"goes": 29, "replaced": 1})
    code, plan = await line.ask("replay", "plan", "--reason", "http_503")
    fates = {"later_dead_letter": 58, "replaced": 2}
    assert (code, plan["fates"]) == (1, fates), "the last word of the others is in leads.parked"


async def look_at_the_poison(line: Pipeline) -> None:
    """Count, show and export: what it is, and personal data only on request."""
    code, counted = await line.ask("dlq")
    causes = {(cause["kind"], cause["reason"]): cause["count"] for cause in counted["causes"]}
    assert (code, causes) == (0, {("failed", "http_503"): 60, ("poison", "invalid_lead"): 2})
    file = line.directory / "dead-letters.jsonl"
    code, answer = await line.ask("dlq", "export", str(file), "--disposition", "poison")
    assert (code, answer["dead_letters"], file.stat().st_mode & 0o777) == (0, 2, 0o600)
    exported = [json.loads(text) for text in file.read_text().splitlines()]
    assert exported[1]["lead"]["field"] == {"email": "2@example.com"}
    code, shown = await line.ask("dlq", "show", exported[1]["record_id"])
    assert [event["status"] for event in shown["history"]] == ["rejected_invalid"]
    assert shown["headers"]["stream-app-origin"].startswith(f"{line.settings.names.leads}/")
    assert "@example.com" not in json.dumps(shown)
    code, output = await line.run("dlq", "show", exported[1]["record_id"], "--value")
    assert (code, "2@example.com" in output) == (0, True)

    # Corrected by hand: one that is no lead is refused with its line, one that is becomes a new lead.
    accepted = line.last()["accepted"]
    code, published = await line.ask("publish", str(file), "--yes")
    assert (code, published["published"], published["refused"]) == (1, 0, 2)
    for document in exported:
        document["lead"]["fields"] = document["lead"].pop("field")
    file.write_text("".join(f"{json.dumps(document)}\n" for document in exported))
    code, published = await line.ask("publish", str(file), "--yes")
    assert (code, published["published"]) == (0, 2), published
    await line.until(lambda: line.last()["accepted"] == accepted + 2, 30, "the corrected ones")


@pytest.mark.slow
async def test_deferred_leads_are_shown_and_sent_sooner(kafka: Broker, namespace: str) -> None:
    # Two workspaces in one partition: what one of them holds is deferred, so that it does not block the other.
    async with Pipeline(kafka.bootstrap, namespace, 2, partitions=1, config=CONFIG, lane=LANE) as line:
        await line.done("replay", "pause", "--why", "only what is ordered")
        worker, replay = line.start("worker"), line.start("replay")
        await line.publish([command(line, "pause", "c1")])
        assert (await answer(line, "c1")).applied
        await line.publish(line.leads(20))
        await line.until(lambda: line.last() == {"deferred": 10, "accepted": 10}, 40, "w0 deferred, w1 accepted")
        people = [f"person{number}@example.com" for number in (0, 2)]
        await line.done("suppress", "add", *people, "--why", "objected")
        await line.done("erase", "lead-6", "--why", "asked for it", "--yes")

        code, counted = await line.ask("dlq", "--from", "deferred")
        assert (code, counted["dead_letters"], counted["suppressed"]) == (0, 10, 3)
        assert [(cause["kind"], cause["reason"]) for cause in counted["causes"]] == [("deferred", "paused")]
        code, plan = await line.ask("replay", "plan", "--from", "deferred", "--limit", "6")
        assert (code, plan["fates"]) == (0, {"suppressed": 3, "goes": 6, "over_limit": 1})

        file = line.directory / "dead-letters.jsonl"
        code, exported = await line.ask("dlq", "export", str(file), "--from", "deferred")
        assert (code, exported["dead_letters"], exported["suppressed"]) == (0, 7, 3)
        lines = [json.loads(text) for text in file.read_text().splitlines()]
        assert not {listed["lead"]["lead_id"] for listed in lines} & {"lead-0", "lead-2", "lead-6"}
        await shown(line, line.settings.names.deferred, 2)

        # Sooner than in an hour; each once, whatever is run again.
        await line.publish([command(line, "resume", "c2")])
        assert (await answer(line, "c2")).applied
        select = ("replay", "select", "--from", "deferred", "--yes")
        code, sent = await line.ask(*select)
        assert (code, sent) == (0, {"sent": 7, "refused": {}})
        await line.until(lambda: line.last()["accepted"] == 17, 60, "all that may go")
        code, sent = await line.ask(*select)
        assert (code, sent["sent"]) == (1, 0), "not twice"
        await line.stop(replay)
        await line.stop(worker)
        line.check_histories()
        assert line.last() == {"accepted": 17, "deferred": 3, "erased": 1}
        assert set(line.summary()["leads"].values()) == {1}
        await line.books_balance()


async def shown(line: Pipeline, topic: str, suppressed: int) -> None:
    """`dlq show` shows the value of lead 4, and not that of the suppressed one. Retries decide about their order."""
    records = await line.read(topic)
    for number, is_suppressed in ((suppressed, True), (4, False)):
        dead_letter = next(record for record in records if f"person{number}@".encode() in record.value)
        place = f"{topic}/{dead_letter.partition}/{dead_letter.offset}"
        code, document = await line.ask("dlq", "show", place, "--value")
        assert (code, document["suppressed"], "value" in document) == (0, is_suppressed, not is_suppressed)
        assert ("@example.com" in json.dumps(document)) is not is_suppressed
