"""Messages for people: their bodies, and the webhook of `[notify]` that takes them.

Its URL is a secret, so texts name only its host.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any, Final, Literal
from urllib.parse import urlsplit

import httpx
import msgspec

from stream_app.clay import Egress
from stream_app.domain.model.errors import StreamAppError

_WITHIN_S: Final = 10.0
_IN_ALL_S: Final = 30.0
MessageFormat = Literal["slack", "json"]
Key = tuple[str, ...]
MAX_LINES: Final = 20
"""A message names at most this many alerts, and counts the others."""
_MARKS: Final = {"critical": ":red_circle:", "warning": ":large_yellow_circle:"}
NO_URL: Final = "notify.url_env is not set: name the environment variable with the webhook's URL"


class NotDelivered(StreamAppError):
    """The receiver did not take a message."""

    def __init__(self, text: str, wait_ms: int = 0) -> None:
        super().__init__(text)
        self.wait_ms = wait_ms  # how long the receiver asks to wait; 0 if it does not say


class MessageReceiver:
    """Posts to one URL. An async context manager."""

    def __init__(self, url: str, egress: Egress) -> None:
        self._url = url
        self.host = urlsplit(url).hostname or ""
        self._http = httpx.AsyncClient(
            timeout=_WITHIN_S,
            verify=egress.tls_context,
            proxy=egress.proxy_url,
            trust_env=False,
        )

    async def __aenter__(self) -> MessageReceiver:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    async def post(self, body: bytes) -> None:
        """Send a message. Raises NotDelivered if there is no answer, or one that is not 2xx."""
        try:
            async with (
                asyncio.timeout(_IN_ALL_S),
                self._http.stream(
                    "POST",
                    self._url,
                    content=body,
                    headers={"content-type": "application/json"},
                ) as answer,
            ):
                status = answer.status_code
                wait = answer.headers.get("retry-after", "")
        except (httpx.HTTPError, httpx.InvalidURL, TimeoutError) as error:
            raise NotDelivered(
                f"{self.host} does not take messages ({type(error).__name__}): "
                "check notify.url_env, and [egress]'s proxy and authority",
            ) from error
        if not 200 <= status < 300:
            remedy = (
                "" if status == 429 or status >= 500 else ": check notify.url_env and notify.format"
            )
            raise NotDelivered(
                f"{self.host} answers HTTP {status} to messages{remedy}",
                int(wait) * 1000 if wait.isascii() and wait.isdecimal() else 0,
            )


class Alert(msgspec.Struct, frozen=True):
    """Something that a person must act on.

    Attributes:
        name: A stable code.
        since_ms: Since when it holds, in epoch ms.
    """

    name: str
    severity: Literal["critical", "warning"]
    labels: dict[str, str]
    summary: str
    since_ms: int

    @property
    def key(self) -> Key:
        """Its name, its workspace ('' for all), and the column that it is about, if there is one.

        Two alerts never have the same.
        """
        about = [self.labels[name] for name in ("destination", "column") if name in self.labels]
        return (self.name, self.labels.get("workspace", ""), *about)


def body_of(
    begun: Iterable[Alert],
    ended: Iterable[Alert],
    form: MessageFormat,
    now_ms: int,
) -> bytes:
    """Return the body of a message: for Slack and what takes its JSON, or plain JSON."""
    lines = [(alert, "firing") for alert in sorted(begun, key=lambda alert: alert.severity)]
    lines += [(alert, "resolved") for alert in ended]
    shown = lines[:MAX_LINES]
    left_out = len(lines[MAX_LINES:])
    if form == "slack":
        texts = [_line(alert, status) for alert, status in shown]
        if left_out:
            texts.append(f"and {left_out} more: `stream-app explain`")
        return msgspec.json.encode({"text": "\n".join(texts)})
    alerts: list[dict[str, Any]] = [
        {"status": status, **msgspec.structs.asdict(alert)} for alert, status in shown
    ]
    return msgspec.json.encode({"at_ms": now_ms, "alerts": alerts, "left_out": left_out})


def trial_body(form: MessageFormat, now_ms: int) -> bytes:
    """Return a message that says only that messages arrive."""
    text = "stream-app doctor: a test message. Messages arrive here."
    if form == "slack":
        return msgspec.json.encode({"text": text})
    return msgspec.json.encode({"at_ms": now_ms, "alerts": [], "left_out": 0, "text": text})


def _line(alert: Alert, status: str) -> str:
    text = f"*{alert.name}* ({alert.severity}): {alert.summary}"
    # Slack wants these three escaped (api.slack.com: text formatting).
    for character, escaped in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;")):
        text = text.replace(character, escaped)
    return (
        f"{_MARKS[alert.severity]} {text}"
        if status == "firing"
        else f":white_check_mark: resolved {text}"
    )
