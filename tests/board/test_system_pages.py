"""The pages of the system and of the money: all that they show, and what they ask for."""

import platform
import sqlite3
from types import SimpleNamespace
from typing import Any, Final
from unittest.mock import call

import msgspec
import pytest

from stream_app import __version__
from stream_app.board.pages.money import money_csv, money_page
from stream_app.board.pages.system import system_page
from stream_app.board.read_model.board_query import Slot
from stream_app.board.read_model.follow import ProjectionLag
from stream_app.client.results.answers import Day
from stream_app.domain.model.topics import ExistingTopic, TopicPlan, differences
from stream_app.domain.views.explain import ConsumerGroup
from stream_app.kafka.groups import Consumption
from tests.board.asked import DAY_S, HOUR_S, NOW_MS, NOW_S, asked_queries, moment_of, site_of


class Kafka(msgspec.Struct):
    """A table of a configuration."""

    bootstrap: tuple[str, ...] = ("a:1", "b:2")
    tls: bool = True
    user_env: str | None = None
    replication: int = 3
    limits: dict[str, Any] = {}


class Settings(msgspec.Struct):
    """What the page shows of a configuration."""

    kafka: Kafka
    empty: Kafka | None
    secrets: dict[str, str]
    workspaces: dict[str, int]
    destinations: dict[str, Any]
    topics: list[TopicPlan]

    def topic_plan(self) -> list[TopicPlan]:
        return self.topics


PLAN: Final = [
    TopicPlan("leads", 4, 3, {"retention.ms": "10"}),
    TopicPlan("leads.dlq", 4, 3, {}),
    TopicPlan("leads.status", 4, 3, {}),
    TopicPlan("leads.lanes", 4, 3, {}),
]
SETTINGS: Final = Settings(
    Kafka(limits={"rate": {"per_s": 2.5, "burst": 0}, "none": {}, "names": ["x"]}),
    None,
    {"KEY": "a secret"},
    {"globex": 1, "acme": 2},
    {"people": SimpleNamespace(workspace="acme"), "firms": SimpleNamespace(workspace="globex")},
    PLAN,
)
UP: Final = ConsumerGroup("Stable", 1)


def system(topics: Any = None, **moment: Any) -> dict[str, Any]:
    queries = asked_queries(size_bytes=4_096, unreadable=[("leads.status", 2)])
    site: Any = SimpleNamespace(settings=SETTINGS, queries=queries)
    return dict(system_page(site, moment_of(**moment), topics))


def test_all_of_the_page_of_the_system() -> None:
    page = system(kafka=Consumption(UP, UP, {}), lag=ProjectionLag(NOW_MS - 5, 7))
    assert page == {
        "checks": [
            ("Kafka", "ok", "answers", ""),
            ("workers", "ok", "1 member", "/readyz of each says whether it is ready."),
            ("replay processes", "ok", "1 member", "/readyz of each says whether it is ready."),
            ("read model", "ok", "complete", "7 records are still to be read."),
        ],
        "topics": None,
        "versions": [
            ("stream-app", __version__),
            ("Python", platform.python_version()),
            ("SQLite", sqlite3.sqlite_version),
        ],
        "as_of_ms": NOW_MS - 5,
        "size_bytes": 4_096,
        "lag": 7,
        "unreadable": [("leads.status", 2)],
        "config": [
            (
                "kafka",
                [
                    ("bootstrap", "a:1, b:2"),
                    ("tls", "true"),
                    ("user_env", "not set"),
                    ("replication", "3"),
                    ("limits.rate.per_s", "2.5"),
                    ("limits.rate.burst", "0"),
                    ("limits.none", "{}"),
                    ("limits.names", "x"),
                ],
            ),
        ],
        "workspaces": ["acme", "globex"],
        "destinations": [("firms", "globex"), ("people", "acme")],
    }


def test_topics_that_differ_come_first() -> None:
    as_planned = ExistingTopic(4, 3, {"retention.ms": "10"})
    narrow = ExistingTopic(2, 3, {})
    existing = {"leads": as_planned, "leads.status": narrow, "leads.lanes": ExistingTopic(4, 3, {})}
    assert system(existing)["topics"] == [
        (
            PLAN[1],
            None,
            ["there is no such topic; create it with: stream-app topics"],
        ),
        (PLAN[2], narrow, [system_difference(narrow)]),
        (PLAN[0], as_planned, []),
        (PLAN[3], ExistingTopic(4, 3, {}), []),
    ]


def system_difference(existing: ExistingTopic) -> str:
    """Return what `stream-app topics` says of it, without its name."""
    [line] = differences([PLAN[2]], {"leads.status": existing})
    assert line.startswith("leads.status: has 2 partitions")
    return line.partition(": ")[2]


NO_WORKER: Final = "Nothing is sent until one runs. Start it: stream-app worker"
NO_REPLAY: Final = (
    "Dead letters and deferred leads do not come back until one runs. Start it: stream-app replay"
)


@pytest.mark.parametrize(
    ("group", "tone", "says", "of_worker", "of_replay"),
    [
        (ConsumerGroup("Empty", 0), "bad", "none runs", NO_WORKER, NO_REPLAY),
        (ConsumerGroup("Stable", 0), "bad", "none runs", NO_WORKER, NO_REPLAY),
        (
            ConsumerGroup("PreparingRebalance", 2),
            "warn",
            "PreparingRebalance",
            "Partitions are being handed over.",
            "Partitions are being handed over.",
        ),
        (
            ConsumerGroup("Stable", 1_200),
            "ok",
            "1,200 members",
            "/readyz of each says whether it is ready.",
            "/readyz of each says whether it is ready.",
        ),
    ],
)
def test_each_state_of_a_group_says_what_to_do(
    group: ConsumerGroup,
    tone: str,
    says: str,
    of_worker: str,
    of_replay: str,
) -> None:
    worker = system(kafka=Consumption(group, UP, {}))["checks"][1]
    assert worker == ("workers", tone, says, of_worker)
    replay = system(kafka=Consumption(UP, group, {}))["checks"][2]
    assert replay == ("replay processes", tone, says, of_replay)


@pytest.mark.parametrize(
    ("is_asking", "tone", "says"),
    [(True, "idle", "is asked"), (False, "bad", "does not answer")],
)
def test_of_a_kafka_that_does_not_answer_nothing_else_is_said(
    is_asking: bool,
    tone: str,
    says: str,
) -> None:
    checks = system(is_asking=is_asking)["checks"]
    assert checks[0] == ("Kafka", tone, says, "What waits and who consumes is not known.")
    assert [name for name, *_ in checks] == ["Kafka", "read model"]


@pytest.mark.parametrize(
    ("lag", "check"),
    [
        (ProjectionLag(None, 1), ("warn", "reads Kafka", "1 record is still to be read.")),
        (ProjectionLag(0, 0), ("ok", "complete", "0 records are still to be read.")),
        (ProjectionLag(None, 3, "disk full"), ("bad", "does not progress", "disk full")),
        (ProjectionLag(5, 3, "disk full"), ("bad", "does not progress", "disk full")),
    ],
)
def test_each_state_of_the_read_model(lag: ProjectionLag, check: tuple[str, ...]) -> None:
    assert system(lag=lag)["checks"][-1] == ("read model", *check)


TODAY_S: Final = NOW_S // DAY_S * DAY_S
HOUR_BEGIN_S: Final = NOW_S // HOUR_S * HOUR_S


def day(days_ago: int, *numbers: int, workspace: str = "", destination: str = "") -> Day:
    return Day(workspace, destination, TODAY_S - days_ago * DAY_S, *numbers)


def test_all_of_the_money_of_a_workspace() -> None:
    """Its days have a row for each destination, which are added up."""
    days = [
        day(0, 1, 2, 4, 8, 16, workspace="acme", destination="people"),
        day(0, 32, 64, 128, 256, 512, workspace="acme", destination="firms"),
        day(2, 1_024, 2_048, 4_096, 8_192, 16_384, workspace="acme", destination="firms"),
        day(34, 3, 0, 0, 0, 0, workspace="acme", destination="firms"),
        day(36, 5, 0, 0, 0, 0, workspace="acme", destination="firms"),
    ]
    credits_ = [
        Slot(HOUR_BEGIN_S - DAY_S, credits=1),
        Slot(HOUR_BEGIN_S - DAY_S + HOUR_S - 1, credits=2),
        Slot(HOUR_BEGIN_S - DAY_S + HOUR_S, credits=4),
        Slot(HOUR_BEGIN_S - 1, credits=8),
        Slot(HOUR_BEGIN_S, credits=16),
        Slot(NOW_S, credits=32),
    ]
    lanes = list(range(101))
    queries = asked_queries(
        days=days,
        credits={"acme": credits_},
        lanes_money=lanes,
        yields=["a yield"],
    )
    page = dict(money_page(site_of(queries), moment_of(), {"workspace": "acme"}) or {})
    chart: Any = page.pop("chart")
    today = day(0, 33, 66, 132, 264, 528)
    before = day(2, 1_024, 2_048, 4_096, 8_192, 16_384)
    first = day(34, 3, 0, 0, 0, 0)
    assert page == {
        "workspace": "acme",
        "day": "",
        "days": [today, before, first],
        "all": day(34, 1_060, 2_114, 4_228, 8_456, 16_912),
        "today": today,
        "yields": ["a yield"],
        "lanes": list(range(100)),
        "hour_ms": HOUR_BEGIN_S * 1_000,
        "this_hour": 48,
        "yesterday": 3,
    }
    assert [(area.key, area.label, area.total) for area in chart.areas] == [
        ("enriched", "credits", 1_060),
    ]
    assert chart.rows[0] == (first.at_s * 1_000, [3])
    assert chart.rows[-3:] == [
        (before.at_s * 1_000, [1_024]),
        ((TODAY_S - DAY_S) * 1_000, [0]),
        (TODAY_S * 1_000, [33]),
    ]
    assert len(chart.rows) == 35
    assert len(chart.times_ms) == 8
    assert queries.mock_calls == [
        call.days("acme"),
        call.credits(["acme"], 900, HOUR_BEGIN_S - DAY_S),
        call.yields(moment_of().now_ms, "acme"),
        call.lanes_money("acme", NOW_S - 35 * DAY_S + 1, 1 << 62),
    ]


@pytest.mark.parametrize(("slots", "labels"), [(2, 3), (6, 7), (7, 8), (8, 8)])
def test_a_chart_of_few_days_has_a_label_for_each(slots: int, labels: int) -> None:
    queries = asked_queries(
        days=[day(slots - 1, 3, 0, 0, 0, 0)],
        credits={"": []},
        lanes_money=[],
        yields=[],
    )
    page: Any = money_page(site_of(queries), moment_of(), {})
    assert len(page["chart"].rows) == slots
    assert len(page["chart"].times_ms) == labels


def test_of_one_day_the_lanes_are_those_of_that_day() -> None:
    days = [day(0, 1, 0, 0, 0, 0), day(1, 2, 0, 0, 0, 0)]
    queries = asked_queries(days=days, credits={"": []}, lanes_money=[], yields=[])
    page: Any = money_page(site_of(queries), moment_of(), {"day": "2026-09-21"})
    assert page["day"] == "2026-09-21"
    assert queries.mock_calls[-1] == call.lanes_money(None, TODAY_S - DAY_S, TODAY_S)


def test_a_day_without_money_is_zero() -> None:
    queries = asked_queries(days=[], credits={"": []}, lanes_money=[], yields=[])
    page: Any = money_page(site_of(queries), moment_of(), {"day": "2026-09-22"})
    assert page["today"] == page["all"] == day(0, 0, 0, 0, 0, 0)
    assert page["day"] == ""
    assert page["days"] == []
    assert page["chart"] is None
    assert page["this_hour"] == page["yesterday"] == 0


@pytest.mark.parametrize(("workspace", "asked"), [("", None), ("acme", "acme")])
def test_the_csv_has_the_rows_that_name_a_workspace(workspace: str, asked: str | None) -> None:
    days = [
        day(0, 1_234, 1, 2, 3, 6),
        day(0, 1_234, 1, 2, 3, 7, 200, workspace="=acme", destination="@people"),
        day(1, 5, 4, 3, 2, 0, workspace="acme"),
    ]
    queries = asked_queries(days=days)
    assert money_csv(site_of(queries), workspace) == (
        "day,workspace,destination,"
        "credits,reported,estimated,saved,enriched,per_lead,refused,resent\r\n"
        "2026-09-22,'=acme,'@people,1234,1034,200,1,7,176.29,3,2\r\n"
        "2026-09-21,acme,,5,5,0,4,0,,2,3\r\n"
    )
    assert queries.mock_calls == [call.days(asked)]
