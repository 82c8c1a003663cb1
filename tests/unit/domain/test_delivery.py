"""The table of legal steps: it is what the judges go by, and no way in it leads to a second POST by itself."""

from __future__ import annotations

from stream_app.domain.delivery.state_machine import NEXT, RESUMABLE
from stream_app.domain.messages import Status
from tests.support.legal import LEGAL

_BY_A_HUMAN_OR_POLICY = {("parked", "replayed"), ("send_uncertain", "replayed")}
"""The two steps by which a lead that may be at Clay is sent once more: somebody said so."""


def _reachable(start: Status) -> set[Status]:
    found: set[Status] = set()
    todo: list[Status] = [start]
    while todo:
        at = todo.pop()
        after = {status for status in NEXT.get(at, ()) if (at, status) not in _BY_A_HUMAN_OR_POLICY}
        todo += after - found
        found |= after
    return found


def test_the_line_steps_as_the_judges_believe() -> None:
    assert NEXT == LEGAL


def test_what_may_be_at_clay_is_never_sent_again_by_itself() -> None:
    for state in ("send_uncertain", "accepted", "callback_overdue", "credits_exhausted_suspected", "partial"):
        assert "sending" not in _reachable(state), state
    for final in ("enriched", "no_data", "enrich_error", "duplicate", "erased", "served_from_cache"):
        assert not _reachable(final), final


def test_only_what_is_not_at_clay_is_resumed_by_a_successor() -> None:
    for state in RESUMABLE:
        assert "sending" in NEXT[state], state
    assert not RESUMABLE & {"sending", "send_uncertain", "accepted"}
