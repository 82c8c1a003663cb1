"""A callback: its body, of which what would be a guess is refused in words, and the token that
proves its lead.
"""

import hmac
import json
from typing import Any
from unittest.mock import Mock

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from stream_app.domain.callback import body as callback_body
from stream_app.domain.callback.body import (
    MAX_FIELDS,
    RESERVED,
    BadBody,
    Body,
    callback_of,
    read_body,
    repair,
)
from stream_app.domain.model.messages import Callback
from stream_app.domain.model.seen import Seen
from stream_app.domain.model.tokens import Keys, Verified, problem_of, sign, verify
from tests.support.narrow import of_type

AT_MS = 1_790_000_000_000
GOOD: dict[str, Any] = {"lead_id": "crm-17", "callback_token": "t", "email": "ada@example.com"}


def callback(document: dict[str, Any] | str | bytes) -> Callback | BadBody:
    raw = json.dumps(document) if isinstance(document, dict) else document
    body = read_body(raw if isinstance(raw, bytes) else raw.encode("utf-8", "surrogatepass"))
    return body if isinstance(body, BadBody) else callback_of(body, "acme", "people", AT_MS)


def good(document: dict[str, Any] | str) -> Callback:
    return of_type(Callback, callback(document))


def test_a_plain_callback_is_read() -> None:
    read = good(
        GOOD | {"title": "CEO", "status": "enriched", "credits": 7, "actions": 2, "attempt": 2},
    )
    assert read.fields == {"email": "ada@example.com", "title": "CEO"}
    assert read.lead_id == "crm-17"
    assert read.workspace == "acme"
    assert read.destination == "people"
    assert read.at_ms == AT_MS
    assert read.outcome == "enriched"
    assert read.credits == 7
    assert read.actions == 2
    assert read.attempt == 2
    assert not read.repaired
    assert msgspec.json.decode(msgspec.json.encode(read), type=Callback) == read


def test_the_callback_of_a_test_lead_says_which_names_it_has_and_no_value() -> None:
    document = {"Title": "CEO", "credits": "7", "status": "", "phone": None, "CEO": 3}
    read = good(document | {"lead_id": "doctor-17"})
    assert read.fields == {"Title": "CEO", "CEO": 3}
    assert read.seen == Seen(
        body={
            "Title": "text",
            "credits": "number as text",
            "status": "empty text",
            "phone": "null",
            "(another name)": "number",
            "lead_id": "text",
        },
    )
    assert msgspec.json.decode(msgspec.json.encode(read), type=Callback) == read
    assert good(GOOD | document).seen is None


@pytest.mark.parametrize("name", ["fields", "data"])
def test_results_may_be_nested_in_an_object(name: str) -> None:
    read = good(GOOD | {name: {"title": "CEO", "phone": ""}})
    assert read.fields == {"email": "ada@example.com", "title": "CEO"}
    assert good(GOOD | {name: "a column of that name"}).fields[name] == "a column of that name"


def test_echoed_fields_are_not_results() -> None:
    echoed = {
        "callback_url": "https://x",
        "workspace": "acme",
        "destination": "people",
        "_clay_meta": {"table": "P"},
    }
    assert good(GOOD | echoed).fields == {"email": "ada@example.com"}
    assert (
        not RESERVED
        & good(
            GOOD | dict.fromkeys(RESERVED - {"lead_id", "workspace", "destination"}, "1"),
        ).fields.keys()
    )


def test_blank_values_are_dropped_and_text_stays_text() -> None:
    read = good(GOOD | {"a": "", "b": None, "c": "42", "d": 42, "e": False, "f": " ", "g": 0})
    assert read.fields == {
        "email": "ada@example.com",
        "c": "42",
        "d": 42,
        "e": False,
        "f": " ",
        "g": 0,
    }
    widest = {"most": 2**64 - 1, "least": -(2**63)}
    assert good({"lead_id": "crm-17", **widest}).fields == widest


@pytest.mark.parametrize(
    ("value", "number"),
    [
        ("7", 7),
        (" 7 ", 7),
        ("6.2", 7),
        (6.2, 7),
        (0, 0),
        ("", None),
        (None, None),
        ("many", None),
        (-1, None),
        ("nan", None),
        (True, None),
        ([7], None),
        (1_000_000, 1_000_000),
        (1_000_000.5, None),
        (10**30, None),
        ("9" * 400, None),
    ],
)
def test_numbers_may_be_text(value: object, number: int | None) -> None:
    read = good(GOOD | {"credits": value, "actions": value, "attempt": value})
    assert read.credits == number
    assert read.actions == number
    assert read.attempt == (number or 1)
    assert good(GOOD | {"credits_used": value}).credits == number


@pytest.mark.parametrize(
    ("fields", "outcome"),
    [
        ({}, "enriched"),
        ({"email": ""}, "no_data"),
        ({"status": "Not Found"}, "no_data"),
        ({"status": "success", "email": ""}, "no_data"),
        ({"status": "SUCCESS"}, "enriched"),
        ({"status": "partially-enriched"}, "partial"),
        ({"status": "failed"}, "enrich_error"),
        ({"status": "whatever"}, "enriched"),
        ({"status": 3}, "enriched"),
        ({"status": ""}, "enriched"),
        ({"error": "provider timed out"}, "partial"),
        ({"error": "provider timed out", "email": None}, "enrich_error"),
        ({"error": " "}, "enriched"),
    ],
)
def test_the_outcome_of_a_callback_follows_from_its_fields(
    fields: dict[str, Any],
    outcome: str,
) -> None:
    assert good(GOOD | fields).outcome == outcome


def test_the_reason_of_a_failure_contains_no_personal_data() -> None:
    read = good(
        GOOD
        | {
            "name": "Ada Lovelace",
            "status": "error",
            "error": "ADA LOVELACE <ada@example.com>: limit hit",
        },
    )
    assert "limit hit" in read.text
    assert "ada" not in read.text.lower()


def test_the_same_content_has_the_same_id() -> None:
    one = good(GOOD)
    again = good(json.dumps(GOOD, indent=3))
    assert one.id == again.id
    assert len(one.id) == 22
    body = of_type(Body, read_body(json.dumps(GOOD).encode()))
    forced = of_type(Callback, callback_of(body, "acme", "people", 1, "leads/0/1"))
    others = [good(GOOD | more) for more in ({"attempt": 2}, {"title": "CEO"}, {"lead_id": "x"})]
    assert len({one.id, forced.id, *(other.id for other in others)}) == 5
    assert of_type(Callback, callback_of(body, "acme", "people", AT_MS + 5)).id == one.id
    assert one.id == "_EJqbu2XdZP1VeCXuGUAhg", (
        "Clay repeats a callback while workers are upgraded: another id would count it twice"
    )


def test_broken_json_is_repaired_and_marked() -> None:
    read = good('{"lead_id": "crm-17", "note": "they said "call me back" twice", "credits": }')
    assert read.repaired
    assert read.fields == {"note": 'they said "call me back" twice'}


def test_a_byte_order_mark_and_an_id_of_digits() -> None:
    assert good("\ufeff" + json.dumps({"lead_id": 17})).lead_id == "17"


@pytest.mark.parametrize(
    ("body", "code", "says"),
    [
        ("", "empty", "JSON body"),
        (b"\xff\xfe", "not_utf8", "UTF-8"),
        ("hello", "not_json", "double quotes"),
        ('{"lead_id": "a", "x": {{X}}}', "not_json", "left unfilled"),
        ("[" * 100_000, "nested", "too deep"),
        ('{"a":' * 100_000, "nested", "too deep"),
        ("[]", "not_an_object", "one JSON object"),
        ('"text"', "not_an_object", "one JSON object"),
        ("{}", "no_lead_id", "add"),
        ('{"lead_id": ""}', "no_lead_id", "add"),
        ('{"lead_id": ["a"]}', "bad_lead_id", "unchanged"),
        ('{"lead_id": "ada@example.com"}', "bad_lead_id", "unchanged"),
        ('{"lead_id": true}', "bad_lead_id", "unchanged"),
        ('{"lead_id": "{{lead_id}}"}', "template", '"lead_id" still holds a template'),
        ('{"lead_id": "a", "callback_token": "{{t}}"}', "template", '"callback_token" still holds'),
        ('{"lead_id": "a", "title": " {{ Job Title }} "}', "template", '"title" still holds'),
        ('{"lead_id": "a", "name": "{{First}}, {{Last}}."}', "template", '"name" still holds'),
        (
            '{"lead_id": "a", "title": "CEO", "status": "{{Status}}"}',
            "template",
            '"status" still holds',
        ),
        (
            '{"lead_id": "a", "title": "CEO", "error": "{{Error}}"}',
            "template",
            '"error" still holds',
        ),
        (
            '{"lead_id": "a", "title": "CEO", "credits_used": "{{C}} credits"}',
            "template",
            '"credits_used" still',
        ),
        ('{"lead_id": "a", "tags": ["x"]}', "nested", '"tags" is a list'),
        ('{"lead_id": "a", "fields": {"company": {}}}', "nested", '"company" is an object'),
        (
            '{"lead_id": "a", "n": 18446744073709551616}',
            "number_out_of_range",
            '"n" has more than 64 bits',
        ),
        (
            '{"lead_id": "a", "n": -9223372036854775809}',
            "number_out_of_range",
            '"n" has more than 64 bits',
        ),
        ('{"lead_id": "a", "%s": []}' % ("x" * 40), "nested", f'"{"x" * 40}" is a list'),
        ('{"lead_id": "a", "%s": []}' % ("x" * 41), "nested", f'"{"x" * 39}…" is a list'),
        ('{"lead_id": "a", "n": 1e999}', "not_json", ""),
        ('{"lead_id": "a", "n": %s}' % ("9" * 6000), "not_json", ""),
        ('{"lead_id": "a", "workspace": "beta"}', "other_address", "workspace"),
        ('{"lead_id": "a", "destination": ["people"]}', "other_address", "destination"),
        ('{"lead_id": "a", "x": "\\ud800"}', "not_json", ""),
    ],
)
def test_bodies_that_are_refused_name_the_reason(body: str | bytes, code: str, says: str) -> None:
    read = of_type(BadBody, callback(body))
    assert read.code == code
    assert says in read.text


@pytest.mark.parametrize("nested", [False, True])
def test_a_callback_has_a_bounded_number_of_fields(nested: bool) -> None:
    def with_fields(count: int) -> dict[str, Any]:
        many = {f"f{number}": number for number in range(count)}
        return {"lead_id": "crm-17", **({"fields": many} if nested else many)}

    assert len(good(with_fields(MAX_FIELDS - 1)).fields) == MAX_FIELDS - 1
    for count in (MAX_FIELDS, 5_001):
        assert of_type(BadBody, callback(with_fields(count))).code == "too_many_fields"


def test_the_lead_of_a_body_is_read_without_its_other_fields() -> None:
    rest = {"fields": [[]] * 1_000, "n": 10**30, "text": "x" * 1_000}
    body = of_type(Body, read_body(json.dumps(GOOD | rest).encode()))
    assert body.lead_id == "crm-17"
    assert body.token == "t"
    assert body.broken is False
    assert not body.costly
    assert of_type(Body, read_body(json.dumps(GOOD | {"text": "x" * 20_000}).encode())).costly


def test_of_duplicate_members_the_verified_one_counts() -> None:
    twice = '{"lead_id": "crm-1", "lead_id": "crm-2", "callback_token": "a", "callback_token": "b"}'
    body = of_type(Body, read_body(twice.encode()))
    assert body.lead_id == "crm-2"
    assert body.token == "b"
    assert good(twice).lead_id == "crm-2"


def test_broken_json_is_refused_if_its_lead_cannot_be_read() -> None:
    body = of_type(
        Body,
        read_body(b'{"lead_id": "crm-17", "callback_token": "t", "note": "a "b" c"}'),
    )
    assert body.lead_id == "crm-17"
    assert body.token == "t"
    assert body.broken is True
    assert body.costly is True
    for start, code in (
        ('"lead_id": "crm-17", "lead_id": "crm-18"', "not_json"),
        ('"lead": "crm-17"', "not_json"),
        ('"lead_id": {{lead_id}}', "template"),
        ('"lead_id": "{{lead_id}}"', "template"),
        ('"lead_id": "crm-17", "callback_token": "{{t}}"', "template"),
        ('"lead_id": ', "no_lead_id"),
        ('"lead_id": null', "no_lead_id"),
        ('"lead_id": "ada@example.com"', "bad_lead_id"),
    ):
        assert (
            of_type(BadBody, read_body(f'{{{start}, "note": "a "b" c"}}'.encode())).code == code
        ), start


@pytest.mark.parametrize("lead_id", ["17", '"17"'])
def test_a_repaired_body_is_about_the_verified_lead(
    lead_id: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    broken = f'{{"lead_id": {lead_id}, "note": "a "b" c"}}'
    assert good(broken).lead_id == "17"
    monkeypatch.setattr(callback_body, "repair", lambda _: '{"lead_id": "18"}')
    assert of_type(BadBody, callback(broken)).code == "not_json"


def test_large_broken_json_is_not_repaired(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    monkeypatch.setattr(callback_body, "repair", lambda text: sizes.append(len(text)))
    for size in (1_000, 65_000, 70_000, 250_000):
        assert (
            of_type(BadBody, callback('{"lead_id": "crm-17", "note": "a "b" ' + "c" * size)).code
            == "not_json"
        )
    assert len(sizes) == 2


def test_merge_tags_in_a_text_are_no_template() -> None:
    assert (
        good(GOOD | {"mail": "Hi {{first_name}}, well done"}).fields["mail"]
        == "Hi {{first_name}}, well done"
    )
    assert good(GOOD | {"error": "no {{domain}} in the row"}).text == "no {{domain}} in the row"


scalars = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20))
documents = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.one_of(st.sampled_from(sorted(RESERVED)), st.text(max_size=5)),
            inner,
            max_size=5,
        ),
    ),
    max_leaves=20,
)


@given(documents, st.booleans())
def test_any_json_gives_a_callback_or_a_reason(document: object, whole: bool) -> None:
    if isinstance(document, dict) and not whole:
        document["lead_id"] = "crm-17"
    read = callback(json.dumps(document))
    if isinstance(read, Callback):
        assert msgspec.json.decode(msgspec.json.encode(read), type=Callback) == read
    else:
        assert read.code
        assert read.text.endswith(".")


@given(
    st.one_of(
        st.binary(max_size=80),
        st.text(max_size=80).map(lambda text: ('{"lead_id":"a",' + text).encode()),
    ),
)
def test_any_bytes_give_a_callback_or_a_reason(raw: bytes) -> None:
    assert callback(raw)


def repaired(text: str) -> object:
    good = repair(text)
    return None if good is None else json.loads(good)


@pytest.mark.parametrize(
    ("broken", "meant"),
    [
        (
            '{"a": "x", "note": "they said "call me back" twice"}',
            {"a": "x", "note": 'they said "call me back" twice'},
        ),
        ('{"note": ""quoted"", "b": 1}', {"note": '"quoted"', "b": 1}),
        (
            '{"note": "he said "hi", then left", "b": "y"}',
            {"note": 'he said "hi", then left', "b": "y"},
        ),
        (
            '{"json": "[{"a": 1, "b": "y"}]", "c": true}',
            {"json": '[{"a": 1, "b": "y"}]', "c": True},
        ),
        ('{"a": "one\ntwo\tthree\x00"}', {"a": "one\ntwo\tthree "}),
        ('{"a": "already \\"escaped\\" and "not""}', {"a": 'already "escaped" and "not"'}),
        ('{"a": 1, "b": "x",}', {"a": 1, "b": "x"}),
        ('{"credits": , "a": "x", "b": }', {"credits": None, "a": "x", "b": None}),
        (' { "a" : -1.5e3 , "b" : null } ', {"a": -1500, "b": None}),
        ('{"a": "", "b": "{{x}}"}', {"a": "", "b": "{{x}}"}),
    ],
)
def test_json_with_one_plausible_reading_is_repaired(broken: str, meant: object) -> None:
    assert repaired(broken) == meant


@pytest.mark.parametrize(
    "broken",
    [
        "",
        "{",
        "[1,]",
        '{"a": "x"',
        '{"a": "x" "b": "y"}',
        '{"a": "x"\n"b": "y", "c": 1}',
        '{"a": Ada Lovelace}',
        '{"a": {{Name}}}',
        '{"size": "6" wide"}',
        '{"json": "{"name": "Ada", "title": "CEO"}"}',
        '{"note": "he said "hi", "name": "Bob" and "x"", "b": 1}',
        '{"a": "x", "a": "the "other" one"}',
        '{"a": {"b": "x "y" z"}}',
        '{"a": "x "y" z"} {"b": 1}',
        "{'a': 'x'}",
        '{"a": "x",,}',
        '{"a\nb": "x"}',
    ],
)
def test_ambiguous_json_is_not_repaired(broken: str) -> None:
    assert repaired(broken) is None


words = st.text(st.sampled_from('ab "\\,:{}[]\n1é'), max_size=12)


@given(
    st.dictionaries(
        st.sampled_from(["lead_id", "title", "note"]),
        st.one_of(words, st.integers(), st.none()),
    ),
)
def test_valid_flat_json_keeps_its_meaning(document: dict[str, object]) -> None:
    read = repaired(json.dumps(document))
    assert read == document or not document or read is None, "never something else"


@given(
    st.dictionaries(
        st.sampled_from(["a", "b", "c"]),
        st.text(st.sampled_from("xy é.!?-("), max_size=8),
        min_size=1,
    ),
)
def test_doubled_quotes_are_quotes_of_the_cell(cells: dict[str, str]) -> None:
    meant = {name: f'said "{text}" twice' for name, text in cells.items()}
    broken = "{" + ", ".join(f'"{name}": "{text}"' for name, text in meant.items()) + "}"
    assert repaired(broken) == meant


OLD = "the-old-secret-of-32-characters!"
NEW = "the-new-secret-of-32-characters!"
KEYS = Keys([NEW, OLD])
LEAD = ("acme", "people", "crm-17")
ORIGIN = "leads/3/1234"

texts = st.text(max_size=20)
leads = st.tuples(texts, texts, texts)


def test_the_mac_covers_the_origin() -> None:
    mac = sign(KEYS, *LEAD, ORIGIN)
    other = sign(KEYS, *LEAD, "leads/3/9999")
    forged = ".".join([*mac.split(".")[:2], other.split(".")[2]])
    assert verify(KEYS, forged, *LEAD) == "mismatch"
    assert verify(KEYS, ".".join(mac.split(".")[:2]), *LEAD) == "mismatch"
    assert verify(KEYS, f"{sign(KEYS, *LEAD)}.", *LEAD) == "mismatch"


def test_a_token_of_a_listed_old_key_is_valid() -> None:
    before = sign(Keys([OLD]), *LEAD)
    assert isinstance(verify(Keys([OLD, NEW]), sign(KEYS, *LEAD), *LEAD), Verified), (
        "the new key is known first"
    )
    assert isinstance(verify(KEYS, before, *LEAD), Verified), (
        "then it signs, and the old one still verifies"
    )
    assert sign(KEYS, *LEAD) != before
    assert verify(Keys([NEW]), before, *LEAD) == "unknown_key", "then it is gone"


def test_a_token_of_no_lead_is_refused_before_the_lead_is_read() -> None:
    assert problem_of(KEYS, sign(KEYS, *LEAD)) is None
    assert problem_of(KEYS, sign(KEYS, "another", "table", "lead")) is None, (
        "that shows with the lead only"
    )
    assert problem_of(Keys([NEW]), sign(Keys([OLD]), *LEAD)) == "unknown_key"
    for token in ("", "x", "x.", f"{KEYS.first}.", "x" * 5000, f"{sign(KEYS, *LEAD)}.é"):
        assert problem_of(KEYS, token) == "malformed", token
        assert verify(KEYS, token, *LEAD) == "malformed", token


@given(leads, leads, texts, texts)
def test_a_token_is_valid_for_no_other_lead(
    mine: tuple[str, str, str],
    other: tuple[str, str, str],
    origin: str,
    another: str,
) -> None:
    token = sign(KEYS, *mine, origin)
    assert verify(KEYS, token, *mine) == Verified(origin)
    if other != mine:
        assert verify(KEYS, token, *other) == "mismatch"
    assert (sign(KEYS, *mine, another) == token) == (origin == another)


@given(st.integers(0, 100), st.text(min_size=1, max_size=3))
def test_a_changed_token_is_refused(at: int, put: str) -> None:
    token = sign(KEYS, *LEAD, ORIGIN)
    changed = token[:at] + put + token[at + len(put) :]
    assert changed == token or not isinstance(verify(KEYS, changed, *LEAD), Verified)


@given(st.text(alphabet=st.characters(), max_size=60))
@example("..")
@example("x" * 5_000)
@example("{{callback_token}}")
@example(".".join("abcd"))
@example(f"{sign(KEYS, *LEAD).partition('.')[2]}.\ud800")
def test_no_input_raises_an_error(token: str) -> None:
    assert isinstance(verify(KEYS, token, *LEAD), str)
    assert isinstance(verify(KEYS, f"{KEYS.first}.{token}", *LEAD), str)


@pytest.mark.parametrize(
    "token",
    [sign(KEYS, *LEAD), f"{KEYS.first}.x", sign(KEYS, *LEAD)[:-1] + "!"],
)
def test_every_wrong_token_is_compared_in_the_same_time(
    token: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    compared = Mock(wraps=hmac.compare_digest)
    monkeypatch.setattr(hmac, "compare_digest", compared)
    verify(KEYS, token, *LEAD)
    compared.assert_called_once_with(sign(KEYS, *LEAD).encode(), token.encode())


def test_no_text_contains_a_secret() -> None:
    assert "secret" not in repr(KEYS)
    with pytest.raises(ValueError, match="at least one"):
        Keys([])
