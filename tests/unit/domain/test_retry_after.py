"""Retry-After in all its forms, and clocks that step."""

import time
from math import ceil

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_app.domain.lane import rate
from stream_app.domain.lane.bounds import Wait
from stream_app.domain.lane.rate import Rate, RatePolicy
from tests.unit.domain.test_rate import AFTER_ONE, FULL, NOW_MS, POLICY, SECOND_BEFORE_MS, _taken_at_once


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        ("", None),
        ("  ", None),
        ("0", 0),
        ("0.0", 0),
        ("1", 1_000),
        (" 120 ", 120_000),
        ("1.5", 1_500),
        ("0.0001", 1),
        (".5", 500),
        ("9" * 30, 10**33),
        ("9" * 65, None),
        ("-1", None),
        ("+1", None),
        ("1e3", None),
        ("nan", None),
        ("inf", None),
        ("٣", None),
        ("soon", None),
        ("120s", None),
        ("Sun, 06 Nov 1994 08:49:37 GMT", 1_000),
        ("Sun, 06 Nov 1994 09:49:37 +0100", 1_000),
        ("Sunday, 06-Nov-94 08:49:37 GMT", 1_000),
        ("Sun Nov  6 08:49:37 1994", 1_000),
        ("Sun, 06 Nov 1994 08:49:35 GMT", 0),
        ("Sun, 06 Nov 1994 08:49:36 GMT", 0),
        ("Sun, 31 Feb 1994 08:49:37 GMT", None),
        ("Sun, 06 Nov 99999 08:49:37 GMT", None),
    ],
)
def test_retry_after_in_all_its_forms(value: str | None, expected: int | None) -> None:
    assert rate.parse_retry_after(value, SECOND_BEFORE_MS) == pytest.approx(expected)


def test_a_date_without_zone_is_utc_in_every_time_zone(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setenv("TZ", "EST5")
        time.tzset()
        found = rate.parse_retry_after("Sun Nov  6 08:49:37 1994", SECOND_BEFORE_MS)
    time.tzset()
    assert found == 1_000


@given(st.text(max_size=70), st.integers(-(10**14), 10**14))
@settings(max_examples=300)
def test_no_text_crashes_the_parser(value: str, now_ms: int) -> None:
    found = rate.parse_retry_after(value, now_ms)
    assert found is None or found >= 0


@given(st.decimals(0, 10**6, places=3))
def test_decimal_seconds_are_never_rounded_down(seconds: object) -> None:
    found = rate.parse_retry_after(str(seconds), NOW_MS)
    assert found is not None
    assert 0 <= found - float(str(seconds)) * 1000 < 1.001 or found == ceil(float(str(seconds)) * 1000)


def test_an_absurd_retry_after_is_bounded_both_ways() -> None:
    for retry_after_ms, wait_ms in ((1, 1_000), (10**33, 3_600_000)):
        state = rate.on_429(POLICY, FULL, NOW_MS, retry_after_ms, 0.5)
        assert state.blocked_until_ms - NOW_MS == wait_ms


def test_a_small_step_back_is_waited_out_and_gives_no_token() -> None:
    state = rate.empty_after_takeover(FULL, NOW_MS)
    state, wait = rate.take(POLICY, state, NOW_MS - 1_000)
    assert wait == Wait(NOW_MS + 125)
    assert rate.take(POLICY, state, NOW_MS)[1] == wait
    assert _taken_at_once(state, NOW_MS + 125) == 1


def test_a_clock_set_back_a_year_does_not_hold_it_for_a_year() -> None:
    state, back_ms = rate.on_429(POLICY, AFTER_ONE, NOW_MS, 5_000, 0.5), NOW_MS - 365 * 86_400_000
    state, wait = rate.take(POLICY, state, back_ms)
    assert wait == Wait(back_ms + 3_600_000)
    assert rate.take(POLICY, state, back_ms + 1)[1] == wait
    assert _taken_at_once(state, back_ms + 3_601_000) == 6


def test_rows_of_other_versions_are_read() -> None:
    assert msgspec.json.decode(b'{"tokens": 3, "later": 1}', type=Rate) == Rate(3.0)


def test_problems_name_the_key() -> None:
    assert RatePolicy().problems() == []
    wrong = RatePolicy(rate_per_s=0, burst=0, retry_after_max_s=0.5)
    keys = [line.split(" ")[0] for line in wrong.problems()]
    assert keys == ["rate_per_s", "burst", "retry_after_max_s"]
