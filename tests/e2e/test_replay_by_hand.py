"""Replays by hand and corrected dead letters with the commands that a user types, on real Kafka."""

import asyncio
import json

import pytest

from stream_app.dev.kafka import Broker
from stream_app.domain.model.records import Record
from tests.e2e.behind import behind, caught_up, eventually
from tests.e2e.pipeline import Pipeline
from tests.e2e.test_replay import DOWN, pipeline, reset
from tests.support.replaying import replaying

pytestmark = pytest.mark.timeout(300)


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

        # Nothing moves while an operator has paused it.
        assert (await line.ask("replay", "pause", "--why", "a test"))[1] == {"paused": True, "was_paused_by": None}

        # What parked leads would cost, and sending some of them back: each once, whatever is run again.
        code, plan = await line.ask("replay", "plan", "--from", "parked", "--status", "503")
        assert (code, plan["dead_letters"], plan["go"], plan["causes"]) == (0, 30, 30, {"http_503": 30})
        ((part,),) = (quoted["parts"] for quoted in plan["quotes"])
        assert (part["leads"], part["credits"], plan["quotes"][0]["left"]) == (30, 180, {})
        code, plan = await line.ask("replay", "plan", "--reason", "http_503")
        assert (code, plan["fates"]) == (1, {"later_dead_letter": 60}), "their last word is in leads.parked"
        code, output = await line.run("replay", "plan", "--destination", "nowhere")
        assert (code, "there is no destination nowhere" in output) == (2, True)
        code, output = await line.run("replay", "redrive", "--limit", "10")
        assert (code, "--yes" in output) == (2, True)

        line.control("DELETE", "/control/faults")
        code, answer = await line.ask("replay", "redrive", "--limit", "10", "--yes")
        assert (code, answer) == (0, {"sent": 10, "refused": {}})
        await line.until(lambda: line.last()["accepted"] == 10, 30, "10 accepted")
        both = [line.ask("replay", "redrive", "--limit", "10", "--yes") for _ in range(2)]
        answers = await asyncio.gather(*both)
        assert sum(answer.get("sent", 0) for _, answer in answers) in (10, 20), answers
        await caught_up_line(line)
        done, dead_letters = line.last()["accepted"], 30
        code, plan = await line.ask("replay", "plan", "--from", "parked")
        assert plan["fates"] == {"sent_back": done, "goes": dead_letters - done}

        await look_at_the_poison(line)
        done += 2

        # The rest by a rewind, which the pause holds back until it is lifted.
        assert await line.stop(replay) == 0
        reset(kafka, line, "--to-datetime", "2020-01-01T00:00:00.000")
        replay = line.start("replay")
        await rewound(line)
        assert line.last()["accepted"] == done
        assert (await line.ask("replay", "resume"))[1]["was_paused_by"]
        await line.until(lambda: line.last()["accepted"] == 32, 40, "all accepted")
        await line.stop(replay)
        await line.stop(worker)
        line.check_histories()
        assert line.last() == {"accepted": 32, "rejected_invalid": 2}
        assert set(line.summary()["leads"].values()) == {1}
        await line.books_balance()


async def caught_up_line(line: Pipeline) -> None:
    """The worker has passed all records of leads.retry."""
    names = line.settings.names
    await eventually(lambda: behind(line, {names.worker_app: [names.retry]}), 30)


async def rewound(line: Pipeline) -> None:
    """A replay process has logged the rewind."""

    async def silent() -> bool:
        return not any('"rewound"' in log.read_text() for log in line.directory.glob("replay-*.log"))

    await eventually(silent, 30)


async def look_at_the_poison(line: Pipeline) -> None:
    """Count, show and export: what it is, and personal data only on request."""
    code, counted = await line.ask("dlq")
    causes = {(cause["kind"], cause["reason"]): cause["count"] for cause in counted["causes"]}
    assert (code, causes) == (0, {("failed", "http_503"): 60, ("poison", "invalid_lead"): 2})
    code, counted = await line.ask("dlq", "--from", "parked")
    assert counted["dead_letters"] == 30
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
    assert (await line.run("dlq", "show", "nowhere/0/1"))[0] == 2

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
async def test_a_corrected_lead_replaces_its_dead_letter_and_is_sent_once(kafka: Broker, namespace: str) -> None:
    async with pipeline(kafka, namespace, 1) as line:
        line.control("POST", "/control/faults", DOWN)
        await line.publish(line.leads(4))
        worker, replay = line.start("worker"), line.start("replay")
        await line.until(lambda: line.last()["parked"] == 4, 40, "four parked")
        assert await line.stop(replay) == 0
        assert 'stream_app_parked_leads{workspace="w0"} 4.0' in await line.get(worker, "/metrics")
        line.control("DELETE", "/control/faults")

        file = line.directory / "dead-letters.jsonl"
        code, exported = await line.ask("dlq", "export", str(file), "--from", "parked")
        assert (code, exported["dead_letters"]) == (0, 4)
        document = json.loads(file.read_text().splitlines()[0])
        document["lead"]["fields"]["title"] = "corrected"
        file.write_text(json.dumps(document))
        code, published = await line.ask("publish", str(file), "--yes")
        assert (code, published["published"]) == (0, 1)
        await line.until(lambda: line.last() == {"accepted": 1, "replaced": 1, "parked": 3}, 30, "one is corrected")

        code, plan = await line.ask("replay", "plan", "--from", "parked")
        assert (code, plan["fates"]) == (0, {"goes": 3, "replaced": 1})
        code, plan = await line.ask("replay", "plan")
        assert plan["fates"]["replaced"] == 2, "of its earlier dead letters none counts, either"
        with replaying(line.settings):
            code, sent = await line.ask("replay", "redrive", "--yes")
        assert (code, sent["sent"]) == (0, 3)
        await line.until(lambda: line.last()["accepted"] == 4, 30, "the others")
        await line.stop(worker)
        line.check_histories()
        assert line.last() == {"accepted": 4, "replaced": 1}
        assert set(line.summary()["leads"].values()) == {1}
        await line.books_balance()
