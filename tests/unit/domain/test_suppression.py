"""Suppressed people and cancelled leads: which rows bind which record."""

import json

import msgspec
import pytest

from stream_app.domain.delivery.envelope import Way, read_envelope
from stream_app.domain.delivery.state_machine import Delivery, match_callback
from stream_app.domain.lead.identity import people
from stream_app.domain.lead.lead import Unreadable, read_lead
from stream_app.domain.lead.resolve import ResolvedLead, resolve_lead
from stream_app.domain.lead.suppression import Suppression, import_row, lead_row, person_row, suppression_reason
from stream_app.domain.record import ConsumedRecord
from tests.simulation.schedule import Setup, plan_of

PLAN = plan_of(Setup())
CANCELLED_MS = 1_000


def case(published_ms: int, way: Way = "", came_ms: int = 0, **changes: object) -> ResolvedLead:
    fields = {"email": "ada@example.com", "linkedin_url": "linkedin.com/in/ada"}
    value = json.dumps({"lead_id": "a", "fields": fields, **changes}).encode()
    consumed = ConsumedRecord("leads", 0, 7, b"acme", value, (), came_ms or published_ms)
    envelope = msgspec.structs.replace(read_envelope(consumed), origin_ms=published_ms, way=way)
    lead = read_lead(consumed.value, consumed.key)
    assert not isinstance(lead, Unreadable)
    found = resolve_lead(PLAN, consumed, envelope, lead)
    assert isinstance(found, ResolvedLead)
    return found


def reason(case: ResolvedLead, row: bytes, suppressed: bool = False) -> str:
    found = Suppression("suppressed" if suppressed else "cancelled", CANCELLED_MS, "c1", "jane")
    why = suppression_reason(case, {row: found}.get)
    assert why is None or "command c1" in why.text
    return why.reason if why is not None else ""


@pytest.mark.parametrize("fields", [{"email": "Ada@example.com"}, {"linkedin_url": "https://linkedin.com/in/Ada/"}])
def test_a_suppressed_person_is_recognised_by_any_identity_at_any_time(fields: dict[str, str]) -> None:
    (person,) = people(dict(fields))
    for published_ms in (1, CANCELLED_MS + 1):
        assert reason(case(published_ms), person_row(person), suppressed=True) == "suppressed"
    assert reason(case(1), person_row("x" * 22), suppressed=True) == ""


def test_a_cancellation_applies_to_records_published_before_it() -> None:
    assert reason(case(CANCELLED_MS), lead_row("acme", "a")) == "cancelled"
    assert reason(case(CANCELLED_MS + 1), lead_row("acme", "a")) == ""
    assert reason(case(1), lead_row("beta", "a")) == ""
    assert reason(case(1), lead_row("acme", "b")) == ""
    assert reason(case(1, import_id="march.csv"), import_row("acme", "march.csv")) == "cancelled"
    assert reason(case(1), import_row("acme", "march.csv")) == ""


def test_a_copy_has_the_age_of_its_lead_and_a_redrive_its_own() -> None:
    later_ms = CANCELLED_MS + 1
    assert reason(case(1, "replayed", later_ms), lead_row("acme", "a")) == "cancelled"
    assert reason(case(1, "redriven", later_ms), lead_row("acme", "a")) == ""
    assert reason(case(1, "redriven", CANCELLED_MS), lead_row("acme", "a")) == "cancelled"


def test_an_id_that_could_contain_an_address_is_cancelled_by_its_hash() -> None:
    assert reason(case(1, lead_id="ada@example.com"), lead_row("acme", "ada@example.com")) == "cancelled"
    assert b"@" not in lead_row("acme", "ada@example.com")
    assert b"march" not in import_row("acme", "march.csv")


def test_a_callback_settles_a_lead_that_was_suppressed_after_the_send() -> None:
    row = Delivery(1, "suppressed", "leads/0/7", 5, 1, 1, "t", sends=1, webhook_id="w", final=True)
    assert match_callback(row, "enriched") == "settles"
    assert match_callback(msgspec.structs.replace(row, webhook_id=""), "enriched") == "unmatched"
