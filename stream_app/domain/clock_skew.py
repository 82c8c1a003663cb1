"""Whether this machine's clock agrees with Kafka's, from the times at which brokers appended what we sent."""

from __future__ import annotations

from typing import Final

OFF_S: Final = 30.0
"""So much is an error to an operator: times in events, delays and budgets are wrong by it. Kafka refuses more than an
hour ahead."""


def skew_ms(appended_ms: int, sent_ms: int, heard_ms: int) -> int:
    """How far our clock is ahead of Kafka's (below 0: behind), at least; 0 where they may agree.

    Args:
        appended_ms: Kafka's time of the append, epoch ms.
        sent_ms: Our time before the request.
        heard_ms: Our time after its answer.
    """
    if appended_ms < sent_ms:
        return sent_ms - appended_ms
    return min(0, heard_ms - appended_ms)


def in_words(skew_ms: int) -> str:
    """What an operator should do about it; empty where the clocks agree well enough."""
    off_s = abs(skew_ms) / 1000
    if off_s < OFF_S:
        return ""
    how_far = f"{off_s / 60:.0f} min" if off_s >= 120 else f"{off_s:.0f} s"
    side = "ahead of" if skew_ms > 0 else "behind"
    return f"this machine's clock is {how_far} {side} Kafka's: set it right (NTP)"
