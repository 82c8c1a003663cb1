"""Whether this machine's clock agrees with Kafka's."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_app.domain.clock_skew import in_words, skew_ms

HOUR_MS = 3_600_000
delays = st.integers(0, 600_000)


@given(st.integers(-10 * HOUR_MS, 10 * HOUR_MS), delays, delays)
def test_the_reported_skew_never_exceeds_the_real_one(ahead_ms: int, there_ms: int, back_ms: int) -> None:
    """However long request and answer take: a frozen process, a slow broker."""
    kafka_ms = 1_790_000_000_000
    sent_ms = kafka_ms - there_ms + ahead_ms
    heard_ms = kafka_ms + back_ms + ahead_ms
    found = skew_ms(kafka_ms, sent_ms, heard_ms)
    assert found == 0 or (found > 0) == (ahead_ms > 0)
    assert abs(found) <= abs(ahead_ms)
    assert abs(found) >= abs(ahead_ms) - max(there_ms, back_ms)


@pytest.mark.parametrize(
    ("ahead_ms", "text"),
    [
        (29_999, ""),
        (-29_999, ""),
        (30_000, "this machine's clock is 30 s ahead of Kafka's: set it right (NTP)"),
        (HOUR_MS, "this machine's clock is 60 min ahead of Kafka's: set it right (NTP)"),
        (-HOUR_MS, "this machine's clock is 60 min behind Kafka's: set it right (NTP)"),
    ],
)
def test_a_skew_is_reported_from_30_seconds_on(ahead_ms: int, text: str) -> None:
    assert in_words(ahead_ms) == text
