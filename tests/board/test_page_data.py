"""What pages compute before they are drawn: spans, shares, bands and next pages, on both sides of
each limit.
"""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import msgspec
import pytest

from stream_app.board.access import STRANGER
from stream_app.board.charts import Band, Stack, trend
from stream_app.board.pages import leads
from stream_app.board.pages.dead import dead_page, replay_page, share_of
from stream_app.board.pages.flow import audit_page, backlog_page
from stream_app.board.pages.lane import _bands, lane_page
from stream_app.board.pages.lanes import _credits, _heading, hours_known, throughput
from stream_app.board.read_model.board_query import CommandFilter, DatedChange, Mark, Slot
from stream_app.board.read_model.follow import ProjectionLag
from stream_app.board.site import Bar, ListedLane, Moment, Overview, bars_of, forecasts_of
from stream_app.client.results.answers import Cause, DeadLetters
from stream_app.domain.dead_letter.causes import Filter
from stream_app.domain.dead_letter.orders import ReplayPlan, ReplayProgress
from stream_app.domain.lead.identity import ids_meant
from stream_app.domain.limits.meters import Forecast, Meter
from stream_app.domain.model.topics import Retention, TopicNames
from stream_app.domain.views.explain import HELD_IN_PART, ConsumerGroup, Finding, Outlook
from stream_app.domain.views.lane import LaneChange, LaneView
from stream_app.domain.views.waits import RecordWait
from stream_app.kafka.backlog import Waiting
from stream_app.kafka.groups import Consumption
from tests.board.asked import site_of

HOUR_S = 3_600
DAY_S = 86_400
NOW_S = 1_790_000_100  # a quarter of an hour begins
NOW_MS = NOW_S * 1_000
VIEW = LaneView("acme", 0, NOW_MS, "closed", "healthy", 100.0, 8.0)
UP = ConsumerGroup("Stable", 2)


def lane(view: LaneView | None = VIEW, tone: Any = "ok") -> ListedLane:
    return ListedLane("acme", "", tone, "", view, [], 0, 0, meters=view.meters if view else {})


IN_PART = msgspec.structs.replace(lane(tone="bad"), state=HELD_IN_PART)


def meter(
    cap: int | None,
    spent: int,
    reserved: int = 0,
    begins_ms: int = NOW_MS - 5 * HOUR_S * 1_000,
) -> Meter:
    return Meter("2026-09-21", NOW_MS + HOUR_S * 1_000, cap, spent, reserved, begins_ms=begins_ms)


@pytest.mark.parametrize(
    ("overview", "asking", "words", "tone"),
    [
        (
            Overview([lane()], [Finding("no_worker", "")], []),
            True,
            "Nothing is sent: no worker runs",
            "bad",
        ),
        (Overview([], [Finding("rebalancing", "")], []), True, "Asking Kafka", "idle"),
        (Overview([], [], []), False, "No workspace is configured", "idle"),
        (Overview([lane(tone="bad")], [], []), False, "1 of 1 lane is held", "bad"),
        (Overview([lane(tone="warn"), lane()], [], []), False, "1 of 2 lanes is held", "bad"),
        (Overview([lane(tone="warn"), lane()], [], []), True, "1 of 2 lanes is held", "bad"),
        (Overview([lane(), lane()], [], []), True, "Asking Kafka", "idle"),
        (Overview([IN_PART, lane()], [], []), False, "1 of 2 lanes is held in part", "bad"),
        (
            Overview([IN_PART, IN_PART, lane(tone="bad")], [], []),
            False,
            "1 of 3 lanes is held, 2 more in part",
            "bad",
        ),
        (Overview([lane(None), lane(None)], [], []), False, "Ready: no lead has come yet", "idle"),
        (Overview([lane()], [], []), False, "The lane is running", "ok"),
        (Overview([lane(), lane(None)], [], []), False, "All 2 lanes are running", "ok"),
    ],
)
def test_the_first_words_answer_whether_it_works(
    overview: Overview,
    asking: bool,
    words: str,
    tone: str,
) -> None:
    heading, is_toned = _heading(overview, is_asking=asking)
    assert "".join(part if isinstance(part, str) else str(part[0]) for part in heading) == words
    assert is_toned == tone


@pytest.mark.parametrize(
    ("meters", "bar", "others"),
    [
        ([], (0, 0, None, 0.0, 0.0, "ok"), 0),
        ([meter(None, 7), meter(None, 2, 1)], (9, 0, None, 0.0, 0.0, "ok"), 0),
        ([meter(100, 60, 19), meter(None, 7)], (60, 19, 100, 60.0, 19.0, "ok"), 7),
        ([meter(100, 60, 20), meter(50, 30, 10)], (90, 30, 150, 60.0, 20.0, "warn"), 0),
        ([meter(100, 120, 9)], (120, 9, 100, 100.0, 0.0, "warn"), 0),
        ([meter(3, 1, 1)], (1, 1, 3, 33.33, 33.33, "ok"), 0),
    ],
)
def test_the_credits_of_the_day_are_of_the_lanes_with_a_limit(
    meters: list[Meter],
    bar: Any,
    others: int,
) -> None:
    views = [msgspec.structs.replace(VIEW, meters={"credits_day": of_day}) for of_day in meters]
    credits_, without_limit = _credits(Overview([lane(None), *map(lane, views)], [], []), NOW_MS)
    assert msgspec.structs.astuple(credits_)[2:8] == bar
    assert without_limit == others


@pytest.mark.parametrize(
    ("ago_s", "hours"),
    [([], 1), ([0], 1), ([3_600], 1), ([3_601, 5], 2), ([DAY_S - 1], 24), ([10 * DAY_S], 24)],
)
def test_a_chart_shows_the_hours_that_are_known(ago_s: list[int], hours: int) -> None:
    assert hours_known([NOW_S - ago for ago in ago_s], NOW_S) == hours


class Ended:
    """Leads that came to rest, one in each second of the list."""

    def __init__(self, *at_s: int) -> None:
        self._at_s = at_s

    def came_to_rest(
        self,
        names: Sequence[str],
        step_s: int,
        since_s: int,
    ) -> dict[str, list[Slot]]:
        slots = {at_s // step_s * step_s for at_s in self._at_s}
        return {names[0]: [Slot(at_s, 2, "partial") for at_s in sorted(slots) if at_s >= since_s]}


QUARTER_BEGIN_S = NOW_S // 900 * 900


@pytest.mark.parametrize(
    ("ago_s", "asked", "span", "ended", "begin_s", "slots", "step_s"),
    [
        ([], None, "day", 0, QUARTER_BEGIN_S - 95 * 900, 96, 900),
        ([60], None, "hour", 2, NOW_S // 60 * 60 - 59 * 60, 60, 60),
        ([60, 5_000], None, "day", 4, QUARTER_BEGIN_S - 7 * 900, 8, 900),
        ([60], "day", "day", 2, QUARTER_BEGIN_S - 3 * 900, 4, 900),
        ([95 * 900], "day", "day", 2, QUARTER_BEGIN_S - 95 * 900, 96, 900),
        ([95 * 900 + 1], "day", "day", 0, QUARTER_BEGIN_S - 95 * 900, 96, 900),
    ],
)
def test_the_throughput_covers_the_day_or_what_is_known_of_it(
    ago_s: list[int],
    asked: Any,
    span: str,
    ended: int,
    begin_s: int,
    slots: int,
    step_s: int,
) -> None:
    site: Any = SimpleNamespace(queries=Ended(*(NOW_S - ago for ago in ago_s)))
    chart, shown, last_day = throughput(site, "", NOW_MS, asked)
    assert shown == span
    assert last_day == ended
    assert len(chart.rows) == slots
    assert [at_ms for at_ms, _ in chart.rows] == [
        (begin_s + n * step_s) * 1_000 for n in range(slots)
    ]
    assert chart.total == sum(NOW_S - ago >= begin_s for ago in ago_s) * 2
    assert len(chart.times_ms) == (7 if span == "hour" else 9 if slots == 96 else 5)


def test_changes_of_a_lane_are_bands_from_one_to_the_next() -> None:
    kinds = (
        ("moves", 1_900),
        ("changed", 1_800),
        ("held", 1_750),
        ("moves", 1_500),
        ("held", 900),
        ("moves", 100),
    )
    changes = [DatedChange(at_ms, LaneChange(kind, f"{kind} {at_ms}")) for kind, at_ms in kinds]
    tones: Any = {"held": "warn", "moves": "ok"}
    bands = [
        Band(0.0, 50.0, "warn", "held 900"),
        Band(50.0, 25.0, "ok", "moves 1500"),
        Band(75.0, 15.0, "warn", "held 1750"),
        Band(90.0, 10.0, "ok", "moves 1900"),
    ]
    assert _bands(changes, tones, 1_000, 2_000) == bands
    assert _bands(changes[:1], tones, 1_000, 1_900) == [Band(100.0, 0.2, "ok", "moves 1900")], (
        "wide enough to be seen"
    )


def test_a_search_goes_to_the_lead_that_is_known_by_one_of_the_ids_that_the_text_may_mean() -> None:
    of_our_form = f"h-{'x' * 22}"
    ours, hashed = ids_meant(of_our_form)
    for known, path in (({hashed}, hashed), ({ours, hashed}, ours), (set[str](), ours)):
        site = Mock(
            queries=Mock(
                lead=lambda lead_id, now_ms, known=known: lead_id if lead_id in known else None,
            ),
        )
        assert leads.find(site, of_our_form, NOW_MS) == f"/board/leads/{path}"
    person = "/board/leads?person="
    for of_person, path in (
        (["crm-1", "crm-2"], person),
        (["crm-1", "gone"], "/board/leads/crm-1"),
        ([], person),
    ):
        known = Mock(
            leads_of=Mock(return_value=of_person),
            lead=lambda lead_id, now_ms: lead_id if lead_id.startswith("crm") else None,
        )
        assert leads.find(Mock(queries=known), "ada@example.com", NOW_MS).startswith(path)


def test_waits_without_a_visible_gap_are_one_band_and_the_last_is_of_now_if_it_has_no_end() -> None:
    def wait(begin_ms: int, end_ms: int | None, text: str = "") -> RecordWait:
        return RecordWait("pause", "paused", text, begin_ms, end_ms, None)

    first = wait(0, 100)
    last = wait(9_000, None)
    for waits, now in (([first, last], last), ([last], last), ([last, first], None), ([], None)):
        timeline = leads._timeline(Mock(events=[], waits=waits, column="accepted"), 10_000)
        assert timeline["now"] == now
        assert timeline["length_ms"] == sum(some.length_ms(10_000) for some in waits)
    waits = [
        wait(0, 100, "why"),
        wait(1_000, 2_000),
        wait(2_030, 2_040, "too near"),
        wait(9_000, None),
    ]
    assert leads._bands(waits, "warn", 0, 10_000, 10_000) == [
        Band(0.0, 1.0, "warn", "100 ms: why"),
        Band(10.0, 10.4, "warn", "1.0 s"),
        Band(90.0, 10.0, "warn", "1.0 s"),
    ]


@pytest.mark.parametrize(
    ("used", "forecast", "tone", "seen"),
    [
        (meter(None, 0), None, None, None),
        (meter(None, 5), None, "ok", None),
        (
            meter(100, 60, 19),
            Forecast(600.0),
            "ok",
            Outlook("600 an hour: lasts until", NOW_MS + 3_600_000, False),
        ),
        (meter(100, 60, 20), None, "warn", None),
        (
            meter(100, 100, 0),
            None,
            "bad",
            Outlook("used up until", NOW_MS + 3_600_000, is_full=True),
        ),
        (
            meter(100, 150, 120),
            None,
            "bad",
            Outlook("used up until", NOW_MS + 3_600_000, is_full=True),
        ),
    ],
)
def test_a_budget_is_a_bar_with_what_becomes_of_it(
    used: Meter,
    forecast: Any,
    tone: Any,
    seen: Any,
) -> None:
    view = msgspec.structs.replace(VIEW, meters={"credits_day": used})
    cap = used.cap or 0
    expected = Bar(
        "credits_day",
        "credits today",
        used.spent,
        used.reserved,
        used.cap,
        min(100.0, used.spent / cap * 100) if cap else 0.0,
        min(100.0, used.reserved / cap * 100) if cap else 0.0,
        tone,
        seen,
        600.0 if forecast else 0.0,
        NOW_MS + 3_600_000,
    )
    bars = bars_of(lane(view), {"credits_day": forecast} if forecast else {}, NOW_MS)
    assert [msgspec.structs.replace(bar, label="credits today") for bar in bars] == (
        [expected] if tone else []
    )


def test_a_forecast_is_of_what_was_just_booked_if_the_board_knows_enough_of_it() -> None:
    view = msgspec.structs.replace(
        VIEW,
        meters={"credits_day": meter(1_000, 100), "credits_month": meter(None, 500)},
    )
    minutes = [
        Slot(NOW_S - 901, credits=7),
        Slot(NOW_S - 900, credits=20),
        Slot(NOW_S - 599, credits=6),
        Slot(NOW_S - 240, credits=4),
    ]
    forecasts = forecasts_of(view, minutes, NOW_MS)
    assert forecasts["credits_day"].per_hour == 120.0
    assert forecasts["credits_month"].per_hour == 120.0
    assert forecasts_of(VIEW, minutes, NOW_MS) == forecasts_of(view, minutes[2:], NOW_MS) == {}
    assert forecasts_of(view, minutes[:2], NOW_MS) == {}, "a burst, after which nothing was booked"


def moment(waiting: dict[tuple[str, int], Waiting] | None) -> Moment:
    kafka = None if waiting is None else Consumption(UP, UP, waiting)
    return Moment(NOW_MS, ProjectionLag(), kafka, STRANGER)


def test_the_backlog_has_a_hundred_rows_a_page_and_ten_names_a_row() -> None:
    names = {number: [f"w{n}" for n in range(number)] for number in (9, 10, 11)}
    plan = SimpleNamespace(residents=lambda number: names.get(number, []))
    site: Any = SimpleNamespace(settings=SimpleNamespace(names=TopicNames(), plan=plan))
    left = {("leads", number): Waiting(number) for number in range(151)}
    left |= {
        ("leads.bulk", 1): Waiting(1_000, at_most=True),
        ("leads.retry", 0): Waiting(5),
        ("leads.retry", 1): Waiting(6),
    }

    def page(
        topic: str = "leads",
        partition: int | None = None,
        after: int = 0,
        of: str = "",
    ) -> Any:
        where = {} if partition is None else {"partition": str(partition)}
        return backlog_page(
            site,
            moment(left),
            {"topic": topic, "after": str(after), "of": of, **where},
        )

    first = page()
    last = page(after=100)
    assert first["waiting"] == last["waiting"] == Waiting(150 * 151 // 2)
    assert first["back"] == 0
    assert first["after"] == 100
    assert last["after"] == 0
    assert [row["partition"] for row in first["rows"] + last["rows"]] == list(range(1, 151)), (
        "0 has no record"
    )
    assert first["rows"][8:11] == [
        {
            "topic": "leads",
            "partition": 9,
            "waiting": Waiting(9),
            "workspaces": names[9],
            "more": False,
        },
        {
            "topic": "leads",
            "partition": 10,
            "waiting": Waiting(10),
            "workspaces": names[10],
            "more": False,
        },
        {
            "topic": "leads",
            "partition": 11,
            "waiting": Waiting(11),
            "workspaces": names[11][:10],
            "more": True,
        },
    ]
    assert page("", 1)["waiting"] == Waiting(1_007, at_most=True)
    assert page("", 1)["back"] == 6
    assert page("leads.retry")["waiting"] == Waiting(11)
    assert page("", 1, of="producers")["waiting"] == Waiting(1_001, True)
    assert page(of="producers")["of"] == "producers"
    assert page("leads.retry", of="producers")["waiting"] == Waiting(0)
    assert page("leads.bulk", 2)["rows"] == []
    unknown: Any = {
        "waiting": None,
        "rows": [],
        "topic": "leads",
        "partition": 3,
        "of": "",
        "after": 0,
        "back": 0,
    }
    assert (
        backlog_page(site, moment(None), {"topic": "leads", "partition": "3", "after": "100"})
        == unknown
    )


@pytest.mark.parametrize(
    ("after", "begins"),
    [
        ("", (1 << 62, "")),
        ("123.c-7", (123, "c-7")),
        ("123.a.b", (123, "a.b")),
        ("9" * 15 + ".x", (int("9" * 15), "x")),
        ("9" * 16 + ".x", (1 << 62, "")),
        ("-1.x", (1 << 62, "")),
    ],
)
def test_the_commands_of_a_page_begin_after_the_last_one_of_the_page_before(
    after: str,
    begins: Any,
) -> None:
    commands = Mock(return_value=[])
    queries = SimpleNamespace(commands=commands, words_of_commands=lambda word: [word])
    page = audit_page(site_of(queries), moment(None), {"after": after, "who": "jane"})
    commands.assert_called_once_with(CommandFilter(who="jane"), begins, 51)
    assert page["rows"] == []
    assert page["after"] == ""
    assert page["kinds"] == ["kind"]
    assert page["people"] == ["who"]


def test_of_many_causes_the_first_have_a_colour_and_the_others_one_together() -> None:
    causes = [
        Cause("failed", "acme", "people" * (n > 0), f"r{n}", "503", open=7 - n) for n in range(7)
    ]
    begin_s = NOW_S // HOUR_S * HOUR_S - 23 * HOUR_S
    queries = SimpleNamespace(
        causes_after=lambda topic, workspace, after, limit: (DeadLetters(causes, open=28), 58),
        dead_letter_hours=lambda topic, shown, since_s: [
            [(since_s, 1), (since_s + 23 * HOUR_S, n), (since_s + 24 * HOUR_S, 9)] for n in range(7)
        ],
        status_sums=lambda workspace: [
            SimpleNamespace(status="deferred", leads=4),
            SimpleNamespace(status="x", leads=9),
        ],
        dead_letters=lambda topic, workspace: SimpleNamespace(open=3),
        replays=lambda most: [],
    )
    settings = SimpleNamespace(
        names=TopicNames(),
        topics=Retention(),
        workspaces={"acme": 1},
        destinations={},
    )
    site: Any = SimpleNamespace(queries=queries, settings=settings)
    page: Any = dead_page(site, moment({}), {})
    chart: Stack = page["hours"]
    assert [(area.label, area.total) for area in chart.areas] == [
        ("r6 (acme / people)", 7),
        ("r5 (acme / people)", 6),
        ("r4 (acme / people)", 5),
        ("r3 (acme / people)", 4),
        ("rarer causes", 1 + 2 + 3),
    ]
    assert chart.rows[0] == (begin_s * 1_000, [1, 1, 1, 1, 3])
    assert len(chart.rows) == 24
    assert [(row["share"], row["last_day"]) for row in page["rows"]] == [
        (round((7 - n) / 28 * 100, 1), 1 + n) for n in range(7)
    ]
    assert page["after"] == 50
    assert page["deferred"] == 4
    assert page["others"] == 3
    assert page["kept_days"] == 14
    assert dead_page(site, moment({}), {"from": "parked", "after": "8"})["after"] == 0, (
        "58 causes, and this page ends with the last"
    )
    assert dead_page(site, moment({}), {"from": "parked", "after": "7"})["after"] == 57


def replay(state: Any = "running", **more: Any) -> ReplayProgress:
    plan = ReplayPlan(NOW_MS, "dlq", Filter(), {}, 8, 1, 1)
    return ReplayProgress("r-1", state, "jane", "", NOW_MS, plan, NOW_MS - 60_001, **more)


def test_the_share_of_a_replay_is_of_what_it_has_to_send() -> None:
    of_none = msgspec.structs.replace(
        replay(),
        plan=msgspec.structs.replace(replay().plan, dead_letters=0),
    )
    sent = [
        replay(),
        replay(sent=2, refused=1),
        replay(total=3, sent=1),
        replay(total=3, sent=3, refused=2),
        of_none,
    ]
    assert [share_of(progress) for progress in sent] == [0.0, 37.5, 33.33, 100.0, 0.0]


@pytest.mark.parametrize(
    ("progress", "asked", "waits", "silent"),
    [
        (replay(), "", False, True),
        (replay(), "c-1", True, True),
        (replay(commands=("c-1",)), "c-1", False, True),
        (replay("stopped"), "c-1", True, False),
        (replay("done"), "c-1", False, False),
        (msgspec.structs.replace(replay(), updated_at_ms=NOW_MS - 60_000), "", False, False),
    ],
)
def test_the_page_of_a_replay_says_whether_a_command_waits_and_its_process_is_silent(
    progress: ReplayProgress,
    asked: str,
    waits: bool,
    silent: bool,
) -> None:
    site: Any = SimpleNamespace(queries=SimpleNamespace(replay=lambda name: progress))
    page: Any = replay_page(site, moment({}), {"replay": "r-1", "asked": asked})
    assert page["waits"] == waits
    assert page["silent"] == silent
    assert page["progress"] == progress


def test_the_page_of_a_lane_asks_for_what_it_shows_and_no_more() -> None:
    asked: list[tuple[int, int]] = []
    hour_s = NOW_S // HOUR_S * HOUR_S
    marks = [
        Mark(hour_s - 2 * HOUR_S, 90.0, 100),
        Mark(hour_s - HOUR_S, 70.0, 300),
        Mark(hour_s - HOUR_S + 300, 80.0, 900),
        Mark(hour_s, 95.0, 50),
    ]

    class Queries(Ended):
        def credits(self, names: Sequence[str], step_s: int, since_s: int) -> dict[str, list[Slot]]:
            asked.append((step_s, since_s))
            return {"acme": [Slot(NOW_S - 600, credits=8), Slot(NOW_S - 50_000, credits=5)]}

    queries: Any = Queries()
    queries.lane = lambda name, now_ms: msgspec.structs.replace(
        VIEW,
        meters={"credits_day": meter(100, 20)},
    )
    queries.marks = lambda name: marks
    queries.lane_changes = lambda name: []
    queries.status_sums = lambda name: []
    queries.yields = lambda now_ms, name: []
    queries.dead_letters = lambda topic, name: None
    queries.pause = lambda: None
    plan = SimpleNamespace(residents=lambda number: ["acme"])
    home = SimpleNamespace(time_zone="Europe/Berlin")
    settings = SimpleNamespace(
        names=TopicNames(),
        workspaces={"acme": home},
        destinations={},
        plan=plan,
        home=lambda name: 0,
    )
    site: Any = SimpleNamespace(queries=queries, settings=settings, home=lambda name, view: 0)
    page: Any = lane_page(site, moment({}), {"workspace": "acme"})
    day_s = 86_400
    assert asked == [(60, NOW_S - HOUR_S), (900, NOW_S - 26 * HOUR_S), (day_s, NOW_S - 35 * day_s)]
    assert page["hours_n"] == 3
    assert page["zone"] == "Europe/Berlin"
    assert page["worst"] == (70.0, 900)
    begin_s = NOW_S - 3 * HOUR_S
    assert page["times_ms"] == [(begin_s + n * 3 * HOUR_S // 4) * 1_000 for n in range(5)]
    assert page["hours"] == [
        ((hour_s - 2 * HOUR_S) * 1_000, 90.0, 100),
        ((hour_s - HOUR_S) * 1_000, 70.0, 900),
        (hour_s * 1_000, 95.0, 50),
    ]
    slots = [begin_s // 300 * 300 + n * 300 for n in range(3 * HOUR_S // 300 + 1)]
    assert page["health"] == trend({mark.at_s: mark.score for mark in marks}, slots)
    assert page["latency"] == trend({mark.at_s: mark.p95_ms for mark in marks}, slots)
    ((_, line),) = page["burns"]
    assert line.rows == [((NOW_S - 600) * 1_000, 12), (NOW_MS, 20)], "12 are older than the history"
