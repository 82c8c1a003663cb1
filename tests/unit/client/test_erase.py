"""What is held of a person by any of his hashes, and who is named on a suppression list."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, Final, Self

import msgspec
import pytest

from stream_app.client import people as erase
from stream_app.client.people import (
    StoredLead,
    Suppressed,
    erasure,
    find_stored_leads,
    hashes_of,
    on_the_list,
    persons_in,
    remains,
)
from stream_app.config import Settings
from stream_app.domain.delivery.state_machine import ROW_VERSION, Delivery, delivery_key
from stream_app.domain.delivery.suppression import Suppression, person_row
from stream_app.domain.lead.identity import people
from stream_app.domain.limits.budget import BudgetPolicy
from stream_app.domain.model.errors import SettingsError
from stream_app.domain.model.messages import Scalar
from stream_app.domain.model.outcome import Poison
from stream_app.domain.model.records import ConsumedRecord
from stream_app.domain.model.topics import COMMANDS_DAYS, Retention, wait_days
from tests.support.partition.degrading import ADA, DegradingBench
from tests.support.partition.virtual import virtual_time
from tests.support.settings import settings_of

LINKEDIN: Final = "https://www.linkedin.com/in/ada"
NAME: Final[dict[str, Scalar]] = {
    "domain": "acme.example",
    "first_name": "Ada",
    "last_name": "King",
}
WHOLE: Final[dict[str, Scalar]] = {"email": ADA, "linkedin_url": LINKEDIN, **NAME}
BY_LINKEDIN, BY_EMAIL, BY_NAME = people(WHOLE)


class Reader:
    """`topic_reader` of the bench that is at work."""

    bench: DegradingBench
    settings: Settings
    forgotten: str = ""

    def __init__(self, *_: Any) -> None: ...

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None: ...

    async def read(self, topic: str) -> AsyncIterator[list[ConsumedRecord]]:
        yield [] if topic == self.forgotten else list(self.bench.kafka.log(topic, 0).committed())


@pytest.fixture(autouse=True)
def _reader(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(erase, "topic_reader", Reader)
    monkeypatch.setattr(Reader, "forgotten", "")
    monkeypatch.setattr(
        Reader,
        "settings",
        settings_of(tmp_path, "nowhere:1", ""),
        raising=False,
    )


async def bench_of() -> DegradingBench:
    bench = DegradingBench(budget=BudgetPolicy())
    Reader.bench = bench
    await bench.start()
    return bench


async def held(*persons: str, lead_id: str | None = None) -> list[StoredLead]:
    return await find_stored_leads(
        Reader.settings,
        persons,
        lead_id,
        None,
        lambda done, total: None,
    )


EVERYBODY: Final = tuple(sorted([BY_LINKEDIN, BY_EMAIL, BY_NAME]))
ALL: Final = StoredLead("acme", "1", ("acme-main",), EVERYBODY, own=EVERYBODY)


@pytest.mark.parametrize("forced", [False, True])
@virtual_time
async def test_a_lead_is_found_by_its_email_linkedin_url_and_id_with_and_without_a_result(
    forced: bool,
) -> None:
    bench = await bench_of()
    await bench.lead("1", ADA, fields=WHOLE, force=forced)
    for _ in range(2):
        assert await held(BY_EMAIL) == await held(BY_LINKEDIN) == await held(lead_id="1") == [ALL]
        await bench.enrich("1", title="CEO")


@virtual_time
async def test_a_result_names_its_person_after_its_row_expired() -> None:
    bench = await bench_of()
    await bench.lead("1", ADA, fields=WHOLE)
    await bench.enrich("1", title="CEO")
    Reader.forgotten = bench.plan.topics.state
    assert await held(BY_EMAIL) == await held(BY_LINKEDIN) == await held(lead_id="1") == [ALL]


@virtual_time
async def test_a_namesake_is_another_person() -> None:
    bench = await bench_of()
    await bench.lead("1", ADA, fields=WHOLE)
    await bench.lead(
        "2",
        "ada.king2@acme.example",
        fields={**NAME, "email": "ada.king2@acme.example"},
    )
    assert await held(BY_EMAIL) == [ALL]
    await bench.lead("3", "", fields=NAME)
    leads = [(lead.lead_id, lead.is_named) for lead in await held(BY_EMAIL)]
    assert leads == [("1", True), ("3", False)], "of whom nothing better is known"


@virtual_time
async def test_links_between_leads_are_followed_to_the_end() -> None:
    bench = await bench_of()
    urls = [f"https://www.linkedin.com/in/ada-{number}" for number in range(3)]
    for number, url in enumerate(urls):  # the last is the one that is asked for
        fields = {"linkedin_url": url, "email": f"ada{number}@acme.example"}
        await bench.lead(f"{number}", "", fields=fields)
        if number:
            fields["email"] = f"ada{number - 1}@acme.example"
            await bench.lead(f"{number}-too", "", fields=fields, force=True)
    (last,) = people({"email": "ada2@acme.example"})
    assert [lead.lead_id for lead in await held(last)] == ["0", "1", "1-too", "2", "2-too"]


@virtual_time
async def test_the_identifiers_of_an_earlier_lead_are_found_from_either_side() -> None:
    """Its row has gone to the second lead, whose row has only its own identifiers."""
    bench = await bench_of()
    bench.clay.first = [Poison(422, 1)]
    other: dict[str, Scalar] = {"linkedin_url": "https://www.linkedin.com/in/ada-king"}
    await bench.lead("1", ADA, fields={"email": ADA, **other})
    await bench.lead("1", ADA, fields=WHOLE)
    (linked,) = people(other)
    everybody = tuple(sorted([*EVERYBODY, linked]))
    for asked in (BY_LINKEDIN, BY_EMAIL, linked):
        assert [(lead.lead_id, lead.people) for lead in await held(asked)] == [("1", everybody)]


VICTIM: Final = "victim@acme.example"
(BY_VICTIM,) = people({"email": VICTIM})
TWO: Final[dict[str, Scalar]] = {"email": VICTIM, "linkedin_url": LINKEDIN}


@virtual_time
async def test_a_lead_that_does_not_name_who_was_asked_for_is_linked_to_the_person_only() -> None:
    """A producer may have named two people in one lead: the leads of the second are asked for
    apart.
    """
    bench = await bench_of()
    await bench.lead("two", "", fields=TWO, force=True)
    await bench.lead("victim", VICTIM)
    first, second = await held(BY_LINKEDIN)
    assert [first, second] == await held(lead_id="two")
    assert [(lead.lead_id, lead.is_named) for lead in (first, second)] == [
        ("two", True),
        ("victim", False),
    ]
    assert second.own == (BY_VICTIM,)
    (suppressed, erased) = erasure([first], [BY_LINKEDIN], [second])
    assert suppressed == ("suppress", "", {"people": [BY_LINKEDIN]})
    assert erased[2]["lead_id"] == "two"
    assert erased[2]["people"] == (BY_LINKEDIN,)
    everybody, *both = erasure([first, second], [BY_LINKEDIN])
    assert everybody[2]["people"] == sorted([BY_LINKEDIN, BY_VICTIM])
    assert [command[2]["lead_id"] for command in both] == ["two", "victim"]
    (asked_for, _) = erasure([first], [BY_LINKEDIN, BY_VICTIM], [second])
    assert asked_for[2]["people"] == sorted([BY_LINKEDIN, BY_VICTIM]), (
        "it was asked for, even if another person has it, too"
    )


@virtual_time
async def test_a_lead_that_was_never_sent_leads_to_no_other_person() -> None:
    bench = await bench_of()
    await bench.lead("victim", VICTIM)
    await bench.lead("two", "", fields=TWO, force=True, not_after_ms=1)
    assert bench.history("two") == ["received", "expired"]
    (lead,) = await held(BY_LINKEDIN)
    assert lead.lead_id == "two"
    assert lead.people == (BY_LINKEDIN,)
    assert lead.is_named is True
    assert [stored.lead_id for stored in await held(BY_VICTIM)] == ["two", "victim"]


@virtual_time
async def test_a_linked_lead_that_was_erased_is_not_asked_for_again_until_it_comes_again() -> None:
    bench = await bench_of()
    await bench.lead("two", "", fields=TWO, force=True)
    await bench.lead("victim", VICTIM)
    bench.command("erase", lead_id="victim", destinations=["acme-main"], people=[BY_VICTIM])
    await asyncio.sleep(5)
    assert [lead.lead_id for lead in await held(BY_LINKEDIN)] == ["two"]
    assert [lead.lead_id for lead in await held(BY_VICTIM)] == ["two", "victim"], "it is named"
    await bench.lead("victim", VICTIM, force=True)
    assert [lead.lead_id for lead in await held(BY_LINKEDIN)] == ["two", "victim"]


def test_spellings_of_a_person_have_one_hash() -> None:
    (ada,) = people({"email": "ada@example.com"})
    (linkedin,) = people({"linkedin_url": "https://www.linkedin.com/in/ada"})
    lines = [
        "ada@example.com\n",
        "",
        "  mailto:Ada@Example.com",
        "linkedin.com/in/Ada/",
        "ADA@example.com",
    ]
    assert hashes_of(lines) == [ada, linkedin]


def test_a_person_can_be_unsuppressed_by_hash() -> None:
    (ada,) = people({"email": "ada@example.com"})
    assert hashes_of([ada, "ada@example.com"], hashed=True) == [ada]
    with pytest.raises(SettingsError):
        hashes_of([ada])


def test_a_line_without_an_identity_is_named_by_its_number_only() -> None:
    with pytest.raises(SettingsError) as caught:
        hashes_of(["ada@example.com", "Ada Lovelace", "https://www.linkedin.com/company/acme"])
    assert [problem.split(" is ")[0] for problem in caught.value.problems] == [
        "number 2",
        "number 3",
    ]
    assert "Lovelace" not in str(caught.value)


def test_a_list_of_another_namespace_is_taken_as_it_was_written() -> None:
    (ada,) = people({"email": "ada@example.com"})
    listed = [Suppressed(ada, 1, "jane", "c1", everywhere=True)]
    for written in (
        msgspec.json.encode(listed),
        msgspec.json.format(msgspec.json.encode(listed), indent=2),
    ):
        assert hashes_of(persons_in(written.decode()), hashed=True) == [ada]
    assert hashes_of(persons_in(f"{ada}\nada@example.com\n"), hashed=True) == [ada]
    with pytest.raises(SettingsError, match="the file is not what `suppress list --json` writes"):
        persons_in('[{"name": "ada"}]')


class TwoPartitions(Reader):
    """The state of two partitions, which are all that there are."""

    rows: list[ConsumedRecord]
    results: Sequence[ConsumedRecord] = ()

    async def read(self, topic: str) -> AsyncIterator[list[ConsumedRecord]]:
        yield self.rows if topic == self.settings.names.state else list(self.results)


def state_row(number: int, partition: int, key: bytes, value: bytes | None) -> ConsumedRecord:
    return ConsumedRecord("stream-app-state", partition, number, key, value)


def test_the_list_says_who_is_suppressed_in_all_partitions_and_by_whom_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def entry(at_ms: int, who: str) -> bytes:
        return msgspec.json.encode(Suppression("suppressed", at_ms, f"c-{who}", who))

    everywhere = person_row("A" * 22)
    in_one = person_row("B" * 22)
    gone = person_row("C" * 22)
    rows = [
        (0, everywhere, entry(7, "late")),
        (1, everywhere, entry(5, "early")),
        (0, in_one, entry(3, "jane")),
        (0, person_row("A" * 21 + "B"), entry(3, "sam")),
        (1, person_row("A" * 21 + "B"), entry(3, "sam")),
        (0, gone, entry(1, "jane")),
        (0, gone, None),
        (1, b"d/acme/people/x", b"no entry of the list"),
    ]
    monkeypatch.setattr(erase, "topic_reader", TwoPartitions)
    records = [state_row(number, *row) for number, row in enumerate(rows)]
    monkeypatch.setattr(TwoPartitions, "rows", records, raising=False)
    assert Reader.settings.kafka.partitions == 2
    assert asyncio.run(on_the_list(Reader.settings, lambda done, total: None)) == [
        Suppressed("A" * 21 + "B", 3, "sam", "c-sam", everywhere=True),
        Suppressed("B" * 22, 3, "jane", "c-jane", everywhere=False),
        Suppressed("A" * 22, 5, "early", "c-early", everywhere=True),
    ]


@pytest.mark.parametrize(
    ("lead_id", "workspace", "owners"),
    [
        ("crm-17", None, None),
        ("crm-17", "acme", ["acme"]),
        (
            "p-" + "A" * 22,
            None,
            ["acme", "beta"],
        ),  # every workspace derives this id from the person
        ("crm-18", None, ["acme"]),
    ],
)
def test_an_id_that_several_workspaces_have_needs_a_workspace(
    lead_id: str,
    workspace: str | None,
    owners: list[str] | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def row(person: str) -> bytes:
        return msgspec.json.encode(
            Delivery(ROW_VERSION, "accepted", "leads/0/1", 3, 1, 1, "t", person=person),
        )

    persons = ("A" * 22, "A" * 22 if lead_id.startswith("p-") else "B" * 22)
    places = [("acme", lead_id), ("beta", lead_id if lead_id != "crm-18" else "crm-99")]
    keys = [delivery_key(name, "people", known) for name, known in places]
    monkeypatch.setattr(erase, "topic_reader", TwoPartitions)
    pairs = zip(keys, persons, strict=True)
    records = [state_row(number, 0, key, row(person)) for number, (key, person) in enumerate(pairs)]
    monkeypatch.setattr(TwoPartitions, "rows", records, raising=False)
    looking = find_stored_leads(Reader.settings, (), lead_id, workspace, lambda done, total: None)
    if owners is None:
        with pytest.raises(
            SettingsError,
            match=r"several workspaces have a lead of this id \(acme, beta\)",
        ):
            asyncio.run(looking)
    else:
        named = [lead.workspace for lead in asyncio.run(looking) if lead.lead_id == lead_id]
        assert sorted(named) == owners


def test_what_remains_is_told_with_the_day_until_which_kafka_keeps_it() -> None:
    """Kafka deletes whole segments, so that a record may live a day longer than its retention."""
    kept = Retention(
        leads_days=3,
        bulk_days=5,
        dlq_days=8,
        deferred_days=9,
        parked_days=40,
        status_days=31,
        callbacks_days=11,
        audit_days=77,
    )
    settings = msgspec.structs.replace(Reader.settings, topics=kept)
    names = settings.names
    left = remains(settings)
    days = {row.place: row.days for row in left}
    assert days.pop("Clay") is None
    assert days.pop(names.state) is None
    assert days.pop(names.enriched) == 2
    assert days.pop(names.commands) == COMMANDS_DAYS + 1
    for tier_s in settings.replay.tiers_s:
        assert days.pop(names.wait(tier_s)) == wait_days(settings.replay.tiers_s) + 1
    assert days == {
        names.leads: 4,
        names.retry: 4,
        names.bulk: 6,
        names.dlq: 9,
        names.deferred: 10,
        names.parked: 41,
        names.callbacks: 12,
        names.audit: 78,
        names.status: 32,
    }
    what = {row.place: row.what for row in left}
    raw = {names.leads, names.bulk, names.retry, names.deferred, names.dlq, names.parked}
    raw |= {names.wait(tier_s) for tier_s in settings.replay.tiers_s}
    assert what == {
        **dict.fromkeys(raw, "the lead as it was published"),
        **dict.fromkeys((names.commands, names.audit, names.status), "ids and hashes"),
        names.callbacks: (
            "Clay's answer, also one that comes after the erasure: then it publishes nothing"
        ),
        names.enriched: "Clay's answer, until Kafka compacts it behind the tombstone",
        names.state: "ids and hashes, so that the person is never sent again",
        "Clay": "its row, until an operator deletes it there",
    }
    assert [row.place for row in left][-3:] == [names.enriched, names.state, "Clay"]


def test_an_erasure_finds_its_person_beside_what_it_cannot_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Bytes of another version must not keep a person's data from being found."""
    ada = "A" * 22
    eve = "E" * 22
    key = delivery_key("acme", "people", "crm-7")
    row = msgspec.json.encode(
        Delivery(ROW_VERSION, "accepted", "leads/0/1", 3, 9, 9, "t", webhook_id="w", person=ada),
    )
    records = [
        state_row(
            0,
            0,
            f"p/acme/people/{ada}".encode(),
            b"d/acme/short " + key + b" " + eve.encode(),
        ),
        state_row(1, 0, b"d/acme/people/odd", b"[]"),
        state_row(2, 0, b"e/acme/crm-8", b"no entry"),
        state_row(3, 0, b"l/acme", b"a lane"),
        state_row(4, 0, b"p/short", b"d/acme/people/crm-9"),
        state_row(5, 0, key, row),
    ]
    monkeypatch.setattr(erase, "topic_reader", TwoPartitions)
    monkeypatch.setattr(TwoPartitions, "rows", records, raising=False)

    def leads_of(*persons: str, lead_id: str | None = None) -> list[StoredLead]:
        looking = find_stored_leads(Reader.settings, persons, lead_id, None, lambda *_: None)
        return asyncio.run(looking)

    (lead,) = leads_of(ada)
    assert lead.lead_id == "crm-7"
    assert lead.destinations == ("people",)
    assert lead.people == (ada, eve), "her link to another identifier, too"
    assert lead.own == (ada,)
    assert lead.is_named
    (by_link,) = leads_of(eve)
    assert by_link.lead_id == "crm-7"
    assert not by_link.is_named, "only a link leads to it"
    assert leads_of(lead_id="crm-7") == [lead]
    assert leads_of("X" * 22) == []
    odd = [state_row(n, 0, b"acme/people/odd", value) for n, value in enumerate((b"[]", b"{"))]
    monkeypatch.setattr(TwoPartitions, "results", odd)
    assert leads_of(ada) == [lead]


def test_a_lead_of_which_only_a_link_is_left_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its row has expired, and Kafka has no result of it any more."""
    ada = "A" * 22
    eve = "E" * 22
    link = delivery_key("acme", "people", "crm-9") + b" " + eve.encode()
    monkeypatch.setattr(erase, "topic_reader", TwoPartitions)
    records = [state_row(0, 0, f"p/acme/people/{ada}".encode(), link)]
    monkeypatch.setattr(TwoPartitions, "rows", records, raising=False)

    def leads_of(*persons: str, lead_id: str | None = None) -> list[StoredLead]:
        looking = find_stored_leads(Reader.settings, persons, lead_id, "acme", lambda *_: None)
        return asyncio.run(looking)

    assert leads_of(ada) == [
        StoredLead("acme", "crm-9", ("people",), (ada, eve), is_named=False),
    ]
    assert leads_of(lead_id="crm-9") == [StoredLead("acme", "crm-9", ("people",), ())], (
        "nothing says whose it is"
    )
    assert leads_of(lead_id="crm-8") == []


def test_a_lead_that_was_erased_is_not_found_again_by_a_link(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Unless it was published again after that: then it holds data once more."""
    ada = "A" * 22
    eve = "E" * 22
    key = delivery_key("acme", "people", "crm-7")
    alias = f"p/acme/people/{ada}".encode()
    monkeypatch.setattr(erase, "topic_reader", TwoPartitions)

    def leads_of(began_ms: int, erased_ms: int, asked: str) -> list[str]:
        row = Delivery(ROW_VERSION, "enriched", "leads/0/1", 3, 9, began_ms, "t", person=ada)
        erased = msgspec.json.encode(Suppression("erased", erased_ms, "c-1", "jane"))
        records = [
            state_row(0, 0, alias, key + b" " + eve.encode()),
            state_row(1, 0, key, msgspec.json.encode(row)),
            state_row(2, 0, b"e/acme/crm-7", erased),
        ]
        monkeypatch.setattr(TwoPartitions, "rows", records, raising=False)
        looking = find_stored_leads(Reader.settings, (asked,), None, None, lambda *_: None)
        return [lead.lead_id for lead in asyncio.run(looking)]

    assert leads_of(50, 60, eve) == []
    assert leads_of(60, 60, eve) == []
    assert leads_of(70, 60, eve) == ["crm-7"]
    assert leads_of(50, 60, ada) == ["crm-7"], "its own fields name her"
