"""The board without a browser: who may see it, what its pages say, and what no page ever does."""

from __future__ import annotations

import asyncio
import re
import threading
import tomllib
import zipfile
from collections.abc import Iterator
from hashlib import sha256
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path
from typing import Any

import httpx
import pytest
from hatchling.builders.wheel import WheelBuilder
from starlette.applications import Starlette
from starlette.requests import Request

from stream_app.board.access import COOKIE, SESSION_S, BoardAccess, LoginNeeded
from stream_app.board.app import Board
from stream_app.board.render import _MOST_WAITING
from stream_app.domain.lane.explain import Group
from stream_app.gateway.lookup_answers import StatusCount
from stream_app.kafka.groups import Consumption
from tests.board.scene import HASH, HOSTILE, NOW_MS, TOKEN, Consumers, board_of, fill, settings_of

HERE = "http://127.0.0.1:9103"
OWN = {"sec-fetch-site": "same-origin"}
PAGES = (
    *("/board", "/board?span=hour", "/board/lanes", "/board/lanes?state=held&begins=a", "/board/lanes/acme"),
    *("/board/lanes/initech?span=hour", "/board/lanes/stark", "/board/leads", "/board/leads?column=parked"),
    *("/board/leads?status=enriched&workspace=acme", f"/board/leads?person={HASH}", "/board/leads/crm-17"),
    *("/board/leads/crm-html", "/board/leads/unknown", "/board/waiting?lead_id=crm-waits"),
    *(f"/board/waiting?person={HASH}", "/board/dead", "/board/dead?from=parked&workspace=umbrella", "/board/books"),
    *("/board/audit", "/board/audit?workspace=acme", "/board/system"),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("board")
    fill(folder / "model.sqlite", settings_of(folder))
    return folder


class Client:
    """A browser without JavaScript: it keeps cookies, and says where a request comes from."""

    def __init__(self, board: Board) -> None:
        self.board = board
        self.cookies: dict[str, str] = {}

    async def ask(self, method: str, url: str, **more: Any) -> httpx.Response:
        base_url, headers = more.pop("base_url", HERE), more.pop("headers", {})
        transport = httpx.ASGITransport(Starlette(routes=self.board.routes()))
        async with httpx.AsyncClient(transport=transport, base_url=base_url, cookies=self.cookies) as client:
            return await client.request(method, url, headers=headers, **more)

    async def get(self, url: str, **more: Any) -> httpx.Response:
        return await self.ask("GET", url, **more)

    async def login(self, token: str = TOKEN, **more: Any) -> httpx.Response:
        form = {"token": token, "who": "jane", "next": "/board/lanes"}
        answer = await self.ask("POST", "/board/login", data=form, headers=OWN, **more)
        self.cookies = dict(answer.cookies)
        return answer


@pytest.fixture
def local(folder: Path) -> Iterator[Client]:
    board = board_of(settings_of(folder), folder / "model.sqlite")
    yield Client(board)
    board.close()


@pytest.fixture
def with_token(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    monkeypatch.setattr("stream_app.board.access._FAILURE_S", 0)
    board = board_of(settings_of(folder, token=True), folder / "model.sqlite")
    yield Client(board)
    board.close()


def concrete(path: str) -> str:
    """A path that a route matches."""
    for name, value in (("{workspace}", "acme"), ("{lead_id:path}", "crm-17"), ("{path:path}", "x")):
        path = path.replace(name, value)
    return path


# ------------------------------------------------------------------------------------------------------- access


async def test_every_route_with_every_role_and_method(with_token: Client) -> None:
    """Without a session, only the login and the static files answer; with one, only the listed methods do."""
    routes = [(concrete(route.path), route.methods or set()) for route in with_token.board.routes()]
    allowed: dict[str, set[str]] = {}
    for path, methods in routes:
        allowed.setdefault(path, set()).update(methods)
    open_paths = {"/board/login", "/board/static/x", "/board/logout"}
    sessions: dict[str, dict[str, str]] = {"none": {}, "forged": {COOKIE: "eyJ3aG8iOiJqYW5lIiwiYmVnYW5fcyI6MH0=.00"}}
    await with_token.login()
    sessions["viewer"] = with_token.cookies
    assert len(allowed) >= 14
    for path, methods in allowed.items():
        for role, cookies in sessions.items():
            for method in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"):
                with_token.cookies = cookies
                answer = await with_token.ask(method, path, headers=OWN)
                where = f"{role} {method} {path}: {answer.status_code}"
                if method not in methods:
                    expected = {404, 405} if role == "viewer" else {303, 405}
                    assert answer.status_code in expected, where
                elif path in open_paths:
                    assert answer.status_code < 500, where
                elif role == "viewer":
                    assert answer.status_code in (200, 303, 400, 404, 415), where
                    assert answer.headers.get("location", "") != "/board/login", where
                elif method in ("GET", "HEAD"):
                    assert answer.status_code in (303, 401), where
                    assert "acme" not in answer.text, where
                else:
                    assert answer.status_code == 401, where
                    assert "Work Email" not in answer.text, where


async def test_a_login_gives_a_session_that_several_gateways_accept(with_token: Client, folder: Path) -> None:
    answer = await with_token.login()
    assert (answer.status_code, answer.headers["location"]) == (303, "/board/lanes")
    cookie = answer.headers["set-cookie"]
    assert all(word in cookie for word in ("HttpOnly", "SameSite=strict", "Path=/board"))
    assert "Secure" not in cookie, "a browser keeps no secure cookie of http://127.0.0.1 in some versions"
    assert TOKEN not in cookie
    other = Client(board_of(settings_of(folder, token=True), folder / "model.sqlite"))
    other.cookies = with_token.cookies
    assert (await other.get("/board")).status_code == 200
    other.board.close()
    assert "Secure" in (await with_token.login(base_url="https://leads.example.com")).headers["set-cookie"]


async def test_a_session_ends_with_its_time_and_with_the_token(with_token: Client) -> None:
    await with_token.login()
    now_s = NOW_MS // 1000
    for token, host_s, valid in ((TOKEN, now_s + SESSION_S - 1, True), (TOKEN, now_s + SESSION_S, False)):
        assert _accepts(token, host_s, with_token.cookies) == valid
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
        answer = await with_token.get("/board", headers={"cookie": f"{COOKIE}={forged}".encode("latin-1")})
        assert answer.status_code == 303, forged


def _accepts(token: str, now_s: int, cookies: dict[str, str]) -> bool:
    access = BoardAccess(token, "127.0.0.1", lambda: now_s)
    headers = [(b"cookie", f"{COOKIE}={cookies[COOKIE]}".encode()), (b"host", b"127.0.0.1")]
    try:
        return access.viewer(Request({"type": "http", "method": "GET", "headers": headers})) == "jane"
    except LoginNeeded:
        return False


async def test_a_wrong_token_is_refused_and_nothing_is_logged_of_it(
    with_token: Client, capfd: pytest.CaptureFixture[str]
) -> None:
    answer = await with_token.login("not the token")
    assert (answer.status_code, "set-cookie" in answer.headers) == (403, False)
    assert "This is not the token of gateway.api_token_env" in answer.text
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
    local: Client, with_token: Client, headers: dict[str, str], status: int
) -> None:
    assert (await local.ask("POST", "/board/leads", data={"text": "crm-17"}, headers=headers)).status_code == status
    shown = await local.ask("POST", "/board/leads/crm-17", headers=headers)
    assert ("ada@example.com" in shown.text) == (status == 303)
    answer = await with_token.ask("POST", "/board/login", data={"token": TOKEN, "who": "x"}, headers=headers)
    assert answer.status_code == status


@pytest.mark.parametrize(
    ("headers", "base_url"),
    [({"x-forwarded-for": "203.0.113.9"}, HERE), ({"via": "1.1 proxy"}, HERE), ({}, "http://leads.example.com")],
)
async def test_without_a_token_only_this_machine_sees_it(local: Client, headers: dict[str, str], base_url: str) -> None:
    for url in PAGES:
        answer = await local.get(url, headers=headers, base_url=base_url)
        assert answer.status_code == 403
        assert "acme" not in answer.text
    assert (await local.get("/board")).status_code == 200


async def test_a_public_address_without_a_token_shows_nothing(folder: Path) -> None:
    board = board_of(settings_of(folder, host="0.0.0.0"), folder / "model.sqlite")
    answer = await Client(board).get("/board")
    assert (answer.status_code, "gateway.api_token_env" in answer.text) == (403, True)
    board.close()


async def test_the_way_to_the_login_and_back(with_token: Client) -> None:
    answer = await with_token.get("/board/leads?status=enriched")
    assert answer.headers["location"] == "/board/login?next=%2Fboard%2Fleads%3Fstatus%3Denriched"
    assert 'value="/board/leads?status=enriched"' in (await with_token.get(answer.headers["location"])).text
    # a link on another site sends no strict cookie: the page opens itself once more
    answer = await with_token.get("/board/dead", headers={"sec-fetch-site": "cross-site"})
    assert (answer.status_code, answer.headers["refresh"]) == (200, "0; url=/board/dead")
    answer = await with_token.get("/board", headers={"hx-request": "true"})
    assert (answer.status_code, answer.headers["hx-redirect"]) == (401, "/board/login?next=%2Fboard")
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
    assert (answer.status_code, 'stream_app_board=""' in answer.headers["set-cookie"]) == (303, True)
    assert (await with_token.ask("POST", "/board/logout", headers={"sec-fetch-site": "cross-site"})).status_code == 403


# -------------------------------------------------------------------------------------------------------- pages


_answers: dict[str, tuple[int, str]] = {}
"""What links lead to. Many pages have the same ones."""


class _Html(HTMLParser):
    """Notes what a strict content security policy forbids, the links, and the ids."""

    def __init__(self) -> None:
        super().__init__()
        self.forbidden: list[str] = []
        self.links: set[str] = set()
        self.ids: list[str] = []
        self._script = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self._script = tag in ("script", "style") and "src" not in given
        self.forbidden += [name for name in given if name == "style" or name.startswith(("on", "hx-on"))]
        self.forbidden += [f"inline {tag}"] * self._script
        self.links |= {given[name] for name in ("href", "src", "action", "hx-get") if name in given}
        self.ids += [given["id"]] if "id" in given else []


@pytest.mark.parametrize("url", PAGES)
async def test_each_page_is_strict_and_leads_nowhere_else(local: Client, url: str) -> None:
    answer = await local.get(url)
    assert answer.status_code == 200, answer.text
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self';")
    assert "unsafe" not in policy
    assert answer.headers["cache-control"] == "no-store"
    found = _Html()
    found.feed(answer.text)
    assert found.forbidden == []
    assert len(found.ids) == len(set(found.ids)), "an id is there twice"
    assert HOSTILE not in answer.text, "text from outside is escaped"
    assert "ada@example.com" not in answer.text, "personal data is shown on request only"
    assert answer.text.count("<h1") == 1
    for link in found.links:
        if link.startswith(("#", "?")):
            assert not link.startswith("#") or link[1:] in found.ids, link
            continue
        assert link.startswith("/board"), link
        path, _, place = link.partition("#")
        if path not in _answers:
            response = await local.get(path)
            _answers[path] = response.status_code, response.text
        status, text = _answers[path]
        assert status in (200, 404 if "%3Cscript" in link else 200), f"{url} links to {link}"
        assert not place or f'id="{place}"' in text, link


async def test_now_says_first_what_stands_still(local: Client) -> None:
    text = (await local.get("/board")).text
    assert '<h1 class="bad">2 of 6 lanes stand still</h1>' in text
    assert "Clay refuses its token (401)" in text
    assert "1,240 records wait on Kafka" in text
    assert text.index("acme</strong>") < text.index("globex</strong>"), "what needs a person comes first"
    assert "2.0 s</span> old, lag 0" in text


async def test_no_worker_is_the_first_thing_to_know(folder: Path) -> None:
    consumers = Consumers()
    consumers.now = Consumption(Group("Empty", 0), Group("Stable", 1), {})
    board = board_of(settings_of(folder), folder / "model.sqlite", consumers)
    text = (await Client(board).get("/board")).text
    assert "Nothing is sent: no worker runs" in text
    consumers.now = None
    text = (await Client(board).get("/board")).text
    assert "2 of 6 lanes stand still" in text, "nothing is claimed of workers when Kafka does not answer"
    assert "Kafka does not answer" in text
    board.close()


async def test_the_numbers_of_the_books_are_those_of_the_lists_they_link_to(local: Client, folder: Path) -> None:
    text = (await local.get("/board/books")).text
    counts = local.board._site.queries.status_counts()
    by_column: dict[str, int] = {}
    for each in counts:
        by_column[each.column] = by_column.get(each.column, 0) + each.records
    for column, number in by_column.items():
        assert f'<a href="/board/leads?column={column}">{number:,}</a>' in text
        page = (await local.get(f"/board/leads?column={column}")).text
        assert f"<h1>{number:,} " in page
        assert await _rows(local, f"/board/leads?column={column}") == number


async def test_the_list_of_leads_has_every_record_once_newest_first(local: Client) -> None:
    counts = local.board._site.queries.status_counts("acme")
    assert await _rows(local, "/board/leads?workspace=acme") == _sum(counts)


def _sum(counts: list[StatusCount]) -> int:
    return sum(each.records for each in counts)


async def _rows(client: Client, url: str) -> int:
    """Follow the pages of a list; returns its rows, each of which is there once."""
    seen: list[tuple[str, str]] = []
    while url:
        text = (await client.get(url)).text
        seen += re.findall(r'<th scope="row"><a href="([^"]+)">.*?<code>(leads/\d+/\d+)</code>', text, re.S)
        more = re.search(r'rel="next" href="([^"]+)"', text)
        url = more[1].replace("&amp;", "&") if more else ""
    assert len(set(seen)) == len(seen)
    return len(seen)


async def test_a_search_puts_no_personal_data_into_an_address(local: Client) -> None:
    for text, path in (
        ("crm-17", "/board/leads/crm-17"),
        (" crm-unknown ", "/board/leads/crm-unknown"),
        ("record:leads/0/3", "/board/leads/record:leads/0/3"),
        ("", "/board/leads"),
    ):
        answer = await local.ask("POST", "/board/leads", data={"text": text}, headers=OWN)
        assert (answer.status_code, answer.headers["location"]) == (303, path)
    for who in ("ada@example.com", "https://www.linkedin.com/in/ada"):
        answer = await local.ask("POST", "/board/leads", data={"text": who}, headers=OWN)
        assert re.fullmatch(r"/board/leads\?person=[A-Za-z0-9_-]{22}", answer.headers["location"])
    answer = await local.get("/board/leads/ada@example.com")
    assert (answer.status_code, "ada@" in answer.text.split("<main", 1)[1]) == (400, False)


async def test_personal_data_is_shown_on_request_and_that_is_logged(
    with_token: Client, capfd: pytest.CaptureFixture[str]
) -> None:
    await with_token.login()
    assert "ada@example.com" not in (await with_token.get("/board/leads/crm-17")).text
    capfd.readouterr()
    shown = await with_token.ask("POST", "/board/leads/crm-17", headers=OWN)
    assert "ada@example.com" in shown.text
    assert shown.headers["cache-control"] == "no-store"
    logged = "".join(capfd.readouterr())
    assert all(word in logged for word in ("personal_data_shown", "jane", "crm-17"))
    assert "ada@example.com" not in logged


async def test_a_lead_that_waits_on_kafka(local: Client) -> None:
    text = (await local.get("/board/waiting?lead_id=crm-waits")).text
    assert "Not taken yet: it waits on Kafka" in text
    assert "about 1,190 records are before it" in text
    assert "Clay refuses its token (401)" in text


@pytest.mark.parametrize(
    ("url", "status"),
    [
        ("/board/lanes/unknown", 404),
        ("/board/nothing", 404),
        (f"/board/leads/{'x' * 10_000}", 400),
        ("/board/waiting", 400),
        ("/board/leads?after=1-2-3&status=nothing&column=nothing", 200),
        ("/board/audit?after=x", 200),
        ("/board?span=year", 200),
    ],
)
async def test_bad_input_is_answered(local: Client, url: str, status: int) -> None:
    assert (await local.get(url)).status_code == status


async def test_boards_wait_for_one_another_and_not_without_bound(local: Client) -> None:
    """One page is made at a time, beside the event loop, and too many at once are refused at once."""
    began, go_on = threading.Event(), threading.Event()
    threads = local.board._threads

    def hold() -> None:
        began.set()
        go_on.wait(30)

    held = asyncio.create_task(threads.run(hold))
    assert await asyncio.to_thread(began.wait, 30)
    waiting = [asyncio.create_task(local.get("/board/audit")) for _ in range(_MOST_WAITING + 10)]
    done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED, timeout=30)
    assert [task.result().status_code for task in done] == [503] * len(done)
    go_on.set()
    await held
    codes = [answer.status_code for answer in await asyncio.gather(*waiting)]
    assert codes.count(503) == 11
    assert codes.count(200) == _MOST_WAITING - 1


async def test_refused_logins_do_not_fill_the_log(with_token: Client, capfd: pytest.CaptureFixture[str]) -> None:
    capfd.readouterr()
    for _ in range(20):
        await with_token.login("not the token")
        await with_token.ask("POST", "/board/login", headers=OWN)
    assert "".join(capfd.readouterr()).count("board_login_refused") == 2


async def test_a_form_is_bounded(local: Client) -> None:
    answer = await local.ask("POST", "/board/leads", data={"text": "x" * 5_000}, headers=OWN)
    assert answer.status_code == 413
    answer = await local.ask("POST", "/board/leads", json={"text": "x"}, headers=OWN)
    assert answer.status_code == 415


async def test_without_a_model_it_says_why(tmp_path: Path) -> None:
    board = board_of(settings_of(tmp_path), tmp_path / "nothing.sqlite")
    answer = await Client(board).get("/board")
    assert (answer.status_code, "The read model cannot be read" in answer.text) == (503, True)
    board.close()


# ------------------------------------------------------------------------------------------------------- assets


def test_the_vendored_files_are_unchanged() -> None:
    folder = files("stream_app.board") / "static" / "vendor"
    listed = tomllib.loads(folder.joinpath("VENDORED.toml").read_text())["file"]
    for each in listed:
        assert sha256(folder.joinpath(each["name"]).read_bytes()).hexdigest() == each["sha256"], each["name"]
        assert folder.joinpath(each["licence_file"]).is_file()
        assert each["version"] in each["name"]
    names = {each["name"] for each in listed} | {each["licence_file"] for each in listed} | {"VENDORED.toml"}
    assert {each.name for each in folder.iterdir()} == names


async def test_static_files_are_kept_by_browsers_and_are_in_no_other_place(local: Client) -> None:
    text = (await local.get("/board")).text
    (css,) = re.findall(r'href="(/board/static/[^"]+board\.css)"', text)
    answer = await local.get(css)
    assert answer.headers["cache-control"] == "public, max-age=31536000, immutable"
    assert answer.headers["content-type"] == "text/css; charset=utf-8"
    assert "http" not in re.sub(r"/\*.*?\*/", "", answer.text), "nothing is fetched from elsewhere"
    for path in ("/board/static/../app.py", "/board/static/board.css", "/board/static/x/board.css"):
        assert (await local.get(path)).status_code == 404


def test_the_wheel_has_templates_and_static_files(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    (built,) = WheelBuilder(str(root)).build(directory=str(tmp_path), versions=["standard"])
    names = set(zipfile.ZipFile(built).namelist())
    folder = root / "stream_app" / "board"
    for kind in ("static", "templates"):
        for path in (folder / kind).rglob("*"):
            if path.is_file():
                assert path.relative_to(root).as_posix() in names
