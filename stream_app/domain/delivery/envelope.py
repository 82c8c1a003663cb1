"""What travels with a lead outside its value: the headers of dead letters and of every record that comes back.

The value of such a record is the raw bytes of the input, so everything known about it stands in headers, each as
text. Nothing personal, no token and no URL is ever among them; a user's own headers are not carried on for that
reason (a W3C `traceparent` gives its trace id).

The names of these headers begin with `stream-app-`. They are read only on topics that our own processes alone write
to. On `leads` and `leads.bulk` every header is the producer's, whatever its name, and changes nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final, Literal, cast, get_args

import msgspec

from stream_app.domain.dead_letter.headers import read_number, read_place, spring_headers
from stream_app.domain.lead.lead import is_plain_id
from stream_app.domain.record import ConsumedRecord, Headers

Way = Literal["", "rerouted", "replayed", "redriven", "deferred", "uncertain"]
"""Why a record comes (back) to the line: '' is an input; redriven: an operator sent it back; the others were written
by the line or the replay app."""

RETURNS: Final[frozenset[Way]] = frozenset({"replayed", "redriven", "deferred", "uncertain"})
"""It comes back into its own story."""

Disposition = Literal["", "poison", "failed", "policy"]
"""poison: never replayed by itself; failed: replayed; policy: refused by configuration, waits for a human."""

PREFIX: Final = "stream-app-"
"""How the names of all our headers begin."""

HEADERS: Final[dict[str, str]] = {
    field: PREFIX + name
    for field, name in (
        ("origin", "origin"),
        ("origin_ms", "origin-timestamp-ms"),
        ("seq", "origin-seq"),
        ("way", "way"),
        ("lead_id", "lead-id"),
        ("destination", "destination"),
        ("disposition", "disposition"),
        ("reason", "reason"),
        ("text", "reason-text"),
        ("http_status", "http-status"),
        ("excerpt", "answer-excerpt"),
        ("attempt", "attempt"),
        ("replay", "replay-count"),
        ("epoch", "rewind-epoch"),
        ("returns", "returns"),
        ("hops", "hops"),
        ("cut_bytes", "cut-bytes"),
        ("first_failure_ms", "first-failure-ms"),
        ("last_failure_ms", "last-failure-ms"),
        ("not_before_ms", "not-before-ms"),
        ("redriven_from", "redriven-from"),
        ("letter", "letter"),
        ("trace_id", "trace-id"),
        ("app", "app-version"),
    )
}
"""Field of `Envelope` -> header name on the wire; what each means: domain/dead_letter/headers.py."""

_TRACEPARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")
_MAX_TEXT = 400
_FIT: Final[dict[str, Callable[[str], object]]] = {
    **dict.fromkeys(("lead_id", "destination", "reason", "trace_id", "app"), is_plain_id),
    **dict.fromkeys(("origin", "redriven_from", "letter"), read_place),
    "way": get_args(Way).__contains__,
    "disposition": get_args(Disposition).__contains__,
}
"""Field -> whether a text may stand in it. It goes on into headers and events."""


class Envelope(msgspec.Struct, frozen=True, omit_defaults=True):
    """Headers as values. Times are epoch ms; `origin` is `topic/partition/offset` of the input record.

    seq is the sequence number of the story's last event when the record was written. `replay` counts how often this
    lead was replayed in rewind `epoch`, the coming time included. `hops` counts re-publications to a home partition.
    cut_bytes: how much of the value is missing, where it was too large for the topic.
    letter: the dead letter that an input was before, in no story or in one that had ended.
    """

    origin: str = ""
    origin_ms: int = 0
    seq: int = 0
    way: Way = ""
    lead_id: str = ""
    destination: str = ""
    disposition: Disposition = ""
    reason: str = ""
    text: str = ""
    http_status: int = 0
    excerpt: str = ""
    attempt: int = 0
    replay: int = 0
    epoch: int = 0
    returns: int = 0
    hops: int = 0
    cut_bytes: int = 0
    first_failure_ms: int = 0
    last_failure_ms: int = 0
    not_before_ms: int = 0
    redriven_from: str = ""
    letter: str = ""
    trace_id: str = ""
    app: str = ""

    def onward(self, **changes: object) -> Envelope:
        """For the next record of its story: words are of the record on which they stand, and may be anybody's."""
        return msgspec.structs.replace(self, **{"text": "", "excerpt": "", **changes})

    def to_headers(self, group: str = "") -> Headers:
        """The fields that are set, as Kafka headers; a dead letter has Spring Kafka's counterparts, too.

        group   the consumer group that failed with the record, '' if none did.
        """
        headers = tuple(
            (name, str(value)[:_MAX_TEXT].encode("utf-8", "replace"))
            for field, name in HEADERS.items()
            if (value := getattr(self, field))
        )
        if not self.disposition:
            return headers
        return headers + spring_headers(self.origin, self.origin_ms, group, self.reason, self.text[:_MAX_TEXT])


def input_envelope(consumed: ConsumedRecord) -> Envelope:
    """The envelope of an input record: its origin is its own place. Of its headers only `traceparent` counts."""
    traceparent = consumed.header("traceparent") if consumed.headers else None
    trace = _TRACEPARENT.fullmatch(traceparent) if traceparent else None
    return Envelope(origin=consumed.place, origin_ms=consumed.timestamp_ms, trace_id=trace.group(1) if trace else "")


def read_envelope(consumed: ConsumedRecord) -> Envelope:
    """The envelope of a record on a topic that only our own processes write to.

    A record without a readable origin is an input. Of its headers only the dead letter that it was before counts.
    """
    values: dict[str, object] = {}
    for name, value in consumed.headers:
        if (field := _FIELDS.get(name)) is None or not isinstance(value, bytes):
            continue
        text = value.decode("utf-8", "replace")
        if field not in _FIT or _FIT[field](text):
            values[field] = read_number(text) if isinstance(getattr(_EMPTY, field), int) else text[:_MAX_TEXT]
        else:
            values.pop(field, None)
    if "origin" not in values:
        return msgspec.structs.replace(input_envelope(consumed), letter=cast("str", values.get("redriven_from", "")))
    return msgspec.convert(values, Envelope)


def lead_envelope(consumed: ConsumedRecord, inputs: frozenset[str]) -> Envelope:
    """The envelope of a record on a lead topic.

    Our processes put every record that they publish there on `leads.retry`, and name its `way`. Anything else is an
    input, such as a dead letter that another program copied there with its headers.

    Args:
        taken: The record.
        inputs: The topics to which producers publish (`TopicNames.inputs`).
    """
    if consumed.topic in inputs:
        return input_envelope(consumed)
    envelope = read_envelope(consumed)
    return envelope if envelope.way or envelope.letter else input_envelope(consumed)


_EMPTY: Final = Envelope()
_FIELDS: Final = {name: field for field, name in HEADERS.items()}
