"""What gateways answer at `gateway.public_url`, which spends nothing and writes nothing.

No one outside can reach a gateway but through the proxy in front of all of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import httpx

from stream_app.clay.egress import Egress
from stream_app.config import Settings
from stream_app.domain.callback.token import sign
from stream_app.domain.errors import StreamAppError
from stream_app.gateway.callback_answers import NO_SECRET, NO_TOKEN, REFUSED_TOKEN, UNPROXIED, UNPROXIED_HEADER

_NO_LEAD: Final = "doctor"


class ProbeFailed(StreamAppError):
    """A probe failed. The text is one line with the remedy."""


async def gateway_answers(settings: Settings, egress: Egress, within_s: float) -> bool:
    """Check that the gateway is behind the public URL. Returns whether a proxy is in front of it. Raises ProbeFailed.

    A proxy takes the header Connection for itself, and most name themselves; the gateway does neither.
    """
    base = (settings.gateway.public_url or "").rstrip("/")
    async with _client(egress, within_s) as client:
        health = await _ask(client, "GET", f"{base}/healthz", headers={"connection": f"close, {UNPROXIED}"})
    if health.status_code != 200 or health.text.strip() != "ok":
        raise ProbeFailed(
            f"{base}/healthz answers {health.status_code}, unlike our gateway: is `stream-app gateway` behind "
            "it, and does the proxy forward /healthz and /callbacks/ ?"
        )
    return UNPROXIED_HEADER not in health.headers or "server" in health.headers or "via" in health.headers


async def callbacks_come_in(settings: Settings, alias: str, egress: Egress, within_s: float) -> str:
    """Check that the gateway knows this destination and has the same first key. Nothing is written.

    Sends a callback for one lead with the token of another. Only a gateway with our key can detect the mismatch.

    Raises:
        ProbeFailed: The gateway answers otherwise, or not at all.
    """
    url = settings.callback_url(alias)
    async with _client(egress, within_s) as client:
        answer = await _ask(client, "POST", url, json={"lead_id": _NO_LEAD, "callback_token": _token(settings, alias)})
    if answer.status_code == 404:
        raise ProbeFailed(
            f"{url} answers 404: the proxy does not forward /callbacks/, or the gateway has another configuration"
        )
    text = answer.text.strip()
    if text in {each.text for each in (REFUSED_TOKEN["unknown_key"], NO_TOKEN)}:
        raise ProbeFailed(f"{url} does not know our key: give worker and gateway the same gateway.token_keys_env")
    if text != (REFUSED_TOKEN["mismatch"] if settings.gateway.token_keys_env else NO_SECRET).text:
        raise ProbeFailed(f"{url} answers {answer.status_code}, unlike our gateway: check the proxy before it")
    return f"{url} answers, and refuses a forged callback"


def _client(egress: Egress, within_s: float) -> httpx.AsyncClient:
    return httpx.AsyncClient(timeout=within_s, verify=egress.tls_context, proxy=egress.proxy_url, trust_env=False)


def _token(settings: Settings, alias: str) -> str:
    if not settings.gateway.token_keys_env:
        return ""
    return sign(settings.callback_keys, settings.destinations[alias].workspace, alias, f"not-{_NO_LEAD}")


async def _ask(
    client: httpx.AsyncClient, method: str, url: str, *, json: object = None, headers: Mapping[str, str] | None = None
) -> httpx.Response:
    try:
        return await client.request(method, url, json=json, headers=headers)
    except httpx.HTTPError as error:
        raise ProbeFailed(
            f"{url} cannot be reached from here ({type(error).__name__}): is gateway.public_url right, does the "
            "gateway run, and are [egress]'s proxy and authority right?"
        ) from error
