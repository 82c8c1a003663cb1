"""Every link leads somewhere, and every number that is a link leads to exactly that many."""

from __future__ import annotations

import re
from collections import Counter
from html import unescape
from urllib.parse import parse_qs, urljoin, urlsplit

from tests.board.client import PAGES, Client

_LINK = re.compile(r'<a\b[^>]*\bhref="([^"]*)"[^>]*>(.*?)</a>', re.S)
_NUMBER = re.compile(r"(?:^|\s)(\d[\d,]*)(?:\s|$)")
_MOST = 30
"""Pages of one kind that are asked for: leads, and the later pages of lists."""


def links(url: str, text: str) -> list[tuple[str, str]]:
    """Absolute paths and texts of the links of a page."""
    found = [(urljoin(url, unescape(href)), re.sub(r"<[^>]*>", "", inner)) for href, inner in _LINK.findall(text)]
    return [(href, inner) for href, inner in found if href.startswith("/board")]


async def test_every_link_on_every_page_is_answered(local: Client) -> None:
    seen: set[str] = set()
    kinds: Counter[str] = Counter()
    waiting = list(PAGES)
    while waiting:
        url = waiting.pop().partition("#")[0]
        parts = urlsplit(url)
        kind = "after" if "after" in parse_qs(parts.query) else parts.path.rpartition("/")[0]
        if url in seen or kinds[kind] >= _MOST:
            continue
        seen.add(url)
        kinds[kind] += kind in ("after", "/board/leads")
        answer = await local.get(url)
        # A workspace that only a lead names has no lane.
        assert answer.status_code == (404 if "%3Cscript" in parts.path else 200), url
        waiting += [href for href, _ in links(url, answer.text)]
    assert len(seen) > len(PAGES)


async def test_every_number_that_is_a_link_leads_to_exactly_that_many(local: Client) -> None:
    counted: dict[str, int] = {}
    checked: Counter[str] = Counter()
    for url in PAGES:
        for href, inner in links(url, (await local.get(url)).text):
            number = _NUMBER.search(inner)
            if number is None:
                continue
            if href not in counted:
                counted[href] = await count(local, href)
            assert counted[href] == int(number[1].replace(",", "")), f"{url} links {inner.strip()!r} to {href}"
            checked[urlsplit(href).path] += 1
    assert {"/board", "/board/leads", "/board/lanes", "/board/dead", "/board/books"} <= set(checked)
    assert checked["/board/leads"] > 20


async def count(client: Client, href: str) -> int:
    """How many a page has: its rows if it is a list, the sum of its chart, or the number at the place in it."""
    parts = urlsplit(href)
    text = (await client.get(href)).text
    if parts.fragment == "throughput":
        return sum(numbers(r'<span class="key [^"]*">[^<]*<b>([\d,]+)</b>', text))
    if parts.fragment:
        place = text[text.index(f'id="{parts.fragment}"') :]
        return numbers(r">([\d,]+)<", place)[0]
    if parts.path == "/board/leads":
        rows = await all_rows(client, href, r"<tr><th scope=\"row\"><a href=\"/board/leads/")
        assert numbers(r"<h1>([\d,]+)", text) == [rows], href
        return rows
    if parts.path == "/board/lanes" and parts.query:
        return await all_rows(client, href, r"<th scope=\"row\"><a href=\"/board/lanes/")
    if parts.path == "/board/lanes":
        return sum(numbers(r"([\d,]+) of [\d,]+ credits today", text))
    if parts.path == "/board/dead":
        return (numbers(r"<h1>([\d,]+)", text) or [0])[0]
    raise AssertionError(f"a number links to {href}: count there what it should count")


def numbers(pattern: str, text: str) -> list[int]:
    return [int(found.replace(",", "")) for found in re.findall(pattern, text)]


async def all_rows(client: Client, url: str, row: str) -> int:
    rows = 0
    while url:
        text = (await client.get(url)).text
        rows += len(re.findall(row, text))
        more = re.search(r'rel="next" href="([^"]+)"', text)
        url = unescape(more[1]) if more else ""
    return rows
