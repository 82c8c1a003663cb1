"""What Clay sent about the test lead of `doctor`, without the values.

An answer or a callback becomes its names and the kinds of its values, so that it can be compared
with what the simulator sends and shown to others. It is made for the test lead only, whose id says
that it is one: no other lead pays for it.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Final

import msgspec

from stream_app.domain.model.numbers import TimeMs, Whole
from stream_app.domain.model.untrusted import decode

TEST_ID: Final = "doctor-"
"""How the id of a test lead begins; a number follows."""
_TEST: Final = re.compile(rf"{TEST_ID}\d{{1,20}}")
_TEST_BODY: Final = re.compile(rf'"lead_id":"{TEST_ID}\d{{1,20}}"'.encode())
_MAX_NAMES: Final = 200
_MAX_KINDS: Final = 1_000  # that are looked at: those of a list may all have the same few names
_MAX_LEVELS: Final = 8
# A longer value of the lead is looked for within a name, a shorter one is compared with all of it:
# each letter of the alphabet is in some name.
_SHORT: Final = 3
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_ -]{0,39}")
_NUMBER: Final = re.compile(r"-?\d{1,20}(?:\.\d{1,20})?")
_SECONDS: Final = re.compile(r"\d{1,5}")
_MEDIA_TYPES: Final = frozenset({"application/json", "text/plain", "text/html"})
OTHER_NAME: Final = "(another name)"
_json: Final = msgspec.json.Decoder()


class Seen(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """What Clay sent about a test lead, without a value of it or of its result.

    Attributes:
        status: The HTTP status of an answer.
        latency_ms: From the start of the exchange to the status, in ms.
        headers: Those of an answer that matter. Values that could name somebody are left out.
        body: By name, of which kind the value is. A name within an object has the object's name
            before a point, and a list is a name with `[]`. The body itself has the name "".
    """

    status: Whole = 0
    latency_ms: TimeMs = 0
    headers: dict[str, str] = {}
    body: dict[str, str] = {}


def is_test(lead_id: str) -> bool:
    """Return True if this is the id of a test lead."""
    return _TEST.fullmatch(lead_id) is not None


def is_of_test(body: bytes) -> bool:
    """Return True if a request for Clay is about a test lead. It is asked for every POST."""
    return _TEST_BODY.search(body) is not None


def shape_of_answer(
    status: int,
    latency_ms: int,
    headers: Iterable[tuple[str, str]],
    body: bytes,
    known: Iterable[str],
) -> Seen:
    """Describe an answer.

    Args:
        status: Its HTTP status.
        latency_ms: From the start of the exchange to the status, in ms.
        headers: Its headers, names in any case.
        body: The beginning of its body.
        known: What was sent: a name that has one of these values is left out.
    """
    try:
        document = decode(_json, body) if body else ...
    except ValueError:
        shape = {"": "text"}
    else:
        shape = {"": "nothing"} if document is ... else shape_of(document, known)
    return Seen(status, latency_ms, dict(_headers(headers)), shape)


def shape_of(document: object, known: Iterable[str] = ()) -> dict[str, str]:
    """Return the names in a JSON document, and of which kind each value is.

    A name that has a value of the document, or one of `known`, is left out. Of a long document, the
    beginning is described.
    """
    values = {value.casefold() for value in (*known, *_texts(document)) if value}
    shape: dict[str, str] = {}
    for name, kind in islice(_shapes(document, "", values, 0), _MAX_KINDS):
        if len(shape) == _MAX_NAMES:
            break
        shape.setdefault(name, kind)
    return shape


def _headers(headers: Iterable[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """Yield the headers that matter, with a value that is one of few."""
    for name, value in headers:
        match name.lower():
            case "content-type":
                media_type = value.partition(";")[0].strip().lower()
                yield "content-type", media_type if media_type in _MEDIA_TYPES else "another type"
            case "retry-after":
                yield "retry-after", value if _SECONDS.fullmatch(value) else _text(value)
            case "x-ratelimit-limit" | "x-ratelimit-remaining" | "x-ratelimit-reset" as limit:
                yield limit, _text(value)
            case "request-id" | "x-request-id" as request_id:
                yield request_id, _text(value)


def _shapes(
    value: object,
    name: str,
    values: set[str],
    level: int,
) -> Iterator[tuple[str, str]]:
    match value:
        case dict() if value and level < _MAX_LEVELS:
            for key, member in value.items():
                shown = key if _may_show(key, values) else OTHER_NAME
                yield from _shapes(member, f"{name}.{shown}" if name else shown, values, level + 1)
        case list() if value and level < _MAX_LEVELS:
            for member in value:
                yield from _shapes(member, f"{name}[]", values, level + 1)
        case _:
            yield name, _kind(value)


def _may_show(name: str, values: set[str]) -> bool:
    if _NAME.fullmatch(name) is None:
        return False
    # The parts of a name are few, and there may be any number of values.
    folded = name.casefold()
    return folded not in values and values.isdisjoint(_parts(folded))


def _parts(name: str) -> Iterator[str]:
    """Yield all parts of a name that are longer than `_SHORT`."""
    for begin in range(len(name) - _SHORT):
        for end in range(begin + _SHORT + 1, len(name) + 1):
            yield name[begin:end]


def _kind(value: object) -> str:
    match value:
        case str():
            return _text(value)
        case bool():
            return "true or false"
        case int() | float():
            return "number"
        case None:
            return "null"
        case dict():
            return "object"
        case _:
            return "list"


def _text(value: str) -> str:
    if not value:
        return "empty text"
    return "number as text" if _NUMBER.fullmatch(value) else "text"


def _texts(document: object) -> Iterator[str]:
    """Yield every value of a document as text."""
    match document:
        case Mapping():
            for value in document.values():
                yield from _texts(value)
        case list():
            for value in document:
                yield from _texts(value)
        case bool() | None:
            pass
        case str() | int() | float():
            yield str(document)


def without(seen: Seen, known: Iterable[str]) -> Seen:
    """Return the same without names that have one of these values."""
    values = {value.casefold() for value in known if value}
    body: dict[str, str] = {}
    for name, kind in seen.body.items():
        parts = (_shown(part, values) for part in name.split("."))
        body.setdefault(".".join(parts), kind)
    return msgspec.structs.replace(seen, body=body)


def _shown(part: str, values: set[str]) -> str:
    """Return one part of a path, or what stands for it. The brackets of lists stay."""
    name = part.rstrip("[]")
    if name in ("", OTHER_NAME) or _may_show(name, values):
        return part
    return OTHER_NAME + part[len(name) :]
