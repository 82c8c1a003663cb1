"""No step on a producer's bytes takes more than linear time, whatever the bytes are.

Each reader is given hostile inputs of four sizes, up to the largest that it accepts. Its CPU may
grow with an exponent of at most 1.2, so that no lead can hold the interpreter long enough for the
group to give its partitions away.
"""

import io
import json
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any, Final, TypeVar

import msgspec
import pytest

from stream_app.cache.local_facts import local_facts
from stream_app.client.people import hashes_of
from stream_app.client.publish.rows import MAX_LINE_BYTES, open_csv, read_jsonl, read_titles
from stream_app.domain.callback.body import Body, callback_of, read_body
from stream_app.domain.callback.interpret import read_callback
from stream_app.domain.commands import read_command
from stream_app.domain.dead_letter.causes import (
    DeadLetterTally,
    addressed_to,
    headers_of,
    lead_id_of,
)
from stream_app.domain.delivery.envelope import (
    HEADER_PREFIX,
    Envelope,
    input_envelope,
    pseudonymous_key,
    read_envelope,
)
from stream_app.domain.delivery.resolve import ResolvedLead, resolve_lead
from stream_app.domain.delivery.suppression import people_in
from stream_app.domain.lead.fields import clean_domain
from stream_app.domain.lead.read import MAX_LEAD_BYTES, Unreadable, import_of, label, read_lead
from stream_app.domain.model.errors import SettingsError
from stream_app.domain.model.messages import Callback
from stream_app.domain.model.outcome import scrub
from stream_app.domain.model.records import ConsumedRecord
from stream_app.domain.model.topics import MAX_CARRIED_BYTES
from tests.simulation.schedule import Setup, plan_of
from tests.support.cpu import exponent

MAX_EXPONENT: Final = 1.2
PLAN: Final = plan_of(Setup())
Shape = Callable[[int], bytes]
T = TypeVar("T")

_ABOVE_ALL: Final = "\u0301"  # combining class 230
_BELOW: Final = "\u0316"  # 220: each of these moves in front of all above


def _repeated(unit: str, end: str = "", start: str = "") -> Callable[[int], str]:
    """Return a text of so many bytes of JSON that repeats a unit."""
    size = max(1, len(json.dumps(unit, ensure_ascii=False).encode()) - 2)
    return lambda n: start + unit * max(1, (n - len(start) - len(end)) // size) + end


def _distinct(n: int) -> str:
    """Return as many different letters as fit, in falling order."""
    return "".join(chr(0x4E00 + i) for i in range(min(n // 3, 20_000), 0, -1))


TEXTS: Final[dict[str, Callable[[int], str]]] = {
    "letters": _repeated("a"),
    "marks, above before below": lambda n: "a" + _ABOVE_ALL * (n // 4) + _BELOW * (n // 4),
    "marks in turn": _repeated(_ABOVE_ALL + _BELOW),
    "marks that are decomposed": lambda n: "a" + "\u0f73" * (n // 6) + "\u0f71" * (n // 6),
    "one sign that is two marks": _repeated("\u0344\u0316"),
    "half-width marks": lambda n: "a" + "\uff9e" * (n // 6) + "\u0334" * (n // 4),
    "marks with invisible characters between": _repeated(_ABOVE_ALL * 20 + "\u200b" + _BELOW * 20),
    "runs of 30 marks": _repeated("a" + _ABOVE_ALL * 15 + _BELOW * 15),
    "signs that grow": _repeated("\ufdfa"),
    "different letters": _distinct,
    "syllables in parts": _repeated("\u1112\u1161\u11ab"),
    "different letters in a host": lambda n: "a@" + _distinct(n - 10) + ".de",
    "labels": _repeated("\u00e4."),
    "labels of one letter": _repeated("a.", "com"),
    "dots": _repeated("."),
    "dots behind a host": _repeated(".", start="a@b.de"),
    "mailto": _repeated("mailto:", "a@b.de"),
    "mailto with blanks": _repeated("mailto: ", "?a"),
    "at signs": _repeated("@"),
    "at signs behind each other": _repeated("a@", "b.de"),
    "www": _repeated("www.", "a.de"),
    "schemes": _repeated("a://", "linkedin.com/in/ada"),
    "a long scheme": _repeated("a", "://linkedin.com/in/ada"),
    "hosts of LinkedIn": _repeated("linkedin.com.", "linkedin.com/in"),
    "percent": _repeated("%C3%A4", start="linkedin.com/in/"),
    "percent of marks": lambda n: "linkedin.com/in/a" + "%CC%81" * (n // 12) + "%CC%96" * (n // 12),
    "broken percent": _repeated("%", start="linkedin.com/in/"),
    "blanks": _repeated(" ", "a"),
    "blanks between": _repeated("a "),
    "colons": _repeated(":1", "x"),
    "digits": _repeated("1"),
    "signs and digits": _repeated("+1"),
    "tags": _repeated("<"),
    "entities": _repeated("&#x41;"),
    "slashes": _repeated("/a"),
    "opened paths": _repeated("a/"),
    "quotes": _repeated('"'),
    "backslashes": _repeated("\\"),
    "templates": _repeated("{{"),
    "closed templates": _repeated("{{a}} ", "x"),
    "control characters": _repeated("\x01"),
}


def _lead(**fields: str) -> bytes:
    return json.dumps(
        {"workspace": "acme", "lead_id": "a", "fields": fields},
        ensure_ascii=False,
    ).encode()


def _in_field(name: str, text: Callable[[int], str]) -> Shape:
    return lambda n: _lead(**{name: text(n - 200)})


def _structures(before: str = "", after: str = "") -> dict[str, Shape]:
    """Return shapes of JSON, each inside `before` and `after`."""

    def shape(unit: str, close: str = "", share: int = 1) -> Shape:
        return lambda n: (
            (before + unit * ((n - len(before) - len(after)) // (share * len(unit) + len(close))))
            + close * ((n - len(before) - len(after)) // (share * len(unit) + len(close)))
            + after
        ).encode()

    return {
        "lists in lists": shape("[", "]"),
        "open lists": shape("["),
        "objects in objects": shape('{"a":', "}"),
        "open objects": shape('{"a":'),
        "empty lists": lambda n: (before + "[" + "[]," * (n // 3 - 60) + "[]]" + after).encode(),
        "quotes of an open text": shape('"\\"'),
        "escapes": shape('"\\\\'),
        "brackets in a text": lambda n: (before + '"' + "[" * (n - 300) + '"' + after).encode(),
        "members": lambda n: (
            before + "{" + ",".join(f'"{i}":{i}' for i in range(n // 16)) + "}" + after
        ).encode(),
        "a member again and again": lambda n: (
            before + "{" + ",".join(['"a":1'] * (n // 6 - 40)) + "}" + after
        ).encode(),
        "a long number": lambda n: (before + "1" * (n - 300) + after).encode(),
        "a long fraction": lambda n: (before + "0." + "0" * (n - 300) + "1" + after).encode(),
        "a long exponent": lambda n: (before + "1e" + "9" * (n - 300) + after).encode(),
        "blanks": lambda n: (before + " " * (n - 300) + "1" + after).encode(),
        "escaped letters": lambda n: (
            before + '"' + "\\u0301" * ((n - 300) // 6) + '"' + after
        ).encode(),
        "no UTF-8": lambda n: b'{"a":"' + b"\xff" * (n - 300),
    }


def check(work: Callable[[T], object], shape: Callable[[int], T], largest: int, what: str) -> float:
    """Fail if the CPU grows too fast. Returns the seconds for the largest input."""
    grows, took_s = exponent(work, shape, largest, MAX_EXPONENT)
    assert grows <= MAX_EXPONENT, (
        f"{what}: the exponent is {grows:.2f}, {took_s:.3f} s for the largest"
    )
    return took_s


def _one_of_each(texts: Iterable[str], names: Sequence[str]) -> pytest.MarkDecorator:
    """Pair each text with each name.

    With `pytest` each text comes once, with the names in turn; the rest is slow.
    """
    pairs = [
        (number, text, at, name)
        for number, text in enumerate(texts)
        for at, name in enumerate(names)
    ]
    slow = pytest.mark.slow
    return pytest.mark.parametrize(
        ("text", "name"),
        [
            pytest.param(text, name, marks=[slow] * (number % len(names) != at))
            for number, text, at, name in pairs
        ],
    )


def _a_tenth(texts: Iterable[str]) -> list[Any]:
    """Return the texts that the tests of a lead and of a callback have, too: all but a tenth of
    them are slow.
    """
    return [
        pytest.param(text, marks=[pytest.mark.slow] * (number % 10 != 0))
        for number, text in enumerate(texts)
    ]


FIELDS: Final = ("email", "domain", "linkedin_url", "full_name", "phone", "anything")


def _process_lead(value: bytes) -> None:
    """Do with a record what the worker does before and while it sends it."""
    consumed = ConsumedRecord("leads", 0, 7, b"acme", value)
    people_in(value)
    lead = read_lead(value, b"acme")
    if isinstance(lead, Unreadable):
        return
    import_of(lead)
    local_facts(lead.fields)
    resolved = resolve_lead(PLAN, consumed, Envelope(origin="leads/0/7"), lead)
    if isinstance(resolved, ResolvedLead):
        known = [field for field in lead.fields.values() if isinstance(field, str)]
        scrub("limit reached for Ada Lovelace " * 30, known=known)


@_one_of_each(TEXTS, FIELDS)
def test_a_lead_with_a_hostile_value(text: str, name: str) -> None:
    check(_process_lead, _in_field(name, TEXTS[text]), MAX_LEAD_BYTES, f"{name}: {text}")


@_one_of_each(
    _structures(),
    [
        "",
        '{"workspace":"acme","lead_id":"a","fields":{"email":"a@b.de"},"more":',
        '{"fields":',
        '{"not_after_ms":',
    ],
)
def test_a_lead_with_a_hostile_structure(text: str, name: str) -> None:
    work = _structures(name, "}" if name else "")[text]
    check(_process_lead, work, MAX_LEAD_BYTES, f"{name}: {text}")


def test_a_lead_with_many_fields() -> None:
    def shape(n: int) -> bytes:
        return _lead(**{f"f{i}": f"v{i}" for i in range((n - 200) // 20)})

    assert check(_process_lead, shape, MAX_LEAD_BYTES, "many fields") < 0.5, "it stops no heartbeat"


@_one_of_each(
    ["letters", "marks, above before below", "at signs", "digits", "blanks", "different letters"],
    ["lead_id", "workspace", "destination", "import_id", "source"],
)
def test_a_lead_with_a_hostile_name(name: str, text: str) -> None:
    def shape(n: int) -> bytes:
        lead = {"workspace": "acme", "fields": {"email": "a@b.de"}, name: TEXTS[text](n - 200)}
        return json.dumps(lead, ensure_ascii=False).encode()

    check(_process_lead, shape, MAX_LEAD_BYTES, f"{name}: {text}")


def _read_dead_letter(value: bytes) -> None:
    people_in(value)
    addressed_to({}, b"acme", value)
    lead_id_of({}, value)


@pytest.mark.parametrize("shape", _a_tenth(_structures()))
def test_a_dead_letter_with_a_hostile_structure(shape: str) -> None:
    """Other programs write dead letters, too, so a plan may read values that no worker would
    accept.
    """
    for before in ("", '{"fields":{"a":', '{"lead_id":'):
        check(
            _read_dead_letter,
            _structures(before, "}")[shape],
            MAX_CARRIED_BYTES,
            f"{before}: {shape}",
        )


def _read_headers(consumed: ConsumedRecord) -> None:
    input_envelope(consumed)
    read_envelope(consumed)
    headers = headers_of(consumed.headers)
    addressed_to(headers, consumed.key, consumed.value)
    pseudonymous_key(consumed.key, {"acme"})
    DeadLetterTally(0).add(headers, consumed.key, 0)


@_one_of_each(
    ["letters", "digits", "dots", "slashes", "marks in turn"],
    ["origin", "lead-id", "reason-text", "attempt", "trace-id"],
)
def test_headers(name: str, text: str) -> None:
    def shape(n: int) -> ConsumedRecord:
        value = TEXTS[text](n).encode()
        return ConsumedRecord(
            "leads",
            0,
            7,
            value,
            None,
            ((HEADER_PREFIX + name, value), ("traceparent", value)),
        )

    check(_read_headers, shape, MAX_CARRIED_BYTES, f"{name}: {text}")


@pytest.mark.parametrize("name", ["a", HEADER_PREFIX + "reason", "traceparent"])
def test_many_headers(name: str) -> None:
    def shape(n: int) -> ConsumedRecord:
        return ConsumedRecord(
            "leads",
            0,
            7,
            b"acme",
            None,
            tuple((name, b"x") for _ in range(n // 20)),
        )

    check(_read_headers, shape, MAX_CARRIED_BYTES, name)


def _broken_bodies() -> dict[str, Shape]:
    """Return bodies that a template broke, so that they are repaired or refused."""
    start = '{"lead_id": "a", "callback_token": "t", "title": "'
    units = {
        "quotes": '"',
        "quotes apart": '" ',
        "blanks behind a quote": '"' + " " * 60,
        "members that do not begin": '",',
        "members that nearly begin": '", "a" ',
        "long names that nearly begin": '", "' + "a" * 199 + '" ',
        "ends that are none": '"}',
        "ends with blanks": '" } ',
        "line ends": "\n",
        "escapes": "\\",
        "templates": "{{",
        "braces": "{",
    }
    bodies: dict[str, Shape] = {
        f"{name}, {'closed' if end else 'open'}": lambda n, unit=unit, end=end: (  # type: ignore[misc]  # defaults bind the loop
            start + unit * ((n - 100) // len(unit)) + end
        ).encode()
        for name, unit in units.items()
        for end in ("", '"}', '\n", "x": }')
    }
    bodies["many members"] = lambda n: (
        start + '\n"' + "".join(f', "{i}": ' for i in range(n // 12)) + "}"
    ).encode()
    bodies["many numbers"] = lambda n: (start + '\n", "a": ' + "1" * (n - 100) + "}").encode()
    bodies["many signs"] = lambda n: (
        start + '\n", "a": -1' + "e+" * ((n - 100) // 2) + "}"
    ).encode()
    return bodies


def _take_callback(value: bytes) -> None:
    body = read_body(value)
    if isinstance(body, Body):
        callback_of(body, "acme", "people", 1)


MAX_BODY_BYTES: Final = 262_144
"""As `gateway.max_body_bytes` has it unless it is configured."""


@pytest.mark.parametrize("shape", _broken_bodies())
def test_a_broken_callback(shape: str) -> None:
    check(_take_callback, _broken_bodies()[shape], 65_536, shape)


@_one_of_each(TEXTS, ["title", "error", "status", "credits", "lead_id"])
def test_a_callback_with_a_hostile_value(text: str, name: str) -> None:
    def shape(n: int) -> bytes:
        body = {"lead_id": "a", "callback_token": "t", "error": "no: 1", name: TEXTS[text](n - 200)}
        return json.dumps(body, ensure_ascii=False).encode()

    check(_take_callback, shape, MAX_BODY_BYTES, f"{name}: {text}")


@_one_of_each(
    _structures(),
    ["", '{"lead_id":"a","callback_token":"t","x":', '{"lead_id":', '{"lead_id":"a","fields":'],
)
def test_a_callback_with_a_hostile_structure(text: str, name: str) -> None:
    work = _structures(name, "}" if name else "")[text]
    check(_take_callback, work, MAX_BODY_BYTES, f"{name}: {text}")
    check(
        lambda value: read_callback(PLAN, _record(value)),
        work,
        MAX_CARRIED_BYTES,
        f"record {text}",
    )
    check(lambda value: read_command(_record(value), 1), work, MAX_CARRIED_BYTES, f"command {text}")


def _record(value: bytes) -> ConsumedRecord:
    return ConsumedRecord("leads.callbacks", 0, 7, b"acme", value)


def _read_csv(value: bytes) -> None:
    _to_the_end(lambda: open_csv(io.BytesIO(value), {}).rows)
    _to_the_end(lambda: read_titles(io.BytesIO(value)))
    _to_the_end(lambda: read_jsonl(io.BytesIO(value)))


def _to_the_end(read: Callable[[], Iterable[Any]]) -> None:
    with suppress(ValueError):
        for _ in read():
            pass


CSV: Final[dict[str, Shape]] = {
    "columns of one name": lambda n: b"email," * (n // 6),
    "columns": lambda n: ",".join(f"c{i}" for i in range(n // 7)).encode(),
    "columns of two spellings": lambda n: b"e mail,E-Mail," * (n // 14),
    "columns with signs": lambda n: b"_-_-_-_-," * (n // 9),
    "quotes": lambda n: b'"' * n,
    "open quotes": lambda n: b'email\n"' + b"a" * (n - 10),
    "rows that never close": lambda n: b"email\n" + b'"a\n' * (n // 3),
    "cells": lambda n: b"email\n" + b"," * (n - 6),
    "rows of commas": lambda n: b"a,b\n" + b",,\n" * (n // 3),
    "empty rows": lambda n: b"a\n" * (n // 2),
    "no UTF-8": lambda n: b"a\n" + b"\xff" * n,
}


@pytest.mark.parametrize("shape", CSV)
def test_a_csv(shape: str) -> None:
    check(_read_csv, CSV[shape], MAX_LINE_BYTES, shape)


TEST_CALLBACKS: Final[dict[str, Shape]] = {
    "names that are values": lambda n: _test_callback(
        {f"k{i:06d}": f"k{i:06d}" for i in range(n // 22)},
    ),
    "long names": lambda n: _test_callback({f"{i:c>40d}": i for i in range(n // 51)}),
    "a list": lambda n: _test_callback([{f"k{i:06d}": i} for i in range(n // 20)]),
    "levels": lambda n: _test_callback([[[[[[[[i]]]]]]] for i in range(n // 22)]),
}


def _test_callback(values: object) -> bytes:
    """Return a callback with these values under a name of Clay's own, which may hold anything."""
    return json.dumps({"lead_id": "doctor-1", "_x": [values]}).encode()


def _read_callback_of_test(value: bytes) -> None:
    body = read_body(value)
    assert isinstance(body, Body)
    callback = callback_of(body, "acme", "people", 1)
    assert isinstance(callback, Callback)
    assert callback.seen is not None


@pytest.mark.parametrize("shape", TEST_CALLBACKS)
def test_a_callback_of_a_test_lead(shape: str) -> None:
    check(_read_callback_of_test, TEST_CALLBACKS[shape], MAX_BODY_BYTES, shape)


def _read_person(line: str) -> None:
    with suppress(SettingsError):
        hashes_of([line], hashed=True)


@pytest.mark.parametrize("text", _a_tenth(TEXTS))
def test_long_texts(text: str) -> None:
    """As a dead letter or a file of people may have them, that is longer than a worker accepts a
    lead.
    """
    past_its_cache = clean_domain.__wrapped__
    for work in (scrub, label, past_its_cache, _read_person):
        check(work, TEXTS[text], MAX_LINE_BYTES, f"{work.__name__}: {text}")
    check(
        lambda value: scrub("Ada " * 200, known=[value]),
        TEXTS[text],
        MAX_LEAD_BYTES,
        f"a value: {text}",
    )


def test_the_rule_itself_finds_what_is_quadratic() -> None:
    def quadratic(value: bytes) -> int:
        return sum(1 for _ in value for _ in value)

    # one run is enough, too
    grows, _ = exponent(quadratic, lambda n: b"a" * n, 5_000, enough=2 * MAX_EXPONENT)
    assert grows > 1.5
    check(msgspec.json.decode, lambda n: b"[" + b"1," * (n // 2) + b"1]", 2**22, "numbers")
