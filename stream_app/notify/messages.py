"""The bodies of messages: for Slack and what understands its webhooks, or as plain JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Literal

import msgspec

from stream_app.notify.watch import Alert

Format = Literal["slack", "json"]
MOST_LINES: Final = 20
"""A message names so many alerts and counts the rest."""
_MARKS: Final = {"critical": ":red_circle:", "warning": ":large_yellow_circle:"}
_RESOLVED: Final = ":white_check_mark:"


class Change(msgspec.Struct, frozen=True):
    """What a message reports: the alerts that fire now, and those that are resolved."""

    fired: Sequence[Alert]
    resolved: Sequence[Alert]

    def __bool__(self) -> bool:
        return bool(self.fired or self.resolved)


def body_of(change: Change, form: Format, now_ms: int) -> bytes:
    """Return the body of the message."""
    lines = [(alert, "firing") for alert in sorted(change.fired, key=lambda alert: alert.severity)]
    lines += [(alert, "resolved") for alert in change.resolved]
    shown, left_out = lines[:MOST_LINES], len(lines[MOST_LINES:])
    if form == "slack":
        texts = [_line(alert, status) for alert, status in shown]
        if left_out:
            texts.append(f"and {left_out} more: `stream-app lanes`")
        return msgspec.json.encode({"text": "\n".join(texts)})
    alerts: list[dict[str, Any]] = [{"status": status, **msgspec.structs.asdict(alert)} for alert, status in shown]
    return msgspec.json.encode({"at_ms": now_ms, "alerts": alerts, "left_out": left_out})


def trial_body(form: Format, now_ms: int) -> bytes:
    """Return a message that says only that messages arrive."""
    text = "stream-app doctor: a test message. Alerts arrive here."
    if form == "slack":
        return msgspec.json.encode({"text": text})
    return msgspec.json.encode({"at_ms": now_ms, "alerts": [], "left_out": 0, "text": text})


def _line(alert: Alert, status: str) -> str:
    text = f"*{alert.name}* ({alert.severity}): {alert.summary}"
    for character, escaped in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;")):  # api.slack.com: text formatting
        text = text.replace(character, escaped)
    return f"{_MARKS[alert.severity]} {text}" if status == "firing" else f"{_RESOLVED} resolved {text}"
