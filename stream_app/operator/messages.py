"""Posts messages for people to the webhook of `[notify]`. Its URL is a secret, so texts name only its host."""

from __future__ import annotations

from typing import Final, Literal
from urllib.parse import urlsplit

import httpx
import msgspec

from stream_app.clay.egress import Egress
from stream_app.domain.errors import StreamAppError

_WITHIN_S: Final = 10.0
Format = Literal["slack", "json"]
NO_URL: Final = "notify.url_env is not set: name the environment variable with the webhook's URL"


class NotDelivered(StreamAppError):
    """The receiver did not take a message.

    Attributes:
        wait_ms: How long it asks to wait.
    """

    def __init__(self, text: str, wait_ms: int = 0) -> None:
        super().__init__(text)
        self.wait_ms = wait_ms


class Receiver:
    """Posts to one URL. An async context manager."""

    def __init__(self, url: str, egress: Egress) -> None:
        self._url, self._egress = url, egress
        self.host = urlsplit(url).hostname or ""

    async def __aenter__(self) -> Receiver:
        egress = self._egress
        self._http = httpx.AsyncClient(
            timeout=_WITHIN_S,
            verify=egress.tls_context,
            proxy=egress.proxy_url,
            trust_env=False,
            follow_redirects=False,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    async def post(self, body: bytes) -> None:
        """Send a message. Raises NotDelivered if there is no answer, or one that is not 2xx."""
        try:
            async with self._http.stream(
                "POST", self._url, content=body, headers={"content-type": "application/json"}
            ) as answer:
                status, wait = answer.status_code, answer.headers.get("retry-after", "")
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise NotDelivered(
                f"{self.host} does not take messages ({type(error).__name__}): check notify.url_env, and [egress]'s "
                "proxy and authority"
            ) from error
        if not 200 <= status < 300:
            remedy = "" if status == 429 or status >= 500 else ": check notify.url_env and notify.format"
            raise NotDelivered(
                f"{self.host} answers HTTP {status} to messages{remedy}",
                int(wait) * 1000 if wait.isascii() and wait.isdecimal() else 0,
            )


def trial_body(form: Format, now_ms: int) -> bytes:
    """Return a message that says only that messages arrive."""
    text = "stream-app doctor: a test message. Messages arrive here."
    if form == "slack":
        return msgspec.json.encode({"text": text})
    return msgspec.json.encode({"at_ms": now_ms, "alerts": [], "left_out": 0, "text": text})
