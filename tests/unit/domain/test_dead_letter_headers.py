"""The dead letter's headers are read back as written, and hostile ones do no harm."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_app.domain.dead_letter.headers import WorkspaceKeys, parse_record_id, pseudonymous_key
from stream_app.domain.dead_letter.replay import redriven, returning
from stream_app.domain.delivery.envelope import HEADERS, Envelope, read_envelope
from stream_app.domain.delivery.recorder import NO_REASON, brief, rejected, strayed
from stream_app.domain.lead.identity import is_plain_id
from stream_app.domain.lead.lead import Unreadable
from stream_app.domain.lead.resolve import LeadRef
from stream_app.domain.record import ConsumedRecord
from stream_app.replay.send import consumed_records
from tests.board.model_records import Made
from tests.simulation.schedule import Setup, plan_of

PLAN = plan_of(Setup())
DEAD_LETTER = Envelope(
    origin="t.leads/3/1234567890123",
    origin_ms=1_700_000_000_000,
    seq=4,
    lead_id="lead-1",
    disposition="failed",
    reason="connect_error",
    text="nothing was sent",
    replay=2,
    epoch=1,
    returns=5,
)


def consumed(headers: tuple[tuple[str, bytes], ...]) -> ConsumedRecord:
    return ConsumedRecord("t.leads.dlq", 3, 7, b"k", b"v", headers, 1)


def test_written_headers_are_read_back() -> None:
    assert read_envelope(consumed(DEAD_LETTER.to_headers())) == DEAD_LETTER


names = st.sampled_from([*HEADERS.values(), "traceparent", "x"])
values = st.one_of(st.binary(max_size=500), st.text(max_size=500).map(lambda text: text.encode("utf-8", "replace")))
places = st.from_regex(r"[a-z²]{1,3}/[0-9²]{1,12}/[0-9٣]{1,20}", fullmatch=True).map(str.encode)


PEOPLE = [b"ada@example.com", b"tel:+4479460000", b"https://x.example/in/ada", b"Ada Lovelace"]
people = st.sampled_from(PEOPLE)


@given(st.lists(st.tuples(names, st.one_of(values, places, people)), max_size=30), st.one_of(places, values))
def test_a_record_with_hostile_headers_becomes_a_dead_letter(headers: list[tuple[str, bytes]], origin: bytes) -> None:
    came = consumed((*headers, ("stream-app-origin", origin)))
    envelope = read_envelope(came)
    assert parse_record_id(envelope.origin) is not None
    written = rejected(PLAN, came, envelope, Unreadable("no_identity", "in words"), 1).headers
    assert sum(len(value) for _, value in written) < 40_000
    assert all(isinstance(value, bytes) for _, value in written)
    again = read_envelope(consumed(written))
    assert (again.origin, again.disposition) == (envelope.origin, "poison")


@given(
    st.lists(st.tuples(names, st.one_of(values, people)), max_size=30),
    places.filter(lambda one: parse_record_id(one.decode())),
)
def test_personal_data_in_hostile_headers_is_dropped(headers: list[tuple[str, bytes]], origin: bytes) -> None:
    came = consumed((*headers, ("stream-app-origin", origin)))
    envelope = read_envelope(came)
    stray = LeadRef(came, envelope, "x", PLAN.destinations["acme-main"], b"")
    onward = [
        rejected(PLAN, came, envelope, Unreadable("no_identity", "in words"), 1).headers,
        strayed(PLAN, stray, 0, False, 1, NO_REASON).headers,
        redriven(envelope, came.record_id).to_headers(),
        back.to_headers() if (back := returning(envelope, came.record_id, 7)) else (),
    ]
    said = b" ".join(value for written in onward for _, value in written)
    assert not any(person in said for person in PEOPLE)
    [event] = brief(PLAN, came, envelope, "rejected_invalid", 1, NO_REASON, "").events
    assert is_plain_id(event.trace_id)


KEYS = [b"ada@example.com", b"+4479460000", b"4479460000", b"ada.lovelace", b"\xff\xfe", b"k" * 9_999]


@pytest.mark.parametrize("key", KEYS)
def test_the_key_of_a_rejected_record_does_not_show_a_person(key: bytes) -> None:
    came = ConsumedRecord("t.leads", 3, 7, key, b"{", (), 1)
    hidden = rejected(PLAN, came, Envelope(origin=came.record_id), Unreadable("not_json", "in words"), 1).key
    assert hidden is not None
    assert re.fullmatch(rb"key-[A-Za-z0-9_-]{22}", hidden)
    assert pseudonymous_key(hidden, PLAN.workspaces) == hidden
    assert hidden == pseudonymous_key(key, PLAN.workspaces) != pseudonymous_key(key + b"x", PLAN.workspaces)


@pytest.mark.parametrize("key", [b"acme", b"", None])
def test_the_key_of_a_configured_workspace_stays(key: bytes | None) -> None:
    came = ConsumedRecord("t.leads", 3, 7, key, b"{", (), 1)
    assert rejected(PLAN, came, Envelope(origin=came.record_id), Unreadable("not_json", "in words"), 1).key == key


def test_a_dead_letter_of_an_unknown_workspace_belongs_to_it_once_it_is_configured() -> None:
    record = Made("leads.dlq", pseudonymous_key(b"newco", {"acme"}), b"{}")
    [before] = consumed_records([record], WorkspaceKeys(["acme"]))
    [after] = consumed_records([record], WorkspaceKeys(["acme", "newco"]))
    assert before.key == record.key
    assert after.key == b"newco"
