"""The table of legal steps: the checkers use it, and no path in it leads to a second POST by itself."""

import msgspec
import pytest

from stream_app.domain.delivery.envelope import Envelope
from stream_app.domain.delivery.recorder import DeliveryRecorder
from stream_app.domain.delivery.state_machine import NEXT, RESUMABLE, begin
from stream_app.domain.lane.budget import Reservation
from stream_app.domain.lead.resolve import LeadRef
from stream_app.domain.messages import Status
from stream_app.domain.record import ConsumedRecord
from tests.simulation.schedule import Setup, plan_of
from tests.support.legal import LEGAL

_BY_A_HUMAN_OR_POLICY = {("parked", "replayed"), ("send_uncertain", "replayed")}
"""The two steps by which a lead that may be at Clay is sent once more: an operator or a policy said so."""


def _reachable(start: Status) -> set[Status]:
    found: set[Status] = set()
    todo: list[Status] = [start]
    while todo:
        at = todo.pop()
        after = {status for status in NEXT.get(at, ()) if (at, status) not in _BY_A_HUMAN_OR_POLICY}
        todo += after - found
        found |= after
    return found


def test_the_state_machine_allows_the_expected_steps() -> None:
    assert NEXT == LEGAL


def test_a_lead_that_may_be_at_clay_is_never_resent_automatically() -> None:
    for state in ("send_uncertain", "accepted", "callback_overdue", "credits_exhausted_suspected", "partial"):
        assert "sending" not in _reachable(state), state
    for final in ("enriched", "no_data", "enrich_error", "duplicate", "erased", "served_from_cache"):
        assert not _reachable(final), final


def test_a_successor_resumes_only_leads_that_are_not_at_clay() -> None:
    for state in RESUMABLE:
        assert "sending" in NEXT[state], state
    assert not RESUMABLE & {"sending", "send_uncertain", "accepted"}


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
    held: Reservation | None, booked: Reservation | None, spent: Reservation | None, expected: Reservation | None
) -> None:
    """A late callback books its cost in place of what is booked: Actions that are not booked would be returned."""
    plan, envelope = plan_of(Setup()), Envelope(origin="leads/0/0")
    ref = LeadRef(ConsumedRecord("leads", 0, 0, b"acme", b"{}"), envelope, "1", plan.destinations["acme-main"], b"d/1")
    row = msgspec.structs.replace(begin(envelope, 1), reservation=held, booked=booked)
    assert DeliveryRecorder(plan, ref, row).freed(spent) == {"reservation": None, "booked": expected}
