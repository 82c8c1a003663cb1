"""Text and JSON from outside: bounds on marks and brackets, and what others wrote runs nothing
where it is shown.
"""

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
from stream_app.domain.model.text import for_json, for_spreadsheet, for_terminal, wrapped

ACUTE = "\u0301"


def longest_run(text: str) -> int:
    """Count the marks in a row of the decomposed text, one by one."""
    longest = 0
    run = 0
    for character in unicodedata.normalize("NFKD", text):
        run = run + 1 if unicodedata.combining(character) else 0
        longest = max(longest, run)
    return longest


@given(st.text(st.sampled_from("aé\u1e69\u0301\u0316\u0344\u0f73\uff9e\u200b株\ufdfa")))
@example(ACUTE * untrusted.MAX_MARKS)
@example(ACUTE * (untrusted.MAX_MARKS + 1))
@example("\u0344" * 16)
@example("\uff9e" * 31)
@example("\u1e69" + ACUTE * 29)
def test_a_run_is_counted_in_the_decomposed_text(text: str) -> None:
    assert untrusted.is_stream_safe(text) == (longest_run(text) <= untrusted.MAX_MARKS)
    assert untrusted.is_stream_safe(untrusted.stream_safe(text))
    assert not untrusted.is_stream_safe(text) or untrusted.stream_safe(text) == text


def test_no_character_escapes_the_count() -> None:
    """Each character of Unicode is counted as its decomposition, whatever version of Unicode Python
    has.
    """
    characters = set(map(chr, range(sys.maxunicode + 1)))
    composed = {
        char
        for char in characters
        if unicodedata.combining(char) or unicodedata.decomposition(char)
    }
    letters = "".join(characters - composed)
    assert untrusted.is_stream_safe(letters)
    for character in composed:
        marks = longest_run(character)
        assert marks <= untrusted.MAX_MARKS
        starts = unicodedata.combining(unicodedata.normalize("NFKD", character)[0]) != 0
        assert untrusted.is_stream_safe(character * 31) == (not (starts and marks)), hex(
            ord(character),
        )


@pytest.mark.parametrize(
    "name",
    ["email", "domain", "linkedin_url", "first_name", "title", "phone"],
)
def test_a_lead_with_too_many_marks_is_rejected_and_says_why(name: str) -> None:
    for marks, rejected in (
        (untrusted.MAX_MARKS, False),
        (untrusted.MAX_MARKS + 1, True),
        (15_000, True),
    ):
        fields = {"email": "ada@example.com", "company_name": "Acme", name: "a" + ACUTE * marks}
        lead = read_lead(
            json.dumps({"workspace": "acme", "lead_id": "a", "fields": fields}).encode(),
            b"acme",
        )
        assert isinstance(lead, Unreadable) == rejected
        if isinstance(lead, Unreadable):
            assert lead.reason == "too_many_marks"
            assert lead.workspace == "acme"
            assert lead.lead_id == "a"
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
    assert (
        normalise({"title": f"a{marks}", "email": f"a{marks}@b.de", "domain": f"a{marks}.de"}) == {}
    )
    assert clean_email(f"a@a{marks}.de") == clean_linkedin(f"linkedin.com/in/a{marks}") == ""
    assert clean_linkedin("linkedin.com/in/a" + "%CC%81" * 50) == ""


def levels(document: object) -> int:
    """Count the levels of a document."""
    inside = (
        document.values()
        if isinstance(document, dict)
        else document
        if isinstance(document, list)
        else None
    )
    return 0 if inside is None else 1 + max(map(levels, inside), default=0)


documents = st.recursive(
    st.none() | st.integers() | st.text(st.sampled_from('[]{}"\\a,: ')),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(st.sampled_from('[{"\\a')), inner, max_size=3)
    ),
    max_leaves=10,
)


@given(documents, st.integers(0, 130), st.booleans())
def test_depth_is_counted_outside_strings(document: object, more: int, objects: bool) -> None:
    for _ in range(more):
        document = {"[": document} if objects else [document, "]"]
    raw = json.dumps(document).encode()
    if levels(document) > untrusted.MAX_LEVELS:
        with pytest.raises(untrusted.NestedTooDeep, match="it is nested too deep"):
            untrusted.check_depth(raw)
    else:
        untrusted.check_depth(raw)
        assert untrusted.decode(msgspec.json.Decoder(), raw) == document


@pytest.mark.parametrize(
    "text",
    ["[" * 101, '{"a":' * 101, "[" * 100_000, '["' + "[" * 500 + '",' + "[" * 100],
)
def test_brackets_that_are_never_closed_count(text: str) -> None:
    with pytest.raises(untrusted.NestedTooDeep):
        untrusted.check_depth(text.encode())


@pytest.mark.parametrize(
    "text",
    ["[" * 100, "[]" * 10_000, '"' + "[" * 500, '"' + '\\"[' * 500 + '"', '"\\\\"' + "[" * 100],
)
def test_what_is_not_too_deep(text: str) -> None:
    untrusted.check_depth(text.encode())


def test_every_reader_says_the_same_of_the_same_depth() -> None:
    for levels_within in (untrusted.MAX_LEVELS - 1, untrusted.MAX_LEVELS):
        deep = "[" * levels_within + "]" * levels_within
        lead = read_lead(
            f'{{"lead_id":"a","fields":{{"email":"a@b.de"}},"more":{deep}}}'.encode(),
            b"acme",
        )
        body = read_body(f'{{"lead_id":"a","callback_token":"t","more":{deep}}}'.encode())
        assert (
            isinstance(lead, Unreadable)
            == isinstance(body, BadBody)
            == (levels_within == untrusted.MAX_LEVELS)
        )
        if isinstance(lead, Unreadable) and isinstance(body, BadBody):
            assert lead.reason == "nested_too_deep"
            assert body.code == "nested"
            assert lead.text == "The JSON is nested too deep (more than 100 levels)"
            assert body.text.startswith(lead.text)


_OBEYED = [*map(chr, range(0x20)), *map(chr, range(0x7F, 0xA0)), "\u202e", "\u2066"]


@pytest.mark.parametrize(
    "text",
    [
        "=1+1",
        "+cmd|' /C calc'!A0",
        "-2+3+cmd|'/C calc'!A0",
        "@SUM(A1)",
        "\t=1",
        "\r=1",
        "\n=1",
        "\uff1d1+1",
        "-A1",
        "+",
    ],
)
def test_a_formula_gets_an_apostrophe(text: str) -> None:
    assert for_spreadsheet(text) == f"'{text}"


@pytest.mark.parametrize(
    "text",
    ["-12.5", "+49 (0)30 123-456/7", "-1.5e-7", "+1,000", "Ada", "", "a=b", "'=1", "3-4"],
)
def test_numbers_phone_numbers_and_text_do_not_change(text: str) -> None:
    assert for_spreadsheet(text) == text


@given(st.text())
def test_no_cell_starts_a_formula(text: str) -> None:
    safe = for_spreadsheet(text)
    assert safe in (text, f"'{text}")
    if safe[:1] in "=@\t\r":
        assert not safe
    if safe[:1] in ("+", "-"):
        assert not any(character.isalpha() for character in safe.replace("e", "").replace("E", ""))


@given(st.text(st.sampled_from([*_OBEYED, "a", '"', "\\", "é"])))
def test_json_keeps_its_value_without_control_characters(text: str) -> None:
    document = for_json(json.dumps([text], ensure_ascii=False, indent=2))
    assert json.loads(document) == [text]
    assert not set(document) & set(_OBEYED) - {"\n"}
    assert not set(for_terminal(text)) & set(_OBEYED) - {"\n", "\t"}


def test_an_address_that_is_a_formula_is_no_address() -> None:
    assert clean_email("=cmd|calc@example.com") == ""
    assert clean_email("=ada@example.com") == ""
    assert clean_email("ada+tag=1@example.com") == "ada+tag=1@example.com"


@given(st.text("ab c\n-", max_size=300), st.integers(0, 100), st.integers(0, 9))
def test_no_word_is_cut_or_lost(text: str, width: int, hang: int) -> None:
    assert wrapped(text, width, hang).split() == text.split()


def test_a_line_keeps_its_indent_and_a_command_stays_whole() -> None:
    text = "    lifts   repair the cause, then run: stream-app lanes resume acme\nnext"
    assert wrapped(text, 80) == text
    assert wrapped(text, 60) == (
        "    lifts   repair the cause, then run:\n    stream-app lanes resume acme\nnext"
    )
    assert "run: stream-app\n    lanes" in wrapped(text, 55), (
        "one longer than half a line is broken"
    )
