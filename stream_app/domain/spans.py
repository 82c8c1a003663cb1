"""The spans of a lead, computed from its events on `leads.status`.

    lead people                     from the first event to the last one, child of the caller's span
      process leads                 the worker reads the lead and decides
      wait budget, pause, ...       what holds the lead, a kind of domain/views/waits.py
      POST                          the request to Clay
      wait callback                 Clay works, until its callback or the result of its run
      wait replay                   the lead waits as a dead letter
      process leads.retry           it has come back; a link leads to the span in which it waited

An event begins a span, and the next event of the same input record ends it. A span's id is a hash
of the record and of the number of the event that begins it. So every run of the exporter makes the
same spans.

Names and attributes are those of OpenTelemetry's semantic conventions for HTTP and messaging; what
is ours begins with `stream_app.`.
"""

import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Annotated, Final, Literal
from urllib.parse import unquote

import msgspec
from msgspec.structs import replace

from stream_app.domain.model.addresses import is_local
from stream_app.domain.model.messages import Status, StatusEvent
from stream_app.domain.model.ranges import Range
from stream_app.domain.model.records import span_id
from stream_app.domain.views.waits import kind_of

_HEADER_NAME: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")

SpanKind = Literal["internal", "client", "consumer"]
Value = str | int
_UNKNOWN: Final[Mapping[str, Mapping[str, Value]]] = {}

_PROCESSED: Final[dict[Status, str]] = {
    "received": "process",
    "rerouted": "process",
    "replayed": "process retry",
}
_FAILED: Final[frozenset[Status]] = frozenset(
    {
        "dead_lettered",
        "parked",
        "rejected_invalid",
        "enrich_error",
        "expired",
        "send_uncertain",
        "refused",
    },
)
_RESTING: Final[frozenset[Status]] = frozenset(
    {
        *(
            "enriched",
            "no_data",
            "enrich_error",
            "duplicate",
            "rejected_invalid",
            "expired",
            "suppressed",
        ),
        *(
            "served_from_cache",
            "callback_duplicate",
            "callback_unmatched",
            "erased",
            "cost_corrected",
            "parked",
        ),
        *("replaced", "confirmed"),
    },
)


class Span(msgspec.Struct, frozen=True):
    """One span. Times are epoch ms; ids are lower-case hexadecimal."""

    trace_id: str  # 32 digits
    span_id: str  # 16 digits
    parent_id: str  # 16 digits; empty for a root without a caller
    name: str
    kind: SpanKind
    start_ms: int
    end_ms: int
    attributes: dict[str, Value]
    error: str = ""  # why it failed; empty if it did not
    link_id: str = ""  # the span of the same trace that led to this one; empty for none


class Sampling(msgspec.Struct, frozen=True):
    """Which leads are traced.

    The decision is made when a lead is at rest, so that its outcome counts.

    Attributes:
        ratio: The part of ordinary leads, 0 to 1. The trace id decides, so all exporters decide
            alike.
        always: Statuses; a lead that had one of them is always traced.
        slow_s: A lead that took longer is always traced; 0 for no such limit.
    """

    ratio: Annotated[float, Range(0, 1)] = 0.01
    always: tuple[Status, ...] = ("parked", "dead_lettered", "send_uncertain", "enrich_error")
    slow_s: Annotated[float, Range(0, 2_592_000)] = 0.0


def headers_of(text: str) -> dict[str, str]:
    """Read headers from `name=value`, several separated by commas.

    OTEL_EXPORTER_OTLP_HEADERS has this form.

    Raises:
        ValueError: The text has another form, or a value cannot be sent. The error does not repeat
            it.
    """
    headers: dict[str, str] = {}
    for part in text.split(","):
        name, equals, value = (word.strip() for word in part.partition("="))
        if not (equals and value and _HEADER_NAME.fullmatch(name)):
            raise ValueError("must be name=value, several separated by commas")
        value = unquote(value)
        if not (value.isascii() and value.isprintable() and value == value.strip()):
            raise ValueError(
                "the values must be printable ASCII without spaces around them, also where "
                "%XX stands for a character",
            )
        headers[name.lower()] = value
    return headers


def clay_of(allowed_hosts: Sequence[str]) -> dict[str, Value]:
    """Return the attributes of POSTs to webhooks of this host.

    Args:
        allowed_hosts: Each is `host` or `host:port`. If there are several, there are no attributes,
            because webhooks are secret.
    """
    if len(allowed_hosts) != 1:
        return {}
    (given,) = allowed_hosts
    host, port = given.rsplit(":", 1) if given.count(":") == 1 else (given, "")
    attributes: dict[str, Value] = {"server.address": host}
    if not is_local(host):  # there it may be http
        attributes |= {"server.port": 443, "url.full": f"https://{given}/REDACTED"}
    return attributes | ({"server.port": int(port)} if port else {})


def is_at_rest(event: StatusEvent) -> bool:
    """True if nothing continues the lead by itself after this event, except a late callback."""
    return event.status in _RESTING


def is_sampled(sampling: Sampling, events: Sequence[StatusEvent], rested_ms: int = 0) -> bool:
    """Return whether the lead of these events is traced.

    A caller that sampled its own span is always followed.

    Args:
        sampling: The rules.
        events: The events of the lead, or those since the last ones that were exported.
        rested_ms: How long at least no event has followed them.
    """
    if any(event.sampled or event.status in sampling.always for event in events):
        return True
    took_ms = events[0].waited_ms + events[-1].at_ms - events[0].at_ms + rested_ms
    if sampling.slow_s and took_ms > sampling.slow_s * 1000:
        return True
    return int(events[0].trace_id[:8], 16) < sampling.ratio * 2**32


def spans_of(
    events: Sequence[StatusEvent],
    clay: Mapping[str, Mapping[str, Value]] = _UNKNOWN,
) -> list[Span]:
    """Return the spans of one input record.

    Args:
        events: Its events in sequence, without gaps. The root is among the spans if the first event
            is. If they follow events that were exported before, the first event says how long the
            last of those was the present one.
        clay: Attributes of POSTs by destination, as `clay_of` returns them.
    """
    spans = [_root(events)] if events[0].seq == 1 else []
    for event, after in pairwise((*_previous(events[0]), *events)):
        if (span := _between(event, after, clay.get(event.destination, {}))) is not None:
            spans.append(span)
    return spans


def _previous(event: StatusEvent) -> tuple[StatusEvent, ...]:
    """Return the event before, as far as its successor knows it."""
    if not event.waited_as:
        return ()
    begun_ms = event.at_ms - event.waited_ms
    return (
        replace(
            event,
            status=event.waited_as,
            seq=event.seq - 1,
            at_ms=begun_ms,
            reason="",
            attempt=0,
            replay=0,
        ),
    )


def _root(events: Sequence[StatusEvent]) -> Span:
    first = events[0]
    last = events[-1]
    named = next((event for event in events if event.destination), first)
    attributes: dict[str, Value] = {
        **_of_record(first),
        "stream_app.lead_id": last.lead_id,
        "stream_app.workspace": named.workspace,
        "stream_app.destination": named.destination,
        "stream_app.status": last.status,
        "stream_app.replay": last.replay,
        "stream_app.credits": sum(event.credits or 0 for event in events),
    }
    error = (last.reason or last.status) if last.status in _FAILED else ""
    name = f"lead {named.destination}".strip()
    times = (first.at_ms, max(event.at_ms for event in events))
    root = span_id(first.origin, 0)
    return Span(
        first.trace_id,
        root,
        first.parent_id,
        name,
        "internal",
        *times,
        _with(attributes, error),
        error,
    )


def _between(event: StatusEvent, after: StatusEvent, clay: Mapping[str, Value]) -> Span | None:
    """Return the span from an event to the next one; None if nothing was done or waited for."""
    place = (event.trace_id, span_id(event.origin, event.seq), span_id(event.origin, 0))
    times = (event.at_ms, max(event.at_ms, after.at_ms))
    if event.status == "sending":
        attributes: dict[str, Value] = {"http.request.method": "POST", **clay}
        if after.http_status is not None:
            attributes["http.response.status_code"] = after.http_status
        if event.attempt or event.replay:
            attributes["http.request.resend_count"] = event.attempt + event.replay
        if after.run:
            attributes["stream_app.run_id"] = after.run
        error = (after.reason or after.status) if after.status in _FAILED else ""
        return Span(*place, "POST", "client", *times, _with(attributes, error), error)
    if event.status in _PROCESSED:
        topic, _, _ = event.origin.rsplit("/", 2)
        if event.status != "replayed":
            return Span(*place, f"process {topic}", "consumer", *times, _of_record(event))
        waited = span_id(event.origin, event.seq - 1)  # a lead comes back only from a wait
        return Span(
            *place,
            "process leads.retry",
            "consumer",
            *times,
            _of_record(event),
            link_id=waited,
        )
    if (kind := kind_of(event.status, event.reason)) == "rest":
        return None
    reasons: dict[str, Value] = {"stream_app.status": event.status}
    if event.reason:
        reasons["stream_app.reason"] = event.reason
    return Span(*place, f"wait {kind}", "internal", *times, reasons)


def _of_record(event: StatusEvent) -> dict[str, Value]:
    topic, partition, offset = event.origin.rsplit("/", 2)
    return {
        "messaging.system": "kafka",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.destination.name": topic,
        "messaging.destination.partition.id": partition,
        "messaging.kafka.offset": int(offset),
    }


def _with(attributes: dict[str, Value], error: str) -> dict[str, Value]:
    return attributes | ({"error.type": error} if error else {})
