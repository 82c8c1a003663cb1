"""Personal data does not show: hashes keyed by a pepper, texts of commands and imports."""

import msgspec
import pytest

from stream_app.client.people import hashes_of
from stream_app.client.results.lookup import paths_of
from stream_app.domain.commands import Command, read_command
from stream_app.domain.delivery.suppression import people_in
from stream_app.domain.lead.identity import (
    Identity,
    hashes,
    identify,
    is_of_person,
    plain_id,
    row_id,
)
from stream_app.domain.lead.read import label, new_import_id
from stream_app.domain.model.messages import Lead, Scalar
from stream_app.domain.model.pseudonyms import Pseudonyms, current, pseudonyms_of, use
from stream_app.domain.model.records import ConsumedRecord

FIELDS: dict[str, Scalar] = {
    "email": "ada@example.com",
    "linkedin_url": "https://www.linkedin.com/in/ada",
    "domain": "acme.example",
    "first_name": "Ada",
    "last_name": "King",
}


def identity(fields: dict[str, Scalar] = FIELDS, lead_id: str | None = None) -> Identity:
    who = identify(Lead(fields, lead_id=lead_id))
    assert who is not None
    return who


def test_without_a_pepper_hashes_do_not_change() -> None:
    assert current() == Pseudonyms()
    assert hashes({"email": "ada@example.com"})[1] == "_tFCnJQnHeGdtorLrx4stg"


def test_a_pepper_changes_every_hash() -> None:
    plain = identity(), plain_id("Ada King")
    use(pseudonyms_of("one", False))
    one = identity(), plain_id("Ada King")
    use(pseudonyms_of("two", False))
    two = identity(), plain_id("Ada King")
    assert len({*plain[0].people, *one[0].people, *two[0].people}) == 9
    assert len({plain[1], one[1], two[1]}) == 3


@pytest.mark.parametrize("raw", ["crm-1", "Ada King", "+447946000", "ada@example.com"])
def test_hash_lead_ids_hashes_every_lead_id(raw: str) -> None:
    use(pseudonyms_of("one", True))
    hashed = plain_id(raw)
    assert hashed.startswith("h-")
    assert raw not in hashed
    assert plain_id(hashed) == row_id(hashed) == hashed, "twice changes nothing"
    assert identity(lead_id=raw).lead_id == hashed


def test_only_an_id_that_was_made_from_a_person_is_of_every_workspace() -> None:
    made = identity().lead_id
    ids = (made, f"h-{made[2:]}", "p-ada", "crm-1")
    assert [is_of_person(lead_id) for lead_id in ids] == [True, False, False, False]


def test_people_and_ids_are_looked_up_by_the_hashes_that_rows_have() -> None:
    assert paths_of("crm-1") == ["/leads/crm-1"]
    use(pseudonyms_of("one", True))
    keyed = hashes({"email": "ada@example.com"})[1]
    assert paths_of("crm-1") == [f"/leads/{plain_id('crm-1')}"]
    assert paths_of("ada@example.com") == [
        f"/leads?person={keyed}",
        f"/leads/{plain_id('ada@example.com')}",
    ]
    assert hashes_of(["ada@example.com"]) == [keyed]
    assert people_in(b'{"fields":{"email":"ada@example.com"}}') == (keyed,)


def test_the_reason_of_a_command_may_be_shown_everywhere() -> None:
    why = "ada@example.com complained (+49 170 1234567), see OPS-17"
    asked = Command("c1", "pause", "acme", 1, "me", why)
    read = read_command(
        ConsumedRecord("leads.commands", 0, 0, b"acme", msgspec.json.encode(asked)),
        1,
    )
    assert isinstance(read, Command)
    assert read.why.startswith("[email] complained")
    assert read.why.endswith("see OPS-17")
    assert "170" not in read.why


def test_a_new_import_is_named_by_its_date() -> None:
    assert new_import_id(1_790_000_000_000, "kfdwzp") == "2026-09-21-kfdwzp"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("leads.csv", "leads.csv"),
        ("leads 2026-11-26 (2).csv", "leads 2026-11-26 (2).csv"),
        ("ada@example.com.csv", "[email]"),
        ("calls to +4915112345678.csv", "calls to [number].csv"),
        ("two\nlines\tand   more", "two lines and more"),
        ("x" * 500, "x" * 80),
        ("", ""),
    ],
)
def test_a_label_has_no_address_and_no_phone_number(text: str, shown: str) -> None:
    assert label(text) == shown
