"""The headers of dead letters and of every record that returns to the pipeline.

The value of such a record is the raw bytes of the input, so everything we know about it is in
headers, each as text. Headers never hold personal data, a token or a URL. For that reason a user's
own headers are not copied, except that a W3C `traceparent` gives its trace id.

The names of our headers begin with `stream-app-`. They are read only on topics to which only our
own processes write. On `leads` and `leads.bulk` every header belongs to the producer and has no
effect.

One header is the format of the others. A record of a later format is refused, and so is one of
0.1.0, whose header names had no prefix: without its headers it would count as a new input, and its
lead would end as a duplicate.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Iterable, Mapping
from typing import Final, Literal, cast, get_args

import msgspec
from msgspec.structs import replace

from stream_app.domain.lead.identity import is_plain_id
from stream_app.domain.lead.read import shown_workspace
from stream_app.domain.model.errors import UnknownFormat
from stream_app.domain.model.pseudonyms import digest
from stream_app.domain.model.records import ConsumedRecord, Headers, parse_record_id, read_number

Way = Literal["", "rerouted", "replayed", "redriven", "deferred", "uncertain", "given_up"]
"""Why a record comes back to the pipeline.

'' is an input. `redriven` was sent back by an operator, and `given_up` ends a dead letter, which is
not sent. The pipeline or the replay app wrote the others.
"""

RETURNS: Final[frozenset[Way]] = frozenset({"replayed", "redriven", "deferred", "uncertain"})
"""Ways of a record that continues its own history."""

Disposition = Literal["", "poison", "failed", "policy"]
"""The kinds of dead letters: `poison` is not replayed automatically, and `failed` is. `policy` was
refused because of the configuration, and waits for a person.
"""

FORMAT: Final = 1
"""The format of the headers. A change that an earlier program would misread gets a new format; a
new header does not.
"""

HEADER_PREFIX: Final = "stream-app-"  # the prefix of all our headers

_HEADERS: Final = {
    "origin": ("origin", "topic/partition/offset of the input record"),
    "origin_ms": ("origin-timestamp-ms", "when the broker appended the input record, epoch ms"),
    "seq": (
        "origin-seq",
        "sequence number of the last event in leads.status when this was written",
    ),
    "way": (
        "way",
        (
            "why it comes back: rerouted, replayed, redriven, deferred, uncertain, given_up; not "
            "on a dead letter"
        ),
    ),
    "lead_id": ("lead-id", "the lead's id (a hash where the given one could hold personal data)"),
    "destination": ("destination", "the destination's alias, never its URL"),
    "disposition": (
        "disposition",
        "poison (not replayed by itself), failed (replayed), policy (refused by configuration)",
    ),
    "reason": ("reason", "stable code, such as http_422 or not_json"),
    "text": ("reason-text", "the reason in words"),
    "http_status": ("http-status", "what Clay answered"),
    "excerpt": ("answer-excerpt", "beginning of the answer, scrubbed"),
    "attempt": ("attempt", "failed POSTs in this replay"),
    "replay": ("replay-count", "replays in this rewind epoch"),
    "epoch": ("rewind-epoch", "how often the replay group had been rewound"),
    "returns": ("returns", "how often the lead has come back in all, over all epochs"),
    "hops": ("hops", "re-publications to a home partition"),
    "cut_bytes": (
        "cut-bytes",
        "how many bytes of the value are missing, because the topic takes no larger record",
    ),
    "batch_first": (
        "batch-first",
        (
            "topic/partition/offset of the first record of the batch that is the value; origin "
            "is the last one"
        ),
    ),
    "batch_records": ("batch-records", "how many records that batch has"),
    "first_failure_ms": ("first-failure-ms", "epoch ms"),
    "last_failure_ms": ("last-failure-ms", "epoch ms"),
    "not_before_ms": ("not-before-ms", "when it is due to come back, epoch ms"),
    "redriven_from": (
        "redriven-from",
        "topic/partition/offset of the dead letter that was sent back",
    ),
    "dead_letter": (
        "dead-letter",
        "topic/partition/offset of the dead letter that the input record was before",
    ),
    "trace_id": ("trace-id", "W3C trace id"),
    "app": ("app-version", "the version that wrote it"),
    "format": (
        "format",
        (
            "format of these headers; a process that does not know it stops instead of reading "
            "it wrong"
        ),
    ),
}
"""Field of `Envelope` -> header name on the wire without the prefix, and what the header holds."""

HEADERS: Final[dict[str, str]] = {
    field: HEADER_PREFIX + name for field, (name, _) in _HEADERS.items()
}
"""Field of `Envelope` -> header name on the wire."""

HEADER_MEANING: Final[dict[str, str]] = {
    HEADER_PREFIX + name: meaning for name, meaning in _HEADERS.values()
}
"""Header -> its meaning."""

_HASHED_KEY: Final = re.compile(rb"key-[A-Za-z0-9_-]{22}")
# The reason of a dead letter whose workspace is not configured.
UNKNOWN_WORKSPACE: Final = "unknown_workspace"
_ORIGIN_OF_0_1_0: Final = "origin"
_VERSION_OF_0_1_0: Final = "app-version"
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")
_SAMPLED: Final = 1
_MAX_TEXT_CHARACTERS = 400
_FIT: Final[dict[str, Callable[[str], object]]] = {
    **dict.fromkeys(("lead_id", "destination", "reason", "trace_id", "app"), is_plain_id),
    **dict.fromkeys(("origin", "redriven_from", "dead_letter", "batch_first"), parse_record_id),
    "way": get_args(Way).__contains__,
    "disposition": get_args(Disposition).__contains__,
}
"""Field -> whether a text is valid in it. The text is copied into headers and events."""


class Envelope(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """Headers as values, which `HEADER_MEANING` describes."""

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
    batch_first: str = ""
    batch_records: int = 0
    first_failure_ms: int = 0
    last_failure_ms: int = 0
    not_before_ms: int = 0
    redriven_from: str = ""
    dead_letter: str = ""
    trace_id: str = ""
    app: str = ""
    format: int = FORMAT
    # The caller's span and whether the caller has sampled it, from `traceparent`. Only an input
    # record has them, because no header of ours does.
    parent_id: str = ""
    sampled: bool = False

    def onward(self, **changes: object) -> Envelope:
        """Return the envelope of the history's next record, without this one's text and excerpt."""
        return replace(self, **{"text": "", "excerpt": "", **changes})

    def to_headers(self) -> Headers:
        """Return the fields that are set, as Kafka headers."""
        return tuple(
            (name, str(value)[:_MAX_TEXT_CHARACTERS].encode("utf-8", "replace"))
            for field, name in HEADERS.items()
            if (value := getattr(self, field))
        )


def input_envelope(consumed: ConsumedRecord) -> Envelope:
    """Return the envelope of an input record.

    The record's own place is its origin. Of its headers only `traceparent` counts.
    """
    traceparent = consumed.header("traceparent") if consumed.headers else None
    trace = _TRACEPARENT.fullmatch(traceparent) if traceparent else None
    trace_id, parent_id, flags = trace.groups() if trace else ("", "", "0")
    sampled = bool(int(flags, 16) & _SAMPLED)
    return Envelope(
        consumed.record_id,
        consumed.timestamp_ms,
        trace_id=trace_id,
        parent_id=parent_id,
        sampled=sampled,
    )


def read_envelope(consumed: ConsumedRecord) -> Envelope:
    """Return the envelope of a record on a topic to which only our own processes write.

    A record without a readable origin is an input. Its headers say no more than from which dead
    letter it was copied, and whether an operator gives that up.

    Raises:
        UnknownFormat: As `check_format`.
    """
    check_format(dict(consumed.headers), consumed.record_id)
    values: dict[str, object] = {}
    for name, value in consumed.headers:
        if (
            (field := _FIELDS.get(name)) is None
            or field == "format"
            or not isinstance(value, bytes)
        ):
            continue
        text = value.decode("utf-8", "replace")
        if field not in _FIT or _FIT[field](text):
            values[field] = (
                read_number(text)
                if isinstance(getattr(_EMPTY, field), int)
                else text[:_MAX_TEXT_CHARACTERS]
            )
        else:
            values.pop(field, None)
    if "origin" not in values:
        copied = replace(
            input_envelope(consumed),
            dead_letter=cast("str", values.get("redriven_from", "")),
        )
        if values.get("way") == "given_up":
            return replace(copied, way="given_up")
        return copied
    return msgspec.convert(values, Envelope)


def check_format(headers: Mapping[str, bytes | None], record_id: str) -> None:
    """Check that this program reads the format of a record.

    A record of another program has no format. Neither has a record of a build before the first
    release with formats.

    Raises:
        UnknownFormat: A version of this program wrote the record in a format that this version does
            not read.
    """
    later = read_number((headers.get(HEADERS["format"]) or b"").decode("utf-8", "replace"))
    if later > FORMAT:
        raise UnknownFormat(
            f"{record_id} has format {later}, and this program reads up to {FORMAT}: run the "
            "later version that wrote "
            "it",
        )
    if later or HEADERS["origin"] in headers or _ORIGIN_OF_0_1_0 not in headers:
        return
    if (
        version := (headers.get(_VERSION_OF_0_1_0) or b"").decode("utf-8", "replace")
    ) and is_plain_id(version):
        raise UnknownFormat(
            f"{record_id} was written by version {version}, whose records this program does "
            "not read: drain "
            "its dead letters with that version first, or take a new kafka.namespace "
            "(docs/compatibility.md)",
        )


def lead_envelope(consumed: ConsumedRecord, inputs: frozenset[str]) -> Envelope:
    """Return the envelope of a record on a lead topic. Producers publish to the topics `inputs`.

    Our processes publish only to `leads.retry` and always set a `way`. Any other record is an
    input, for example a dead letter that another program copied with its headers.

    Raises:
        UnknownFormat: As `check_format`.
    """
    if consumed.topic in inputs:
        return input_envelope(consumed)
    envelope = read_envelope(consumed)
    as_input = input_envelope(consumed)
    copied = replace(as_input, dead_letter=envelope.dead_letter)
    return envelope if envelope.way or envelope == copied else as_input


_EMPTY: Final = Envelope()
_FIELDS: Final = {name: field for field, name in HEADERS.items()}


def pseudonymous_key(
    key: bytes | None,
    workspaces: Container[str],
    reason: str = "",
) -> bytes | None:
    """Return the key of a dead letter: the name of a workspace stays, any other key is hashed.

    A producer may key its records by an e-mail address or a phone number. If the `reason` is that
    the workspace is not configured, its name stays, too, unless it looks like an address or a
    number. A second call changes nothing.
    """
    if not key or _HASHED_KEY.fullmatch(key):
        return key
    name = key.decode("utf-8", "surrogateescape")
    if name in workspaces or (reason == UNKNOWN_WORKSPACE and shown_workspace(name)):
        return key
    return f"key-{digest('key', name)}".encode()


def named_workspace(name: str, workspaces: Container[str], reason: str) -> str:
    """Return the workspace that a record names, as events show it; '' if it may hold personal data.

    `reason` is why the record was rejected.
    """
    if name in workspaces:
        return name
    if reason != UNKNOWN_WORKSPACE or _HASHED_KEY.fullmatch(name.encode("utf-8", "replace")):
        return ""
    return shown_workspace(name)


class WorkspaceKeys:
    """Finds the workspace of a hashed key once that workspace is configured.

    A lead may name its workspace by the key of its record only. If that workspace was unknown, the
    dead letter has the hash of the key.
    """

    def __init__(self, workspaces: Iterable[str]) -> None:
        self._names = {f"key-{digest('key', name)}".encode(): name.encode() for name in workspaces}

    @property
    def hashed(self) -> list[str]:
        """The hashes of all names."""
        return [key.decode() for key in self._names]

    def restore(self, key: bytes | None) -> bytes | None:
        """Return the configured workspace whose hash this key is. Without one, return the key."""
        return self._names.get(key, key) if key else key
