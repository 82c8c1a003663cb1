"""Hashes of people and lead ids: keyed by a pepper."""

import pytest

from stream_app.client.lookup import paths_of
from stream_app.client.people import hashes_of
from stream_app.domain.lead.identity import Identity, hashes, identify, plain_id, row_id
from stream_app.domain.lead.pseudonyms import Pseudonyms, current, pseudonyms_of, use
from stream_app.domain.lead.suppression import people_in
from stream_app.domain.messages import Lead, Scalar

FIELDS: dict[str, Scalar] = {
    "email": "ada@example.com",
    "linkedin_url": "https://www.linkedin.com/in/ada",
    "domain": "acme.example",
    "first_name": "Ada",
    "last_name": "King",
}


def identity(fields: dict[str, Scalar] = FIELDS, lead_id: str | None = None) -> Identity:
    found = identify(Lead(fields, lead_id=lead_id))
    assert found is not None
    return found


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


def test_people_and_ids_are_looked_up_by_the_hashes_that_rows_have() -> None:
    assert paths_of("crm-1") == ["/leads/crm-1"]
    use(pseudonyms_of("one", True))
    keyed = hashes({"email": "ada@example.com"})[1]
    assert paths_of("crm-1") == [f"/leads/{plain_id('crm-1')}"]
    assert paths_of("ada@example.com") == [f"/leads?person={keyed}", f"/leads/{plain_id('ada@example.com')}"]
    assert hashes_of(["ada@example.com"]) == [keyed]
    assert people_in(b'{"fields":{"email":"ada@example.com"}}') == (keyed,)
