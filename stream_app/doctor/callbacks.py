"""Whether callbacks of a table come in: asked from outside, as Clay would, with tokens that no lead has."""

from __future__ import annotations

from typing import Final

import httpx

from stream_app.clay.egress import Egress
from stream_app.config import Settings
from stream_app.doctor.probes import ProbeFailed
from stream_app.domain.callback.token import sign
from stream_app.gateway.answers import NO_SECRET, NO_TOKEN, REFUSED_TOKEN

_NOBODY: Final = "doctor"


async def gateway_answers(settings: Settings, egress: Egress, within_s: float) -> str:
    """The gateway is behind the public URL.

    Raises:
        ProbeFailed: Something else is there, or nothing.
    """
    base = (settings.gateway.public_url or "").rstrip("/")
    async with _client(egress, within_s) as client:
        health = await _ask(client, "GET", f"{base}/healthz")
    if health.status_code != 200 or health.text.strip() != "ok":
        raise ProbeFailed(
            f"{base}/healthz answers {health.status_code}, not as our gateway does: is `stream-app gateway` behind "
            "it, and does the proxy before it pass on /healthz and /callbacks/ ?"
        )
    return f"{base} answers"


async def callbacks_come_in(settings: Settings, alias: str, egress: Egress, within_s: float) -> str:
    """The gateway knows this table, and has the same first key. Nothing is written.

    A callback is sent about one lead with the token of another: only a gateway with our key can tell that it is
    another's. Raises ProbeFailed.
    """
    url = settings.callback_url(alias)
    async with _client(egress, within_s) as client:
        said = await _ask(client, "POST", url, json={"lead_id": _NOBODY, "callback_token": _token(settings, alias)})
    if said.status_code == 404:
        raise ProbeFailed(
            f"{url} answers 404: the proxy does not pass on /callbacks/, or the gateway runs with another configuration"
        )
    text = said.text.strip()
    if text in {answer.text for answer in (REFUSED_TOKEN["unknown_key"], NO_TOKEN)}:
        raise ProbeFailed(f"{url} does not know our key: give worker and gateway the same gateway.token_keys_env")
    if text != (REFUSED_TOKEN["mismatch"] if settings.gateway.token_keys_env else NO_SECRET).text:
        raise ProbeFailed(f"{url} answers {said.status_code}, not as our gateway does: what is before it?")
    return f"{url} answers, and refuses what is forged"


def _client(egress: Egress, within_s: float) -> httpx.AsyncClient:
    return httpx.AsyncClient(timeout=within_s, verify=egress.tls, proxy=egress.proxy_url, trust_env=False)


def _token(settings: Settings, alias: str) -> str:
    if not settings.gateway.token_keys_env:
        return ""
    return sign(settings.callback_keys, settings.destinations[alias].workspace, alias, f"not-{_NOBODY}")


async def _ask(client: httpx.AsyncClient, method: str, url: str, *, json: object = None) -> httpx.Response:
    try:
        return await client.request(method, url, json=json)
    except httpx.HTTPError as error:
        raise ProbeFailed(
            f"{url} cannot be reached from here ({type(error).__name__}): is gateway.public_url right, does the "
            "gateway run, and are [egress]'s proxy and authority right?"
        ) from error
