"""The spans of a lead: one tree from its events, the same each time, with the names of the
conventions.
"""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_app.domain.delivery.state_machine import NEXT
from stream_app.domain.model.messages import Status, StatusEvent
from stream_app.domain.model.records import span_id
from stream_app.domain.spans import Sampling, Span, clay_of, headers_of, is_sampled, spans_of
from tests.support.traced import CALLER, ORIGIN, REPLAYED, TRACE_ID, history


def test_a_lead_is_one_tree_over_retries_replays_and_the_callback() -> None:
    root, *others = spans_of(REPLAYED)
    assert root.name == "lead people"
    assert root.kind == "internal"
    assert root.parent_id == CALLER
    assert root.start_ms == 0
    assert root.end_ms == 70_000
    assert root.error == ""
    assert {
        key: value for key, value in root.attributes.items() if key.startswith("stream_app.")
    } == {
        "stream_app.lead_id": "crm-17",
        "stream_app.workspace": "acme",
        "stream_app.destination": "people",
        "stream_app.status": "enriched",
        "stream_app.replay": 1,
        "stream_app.credits": 6,
    }
    waits = [span.attributes for span in others if span.name.startswith("wait ")]
    assert waits == [
        {"stream_app.status": "refused", "stream_app.reason": "http_503"},
        {"stream_app.status": "dead_lettered", "stream_app.reason": "http_503"},
        {"stream_app.status": "accepted"},
    ]
    assert {span.parent_id for span in others} == {root.span_id}
    assert {span.trace_id for span in (root, *others)} == {TRACE_ID}
    links = {span.name: span.link_id for span in others if span.link_id}
    assert links == {"process leads.retry": span_id(ORIGIN, 5)}, (
        "the span in which the dead letter waited"
    )
    assert [(span.name, span.start_ms, span.end_ms) for span in others] == [
        ("process leads", 0, 5),
        ("POST", 5, 105),
        ("wait retry", 105, 600),
        ("POST", 600, 700),
        ("wait replay", 700, 10_000),
        ("process leads.retry", 10_000, 10_010),
        ("POST", 10_010, 10_100),
        ("wait callback", 10_100, 70_000),
    ]


def test_a_post_has_the_attributes_of_an_http_client() -> None:
    first, second, third = [span for span in spans_of(REPLAYED) if span.name == "POST"]
    answer = {"http.response.status_code": 503, "error.type": "http_503"}
    assert first.attributes == {"http.request.method": "POST", **answer}
    assert second.attributes["http.request.resend_count"] == 1
    assert first.kind == "client"
    assert first.error == "http_503"
    assert third.error == ""
    assert third.attributes["http.response.status_code"] == 200


@pytest.mark.parametrize(
    ("hosts", "expected"),
    [
        (
            ("api.clay.com",),
            ("api.clay.com", 443, "https://api.clay.com/REDACTED"),
        ),
        (
            ("clay.example.com:8443",),
            ("clay.example.com", 8443, "https://clay.example.com:8443/REDACTED"),
        ),
        (("127.0.0.1:8700",), ("127.0.0.1", 8700, None)),
        (("::1",), ("::1", None, None)),
        (("api.clay.com", "other.example.com"), (None, None, None)),
    ],
)
def test_a_post_has_the_address_of_clay_without_the_secret_path(
    hosts: tuple[str, ...],
    expected: tuple[str | int | None, ...],
) -> None:
    for span in spans_of(REPLAYED, {"people": clay_of(hosts)}):
        values = tuple(
            span.attributes.get(name) for name in ("server.address", "server.port", "url.full")
        )
        assert values == (expected if span.name == "POST" else (None, None, None))


def test_a_record_that_is_no_lead_has_a_root_with_its_error() -> None:
    (root,) = spans_of(
        history(("rejected_invalid", 5, {"reason": "not_json"})),
    )
    assert root.name == "lead people"
    assert root.error == "not_json"
    assert root.start_ms == 5
    assert root.end_ms == 5


def after_a_wait(before: StatusEvent, event: StatusEvent) -> StatusEvent:
    return msgspec.structs.replace(
        event,
        waited_ms=event.at_ms - before.at_ms,
        waited_as=before.status,
    )


def shape(span: Span) -> tuple[object, ...]:
    return (
        span.trace_id,
        span.parent_id,
        span.name,
        span.kind,
        span.start_ms,
        span.end_ms,
        span.link_id,
    )


def test_a_callback_after_hours_shows_how_long_clay_worked() -> None:
    late = after_a_wait(REPLAYED[7], REPLAYED[8])
    (clay,) = spans_of([late])
    assert clay.name == "wait callback"
    assert clay.start_ms == 10_100
    assert clay.end_ms == 70_000
    assert clay.span_id == span_id(ORIGIN, 8)
    assert is_sampled(Sampling(ratio=0, slow_s=59), [late])
    assert not is_sampled(Sampling(ratio=0, slow_s=60), [late])
    rests = history(("enriched", 70_000))[0]
    assert is_sampled(Sampling(ratio=0, slow_s=59), [late, rests]), (
        "it waited before the first of these"
    )


def test_a_post_that_is_exported_after_its_beginning_does_not_say_how_often_it_was_sent() -> None:
    (post,) = spans_of(
        [after_a_wait(REPLAYED[6], REPLAYED[7])],
    )
    known = {"http.request.method": "POST", "http.response.status_code": 200}
    assert post.name == "POST", "the event of its beginning is no longer kept"
    assert post.attributes == known, "the event of its beginning is no longer kept"


def test_a_lead_that_rests_longer_than_slow_is_sampled_before_it_goes_on() -> None:
    waiting = history(("received", 0), ("accepted", 1_000))
    assert is_sampled(Sampling(ratio=0, slow_s=60), waiting, rested_ms=60_000)
    assert not is_sampled(Sampling(ratio=0, slow_s=60), waiting, rested_ms=59_000)


@given(st.data())
def test_any_history_makes_the_same_spans_with_ids_of_their_own(data: st.DataObject) -> None:
    status: Status | None = None
    steps: list[tuple[Status, int]] = []
    for at_ms in data.draw(st.lists(st.integers(0, 10**9), min_size=1, max_size=12)):
        if status is not None and status not in NEXT:
            break
        following: Status = data.draw(st.sampled_from(sorted(NEXT[status])))
        steps.append((following, at_ms))
        status = following
    events = history(*steps)
    spans = spans_of(events)
    assert spans == spans_of(events)
    assert len({span.span_id for span in spans}) == len(spans)
    assert all(span.start_ms <= span.end_ms for span in spans)
    times_ms = sorted(event.at_ms for event in events)  # as the worker writes them
    events = [
        msgspec.structs.replace(event, at_ms=at_ms)
        for event, at_ms in zip(events, times_ms, strict=True)
    ]
    shapes = {span.span_id: shape(span) for span in spans_of(events)[1:]}
    for cut in range(1, len(events)):  # exported in two parts: the same spans as in one
        parts = [
            *spans_of(events[:cut])[1:],
            *spans_of([after_a_wait(events[cut - 1], events[cut]), *events[cut + 1 :]]),
        ]
        assert {span.span_id: shape(span) for span in parts} == shapes


@pytest.mark.parametrize(
    ("sampling", "first", "last", "sampled"),
    [
        (Sampling(ratio=0), {}, ("enriched", 10), False),
        (Sampling(ratio=0), {"sampled": True}, ("enriched", 10), True),
        (Sampling(ratio=0), {}, ("parked", 10), True),
        (Sampling(ratio=0, always=()), {}, ("parked", 10), False),
        (Sampling(ratio=0, slow_s=60), {}, ("enriched", 60_001), True),
        (Sampling(ratio=0, slow_s=60), {}, ("enriched", 60_000), False),
        (Sampling(ratio=0x4BF92F36 / 2**32), {}, ("enriched", 10), True),
        (Sampling(ratio=0x4BF92F35 / 2**32), {}, ("enriched", 10), False),
    ],
)
def test_which_traces_are_sampled(sampling: Sampling, first: Any, last: Any, sampled: bool) -> None:
    assert is_sampled(sampling, history(("received", 0), last, **first)) is sampled


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a=b", {"a": "b"}),
        (" X-Key = s%20 3cret , b=c=d ", {"x-key": "s  3cret", "b": "c=d"}),
        ("a=1,A=2", {"a": "2"}),
        *(
            (bad, "must be name=value")
            for bad in ("", "a", "a=", "=b", "a b=c", "a=b,", "a=b,,c=d")
        ),
        *((bad, "printable ASCII") for bad in ("a=%0A", "a=%20b", "a=\u00e9", "a=%7F")),
    ],
)
def test_headers_for_the_exporter_are_read_or_refused_without_being_repeated(
    text: str,
    expected: dict[str, str] | str,
) -> None:
    if isinstance(expected, dict):
        assert headers_of(text) == expected
        return
    with pytest.raises(ValueError, match=expected):
        headers_of(text)
