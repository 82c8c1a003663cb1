"""A client of the board, and the pages that it asks for."""

import re
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urljoin, urlsplit

import httpx
from starlette.applications import Starlette

from stream_app.board.access import COOKIE, LOCAL
from stream_app.board.app import BoardRoutes
from tests.board.model_records import Made, take
from tests.board.scene import HASH, HOSTILE, TOKEN, board_of, fill, model_of, settings_of

HERE = "http://127.0.0.1:9107"
OWN = {"sec-fetch-site": "same-origin"}
BEARER = {"authorization": f"Bearer {TOKEN}"}
CAUSE = (
    "/board/dead/records?from=dlq&kind=failed&workspace=initech&destination=initech-people&reason=http_503"
    "&http_status=503"
)
"""The dead letters of the most frequent cause."""
PAGES = (
    *(
        "/board",
        "/board?span=hour",
        "/board/lanes",
        "/board/lanes?state=held&begins=a",
        "/board/lanes/acme",
    ),
    *(
        "/board/lanes/initech?span=hour",
        "/board/lanes/stark",
        "/board/lanes/hooli",
        "/board/lanes?state=part",
        "/board/leads",
        "/board/leads?column=parked",
    ),
    *(
        "/board/leads?status=enriched&workspace=acme",
        f"/board/leads?person={HASH}",
        "/board/leads/crm-17",
    ),
    *("/board/leads/crm-html", "/board/leads/unknown", "/board/waiting?lead_id=crm-waits"),
    *(
        f"/board/waiting?person={HASH}",
        "/board/dead",
        "/board/dead?from=parked&workspace=umbrella",
        "/board/books",
    ),
    *("/board/money", "/board/money?workspace=acme&day=2026-09-21"),
    *(f"/board/replays/r-{number}b9c40e1f2a" for number in range(4)),
    "/board/replays/r-unknown",
    *(
        "/board/imports",
        "/board/imports?workspace=initech",
        "/board/imports?workspace=initech&id=2026-09-21-kfdwzp",
    ),
    *(
        "/board/imports?workspace=acme&id=unknown",
        "/board/imports?workspace=hooli&id=webinar",
        "/board/leads?workspace=initech&import_id=2026-09-21-kfdwzp",
    ),
    *("/board/audit", "/board/audit?workspace=acme", "/board/audit?id=c-0001", "/board/system"),
    *(
        "/board/waiting",
        "/board/waiting?partition=0",
        "/board/waiting?topic=leads",
        "/board/lanes?state=unreadable",
    ),
    *(
        "/board/leads?unnamed=yes",
        "/board/leads?status=dead_lettered,deferred",
        CAUSE,
        f"{CAUSE}&span=day",
    ),
)


class Html(HTMLParser):
    """Notes what a strict content security policy forbids, the links, and the ids of a page.

    What a form sends by POST is not a link: a crawler asks with GET.
    """

    def __init__(self, text: str) -> None:
        super().__init__()
        self.forbidden: list[str] = []
        self.links: set[str] = set()
        self.posts: set[str] = set()
        self.ids: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.forbidden += [
            name for name in given if name == "style" or name.startswith(("on", "hx-on"))
        ]
        self.forbidden += [f"inline {tag}"] * (tag in ("script", "style") and "src" not in given)
        self.links |= {given[name] for name in ("href", "src", "hx-get") if name in given}
        if "action" in given:
            (self.posts if given["method"] == "post" else self.links).add(given["action"])
        self.ids += [given["id"]] if "id" in given else []


def assert_is_strict(url: str, answer: httpx.Response, page: Html) -> None:
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self';"), url
    assert "unsafe" not in policy, url
    assert answer.headers["cache-control"] == "no-store", url
    assert page.forbidden == [], url
    assert len(page.ids) == len(set(page.ids)), f"{url}: an id is there twice"
    assert HOSTILE not in answer.text, f"{url}: text from outside is escaped"
    assert "ada@example.com" not in answer.text, f"{url}: personal data is shown on request only"
    assert answer.text.count("<h1") == 1, url


def plain(text: str) -> str:
    """What a page says, without its tags."""
    return unescape(re.sub(r"<[^>]*>", "", text))


def digest_on(page: str) -> str:
    """Return what the button that publishes a file carries; '' on a page without it."""
    match = re.search(r'name="digest" value="(\w+)"', page)
    return match[1] if match else ""


@contextmanager
def board_with(
    folder: Path,
    *records: Made,
    filled: bool = False,
    **of_settings: Any,
) -> Iterator["Client"]:
    """Yield a client of a board over these records. `filled`: over the scene as well."""
    settings = settings_of(folder, **of_settings)
    path = folder / "model.sqlite"
    if filled:
        fill(path, settings)
    model = model_of(path, settings)
    take(model, *records)
    model.close()
    with closing(board_of(settings, path)) as board:
        yield Client(board)


class Client:
    """A browser without JavaScript: it keeps cookies, and says where a request comes from.

    To a board without a configured token it comes with the session that a ticket begins.
    """

    def __init__(self, board: BoardRoutes) -> None:
        self.board = board
        access = board._access
        self.cookies: dict[str, str] = (
            {COOKIE: access.session(LOCAL, "viewer")} if access.made_here else {}
        )

    async def ask(self, method: str, url: str, **more: Any) -> httpx.Response:
        base_url = more.pop("base_url", HERE)
        headers = more.pop("headers", {})
        transport = httpx.ASGITransport(Starlette(routes=self.board.routes()))
        async with httpx.AsyncClient(
            transport=transport,
            base_url=base_url,
            cookies=self.cookies,
        ) as client:
            return await client.request(method, url, headers=headers, **more)

    async def get(self, url: str, **more: Any) -> httpx.Response:
        return await self.ask("GET", url, **more)

    async def login(self, token: str = TOKEN, **more: Any) -> httpx.Response:
        form = {"token": token, "who": more.pop("who", "jane"), "next": "/board/lanes"}
        headers = OWN | more.pop("headers", {})
        answer = await self.ask("POST", "/board/login", data=form, headers=headers, **more)
        self.cookies = dict(answer.cookies)
        return answer


async def crawl(
    client: Client,
    urls: Iterable[str],
) -> AsyncIterator[tuple[str, httpx.Response, Html]]:
    """Yield these pages, and those that they link to: ten of the leads, and of the later pages of
    each list.
    """
    waiting = list(urls)
    seen = set[str]()
    kinds = Counter[str]()
    while waiting:
        url = waiting.pop().partition("#")[0]
        parts = urlsplit(url)
        kind = (
            f"later {parts.path}"
            if "after" in parse_qs(parts.query)
            else parts.path.rpartition("/")[0]
        )
        if url in seen or (kinds[kind] >= 10 and url not in PAGES):
            continue
        seen.add(url)
        kinds[kind] += kind == "/board/leads" or kind.startswith("later")
        answer = await client.get(url)
        page = Html(answer.text if answer.headers["content-type"].startswith("text/html") else "")
        yield url, answer, page
        waiting += [
            target for link in page.links if (target := urljoin(url, link)).startswith("/board")
        ]


ClientOf = Callable[..., Client]
"""What the fixture `client_of` is."""
