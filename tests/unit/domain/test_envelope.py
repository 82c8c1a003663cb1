"""Headers: producers' are not believed, a dead letter's are read back, hostile ones do no harm."""

import re

import msgspec
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from stream_app.domain.dead_letter.causes import headers_of, shown_key
from stream_app.domain.dead_letter.replay import as_input, redriven, returning
from stream_app.domain.delivery.envelope import (
    FORMAT,
    HEADERS,
    Envelope,
    WorkspaceKeys,
    input_envelope,
    lead_envelope,
    pseudonymous_key,
    read_envelope,
)
from stream_app.domain.delivery.recorder import NO_REASON
from stream_app.domain.delivery.resolve import LeadRef, resolve_lead
from stream_app.domain.delivery.without_row import (
    rejected_copy,
    rejection,
    rerouted_copy,
    step_without_row,
)
from stream_app.domain.lead.identity import is_plain_id
from stream_app.domain.lead.read import Unreadable, read_lead
from stream_app.domain.model.errors import UnknownFormat
from stream_app.domain.model.records import ConsumedRecord, Headers, parse_record_id, read_number
from stream_app.domain.model.topics import TopicNames
from stream_app.replay.plan import dead_letter_of
from tests.board.model_records import Made
from tests.simulation.schedule import Setup, plan_of

NAMES = TopicNames("t.")
TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"
DEAD = Envelope(
    origin="t.leads/0/3",
    seq=4,
    lead_id="lead-1",
    disposition="failed",
    reason="http_503",
)
BACK = Envelope(origin="t.leads/0/3", seq=4, way="replayed", replay=1)

places = st.sampled_from(["t.leads/0/1", "t.leads/1/7", "web/1/1", "t.leads.dlq/0/3"]).map(
    str.encode,
)
words = st.sampled_from(
    ["", "rerouted", "replayed", "redriven", "deferred", "uncertain", "failed", "1", "5"],
).map(str.encode)
values = st.one_of(places, words, st.binary(max_size=2_000))
names = st.one_of(st.sampled_from([*HEADERS.values(), "origin", "way"]), st.text(max_size=40))
foreign = st.lists(
    st.tuples(names.filter(lambda name: name != "traceparent"), values),
    max_size=200,
)


def record(topic: str, headers: Headers) -> ConsumedRecord:
    return ConsumedRecord(topic, 0, 9, b"acme", b"{}", headers, 5)


@pytest.mark.parametrize("topic", sorted(NAMES.inputs))
@given(foreign)
def test_a_producers_headers_change_nothing(topic: str, headers: list[tuple[str, bytes]]) -> None:
    assert lead_envelope(record(topic, tuple(headers)), NAMES.inputs) == Envelope(
        origin=f"{topic}/0/9",
        origin_ms=5,
    )


@given(foreign)
def test_a_producers_traceparent_counts_beside_any_other_header(
    headers: list[tuple[str, bytes]],
) -> None:
    traceparent = ("traceparent", f"00-{TRACE_ID}-{'b' * 16}-01".encode())
    envelope = lead_envelope(record(NAMES.leads, (*headers, traceparent)), NAMES.inputs)
    assert envelope == Envelope(
        "t.leads/0/9",
        5,
        trace_id=TRACE_ID,
        parent_id="b" * 16,
        sampled=True,
    )


@pytest.mark.parametrize(
    ("flags", "sampled"),
    [("00", False), ("01", True), ("02", False), ("03", True), ("fe", False)],
)
def test_a_caller_that_did_not_sample_its_span_is_no_reason_to_sample_ours(
    flags: str,
    sampled: bool,
) -> None:
    traceparent = ("traceparent", f"00-{TRACE_ID}-{'b' * 16}-{flags}".encode())
    assert lead_envelope(record(NAMES.leads, (traceparent,)), NAMES.inputs).sampled is sampled


def test_the_callers_span_is_in_no_header_of_ours() -> None:
    called = Envelope("t.leads/0/9", 5, trace_id=TRACE_ID, parent_id="b" * 16, sampled=True)
    assert called.to_headers() == Envelope("t.leads/0/9", 5, trace_id=TRACE_ID).to_headers()


def test_headers_of_our_processes_on_retry_are_trusted() -> None:
    assert lead_envelope(record(NAMES.retry, BACK.to_headers()), NAMES.inputs) == BACK
    sent_back = record(NAMES.retry, as_input("t.leads.dlq/0/3", 4).to_headers())
    assert lead_envelope(sent_back, NAMES.inputs) == Envelope(
        "t.leads.retry/0/9",
        5,
        dead_letter="t.leads.dlq/0/3",
    )


@given(foreign)
@example([(HEADERS["origin"], b"t.leads/0/1"), (HEADERS["dead_letter"], b"t.leads/0/1")])
def test_on_retry_only_a_record_with_a_way_is_ours(headers: list[tuple[str, bytes]]) -> None:
    ours = (HEADERS["way"], HEADERS["redriven_from"], HEADERS["format"])
    others = [header for header in headers if header[0] not in ours]
    consumed = record(NAMES.retry, tuple(others))
    assert lead_envelope(consumed, NAMES.inputs) == input_envelope(
        msgspec.structs.replace(consumed, headers=()),
    )


def test_of_repeated_headers_the_last_one_with_a_value_counts() -> None:
    doubled = (*BACK.to_headers(), (HEADERS["seq"], b"7"), (HEADERS["destination"], b"two words"))
    assert lead_envelope(record(NAMES.retry, doubled), NAMES.inputs) == msgspec.structs.replace(
        BACK,
        seq=7,
    )
    nothing: list[tuple[str, bytes | None]] = [(HEADERS["lead_id"], None), ("traceparent", None)]
    consumed = msgspec.structs.replace(
        record(NAMES.retry, ()),
        headers=(*BACK.to_headers(), *nothing),
    )
    assert lead_envelope(consumed, NAMES.inputs) == BACK


FORMAT_HEADER = HEADERS["format"]


def test_each_record_of_ours_says_its_format() -> None:
    for envelope in (DEAD, BACK, as_input("t.leads.dlq/0/3", 4), Envelope()):
        assert dict(envelope.to_headers())[FORMAT_HEADER] == str(FORMAT).encode()


@pytest.mark.parametrize("later", [FORMAT + 1, 123_456])
def test_a_record_of_a_later_format_is_refused_whatever_else_its_headers_say(later: int) -> None:
    others = dict(DEAD.to_headers()) | {HEADERS["origin"]: b"later:0:3", HEADERS["seq"]: b"four"}
    for headers in (others, {}):
        dead_letter = record(
            NAMES.dlq,
            tuple((headers | {FORMAT_HEADER: str(later).encode()}).items()),
        )
        with pytest.raises(UnknownFormat) as refused:
            read_envelope(dead_letter)
        assert str(refused.value) == (
            f"t.leads.dlq/0/9 has format {later}, and this program reads up to {FORMAT}: run "
            "the later version that "
            "wrote it"
        )


@given(
    foreign,
    st.one_of(values, st.sampled_from([b"0", b"-1", b"2\n", "٢".encode(), b"9" * 5_000])),
)
def test_a_format_that_is_no_later_one_changes_nothing(
    headers: list[tuple[str, bytes]],
    value: bytes,
) -> None:
    assume(not value.isdigit() or len(value) > 15 or int(value) <= FORMAT)
    others = tuple(header for header in headers if header[0] != FORMAT_HEADER)
    dead_letter = record(NAMES.dlq, others)
    assert read_envelope(record(NAMES.dlq, (*others, (FORMAT_HEADER, value)))) == read_envelope(
        dead_letter,
    )


# As 0.1.0 wrote them: its names had no prefix.
OF_0_1_0: Headers = (
    ("origin", b"t.leads/0/3"),
    ("origin-seq", b"4"),
    ("lead-id", b"lead-1"),
    ("disposition", b"failed"),
    ("reason", b"http_503"),
    ("replay-count", b"1"),
    ("app-version", b"0.1.0"),
)


@pytest.mark.parametrize("topic", [NAMES.dlq, NAMES.deferred, NAMES.parked])
def test_a_dead_letter_of_0_1_0_is_refused_and_is_not_an_input(topic: str) -> None:
    with pytest.raises(UnknownFormat) as refused:
        read_envelope(record(topic, OF_0_1_0))
    assert str(refused.value) == (
        f"{topic}/0/9 was written by version 0.1.0, whose records this program does not "
        "read: drain its dead letters "
        "with that version first, or take a new kafka.namespace (docs/compatibility.md)"
    )


def test_a_record_of_0_1_0_on_retry_is_refused() -> None:
    with pytest.raises(UnknownFormat, match=r"^t\.leads\.retry/0/9 was written by version 0\.1\.0"):
        lead_envelope(record(NAMES.retry, (*OF_0_1_0, ("way", b"replayed"))), NAMES.inputs)


@pytest.mark.parametrize("topic", sorted(NAMES.inputs))
def test_a_producer_cannot_refuse_a_record_by_a_format(topic: str) -> None:
    for headers in (((FORMAT_HEADER, b"7"),), OF_0_1_0):
        assert lead_envelope(record(topic, headers), NAMES.inputs) == Envelope(
            origin=f"{topic}/0/9",
            origin_ms=5,
        )


PLAN = plan_of(Setup())


def consumed(headers: tuple[tuple[str, bytes], ...]) -> ConsumedRecord:
    return ConsumedRecord("t.leads.dlq", 3, 7, b"k", b"v", headers, 1)


hostile_names = st.sampled_from(
    [*(name for name in HEADERS.values() if name != HEADERS["format"]), "traceparent", "x"],
)
hostile_values = st.one_of(
    st.binary(max_size=500),
    st.text(max_size=500).map(lambda text: text.encode("utf-8", "replace")),
)
hostile_places = st.from_regex(r"[a-z²]{1,3}/[0-9²]{1,12}/[0-9٣]{1,20}", fullmatch=True).map(
    str.encode,
)


PEOPLE = [b"ada@example.com", b"tel:+4479460000", b"https://x.example/in/ada", b"Ada Lovelace"]
people = st.sampled_from(PEOPLE)


@given(
    st.lists(
        st.tuples(hostile_names, st.one_of(hostile_values, hostile_places, people)),
        max_size=30,
    ),
    st.one_of(hostile_places, hostile_values),
)
def test_a_record_with_hostile_headers_becomes_a_dead_letter(
    headers: list[tuple[str, bytes]],
    origin: bytes,
) -> None:
    came = consumed((*headers, ("stream-app-origin", origin)))
    envelope = read_envelope(came)
    assert parse_record_id(envelope.origin) is not None
    written = rejected_copy(
        PLAN,
        came,
        envelope,
        Unreadable("no_identity", "in words"),
        "",
        "",
        1,
    ).headers
    assert sum(len(value) for _, value in written) < 40_000
    assert all(isinstance(value, bytes) for _, value in written)
    again = read_envelope(consumed(written))
    assert again.origin == envelope.origin
    assert again.disposition == "poison"


@given(
    st.lists(st.tuples(hostile_names, st.one_of(hostile_values, people)), max_size=30),
    hostile_places.filter(lambda one: parse_record_id(one.decode())),
)
def test_personal_data_in_hostile_headers_is_dropped(
    headers: list[tuple[str, bytes]],
    origin: bytes,
) -> None:
    came = consumed((*headers, ("stream-app-origin", origin)))
    envelope = read_envelope(came)
    stray = LeadRef(came, envelope, "x", PLAN.destinations["acme-main"], b"")
    bad = Unreadable("no_identity", "in words")
    onward = [
        rejected_copy(PLAN, came, envelope, bad, "", "", 1).headers,
        rerouted_copy(PLAN, stray, 0, False, 1, NO_REASON).headers,
        redriven(envelope, came.record_id).to_headers(),
        back.to_headers() if (back := returning(envelope, came.record_id, 7)) else (),
    ]
    written_out = b" ".join(value for written in onward for _, value in written)
    assert not any(person in written_out for person in PEOPLE)
    [event] = step_without_row(PLAN, came, envelope, "rejected_invalid", 1, NO_REASON, "").events
    assert is_plain_id(event.trace_id)


KEYS = [
    b"ada@example.com",
    b"+4479460000",
    b"4479460000",
    b"ada.lovelace",
    b"\xff\xfe",
    b"k" * 9_999,
]


@pytest.mark.parametrize("key", KEYS)
def test_the_key_of_a_rejected_record_does_not_show_a_person(key: bytes) -> None:
    came = ConsumedRecord("t.leads", 3, 7, key, b"{", (), 1)
    hidden = rejected_copy(
        PLAN,
        came,
        Envelope(origin=came.record_id),
        Unreadable("not_json", "in words"),
        "",
        "",
        1,
    ).key
    assert hidden is not None
    assert re.fullmatch(rb"key-[A-Za-z0-9_-]{22}", hidden)
    assert pseudonymous_key(hidden, PLAN.workspaces) == hidden
    assert (
        hidden
        == pseudonymous_key(key, PLAN.workspaces)
        != pseudonymous_key(key + b"x", PLAN.workspaces)
    )


@pytest.mark.parametrize("key", [b"acme", b"", None])
def test_the_key_of_a_configured_workspace_stays(key: bytes | None) -> None:
    came = ConsumedRecord("t.leads", 3, 7, key, b"{", (), 1)
    assert (
        rejected_copy(
            PLAN,
            came,
            Envelope(origin=came.record_id),
            Unreadable("not_json", "in words"),
            "",
            "",
            1,
        ).key
        == key
    )


@pytest.mark.parametrize(
    ("name", "shown"),
    [("acmee", "acmee"), ("4479460000", ""), ("ada@example.com", "")],
)
def test_the_name_of_a_workspace_that_is_not_configured_is_shown_unless_it_may_be_a_person(
    name: str,
    shown: str,
) -> None:
    value = (
        b'{"workspace": "%s", "lead_id": "crm-1", "fields": {"email": "ada@example.com"}}'
        % name.encode()
    )
    came = ConsumedRecord("leads", 0, 7, b"some key", value, (), 1)
    envelope = input_envelope(came)
    lead = read_lead(value, came.key)
    bad = lead if isinstance(lead, Unreadable) else resolve_lead(PLAN, came, envelope, lead)
    assert isinstance(bad, Unreadable)
    step = rejection(PLAN, came, envelope, lead, bad, 1, lambda key: None)
    (event,) = step.events
    dead_letter = step.records[-1]
    assert event.workspace == shown
    assert (f'"{shown}"' in event.text) is bool(shown)
    assert name not in event.text or bool(shown)
    headers = headers_of(dead_letter.headers)
    assert (dead_letter.key == shown.encode()) is bool(shown)
    assert shown_key(headers, dead_letter.key, PLAN.workspaces) == dead_letter.key, (
        "board and command show the same"
    )
    assert name.encode() in (dead_letter.key or b"") or not shown


def test_a_dead_letter_of_an_unknown_workspace_belongs_to_it_once_it_is_configured() -> None:
    record = Made("leads.dlq", pseudonymous_key(b"newco", {"acme"}), b"{}")
    before = dead_letter_of(record, WorkspaceKeys(["acme"]))
    after = dead_letter_of(record, WorkspaceKeys(["acme", "newco"]))
    assert before.key == record.key
    assert after.key == b"newco"


def test_a_number_of_a_header_has_at_most_fifteen_digits_of_ascii() -> None:
    texts = ("0", "17", "9" * 15, "9" * 16, "", "-1", "+1", "1.0", " 1", "\u0663")
    assert [read_number(text) for text in texts] == [0, 17, 10**15 - 1, *[0] * 7]
