"""What pages add up, the rows they show, and the commands they print, from numbers made by hand."""

from collections import defaultdict
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import msgspec
import pytest

from stream_app.board.access import STRANGER
from stream_app.board.pages.dead import cause_page, options_of, plan_of, price_command
from stream_app.board.pages.flow import books_page, row_of
from stream_app.board.pages.lanes import lanes_page
from stream_app.board.pages.leads import leads_page
from stream_app.board.pages.money import money_csv, money_page
from stream_app.board.read_model.board_query import Slot
from stream_app.board.read_model.follow import ProjectionLag
from stream_app.board.site import NOT_READABLE, ListedLane, Moment, Overview
from stream_app.client.results.answers import Cause, Day, FoundImport, StatusCount
from stream_app.domain.dead_letter.causes import Filter
from stream_app.domain.model.topics import TopicNames
from stream_app.domain.views.backlog import Place
from stream_app.domain.views.explain import HELD_IN_PART, ConsumerGroup
from stream_app.kafka.backlog import Waiting
from stream_app.kafka.groups import Consumption
from tests.board.client import Client

HOUR_S = 3_600
DAY_S = 86_400
DAY_BEGIN_S = 1_790_035_200  # 2026-09-22
CAUSE = Cause("failed", "acme", "people", "http_503", "503", open=3, solved=40)


def moment(
    now_s: int = DAY_BEGIN_S,
    waiting: Mapping[Place, Waiting] | None = None,
    **shared: Any,
) -> Moment:
    kafka = Consumption(ConsumerGroup("Stable", 1), ConsumerGroup("Stable", 1), dict(waiting or {}))
    made = Moment(now_s * 1_000, ProjectionLag(), kafka, STRANGER)
    for name, value in shared.items():
        made.shared.once(name, Mock(return_value=value))
    return made


def test_a_command_selects_the_same_dead_letters() -> None:
    some = (
        frozenset({"a b"}),
        frozenset({503}),
        frozenset({"people"}),
        frozenset({"acme"}),
        frozenset({"crm-1"}),
        frozenset({"tuesday"}),
    )
    assert options_of(
        "dlq",
        Filter(*some, frozenset({"poison", "failed"})),
        uncertain=True,
        limit=7,
    ) == (
        "--from dlq --disposition failed --disposition poison --reason 'a b' --status 503 "
        "--workspace acme"
        " --destination people --lead crm-1 --import tuesday --uncertain --limit 7"
    )
    assert options_of("parked", Filter()) == "--from parked"
    priced = "stream-app replay plan --from dlq --disposition failed"
    assert (
        price_command(CAUSE, "dlq")
        == f"{priced} --reason http_503 --workspace acme --destination people"
    )
    assert price_command(Cause("failed", "", "", "", ""), "dlq") == priced
    assert price_command(Cause("foreign", "acme", "people", "r", ""), "dlq") == ""


@pytest.mark.parametrize(
    ("known", "end"),
    [(["acme", "people"], "&workspace=acme&destination=people"), ([], "")],
)
def test_a_plan_names_only_what_is_configured(known: list[str], end: str) -> None:
    site: Any = SimpleNamespace(
        settings=SimpleNamespace(workspaces=known[:1], destinations=known[1:]),
    )
    path = f"/board/dead/act/plan?from=parked&kind=failed&reason=http_503{end}"
    assert plan_of(site, CAUSE, "parked") == path


@pytest.mark.parametrize(
    ("last_day", "state", "many", "since_s"),
    [
        (False, None, 43, 0),
        (False, "open", 3, 0),
        (False, "coming_back", 0, 0),
        (True, None, 9, DAY_BEGIN_S - 23 * HOUR_S),
    ],
)
@pytest.mark.parametrize("rows", [50, 51])
def test_a_causes_page_counts_what_it_lists(
    last_day: bool,
    state: Any,
    many: int,
    since_s: int,
    rows: int,
) -> None:
    queries = Mock()
    queries.cause.return_value = CAUSE
    queries.dead_letter_hours.return_value = [[(since_s, 4), (since_s + 1, 5)]]
    queries.dead_letters_of.return_value = [SimpleNamespace(place=place) for place in range(rows)]
    settings = SimpleNamespace(names=TopicNames(), workspaces=(), destinations=())
    site: Any = SimpleNamespace(queries=queries, settings=settings)
    page: Any = cause_page(
        site,
        moment(),
        {"span": "day" if last_day else "", "state": state or ""},
    )
    assert page["dead_letters"] == many
    assert page["after"] == (49 if rows == 51 else None)
    assert [row.place for row in page["rows"]] == list(range(50))
    queries.dead_letters_of.assert_called_once_with(
        "leads.dlq",
        CAUSE,
        since_s * 1_000,
        None,
        51,
        state,
    )


def test_an_import_is_a_bar_of_its_columns() -> None:
    columns = {"of a newer version": 1, "held": 1, "enriched": 1, "parked": 0}
    row: Any = row_of(FoundImport("march", "acme", 0, 0, "", "", None, None, None, columns, 0))
    shown = [
        (part["column"], part["colour"], part["leads"], part["x"], part["width"])
        for part in row["parts"]
    ]
    assert shown == [
        ("enriched", "enriched", 1, 0.0, 33.33),
        ("held", "held", 1, 33.33, 33.33),
        ("of a newer version", "nodata", 1, 66.67, 33.33),
    ]
    enriched, held, newer = row["parts"]
    assert row["publication"].at_rest == 2
    assert row["publication"].percent_at_rest == 66
    assert row["groups"] == [
        ("At rest", "at-rest", 2, [enriched, newer]),
        ("Not at rest", "moving", 1, [held]),
    ]
    empty: Any = row_of(FoundImport("march", "acme", 0, 0, "", "", None, None, None, {}, 0))
    assert empty["parts"] == []
    assert empty["publication"].at_rest == 0
    assert empty["publication"].percent_at_rest == 0


def test_the_shares_of_an_import_are_of_its_leads_without_the_duplicates() -> None:
    columns = {"enriched": 3, "held": 1, "duplicate": 6}
    row: Any = row_of(FoundImport("march", "acme", 0, 0, "", "", None, None, None, columns, 0))
    assert [(part["column"], part["width"]) for part in row["parts"]] == [
        ("enriched", 75.0),
        ("held", 25.0),
    ]
    assert row["publication"].percent_at_rest == 75


def test_an_import_of_duplicates_alone_has_no_bar() -> None:
    publication = FoundImport("may", "acme", 0, 0, "", "", None, None, None, {"duplicate": 2}, 0)
    row: Any = row_of(publication)
    assert row["parts"] == []
    assert [parts for _, _, _, parts in row["groups"]] == [[], []]


def day(days_ago: int, *numbers: int, workspace: str = "", destination: str = "") -> Day:
    return Day(workspace, destination, DAY_BEGIN_S - days_ago * DAY_S, *numbers)


@pytest.mark.parametrize("late_s", [0, HOUR_S + 901])
@pytest.mark.parametrize(
    ("days", "asked", "shown", "slots", "labels", "span"),
    [
        ([], "", "", 1, 0, None),
        ([day(0, 9, 1, 2, 3, 3)], "2026-09-22", "2026-09-22", 1, 0, 0),
        ([day(0, 9, 1, 2, 3, 3), day(1, 4, 0, 0, 0, 1)], "2026-09-21", "2026-09-21", 2, 3, 1),
        (
            [day(1, 4, 0, 0, 0, 1), day(34, 5, 0, 0, 0, 0), day(35, 99, 9, 9, 9, 9)],
            "no day",
            "",
            35,
            8,
            None,
        ),
    ],
)
def test_the_money_is_of_the_last_35_days(
    days: list[Day],
    asked: str,
    shown: str,
    slots: int,
    labels: int,
    span: int | None,
    late_s: int,
) -> None:
    now_s = DAY_BEGIN_S + late_s
    hour_s = DAY_BEGIN_S + late_s // HOUR_S * HOUR_S
    credits_ = [
        Slot(hour_s + after, credits=1 << n)
        for n, after in enumerate((-DAY_S, -82_801, -82_800, -1, 0, 900))
    ]
    queries: Any = Mock()
    queries.days.return_value = days
    queries.credits.return_value = {"": credits_}
    queries.lanes_money.return_value = list(range(150))
    queries.yields.return_value = list(range(150))
    site: Any = SimpleNamespace(queries=queries, settings=SimpleNamespace(workspaces=["acme"]))
    page: Any = money_page(site, moment(now_s), {"day": asked})
    kept = [entry for entry in days if entry.at_s > DAY_BEGIN_S - 35 * DAY_S]
    sums = [sum(getattr(entry, name) for entry in kept) for name in Day.__struct_fields__[3:]]
    assert page["days"] == kept
    assert page["day"] == shown
    assert page["lanes"] == list(range(100))
    assert page["yields"] == list(range(100))
    assert page["all"] == Day("", "", kept[-1].at_s if kept else DAY_BEGIN_S, *sums)
    assert page["today"] == (
        kept[0] if kept and kept[0].at_s == DAY_BEGIN_S else day(0, 0, 0, 0, 0, 0)
    )
    assert page["hour_ms"] == hour_s * 1_000
    assert page["this_hour"] == 16 + 32
    assert page["yesterday"] == 1 + 2
    queries.credits.assert_called_once_with([""], 900, hour_s - DAY_S)
    begin_s = now_s - 35 * DAY_S + 1 if span is None else DAY_BEGIN_S - span * DAY_S
    queries.lanes_money.assert_called_once_with(
        None,
        begin_s,
        1 << 62 if span is None else begin_s + DAY_S,
    )
    chart = page["chart"]
    assert (chart is None, slots == 1) in ((True, True), (False, False))
    if chart is not None:
        assert len(chart.rows) == slots
        assert len(chart.times_ms) == labels
        assert chart.total == sums[0]
    queries.days.return_value = []
    queries.credits.return_value = {"acme": [], "globex": []}
    assert money_page(site, moment(now_s), {"workspace": "acme"}) is not None, "it is configured"
    assert money_page(site, moment(now_s), {"workspace": "globex"}) is None


def test_the_money_as_csv_has_a_row_for_each_destination() -> None:
    days = [
        day(0, 9, 0, 0, 0, 3),
        day(0, 10, 1, 2, 3, 3, 4, workspace="acme", destination="=p"),
        day(1, 5, 0, 0, 0, 0),
    ]
    days.append(msgspec.structs.replace(days[-1], workspace="acme", destination="people"))
    site: Any = SimpleNamespace(
        queries=SimpleNamespace(days=lambda workspace: days if workspace is None else []),
    )
    assert money_csv(site, "").splitlines() == [
        "day,workspace,destination,credits,reported,estimated,saved,enriched,per_lead,refused,resent",
        "2026-09-22,acme,'=p,10,6,4,1,3,3.33,3,2",
        "2026-09-21,acme,people,5,5,0,0,0,,0,0",
    ]


def test_lanes_are_listed_by_state_and_beginning_fifty_a_page() -> None:
    tones: list[tuple[str, str, Any]] = [(f"a{n:02}", "running", "ok") for n in range(51)]
    tones += [("B-1", "held", "warn"), ("b-2", "idle", "idle"), ("c", NOT_READABLE, "ok")]
    tones.append(("d", HELD_IN_PART, "warn"))
    lanes = [ListedLane(name, state, tone, "", None, [], 0, 0) for name, state, tone in tones]
    queries = SimpleNamespace(
        came_to_rest=lambda *_: defaultdict(list),
        credits=lambda *_: defaultdict(list),
    )
    site: Any = SimpleNamespace(queries=queries)

    def page(state: str, begins: str = "", after: str = "") -> tuple[list[str], int, str]:
        query = {"state": state, "begins": begins, "after": after}
        page: Any = lanes_page(site, moment(overview=Overview(lanes, [], [])), query)
        everything = {"held": 1, "part": 1, "running": 51, "idle": 1, "unreadable": 1}
        assert page["counts"] == (
            everything | {"part": 0, "running": 0, "unreadable": 0} if begins else everything
        )
        return [lane.workspace for lane in page["lanes"]], page["matches"], page["after"]

    assert page("", "b") == (["B-1", "b-2"], 2, "")
    assert page("held") == (["B-1"], 1, "")
    assert page("part") == (["d"], 1, "")
    assert page("unreadable") == (["c"], 1, "")
    assert page("running") == ([f"a{n:02}" for n in range(50)], 51, "a49")
    assert page("running", after="a49") == (["a50"], 51, "")
    assert page("running", after="a00") == ([f"a{n:02}" for n in range(1, 51)], 51, "")


def test_the_books_add_up_by_workspace_fifty_a_page() -> None:
    names = [f"w{n:02}" for n in range(51)]
    counts = [
        StatusCount(name, alias, "enriched", "enriched", 2)
        for name in names
        for alias in ("one", "two")
    ]
    counts += [
        StatusCount("w00", "one", "deferred", "held", 5),
        StatusCount("", "", "erased", "", 7),
    ]
    queries: Any = SimpleNamespace(
        status_counts=lambda: counts,
        records_in=lambda: 300,
        unreadable=list,
        bills=lambda names, since_s: [],
    )
    settings = SimpleNamespace(names=TopicNames(), workspaces={})
    site: Any = SimpleNamespace(queries=queries, settings=settings)
    waiting = {("leads", 0): Waiting(8), ("leads", 1): Waiting(1), ("leads.bulk", 0): Waiting(4)}
    copies = {("leads.retry", 0): Waiting(100, at_most=True)}
    left = moment(waiting=waiting | copies)
    page: Any = books_page(site, left, {})
    known = {name: many for name, _, many in page["columns"] if many}
    assert known == {"enriched": 204, "held": 5, "waiting": 13}
    assert page["says"] == "313 records in, of 222 leads: each lead in one column"
    assert page["waiting"] == {"leads": Waiting(9), "leads.bulk": Waiting(4)}
    assert page["at_most"] is False
    assert page["not_leads"] == [("erased", 7)]
    assert page["rows"] == [
        (name, {"enriched": 4, "held": 5} if name == "w00" else {"enriched": 4})
        for name in names[:50]
    ]
    assert page["after"] == "w49"
    assert books_page(site, left, {"after": "w49"})["rows"] == [("w50", {"enriched": 4})]
    assert books_page(site, left, {"after": "w00"})["after"] == ""


@pytest.mark.parametrize(
    ("workspace", "import_id"),
    [("", ""), ("initech", ""), ("initech", "2026-09-21-kfdwzp"), ("acme", "unknown")],
)
def test_each_filter_of_the_leads_lists_as_many_as_its_tab_says(
    local: Client,
    workspace: str,
    import_id: str,
) -> None:
    def page(column: str = "", status: str = "") -> Any:
        query = {"workspace": workspace, "column": column, "status": status, "import_id": import_id}
        return leads_page(local.board._maker.site, moment(), query)

    whole = page()
    for name, _, many in whole["columns"]:
        listed = page(name)
        assert listed["matches"] == many
        assert len(listed["rows"]) == min(many, 50)
        assert listed["columns"] == whole["columns"]
        assert (listed["after"] is None) == (many <= 50)
    assert whole["matches"] == whole["all"] == sum(many for *_, many in whole["columns"])
    assert page(status="enriched,partial")["matches"] == sum(
        page(status=one)["matches"] for one in ("enriched", "partial")
    )
