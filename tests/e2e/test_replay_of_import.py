"""What failed of one import is listed, exported, planned and sent back, on real Kafka."""

import json

import pytest

from stream_app.dev.kafka import Broker
from tests.e2e.pipeline import Pipeline
from tests.e2e.replaying import CONFIG, DOWN, LANE

pytestmark = pytest.mark.timeout(300)

OF_TUESDAY = ("--import", "tuesday")


@pytest.mark.slow
async def test_an_import_of_100_with_7_dead_letters_sends_exactly_7(
    kafka: Broker,
    namespace: str,
) -> None:
    async with Pipeline(
        kafka.bootstrap,
        namespace,
        1,
        config=CONFIG,
        lane=LANE,
    ) as line:
        await line.done("replay", "pause", "--why", "only what is ordered")
        worker = line.start("worker")
        replay = line.start("replay")
        tuesday = [line.lead(number, "w0", import_id="tuesday") for number in range(100)]
        await line.publish(tuesday[:93])
        await line.until_last({"accepted": 93}, 60)
        line.control("POST", "/control/faults", DOWN)
        wednesday = [line.lead(number, "w0", import_id="wednesday") for number in range(100, 105)]
        without = [line.lead(number, "w0") for number in range(105, 108)]
        await line.publish([*wednesday, *tuesday[93:], *without])
        await line.until_last({"accepted": 93, "dead_lettered": 15}, 60)
        line.control("DELETE", "/control/faults")

        code, listed = await line.ask("dlq", "list", *OF_TUESDAY)
        failed = {f"lead-{number}" for number in range(93, 100)}
        assert code == 0
        assert listed["matching"] == 7
        assert {letter["lead_id"] for letter in listed["dead_letters"]} == failed
        file = line.directory / "tuesday.jsonl"
        assert (await line.ask("dlq", "export", str(file), *OF_TUESDAY))[1]["dead_letters"] == 7
        exported = [json.loads(written)["lead"] for written in file.read_text().splitlines()]
        assert {lead["lead_id"] for lead in exported} == failed
        code, plan = await line.ask("replay", "plan", *OF_TUESDAY)
        assert code == 0
        assert plan["dead_letters"] == plan["go"] == 7
        assert (await line.ask("replay", "plan", "--import", "monday"))[1]["dead_letters"] == 0

        code, sent = await line.ask("replay", "select", *OF_TUESDAY, "--yes")
        assert code == 0
        assert sent == {"sent": 7, "refused": {}}
        await line.until_last({"accepted": 100, "dead_lettered": 8}, 60)
        assert len(await line.read(line.settings.names.retry)) == 7
        code, again = await line.ask("replay", "plan", *OF_TUESDAY)
        assert code == 1
        assert again["go"] == 0
        assert again["dead_letters"] == 7, "none goes back twice"

        order = [
            "dlq",
            "give-up",
            "--import",
            "wednesday",
            "--yes",
            "--why",
            "the campaign is over",
        ]
        code, ended = await line.ask(*order)
        assert code == 0
        assert ended["given_up"] == 5
        await line.until_last({"accepted": 100, "dead_lettered": 3, "suppressed": 5}, 60)
        line.check_histories()
        assert set(line.summary()["leads"].values()) == {1}
        assert await replay.stop() == 0
        assert await worker.stop() == 0
        await line.books_balance()
