"""What Clay sent about a test lead: names and kinds of values, and no value."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_app.domain.model import seen
from stream_app.domain.model.seen import OTHER_NAME, Seen, shape_of, without


@pytest.mark.parametrize(
    ("document", "shape"),
    [
        ({"success": True}, {"success": "true or false"}),
        (
            {"a": "CTO", "b": "", "c": "38", "d": 3, "e": None, "f": -2.5},
            {
                "a": "text",
                "b": "empty text",
                "c": "number as text",
                "d": "number",
                "e": "null",
                "f": "number",
            },
        ),
        ({"data": {"id": "x", "no": {}}}, {"data.id": "text", "data.no": "object"}),
        (
            {"items": [{"a": 1}, {"b": 2}], "none": []},
            {"items[].a": "number", "items[].b": "number", "none": "list"},
        ),
        ([], {"": "list"}),
        ("OK", {"": "text"}),
        (None, {"": "null"}),
        (
            {"CTO": 1, "Title": "CTO", "CTOs": 2, "Jane": "Jane", "of Jane": 2},
            {OTHER_NAME: "number", "Title": "text", "CTOs": "number"},
        ),
    ],
)
def test_the_shape_of_a_document(document: object, shape: dict[str, str]) -> None:
    assert shape_of(document) == shape


def test_names_that_are_no_names_are_left_out() -> None:
    document = {"ada@example.com": 1, "x" * 41: 1, "9": 1, "Größe": 1, "Work Email": 1}
    assert shape_of(document) == {OTHER_NAME: "number", "Work Email": "number"}


def test_a_shape_has_a_bounded_number_of_names_and_levels() -> None:
    assert len(shape_of({f"n{number}": 1 for number in range(1_000)})) == 200
    nested: Any = 1
    for _ in range(50):
        nested = {"a": nested}
    assert shape_of(nested) == {".".join("a" * 8): "object"}


@pytest.mark.parametrize(
    ("body", "shape"),
    [
        (b"", {"": "nothing"}),
        (b"OK", {"": "text"}),
        (b'{"message":"Webhook received"', {"": "text"}),
        (b"[" * 1_000 + b"]" * 1_000, {"": "text"}),
        (b"\xff", {"": "text"}),
        (b'{"success":true}', {"success": "true or false"}),
    ],
)
def test_the_body_of_an_answer(body: bytes, shape: dict[str, str]) -> None:
    assert seen.shape_of_answer(200, 5, [], body, []) == Seen(200, 5, {}, shape)


@pytest.mark.parametrize(
    ("header", "kept"),
    [
        (("Content-Type", "application/json; charset=utf-8"), {"content-type": "application/json"}),
        (("content-type", "application/ada"), {"content-type": "another type"}),
        (("Retry-After", "1"), {"retry-after": "1"}),
        (("Retry-After", "Wed, 21 Oct 2026 07:28:00 GMT"), {"retry-after": "text"}),
        (("X-RateLimit-Limit", "300"), {"x-ratelimit-limit": "number as text"}),
        (("request-id", "abc"), {"request-id": "text"}),
        (("set-cookie", "session=ada"), {}),
        (("location", "https://api.clay.com/x"), {}),
    ],
)
def test_the_headers_of_an_answer(header: tuple[str, str], kept: dict[str, str]) -> None:
    assert seen.shape_of_answer(429, 5, [header], b"", []).headers == kept


@pytest.mark.parametrize(
    ("lead_id", "yes"),
    [("doctor-1796083140000", True), ("doctor-", False), ("doctor-x", False), ("crm-17", False)],
)
def test_only_a_test_lead_is_one(lead_id: str, *, yes: bool) -> None:
    body = msgspec.json.encode({"note": '"lead_id":"doctor-17"', "lead_id": lead_id, "z": 1})
    assert seen.is_test(lead_id) is yes
    assert seen.is_of_test(body) is yes


MARK = "Q7zx"
"""What no vocabulary of ours has: a piece of it in an output is a piece of a value."""
values = st.text(max_size=12).map(lambda text: f"{MARK}{text}")
names = st.sampled_from(["title", "Work Email", "data", "success"])


@st.composite
def sent(draw: st.DrawFn) -> tuple[Any, list[str]]:
    """A document that Clay sends, and what was sent to it. Values of both are names, too."""
    known = draw(st.lists(values, max_size=3))
    own = draw(st.lists(values, min_size=1, max_size=3))
    name = names | st.sampled_from(known + own).flatmap(
        lambda value: st.sampled_from([value, value.lower(), f"of {value}", f"{value}_id"]),
    )
    leaf = st.sampled_from(known + own) | st.none() | st.booleans() | st.integers()
    document = draw(
        st.recursive(
            leaf,
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(name, inner, max_size=4),
            max_leaves=12,
        ),
    )
    return {"values": own, "document": document}, known


@given(sent(), st.booleans())
def test_no_value_of_a_lead_of_a_result_or_of_what_was_sent_is_in_it(
    both: tuple[Any, list[str]],
    is_cut: bool,
) -> None:
    (document, known) = both
    body = json.dumps(document).encode()
    headers = [(name, f"{MARK}/{MARK}") for name in ("content-type", "retry-after", "request-id")]
    headers.append((f"x-{MARK}", MARK))
    answer = seen.shape_of_answer(200, 5, headers, body[:-1] if is_cut else body, known)
    assert MARK.casefold() not in repr(answer).casefold()
    later = without(Seen(body=shape_of(document)), known)
    assert MARK.casefold() not in repr(later).casefold()


def test_names_with_what_was_sent_are_left_out_later_too() -> None:
    before = Seen(body={"Lead of Jane.id[]": "text", "title": "text", "Jane[].x": "null", "": "a"})
    after = {f"{OTHER_NAME}.id[]": "text", "title": "text", f"{OTHER_NAME}[].x": "null", "": "a"}
    assert without(before, ["Jane", ""]).body == after
