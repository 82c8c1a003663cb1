"""Hashes of people and lead ids: keyed by a pepper, found again while the pepper is rotated."""

from __future__ import annotations

from itertools import chain

import pytest

from stream_app.client.lookup import paths_of
from stream_app.domain.delivery.envelope import Envelope
from stream_app.domain.delivery.state_machine import begin, delivery_key
from stream_app.domain.lead.identity import Identity, former_ids_of, hashes, identify, plain_id, row_id
from stream_app.domain.lead.lead import Unreadable, read_lead
from stream_app.domain.lead.person import claimed, identifiers, person_key, person_of
from stream_app.domain.lead.pseudonyms import Pseudonyms, current, pseudonyms_of, use
from stream_app.domain.lead.resolve import ResolvedLead, resolve_lead
from stream_app.domain.lead.suppression import Suppression, people_in, person_row, suppression_reason
from stream_app.domain.messages import Lead, Scalar
from stream_app.domain.record import ConsumedRecord
from stream_app.operator.suppress import hashes_of
from tests.simulation.schedule import Setup, plan_of

PLAN = plan_of(Setup())
FIELDS: dict[str, Scalar] = {
    "email": "ada@example.com",
    "linkedin_url": "https://www.linkedin.com/in/ada",
    "domain": "acme.example",
    "first_name": "Ada",
    "last_name": "King",
}
VALUE = b'{"workspace":"acme","lead_id":"Ada King","fields":{"email":"ada@example.com"}}'


def identity(fields: dict[str, Scalar] = FIELDS, lead_id: str | None = None) -> Identity:
    found = identify(Lead(fields, lead_id=lead_id))
    assert found is not None
    return found


def case(rows: dict[bytes, object] | None = None, aliases: dict[bytes, bytes] | None = None) -> ResolvedLead:
    consumed = ConsumedRecord("leads", 0, 7, b"acme", VALUE, (), 1)
    lead = read_lead(consumed.value, consumed.key)
    assert not isinstance(lead, Unreadable)
    envelope = Envelope(origin=consumed.record_id)
    found = resolve_lead(PLAN, consumed, envelope, lead, (rows or {}).get, (aliases or {}).get)  # type: ignore[arg-type]
    assert isinstance(found, ResolvedLead)
    return found


def test_without_a_pepper_hashes_do_not_change() -> None:
    assert current() == Pseudonyms()
    assert hashes({"email": "ada@example.com"})[1] == "_tFCnJQnHeGdtorLrx4stg"
    assert identity().former == ()
    assert identity().former_ids == ()


def test_a_pepper_changes_every_hash() -> None:
    plain = identity(), plain_id("Ada King")
    use(pseudonyms_of(["one"], False))
    one = identity(), plain_id("Ada King")
    use(pseudonyms_of(["two"], False))
    two = identity(), plain_id("Ada King")
    assert len({*plain[0].people, *one[0].people, *two[0].people}) == 9
    assert len({plain[1], one[1], two[1]}) == 3


def test_a_rotation_looks_up_all_earlier_hashes() -> None:
    made = [identity()]
    use(pseudonyms_of(["one"], False))
    made.append(identity())
    use(pseudonyms_of(["two", "one"], False))
    now = identity()
    assert now.former == (made[1].people, made[0].people)
    assert now.former_ids == (f"p-{made[1].person}", f"p-{made[0].person}")
    assert set(people_in(b'{"fields":{"email":"ada@example.com"}}')) == {each.people[1] for each in (now, *made)}


def test_a_suppression_survives_a_rotation() -> None:
    listed = person_row(hashes({"email": "ada@example.com"})[1])
    row = Suppression("suppressed", 1, "c1", "jane")
    for peppers in (["one"], ["two", "one"]):
        use(pseudonyms_of(peppers, False))
        why = suppression_reason(case(), {listed: row}.get)
        assert why is not None, peppers
        listed = person_row(hashes({"email": "ada@example.com"})[1])


def test_a_known_lead_keeps_its_id_and_person_over_a_rotation() -> None:
    use(pseudonyms_of(["one"], False))
    before = case()
    aliases = dict(claimed(person_of(before.aliases, lambda _: None), before.aliases, before.key))
    rows = {before.key: begin(before.envelope, 1)}
    use(pseudonyms_of(["two", "one"], False))
    after = case(dict(rows), {key: value for key, value in aliases.items() if value is not None})
    assert (after.lead_id, after.key) == (before.lead_id, before.key)
    assert before.aliases[0] in after.aliases
    new = person_key("acme", after.destination.alias, identifiers(after.people)[0])
    assert after.aliases[0] == new != before.aliases[0]
    assert case().lead_id == plain_id("Ada King") != before.lead_id, "one without a row has the new id"


def test_no_hash_without_the_first_pepper_is_written() -> None:
    use(pseudonyms_of(["two", "one"], False))
    found = case()
    former = set(chain(*found.former)) - {""}
    assert former
    written = b" ".join(found.aliases) + found.key + found.body + repr(found.begin(1)).encode()
    assert not [each for each in former if each.encode() in written]


@pytest.mark.parametrize("raw", ["crm-1", "Ada King", "+447946000", "ada@example.com"])
def test_hash_lead_ids_hashes_every_lead_id(raw: str) -> None:
    use(pseudonyms_of(["one"], True))
    hashed = plain_id(raw)
    assert hashed.startswith("h-")
    assert raw not in hashed
    assert plain_id(hashed) == row_id(hashed) == hashed, "twice changes nothing"
    assert identity(lead_id=raw).lead_id == hashed


def test_ids_from_before_hashing_are_looked_up() -> None:
    use(pseudonyms_of(["one"], True))
    assert "crm-1" in former_ids_of("crm-1")
    assert row_id("crm-1") == "crm-1", "a command names it as its rows do"
    rows = {delivery_key("acme", case().destination.alias, former_ids_of("Ada King")[0]): begin(case().envelope, 1)}
    assert case(dict(rows)).lead_id == former_ids_of("Ada King")[0]


def test_a_status_query_asks_for_all_possible_hashes() -> None:
    plain = hashes({"email": "ada@example.com"})[1]
    assert paths_of("crm-1") == ["/leads/crm-1"]
    use(pseudonyms_of(["one"], True))
    keyed = hashes({"email": "ada@example.com"})[1]
    assert paths_of("crm-1") == [f"/leads/{plain_id('crm-1')}", f"/leads/{former_ids_of('crm-1')[0]}", "/leads/crm-1"]
    assert paths_of("ada@example.com")[:2] == [f"/leads?person={keyed}", f"/leads?person={plain}"]
    assert hashes_of(["ada@example.com"]) == [keyed]
    assert hashes_of(["ada@example.com"], former=True) == [keyed, plain]
