"""What gateways answer at `gateway.public_url`, which spends nothing and writes nothing.

No one outside can reach a gateway but through the proxy in front of all of them.
"""

import asyncio
import secrets
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final, Literal

import httpx
import msgspec

from stream_app.clay import Egress
from stream_app.config import Settings
from stream_app.domain.callback.body import BadBody, Body, callback_of, read_body
from stream_app.domain.callback.run_webhook import RUN_SIGNATURE, sign_run
from stream_app.domain.model.errors import StreamAppError
from stream_app.domain.model.tokens import sign
from stream_app.gateway import callback_answers as gateway

_NO_LEAD: Final = "doctor"
_ASKED: Final = 8
"""Connections for each secret. A proxy usually takes its gateways in turn."""
_WITHIN_S: Final = 5.0
# A gateway answers with a line; a proxy that cannot reach it answers with a page.
_MAX_ANSWER_BYTES: Final = 65_536
_AGAIN_S: Final = 0.5


class CheckFailed(StreamAppError):
    """A check failed. The text is one line with the remedy."""


async def gateway_answers(settings: Settings, egress: Egress, within_s: float) -> bool:
    """Check that the gateway is behind the public URL.

    Returns whether a proxy is in front of it. Raises CheckFailed.

    A proxy takes the header Connection for itself, and most name themselves; the gateway does
    neither.
    """
    base = (settings.gateway.public_url or "").rstrip("/")
    headers = {"connection": f"close, {gateway.UNPROXIED}"}
    async with _client(egress) as client:
        health = await _ask(client, within_s, "GET", f"{base}/healthz", headers=headers)
    if health.status_code != 200 or health.text != "ok":
        raise CheckFailed(
            f"{base}/healthz answers {health.status_code}, unlike our gateway: "
            "is `stream-app gateway` behind it, "
            "and does the proxy forward /healthz and /callbacks/ ?",
        )
    return (
        gateway.UNPROXIED_HEADER not in health.headers
        or "server" in health.headers
        or "via" in health.headers
    )


async def callbacks_come_in(settings: Settings, alias: str, egress: Egress, within_s: float) -> str:
    """Check that the gateway knows this destination and has the same first key. Nothing is written.

    Sends a callback for one lead with the token of another. Only a gateway with our key can detect
    the mismatch.

    Raises:
        CheckFailed: The gateway answers otherwise, or not at all.
    """
    url = settings.callback_url(alias)
    token = ""
    workspace = settings.destinations[alias].workspace
    if settings.gateway.token_keys_env:
        token = sign(settings.callback_keys, workspace, alias, f"not-{_NO_LEAD}")
    document = {"lead_id": _NO_LEAD, "callback_token": token}
    async with _client(egress) as client:
        answer = await _ask(client, within_s, "POST", url, json=document)
    if answer.status_code == 404:
        raise CheckFailed(
            f"{url} answers 404: the proxy does not forward /callbacks/, or the gateway has "
            "another configuration",
        )
    text = answer.text
    if text in {
        refusal.text for refusal in (gateway.REFUSED_TOKEN["unknown_key"], gateway.NO_TOKEN)
    }:
        raise CheckFailed(
            f"{url} does not know our key: give worker and gateway the same gateway.token_keys_env",
        )
    if (
        text
        != (
            gateway.REFUSED_TOKEN["mismatch"]
            if settings.gateway.token_keys_env
            else gateway.NO_SECRET
        ).text
    ):
        raise CheckFailed(
            f"{url} answers {answer.status_code}, unlike our gateway: check the proxy before it",
        )
    return f"{url} answers, and refuses a forged callback"


async def announcements_come_in(
    settings: Settings,
    alias: str,
    egress: Egress,
    within_s: float,
) -> str:
    """Check that the gateway has the secret of a routine's completion webhook.

    Sends what `clay webhooks test` sends, signed, which announces no run. Nothing is written.

    Raises:
        CheckFailed: The gateway refuses it, or is not there.
    """
    url = settings.run_webhook_url(alias)
    destination = settings.destinations[alias]
    secret = settings.secrets.get(destination.run_webhook_secret_env) or ""
    body = msgspec.json.encode({"webhookId": destination.run_webhook, "data": {}})
    headers = {
        "content-type": "application/json",
        RUN_SIGNATURE: sign_run(body, secret.encode()),
    }
    async with _client(egress) as client:
        answer = await _ask(client, within_s, "POST", url, content=body, headers=headers)
    if answer.text == gateway.RUN_TEST.text:
        return f"{url} answers, and accepts what the completion webhook signs"
    if answer.text == gateway.BAD_SIGNATURE.text:
        raise CheckFailed(
            f"{url} has another secret: give doctor and the gateways the same "
            f"{destination.run_webhook_secret_env}",
        )
    raise CheckFailed(
        f"{url} answers {answer.status_code}, unlike our gateway: give it this configuration, and "
        "check that the proxy forwards /callbacks/",
    )


async def proxy_waits(settings: Settings, alias: str, egress: Egress) -> str:
    """Measure whether the proxy waits as long as the gateway holds a callback while Kafka is away.

    The callback is proved, and for another workspace than its URL: a gateway refuses it after the
    time, and writes nothing.

    Raises:
        CheckFailed: The proxy gives up earlier, or the gateway cannot be asked.
    """
    url = settings.callback_url(alias)
    hold_s = settings.gateway.hold_s
    workspace = settings.destinations[alias].workspace
    document = {"lead_id": _NO_LEAD, "workspace": f"not-{workspace}"}
    headers = {gateway.LATE_HEADER: "1"}
    if settings.gateway.token_keys_env:
        document["callback_token"] = sign(settings.callback_keys, workspace, alias, _NO_LEAD)
    else:
        variable = settings.destinations[alias].callback_secrets_env[0]
        headers["x-callback-secret"] = settings.secrets[variable]
    began_s = time.monotonic()
    seen = "no answer"
    is_ours = False
    async with _client(egress) as client:
        with suppress(CheckFailed):
            answer = await _ask(
                client,
                hold_s + _WITHIN_S,
                "POST",
                url,
                json=document,
                headers=headers,
            )
            seen = f"HTTP {answer.status_code}"
            is_ours = answer.text == _answer_to(document, workspace, alias)
    took_s = time.monotonic() - began_s
    if is_ours and took_s >= hold_s:
        return f"{url} waits {hold_s:g} s for an answer, as long as the gateway holds a callback"
    if is_ours:
        raise CheckFailed(
            f"the gateway at {url} holds a callback for {took_s:.1f} s, and here gateway.hold_s is "
            f"{hold_s:g}: give both the same configuration and version",
        )
    raise CheckFailed(
        f"{url} is cut after {took_s:.1f} s ({seen}), and the gateway holds a callback for "
        f"{hold_s:g} s while Kafka is away: let the proxy wait {hold_s + 10:g} s for an answer, or "
        "set gateway.hold_s below what it waits",
    )


def _client(egress: Egress) -> httpx.AsyncClient:
    """Return a client with a connection for each request."""
    return httpx.AsyncClient(
        timeout=None,  # the whole request has one (`_ask`)
        verify=egress.tls_context,
        proxy=egress.proxy_url,
        trust_env=False,
        limits=httpx.Limits(max_keepalive_connections=0),
        headers={"accept-encoding": "identity"},
    )


class _GatewayAnswer(msgspec.Struct, frozen=True):
    """An answer that was read to its end. `text` has no spaces around it."""

    status_code: int
    headers: httpx.Headers
    text: str


async def _ask(
    client: httpx.AsyncClient,
    within_s: float,
    method: str,
    url: str,
    **options: Any,
) -> _GatewayAnswer:
    """Send a request and read the answer, within a time and a size: any program may have sent it.

    Raises:
        CheckFailed: There is no such answer.
    """
    try:
        async with asyncio.timeout(within_s), client.stream(method, url, **options) as answer:
            body = b""
            async for piece in answer.aiter_raw(1_024):
                body += piece
                if len(body) > _MAX_ANSWER_BYTES:
                    raise CheckFailed(
                        f"{url} answers with more than {_MAX_ANSWER_BYTES:,} bytes, unlike our "
                        "gateway: check gateway.public_url, and the proxy before it",
                    )
            return _GatewayAnswer(
                answer.status_code,
                answer.headers,
                body.decode("utf-8", "replace").strip(),
            )
    except TimeoutError as late:
        raise CheckFailed(
            f"{url} did not answer within {within_s:g} s: is gateway.public_url right, "
            "does the gateway run, and are [egress]'s proxy and authority right?",
        ) from late
    except httpx.HTTPError as error:
        raise CheckFailed(
            f"{url} cannot be reached from here ({type(error).__name__}): is gateway.public_url "
            "right, does the gateway run, and are [egress]'s proxy and authority right?",
        ) from error


class TableSecret(msgspec.Struct, frozen=True):
    """Whether the gateways have a secret of a table (`callback_secrets_env`).

    Attributes:
        destination: The table's alias.
        variable: The environment variable or file that has the secret.
        state: `missing`: at least one gateway refuses it. `unknown`: it could not be tried.
        text: The finding, with what to do about it.
    """

    destination: str
    variable: str
    state: Literal["present", "missing", "unknown"]
    text: str


async def table_secrets(settings: Settings, patience_s: float) -> list[TableSecret]:
    """Ask the gateways which secrets of tables they have.

    A gateway looks for changed files every 2 seconds, so one that lacks a secret is asked again for
    `patience_s`. A secret that this process has is tried. Of one that it lacks, a wrong one shows
    at least whether the table has a secret there. Raises SettingsError as `Settings.make_egress`
    does.
    """
    wanted = [
        (alias, variable)
        for alias, destination in settings.destinations.items()
        if destination.calls_back
        for variable in destination.callback_secrets_env
    ]
    proxy = settings.egress.proxy_env
    if proxy is not None and proxy not in settings.secrets:
        return [
            _not_tried(*place, f"{proxy}, the URL of the proxy, is not set here")
            for place in wanted
        ]
    if not wanted:
        return []
    states: dict[tuple[str, str], TableSecret] = {}
    ends_s = time.monotonic() + patience_s
    async with _client(settings.make_egress()) as client:
        while wanted:
            try:
                for alias, variable in wanted:
                    states[alias, variable] = await _table_secret(settings, alias, variable, client)
            except CheckFailed as error:  # all are behind one proxy
                states |= {place: _not_tried(*place, str(error)) for place in wanted}
            wanted = [
                place
                for place in wanted
                if states[place].state == "missing" and time.monotonic() < ends_s
            ]
            await asyncio.sleep(_AGAIN_S if wanted else 0)
    return list(states.values())


def _not_tried(alias: str, variable: str, why: str) -> TableSecret:
    return TableSecret(alias, variable, "unknown", f"{alias}: {variable} was not tried: {why}")


async def _table_secret(
    settings: Settings,
    alias: str,
    variable: str,
    client: httpx.AsyncClient,
) -> TableSecret:
    """Call back with the secret, over several connections.

    A proxy may have several gateways behind it. The body names another workspace than the URL,
    which a gateway refuses after it has verified the secret. Raises CheckFailed if no gateway can
    be reached.
    """
    url = settings.callback_url(alias)
    workspace = settings.destinations[alias].workspace
    is_known = variable in settings.secrets
    secret = settings.secrets[variable] if is_known else f"not-{secrets.token_hex(16)}"
    document = {"lead_id": _NO_LEAD, "workspace": f"not-{workspace}"}
    good = _answer_to(document, workspace, alias) if is_known else gateway.BAD_SECRET.text
    lacks = {
        gateway.NOT_HERE.text,
        gateway.NO_TOKEN.text,
        *([gateway.BAD_SECRET.text] if is_known else []),
    }

    async def ask() -> str:
        headers = {b"x-callback-secret": secret.encode()}
        answer = await _ask(client, _WITHIN_S, "POST", url, json=document, headers=headers)
        return answer.text

    answers = await asyncio.gather(*(ask() for _ in range(_ASKED)))
    missing = sum(answer in lacks for answer in answers)
    if missing:
        text = (
            f"{alias}: a gateway lacks {variable} and refuses this table's callbacks ({missing} "
            f"of {_ASKED} answers at {url}): give each gateway the configuration and its file in "
            "secrets_dir, or the variable and a restart"
        )
        return TableSecret(alias, variable, "missing", text)
    if any(answer != good for answer in answers):
        return _not_tried(
            alias,
            variable,
            f"{url} answers unlike our gateway: check the proxy before it",
        )
    if is_known:
        return TableSecret(
            alias,
            variable,
            "present",
            f"{alias}: {_ASKED} answers at {url} accept {variable}",
        )
    text = (
        f"{alias}: the gateways have a secret of this table; "
        f"{variable} is not set here, so it was not tried"
    )
    return TableSecret(alias, variable, "unknown", text)


def _answer_to(document: Mapping[str, str], workspace: str, alias: str) -> str:
    """Return the text with which a gateway refuses a body whose sender it has verified."""
    body = read_body(msgspec.json.encode(document))
    bad = callback_of(body, workspace, alias, 0) if isinstance(body, Body) else body
    assert isinstance(bad, BadBody)
    return gateway.refused(bad).text
