"""Counts and other text for people."""

import pytest

from stream_app.domain.model.text import amount_text, count, rate_text


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


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (0, "0"),
        (1_240, "1,240"),
        (-1_240, "-1,240"),
        (1.0, "1"),
        (1_240.04, "1,240"),
        (1_240.06, "1,240.1"),
        (10.0, "10"),
        (0.5, "0.5"),
    ],
)
def test_an_amount_has_at_most_one_decimal(value: float, says: str) -> None:
    assert amount_text(value) == says


@pytest.mark.parametrize(
    ("per_s", "says"),
    [
        (8.0, "8"),
        (8.2, "8.2"),
        (8.23, "8.23"),
        (0.01, "0.01"),
        (0.125, "0.125"),
        (1_000.0, "1,000"),
    ],
)
def test_a_rate_has_the_digits_that_a_lane_publishes(per_s: float, says: str) -> None:
    assert rate_text(per_s) == says
