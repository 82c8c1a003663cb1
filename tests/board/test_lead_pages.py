"""The pages of leads: all that they show, and what they ask the read model for."""

from types import SimpleNamespace
from typing import Any, Final
from unittest.mock import Mock, call

import pytest

from stream_app.board.access import AccessRefused
from stream_app.board.charts import Band
from stream_app.board.pages.leads import LeadFilter, _bands, find, lead_page, leads_page
from stream_app.board.read_model.board_query import RecordRow
from stream_app.board.read_model.query import ListPlace
from stream_app.client.results.answers import (
    Day,
    Event,
    FoundLead,
    FoundResult,
    RecordHistory,
    StatusCount,
    Step,
)
from stream_app.domain.books.records import COLUMNS, meaning_of
from stream_app.domain.lead.identity import ids_meant
from stream_app.domain.views.waits import WAIT_NAMES, RecordWait
from tests.board.asked import NOW_MS, asked_queries, moment_of, site_of


def row(number: int, lead_id: str = "") -> RecordRow:
    return RecordRow(
        ListPlace(number, 1),
        lead_id or f"crm-{number}",
        "acme",
        "people",
        "enriched",
        f"leads/0/{number}",
    )


ROWS: Final = [row(number) for number in range(51)]
COUNTS: Final = [
    StatusCount("acme", "people", "enriched", "enriched", 1),
    StatusCount("acme", "people", "partial", "enriched", 2),
    StatusCount("acme", "people", "accepted", "accepted_final", 4),
    StatusCount("acme", "firms", "accepted", "under_way", 8),
    StatusCount("acme", "people", "received", "under_way", 16),
    StatusCount("acme", "people", "of a newer version", "unknown", 32),
    StatusCount("acme", "people", "erased", "", 64),
]
SHOWN: Final = (*COLUMNS[:-1], "unknown")


def tabs(counts: list[StatusCount]) -> list[tuple[str, str, int]]:
    return [
        (name, meaning_of(name), sum(one.leads for one in counts if one.column == name))
        for name in SHOWN
    ]


@pytest.mark.parametrize("rows", [ROWS, ROWS[:50]])
@pytest.mark.parametrize(
    ("query", "of", "statuses", "matches", "final"),
    [
        (
            {},
            None,
            {"enriched", "partial", "accepted", "received", "of a newer version"},
            63,
            None,
        ),
        ({"workspace": "acme", "column": "enriched"}, "acme", {"enriched", "partial"}, 3, False),
        ({"column": "accepted_final", "after": "7-8"}, None, {"accepted"}, 4, True),
        ({"column": "under_way"}, None, {"accepted", "received"}, 24, False),
        ({"unnamed": "1", "column": "unknown"}, "", {"of a newer version"}, 32, False),
        (
            {"workspace": "acme", "unnamed": "1", "status": "erased"},
            "",
            {"erased"},
            64,
            None,
        ),
        ({"status": "partial,erased"}, None, {"partial", "erased"}, 66, None),
    ],
)
def test_all_of_the_list_of_leads(
    query: dict[str, str],
    of: str | None,
    statuses: set[str],
    matches: int,
    final: bool | None,
    rows: list[RecordRow],
) -> None:
    queries = asked_queries(status_sums=COUNTS, records=rows)
    assert leads_page(site_of(queries), moment_of(), query) == {
        "rows": rows[:50],
        "filter": LeadFilter(**{name: text for name, text in query.items() if name != "after"}),
        "columns": tabs(COUNTS),
        "matches": matches,
        "all": 63,
        "is_new": False,
        "after": ListPlace(49, 1) if len(rows) > 50 else None,
    }
    after = ListPlace(7, 8) if "after" in query else None
    assert queries.mock_calls == [
        call.status_sums(of),
        call.records(of, statuses, after, 51, final=final, imported=0),
    ]


def test_all_of_the_leads_of_an_import() -> None:
    queries = asked_queries(import_counts=(5, COUNTS), records=ROWS[:2])
    query = {"workspace": "acme", "import_id": "march", "column": "enriched"}
    page: Any = leads_page(site_of(queries), moment_of(), query)
    assert page["rows"] == ROWS[:2]
    assert page["matches"] == 3
    assert page["columns"] == tabs(COUNTS)
    assert queries.mock_calls == [
        call.import_counts("acme", "march"),
        call.records("acme", {"enriched", "partial"}, None, 51, final=False, imported=5),
    ]


def test_where_nothing_matches_nothing_is_asked() -> None:
    queries = asked_queries(status_sums=COUNTS)
    page: Any = leads_page(site_of(queries), moment_of(), {"column": "held"})
    assert page["rows"] == []
    assert page["matches"] == 0
    assert page["after"] is None
    assert page["all"] == 63
    assert queries.mock_calls == [call.status_sums(None)]


def test_all_of_the_leads_of_a_person() -> None:
    queries = asked_queries(leads_of=["crm-1", "crm-2"], now_of=ROWS)
    query = {"person": "hash", "after": "1-2", "lead_id": "crm-9"}
    assert leads_page(site_of(queries), moment_of(), query) == {
        "rows": ROWS,
        "filter": LeadFilter(person="hash", lead_id="crm-9"),
        "matches": 51,
        "after": None,
    }
    assert queries.mock_calls == [call.leads_of("hash"), call.now_of(["crm-1", "crm-2"])]


@pytest.mark.parametrize("rows", [ROWS, ROWS[:50]])
def test_all_of_the_records_of_a_lead(rows: list[RecordRow]) -> None:
    queries = asked_queries(records_of_lead=(99, rows))
    query = {"lead_id": "crm-1", "after": "7-8", "resent": "all"}
    assert leads_page(site_of(queries), moment_of(), query) == {
        "rows": rows[:50],
        "filter": LeadFilter(lead_id="crm-1", resent="all"),
        "matches": 99,
        "after": ListPlace(49, 1) if len(rows) > 50 else None,
    }
    assert queries.mock_calls == [call.records_of_lead("crm-1", ListPlace(7, 8), 51)]


def day(at_s: int, resent: int) -> Day:
    return Day("", "", at_s, 100, 200, resent, 300, 400)


DAYS: Final = [day(1_790_035_200, 3), day(1_789_948_800, 5)]


@pytest.mark.parametrize(
    ("resent", "matches", "begin_s"),
    [
        ("all", 8, None),
        ("2026-09-22", 3, 1_790_035_200),
        ("2026-09-21", 5, 1_789_948_800),
    ],
)
def test_all_that_was_sent_again(resent: str, matches: int, begin_s: int | None) -> None:
    queries = asked_queries(days=DAYS, resent=ROWS[:3])
    page: Any = leads_page(site_of(queries), moment_of(), {"resent": resent, "after": "7-8"})
    assert page == {
        "rows": ROWS[:3],
        "filter": LeadFilter(resent=resent),
        "matches": matches,
        "after": None,
    }
    assert queries.mock_calls == [call.days(""), call.resent(begin_s, ListPlace(7, 8), 51)]


def test_on_an_unknown_day_nothing_was_sent_again() -> None:
    queries = asked_queries(days=DAYS)
    page: Any = leads_page(site_of(queries), moment_of(), {"resent": "2026-09-20"})
    assert page["rows"] == []
    assert page["matches"] == 0
    assert queries.mock_calls == [call.days("")]


def known(*lead_ids: str, of_person: tuple[str, ...] = ()) -> Any:
    queries = asked_queries(leads_of=list(of_person))
    queries.lead.side_effect = lambda lead_id, now_ms: lead_id if lead_id in lead_ids else None
    return queries


PERSON: Final = "/board/leads?person="


ADA: Final = "ada@example.com"
OF_ADA: Final = ids_meant(ADA)[-1]
"""An id that the text may mean beside the person."""


@pytest.mark.parametrize(
    ("text", "of_person", "known_ids", "path"),
    [
        (ADA, ("a", "gone"), ("a",), "/board/leads/a"),
        (ADA, ("a", "gone"), ("a", OF_ADA), "/board/leads/a"),
        (ADA, ("a", "b"), ("a", "b"), PERSON),
        (ADA, ("a", "b"), ("a", "b", OF_ADA), PERSON),
        (ADA, ("gone", "gone, too"), (), PERSON),
        (ADA, ("gone", "gone, too"), (OF_ADA,), f"/board/leads/{OF_ADA}"),
        (ADA, (), (), PERSON),
        (ADA, (), (OF_ADA,), f"/board/leads/{OF_ADA}"),
        ("crm-1", (), ("crm-1",), "/board/leads/crm-1"),
        ("crm-1", (), (), "/board/leads/crm-1"),
        ("", (), (), "/board/leads"),
    ],
)
def test_where_a_search_leads(
    text: str,
    of_person: tuple[str, ...],
    known_ids: tuple[str, ...],
    path: str,
) -> None:
    queries = known(*known_ids, of_person=of_person)
    address = find(site_of(queries), text, NOW_MS)
    if path == PERSON:
        assert address.startswith(PERSON)
    else:
        assert address == path
    assert "@" not in address
    assert all(asked.args[1] == NOW_MS for asked in queries.lead.mock_calls)


def test_of_the_ids_that_a_text_may_mean_the_known_one_is_shown() -> None:
    text = f"h-{'x' * 22}"
    ours, hashed = ids_meant(text)
    assert find(site_of(known(hashed)), text, NOW_MS) == f"/board/leads/{hashed}"
    assert find(site_of(known(ours, hashed)), text, NOW_MS) == f"/board/leads/{ours}"


def event(seq: int, status: str, at_ms: int, credits_: int | None = None) -> Event:
    return Event(seq, at_ms, status, "", "", None, 0, 0, 0, None, credits_)


def wait(kind: Any, begin_ms: int, end_ms: int | None, text: str = "") -> RecordWait:
    return RecordWait(kind, "", text, begin_ms, end_ms, None)


BEGIN_MS: Final = NOW_MS - 100_000
WAITS: Final = [
    wait("queue", BEGIN_MS, BEGIN_MS + 10_000, "on Kafka"),
    wait("retry", BEGIN_MS + 10_000, BEGIN_MS + 30_000),
    wait("outage", BEGIN_MS + 30_000, BEGIN_MS + 40_000, "Clay fails"),
    wait("retry", BEGIN_MS + 40_000, BEGIN_MS + 60_000, "again"),
    wait("callback", BEGIN_MS + 60_000, None),
]
EVENTS: Final = [
    event(1, "received", BEGIN_MS),
    event(2, "sending", BEGIN_MS + 5_000, 7),
    event(3, "accepted", BEGIN_MS + 9_000, 4),
]
RESULT: Final = FoundResult("acme", "people", "clay", 1, NOW_MS, 5, {"a": 1}, "")


def history(
    events: list[Event],
    waits: list[RecordWait],
    column: str = "under_way",
) -> RecordHistory:
    return RecordHistory(
        "leads/0/1",
        "acme",
        "people",
        "accepted",
        column,
        NOW_MS,
        "trace",
        events,
        waits,
    )


def bands(tone: str, *bands: tuple[float, float, str]) -> list[Band]:
    return [Band(x, width, tone, text) for x, width, text in bands]


def test_all_of_the_page_of_a_lead() -> None:
    moving = history(EVENTS, WAITS)
    ended = history([], [], "enriched")
    lead = FoundLead("crm-1", [moving, ended], 2, [RESULT])
    people = {"p1": ["crm-1"], "p2": [f"crm-{number}" for number in range(23)]}
    rows = {"crm-1": [row(1)], "p1": [row(1)], "p2": [row(number) for number in range(23)]}
    queries = asked_queries(
        lead=lead,
        people_of=["p1", "p2"],
        results=[SimpleNamespace(result=RESULT)],
    )
    queries.leads_of.side_effect = people.get
    queries.now_of.side_effect = lambda ids: rows["crm-1"] if len(ids) == 1 else rows["p2"]
    site = site_of(queries, board=SimpleNamespace(trace_url="https://traces/{trace_id}"))
    page = lead_page(site, moment_of(), {"lead_id": "crm-1"})
    assert page == {
        "lead_id": "crm-1",
        "lead": lead,
        "now": [row(1)],
        "histories": [
            {
                "history": moving,
                "steps": [
                    Step(EVENTS[0], None, 1, BEGIN_MS),
                    Step(EVENTS[1], 5_000, 1, BEGIN_MS + 5_000),
                    Step(EVENTS[2], 4_000, 1, BEGIN_MS + 9_000),
                ],
                "meaning": meaning_of("under_way"),
                "credits": 11,
                "length_ms": 100_000,
                "waits": [
                    {
                        "name": WAIT_NAMES["queue"],
                        "bands": bands("moving", (0.0, 10.0, "10 s: on Kafka")),
                        "times": 1,
                        "begin_ms": BEGIN_MS,
                        "end_ms": BEGIN_MS + 10_000,
                        "length_ms": 10_000,
                    },
                    {
                        "name": WAIT_NAMES["retry"],
                        "bands": bands("bad", (10.0, 20.0, "20 s"), (40.0, 20.0, "20 s: again")),
                        "times": 2,
                        "begin_ms": BEGIN_MS + 10_000,
                        "end_ms": BEGIN_MS + 60_000,
                        "length_ms": 40_000,
                    },
                    {
                        "name": WAIT_NAMES["outage"],
                        "bands": bands("bad", (30.0, 10.0, "10 s: Clay fails")),
                        "times": 1,
                        "begin_ms": BEGIN_MS + 30_000,
                        "end_ms": BEGIN_MS + 40_000,
                        "length_ms": 10_000,
                    },
                    {
                        "name": WAIT_NAMES["callback"],
                        "bands": bands("moving", (60.0, 40.0, "40 s")),
                        "times": 1,
                        "begin_ms": BEGIN_MS + 60_000,
                        "end_ms": None,
                        "length_ms": 40_000,
                    },
                ],
                "now": WAITS[-1],
            },
            {
                "history": ended,
                "steps": [],
                "meaning": meaning_of("enriched"),
                "credits": 0,
                "length_ms": 0,
                "waits": [],
                "now": None,
            },
        ],
        "same_person": {
            "person": "p2",
            "leads": 23,
            "others": [row(number) for number in range(23) if number != 1][:20],
        },
        "results": [RESULT],
        "shown": False,
        "trace_url": "https://traces/{trace_id}",
    }
    assert queries.mock_calls == [
        call.lead("crm-1", NOW_MS),
        call.now_of(["crm-1"]),
        call.people_of("crm-1"),
        call.leads_of("p1"),
        call.now_of(["crm-1"]),
        call.leads_of("p2"),
        call.now_of(people["p2"]),
        call.results("crm-1"),
    ]


@pytest.mark.parametrize("rows", [{}, {"p1": [row(1, "crm-1"), row(2, "crm-1")]}])
def test_a_lead_whose_person_has_no_other_one(rows: dict[str, list[RecordRow]]) -> None:
    queries = asked_queries(lead=FoundLead("crm-1", [], 0, []), people_of=list(rows))
    queries.leads_of.side_effect = lambda person: [person]
    queries.now_of.side_effect = lambda ids: rows.get(ids[0], [])
    site = site_of(queries, board=SimpleNamespace(trace_url=None))
    page = lead_page(site, moment_of(), {"lead_id": "crm-1"}, [RESULT])
    assert page["same_person"] is None
    assert page["histories"] == []
    assert page["results"] == [RESULT]
    assert page["shown"] is True
    assert page["trace_url"] == ""
    queries.results.assert_not_called()


def test_an_unknown_lead() -> None:
    queries = asked_queries(lead=None, now_of=[], results=[])
    site = site_of(queries, board=SimpleNamespace(trace_url=None))
    page = lead_page(site, moment_of(), {"lead_id": "crm-1"})
    assert page["lead"] is None
    assert page["histories"] == []
    assert page["same_person"] is None
    assert page["results"] == []
    queries.people_of.assert_not_called()


def test_an_address_is_no_lead_id() -> None:
    with pytest.raises(AccessRefused):
        lead_page(site_of(Mock()), moment_of(), {"lead_id": "ada@example.com"})


@pytest.mark.parametrize(
    ("kind", "tone"),
    [
        ("budget", "warn"),
        ("pause", "warn"),
        ("replay", "warn"),
        ("person", "warn"),
        ("outage", "bad"),
        ("retry", "bad"),
        ("rest", "track"),
        ("queue", "moving"),
        ("rate", "moving"),
        ("POST", "moving"),
        ("callback", "moving"),
    ],
)
def test_each_kind_of_wait_has_its_colour(kind: Any, tone: str) -> None:
    made = history([], [wait(kind, NOW_MS - 1_000, NOW_MS)])
    queries = asked_queries(lead=FoundLead("x", [made], 1, []), people_of=[], results=[])
    site = site_of(queries, board=SimpleNamespace(trace_url=None))
    page: Any = lead_page(site, moment_of(), {"lead_id": "x"})
    [row_] = page["histories"][0]["waits"]
    assert row_["bands"] == [Band(0.0, 100.0, tone, "1.0 s")]
    assert row_["name"] == WAIT_NAMES[kind]


def test_a_history_without_length_is_drawn() -> None:
    made = history([], [wait("rate", NOW_MS, NOW_MS)])
    queries = asked_queries(lead=FoundLead("x", [made], 1, []), people_of=[], results=[])
    site = site_of(queries, board=SimpleNamespace(trace_url=None))
    page: Any = lead_page(site, moment_of(), {"lead_id": "x"})
    [timeline] = page["histories"]
    assert timeline["length_ms"] == 0
    assert timeline["waits"][0]["bands"] == [Band(0.0, 0.4, "moving", "0 ms")]


@pytest.mark.parametrize(
    ("gap_ms", "drawn"),
    [
        (39, [Band(0.0, 2.04, "warn", "100 ms")]),
        (41, [Band(0.0, 1.0, "warn", "100 ms"), Band(1.41, 0.63, "warn", "63 ms")]),
    ],
)
def test_waits_whose_gap_cannot_be_seen_are_one_band(gap_ms: int, drawn: list[Band]) -> None:
    begin_ms = 500 + 100 + gap_ms
    waits = [wait("pause", 500, 600), wait("pause", begin_ms, 704)]
    assert _bands(waits, "warn", 500, 10_000, 10_000) == drawn


def test_a_wait_within_an_earlier_band_makes_it_no_shorter() -> None:
    """A narrow band is drawn wider than its wait, which may cover all of the next one."""
    waits = [wait("pause", 0, 1), wait("pause", 10, 12), wait("pause", 13, 14)]
    assert _bands(waits, "warn", 0, 10_000, 10_000) == [Band(0.0, 0.4, "warn", "1 ms")]
