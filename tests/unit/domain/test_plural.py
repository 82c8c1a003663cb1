"""Counts in sentences."""

import pytest

from stream_app.domain.text import count


@pytest.mark.parametrize(
    ("number", "words", "text"),
    [
        (0, ("lead",), "0 leads"),
        (1, ("lead",), "1 lead"),
        (2, ("lead",), "2 leads"),
        (1, ("person is", "people are"), "1 person is"),
        (1_234, ("person is", "people are"), "1,234 people are"),
    ],
)
def test_a_noun_agrees_with_its_number(number: int, words: tuple[str, ...], text: str) -> None:
    assert count(number, *words) == text
