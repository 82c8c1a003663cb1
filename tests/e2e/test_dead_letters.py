"""Deferred, dead and parked records: the same tools, and no suppressed people."""

import json

import pytest

from stream_app.dev.kafka import Broker
from tests.e2e.commands import answer, command
from tests.e2e.pipeline import Pipeline
from tests.e2e.test_replay import CONFIG, DOWN, LANE
from tests.support.replaying import replaying

pytestmark = pytest.mark.timeout(480)


@pytest.mark.slow
async def test_deferred_leads_are_shown_and_sent_sooner(kafka: Broker, namespace: str) -> None:
    # Two workspaces in one partition: what one of them holds is deferred, so that it does not block the other.
    async with Pipeline(kafka.bootstrap, namespace, 2, partitions=1, config=CONFIG, lane=LANE) as line:
        worker = line.start("worker")
        await line.publish([command(line, "pause", "c1")])
        assert (await answer(line, "c1")).applied
        await line.publish(line.leads(20))
        await line.until(lambda: line.last() == {"deferred": 10, "accepted": 10}, 40, "w0 deferred, w1 accepted")
        await suppress(line, 0, 2)

        code, counted = await line.ask("dlq", "--from", "deferred")
        assert (code, counted["dead_letters"], counted["suppressed"]) == (0, 10, 2)
        assert [(cause["kind"], cause["reason"]) for cause in counted["causes"]] == [("deferred", "paused")]
        code, output = await line.run("dlq", "--from", "deferred", "--disposition", "poison")
        assert (code, "--from deferred has only the disposition deferred" in output) == (2, True)
        code, plan = await line.ask("replay", "plan", "--from", "deferred", "--limit", "7")
        assert (code, plan["fates"]) == (0, {"suppressed": 2, "goes": 7, "over_limit": 1})

        file = line.directory / "dead-letters.jsonl"
        code, exported = await line.ask("dlq", "export", str(file), "--from", "deferred")
        assert (code, exported["dead_letters"], exported["suppressed"]) == (0, 8, 2)
        lines = [json.loads(text) for text in file.read_text().splitlines()]
        assert not {listed["lead"]["lead_id"] for listed in lines} & {"lead-0", "lead-2"}
        await shown(line, line.settings.names.deferred, 2)

        # Sooner than in an hour; each once, whatever is run again.
        await line.publish([command(line, "resume", "c2")])
        assert (await answer(line, "c2")).applied
        with replaying(line.settings):
            select = ("replay", "select", "--from", "deferred", "--yes")
            code, sent = await line.ask(*select)
            assert (code, sent) == (0, {"sent": 8, "refused": {}})
            await line.until(lambda: line.last()["accepted"] == 18, 60, "all that may go")
            code, sent = await line.ask(*select)
            assert (code, sent["sent"]) == (1, 0), "not twice"
        await line.stop(worker)
        line.check_histories()
        assert line.last() == {"accepted": 18, "deferred": 2}
        assert set(line.summary()["leads"].values()) == {1}
        await line.books_balance()


@pytest.mark.slow
async def test_dead_letters_and_parked_leads_of_suppressed_people_are_not_sent(kafka: Broker, namespace: str) -> None:
    async with Pipeline(kafka.bootstrap, namespace, 1, config=CONFIG, lane=LANE) as line:
        line.control("POST", "/control/faults", DOWN)
        await line.publish([*line.leads(6), line.lead(6, "w0", fields={"title": "Unknown person"})])
        worker = line.start("worker")
        await line.until(lambda: line.last()["dead_lettered"] == 7, 60, "seven dead letters")
        await suppress(line, 1)
        await line.done("erase", "lead-6", "--why", "asked for it", "--yes")
        code, plan = await line.ask("replay", "plan")
        assert (code, plan["fates"]) == (0, {"suppressed": 2, "goes": 5})
        code, exported = await line.ask("dlq", "export", str(line.directory / "dead-letters.jsonl"))
        assert (code, exported["dead_letters"], exported["suppressed"]) == (0, 5, 2)
        (erased,) = [record for record in await line.read(line.settings.names.dlq) if b"Unknown person" in record.value]
        code, dead_letter = await line.ask(
            "dlq", "show", f"{erased.topic}/{erased.partition}/{erased.offset}", "--value"
        )
        assert (code, dead_letter["suppressed"], "value" in dead_letter) == (0, True, False)
        await shown(line, line.settings.names.dlq, 1)

        # The replay process brings all of them back: the worker ends the history of each that is on the list.
        replay = line.start("replay")
        await line.until(lambda: line.last() == {"parked": 5, "suppressed": 2, "erased": 1}, 60, "parked, but for two")
        assert await line.stop(replay) == 0
        assert 'stream_app_parked_leads{workspace="w0"} 5.0' in await line.get(worker, "/metrics")
        await suppress(line, 3)
        code, plan = await line.ask("replay", "plan", "--from", "parked")
        assert (code, plan["fates"]) == (0, {"suppressed": 1, "goes": 4})

        line.control("DELETE", "/control/faults")
        with replaying(line.settings):
            code, sent = await line.ask("replay", "redrive", "--yes")
        assert (code, sent["sent"]) == (0, 4)
        await line.until(lambda: line.last()["accepted"] == 4, 60, "the others")
        assert 'stream_app_parked_leads{workspace="w0"} 1.0' in await line.get(worker, "/metrics")
        await line.stop(worker)
        line.check_histories()
        assert line.last() == {"accepted": 4, "suppressed": 2, "parked": 1, "erased": 1}
        assert line.summary()["leads"] == dict.fromkeys(("lead-0", "lead-2", "lead-4", "lead-5"), 1)
        await line.books_balance()


async def suppress(line: Pipeline, *numbers: int) -> None:
    """Suppress the people of these leads. Each partition knows them when this returns."""
    people = [f"person{number}@example.com" for number in numbers]
    await line.done("suppress", "add", *people, "--why", "objected")


async def shown(line: Pipeline, topic: str, suppressed: int) -> None:
    """`dlq show` shows the value of lead 4, and not that of the suppressed one. Retries decide about their order."""
    records = await line.read(topic)
    for number, is_suppressed in ((suppressed, True), (4, False)):
        dead_letter = next(record for record in records if f"person{number}@".encode() in record.value)
        place = f"{topic}/{dead_letter.partition}/{dead_letter.offset}"
        code, document = await line.ask("dlq", "show", place, "--value")
        assert (code, document["suppressed"], "value" in document) == (0, is_suppressed, not is_suppressed)
        assert ("@example.com" in json.dumps(document)) is not is_suppressed
