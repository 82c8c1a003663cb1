"""The station *identify*: which table a lead goes to, and what exactly Clay is sent."""

import json
from typing import Any

import msgspec
import pytest

from stream_app.domain.callback.token import Keys, verify
from stream_app.domain.delivery.envelope import Envelope
from stream_app.domain.delivery.state_machine import delivery_key
from stream_app.domain.lead.lead import MAX_CELL_BYTES, Unreadable, read_lead
from stream_app.domain.lead.resolve import ResolvedLead, resolve_lead
from stream_app.domain.policy import Destination, Plan, Sizes, Workspace
from stream_app.domain.record import ConsumedRecord
from stream_app.domain.topics import TopicNames
from stream_app.domain.trace import span_id

KEYS = Keys(["a key of callback tokens, only for tests"])
PLAN = Plan(
    topics=TopicNames(""),
    partitions=4,
    workspaces={"acme": Workspace("acme", "people"), "beta": Workspace("beta", "beta-people")},
    destinations={
        "people": Destination("people", "acme", ("h1",), callbacks=False),
        "mapped": Destination("mapped", "acme", ("h2",), {"email": "Work Email", "title": "Role"}, callbacks=False),
        "asked-back": Destination("asked-back", "acme", ("h3",), callback_url="https://leads.example.com/callbacks"),
        "beta-people": Destination("beta-people", "beta", ("h4",)),
    },
    callback_keys=KEYS,
)
ADA = {"email": " Ada@Example.com", "title": "CEO", "notes": "met in May"}


def case(
    fields: dict[str, Any] = ADA,
    plan: Plan = PLAN,
    **lead: Any,
) -> ResolvedLead | Unreadable:
    value = json.dumps({"lead_id": "crm-1", "workspace": "acme", "fields": fields, **lead}).encode()
    read = read_lead(value, b"acme")
    assert not isinstance(read, Unreadable), read
    consumed = ConsumedRecord("leads", 0, 7, b"acme", value)
    return resolve_lead(plan, consumed, Envelope(origin=consumed.record_id), read)


def sent(found: ResolvedLead | Unreadable) -> dict[str, Any]:
    assert isinstance(found, ResolvedLead), found
    body: dict[str, Any] = json.loads(found.body)
    return body


def test_without_columns_every_field_is_sent_under_its_own_name() -> None:
    assert sent(case()) == {"email": "ada@example.com", "title": "CEO", "notes": "met in May", "lead_id": "crm-1"}


def test_only_the_fields_of_a_destinations_columns_are_sent() -> None:
    found = case(destination="mapped")
    assert sent(found) == {"Work Email": "ada@example.com", "Role": "CEO", "lead_id": "crm-1"}


def test_with_traces_a_row_continues_the_trace_of_its_lead() -> None:
    plan = msgspec.structs.replace(PLAN, traces=True)
    found = case(plan=plan)
    assert isinstance(found, ResolvedLead)
    assert sent(found)["traceparent"] == f"00-{found.envelope.trace_id}-{span_id('leads/0/7', 0)}-01"
    assert "traceparent" not in sent(case())


@pytest.mark.parametrize(("asked", "goes_to"), [(None, "people"), ("mapped", "mapped"), ("asked-back", "asked-back")])
def test_a_lead_names_its_destination_or_gets_the_default_of_its_workspace(asked: str | None, goes_to: str) -> None:
    found = case(destination=asked)
    assert isinstance(found, ResolvedLead)
    assert found.destination.alias == goes_to
    assert found.key == delivery_key("acme", goes_to, "crm-1")


@pytest.mark.parametrize("asked", ["nowhere", "beta-people"])
def test_a_destination_of_another_workspace_is_refused(asked: str) -> None:
    found = case(destination=asked)
    assert isinstance(found, Unreadable)
    assert found.reason == "unknown_destination"


def test_a_body_contains_the_callback_url_and_token() -> None:
    body = sent(case(destination="asked-back", fields={**ADA, "callback_url": "https://evil.example"}))
    assert body["callback_url"] == "https://leads.example.com/callbacks"
    assert verify(KEYS, body["callback_token"], "acme", "asked-back", "crm-1")


def test_a_body_above_clays_limit_is_a_dead_letter() -> None:
    small = Plan(PLAN.topics, 4, PLAN.workspaces, PLAN.destinations, sizes=Sizes(payload=300))
    fits = case({**ADA, "notes": "x" * 200}, small)
    assert len(fits.body if isinstance(fits, ResolvedLead) else b"") <= 300
    too_large = case({**ADA, "notes": "x" * 300}, small)
    assert too_large == Unreadable(
        "payload_oversize", "what Clay would be sent is larger than the 100 KB that it takes"
    )


def test_a_row_is_never_sent_in_part() -> None:
    for fields, reason in (
        ({"phone": "1"}, "nothing_to_send"),
        ({"title": "x" * (MAX_CELL_BYTES + 1)}, "cell_oversize"),
    ):
        found = case(fields, destination="mapped")
        assert isinstance(found, Unreadable)
        assert found.reason == reason
