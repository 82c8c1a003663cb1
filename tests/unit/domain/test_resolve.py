"""The station *identify*: where a lead goes, what Clay is sent, which suppressions bind it, and the
legal steps.
"""

import json
from typing import Any

import msgspec
import pytest

from stream_app.domain.delivery import state_machine
from stream_app.domain.delivery.envelope import HEADERS, Envelope, Way, read_envelope
from stream_app.domain.delivery.recorder import DeliveryRecorder
from stream_app.domain.delivery.resolve import LeadRef, ResolvedLead, find_lead_ref, resolve_lead
from stream_app.domain.delivery.suppression import (
    Suppression,
    import_row,
    lead_row,
    suppression_reason,
)
from stream_app.domain.lead.identity import company, people, person_key
from stream_app.domain.lead.read import MAX_CELL_BYTES, Unreadable, read_lead
from stream_app.domain.limits.budget import Reservation
from stream_app.domain.model.messages import Lead, Status
from stream_app.domain.model.pseudonyms import plain_digest
from stream_app.domain.model.records import ConsumedRecord, span_id, trace_of
from stream_app.domain.model.tokens import Keys, verify
from stream_app.domain.model.topics import TopicNames
from stream_app.domain.plan import Destination, Plan, Sizes, Workspace
from tests.simulation.schedule import Setup, plan_of
from tests.support.legal import LEGAL
from tests.support.narrow import of_type

KEYS = Keys(["a key of callback tokens, only for tests"])
PLAN = Plan(
    topics=TopicNames(""),
    partitions=4,
    workspaces={"acme": Workspace("acme", "people"), "beta": Workspace("beta", "beta-people")},
    destinations={
        "people": Destination("people", "acme", ("h1",), callbacks=False),
        "mapped": Destination(
            "mapped",
            "acme",
            ("h2",),
            {"email": "Work Email", "title": "Role"},
            callbacks=False,
        ),
        "asked-back": Destination(
            "asked-back",
            "acme",
            ("h3",),
            callback_url="https://leads.example.com/callbacks",
        ),
        "beta-people": Destination("beta-people", "beta", ("h4",)),
    },
    callback_keys=KEYS,
)
ADA = {"email": " Ada@Example.com", "title": "CEO", "notes": "met in May"}


def case(fields: dict[str, Any] = ADA, plan: Plan = PLAN, **lead: Any) -> ResolvedLead | Unreadable:
    value = json.dumps({"lead_id": "crm-1", "workspace": "acme", "fields": fields, **lead}).encode()
    read = read_lead(value, b"acme")
    assert not isinstance(read, Unreadable), read
    consumed = ConsumedRecord("leads", 0, 7, b"acme", value)
    return resolve_lead(plan, consumed, Envelope(origin=consumed.record_id), read)


def sent(lead: ResolvedLead | Unreadable) -> dict[str, Any]:
    assert isinstance(lead, ResolvedLead), lead
    body: dict[str, Any] = json.loads(lead.body)
    return body


def test_without_columns_every_field_is_sent_under_its_own_name() -> None:
    assert sent(case()) == {
        "email": "ada@example.com",
        "title": "CEO",
        "notes": "met in May",
        "lead_id": "crm-1",
    }


def test_only_the_fields_of_a_destinations_columns_are_sent() -> None:
    lead = case(destination="mapped")
    assert sent(lead) == {"Work Email": "ada@example.com", "Role": "CEO", "lead_id": "crm-1"}


def test_with_traces_a_row_continues_the_trace_of_its_lead() -> None:
    plan = msgspec.structs.replace(PLAN, traces=True)
    lead = of_type(ResolvedLead, case(plan=plan))
    assert sent(lead)["traceparent"] == f"00-{lead.envelope.trace_id}-{span_id('leads/0/7', 0)}-01"
    assert "traceparent" not in sent(case())


ROUTINE = Destination(
    "routine",
    "acme",
    ("function:t_1",),
    {"email": "Work Email", "title": "Role"},
    kind="routine",
    routine="function:t_1",
)


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("run_webhook", [None, "wh_1"])
def test_a_routine_gets_its_inputs_alone(run_webhook: str | None, force: bool) -> None:
    """An input that the routine does not have can refuse the run, so nothing is to be echoed."""
    destination = msgspec.structs.replace(ROUTINE, run_webhook=run_webhook)
    plan = msgspec.structs.replace(PLAN, traces=True, destinations={"routine": destination})
    lead = of_type(ResolvedLead, case(plan=plan, destination="routine", force=force))
    inputs = {"Work Email": "ada@example.com", "Role": "CEO"}
    run = {"items": [{"id": state_machine.item_id(lead.key), "inputs": inputs}]}
    assert sent(lead) == (run | {"webhook_id": "wh_1"} if run_webhook else run)
    assert lead.key.endswith(b"!leads/0/7") is force
    assert lead.identity == WHO, "its result is cached as one that comes by a callback"


def test_a_routine_has_the_size_limit_of_a_webhook() -> None:
    plan = msgspec.structs.replace(PLAN, destinations={"routine": ROUTINE})
    size = len(of_type(ResolvedLead, case(plan=plan, destination="routine")).body)
    exact = msgspec.structs.replace(plan, sizes=Sizes(payload=size))
    assert isinstance(case(plan=exact, destination="routine"), ResolvedLead)
    small = msgspec.structs.replace(plan, sizes=Sizes(payload=size - 1))
    refused = of_type(Unreadable, case(plan=small, destination="routine"))
    assert refused.reason == "payload_oversize"


(WHO,) = people({"email": "ada@example.com"})
FIRM = company({"email": "ada@example.com"})


@pytest.mark.parametrize(
    ("lead", "expected"),
    [
        ({}, {"destination": "people", "identity": "", "company": ""}),
        (
            {"destination": "asked-back"},
            {"destination": "asked-back", "identity": WHO, "company": FIRM},
        ),
        (
            {"destination": "asked-back", "fields": {"title": "CEO"}},
            {
                "destination": "asked-back",
                "identity": plain_digest("lead", "crm-1"),
                "company": "",
                "email": "",
            },
        ),
        ({"force": True}, {"destination": "people", "forced": "leads/0/7"}),
    ],
)
def test_a_lead_is_resolved_as_a_whole(lead: dict[str, Any], expected: dict[str, Any]) -> None:
    """The hashes of person and company are those of cached results, which only callbacks make."""
    resolved = of_type(ResolvedLead, case(**lead))
    consumed = resolved.consumed
    alias = expected["destination"]
    email = expected.get("email", WHO)
    assert FIRM
    assert resolved == ResolvedLead(
        consumed=ConsumedRecord("leads", 0, 7, b"acme", consumed.value),
        envelope=Envelope(origin="leads/0/7", trace_id=trace_of("leads/0/7")),
        lead=of_type(Lead, read_lead(consumed.value, b"acme")),
        lead_id="crm-1",
        destination=PLAN.destinations[alias],
        key=state_machine.delivery_key("acme", alias, "crm-1", expected.get("forced", "")),
        aliases=(person_key("acme", alias, email),) if email else (),
        body=json.dumps(sent(resolved), separators=(",", ":")).encode(),
        bulk=False,
        identity=expected.get("identity", ""),
        company=expected.get("company", ""),
        people=("", email, ""),
    )


@pytest.mark.parametrize(
    ("origin", "is_bulk"),
    [("leads.bulk/0/7", True), ("leads/0/7", False), ("leads.bulky/0/7", False)],
)
def test_a_lead_is_bulk_if_it_was_published_so_wherever_it_comes_from(
    origin: str,
    is_bulk: bool,
) -> None:
    first = of_type(ResolvedLead, case())
    again = resolve_lead(PLAN, first.consumed, Envelope(origin=origin), first.lead)
    assert of_type(ResolvedLead, again).bulk is is_bulk


@pytest.mark.parametrize(
    ("dead_letter", "forced_by"),
    [("", "leads/0/7"), ("leads.dlq/0/3", "leads.dlq/0/3")],
)
def test_a_forced_lead_is_one_delivery_for_each_record_that_forces_it(
    dead_letter: str,
    forced_by: str,
) -> None:
    first = of_type(ResolvedLead, case(force=True))
    envelope = Envelope(origin="leads/0/7", dead_letter=dead_letter)
    again = of_type(ResolvedLead, resolve_lead(PLAN, first.consumed, envelope, first.lead))
    assert again.key == state_machine.delivery_key("acme", "people", "crm-1", forced_by)


@pytest.mark.parametrize(
    ("asked", "goes_to"),
    [(None, "people"), ("mapped", "mapped"), ("asked-back", "asked-back")],
)
def test_a_lead_names_its_destination_or_gets_the_default_of_its_workspace(
    asked: str | None,
    goes_to: str,
) -> None:
    lead = of_type(ResolvedLead, case(destination=asked))
    assert lead.destination.alias == goes_to
    assert lead.key == state_machine.delivery_key("acme", goes_to, "crm-1")


@pytest.mark.parametrize("asked", ["nowhere", "beta-people"])
def test_a_destination_of_another_workspace_is_refused(asked: str) -> None:
    assert of_type(Unreadable, case(destination=asked)).reason == "unknown_destination"


def test_a_body_contains_the_callback_url_and_token() -> None:
    body = sent(
        case(destination="asked-back", fields={**ADA, "callback_url": "https://evil.example"}),
    )
    assert body["callback_url"] == "https://leads.example.com/callbacks"
    assert verify(KEYS, body["callback_token"], "acme", "asked-back", "crm-1")


@pytest.mark.parametrize(
    "more",
    [{}, {"callbacks": False, "callback_url": "https://leads.example.com/callbacks"}],
)
def test_a_body_has_no_callback_url_where_none_can_come(more: dict[str, Any]) -> None:
    people = Destination("people", "acme", ("h1",), **more)
    plan = msgspec.structs.replace(PLAN, destinations={**PLAN.destinations, "people": people})
    assert sent(case(plan=plan)) == sent(case())


def test_a_body_above_clays_limit_is_a_dead_letter() -> None:
    small = Plan(PLAN.topics, 4, PLAN.workspaces, PLAN.destinations, sizes=Sizes(payload=300))
    fits = case({**ADA, "notes": "x" * 200}, small)
    assert len(fits.body if isinstance(fits, ResolvedLead) else b"") <= 300
    too_large = case({**ADA, "notes": "x" * 300}, small)
    assert too_large == Unreadable(
        "payload_oversize",
        "what Clay would be sent is larger than the 100 KB that it takes",
    )


def test_a_row_is_never_sent_in_part() -> None:
    for fields, reason in (
        ({"phone": "1"}, "nothing_to_send"),
        ({"title": "x" * (MAX_CELL_BYTES + 1)}, "cell_oversize"),
    ):
        assert of_type(Unreadable, case(fields, destination="mapped")).reason == reason


@pytest.mark.parametrize(
    ("workspace", "destination", "lead_id", "has_name"),
    [
        (b"acme", "people", "1", True),
        (b"acme", "gone", "1", True),
        (b"gone", "people", "1", True),
        (b"acme", "", "1", False),
        (b"acme", "a/b", "1", False),
        (b"ac/me", "people", "1", False),
        (b"acme", "people", "", False),
    ],
)
@pytest.mark.parametrize("way", ["replayed", ""])
def test_an_unreadable_record_belongs_to_the_lead_that_its_headers_name(
    workspace: bytes,
    destination: str,
    lead_id: str,
    has_name: bool,
    way: Way,
) -> None:
    envelope = Envelope(origin="leads/0/1", way=way, destination=destination, lead_id=lead_id)
    for partition in (PLAN.home_of("acme"), 3):
        record = ConsumedRecord("leads.retry", partition, 1, workspace, b"{")
        ref = find_lead_ref(PLAN, record, envelope, Unreadable("not_json", ""), lambda _: None)
        is_its = has_name and way and (partition != 3 or workspace == b"gone")
        assert (ref and ref.key) == (
            state_machine.delivery_key(workspace.decode(), destination, "1") if is_its else None
        )
        if ref is not None:
            known = PLAN.destination(workspace.decode(), destination)
            gone = Destination(destination, workspace.decode(), ())
            assert ref.destination == (known or gone), "with its webhooks, if it is configured"


LINE = plan_of(Setup())
CANCELLED_MS = 1_000


def published(
    published_ms: int,
    way: Way = "",
    came_ms: int = 0,
    **changes: object,
) -> ResolvedLead:
    fields = {"email": "ada@example.com", "linkedin_url": "linkedin.com/in/ada"}
    value = json.dumps({"lead_id": "a", "fields": fields, **changes}).encode()
    consumed = ConsumedRecord("leads", 0, 7, b"acme", value, (), came_ms or published_ms)
    envelope = msgspec.structs.replace(read_envelope(consumed), origin_ms=published_ms, way=way)
    lead = read_lead(consumed.value, consumed.key)
    assert not isinstance(lead, Unreadable)
    return of_type(ResolvedLead, resolve_lead(LINE, consumed, envelope, lead))


def reason(published: ResolvedLead, row: bytes, suppressed: bool = False) -> str:
    suppression = Suppression(
        "suppressed" if suppressed else "cancelled",
        CANCELLED_MS,
        "c1",
        "jane",
    )
    why = suppression_reason(published, {row: suppression}.get)
    assert why is None or "command c1" in why.text
    return why.reason if why is not None else ""


def test_only_an_erasure_looks_behind_the_history_of_a_lead_that_came_back() -> None:
    """Its data is as old as its first record. A cancellation ignores what was published again."""
    lead = published(CANCELLED_MS + 1)
    header = (HEADERS["origin_ms"], str(CANCELLED_MS).encode())
    again = msgspec.structs.replace(
        lead,
        envelope=msgspec.structs.replace(lead.envelope, dead_letter="leads.dlq/0/3"),
        consumed=msgspec.structs.replace(lead.consumed, headers=(header,)),
    )
    erased = Suppression("erased", CANCELLED_MS, "c1", "jane")
    why = suppression_reason(again, {lead_row("acme", "a"): erased}.get)
    assert why is not None
    assert why.reason == "erased"
    assert reason(again, lead_row("acme", "a")) == ""


def test_a_cancellation_applies_to_records_published_before_it() -> None:
    assert reason(published(CANCELLED_MS), lead_row("acme", "a")) == "cancelled"
    assert reason(published(CANCELLED_MS + 1), lead_row("acme", "a")) == ""
    assert reason(published(1), lead_row("beta", "a")) == ""
    assert reason(published(1), lead_row("acme", "b")) == ""
    assert (
        reason(published(1, import_id="march.csv"), import_row("acme", "march.csv")) == "cancelled"
    )
    assert reason(published(1), import_row("acme", "march.csv")) == ""


def test_a_copy_has_the_age_of_its_lead_and_a_redrive_its_own() -> None:
    later_ms = CANCELLED_MS + 1
    assert reason(published(1, "replayed", later_ms), lead_row("acme", "a")) == "cancelled"
    assert reason(published(1, "redriven", later_ms), lead_row("acme", "a")) == ""
    assert reason(published(1, "redriven", CANCELLED_MS), lead_row("acme", "a")) == "cancelled"


def test_an_id_that_could_contain_an_address_is_cancelled_by_its_hash() -> None:
    assert (
        reason(published(1, lead_id="ada@example.com"), lead_row("acme", "ada@example.com"))
        == "cancelled"
    )
    assert b"@" not in lead_row("acme", "ada@example.com")
    assert b"march" not in import_row("acme", "march.csv")


def test_a_callback_settles_a_lead_that_was_suppressed_after_the_send() -> None:
    row = state_machine.Delivery(
        1,
        "suppressed",
        "leads/0/7",
        5,
        1,
        1,
        "t",
        sends=1,
        webhook_id="w",
        final=True,
    )
    assert state_machine.match_callback(row, "enriched") == "settles"
    assert (
        state_machine.match_callback(msgspec.structs.replace(row, webhook_id=""), "enriched")
        == "unmatched"
    )


_BY_A_HUMAN_OR_POLICY = {("parked", "replayed"), ("send_uncertain", "replayed")}
"""The two steps by which a lead that may be at Clay is sent once more: an operator or a policy said
so.
"""


def _reachable(start: Status) -> set[Status]:
    reached: set[Status] = set()
    todo: list[Status] = [start]
    while todo:
        at = todo.pop()
        after = {
            status
            for status in state_machine.NEXT.get(at, ())
            if (at, status) not in _BY_A_HUMAN_OR_POLICY
        }
        todo += after - reached
        reached |= after
    return reached


def test_the_state_machine_allows_the_expected_steps() -> None:
    assert state_machine.NEXT == LEGAL


def test_a_lead_that_may_be_at_clay_is_never_resent_automatically() -> None:
    for state in (
        "send_uncertain",
        "accepted",
        "callback_overdue",
        "credits_exhausted_suspected",
        "partial",
    ):
        assert "sending" not in _reachable(state), state
    for final in (
        "enriched",
        "no_data",
        "enrich_error",
        "duplicate",
        "erased",
        "served_from_cache",
    ):
        assert not _reachable(final), final


def test_a_successor_resumes_only_leads_that_are_not_at_clay() -> None:
    for state in state_machine.RESUMABLE:
        assert "sending" in state_machine.NEXT[state], state
    assert not state_machine.RESUMABLE & {"sending", "send_uncertain", "accepted"}


HELD = Reservation("2026-11-30", "2026-11", 20, 2)
NOTHING = Reservation("2026-11-30", "2026-11", 0, 0)
PAID = Reservation("2026-11-29", "2026-11", 7, 1)


@pytest.mark.parametrize(
    ("held", "booked", "spent", "expected"),
    [
        (HELD, None, None, NOTHING),
        (HELD, None, HELD, HELD),
        (HELD, PAID, None, PAID),
        (HELD, PAID, HELD, HELD),
        (None, PAID, None, PAID),
        (None, None, None, None),
    ],
)
def test_a_freed_row_says_what_is_booked_and_reserves_nothing(
    held: Reservation | None,
    booked: Reservation | None,
    spent: Reservation | None,
    expected: Reservation | None,
) -> None:
    """A late callback books its cost in place of what is booked: Actions that are not booked would
    be returned.
    """
    plan = plan_of(Setup())
    envelope = Envelope(origin="leads/0/0")
    ref = LeadRef(
        ConsumedRecord("leads", 0, 0, b"acme", b"{}"),
        envelope,
        "1",
        plan.destinations["acme-main"],
        b"d/1",
    )
    row = msgspec.structs.replace(state_machine.begin(envelope, 1), reservation=held, booked=booked)
    assert DeliveryRecorder(plan, ref, row).freed(spent) == {
        "reservation": None,
        "booked": expected,
    }
