"""Dead letters are exported, corrected and published, with the commands that a user types."""

from __future__ import annotations

import json

import pytest

from stream_app.dev.kafka import Broker
from tests.e2e.test_replay import DOWN, pipeline
from tests.e2e.test_replay_by_hand import ask
from tests.support.replaying import replaying

pytestmark = [pytest.mark.timeout(180), pytest.mark.slow]


async def test_a_corrected_lead_replaces_its_dead_letter_and_is_sent_once(kafka: Broker, namespace: str) -> None:
    async with pipeline(kafka, namespace, 1) as line:
        line.control("POST", "/control/faults", DOWN)
        await line.publish(line.leads(4))
        worker, replay = line.start("worker"), line.start("replay")
        await line.until(lambda: line.last()["parked"] == 4, 40, "four parked")
        assert await line.stop(replay) == 0
        line.control("DELETE", "/control/faults")

        file = line.directory / "dead-letters.jsonl"
        code, exported = await ask(line, "dlq", "export", str(file), "--from", "parked")
        assert (code, exported["dead_letters"]) == (0, 4)
        document = json.loads(file.read_text().splitlines()[0])
        document["lead"]["fields"]["title"] = "corrected"
        file.write_text(json.dumps(document))
        code, published = await ask(line, "publish", str(file), "--yes")
        assert (code, published["published"]) == (0, 1)
        await line.until(lambda: line.last() == {"accepted": 1, "replaced": 1, "parked": 3}, 30, "one is corrected")

        code, plan = await ask(line, "replay", "plan", "--from", "parked")
        assert (code, plan["fates"]) == (0, {"goes": 3, "replaced": 1})
        code, plan = await ask(line, "replay", "plan")
        assert plan["fates"]["replaced"] == 2, "of its earlier dead letters none counts, either"
        with replaying(line.settings):
            code, sent = await ask(line, "replay", "redrive", "--yes")
        assert (code, sent["sent"]) == (0, 3)
        await line.until(lambda: line.last()["accepted"] == 4, 30, "the others")
        await line.stop(worker)
        line.check_histories()
        assert line.last() == {"accepted": 4, "replaced": 1}
        assert set(line.summary()["leads"].values()) == {1}
        code, said = await line.run("books", "--json")
        assert code == 0, said
