"""Text for a terminal, a spreadsheet and JSON: as people read it, and what others wrote runs nothing."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_app.domain.lead.fields import clean_email
from stream_app.domain.model.text import count, for_json, for_spreadsheet, for_terminal, wrapped

_OBEYED = [*map(chr, range(0x20)), *map(chr, range(0x7F, 0xA0)), "\u202e", "\u2066"]


@pytest.mark.parametrize(
    "text",
    ["=1+1", "+cmd|' /C calc'!A0", "-2+3+cmd|'/C calc'!A0", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "\uff1d1+1", "-A1",
     "+"],
)  # fmt: skip
def test_a_formula_gets_an_apostrophe(text: str) -> None:
    assert for_spreadsheet(text) == f"'{text}"


@pytest.mark.parametrize("text", ["-12.5", "+49 (0)30 123-456/7", "-1.5e-7", "+1,000", "Ada", "", "a=b", "'=1", "3-4"])
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


@pytest.mark.parametrize(
    ("number", "words", "text"),
    [(0, ("lead",), "0 leads"), (1, ("lead",), "1 lead"), (2, ("lead",), "2 leads"),
     (1, ("person is", "people are"), "1 person is"),
     (1_234, ("person is", "people are"), "1,234 people are")],
)  # fmt: skip
def test_a_noun_agrees_with_its_number(number: int, words: tuple[str, ...], text: str) -> None:
    assert count(number, *words) == text


@given(st.text("ab c\n-", max_size=300), st.integers(0, 100), st.integers(0, 9))
def test_no_word_is_cut_or_lost(text: str, width: int, hang: int) -> None:
    assert wrapped(text, width, hang).split() == text.split()


def test_a_line_keeps_its_indent_and_a_command_stays_whole() -> None:
    text = "    lifts   repair the cause, then run: stream-app lanes resume acme\nnext"
    assert wrapped(text, 80) == text
    assert wrapped(text, 60) == ("    lifts   repair the cause, then run:\n    stream-app lanes resume acme\nnext")
    assert "run: stream-app\n    lanes" in wrapped(text, 55), "one longer than half a line is broken"
