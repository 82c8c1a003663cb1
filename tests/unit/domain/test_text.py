"""Counts and other text for people."""

import pytest

from stream_app.domain.model.text import count


@pytest.mark.parametrize(
    ("number", "says"),
    [
        (0, "0 credits"),
        (1, "1 credit"),
        (1.0, "1 credit"),
        (1.00000000001, "1 credit"),
        (0.5, "0.5 credits"),
        (19.5, "19.5 credits"),
        (1_234_567, "1,234,567 credits"),
        (1_234_567.5, "1,234,567.5 credits"),
        (-1, "-1 credits"),
    ],
)
def test_a_count_and_its_noun_agree(number: float, says: str) -> None:
    assert count(number, "credit") == says
