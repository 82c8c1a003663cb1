"""Bounds on text and JSON from outside: combining marks in a row, and brackets within brackets."""

import json
import sys
import unicodedata

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from stream_app.domain.callback.body import BadBody, read_body
from stream_app.domain.lead.fields import clean_email, clean_linkedin, normalise
from stream_app.domain.lead.read import Unreadable, read_lead
from stream_app.domain.model import untrusted

ACUTE = "\u0301"


def longest_run(text: str) -> int:
    """Count the marks in a row of the decomposed text, one by one."""
    longest = run = 0
    for character in unicodedata.normalize("NFKD", text):
        run = run + 1 if unicodedata.combining(character) else 0
        longest = max(longest, run)
    return longest


@given(st.text(st.sampled_from("aé\u1e69\u0301\u0316\u0344\u0f73\uff9e\u200b株\ufdfa")))
@example(ACUTE * untrusted.MOST_MARKS)
@example(ACUTE * (untrusted.MOST_MARKS + 1))
@example("\u0344" * 16)
@example("\uff9e" * 31)
@example("\u1e69" + ACUTE * 29)
def test_a_run_is_counted_in_the_decomposed_text(text: str) -> None:
    assert untrusted.is_stream_safe(text) == (longest_run(text) <= untrusted.MOST_MARKS)
    assert untrusted.is_stream_safe(untrusted.stream_safe(text))
    assert not untrusted.is_stream_safe(text) or untrusted.stream_safe(text) == text


def test_no_character_escapes_the_count() -> None:
    """Each character of Unicode is counted as its decomposition, whatever version of Unicode Python has."""
    characters = set(map(chr, range(sys.maxunicode + 1)))
    composed = {char for char in characters if unicodedata.combining(char) or unicodedata.decomposition(char)}
    letters = "".join(characters - composed)
    assert untrusted.is_stream_safe(letters)
    for character in composed:
        marks = longest_run(character)
        assert marks <= untrusted.MOST_MARKS
        starts = unicodedata.combining(unicodedata.normalize("NFKD", character)[0]) != 0
        assert untrusted.is_stream_safe(character * 31) == (not (starts and marks)), hex(ord(character))


@pytest.mark.parametrize("name", ["email", "domain", "linkedin_url", "first_name", "title", "phone"])
def test_a_lead_with_too_many_marks_is_rejected_and_says_why(name: str) -> None:
    for marks, rejected in ((untrusted.MOST_MARKS, False), (untrusted.MOST_MARKS + 1, True), (15_000, True)):
        fields = {"email": "ada@example.com", "company_name": "Acme", name: "a" + ACUTE * marks}
        lead = read_lead(json.dumps({"workspace": "acme", "lead_id": "a", "fields": fields}).encode(), b"acme")
        assert isinstance(lead, Unreadable) == rejected
        if isinstance(lead, Unreadable):
            assert (lead.reason, lead.workspace, lead.lead_id) == ("too_many_marks", "acme", "a")
            assert "more than 30 combining marks" in lead.text


def test_invisible_characters_do_not_hide_a_run() -> None:
    text = (ACUTE * 20 + "\u200b") * 3
    lead = read_lead(json.dumps({"lead_id": "a", "fields": {"title": text}}).encode(), b"acme")
    assert isinstance(lead, Unreadable)
    assert lead.reason == "too_many_marks"


def test_marks_that_no_field_of_ours_has_are_passed_on() -> None:
    value = json.dumps({"lead_id": "a", "fields": {"poem": "a" + ACUTE * 40}}).encode()
    assert not isinstance(read_lead(value, b"acme"), Unreadable)


def test_without_a_check_before_it_cleaning_drops_such_a_value() -> None:
    marks = ACUTE * 50
    assert normalise({"title": f"a{marks}", "email": f"a{marks}@b.de", "domain": f"a{marks}.de"}) == {}
    assert clean_email(f"a@a{marks}.de") == clean_linkedin(f"linkedin.com/in/a{marks}") == ""
    assert clean_linkedin("linkedin.com/in/a" + "%CC%81" * 50) == ""


def levels(document: object) -> int:
    """Count the levels of a document."""
    inside = document.values() if isinstance(document, dict) else document if isinstance(document, list) else None
    return 0 if inside is None else 1 + max(map(levels, inside), default=0)


documents = st.recursive(
    st.none() | st.integers() | st.text(st.sampled_from('[]{}"\\a,: ')),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(st.sampled_from('[{"\\a')), inner, max_size=3),
    max_leaves=10,
)


@given(documents, st.integers(0, 130), st.booleans())
def test_depth_is_counted_outside_strings(document: object, more: int, objects: bool) -> None:
    for _ in range(more):
        document = {"[": document} if objects else [document, "]"]
    raw = json.dumps(document).encode()
    if levels(document) > untrusted.MOST_LEVELS:
        with pytest.raises(untrusted.NestedTooDeep, match="it is nested too deep"):
            untrusted.check_depth(raw)
    else:
        untrusted.check_depth(raw)
        assert untrusted.decode(msgspec.json.Decoder(), raw) == document


@pytest.mark.parametrize("text", ["[" * 101, '{"a":' * 101, "[" * 100_000, '["' + "[" * 500 + '",' + "[" * 100])
def test_brackets_that_are_never_closed_count(text: str) -> None:
    with pytest.raises(untrusted.NestedTooDeep):
        untrusted.check_depth(text.encode())


@pytest.mark.parametrize(
    "text", ["[" * 100, "[]" * 10_000, '"' + "[" * 500, '"' + '\\"[' * 500 + '"', '"\\\\"' + "[" * 100]
)
def test_what_is_not_too_deep(text: str) -> None:
    untrusted.check_depth(text.encode())


def test_every_reader_says_the_same_of_the_same_depth() -> None:
    for levels_within in (untrusted.MOST_LEVELS - 1, untrusted.MOST_LEVELS):
        deep = "[" * levels_within + "]" * levels_within
        lead = read_lead(f'{{"lead_id":"a","fields":{{"email":"a@b.de"}},"more":{deep}}}'.encode(), b"acme")
        body = read_body(f'{{"lead_id":"a","callback_token":"t","more":{deep}}}'.encode())
        assert isinstance(lead, Unreadable) == isinstance(body, BadBody) == (levels_within == untrusted.MOST_LEVELS)
        if isinstance(lead, Unreadable) and isinstance(body, BadBody):
            assert (lead.reason, body.code) == ("nested_too_deep", "nested")
            assert lead.text == "The JSON is nested too deep (more than 100 levels)"
            assert body.text.startswith(lead.text)
