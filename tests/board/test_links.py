"""Every page is strict, every link leads somewhere, every count to exactly what it counts, and
every list has pages.
"""

import re
from collections import Counter
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

import msgspec
import pytest
from starlette.routing import Match

from stream_app import board
from stream_app.domain.commands import CommandAnswer
from stream_app.domain.model.messages import RESEND
from stream_app.domain.model.topics import TopicNames
from tests.board.client import PAGES, Client, Html, assert_is_strict, board_with, crawl
from tests.board.clock import DAY_MS, NOW_MS
from tests.board.model_records import Made, dead_letter, event, person, take
from tests.board.scene import fill, model_of, settings_of

_COUNT = re.compile(r'<a class="count" href="([^"]*)"[^>]*>[^<]*?([\d,]+)</a>')
MEASURES = {
    "backlog": {
        "row.waiting.records",
        "page.back",
    },  # a row of the list itself; copies, whose leads are counted elsewhere
    # credits: of a day at Clay, and of its readings
    "books": {
        *("bill.credits", "day.taken", "day.booked", "day.drift", "day.least", "day.most"),
    },
    "dead": {"row.share"},
    # credits; rows of a file, which the gateway does not have, and those of them whose leads count
    # once; leads that are published and that no worker has taken
    "import": {
        "publication.credits",
        "publication.rows",
        "publication.refused",
        "publication.published",
        "publication.records",
        "publication.repeats",
        "part.leads",
        "row.until_now.credits",
    },
    "imports": {
        "publication.credits",
        "publication.rows",
        "publication.refused",
        "publication.published",
    },
    # credits and Actions; rates and scores; calls and submissions, which are not published one by
    # one; repeats of a change, which are folded
    "lane": {
        *("budget.used", "budget.reserved", "budget.cap", "estimate.credits", "estimate.actions"),
        *("view.concurrency", "view.score", "score", "page.worst[0]"),
        *("view.calls", "webhook.count", "view.submissions_left[alias]"),
        *("seen.score", "seen.calls", "told.times"),
    },
    # credits; polls of a run, which are nowhere listed; repeats of a step, and waits of a kind,
    # which are folded
    "lead": {
        "page.lead.booked_in_all",
        "history.credits",
        "history.history.run.polls",
        "step.times",
        "row.times",
    },
    # credits; leads of a day that is over, whose status may have changed since
    "money": {
        *(
            "sums.credits",
            "sums.reported",
            "sums.estimated",
            "sums.saved",
            "sums.enriched",
            "sums.per_lead",
            "sums.refused",
            "row.resent",
            "leads",
        ),
        *(f"page.all.{name}" for name in ("credits", "per_lead", "enriched", "saved")),
        *("page.all.reported", "page.all.estimated"),
        *("page.this_hour", "page.yesterday", "page.today.credits", "page.today.per_lead"),
    },
    "now": {"page.credits.cap"},
    # the tabs, which are links; credits and rates; a chart's own numbers and axis, and its text for
    # screen readers
    # answers of the last hour, day and week
    "parts": {
        "counted.answered",
        *(
            "number",
            "budget.used",
            "budget.reserved",
            "budget.cap",
            "lane.view.score",
        ),
        "lane.view.submissions_left.values()|sum",
        *(
            "tick",
            "value",
            "chart.total",
            "line.rows[-1][1]",
            "row.publication.at_rest",
            "row.publication.leads",
        ),
    },
    # a plan is not stored: the page has the command that lists what it would send
    "plan": {"more.share", "more.plan.done", "more.plan.total", "many"},
    "replay": {"page.share", "r.credits", "r.plan.credits"},
    # partitions, which have no page
    "system": {"page.size_bytes / 1000000", "topic.partitions", "existing.partitions"},
    # rows of a file, which the board keeps only until it has published them
    "upload": {
        *(
            "page.summary.rows",
            "page.summary.ready",
            "page.summary.refused",
            "rows",
            "page.upload.published",
        ),
        *(
            "page.summary.refused - page.upload.rejects|length",
            "page.summary.ready - page.upload.published",
        ),
    },
    "waiting": {"lead.ahead", "page.search.searched", "page.search.left"},  # how far the search is
}
"""What templates print without a link: measures, and what is not kept so that it could be listed.
"""
TRACE = f"https://tempo.example.com/trace/{'ab' * 16}"
"""The only link to another host."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The scene with what is rare: every kind of number is on some page."""
    folder = tmp_path_factory.mktemp("links")
    settings = settings_of(folder)
    fill(folder / "model.sqlite", settings)
    model = model_of(folder / "model.sqlite", settings)
    take(model, *rare())
    model.close()
    return folder


def rare() -> Iterator[Made]:
    names = TopicNames()
    for offset in range(3):
        yield event(
            names,
            f"record:leads/4/{offset}",
            "rejected_invalid",
            1,
            origin=f"leads/4/{offset}",
            workspace="",
        )
    for number, status in enumerate(
        ("callback_unmatched", "callback_unmatched", "of_a_newer_version"),
    ):
        yield event(names, f"crm-rare-{number}", status, 1, origin=f"leads/5/{number}")  # type: ignore[arg-type]  # one is unknown
    for days in (0, 3):
        origin = f"leads/5/{10 + days}"
        at_ms = NOW_MS - days * DAY_MS
        yield event(
            names,
            f"crm-again-{days}",
            "replayed",
            1,
            origin=origin,
            reason=RESEND,
            at_ms=at_ms,
        )
    for offset in range(120):
        yield event(names, "crm-many", "duplicate", 1, origin=f"leads/5/{100 + offset}")
    more = (
        f"d/acme/people/{name}"
        for name in ("crm-many", *(f"crm-{number}" for number in range(60_000, 60_022)))
    )
    yield person(names, "a-person-of-many-leads", "crm-again-0", *more)
    yield Made(names.status, b"x", b"not an event", 0, 7)
    yield Made(names.lanes, b"wayne", b"of a newer version", 0, 8)


def takes_posts(client: Client, url: str) -> bool:
    scope = {"type": "http", "method": "POST", "path": urlsplit(url).path}
    return any(
        route.matches(scope)[0] is Match.FULL and "POST" in (route.methods or ())
        for route in client.board.routes()
    )


async def test_every_page_is_strict_and_leads_nowhere_else_and_each_link_to_its_place(
    local: Client,
) -> None:
    pages: dict[str, Html] = {}
    places: set[tuple[str, str, str]] = set()
    async for url, answer, page in crawl(local, PAGES):
        pages[url] = page
        # A workspace that only a lead names has no lane.
        assert answer.status_code == (404 if "%3Cscript" in urlsplit(url).path else 200), url
        if answer.headers["content-type"].startswith("text/html"):
            assert_is_strict(url, answer, page)
        for link in page.links - {TRACE}:
            target, _, place = urljoin(url, link).partition("#")
            assert re.match(r"/board(?:[/?]|$)", target), f"{url} links to {link}"
            places.add((url, target, place))
        for action in page.posts:
            assert takes_posts(local, urljoin(url, action)), f"{url} sends a form to {action}"
    assert len(pages) > len(PAGES)
    assert TRACE in pages["/board/leads/crm-17"].links
    for url, target, place in places:
        assert not place or target not in pages or place in pages[target].ids, (
            f"{url} links to {target}#{place}"
        )


def test_no_count_is_plain() -> None:
    """Templates print a number with `count`, with `total`, or it is one of `MEASURES`."""
    plain: dict[str, set[str]] = {}
    for path in sorted((Path(board.__file__).parent / "templates").glob("*.html")):
        counts = re.findall(r"\{\{ ((?:(?!\}\}).)*?)\|amount", path.read_text())
        if counts:
            plain[path.stem] = {expression.strip("()") for expression in counts}
    assert plain == MEASURES, (
        "print a count with count(number, href), so that it links to what it counts"
    )


async def test_every_count_leads_to_exactly_that_many(local: Client) -> None:
    counted: dict[str, int] = {}
    checked: Counter[str] = Counter()
    for url in (*PAGES, "/board/leads/crm-many"):
        for href, digits in _COUNT.findall((await local.get(url)).text):
            target = urljoin(url, unescape(href))
            if target not in counted:
                counted[target] = await count(local, target)
            assert counted[target] == int(digits.replace(",", "")), (
                f"{url} links {digits} to {target}"
            )
            parts = urlsplit(target)
            kind = re.sub("^/board/(lanes|replays)/.*", r"/board/\1/*", parts.path)
            checked[kind + ("#" if parts.fragment else "")] += 1
    assert set(checked) == {
        *(
            "/board#",
            "/board/lanes",
            "/board/lanes#",
            "/board/lanes/*#",
            "/board/leads",
            "/board/imports#",
        ),
        *(
            "/board/dead",
            "/board/dead#",
            "/board/dead/records",
            "/board/replays/*",
            "/board/replays/*#",
        ),
        *("/board/waiting", "/board/money#", "/board/system#"),
    }
    assert checked["/board/leads"] > 100


async def count(client: Client, target: str) -> int:
    """How many there are: the rows of a list in all pages, or the numbers at a place, added up."""
    parts = urlsplit(target)
    text = (await client.get(target)).text
    if parts.fragment:
        return await count_at(client, target, text, parts.fragment)
    row = {
        "/board/leads": r'<tr><th scope="row"><a href="/board/leads/',
        "/board/lanes": r'<tr>\s*<th scope="row"><a href="/board/lanes/',
        "/board/dead/records": r'<tr><th scope="row"><code>',
    }.get(parts.path)
    if row is not None:
        return same(total(text), len(await in_all_pages(client, target, row)))
    number = {
        "/board/waiting": r'data-label="Records" class="num">([\d,]+)<',
        "/board/dead": r'data-label="Open" class="num"><b><a [^>]*>([\d,]+)<',
    }.get(parts.path)
    if number is not None:
        return same(total(text), sum(map(integer, await in_all_pages(client, target, number))))
    assert parts.path.startswith("/board/replays/"), (
        f"a number links to {target}: count there what it should count"
    )
    return total(text)


async def count_at(client: Client, target: str, text: str, place: str) -> int:
    """How many there are at a place of a page."""
    at = re.search(rf'<(\w+)[^>]* id="{place}"', text)
    assert at is not None, target
    tag = at[1]
    rest = text[at.start() :]
    inner = rest[: rest.index(f"</{tag}>")]
    if place == "throughput":
        return sum(map(integer, _COUNT_IN_LEGEND.findall(inner)))
    if place == "budgets":
        return sum(
            map(integer, await in_all_pages(client, target, r"([\d,]+) of [\d,]+ credits today")),
        )
    if tag == "ul":
        return inner.count("<li>")
    if tag == "th":  # a column: its cells are added up
        begin = text.rindex("<thead>", 0, at.start())
        column = len(re.findall(r"<th ", text[begin : at.start()]))
        rows = re.findall(
            r"<tr>(.*?)</tr>",
            rest[rest.index("<tbody>") : rest.index("</tbody>")],
            re.S,
        )
        return sum(
            integer(re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.S)[column]) for row in rows
        )
    if tag in ("table", "tbody"):
        return sum(
            map(
                integer,
                re.findall(
                    r'data-label="(?:Leads|Rows)" class="num">(?:<a [^>]*>)?([\d,]+)<',
                    inner,
                ),
            ),
        )
    return integer(re.findall(r'class="(?:total|count)"[^>]*>([\d,]+)<', rest)[0])


_COUNT_IN_LEGEND = re.compile(r'<span class="key [^"]*">[^<]*<a [^>]*>([\d,]+)<')


def total(text: str) -> int:
    """What a page says that it lists."""
    match = re.search(r'<h1>(No) |<span class="total">([\d,]+)</span>', text)
    assert match is not None
    return 0 if match[1] else integer(match[2])


def integer(digits: str) -> int:
    return int(digits.replace(",", ""))


def same(shown: int, listed: int) -> int:
    assert shown == listed
    return listed


async def in_all_pages(client: Client, url: str, pattern: str) -> list[str]:
    """What matches in a page and in those after it."""
    matches: list[str] = []
    while url:
        text = (await client.get(url)).text
        matches += re.findall(pattern, text)
        more = re.search(r'rel="next" href="([^"]+)"', text)
        url = unescape(more[1]) if more else ""
    return matches


ROWS = 50


def made(names: Any, number: int) -> list[Made]:
    """One more row for each list but the one of a cause."""
    at_ms = NOW_MS - number
    name = f"{number:03}"
    more = {"workspace": f"w-{name}", "import_id": f"import-{name}", "at_ms": at_ms}
    what: dict[str, Any] = {
        "kind": "pause",
        "workspace": f"w-{name}",
        "who": f"who-{name}",
        "why": "a test",
        "text": "done",
    }
    answer = CommandAnswer(id=f"c-{name}", partition=0, applied=True, at_ms=at_ms, **what)
    return [
        event(names, f"crm-{name}", "received", 1, number, **more),
        dead_letter(names.dlq, f"reason-{name}", timestamp=at_ms),
        Made(names.audit, b"acme", msgspec.json.encode(answer), offset=number),
    ]


@pytest.mark.parametrize("rows", [ROWS, ROWS + 1])
@pytest.mark.parametrize(
    ("page", "row"),
    [
        ("/board/leads", r'href="/board/leads/(crm-\d+)'),
        ("/board/imports", r"(import-\d+)<"),
        ("/board/books", r"(w-\d+)<"),
        ("/board/audit", r"<code>(c-\d+)<"),
        ("/board/dead", r"(reason-\d+)"),
    ],
)
async def test_a_list_has_fifty_rows_a_page_and_each_row_once(
    tmp_path: Path,
    page: str,
    row: str,
    rows: int,
) -> None:
    pages = []
    url = page
    with board_with(
        tmp_path,
        *(record for number in range(rows) for record in made(TopicNames(), number)),
    ) as client:
        while url:
            text = (await client.get(url)).text
            pages.append(list(dict.fromkeys(re.findall(row, text))))
            following = re.findall(rf'href="({page}\?[^"]*after=[^"]+)"', text)
            url = unescape(following[-1]) if following else ""
            assert len(pages) < 4
    assert [len(listed) for listed in pages] == [min(rows, ROWS)] + [1] * (rows > ROWS), pages
    assert len({listed for some in pages for listed in some}) == rows
