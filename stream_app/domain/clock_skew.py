"""Compares this machine's clock with Kafka's, using the append times of the records that we sent."""

from __future__ import annotations

from typing import Final

OFF_S: Final = 30.0
"""The smallest skew, in seconds, that an operator has to correct.

Times in events, delays and budgets are wrong by the skew. Kafka refuses timestamps more than an hour ahead.
"""


def skew_ms(appended_ms: int, sent_ms: int, answered_ms: int) -> int:
    """Return how far our clock is at least ahead of Kafka's, in ms.

    Args:
        appended_ms: Kafka's time of the append, epoch ms.
        sent_ms: Our time before the request, epoch ms.
        answered_ms: Our time after its response, epoch ms.

    Returns:
        Below 0: our clock is behind. 0: the clocks may agree.
    """
    if appended_ms < sent_ms:
        return sent_ms - appended_ms
    return min(0, answered_ms - appended_ms)


def in_words(skew_ms: int) -> str:
    """Return what an operator should do about a skew in ms; empty if the clocks agree well enough."""
    off_s = abs(skew_ms) / 1000
    if off_s < OFF_S:
        return ""
    how_far = f"{off_s / 60:.0f} min" if off_s >= 120 else f"{off_s:.0f} s"
    side = "ahead of" if skew_ms > 0 else "behind"
    return f"this machine's clock is {how_far} {side} Kafka's: set it right (NTP)"
