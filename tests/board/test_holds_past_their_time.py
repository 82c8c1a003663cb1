"""A lane that is held past the time of its next probe, while no lead waits: every place says that
it is held.

Each lane is made by the rules themselves. Then the clock of the readers moves beyond what the view
promised.
"""

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final
from unittest.mock import Mock

import httpx
import msgspec
import pytest
from prometheus_client import CollectorRegistry
from starlette.applications import Starlette

from stream_app.board.access import Access
from stream_app.board.app import BoardRoutes
from stream_app.board.lookup import Lookup
from stream_app.board.notify import alert_of
from stream_app.board.read_model.follow import ProjectionLag
from stream_app.cli.lane_tables import lane_tables
from stream_app.cli.status import _show_finding
from stream_app.client.doctor import checks as doctor
from stream_app.domain.lane.holds import REASONS
from stream_app.domain.lane.lane import Lane
from stream_app.domain.lane.overrides import Trip, obey
from stream_app.domain.lane.settlement import settled
from stream_app.domain.limits import suspension
from stream_app.domain.limits import webhook_quota as quota
from stream_app.domain.limits.budget import Budget, BudgetPolicy
from stream_app.domain.limits.concurrency import NOTHING, StallDetector
from stream_app.domain.limits.destination_health import DestinationHealth
from stream_app.domain.limits.rate import Rate, RatePolicy
from stream_app.domain.limits.webhook_quota import Quota, Webhook
from stream_app.domain.model.outcome import Accepted, Refused
from stream_app.domain.model.topics import TopicNames
from stream_app.domain.plan import Actor, Destination, InForce
from stream_app.domain.views.explain import ConsumerGroup, Facts, LaneFacts, explain
from stream_app.domain.views.lane import LaneView
from stream_app.domain.views.lane_now import view
from stream_app.ops import logs
from stream_app.ops.lane_metrics import LaneMetrics
from tests.board.client import BEARER, board_with, plain
from tests.board.clock import DAY_MS, HOUR_MS, MINUTE_MS, NOW_MS
from tests.board.model_records import Made
from tests.board.scene import TOKEN, settings_of
from tests.unit.domain.lanes import granted

BEGAN_MS: Final = NOW_MS - 40 * DAY_MS
BY: Final = Actor("jane", "rebuilt", BEGAN_MS)
PEOPLE: Final = Destination("acme-people", "acme", ("hook1",), setup_id="one")
POLICY: Final = InForce("acme", "acme-people")
NEW: Final = Lane("acme", 0, rate=Rate(10.0, BEGAN_MS))
UP: Final = ConsumerGroup("Stable", 1)
PROBE_DUE: Final = "its next lead goes as a probe"
_NAMES: Final = TopicNames()


class InTrouble(msgspec.Struct, frozen=True):
    """A lane in trouble since `BEGAN_MS`."""

    lane: Lane
    policy: InForce = POLICY
    stall: StallDetector = NOTHING

    def seen(self, at_ms: int, before: LaneView | None = None) -> LaneView:
        return view(self.policy, self.lane, [PEOPLE], at_ms, before, self.stall)


def _suspended(reason: str, *, alone: bool = False) -> InTrouble:
    state = suspension.begin(
        POLICY.suspension,
        reason,
        f"the text of {reason}",
        BEGAN_MS,
        PEOPLE.alias,
        one_destination=alone,
    )
    return InTrouble(msgspec.structs.replace(NEW, suspension=state))


def _out() -> InTrouble:
    state = suspension.begin(
        POLICY.suspension,
        "full",
        "webhook hook1 of people takes no leads: HTTP 403: it is full",
        BEGAN_MS,
        PEOPLE.alias,
    )
    return InTrouble(
        msgspec.structs.replace(
            NEW,
            quota=quota.take_out(POLICY.suspension, NEW.quota, "hook1", state, None),
        ),
    )


def _broken() -> InTrouble:
    lane = NEW
    for number in range(5):
        at_ms = BEGAN_MS + number
        lane, grant = granted(POLICY, lane, PEOPLE, at_ms)
        lane, _ = settled(POLICY, lane, grant, Refused("http_503", 20, 503), at_ms, 0.0)
    return InTrouble(lane)


def _failing() -> InTrouble:
    alone = {PEOPLE.alias: DestinationHealth()}
    lane = msgspec.structs.replace(NEW, destinations=alone)
    for number in range(5):
        at_ms = BEGAN_MS + number
        lane, grant = granted(POLICY, lane, PEOPLE, at_ms)
        lane, _ = settled(POLICY, lane, grant, Refused("http_503", 20, 503), at_ms, 0.0)
    return InTrouble(lane)


def _half_open() -> InTrouble:
    lane = _broken().lane
    lane, grant = granted(POLICY, lane, PEOPLE, lane.breaker.until_ms)
    lane, _ = settled(POLICY, lane, grant, Accepted(200, 20), BEGAN_MS + MINUTE_MS, 0.0)
    assert lane.breaker.phase == "half_open"
    return InTrouble(lane)


def _spent(cap: str, cost: str) -> InTrouble:
    policy = msgspec.structs.replace(
        POLICY,
        budget=msgspec.structs.replace(BudgetPolicy(), **{cap: 1}),
    )
    destination = msgspec.structs.replace(PEOPLE, **{cost: 1})
    lane, _ = granted(policy, NEW, destination, BEGAN_MS)
    return InTrouble(lane, policy)


def _behind_its_books() -> InTrouble:
    policy = msgspec.structs.replace(POLICY, budget=BudgetPolicy(credits_per_day=1))
    return InTrouble(
        msgspec.structs.replace(NEW, budget=Budget(days_folded="2099-12-31")),
        policy,
    )


def _forced() -> InTrouble:
    return InTrouble(obey(POLICY, NEW, Trip(), BY).lane)


ANSWERS: Final = ("no_callbacks", "credits_exhausted_suspected", "yield_fell")
"""The suspensions because of Clay's answers, which hold one destination."""
UNTIL_A_PROBE: Final[dict[str, Callable[[], InTrouble]]] = {
    **{
        reason: partial(_suspended, reason)
        for reason in (
            "http_401",
            "http_402",
            "http_403",
            "http_451",
            "no_callbacks",
            "over_ceiling",
            "flood_guard",
        )
    },
    "webhook_out": _out,
    "breaker_open": _broken,
    "destination_fails": _failing,
    "breaker_open: half open": _half_open,
}
UNTIL_A_PERSON: Final[dict[str, Callable[[], InTrouble]]] = {
    "paused": lambda: InTrouble(msgspec.structs.replace(NEW, pause=BY)),
    "no_webhook": lambda: InTrouble(
        msgspec.structs.replace(NEW, quota=Quota({"hook1": Webhook(50_000)})),
    ),
    "forced_open": _forced,
    "no_answer": lambda: InTrouble(NEW, stall=StallDetector(BEGAN_MS - 10_000, 5)),
    "budget_clock": _behind_its_books,
}
UNTIL_A_TIME: Final[dict[str, Callable[[], InTrouble]]] = {
    "budget_credits_day": lambda: _spent("credits_per_day", "ceiling_credits"),
    "budget_credits_month": lambda: _spent("credits_per_month", "ceiling_credits"),
    "budget_actions_day": lambda: _spent("actions_per_day", "ceiling_actions"),
    "budget_actions_month": lambda: _spent("actions_per_month", "ceiling_actions"),
    "rate_limited": lambda: InTrouble(
        msgspec.structs.replace(NEW, rate=Rate(0.0, BEGAN_MS, blocked_until_ms=BEGAN_MS + HOUR_MS)),
    ),
}
"""What `UNTIL_A_TIME` names is over: no lane is held."""


def test_every_reason_to_hold_a_lane_is_in_one_of_these_tables() -> None:
    """Those of them that hold a lane: a lane whose leads only wait for their turn moves."""
    tried = {name.partition(":")[0] for name in (*UNTIL_A_PROBE, *UNTIL_A_PERSON, *UNTIL_A_TIME)}
    tried |= {"http_*" for name in tried if name.startswith("http_")} | {*ANSWERS}
    holding = {code for code, reason in REASONS.items() if reason.lifted_by != "turn"}
    assert holding - tried == set()


async def _told(
    seen: LaneView,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Any,
) -> dict[str, Any]:
    """What each place says at `NOW_MS` of the lane acme, whose last published view is `seen`."""
    settings = settings_of(folder)
    lane = LaneFacts("acme", 0, seen, {"leads": 0})
    facts = Facts(NOW_MS, UP, UP, [lane])
    findings = explain(facts)
    holding = [finding for finding in findings if finding.holds]
    told: dict[str, Any] = {"explain": [finding.code for finding in holding]}
    told["explain runs"] = any(finding.code == "moves" for finding in findings)
    for finding in holding:
        _show_finding(finding, NOW_MS, "UTC")
    told["explain says"] = capsys.readouterr().out
    told["since"] = {finding.since_ms for finding in holding}
    told["lanes"] = lane_tables([lane], {}, {}, NOW_MS)[0].rows[0][1]

    async def last_views(_: Any) -> dict[str, LaneView]:
        return {"acme": seen}

    monkeypatch.setattr(doctor, "last_views", last_views)
    monkeypatch.setattr(
        "stream_app.client.doctor.checks.Clock",
        lambda: Mock(now_ms=lambda: NOW_MS),
    )
    told["doctor"] = (await doctor._lanes(settings)).text
    registry = CollectorRegistry()
    metrics = LaneMetrics(registry, logs.get("test"), lambda: NOW_MS)
    metrics.show(seen)
    (family,) = [family for family in registry.collect() if family.name == "stream_app_lane_holds"]
    told["metrics"] = [sample.labels["reason"] for sample in family.samples if sample.value]
    (family,) = [
        family
        for family in registry.collect()
        if family.name == "stream_app_lane_destination_holds"
    ]
    told["metrics of destinations"] = [
        (sample.labels["destination"], sample.labels["reason"])
        for sample in family.samples
        if sample.value
    ]
    told["messages"] = [
        alert for finding in findings if (alert := alert_of(finding, NOW_MS)) is not None
    ]
    with board_with(folder, Made(_NAMES.lanes, b"acme", msgspec.json.encode(seen))) as client:
        (told["api"],) = await _api_lanes(client.board)
        told["now"] = plain((await client.get("/board")).text)
        told["lane page"] = (await client.get("/board/lanes/acme")).text
        told["waiting lead"] = (await client.get("/board/waiting?lead_id=crm-waits")).text
        told["list"] = plain((await client.get("/board/lanes?state=held")).text)
        told["list in part"] = plain((await client.get("/board/lanes?state=part")).text)
    return told


async def _api_lanes(board: BoardRoutes) -> list[dict[str, Any]]:
    """The lanes in the answer of the look-up API, from the model of a board."""
    queries = board._maker.site.queries
    lag = ProjectionLag(NOW_MS)
    no: Any = None
    access = Access(TOKEN, made_here=False)
    lookup = Lookup(queries, lambda: lag, no, no, _NAMES, access, no, lambda: NOW_MS)
    transport = httpx.ASGITransport(Starlette(routes=lookup.routes()))
    async with httpx.AsyncClient(
        transport=transport,
        base_url="http://127.0.0.1:9107",
        headers=BEARER,
    ) as client:
        lanes: list[dict[str, Any]] = (await client.get("/lanes")).json()["lanes"]
    return lanes


def _views(made: InTrouble) -> list[LaneView]:
    """The view published when the trouble began, and one that the worker published since."""
    first = made.seen(BEGAN_MS + MINUTE_MS)
    return [first, made.seen(NOW_MS - MINUTE_MS, first)]


@pytest.mark.parametrize("published", [0, 1], ids=["as it began", "again since"])
@pytest.mark.parametrize("name", [*UNTIL_A_PROBE, *UNTIL_A_PERSON])
async def test_it_is_held_in_every_place(
    name: str,
    published: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    code, _, _ = name.partition(":")
    made = (UNTIL_A_PROBE | UNTIL_A_PERSON)[name]()
    if published and name == "no_answer":
        pytest.skip("requests end within minutes, so that no worker says this an hour later")
    told = await _told(_views(made)[published], tmp_path, monkeypatch, capsys)
    assert told["explain"] == [code]
    assert not told["explain runs"]
    assert told["lanes"].startswith(code if code != "paused" else "paused since")
    assert told["doctor"].startswith("1 of 6 lanes is held")
    assert told["metrics"] == [code]
    assert told["api"]["holds"] == code
    assert "1 of 6 lanes is held" in told["now"]
    assert ">held</span>" in told["lane page"].split("</h1>")[0]
    assert "acme" in told["list"]
    places = (told["explain says"], told["lanes"], told["now"], plain(told["lane page"]))
    for text in places:
        assert (PROBE_DUE in text) == (name in UNTIL_A_PROBE), text
    assert told["api"].get("probe_due", False) == (name in UNTIL_A_PROBE)
    assert told["api"].get("until_ms", 0) == 0, (
        "no time that has passed is told as one that is to come"
    )
    assert "until " not in told["explain says"].split("lifts")[0].removeprefix("HELD")
    assert told["api"]["since_ms"] > 0
    assert told["since"] == {told["api"]["since_ms"]}
    for alert in told["messages"]:
        assert alert.name == code
        assert alert.severity == "critical"
        assert alert.since_ms == told["api"]["since_ms"]


@pytest.mark.parametrize(
    ("name", "lane"),
    [
        *((name, _suspended(name, alone=True).lane) for name in ANSWERS),
        ("destination_fails", _failing().lane),
        ("webhook_out", _out().lane),
    ],
)
async def test_a_destination_that_is_held_alone_holds_its_lane_in_part_in_every_place(
    name: str,
    lane: Lane,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    firms = msgspec.structs.replace(PEOPLE, alias="firms", webhook_ids=("hook2",))
    seen = view(POLICY, lane, [PEOPLE, firms], BEGAN_MS + MINUTE_MS)
    told = await _told(seen, tmp_path, monkeypatch, capsys)
    assert told["explain"] == [name]
    assert told["explain runs"]
    assert told["explain says"].startswith("acme: HELD IN PART, leads of acme-people: ")
    assert told["lanes"] == f"held in part: acme-people ({name})"
    assert told["doctor"].startswith("1 of 6 lanes is held in part: ")
    assert told["metrics"] == []
    assert told["metrics of destinations"] == [("acme-people", name)]
    assert [alert.name for alert in told["messages"]] == [name]
    assert "holds" not in told["api"]
    assert [part["destinations"] for part in told["api"]["partly"]] == [["acme-people"]]
    assert "1 of 6 lanes is held in part" in told["now"]
    assert ">held in part</span>" in told["lane page"].split("</h1>")[0]
    for page in ("lane page", "waiting lead"):
        of_lane = told[page].split('id="destinations"')[0]
        assert ">held in part</span>" in of_lane
        assert ">held</span>" not in of_lane
    table = told["lane page"].split('id="destinations"')[1].split("</table>")[0]
    leads = re.findall(r'<th scope="row">([\w-]+)</th>.*?data-label="Leads">(.*?)</td>', table)
    assert {alias: plain(cell) for alias, cell in leads} == {"acme-people": "held", "firms": "go"}
    assert "0 held lanes" in told["list"]
    assert "1 lane held in part" in told["list in part"]
    assert "leads of acme-people: " in told["list in part"]


@pytest.mark.parametrize("name", UNTIL_A_PROBE)
async def test_the_trouble_began_when_its_first_call_failed(name: str) -> None:
    for seen in _views(UNTIL_A_PROBE[name]()):
        (finding,) = [
            finding
            for finding in explain(Facts(NOW_MS, UP, UP, [LaneFacts("acme", 0, seen, {})]))
            if finding.holds
        ]
        assert finding.since_ms == BEGAN_MS
        assert seen.since_ms == BEGAN_MS


@pytest.mark.parametrize("name", UNTIL_A_TIME)
async def test_it_runs_in_every_place_once_its_time_has_come(
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    seen = UNTIL_A_TIME[name]().seen(BEGAN_MS + MINUTE_MS)
    assert seen.holds == name
    assert seen.until_ms < NOW_MS
    told = await _told(seen, tmp_path, monkeypatch, capsys)
    assert told["explain"] == []
    assert told["explain runs"] is True
    assert told["lanes"] == "running"
    assert told["doctor"] == "no lane is held"
    assert told["metrics"] == []
    assert told["messages"] == []
    assert told["api"].get("holds", "") == ""
    assert told["api"].get("text", "") == ""
    assert told["api"].get("since_ms", 0) == 0
    assert "All 6 lanes are running" in told["now"]
    assert ">held</span>" not in told["lane page"]


async def test_a_rate_reads_alike_in_every_place(tmp_path: Path) -> None:
    policy = msgspec.structs.replace(POLICY, rate=RatePolicy(rate_per_s=8.23))
    seen = InTrouble(NEW, policy).seen(NOW_MS - 500)
    lane = LaneFacts("acme", 0, seen, {"leads": 0})
    assert lane_tables([lane], {}, {}, NOW_MS)[0].rows[0][4] == "8.23"
    (moves,) = explain(Facts(NOW_MS, UP, UP, [lane]))
    assert moves.what == "runs at up to 8.23 a second, its rate"
    with board_with(tmp_path, Made(_NAMES.lanes, b"acme", msgspec.json.encode(seen))) as client:
        assert ">8.23 <small>a second<" in (await client.get("/board/lanes/acme")).text
        assert ">8.23</td>" in (await client.get("/board/lanes")).text


_TIME_MS: Final = NOW_MS + 62_000
_SUSPENDED: Final = msgspec.structs.replace(
    suspension.begin(
        POLICY.suspension,
        "no_callbacks",
        "nothing came back",
        NOW_MS - 1_000,
        PEOPLE.alias,
    ),
    probe_at_ms=_TIME_MS,
)
_DENIED: Final = msgspec.structs.replace(_SUSPENDED, reason="http_402", text="HTTP 402")
_BLOCKED: Final = Rate(0.0, NOW_MS - 1_000, blocked_until_ms=_TIME_MS)


@pytest.mark.parametrize(
    ("code", "lane", "says"),
    [
        ("no_callbacks", msgspec.structs.replace(NEW, suspension=_SUSPENDED), "next probe at"),
        ("http_402", msgspec.structs.replace(NEW, suspension=_DENIED), "next probe at"),
        ("rate_limited", msgspec.structs.replace(NEW, rate=_BLOCKED), "until"),
    ],
)
async def test_every_place_says_whether_the_time_of_a_hold_is_its_end_or_its_next_probe(
    code: str,
    lane: Lane,
    says: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The time has seconds, because a probe may be due within a minute."""
    told = await _told(InTrouble(lane).seen(NOW_MS - 500), tmp_path, monkeypatch, capsys)
    hour_minute_second = "".join(f"{part:02}:" for part in _clock(_TIME_MS))[:-1]
    assert told["lanes"] == f"{code}, {says} {hour_minute_second}"
    line = f"    {says:<7} {hour_minute_second} (UTC)"
    assert line in told["explain says"].splitlines()
    assert f"{says.capitalize()} 2026-09-21 {hour_minute_second}." in told["now"]
    assert f"{says.capitalize()} 2026-09-21 {hour_minute_second}." in plain(told["lane page"])
    other = {"until": "next probe", "next probe at": "until 2026"}[says]
    for place in ("lanes", "explain says", "now", "lane page", "waiting lead"):
        assert other not in plain(told[place]).lower(), place
    assert told["api"]["until_ms"] == _TIME_MS


def _clock(at_ms: int) -> tuple[int, int, int]:
    seconds = at_ms // 1000 % 86_400
    return seconds // 3_600, seconds // 60 % 60, seconds % 60
