"""Which headers are believed: those on topics that only our processes write to. All others change nothing."""

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from stream_app.domain.dead_letter.replay import as_input
from stream_app.domain.delivery.envelope import HEADERS, PREFIX, Envelope, input_envelope, lead_envelope
from stream_app.domain.record import ConsumedRecord, Headers
from stream_app.domain.topics import TopicNames

NAMES = TopicNames("t.")
TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"
DEAD = Envelope(origin="t.leads/0/3", seq=4, lead_id="lead-1", disposition="failed", reason="http_503")
BACK = Envelope(origin="t.leads/0/3", seq=4, way="replayed", replay=1)

places = st.sampled_from(["t.leads/0/1", "t.leads/1/7", "web/1/1", "t.leads.dlq/0/3"]).map(str.encode)
words = st.sampled_from(["", "rerouted", "replayed", "redriven", "deferred", "uncertain", "failed", "1", "5"]).map(
    str.encode
)
values = st.one_of(places, words, st.binary(max_size=2_000))
names = st.one_of(st.sampled_from([*HEADERS.values(), "origin", "way"]), st.text(max_size=40))
foreign = st.lists(st.tuples(names.filter(lambda name: name != "traceparent"), values), max_size=200)


def record(topic: str, headers: Headers) -> ConsumedRecord:
    return ConsumedRecord(topic, 0, 9, b"acme", b"{}", headers, 5)


def test_our_headers_have_a_name_space_of_their_own() -> None:
    assert PREFIX == "stream-app-"
    assert all(name.startswith(PREFIX) for name in HEADERS.values())


@pytest.mark.parametrize("topic", sorted(NAMES.inputs))
@given(foreign)
def test_a_producers_headers_change_nothing(topic: str, headers: list[tuple[str, bytes]]) -> None:
    assert lead_envelope(record(topic, tuple(headers)), NAMES.inputs) == Envelope(origin=f"{topic}/0/9", origin_ms=5)


@given(foreign)
def test_a_producers_traceparent_counts_beside_any_other_header(headers: list[tuple[str, bytes]]) -> None:
    traceparent = ("traceparent", f"00-{TRACE_ID}-{'b' * 16}-01".encode())
    envelope = lead_envelope(record(NAMES.leads, (*headers, traceparent)), NAMES.inputs)
    assert envelope == Envelope("t.leads/0/9", 5, trace_id=TRACE_ID, parent_id="b" * 16, sampled=True)


def test_a_caller_that_did_not_sample_its_span_is_no_reason_to_sample_ours() -> None:
    traceparent = ("traceparent", f"00-{TRACE_ID}-{'b' * 16}-00".encode())
    assert not lead_envelope(record(NAMES.leads, (traceparent,)), NAMES.inputs).sampled


def test_the_callers_span_is_in_no_header_of_ours() -> None:
    called = Envelope("t.leads/0/9", 5, trace_id=TRACE_ID, parent_id="b" * 16, sampled=True)
    assert called.to_headers() == Envelope("t.leads/0/9", 5, trace_id=TRACE_ID).to_headers()


def test_headers_of_our_processes_on_retry_are_trusted() -> None:
    assert lead_envelope(record(NAMES.retry, BACK.to_headers()), NAMES.inputs) == BACK
    sent_back = record(NAMES.retry, as_input("t.leads.dlq/0/3").to_headers())
    assert lead_envelope(sent_back, NAMES.inputs) == Envelope("t.leads.retry/0/9", 5, dead_letter="t.leads.dlq/0/3")


@given(foreign)
@example([(HEADERS["origin"], b"t.leads/0/1"), (HEADERS["dead_letter"], b"t.leads/0/1")])
def test_on_retry_only_a_record_with_a_way_is_ours(headers: list[tuple[str, bytes]]) -> None:
    said = [each for each in headers if each[0] not in (HEADERS["way"], HEADERS["redriven_from"])]
    consumed = record(NAMES.retry, tuple(said))
    assert lead_envelope(consumed, NAMES.inputs) == input_envelope(msgspec.structs.replace(consumed, headers=()))


def test_a_dead_letter_that_was_copied_to_retry_with_its_headers_is_an_input() -> None:
    copied = record(NAMES.retry, DEAD.to_headers())
    assert lead_envelope(copied, NAMES.inputs) == Envelope(origin="t.leads.retry/0/9", origin_ms=5)


def test_of_repeated_headers_the_last_one_with_a_value_counts() -> None:
    doubled = (*BACK.to_headers(), (HEADERS["seq"], b"7"), (HEADERS["destination"], b"two words"))
    assert lead_envelope(record(NAMES.retry, doubled), NAMES.inputs) == msgspec.structs.replace(BACK, seq=7)
    nothing: list[tuple[str, bytes | None]] = [(HEADERS["lead_id"], None), ("traceparent", None)]
    consumed = msgspec.structs.replace(record(NAMES.retry, ()), headers=(*BACK.to_headers(), *nothing))
    assert lead_envelope(consumed, NAMES.inputs) == BACK
