"""Pages say what they count as an operator would: one lead is no leads, and a code is no word."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from stream_app.cli.books import books_table
from stream_app.domain.books.money import BooksReport
from stream_app.domain.books.records import COLUMNS, MEANING, StatusCount
from stream_app.domain.model.messages import ImportSummary
from stream_app.domain.model.topics import TopicNames
from tests.board.client import Client, board_with, plain
from tests.board.clock import MINUTE_MS, NOW_MS
from tests.board.model_records import Made, dead_letter, event
from tests.board.replays import replays

_NAMES = TopicNames()
_WHERE: dict[str, Any] = {"workspace": "acme", "destination": "acme-people", "at_ms": NOW_MS - MINUTE_MS}
_SEVERAL = re.compile(
    r"\b1 (?:[a-z]+ )?(?:leads|records|letters|rows|credits|lanes|causes|answers|copies|calls|submissions|days|times)\b"
)
_PARKED = "/board/dead/records?from=parked&kind=failed&workspace=acme&destination=acme-people&reason=http_503"
_PAGES = (
    *("/board", "/board/lanes/acme", "/board/leads", "/board/leads?status=parked", "/board/imports", "/board/money"),
    *("/board/imports?workspace=acme&id=one", "/board/dead", "/board/dead?from=parked", "/board/books", "/board/audit"),
    "/board/dead/records?from=dlq&kind=failed&workspace=acme&destination=acme-people&reason=http_503",
    _PARKED,
    *(f"/board/replays/r-{number}b9c40e1f2a" for number in range(4)),
)


def one_of_each() -> Iterator[Made]:
    """One lead of an import, one that is parked, one dead letter that is open, and one that comes back."""
    summary = ImportSummary(rows=1, refused=1, leads=1, file="one.csv", who="jane")
    yield event(_NAMES, "crm-1", "received", 1, origin="leads/0/1", import_id="one", import_summary=summary, **_WHERE)
    yield event(_NAMES, "crm-1", "enriched", 2, origin="leads/0/1", credits=1, saved=1, **_WHERE)
    yield event(_NAMES, "crm-2", "parked", 1, origin="leads/0/2", **_WHERE)
    yield dead_letter(_NAMES.dlq, timestamp=NOW_MS, destination="acme-people")
    yield dead_letter(_NAMES.dlq, timestamp=NOW_MS, offset=1, destination="acme-people", returns="yes")
    yield dead_letter(_NAMES.parked, timestamp=NOW_MS, destination="acme-people")
    for number, made in enumerate(replays(NOW_MS, "once")):
        value = (made.value or b"").replace(b'"total":167', b'"total":1').replace(b'"credits":334', b'"credits":1')
        yield Made(made.topic, made.key, value, 0, number)


@pytest.fixture
def one(tmp_path: Path) -> Iterator[Client]:
    with board_with(tmp_path, *one_of_each()) as client:
        yield client


async def test_one_lead_is_no_leads(one: Client) -> None:
    several: dict[str, list[str]] = {}
    for url in _PAGES:
        answer = await one.get(url)
        assert answer.status_code == 200, url
        text = " ".join(plain(answer.text.split("<main", 1)[1]).split())
        if wrong := [text[match.start() : match.end() + 20] for match in _SEVERAL.finditer(text)]:
            several[url] = wrong
    assert several == {}


async def test_a_parked_lead_may_be_at_clay(one: Client) -> None:
    for url in ("/board/dead?from=parked", _PARKED):
        text = plain((await one.get(url)).text)
        assert "it may be at Clay" in text, url
        assert "Clay did not take it" not in text, url


async def test_the_heading_of_leads_says_which(one: Client) -> None:
    for words, heading in (
        ("column=enriched", "1 lead, enriched"),
        ("status=parked&workspace=acme", "1 lead in acme, parked"),
        ("column=enriched&workspace=acme&import_id=one", "1 lead in acme of import one, enriched"),
        ("status=dead_lettered,deferred", "0 leads, dead lettered or deferred"),
        ("lead_id=crm-1", "1 record of crm-1"),
    ):
        text = (await one.get(f"/board/leads?{words}")).text
        assert plain(text.split("<h1>", 1)[1].split("</h1>", 1)[0]) == heading


async def test_columns_have_the_names_that_the_command_prints(one: Client) -> None:
    """`stream-app books` prints these names, and pages, charts and filters show the same."""
    text = (await one.get("/board/books")).text
    rows = re.findall(r'<th scope="row">([^<]*)</th><td data-label="Leads"', text)
    table = books_table(BooksReport(columns={name: StatusCount() for name in COLUMNS}))
    assert rows == [row[0] for row in table.rows][1:]
    assert len(set(rows) & set(MEANING.values())) == 0, "a meaning says more than the name"
