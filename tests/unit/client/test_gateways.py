"""Which secrets of tables gateways have, as seen from outside: real gateways over HTTP, without
Kafka.
"""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from itertools import cycle
from pathlib import Path
from typing import Final

import pytest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from stream_app.clay import Egress
from stream_app.client.doctor import gateways
from stream_app.client.doctor.gateways import (
    CheckFailed,
    TableSecret,
    callbacks_come_in,
    gateway_answers,
    proxy_waits,
    table_secrets,
)
from stream_app.config import Settings, load_settings
from stream_app.config.model import Gateway as Limits
from stream_app.config.variables import Need
from stream_app.dev.process import free_port
from stream_app.domain.model.tokens import Keys, sign
from stream_app.gateway.callback_answers import LATE_HEADER, UNPROXIED_HEADER
from stream_app.gateway.tables import CallbackTable, Tables
from stream_app.ops.http import serve_http
from tests.gateway.support import KEYS, NEW_KEY, Gateway
from tests.support.pace import BUSY

OLD = "the old secret of a table, 32 characters"
NEW = "the new secret of a table, 32 characters"


def gateway_with(*secrets: str, keys: Keys | None = KEYS, alias: str = "people") -> Gateway:
    gateway = Gateway(keys=keys)
    gateway.receiver.tables = tables_with(*secrets, keys=keys, alias=alias)
    return gateway


def tables_with(*secrets: str, keys: Keys | None = KEYS, alias: str = "people") -> Tables:
    return Tables(
        [CallbackTable("acme", alias, 0, tuple(secret.encode() for secret in secrets))],
        keys,
        4,
    )


def in_turn(*gateways: Gateway) -> ASGIApp:
    """A proxy that takes the gateways in turn."""
    turns = cycle(gateways)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await next(turns).app(scope, receive, send)

    return app


@asynccontextmanager
async def seen_from_outside(
    tmp_path: Path,
    app: ASGIApp,
    environ: Mapping[str, str] = {"OLD": OLD, "NEW": NEW},
    more: str = "",
) -> AsyncIterator[Settings]:
    async with serve_http(app, "127.0.0.1", 0, grace_s=1) as port:
        yield settings_for(tmp_path, port, environ, more, ("gateway",) if more else ())


def settings_for(
    tmp_path: Path,
    port: int,
    environ: Mapping[str, str],
    more: str = "",
    needs: tuple[Need, ...] = (),
) -> Settings:
    by_secret = "token_keys_env" in more
    path = tmp_path / "stream_app.toml"
    path.write_text(
        f"""
[gateway]
public_url = "http://127.0.0.1:{port}"
{"" if by_secret else 'token_keys_env = ["KEY"]'}
{more}
[workspaces.acme]
[destinations.people]
workspace = "acme"
webhooks_env = ["WEBHOOK"]
callback_secrets_env = ["OLD", "NEW"]
[destinations.firms]
workspace = "acme"
webhooks_env = ["FIRMS"]
callbacks = {str(not by_secret).lower()}
""",
    )
    return load_settings(path, {"KEY": NEW_KEY, **environ}, needs)


def states(secrets: list[TableSecret]) -> dict[str, str]:
    assert {secret.destination for secret in secrets} == {"people"}, "the other table has none"
    assert OLD not in str(secrets)
    assert NEW not in str(secrets)
    return {secret.variable: secret.state for secret in secrets}


@pytest.mark.parametrize("keys", [KEYS, None])
async def test_each_secret_that_the_gateway_has_is_there_and_nothing_is_written(
    keys: Keys | None,
    tmp_path: Path,
) -> None:
    gateway = gateway_with(OLD, NEW, keys=keys)
    async with seen_from_outside(tmp_path, gateway.app) as settings:
        assert states(await table_secrets(settings, 0)) == {"OLD": "present", "NEW": "present"}
    assert not gateway.inbox.records
    assert gateway.counted() == {"other_address": 16}


@pytest.mark.parametrize("keys", [KEYS, None])
@pytest.mark.parametrize(
    ("secrets", "alias", "missing"),
    [
        ((OLD,), "people", {"NEW"}),
        ((), "people", {"OLD", "NEW"}),
        ((OLD, NEW), "another", {"OLD", "NEW"}),
    ],
)
async def test_a_secret_that_the_gateway_lacks_is_named(
    secrets: tuple[str, ...],
    alias: str,
    missing: set[str],
    keys: Keys | None,
    tmp_path: Path,
) -> None:
    gateway = gateway_with(*secrets, keys=keys, alias=alias)
    async with seen_from_outside(tmp_path, gateway.app) as settings:
        states_ = await table_secrets(settings, 0)
    assert {name for name, state in states(states_).items() if state == "missing"} == missing
    (text, *_) = [secret.text for secret in states_ if secret.state == "missing"]
    assert text.startswith(
        f"people: a gateway lacks {min(missing, key=['OLD', 'NEW'].index)} and refuses",
    )
    assert "(8 of 8 answers at http://127.0.0.1" in text
    assert not gateway.inbox.records


async def test_one_of_several_gateways_lacks_a_secret(tmp_path: Path) -> None:
    app = in_turn(
        gateway_with(OLD, NEW),
        gateway_with(OLD, NEW),
        gateway_with(OLD),
        gateway_with(OLD, NEW),
    )
    async with seen_from_outside(tmp_path, app) as settings:
        secrets = await table_secrets(settings, 0)
    assert states(secrets) == {"OLD": "present", "NEW": "missing"}
    assert "(2 of 8 answers at" in secrets[1].text


async def test_a_gateway_that_gets_the_secret_meanwhile_has_it(tmp_path: Path) -> None:
    gateway = gateway_with(OLD)
    async with seen_from_outside(tmp_path, gateway.app) as settings:
        asking = asyncio.create_task(table_secrets(settings, 10 * BUSY))
        async with asyncio.timeout(10 * BUSY):
            while not gateway.counted().get("bad_secret"):  # noqa: ASYNC110 - a counter is no event
                await asyncio.sleep(0.01)
        gateway.receiver.tables = tables_with(OLD, NEW)
        assert states(await asking) == {"OLD": "present", "NEW": "present"}


async def test_a_secret_that_is_not_set_here_is_not_tried(tmp_path: Path) -> None:
    async with seen_from_outside(tmp_path, gateway_with(OLD).app, {"OLD": OLD}) as settings:
        secrets = await table_secrets(settings, 0)
        assert states(secrets) == {"OLD": "present", "NEW": "unknown"}
        assert secrets[1].text == (
            "people: the gateways have a secret of this table; NEW is not set here, so it "
            "was not tried"
        )
    async with seen_from_outside(tmp_path, gateway_with().app, {}) as settings:
        assert states(await table_secrets(settings, 0)) == {"OLD": "missing", "NEW": "missing"}, (
            "it has no secret at all"
        )


async def test_gateways_out_of_reach_were_not_asked(tmp_path: Path) -> None:
    unset = "NEW was not tried: PROXY, the URL of the proxy, is not set here"
    for proxy, says in (
        ("", "cannot be reached from here"),
        ('[egress]\nproxy_env = "PROXY"\n', unset),
    ):
        settings = settings_for(tmp_path, free_port(), {"OLD": OLD, "NEW": NEW}, proxy)
        secrets = await table_secrets(settings, 0)
        assert states(secrets) == {"OLD": "unknown", "NEW": "unknown"}
        assert says in secrets[1].text


def holding_for(hold_s: float, keys: Keys | None) -> Gateway:
    gateway = Gateway(
        keys=keys,
        limits=Limits(max_body_bytes=65_536, read_timeout_s=5, hold_s=hold_s),
    )
    gateway.receiver.tables = tables_with(OLD, NEW, keys=keys)
    return gateway


def cut_after(app: ASGIApp, cut_s: float) -> ASGIApp:
    """A proxy that waits so long for an answer, and then answers 504."""

    async def proxied(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            async with asyncio.timeout(cut_s):
                await app(scope, receive, send)
        except TimeoutError:
            await send({"type": "http.response.start", "status": 504, "headers": []})
            await send({"type": "http.response.body", "body": b"Gateway Time-out"})

    return proxied


async def waited(settings: Settings) -> str:
    """Return what `doctor --hold` finds."""
    return await proxy_waits(settings, "people", Egress.of())


HOLDS: Final = "hold_s = 1"


@pytest.mark.parametrize("keys", [KEYS, None])
async def test_a_proxy_that_waits_as_long_as_the_gateway_holds_is_well(
    keys: Keys | None,
    tmp_path: Path,
) -> None:
    gateway = holding_for(1.0, keys)
    more = HOLDS if keys else f"{HOLDS}\ntoken_keys_env = []"
    async with seen_from_outside(tmp_path, gateway.app, more=more) as settings:
        began = time.monotonic()
        text = await waited(settings)
        assert time.monotonic() - began >= 1
    assert text == (
        f"{settings.callback_url('people')} waits 1 s for an answer, as long as the gateway holds "
        "a callback"
    )
    assert not gateway.inbox.records, "it wrote nothing"


async def test_a_proxy_that_cuts_before_the_gateway_answers_is_told_in_one_line(
    tmp_path: Path,
) -> None:
    gateway = holding_for(30.0, KEYS)
    async with seen_from_outside(tmp_path, cut_after(gateway.app, 0.4), more=HOLDS) as settings:
        with pytest.raises(CheckFailed) as cut:
            await waited(settings)
    text = str(cut.value)
    assert "\n" not in text
    assert re.search(r"is cut after [0-9.]+ s \(HTTP 504\)", text), text
    assert "let the proxy wait 11 s for an answer, or set gateway.hold_s below" in text
    assert not gateway.inbox.records


async def test_a_gateway_that_holds_for_a_shorter_time_is_told(tmp_path: Path) -> None:
    gateway = holding_for(0.1, KEYS)
    async with seen_from_outside(tmp_path, gateway.app, more="hold_s = 60") as settings:
        with pytest.raises(CheckFailed, match=r"and here gateway\.hold_s is 60"):
            await waited(settings)


async def test_the_body_of_an_answer_that_is_given_late_takes_no_memory_meanwhile(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gateway = holding_for(60.0, KEYS)
    waits: list[tuple[float, int]] = []

    async def noted(delay_s: float) -> None:
        waits.append((delay_s, gateway.receiver._read_bytes))

    proved = {
        "lead_id": "crm-17",
        "workspace": "another",
        "callback_token": sign(KEYS, "acme", "people", "crm-17"),
    }
    monkeypatch.setattr(asyncio, "sleep", noted)
    await gateway.post(proved, headers={LATE_HEADER: "1"})
    assert waits == [(60.0, 0)]


async def test_who_proves_nothing_does_not_have_the_gateway_wait() -> None:
    gateway = holding_for(60.0, KEYS)
    forged = {"lead_id": "crm-17", "callback_token": "forged"}
    async with asyncio.timeout(30 * BUSY):
        answer = await gateway.post(forged, headers={LATE_HEADER: "1"})
    assert answer.status_code in (401, 403)


class Endless:
    """A server that never ends its answer, in pieces of `piece` bytes, `wait_s` apart."""

    def __init__(self, piece: int, wait_s: float) -> None:
        self._piece = b"x" * piece
        self._wait_s = wait_s
        self.sent = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while (await self._is_read(receive)) and self.sent < 256 * 2**20:
            await send({"type": "http.response.body", "body": self._piece, "more_body": True})
            self.sent += len(self._piece)
            await asyncio.sleep(self._wait_s)

    async def _is_read(self, receive: Receive) -> bool:
        with suppress(TimeoutError):
            async with asyncio.timeout(0):
                message: Message = await receive()
                return bool(message["type"] != "http.disconnect")
        return True


async def findings_of(ask: str, settings: Settings) -> str:
    """Return what is said of the gateways by `doctor` (healthz, callback) or `lanes reload`
    (secrets).
    """
    try:
        match ask:
            case "healthz":
                await gateway_answers(settings, Egress.of(), 1.0)
            case "callback":
                await callbacks_come_in(settings, "people", Egress.of(), 1.0)
            case "secrets":
                return (await table_secrets(settings, 0))[0].text
    except CheckFailed as error:
        return str(error)
    raise AssertionError("it took this for a gateway")


def behind(gateway: Gateway, adds: str, drops: str) -> ASGIApp:
    """A proxy that names itself in a header of each answer, or drops one."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        async def changed(message: Message) -> None:
            if message["type"] == "http.response.start":
                kept = [pair for pair in message["headers"] if pair[0].decode() != drops]
                added = [(adds.encode(), b"a proxy")] if adds else []
                message = {**message, "headers": [*kept, *added]}
            await send(message)

        await gateway.app(scope, receive, changed)

    return app


@pytest.mark.parametrize(
    ("adds", "drops", "is_proxied"),
    [
        ("", "", False),
        ("via", "", True),
        ("server", "", True),
        ("", UNPROXIED_HEADER, True),
        ("x-other", "", False),
    ],
)
async def test_a_proxy_names_itself_or_takes_the_header_connection_for_itself(
    adds: str,
    drops: str,
    is_proxied: bool,
    tmp_path: Path,
) -> None:
    async with seen_from_outside(tmp_path, behind(gateway_with(), adds, drops)) as settings:
        assert await gateway_answers(settings, Egress.of(), 5.0 * BUSY) is is_proxied


@pytest.mark.parametrize(("piece", "wait_s"), [(65_536, 0.0), (1, 0.05)], ids=["much", "slowly"])
@pytest.mark.parametrize("ask", ["healthz", "callback", "secrets"])
async def test_an_answer_without_an_end_is_given_up(
    piece: int,
    wait_s: float,
    ask: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It may be any program: `public_url` names a host of the internet."""
    monkeypatch.setattr(gateways, "_WITHIN_S", 1.0)
    server = Endless(piece, wait_s)
    async with seen_from_outside(tmp_path, server):
        environ = {"KEY": NEW_KEY, "OLD": OLD, "NEW": NEW}
        settings = load_settings(tmp_path / "stream_app.toml", environ, ("gateway",))
        began_s = time.monotonic()
        text = await findings_of(ask, settings)
        assert time.monotonic() - began_s < 2 + 3 * BUSY
        assert server.sent < 16 * 2**20
    assert "http://127.0.0.1" in text
    assert ("more than" in text) == (piece > 1)
    assert ("within 1 s" in text) == (piece == 1)
