"""Deferred records have the tools of dead letters, and no suppressed or erased people are shown, exported or sent."""

import json

import pytest

from stream_app.dev.kafka import Broker
from tests.e2e.commands import answer, command
from tests.e2e.pipeline import Pipeline
from tests.e2e.test_replay import CONFIG, LANE
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
        await line.done("erase", "lead-6", "--why", "asked for it", "--yes")

        code, counted = await line.ask("dlq", "--from", "deferred")
        assert (code, counted["dead_letters"], counted["suppressed"]) == (0, 10, 3)
        assert [(cause["kind"], cause["reason"]) for cause in counted["causes"]] == [("deferred", "paused")]
        code, output = await line.run("dlq", "--from", "deferred", "--disposition", "poison")
        assert (code, "--from deferred has only the disposition deferred" in output) == (2, True)
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
        with replaying(line.settings):
            select = ("replay", "select", "--from", "deferred", "--yes")
            code, sent = await line.ask(*select)
            assert (code, sent) == (0, {"sent": 7, "refused": {}})
            await line.until(lambda: line.last()["accepted"] == 17, 60, "all that may go")
            code, sent = await line.ask(*select)
            assert (code, sent["sent"]) == (1, 0), "not twice"
        await line.stop(worker)
        line.check_histories()
        assert line.last() == {"accepted": 17, "deferred": 3, "erased": 1}
        assert set(line.summary()["leads"].values()) == {1}
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
