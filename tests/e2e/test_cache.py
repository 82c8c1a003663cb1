"""The cache on a real Kafka and a real Redis: outages bridged, credits saved, and the cache never
required.
"""

import asyncio
import time

import pytest
import redis.asyncio

from stream_app.client.results.answers import FoundLead
from stream_app.client.results.lookup import find
from stream_app.dev.kafka import Broker
from tests.e2e.cached_outage import PATIENT, fields_of, filled, lead, outage, pipeline
from tests.e2e.pipeline import Pipeline
from tests.support.local_redis import LocalRedis
from tests.support.pace import BUSY

pytestmark = pytest.mark.timeout(400)


@pytest.mark.long
async def test_provisional_results_bridge_an_outage_and_are_each_upgraded_once(
    kafka: Broker,
    namespace: str,
) -> None:
    """Redis is flushed and then stopped in its middle, which costs only hits."""
    with LocalRedis() as server:
        async with pipeline(
            kafka.bootstrap,
            namespace,
            server.url,
            degrade=True,
            more=PATIENT,
        ) as line:
            seen = await outage(line, server, 1_000, 250, lambda text: None)
            line.check_histories()
    assert seen.wrong == []
    assert sum(seen.first.values()) == 1_000
    # Of 200 known ones; a few came when Redis had no time to answer.
    assert 170 <= seen.hits[0] <= 200
    assert seen.hits[2] == 0
    assert seen.first["stale"] >= 80
    assert seen.upgraded == seen.first["local"]
    assert seen.first["local"] >= 570, "a few came when Clay was back"
    assert seen.percentile_s(0.99) < 10, (
        "2 s on a machine of its own: python -m tests.e2e.cached_outage"
    )
    served = seen.books["columns"]["served_from_cache"]["records"]
    assert sum(seen.books["saved"].values()) == served
    assert served >= sum(seen.hits.values()) - seen.failed
    assert seen.books["provisional"] >= seen.first["local"]


async def ended(line: Pipeline, count: int) -> None:
    words = ("enriched", "served_from_cache")
    await line.until(
        lambda: sum(line.last()[word] for word in words) >= count,
        90,
        f"{count} leads have ended",
    )


@pytest.mark.slow
async def test_an_erased_person_is_in_no_cache_result_or_lookup_and_is_not_sent_again(
    kafka: Broker,
    namespace: str,
    redis_url: str,
) -> None:
    async with pipeline(
        kafka.bootstrap,
        namespace,
        redis_url,
        cache_first=True,
        more=PATIENT,
    ) as line:
        processes = [line.start("worker"), line.start("gateway"), line.start("board")]
        await line.receives()
        email = str(fields_of(2)["email"])
        linkedin = "https://www.linkedin.com/in/ada-2"
        both = lead(line, 2, linkedin_url=linkedin)
        await line.publish([both, *(lead(line, number) for number in (0, 1, 3))])
        await ended(line, 4)
        await filled(line, redis_url, 4)
        for who in (email, linkedin, "lead-2"):
            await looked_up(line, who, 1)

        code, output = await line.run("erase", email, "--why", "asked for it")
        assert code == 2, output
        assert "pass --yes to erase 1 lead, and never send" in output, output
        code, reported = await line.ask("erase", email, "--yes", "--why", f"{email} asked for it")
        assert code == 0, reported
        assert reported["by_hand"] == [
            {"workspace": "w0", "destinations": ["w0-crm"], "lead_id": "lead-2"},
        ]
        everywhere = {topic.name for topic in line.settings.topic_plan()} - {
            line.settings.names.lanes,
        }
        assert everywhere - {kept["place"] for kept in reported["stays"]} == {
            line.settings.names.replay_state,
        }

        await gone(line, redis_url, 3)
        await looked_up(line, "lead-2", 0)
        assert [await looked_up(line, who) for who in (email, linkedin)] == [[], []]
        await looked_up(line, "lead-1", 1)
        output = await line.done("results")
        assert "lead-1" in output
        assert "lead-2" not in output
        await line.publish([lead(line, 2, "again")])
        await line.until(lambda: line.last()["suppressed"] == 1, 60, "he is not sent again")
        output = await line.done("erase", "lead-2", "--yes", "--why", "once more")
        assert "to do by hand: delete lead lead-2 in Clay, workspace w0, table w0-crm" in output
        assert "if it is the same person: stream-app erase again-2 --workspace w0" in output
        code, output = await line.ask("erase", "again-2", "--yes", "--why", "the same person")
        assert code == 0, output
        assert output["linked"] == [], output
        code, output = await line.ask("erase", "unknown-1", "--yes", "--why", "x")
        assert code == 1, output
        assert output["by_hand"] == [], output
        books = await line.books_balance()
        assert books["not_leads"]["erased"] == 3, "the last one is the lead that came in between"
        asked = await line.read(line.settings.names.commands)
        assert not [record for record in asked if email.encode() in record.value], (
            "it is taken out of the reason"
        )
        for process in processes:
            assert await process.stop() == 0
        written = [text for member in line.started for text in member.output()]
        assert not [text for text in written if email in text]
        for record in await line.read(line.settings.names.commands):
            assert b"@" not in record.value


async def looked_up(line: Pipeline, who: str, results: int | None = None) -> list[FoundLead]:
    """Return the gateway's answer about a lead or person, once it has this many results."""
    deadline = time.monotonic() + 60 * BUSY
    while True:
        leads = (await asyncio.to_thread(find, line.settings, who)).leads
        if results is None or (leads and [len(known.results) for known in leads] == [results]):
            return leads
        assert time.monotonic() < deadline, (who, leads)
        await asyncio.sleep(0.2)


async def gone(line: Pipeline, url: str, entries: int) -> None:
    """Wait until Redis has the entries of only this many people."""
    async with redis.asyncio.from_url(url) as client:
        pattern = f"{line.settings.kafka.namespace}*:person:*"
        deadline = time.monotonic() + 60 * BUSY
        while len([key async for key in client.scan_iter(pattern)]) > entries:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.1)
