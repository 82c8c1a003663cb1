"""Leads of one person with different identifiers, in the lead pipeline: a partition in memory."""

import asyncio
from typing import Final

import msgspec
import pytest

from stream_app.domain.cached_results import CachedField, CacheEntry, person_slot
from stream_app.domain.delivery.suppression import lead_row
from stream_app.domain.lead.identity import people, person_key
from stream_app.domain.limits.budget import BudgetPolicy
from stream_app.domain.model.messages import Scalar
from stream_app.domain.model.outcome import Poison
from stream_app.domain.model.records import Record
from tests.support.partition.degrading import ADA, DegradingBench
from tests.support.partition.virtual import now_ms, virtual_time

LINKEDIN: Final[dict[str, Scalar]] = {"linkedin_url": "https://www.linkedin.com/in/ada"}
OTHER: Final[dict[str, Scalar]] = {"linkedin_url": "https://www.linkedin.com/in/ada-king"}
NAME: Final[dict[str, Scalar]] = {
    "domain": "acme.example",
    "first_name": "Ada",
    "last_name": "King",
}
BOTH: Final = {"email": ADA, **LINKEDIN}
SENT: Final = ["received", "sending", "accepted"]


async def opened(*, cache_first: bool = False) -> DegradingBench:
    return await DegradingBench.started(cache_first=cache_first, budget=BudgetPolicy())


async def lead(
    bench: DegradingBench,
    lead_id: str,
    fields: dict[str, Scalar],
    **more: object,
) -> list[str]:
    return await bench.lead(lead_id, "", **{"fields": fields, **more})


async def suppress(bench: DegradingBench, fields: dict[str, Scalar]) -> None:
    await bench.order("suppress", workspace="", people=people(fields), for_s=1)


@virtual_time
async def test_every_identifier_of_a_lead_leads_to_it() -> None:
    bench = await opened()
    assert await lead(bench, "1", BOTH) == SENT
    assert await lead(bench, "2", {"email": ADA}) == ["duplicate"]
    assert await lead(bench, "3", LINKEDIN) == ["duplicate"]
    duplicate = next(event for event in bench.events() if event.lead_id == "3")
    assert duplicate.reason == "same_person"
    assert duplicate.workspace == "acme"
    assert duplicate.destination == "acme-main"
    assert duplicate.text == "the same person was accepted before, as lead 1"
    assert await lead(bench, "4", {"email": "bob@acme.example"}) == SENT
    assert bench.clay.lead_ids == ["1", "4"]


@virtual_time
async def test_a_forged_id_takes_no_row_and_makes_no_duplicate_of_the_lead_that_has_it() -> None:
    bench = await opened()
    (ada,) = people({"email": ADA})
    derived = f"p-{ada}"
    assert await lead(bench, derived, {"email": "mallory@acme.example"}) == [], (
        "its history has another id"
    )
    (forged,) = {event.lead_id for event in bench.events()}
    assert bench.history(forged) == SENT
    bench.produce({"fields": {"email": ADA}})
    await asyncio.sleep(5)
    assert bench.history(derived) == SENT
    assert bench.clay.lead_ids == [forged, derived]
    assert await lead(bench, derived, {"email": ADA}) == [*SENT, "duplicate"], (
        "an export that is published again"
    )


@virtual_time
async def test_a_duplicate_does_not_make_two_people_one() -> None:
    """It costs nothing, so a producer could have any other person suppressed and erased with this
    one.
    """
    bench = await opened()
    await lead(bench, "1", {"email": ADA})
    assert await lead(bench, "2", {"email": ADA, **OTHER}) == ["duplicate"]
    await suppress(bench, {"email": ADA})
    assert await lead(bench, "3", OTHER) == SENT
    assert bench.clay.lead_ids == ["1", "3"]


@virtual_time
async def test_a_lead_that_is_not_sent_does_not_make_two_people_one() -> None:
    bench = await opened()
    assert await lead(bench, "1", {"email": ADA, **LINKEDIN}, not_after_ms=1) == [
        "received",
        "expired",
    ]
    await suppress(bench, {"email": ADA})
    assert await lead(bench, "2", {"email": ADA, **OTHER}) == ["received", "suppressed"]
    assert await lead(bench, "3", LINKEDIN) == SENT
    assert await lead(bench, "4", OTHER) == SENT
    assert bench.clay.lead_ids == ["3", "4"]


@virtual_time
async def test_a_lead_that_waits_has_no_second_one_under_any_of_its_identifiers() -> None:
    """It is not sent yet, and so links nothing; but its person must not be paid for twice."""
    bench = await DegradingBench.started()
    linkedin, email = people(BOTH)
    keys = [person_key("acme", "acme-main", identifier) for identifier in (linkedin, email)]
    assert (await lead(bench, "1", BOTH))[-1] == "deferred"
    assert await lead(bench, "2", {"email": ADA}) == ["duplicate"]
    assert await lead(bench, "3", LINKEDIN) == ["duplicate"]
    assert [bench.partition.state.rows.get(key) for key in keys] == [b"d/acme/acme-main/1"] * 2
    await bench.open_and_return()
    assert bench.history("1")[-2:] == ["sending", "accepted"]
    linked = [f"d/acme/acme-main/1 {other}".encode() for other in (email, linkedin)]
    assert [bench.partition.state.rows.get(key) for key in keys] == linked
    assert bench.clay.lead_ids == ["1"]


@virtual_time
async def test_the_duplicate_of_a_lead_id_says_nothing_of_a_person() -> None:
    """Files that number their rows use each id again for another person."""
    bench = await opened()
    await lead(bench, "1", {"email": ADA})
    assert await lead(bench, "1", {"email": "bob@acme.example"}) == [*SENT, "duplicate"]
    assert await lead(bench, "2", {"email": "bob@acme.example"}) == SENT


@virtual_time
async def test_a_name_identifies_only_a_lead_that_has_nothing_better() -> None:
    bench = await opened()
    assert await lead(bench, "1", {"email": ADA, **NAME}) == SENT
    assert await lead(bench, "2", {"email": "ada.king@acme.example", **NAME}) == SENT, (
        "of one name, at one company"
    )
    assert await lead(bench, "3", NAME) == SENT
    assert await lead(bench, "4", NAME) == ["duplicate"]


@virtual_time
async def test_a_lead_is_answered_from_the_cache_by_any_identifier_of_its_person() -> None:
    """The third has neither of the two identifiers that the result is remembered under."""
    bench = await opened(cache_first=True)
    bench.clay.first = [Poison(422, 1)]
    await lead(bench, "1", {"email": ADA, **OTHER})
    await lead(bench, "2", BOTH)
    (slot,) = (person_slot("acme", "acme-main", person) for person in people(LINKEDIN))
    await bench.cache.add(
        [(slot, CacheEntry({"title": CachedField("CEO", now_ms(), "acme-main")}))],
    )
    assert await lead(bench, "3", OTHER) == ["received", "served_from_cache"]
    assert bench.clay.lead_ids == ["1", "2"]
    assert bench.results("3")[0].fields == {"title": "CEO"}
    assert await lead(bench, "4", OTHER) == ["received", "served_from_cache"], (
        "the first still counts"
    )


@virtual_time
async def test_a_cached_result_is_not_served_for_a_namesake() -> None:
    bench = await opened(cache_first=True)
    (slot,) = (person_slot("acme", "acme-main", person) for person in people(NAME))
    await bench.cache.add(
        [(slot, CacheEntry({"title": CachedField("CEO", now_ms(), "acme-main")}))],
    )
    assert await lead(bench, "1", {"email": ADA, **NAME}) == SENT
    assert await lead(bench, "2", NAME) == ["received", "served_from_cache"]


@virtual_time
async def test_a_suppressed_person_is_recognised_by_any_identifier_of_the_lead() -> None:
    bench = await opened(cache_first=True)
    bench.clay.first = [Poison(422, 1)]
    assert await lead(bench, "1", BOTH) == ["received", "sending", "rejected_invalid"]
    (slot,) = (person_slot("acme", "acme-main", person) for person in people(LINKEDIN))
    await bench.cache.add(
        [(slot, CacheEntry({"title": CachedField("CEO", now_ms(), "acme-main")}))],
    )
    await suppress(bench, {"email": ADA})
    assert await lead(bench, "2", LINKEDIN) == ["received", "suppressed"], "neither sent nor served"
    assert await lead(bench, "3", LINKEDIN, force=True) == ["received", "suppressed"]
    assert await lead(bench, "4", OTHER) == SENT
    assert bench.clay.lead_ids == ["1", "4"]


@pytest.mark.parametrize("cache_first", [False, True])
@virtual_time
async def test_the_duplicate_of_a_suppressed_person_ends_as_suppressed(cache_first: bool) -> None:
    bench = await opened(cache_first=cache_first)
    assert await lead(bench, "1", BOTH) == SENT
    await bench.remember(ADA, days=0, title="CEO")
    await suppress(bench, {"email": ADA})
    assert await lead(bench, "1", {"email": ADA}) == [*SENT, "suppressed"], "of the same id"
    assert await lead(bench, "2", {"email": ADA}) == ["suppressed"], "of the same person"
    assert await lead(bench, "3", LINKEDIN) == ["suppressed"], (
        "known by another identifier than the list"
    )
    reasons = [
        (event.reason, event.text) for event in bench.events() if event.status == "suppressed"
    ]
    assert reasons == [("suppressed", "this person is on the suppression list (command c1)")] * 3
    await lead(bench, "4", {"email": "bob@acme.example"})
    assert await lead(bench, "5", {"email": "bob@acme.example"}) != ["suppressed"]
    assert bench.clay.lead_ids == ["1", "4"]
    assert bench.results("2") == bench.results("3") == []


@virtual_time
async def test_the_duplicate_of_a_cancelled_lead_stays_a_duplicate() -> None:
    """It was not cancelled before it was sent: the one that was sent was not cancelled."""
    bench = await opened()
    assert await lead(bench, "1", BOTH) == SENT
    bench.command("cancel_lead", age_ms=-60_000, lead_id="1")
    copy = msgspec.json.encode({"lead_id": "1", "fields": {"email": ADA}})
    ordered_ms = now_ms()
    await asyncio.sleep(1)
    leads = bench.kafka.log(bench.plan.topics.leads, 0)
    # published before the command
    late = leads.append(Record(leads.topic, b"acme", copy), ordered_ms, None)
    bench.kafka.on_commit([late])
    leads.changed()
    await asyncio.sleep(5)
    assert bench.partition.state.rows.get(lead_row("acme", "1")) is not None
    assert bench.history("1") == [*SENT, "duplicate"]


async def erase(bench: DegradingBench, lead_id: str, *persons: str) -> set[str]:
    """Erase a lead; the people that its tombstone names."""
    await bench.order("erase", lead_id=lead_id, destinations=["acme-main"], people=persons, for_s=5)
    tombstone = list(bench.kafka.log("leads.enriched", 0).committed())[-1]
    return set(dict(tombstone.headers)["people"].decode().split(","))


@pytest.mark.parametrize("whole", [True, False])
@virtual_time
async def test_an_erasure_forgets_the_identifiers_that_it_names_and_unlinks_them_from_the_others(
    whole: bool,
) -> None:
    """What it does not name may be of another person, whom a producer named in the same lead."""
    bench = await opened()
    bench.clay.first = [Poison(422, 1)]
    await lead(bench, "0", {"email": ADA, **OTHER})
    await lead(bench, "1", BOTH)
    (linkedin, email) = people(BOTH)
    (other,) = people(OTHER)

    def aliases() -> list[bytes | None]:
        rows = bench.partition.state.rows
        return [
            rows.get(person_key("acme", "acme-main", identifier))
            for identifier in (linkedin, email, other)
        ]

    lead_1 = "d/acme/acme-main/1"
    everybody = (linkedin, email, other)
    linked = [sorted(name for name in everybody if name != person) for person in everybody]
    assert aliases() == [" ".join((lead_1, *names)).encode() for names in linked]
    if whole:
        assert await erase(bench, "1", *everybody) == set(everybody)
        assert aliases() == [None] * 3
    else:
        assert await erase(bench, "0", other) == {other}
        assert aliases() == [f"{lead_1} {email}".encode(), f"{lead_1} {linkedin}".encode(), None]


@virtual_time
async def test_forced_leads_of_a_person_are_each_sent_and_claim_no_alias() -> None:
    bench = await opened()
    assert await lead(bench, "1", BOTH, force=True) == SENT
    assert await lead(bench, "2", {"email": ADA}, force=True) == SENT
    assert await lead(bench, "3", LINKEDIN) == SENT


@virtual_time
async def test_copies_with_different_identifiers_in_one_batch_are_sent_once() -> None:
    bench = await opened()
    for number, fields in enumerate(
        (BOTH, {"email": ADA}, LINKEDIN, {"email": ADA, **OTHER}, LINKEDIN),
    ):
        bench.produce({"lead_id": str(number), "fields": fields})
    await asyncio.sleep(10)
    assert [bench.history(str(number)) for number in range(5)] == [SENT, *[["duplicate"]] * 4]
