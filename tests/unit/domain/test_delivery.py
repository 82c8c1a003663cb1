"""The table of legal steps: the checkers use it, and no path in it leads to a second POST by itself."""

from __future__ import annotations

from stream_app.domain.delivery.state_machine import NEXT, RESUMABLE
from stream_app.domain.messages import Status
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
