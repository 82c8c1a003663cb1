"""How numbers, times and durations look on the pages.

Templates print a number in one of three ways. A `count` links to what it counts. A `total` is the number of what the
page or section lists itself. An `amount` cannot be listed: credits, rates, times, sizes. A test holds them to it.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

from markupsafe import Markup, escape

from stream_app.domain.messages import Status

_UNITS: Final = (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1))

WORDS: Final[dict[str, str]] = {
    "rejected_invalid": "rejected: no lead",
    "send_uncertain": "uncertain: may be at Clay",
    "no_data": "answered: no data",
    "enrich_error": "answered: Clay failed",
    "partial": "partly enriched",
    "served_from_cache": "answered from the cache",
    "served_locally": "answered without Clay",
    "held_budget": "held: budget",
    "held_paused": "held: paused",
    "held_outage": "held: outage",
    "cost_corrected": "cost corrected",
    "replaced": "replaced: published again",
}
_BAD: Final[tuple[Status, ...]] = (
    *("refused", "send_uncertain", "callback_overdue", "enrich_error", "credits_exhausted_suspected"),
    *("dead_lettered", "parked", "rejected_invalid"),
)
_WAITS: Final[tuple[Status, ...]] = ("held_budget", "held_paused", "held_outage", "deferred")
_GOOD: Final[tuple[Status, ...]] = ("enriched", "partial", "no_data", "served_from_cache", "served_locally")


def amount(value: float | None) -> str:
    """Format a number: 1,240; a fraction with at most one decimal; "-" for None."""
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int) else f"{value:,.1f}".removesuffix(".0")


def count(value: int, href: str) -> Markup:
    """Return a count with the link to what it counts."""
    return Markup(f'<a class="count" href="{escape(href)}">{amount(value)}</a>')


def total(value: int) -> Markup:
    """Return the number of what the page or section lists itself."""
    return Markup(f'<span class="total">{amount(value)}</span>')


def duration(ms: float) -> str:
    """Format a duration in its largest unit: 38 min, 2 h, 240 ms."""
    if abs(ms) < 1_000:
        return f"{ms:.0f} ms"
    if abs(ms) < 10_000:
        return f"{ms / 1000:.1f} s"
    seconds = int(abs(ms) / 1000)
    for unit, length in _UNITS:
        if seconds >= 2 * length or length == 1 or (unit == "min" and seconds >= 60):
            return f"{'-' if ms < 0 else ''}{seconds // length} {unit}"
    raise AssertionError("the last unit always fits")


def iso(at_ms: int) -> str:
    """Return the time as `<time datetime>` wants it."""
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def day_of(at_s: int) -> str:
    """Return the day in UTC, such as 2026-09-21."""
    return datetime.fromtimestamp(at_s, UTC).strftime("%Y-%m-%d")


def clock(at_ms: int, now_ms: int) -> str:
    """Format a time in UTC, with the date unless it is today."""
    at, now = datetime.fromtimestamp(at_ms / 1000, UTC), datetime.fromtimestamp(now_ms / 1000, UTC)
    return at.strftime("%H:%M" if at.date() == now.date() else "%Y-%m-%d %H:%M")


def words(name: str) -> str:
    """Return a status or code in words."""
    return WORDS.get(name) or name.replace("_", " ")


def tone(status: str) -> str:
    """Return the tone of a status, a CSS class: ok, bad, warn or idle."""
    for tone_name, statuses in (("bad", _BAD), ("warn", _WAITS), ("ok", _GOOD)):
        if status in statuses:
            return tone_name
    return "idle"
