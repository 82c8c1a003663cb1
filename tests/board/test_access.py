"""Who may see the board, and that wrong tokens shut nobody out."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import httpx
import pytest
from starlette.requests import Request

from stream_app.board.access import (
    COOKIE,
    MAX_TICKETS,
    MAX_WAITING,
    TICKET_S,
    AccessRefused,
    BoardAccess,
    LoginNeeded,
    Visitor,
)
from stream_app.ops.http import LIMIT_CONCURRENCY, serve_http
from stream_app.services.board import board_app
from tests.board.client import HERE, OWN, Client, ClientOf
from tests.board.clock import NOW_MS
from tests.board.scene import OPERATOR_TOKEN, OWN_TOKEN, PROXY_SECRET, TOKEN
from tests.support.kafka import until
from tests.support.pace import BUSY

OPEN = {"/board/login", "/board/logout"}
"""A board that made its token has /board/ticket, too, for who sends it."""
OF_VIEWERS = {"/board/leads", "/board/leads/{lead_id:path}"}
"""What people who only read may send a form to: the search, and "Show personal data"."""


def test_what_changes_something_is_for_operators(with_operator: Client) -> None:
    """tests/unit/board/test_who_may.py holds each route to that, with every role and method."""
    routes = [route for route in with_operator.board.routes() if "POST" in (route.methods or set())]
    acts = {
        route.path
        for route in routes
        if "/act/" in route.path or route.path.startswith("/board/publish")
    }
    assert len(acts) >= 20
    assert {route.path for route in routes} - acts == OPEN | OF_VIEWERS


async def test_without_an_operator_token_nothing_can_be_changed(
    with_token: Client,
    local: Client,
) -> None:
    await with_token.login()
    for client in (with_token, local):
        assert not [route.path for route in client.board.routes() if "/act/" in route.path]
        assert "/act/" not in (await client.get("/board/lanes/acme")).text
        assert (await client.get("/board/lanes/acme/act/pause")).status_code == 404
        answer = await client.ask(
            "POST",
            "/board/lanes/acme/act/pause",
            data={"why": "x"},
            headers=OWN,
        )
        assert answer.status_code == 405


async def test_the_bare_address_leads_to_the_board(with_token: Client, local: Client) -> None:
    for client in (with_token, local):
        answer = await client.get("/")
        assert answer.status_code == 303
        assert answer.headers["location"] == "/board"


async def test_the_token_decides_the_role(with_operator: Client) -> None:
    await with_operator.login(TOKEN)
    text = (await with_operator.get("/board/lanes/acme")).text
    assert "/act/" not in text
    assert "Log in to act" in text
    viewer = with_operator.cookies
    await with_operator.login(OPERATOR_TOKEN)
    text = (await with_operator.get("/board/lanes/acme")).text
    assert "/board/lanes/acme/act/pause" in text
    # a session keeps its role with its signature only
    body, _, _ = with_operator.cookies[COOKIE].partition(".")
    _, _, signature = viewer[COOKIE].partition(".")
    with_operator.cookies = {COOKIE: f"{body}.{signature}"}
    assert (await with_operator.get("/board/lanes/acme/act/pause")).status_code in (303, 403)


async def test_operators_of_a_local_board_log_in_to_act(client_of: ClientOf) -> None:
    client = client_of("operator")
    text = (await client.get("/board/lanes/acme")).text
    assert "Log in to act" in text
    assert "/act/" not in text
    assert (await client.get("/board/lanes/acme/act/pause")).status_code == 403
    answer = await client.login(TOKEN)
    assert answer.status_code == 403
    assert "board.operator_token_env" in answer.text
    await client.login(OPERATOR_TOKEN)
    assert (await client.get("/board/lanes/acme/act/pause")).status_code == 200


async def test_an_operator_has_a_name(with_operator: Client) -> None:
    for name in ("", "   ", "\x00"):
        answer = await with_operator.login(OPERATOR_TOKEN, who=name)
        assert answer.status_code == 422
        assert "Enter your name" in answer.text


async def test_a_proxy_names_people_with_its_secret_only(client_of: ClientOf) -> None:
    client = client_of("token", "operator", "proxy")
    named = {"x-auth-request-email": "jane@example.com", "x-stream-app-proxy-secret": PROXY_SECRET}
    assert "Your name" not in (await client.get("/board/login")).text
    for headers in (
        {},
        {**named, "x-stream-app-proxy-secret": "guessed"},
        {"x-stream-app-proxy-secret": PROXY_SECRET},
    ):
        answer = await client.login(OPERATOR_TOKEN, headers=headers)
        assert answer.status_code == 403
        assert "The proxy did not name you" in answer.text
    await client.login(OPERATOR_TOKEN, headers=named)
    text = (await client.get("/board/lanes/acme", headers=named)).text
    assert "Logged in as jane@example.com" in text
    assert (await client.get("/board/lanes/acme")).status_code == 403, "the header is missing"
    other = named | {"x-auth-request-email": "sam@example.com"}
    assert (await client.get("/board/lanes/acme", headers=other)).status_code == 303, (
        "another person logs in"
    )


async def test_a_login_gives_a_session_that_outlives_the_process(
    with_token: Client,
    client_of: ClientOf,
) -> None:
    answer = await with_token.login()
    assert answer.status_code == 303
    assert answer.headers["location"] == "/board/lanes"
    cookie = answer.headers["set-cookie"]
    assert all(word in cookie for word in ("HttpOnly", "SameSite=strict", "Path=/board"))
    assert "Secure" not in cookie, (
        "a browser keeps no secure cookie of http://127.0.0.1 in some versions"
    )
    assert TOKEN not in cookie
    other = client_of("token")
    other.cookies = with_token.cookies
    assert (await other.get("/board")).status_code == 200


async def test_a_session_ends_with_its_time_and_with_the_token(with_token: Client) -> None:
    answer = await with_token.login()
    now_s = NOW_MS // 1000
    assert f"Max-Age={12 * 3_600}" in answer.headers["set-cookie"]
    for age_s, valid in ((12 * 3_600 - 1, True), (12 * 3_600, False)):
        assert _accepts(TOKEN, now_s + age_s, with_token.cookies) == valid
    assert not _accepts("another token, as long as the first", now_s, with_token.cookies)
    body, _, signature = with_token.cookies[COOKIE].partition(".")
    with_token.cookies = {}
    for forged in (
        body,
        f"{body}.",
        f"{body}.{'0' * 64}",
        f"AA{body}.{signature}",
        f".{signature}",
        "%00",
        "\xe9.\xe9",
    ):
        answer = await with_token.get(
            "/board",
            headers={"cookie": f"{COOKIE}={forged}".encode("latin-1")},
        )
        assert answer.status_code == 303, forged


async def test_a_session_of_an_operator_ends_after_two_hours(with_operator: Client) -> None:
    """Who finds an open browser in the afternoon cannot act with what somebody entered in the
    morning.
    """
    answer = await with_operator.login(OPERATOR_TOKEN)
    assert f"Max-Age={2 * 3_600}" in answer.headers["set-cookie"]
    headers = [
        (b"cookie", f"{COOKIE}={with_operator.cookies[COOKIE]}".encode()),
        (b"host", b"127.0.0.1"),
    ]
    request = Request({"type": "http", "method": "GET", "headers": headers})
    for age_s in (0, 2 * 3_600 - 1, 2 * 3_600):
        now_s = NOW_MS // 1000 + age_s
        access = BoardAccess(
            TOKEN,
            partial(int, now_s),
            made_here=False,
            operator_token=OPERATOR_TOKEN,
            proxy=None,
            url="",
        )
        if age_s < 2 * 3_600:
            assert access.check(request, "operator") == Visitor("jane", "operator")
        else:
            with pytest.raises(LoginNeeded):
                access.check(request)


async def test_a_log_out_ends_the_session_of_this_browser_only(with_token: Client) -> None:
    """docs/board.md says so: nothing is stored of a session."""
    await with_token.login()
    copied = dict(with_token.cookies)
    answer = await with_token.ask("POST", "/board/logout", headers=OWN)
    assert "Max-Age=0" in answer.headers["set-cookie"]
    with_token.cookies = {}
    assert (await with_token.get("/board")).status_code == 303
    with_token.cookies = copied
    assert (await with_token.get("/board")).status_code == 200


def _accepts(token: str, now_s: int, cookies: dict[str, str]) -> bool:
    access = BoardAccess(
        token,
        lambda: now_s,
        made_here=False,
        operator_token=None,
        proxy=None,
        url="",
    )
    headers = [(b"cookie", f"{COOKIE}={cookies[COOKIE]}".encode()), (b"host", b"127.0.0.1")]
    try:
        return access.check(
            Request({"type": "http", "method": "GET", "headers": headers}),
        ) == Visitor("jane", "viewer")
    except LoginNeeded:
        return False


async def test_a_wrong_token_is_refused_and_nothing_is_logged_of_it(
    with_token: Client,
    capfd: pytest.CaptureFixture[str],
) -> None:
    answer = await with_token.login("not the token")
    assert answer.status_code == 403
    assert "set-cookie" not in answer.headers
    assert "This is not the token of board.token_env" in answer.text
    assert "not the token" not in "".join(capfd.readouterr()).replace("This is not the token", "")


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"sec-fetch-site": "same-origin"}, 303),
        ({"sec-fetch-site": "same-site"}, 403),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "none"}, 403),
        ({"origin": HERE}, 303),
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({}, 403),
    ],
)
async def test_a_post_of_another_site_does_nothing(
    local: Client,
    with_token: Client,
    headers: dict[str, str],
    status: int,
) -> None:
    assert (
        await local.ask("POST", "/board/leads", data={"text": "crm-17"}, headers=headers)
    ).status_code == status
    shown = await local.ask("POST", "/board/leads/crm-17", headers=headers)
    assert ("ada@example.com" in shown.text) == (status == 303)
    answer = await with_token.ask(
        "POST",
        "/board/login",
        data={"token": TOKEN, "who": "x"},
        headers=headers,
    )
    assert answer.status_code == status


async def ticket_of(client: Client, token: str = OWN_TOKEN) -> httpx.Response:
    return await client.ask("POST", "/board/ticket", headers={"authorization": f"Bearer {token}"})


async def test_a_ticket_lets_one_browser_in_once(local: Client) -> None:
    """tests/unit/board/test_who_may.py asks every page without one."""
    local.cookies = {}
    assert (await local.get("/board")).status_code == 303, "it needs a login"
    path = (await ticket_of(local)).json()["path"]
    assert OWN_TOKEN not in path
    assert (await local.ask("HEAD", path)).status_code == 403, (
        "a look at the head uses no ticket up"
    )
    entered = await local.get(path)
    assert entered.status_code == 303
    assert entered.headers["location"] == "/board"
    local.cookies = dict(entered.cookies)
    assert (await local.get("/board")).status_code == 200
    local.cookies = {}
    again = await local.get(path)
    assert again.status_code == 403
    assert "run `stream-app open` again" in again.text
    assert not again.cookies


async def test_a_ticket_is_for_who_has_the_token_of_a_board_that_made_one(
    local: Client,
    with_token: Client,
) -> None:
    refused = await ticket_of(local, TOKEN)
    assert refused.status_code == 401
    assert "set board.token_env for everyone else" in refused.json()["text"]
    assert (await ticket_of(with_token, TOKEN)).status_code == 405, (
        "people log in there, with their name"
    )


def test_a_ticket_is_good_for_a_minute_and_few_wait() -> None:
    now_s = 1_000

    def asks() -> Request:
        return Request(
            {"type": "http", "headers": [(b"authorization", f"Bearer {TOKEN}".encode())]},
        )

    access = BoardAccess(
        TOKEN,
        lambda: now_s,
        made_here=True,
        operator_token=None,
        proxy=None,
        url="",
    )
    old = access.make_ticket(asks())
    kept = access.make_ticket(asks())
    now_s += TICKET_S - 1
    assert access.enter(kept)
    now_s += 1
    with pytest.raises(AccessRefused, match="good once, and for 60 s"):
        access.enter(old)
    first, *_, last = [access.make_ticket(asks()) for _ in range(MAX_TICKETS + 1)]
    with pytest.raises(AccessRefused):
        access.enter(first)
    assert access.enter(last)


async def test_the_way_to_the_login_and_back(with_token: Client) -> None:
    answer = await with_token.get("/board/leads?status=enriched")
    assert answer.headers["location"] == "/board/login?next=%2Fboard%2Fleads%3Fstatus%3Denriched"
    assert (
        'value="/board/leads?status=enriched"'
        in (await with_token.get(answer.headers["location"])).text
    )
    # a link on another site sends no strict cookie: the page opens itself once more
    answer = await with_token.get("/board/dead", headers={"sec-fetch-site": "cross-site"})
    assert answer.status_code == 200
    assert answer.headers["refresh"] == "0; url=/board/dead"
    answer = await with_token.get("/board", headers={"hx-request": "true"})
    assert answer.status_code == 401
    assert answer.headers["hx-redirect"] == "/board/login?next=%2Fboard"
    for elsewhere in (
        "https://evil.example/board",
        "//evil.example",
        "/leads",
        "/board/../x",
        "/board\\@evil",
        "/boards",
    ):
        form = {"token": TOKEN, "who": "jane", "next": elsewhere}
        answer = await with_token.ask("POST", "/board/login", data=form, headers=OWN)
        assert answer.headers["location"] == "/board", elsewhere


async def test_log_out(with_token: Client) -> None:
    await with_token.login()
    answer = await with_token.ask("POST", "/board/logout", headers=OWN)
    assert answer.status_code == 303
    assert 'stream_app_board=""' in answer.headers["set-cookie"]
    assert (
        await with_token.ask("POST", "/board/logout", headers={"sec-fetch-site": "cross-site"})
    ).status_code == 403


_LONG_S = 60
_FLOOD = LIMIT_CONCURRENCY - 20
Tries = list[asyncio.Task[httpx.Response]]


@asynccontextmanager
async def _served(
    with_token: Client,
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[httpx.AsyncClient]:
    """Serve a board whose wrong tokens wait longer than a test takes; yields a client with many
    connections.
    """
    monkeypatch.setattr("stream_app.board.access._FAILURE_S", _LONG_S)
    many = httpx.Limits(max_connections=None, max_keepalive_connections=0)
    async with (
        serve_http(board_app(with_token.board.routes()), "127.0.0.1", 0, grace_s=0) as port,
        httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{port}",
            limits=many,
            timeout=_LONG_S * BUSY,
        ) as client,
    ):
        yield client


async def _log_in(client: httpx.AsyncClient, token: str) -> httpx.Response:
    return await client.post("/board/login", data={"token": token, "who": "jane"}, headers=OWN)


def _wrong(client: httpx.AsyncClient, times: int) -> Tries:
    return [asyncio.create_task(_log_in(client, f"wrong {number}")) for number in range(times)]


async def _hang_up(tries: Tries) -> None:
    for attempt in tries:
        attempt.cancel()
    await asyncio.gather(*tries, return_exceptions=True)


async def test_a_flood_of_wrong_tokens_shuts_nobody_out(
    with_token: Client,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with _served(with_token, monkeypatch) as client:
        tries = _wrong(client, _FLOOD)
        await until(lambda: sum(attempt.done() for attempt in tries) >= _FLOOD - MAX_WAITING)
        right = await _log_in(client, TOKEN)
        assert right.status_code == 303, "the right token does not wait for wrong ones"
        assert (await client.get("/healthz")).status_code == 200
        refused = [attempt.result() for attempt in tries if attempt.done()]
        assert len(tries) - len(refused) == MAX_WAITING == 16
        for answer in refused:
            assert answer.status_code == 429
            assert answer.headers["retry-after"] == "4"
            assert answer.headers["connection"] == "close", (
                "an idle connection would take the place of another's"
            )
        await _hang_up(tries)


async def test_a_peer_that_has_gone_is_forgotten(
    with_token: Client,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    access = with_token.board._access

    def waiting() -> int:
        return access._waiting

    async with _served(with_token, monkeypatch) as client:
        for _ in range(3):
            tries = _wrong(client, MAX_WAITING)
            await until(lambda: waiting() == MAX_WAITING, what="a place for each")
            assert not [attempt for attempt in tries if attempt.done()], "each has one"
            assert (await _log_in(client, "wrong")).status_code == 429
            await _hang_up(tries)
            await until(lambda: waiting() == 0, what="that those gone are forgotten")
