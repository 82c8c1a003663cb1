"""The page that compares the pattern with this system has the figures of the program."""

from pathlib import Path

from stream_app.domain.limits import window
from stream_app.domain.limits.breaker import BreakerPolicy
from stream_app.domain.plan import DeliveryPolicy, ReplayPolicy, Shares

PAGE = Path(__file__).parents[2] / "docs" / "from-the-pattern.md"


def test_the_page_has_the_figures_of_the_program() -> None:
    breaker = BreakerPolicy()
    delivery = DeliveryPolicy()
    span = window.FIVE_MINUTES
    assert Shares().retry == 1 / 5
    figures = (
        f"After {breaker.consecutive_failures} failures in a row",
        f"{breaker.open_s:g} to {breaker.open_cap_s:g} seconds",
        f"Up to {delivery.max_attempts} attempts",
        f"up to {ReplayPolicy().max_replays} automatic replays",
        "a fifth of its turns (`shares.retry`)",
        f"A sliding window of {span.buckets * span.bucket_s / 60:g} minutes",
        f"healthy above {window.HEALTHY_ABOVE:g}, degraded above {window.DEGRADED_ABOVE:g}",
        f"`insufficient_data` below {window.MIN_CALLS} calls",
        f"{delivery.request_timeout_s:g} seconds (`delivery.request_timeout_s`)",
        f"An answer after {breaker.slow_call_s:g} seconds counts as slow",
    )
    text = PAGE.read_text(encoding="utf-8")
    assert [figure for figure in figures if figure not in text] == []


def test_the_page_goes_through_the_five_steps_of_the_pattern() -> None:
    text = PAGE.read_text(encoding="utf-8")
    steps = [line for line in text.splitlines() if line.startswith("### ")]
    assert steps == [
        "### 1. The circuit breaker and the budget of credits",
        "### 2. The dead letter queue",
        "### 3. The health monitor",
        "### 4. Degradation while Clay is away",
        "### 5. All of it together",
        "### Limitations",
    ]
