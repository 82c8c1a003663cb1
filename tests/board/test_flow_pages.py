"""The pages of imports, of what waits, of the books and of commands: all that they show, and what
they ask for.
"""

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any, Final
from unittest.mock import Mock, call

import pytest

from stream_app.board.pages import flow
from stream_app.board.pages.flow import (
    audit_page,
    backlog_page,
    books_page,
    import_page,
    imports_page,
    row_of,
    waiting_page,
)
from stream_app.board.read_model.board_query import CommandFilter
from stream_app.board.read_model.on_kafka import FoundRecord, Search
from stream_app.board.read_model.query import ListPlace
from stream_app.client.results.answers import Bill, FoundImport, StatusCount
from stream_app.domain.books.bill import COMPARE_BY_HAND, billed_days
from stream_app.domain.books.records import COLUMN_MEANING, COLUMNS, MOVING, meaning_of
from stream_app.domain.commands import REPLAY_RELOAD
from stream_app.domain.limits.balance import Booked, Reading
from stream_app.domain.plan import Workspace
from stream_app.kafka.backlog import Waiting
from tests.board.asked import NOW_MS, asked_queries, moment_of, site_of
from tests.board.clock import DAY_MS


def publication(**columns: int) -> FoundImport:
    return FoundImport("march", "acme", 1, 2, "jane", "a.csv", 9, 1, 8, columns, 40)


MARCH: Final = publication(enriched=3, parked=1)


@pytest.mark.parametrize(
    ("query", "workspace", "after"),
    [({}, "", None), ({"workspace": "acme", "after": "5-6"}, "acme", ListPlace(5, 6))],
)
def test_all_of_the_list_of_imports(query: Any, workspace: str, after: Any) -> None:
    april = publication(held=2)
    queries = asked_queries(imports=([MARCH, april], ListPlace(7, 8)))
    assert imports_page(site_of(queries), moment_of(), query) == {
        "rows": [row_of(MARCH), row_of(april)],
        "workspace": workspace,
        "after": ListPlace(7, 8),
    }
    assert queries.mock_calls == [call.imports(workspace, "", after, 50)]


@pytest.mark.parametrize(("imports", "known"), [([MARCH], True), ([], False)])
def test_all_of_the_page_of_an_import(imports: list[FoundImport], known: bool) -> None:
    ends = {"accepted": 3, "parked": 2, "rejected_invalid": 1, "dead_lettered": 4}
    counts = [StatusCount("acme", "people", end, "", many) for end, many in ends.items()]
    queries = asked_queries(imports=(imports, None), import_counts=(1, counts if known else []))
    site = site_of(queries, workspaces={"acme": 1} if known else {})
    plan = "/board/dead/act/plan?from={}&workspace=acme&import_id=march"
    plans = [(plan.format("dlq"), "dead letters"), (plan.format("parked"), "parked leads")]
    assert import_page(site, moment_of(), {"workspace": "acme", "id": "march"}) == {
        "workspace": "acme",
        "import_id": "march",
        "row": row_of(MARCH) if known else None,
        "plans": plans if known else [],
        "may_join": known,
        "most_mb": 50,
    }
    assert queries.mock_calls == [
        call.imports("acme", "march", None, 1),
        call.import_counts("acme", "march"),
    ]


def test_each_column_of_an_import_has_its_colour_and_its_group() -> None:
    columns = {name: 2**place for place, name in enumerate((*COLUMNS, "z", "newer"))}
    leads = sum(columns.values()) - columns["duplicate"]
    row: Any = row_of(publication(**columns))
    x = 0.0
    expected = []
    for name in (*COLUMNS, "newer", "z"):
        if name == "duplicate":
            continue
        colour = {
            "enriched": "enriched",
            "accepted_final": "enriched",
            "served_from_cache": "cache",
            "served_locally": "cache",
            "rejected": "refused",
            "parked": "failed",
            "held": "held",
            "under_way": "moving",
            "waiting": "track",
        }.get(name, "nodata")
        expected.append(
            {
                "column": name,
                "meaning": meaning_of(name),
                "colour": colour,
                "leads": columns[name],
                "x": pytest.approx(x / leads * 100, abs=0.006),
                "width": pytest.approx(columns[name] / leads * 100, abs=0.006),
            },
        )
        x += columns[name]
    assert row["parts"] == expected
    moving = sum(columns[name] for name in MOVING)
    assert moving > 0
    at_rest = leads - moving
    shown = row["publication"]
    assert shown.leads == leads
    assert shown.at_rest == at_rest
    assert shown.percent_at_rest == at_rest * 100 // leads
    assert row["groups"] == [
        (
            "At rest",
            "at-rest",
            at_rest,
            [part for part in row["parts"] if part["column"] not in MOVING],
        ),
        (
            "Not at rest",
            "moving",
            moving,
            [part for part in row["parts"] if part["column"] in MOVING],
        ),
    ]
    assert row["publication"].columns == columns


@pytest.mark.parametrize(
    ("columns", "share"),
    [
        ({}, 0),
        ({"enriched": 199, "held": 1}, 99),
        ({"enriched": 1}, 100),
        ({"held": 1}, 0),
        ({"held": 1, "duplicate": 9}, 0),
        ({"duplicate": 9}, 100),
    ],
)
def test_an_import_is_done_only_when_all_of_its_leads_are(
    columns: dict[str, int],
    share: int,
) -> None:
    assert publication(**columns).percent_at_rest == share


def record(workspace: str, partition: int, offset: int) -> FoundRecord:
    return FoundRecord("crm-1", workspace, "test.leads", partition, offset, NOW_MS - 5, 4)


@pytest.mark.parametrize("is_known", [True, False])
def test_all_of_a_search_of_what_waits(is_known: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    waiting_lead = Mock(side_effect=["first", "second", "third"])
    monkeypatch.setattr(flow, "waiting_lead", waiting_lead)
    records = [record("acme", 1, 7), record("beta", 2, 8), record("acme", 1, 9)]
    search = Search(records, searched=10)
    queries = asked_queries()
    queries.lane.side_effect = lambda name, now_ms: "view of acme" if name == "acme" else None
    left = {("test.leads", 1): Waiting(3), ("test.leads.retry", 1): Waiting(4, at_most=True)}
    moment = moment_of(left if is_known else None)
    page = waiting_page(site_of(queries), moment, search)
    assert page == {"leads": ["first", "second", "third"], "search": search}
    in_first = {"leads": Waiting(3), "leads.retry": Waiting(4, at_most=True)} if is_known else {}
    assert waiting_lead.mock_calls == [
        call(search, records[0], "view of acme", in_first, NOW_MS),
        call(search, records[1], None, {}, NOW_MS),
        call(search, records[2], "view of acme", in_first, NOW_MS),
    ]
    assert sorted(queries.lane.mock_calls) == [call("acme", NOW_MS), call("beta", NOW_MS)]


COUNTS: Final = [
    StatusCount("beta", "people", "enriched", "enriched", 4),
    StatusCount("acme", "people", "enriched", "enriched", 1),
    StatusCount("acme", "people", "partial", "enriched", 2),
    StatusCount("acme", "people", "deferred", "held", 8),
    StatusCount("", "", "erased", "", 16),
    StatusCount("acme", "people", "callback_unmatched", "", 100),
    StatusCount("beta", "people", "callback_unmatched", "", 32),
]
LEFT: Final = {
    ("test.leads", 0): Waiting(5),
    ("test.leads", 3): Waiting(6, at_most=True),
    ("test.leads.bulk", 0): Waiting(7),
    ("test.leads.retry", 0): Waiting(1_000),
}


DAYS: Final = billed_days(
    [
        Reading(NOW_MS - 5 * DAY_MS, 1_000),
        Reading(NOW_MS - 3 * DAY_MS, 900, Booked(100, 100, 100)),
        Reading(NOW_MS - 2 * DAY_MS, 700, Booked(200, 200, 200)),
        Reading(NOW_MS - DAY_MS, 600, Booked(300, 300, 300)),
        Reading(NOW_MS, 500, Booked(400, 400, 400)),
    ],
)
BILLS: Final = [Bill("acme", NOW_MS, 500, DAYS), Bill("beta", NOW_MS, 10, [])]


def books(
    counts: list[StatusCount],
    left: Mapping[Any, Waiting] | None,
    query: dict[str, str],
) -> dict[str, Any]:
    queries = asked_queries(
        status_counts=counts,
        records_in=300,
        unreadable=[("test.leads.status", 2)],
        bills=BILLS,
    )
    page = dict(books_page(site_of(queries), moment_of(left), query))
    assert page.pop("unreadable") == [("test.leads.status", 2)]
    assert page.pop("at_clay") == COMPARE_BY_HAND
    assert page.pop("bill_days") == 7
    return page


@pytest.mark.parametrize("is_known", [True, False])
def test_all_of_the_page_of_books(is_known: bool) -> None:
    sums = {"enriched": 7, "held": 8, "waiting": 18 if is_known else None}
    assert books(COUNTS, LEFT if is_known else None, {}) == {
        "columns": [(name, COLUMN_MEANING[name], sums.get(name, 0)) for name in COLUMNS],
        "says": "318 records in, of 33 leads: each lead in one column" if is_known else None,
        "waiting": {"test.leads": Waiting(11, at_most=True), "test.leads.bulk": Waiting(7)}
        if is_known
        else {},
        "at_most": is_known,
        "rows": [("acme", {"enriched": 3, "held": 8}), ("beta", {"enriched": 4})],
        "after": "",
        "not_leads": [("callback_unmatched", 132), ("erased", 16)],
        "bills": [(BILLS[0], [DAYS[0], DAYS[2]]), (BILLS[1], [])],
    }
    assert [day.verdict for day in DAYS] == ["agrees", "agrees", "more", "agrees"]


def test_the_books_ask_for_the_bills_of_their_workspaces_only() -> None:
    counts = [StatusCount(name, "", "enriched", "enriched", 1) for name in ("", "acme", "beta")]
    queries = asked_queries(status_counts=counts, records_in=3, unreadable=[], bills=[])
    books_page(site_of(queries), moment_of(LEFT), {})
    queries.bills.assert_called_once_with(["acme", "beta"], NOW_MS // 1000 - 7 * 86_400)


def test_the_bill_of_a_workspace_is_asked_for_although_it_has_no_lead() -> None:
    """Its balance is read, and may fall."""
    counts = [StatusCount("beta", "", "enriched", "enriched", 1)]
    queries = asked_queries(status_counts=counts, records_in=1, unreadable=[], bills=BILLS)
    workspaces = {
        name: Workspace(name, api_key_env=variable)
        for name, variable in (("acme", "KEY_A"), ("gamma", None))
    }
    page = books_page(site_of(queries, workspaces=workspaces), moment_of(LEFT), {})
    queries.bills.assert_called_once_with(["acme", "beta"], NOW_MS // 1000 - 7 * 86_400)
    assert page["rows"] == [("beta", {"enriched": 1})]


def test_the_books_have_a_column_for_what_a_newer_version_wrote() -> None:
    unknown = StatusCount("acme", "people", "of a newer version", "unknown", 64)
    page = books([*COUNTS, unknown], {}, {"after": "acme"})
    assert page["columns"][-1] == ("unknown", meaning_of("unknown"), 64)
    assert page["columns"][-2] == ("waiting", COLUMN_MEANING["waiting"], 0)
    assert page["at_most"] is False
    assert page["rows"] == [("beta", {"enriched": 4})]
    assert page["after"] == ""


def order(kind: str, place: int) -> Any:
    return SimpleNamespace(kind=kind, place=place)


@pytest.mark.parametrize("count", [50, 51])
def test_all_of_the_page_of_commands(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    outcome = Mock(side_effect=lambda site, name, orders: f"outcome of {name}")
    monkeypatch.setattr(flow, "outcome_of", outcome)
    commands = [(1_000 - number, f"c.{number}") for number in range(count)]
    answers = {
        f"c.{number}": [order("resume", 1), order("resume", 2), order(REPLAY_RELOAD, 3)]
        if number
        else [order(REPLAY_RELOAD, 1), order(REPLAY_RELOAD, 4)]
        for number in range(count)
    }
    queries = asked_queries(commands=commands)
    queries.answers.side_effect = answers.get
    queries.words_of_commands.side_effect = lambda name: [f"each {name}"]
    site = site_of(queries)
    wanted = CommandFilter(workspace="acme", kind="resume", who="jane")
    query = {"workspace": "acme", "kind": "resume", "who": "jane"}
    assert audit_page(site, moment_of(), query) == {
        "id": "",
        "filter": wanted,
        "kinds": ["each kind"],
        "people": ["each who"],
        "rows": [(orders[1], f"outcome of {name}") for name, orders in list(answers.items())[:50]],
        "after": "951.c.49" if count > 50 else "",
        "lane": "",
        "has_buttons": True,
    }
    assert [asked.args for asked in outcome.mock_calls] == [
        (site, name, orders) for name, orders in list(answers.items())[:50]
    ]
    queries.commands.assert_called_once_with(wanted, (1 << 62, ""), 51)


def test_the_answers_to_one_command() -> None:
    queries = asked_queries(answers=["first", "second"])
    page = audit_page(site_of(queries), moment_of(), {"id": "c-1", "after": "5.c-2"})
    assert page == {"orders": ["first", "second"], "id": "c-1"}
    assert queries.mock_calls == [call.answers("c-1")]


def test_all_of_the_backlog_of_a_partition() -> None:
    asked: list[int] = []

    def residents(number: int) -> list[str]:
        asked.append(number)
        return ["acme", "beta"]

    plan = SimpleNamespace(residents=residents)
    site = site_of(asked_queries(), plan=plan)
    left = {
        ("test.leads.retry", 3): Waiting(4, at_most=True),
        ("test.leads.bulk", 3): Waiting(0),
        ("test.leads", 3): Waiting(2),
        ("test.leads", 1): Waiting(9),
        ("test.leads.callbacks", 3): Waiting(70),
    }
    row: dict[str, object] = {"partition": 3, "workspaces": ["acme", "beta"], "more": False}
    page = backlog_page(site, moment_of(left), {"partition": "3"})
    assert page == {
        "waiting": Waiting(6, at_most=True),
        "rows": [
            row | {"topic": "test.leads", "waiting": Waiting(2)},
            row | {"topic": "test.leads.retry", "waiting": Waiting(4, at_most=True)},
        ],
        "after": 0,
        "back": 4,
        "topic": "",
        "partition": 3,
        "of": "",
    }
    assert asked == [3, 3]
