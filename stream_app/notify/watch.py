"""Decides which conditions fire: how long each has held, and since when it no longer holds."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Final

import msgspec

from stream_app.notify.conditions import CONDITIONS, Condition, Severity
from stream_app.notify.expressions import Found
from stream_app.notify.samples import Key, Samples

MOST_ALERTS: Final = 1_000
"""So many fire at once; others are left out until one of them is resolved."""
_CALM_S: Final = 120.0
"""A condition is resolved after so long. A worker that restarts shows no lanes meanwhile."""


class Alert(msgspec.Struct, frozen=True):
    """A condition that fires for some labels."""

    name: str
    severity: Severity
    labels: dict[str, str]
    summary: str
    since_ms: int

    @property
    def key(self) -> tuple[str, Key]:
        """Its name and its labels. Two alerts never have the same."""
        return self.name, tuple(sorted(self.labels.items()))


class Watch:
    """The alerts that fire.

    `known` are those of which an earlier process sent a message. They fire until their conditions do not hold.
    """

    def __init__(self, known: Iterable[Alert], now_ms: int, jobs: Collection[str]) -> None:
        self._start_ms = now_ms
        self._conditions = [each for each in CONDITIONS if each.job in jobs]
        self._held_ms: dict[tuple[str, Key], int] = {}  # since when it holds
        self._last_ms: dict[tuple[str, Key], int] = {}  # when it held for the last time
        self.firing = {alert.key: alert for alert in known}

    def look(self, samples: Samples, now_ms: int) -> None:
        """Evaluate all conditions. The conditions of a job of which no process answers stay as they were."""
        for condition in self._conditions:
            if condition.expression.metrics and not samples.up(condition.job):
                continue
            found = condition.expression.evaluate(samples, now_ms / 1000)
            self._fire(condition, found, now_ms)
            self._resolve(condition, found, now_ms)

    def _fire(self, condition: Condition, found: Found, now_ms: int) -> None:
        name = condition.name
        for key in [key for key in self._held_ms if key[0] == name and key[1] not in found]:
            del self._held_ms[key]
        for labels, value in found.items():
            key = name, labels
            if key not in self.firing and len(self._held_ms) >= MOST_ALERTS and key not in self._held_ms:
                continue
            since_ms = self._held_ms.setdefault(key, now_ms)
            self._last_ms[key] = now_ms
            fired = self.firing.get(key)
            if fired or now_ms - since_ms >= condition.for_s * 1000:
                text = summary_of(condition, dict(labels), value)
                since_ms = fired.since_ms if fired else since_ms
                self.firing[key] = Alert(name, condition.severity, dict(labels), text, since_ms)

    def _resolve(self, condition: Condition, found: Found, now_ms: int) -> None:
        # Growth before the start of this process is not known.
        earliest_ms = self._start_ms + condition.expression.window_s * 1000
        for key in [key for key in self._last_ms | self.firing if key[0] == condition.name and key[1] not in found]:
            if now_ms >= max(self._last_ms.get(key, self._start_ms), earliest_ms) + _CALM_S * 1000:
                self._last_ms.pop(key, None)
                self.firing.pop(key, None)


def summary_of(condition: Condition, labels: Mapping[str, str], value: float) -> str:
    """Return the condition's summary with labels and value, as Prometheus writes them."""

    def filled(match: re.Match[str]) -> str:
        name, form = match[1], match[2]
        if name != "value":
            return labels.get(name.removeprefix("labels."), "")
        if form == "humanizePercentage":
            return f"{value * 100:.4g}%"
        if form == "humanize":
            return f"{value:.4g}"
        return f"{value:g}" if value < 1e6 else f"{value:.0f}"

    return re.sub(r"\{\{ \$([\w.]+)(?: \| (\w+))? \}\}", filled, condition.summary)
