"""The pages of dead letters: all that they show, and what they ask the read model for."""

from types import SimpleNamespace
from typing import Any, Final
from unittest.mock import call

import pytest

from stream_app.board.access import AccessRefused
from stream_app.board.pages.dead import cause_page, dead_page, replay_page
from stream_app.board.read_model.query import ListPlace
from stream_app.client.results.answers import Cause, DeadLetters, StatusCount
from stream_app.domain.books.records import STATE_MEANING
from stream_app.domain.dead_letter.causes import Filter
from stream_app.domain.dead_letter.orders import ReplayPlan, ReplayProgress
from tests.board.asked import HOUR_S, NOW_MS, NOW_S, asked_queries, moment_of, site_of

HOUR_BEGIN_S: Final = NOW_S // HOUR_S * HOUR_S
DAY_BEGIN_S: Final = HOUR_BEGIN_S - 23 * HOUR_S
FAILED: Final = Cause(
    "failed",
    "acme",
    "people",
    "http_503",
    "503",
    open=3,
    coming_back=5,
    solved=7,
    given_up=11,
)
NAMELESS: Final = Cause("poison", "", "people", "", "", open=1)
FOREIGN: Final = Cause("foreign", "acme", "", "r", "", open=2)
PLAN: Final = "/board/dead/act/plan?"
KNOWN: Final[dict[str, Any]] = {"workspaces": {"acme": 1}, "destinations": {"people": 1}}


def replays(*states: Any) -> list[ReplayProgress]:
    plan = ReplayPlan(NOW_MS, "dlq", Filter(), {}, 8, 1, 1)
    return [
        ReplayProgress(f"r-{state}", state, "jane", "", NOW_MS, plan, NOW_MS) for state in states
    ]


def test_the_chart_names_the_causes_that_came_most_in_the_last_day_whether_open_or_not() -> None:
    """The rows are in the order of what is open, and a cause may be solved that came most."""
    causes = [Cause("poison", "acme", "people", f"r{n}", "", open=9 - n) for n in range(5)]
    causes.append(Cause("failed", "acme", "people", "http_503", "503", solved=17))
    came = [3, 1, 2, 2, 5, 17]
    queries = asked_queries(
        causes_after=(DeadLetters(causes, open=35, solved=17), 6),
        dead_letter_hours=[[(DAY_BEGIN_S, 1), (HOUR_BEGIN_S, many - 1)] for many in came],
        dead_letters=DeadLetters([]),
        status_sums=[],
        replays=[],
    )
    page: Any = dead_page(site_of(queries), moment_of({}), {})
    assert [row["cause"] for row in page["rows"]] == causes
    assert [(area.label, area.total) for area in page["hours"].areas] == [
        ("http_503 (acme / people)", 17),
        ("r4 (acme / people)", 5),
        ("r0 (acme / people)", 3),
        ("r2 (acme / people)", 2),
        ("rarer causes", 3),
    ]


@pytest.mark.parametrize(
    ("query", "which", "topic", "other", "workspace", "after", "kept_days"),
    [
        ({}, "dlq", "test.leads.dlq", "test.leads.parked", None, 0, 3),
        (
            {"from": "dlq", "after": "100"},
            "dlq",
            "test.leads.dlq",
            "test.leads.parked",
            None,
            100,
            3,
        ),
        (
            {"from": "parked", "workspace": "acme", "after": "50"},
            "parked",
            "test.leads.parked",
            "test.leads.dlq",
            "acme",
            50,
            5,
        ),
        ({"from": "nowhere"}, "dlq", "test.leads.dlq", "test.leads.parked", None, 0, 3),
    ],
)
def test_all_of_the_page_of_causes(
    query: dict[str, str],
    which: Any,
    topic: str,
    other: str,
    workspace: str | None,
    after: int,
    kept_days: int,
) -> None:
    causes = [FAILED, NAMELESS, FOREIGN]
    letters = DeadLetters(causes, open=6, coming_back=5, solved=7, given_up=11)
    queries = asked_queries(
        causes_after=(letters, 101),
        dead_letter_hours=[
            [(DAY_BEGIN_S, 4), (HOUR_BEGIN_S - HOUR_S, 2), (HOUR_BEGIN_S, 1)],
            [(HOUR_BEGIN_S, 8)],
            [],
        ],
        status_sums=[
            StatusCount("acme", "people", "deferred", "held", 20),
            StatusCount("acme", "firms", "deferred", "held", 3),
            StatusCount("acme", "firms", "enriched", "enriched", 500),
        ],
        dead_letters=DeadLetters([], open=9, solved=1),
        replays=replays("running", "stopped", "done", "refused"),
    )
    page = dict(dead_page(site_of(queries, **KNOWN), moment_of({}), query))
    chart: Any = page.pop("hours")
    rows: Any = page.pop("rows")
    assert page == {
        "which": which,
        "letters": letters,
        "states": [
            ("open", 6, STATE_MEANING["open"]),
            ("coming_back", 5, STATE_MEANING["coming_back"]),
            ("solved", 7, STATE_MEANING["solved"]),
            ("given_up", 11, STATE_MEANING["given_up"]),
        ],
        "others": 9,
        "causes": 101,
        "after": after + 50 if after < 51 else 0,
        "workspace": workspace or "",
        "deferred": 23,
        "replays": list(
            zip(queries.replays.return_value, ("ok", "warn", "idle", "bad"), strict=True),
        ),
        "kept_days": kept_days,
    }
    assert queries.mock_calls == [
        call.causes_after(topic, workspace, after, 50),
        call.dead_letter_hours(topic, causes, DAY_BEGIN_S),
        call.status_sums(workspace),
        call.dead_letters(other, workspace),
        call.replays(10),
    ]
    assert [row["cause"] for row in rows] == causes
    assert [row["share"] for row in rows] == [50.0, 16.7, 33.3]
    assert [row["last_day"] for row in rows] == [7, 8, 0]
    first, second, third = (row["spark"] for row in rows)
    assert first.startswith("0.0,4.0 4.3,96.0 ")
    assert first.endswith(" 95.7,50.0 100.0,73.0")
    assert len(first.split()) == len(second.split()) == 24
    assert second.endswith(" 95.7,96.0 100.0,4.0")
    assert third == ""
    options = "stream-app replay plan --from " + which
    assert [row["command"] for row in rows] == [
        f"{options} --disposition failed --reason http_503 --workspace acme --destination people",
        f"{options} --disposition poison --destination people",
        "",
    ]
    assert [row["plan"] for row in rows] == [
        f"{PLAN}from={which}&kind=failed&reason=http_503&workspace=acme&destination=people",
        f"{PLAN}from={which}&kind=poison&destination=people",
        f"{PLAN}from={which}&kind=foreign&reason=r&workspace=acme",
    ]
    assert [(area.key, area.label, area.total) for area in chart.areas] == [
        ("failed", "no reason (people)", 8),
        ("refused", "http_503 (acme / people)", 7),
    ], "the one that came most is first"
    assert chart.rows[0] == (DAY_BEGIN_S * 1_000, [0, 4])
    assert chart.rows[22] == ((HOUR_BEGIN_S - HOUR_S) * 1_000, [0, 2])
    assert chart.rows[23] == (HOUR_BEGIN_S * 1_000, [8, 1])
    assert len(chart.rows) == 24
    assert len(chart.times_ms) == 7


def test_a_cause_without_a_place_has_the_reason_alone() -> None:
    cause = Cause("poison", "", "", "not_json", "", open=0, solved=1)
    queries = asked_queries(
        causes_after=(DeadLetters([cause], solved=1), 1),
        dead_letter_hours=[[(HOUR_BEGIN_S, 1)]],
        status_sums=[],
        dead_letters=DeadLetters([]),
        replays=[],
    )
    page: Any = dead_page(site_of(queries), moment_of({}), {})
    assert [area.label for area in page["hours"].areas] == ["not_json"]
    assert page["rows"][0]["share"] == 0.0, "none is open"
    assert page["after"] == 0
    assert page["deferred"] == 0


QUERY: Final = {
    "kind": "failed",
    "workspace": "acme",
    "destination": "people",
    "reason": "http_503",
    "http_status": "503",
}


@pytest.mark.parametrize(
    ("more", "topic", "since_s", "after", "state", "many"),
    [
        ({}, "test.leads.dlq", 0, None, None, 26),
        ({"state": "given_up"}, "test.leads.dlq", 0, None, "given_up", 11),
        ({"state": "no state"}, "test.leads.dlq", 0, None, None, 26),
        (
            {"from": "parked", "span": "day", "after": "7-8"},
            "test.leads.parked",
            DAY_BEGIN_S,
            ListPlace(7, 8),
            None,
            6,
        ),
        ({"span": "hour"}, "test.leads.dlq", 0, None, None, 26),
    ],
)
@pytest.mark.parametrize("cause", [FAILED, FOREIGN])
def test_all_of_the_page_of_a_cause(
    more: dict[str, str],
    topic: str,
    since_s: int,
    after: Any,
    state: Any,
    many: int,
    cause: Cause,
) -> None:
    rows = [SimpleNamespace(place=ListPlace(number, 1)) for number in range(51)]
    queries = asked_queries(
        cause=cause,
        dead_letter_hours=[[(DAY_BEGIN_S, 4), (HOUR_BEGIN_S, 2)]],
        dead_letters_of=rows,
    )
    query = QUERY | more
    which: Any = "parked" if more.get("from") else "dlq"
    is_foreign = cause is FOREIGN
    page = cause_page(site_of(queries, **KNOWN), moment_of({}), query)
    if is_foreign:
        many = {26: 2, 11: 0}.get(many, many)
    assert page == {
        "which": which,
        "cause": cause,
        "dead_letters": many,
        "rows": rows[:50],
        "can_end": {"open"} if is_foreign else {"open", "coming_back"},
        "last_day": since_s > 0,
        "state": state,
        "states": [
            (name, getattr(cause, name), STATE_MEANING[name])
            for name in ("open", "coming_back", "solved", "given_up")
        ],
        "after": ListPlace(49, 1),
        "command": ""
        if is_foreign
        else (
            f"stream-app replay plan --from {which} --disposition failed --reason http_503 "
            "--workspace acme --destination people"
        ),
        "plan": f"{PLAN}from={which}&kind=foreign&reason=r&workspace=acme"
        if is_foreign
        else f"{PLAN}from={which}&kind=failed&reason=http_503&workspace=acme&destination=people",
    }
    named = Cause("failed", "acme", "people", "http_503", "503")
    hours = [call.dead_letter_hours(topic, [cause], since_s)] if since_s else []
    assert queries.mock_calls == [
        call.cause(topic, named),
        *hours,
        call.dead_letters_of(topic, cause, since_s * 1_000, after, 51, state),
    ]


def test_a_cause_that_is_not_kept_any_more_is_the_one_that_was_named() -> None:
    queries = asked_queries(cause=None, dead_letters_of=[])
    page: Any = cause_page(site_of(queries), moment_of({}), QUERY)
    assert page["cause"] == Cause("failed", "acme", "people", "http_503", "503")
    assert page["dead_letters"] == 0
    assert page["after"] is None
    assert page["rows"] == []


def progress(state: Any, **more: Any) -> ReplayProgress:
    selected = Filter(kinds=frozenset({"failed"}), workspaces=frozenset({"acme"}))
    plan = ReplayPlan(NOW_MS, "parked", selected, {}, 8, 1, 1)
    return ReplayProgress("r-1", state, "jane", "", NOW_MS, plan, NOW_MS, **more)


@pytest.mark.parametrize(
    ("state", "tone"),
    [("running", "ok"), ("stopped", "warn"), ("done", "idle"), ("refused", "bad")],
)
def test_all_of_the_page_of_a_replay(state: Any, tone: str) -> None:
    seen = progress(state, sent=1, refused=1, commands=("c-1",))
    queries = asked_queries(replay=seen)
    query = {"replay": "r-1", "asked": "c-2"}
    assert replay_page(site_of(queries), moment_of({}), query) == {
        "id": "r-1",
        "progress": seen,
        "tone": tone,
        "share": 25.0,
        "command": "stream-app dlq list --from parked --disposition failed --workspace acme",
        "waits": state in ("running", "stopped"),
        "silent": False,
    }
    queries.replay.assert_called_once_with("r-1")


def test_a_replay_that_no_process_has_answered_says_how_long_its_plan_lives() -> None:
    queries = asked_queries(replay=None)
    name = "A.b_c-9" + "x" * 57
    assert replay_page(site_of(queries), moment_of({}), {"replay": name}) == {
        "id": name,
        "progress": None,
        "life_min": 10,
    }


@pytest.mark.parametrize("name", ["", "x" * 65, "a b", "a/b", "r-1\n"])
def test_what_cannot_be_the_id_of_a_replay_is_not_found(name: str) -> None:
    queries = asked_queries()
    with pytest.raises(AccessRefused, match="the page Dead letters lists all") as refused:
        replay_page(site_of(queries), moment_of({}), {"replay": name})
    assert refused.value.status == 404
    assert refused.value.error == "unknown_replay"
    assert queries.mock_calls == []
