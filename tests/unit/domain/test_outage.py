"""What Clay answers while it fails."""

from __future__ import annotations

from stream_app.domain.lane.breaker import Outage, outage_text, record_failure

NOW_MS = 1_790_000_000_000


def test_failures_close_together_are_one_outage() -> None:
    first = record_failure(None, "http_503", "closed", NOW_MS)
    second = record_failure(first, "read_timeout", "closed", NOW_MS + 60_000)
    assert second == Outage("read_timeout", NOW_MS, NOW_MS + 60_000, 2)
    assert record_failure(second, "http_503", "closed", NOW_MS + 120_001) == Outage(
        "http_503", NOW_MS + 120_001, NOW_MS + 120_001, 1
    )


def test_an_outage_lasts_while_the_breaker_is_not_closed() -> None:
    first = record_failure(None, "http_503", "closed", NOW_MS)
    later_ms = NOW_MS + 86_400_000
    assert record_failure(first, "http_500", "half_open", later_ms) == Outage("http_500", NOW_MS, later_ms, 2)


def test_it_is_said_in_words() -> None:
    assert outage_text(Outage("http_503", 0, 0, 1)) == "Clay answers 503; 1 call has failed"
    assert outage_text(Outage("read_timeout", 0, 0, 12)) == "Clay does not answer (read_timeout); 12 calls have failed"
