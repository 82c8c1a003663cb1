"""Messages to people: what counts, when it begins and ends, when it is sent, and what is never in
it.
"""

import ast
import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from stream_app.board import notify
from stream_app.board.notify import (
    BEGUN_S,
    ENDED_S,
    LOOK_EVERY_S,
    MAX_ALERTS,
    Messages,
    Outbox,
    Watch,
    alert_of,
)
from stream_app.board.persons import NEEDS_A_PERSON
from stream_app.client.messages import MAX_LINES, Alert, Key, NotDelivered, body_of
from stream_app.client.results.answers import NO_YIELD, ColumnYield, Yield, yield_of
from stream_app.domain.lane.holds import REASONS, lifts
from stream_app.domain.views import explain
from stream_app.domain.views.explain import Finding
from stream_app.tasks import cancel
from tests.support.narrow import present

NOW_MS = 1_790_000_000_000
BY_ITSELF = frozenset(
    {
        "commands_wait",
        "forced_open",
        "moves",
        "never_moved",
        "no_answer",
        "paused",
        "rate_limited",
        "rebalancing",
        "runs_open",
    }
    | {
        "replay_paused",
        "view_unreadable",
        "would_move",
        "budget_credits_day",
        "budget_actions_day",
    },
)
"""What ends by itself, or an operator wanted."""


def finding(workspace: str = "acme", code: str = "no_callbacks", **more: Any) -> Finding:
    return Finding(code, "in words", workspace, **more)


def alert(workspace: str = "acme", code: str = "no_callbacks", **more: Any) -> Alert:
    return present(alert_of(finding(workspace, code, **more), NOW_MS))


def by_key(*alerts: Alert) -> dict[Key, Alert]:
    return {made.key: made for made in alerts}


def test_each_finding_needs_a_person_or_ends_by_itself() -> None:
    code = ast.parse(Path(explain.__file__).read_text())
    words = {
        call.args[0].value
        for call in ast.walk(code)
        if isinstance(call, ast.Call)
        and isinstance(call.func, ast.Name)
        and call.func.id == "Finding"
        if call.args and isinstance(call.args[0], ast.Constant)
    }
    assert {"no_worker", "no_replay", "unreadable"} <= words
    known = {str(word) for word in words} | {
        code for code, reason in REASONS.items() if reason.lifts
    }
    needs = {
        code
        for code in known
        if alert_of(finding(code=code.replace("*", "403")), NOW_MS) is not None
    }
    assert known - needs <= BY_ITSELF
    assert not needs & BY_ITSELF
    assert NEEDS_A_PERSON.keys() - known == {"gateway", "read_model"}


def test_what_it_says_names_the_workspace_and_the_remedy() -> None:
    remedy = lifts("http_401", "acme")
    assert alert(code="http_401", lifts=remedy, since_ms=NOW_MS - 5) == Alert(
        "http_401",
        "critical",
        {"workspace": "acme"},
        "acme: Clay refuses its leads, so the lane is held. What lifts it: a probe that Clay "
        "accepts; or repair the "
        'cause, then: stream-app lanes resume acme --why "..."',
        NOW_MS - 5,
    )
    assert alert("", "no_worker") == Alert(
        "no_worker",
        "critical",
        {},
        "No worker runs, so nothing is sent.",
        NOW_MS,
    )
    assert alert(code="webhook_out", holds=False).severity == "warning"


FELL = (
    "Clay finds work_email for 20 % of the leads of people, and found it for 60 %: the leads since "
    "then have cost 36 credits"
)
COLUMN = ("people", "work_email")


@pytest.mark.parametrize(
    ("hour", "price"),
    [
        (
            yield_of(98, 21, 510),
            "In the last hour each work_email has cost 24.3 credits, and 12.4 in the seven days "
            "before. ",
        ),
        (
            yield_of(9, 3, 3),
            "In the last hour each work_email has cost 1 credit, and 12.4 in the seven days "
            "before. ",
        ),
        (
            yield_of(9, 0, 1),
            "In the last hour no work_email came for 1 credit, and 12.4 in the seven days before. ",
        ),
        (NO_YIELD, ""),
    ],
    ids=["some", "one credit each", "none", "no answer"],
)
def test_a_yield_that_fell_is_told_with_its_column_and_what_a_value_costs(
    hour: Yield,
    price: str,
) -> None:
    before = yield_of(1_904, 990, 12_276)
    row = ColumnYield("acme", *COLUMN, hour, hour, before)
    other = ColumnYield("acme", "firms", "work_email", before, before, before)
    fell = Finding("yield_fell", FELL, "acme", holds=False, columns=(COLUMN,))
    told = present(alert_of(notify._with_prices(fell, [other, row]), NOW_MS))
    assert told.summary == f"acme: {FELL}. {price}Does a provider fail?"
    assert told.labels == {"workspace": "acme", "destination": "people", "column": "work_email"}
    assert told.severity == "warning"


def test_each_column_whose_yield_fell_is_an_alert_and_a_hold_for_them_is_one() -> None:
    both = [(alias, "work_email") for alias in ("people", "firms")]
    told = [alert(code="yield_fell", holds=False, columns=(column,)) for column in both]
    assert len(by_key(*told)) == 2
    held = alert(code="yield_fell", columns=tuple(both))
    assert held.key == ("yield_fell", "acme")
    assert held.severity == "critical"


@pytest.mark.parametrize("code", [code.replace("*", "403") for code in NEEDS_A_PERSON])
def test_no_text_of_clay_or_of_a_lead_is_in_a_message(code: str) -> None:
    text = "ada@example.com, Bearer t0p-s3cr3t, https://hooks.example.com/x"
    made = present(alert_of(Finding(code, text, "acme"), NOW_MS))
    for form in ("slack", "json"):
        body = body_of([made], [made], form, NOW_MS).decode()
        assert not any(word in body for word in ("ada@", "s3cr3t", "hooks.example"))


def looks(watch: Watch, *seen: tuple[float, list[Finding]]) -> list[set[str]]:
    """The workspaces with an alert after each look."""
    after = []
    for now_s, findings in seen:
        watch.look(findings, now_s, NOW_MS)
        after.append({workspace for _, workspace in watch.alerts})
    return after


def test_a_finding_counts_after_a_minute_and_is_over_after_two() -> None:
    assert BEGUN_S == 60
    assert ENDED_S == 120
    held = [finding()]
    assert looks(Watch((), 0), (0, held), (59, held), (60, held)) == [set(), set(), {"acme"}]
    assert looks(Watch((), 0), (0, held), (59, []), (60, held), (119, held)) == [set()] * 4
    watch = Watch([alert()], 0)
    assert looks(watch, (0, held), (119, []), (120, [])) == [{"acme"}, {"acme"}, set()]
    watch = Watch([alert()], 0)  # it returns at once, and is not over meanwhile
    assert looks(watch, (0, held), (100, []), (110, held), (220, []), (229, []), (230, [])) == [
        {"acme"},
    ] * 5 + [set()]


def test_what_is_not_known_neither_begins_nor_ends() -> None:
    ours = Finding("read_model", "", holds=False)
    watch = Watch([alert()], 0)
    watch.look([finding(), finding("globex")], 0, NOW_MS)
    for now_s in range(15, 3_600, 15):
        watch.look([ours], now_s, NOW_MS, is_whole=False)
    assert watch.alerts.keys() == {("no_callbacks", "acme"), ("read_model", "")}
    watch.look([finding("globex")], 3_600, NOW_MS)
    assert ("no_callbacks", "globex") not in watch.alerts, "it was not seen for a minute"
    assert ("no_callbacks", "acme") in watch.alerts, "its two minutes begin now"
    watch.look([finding("globex")], 3_720, NOW_MS)
    assert watch.alerts.keys() == {("no_callbacks", "globex")}


def test_alerts_are_bounded() -> None:
    many = [finding(f"w{number}") for number in range(MAX_ALERTS + 10)]
    watch = Watch((), 0)
    looks(watch, (0, many), (60, many))
    assert len(watch.alerts) == MAX_ALERTS
    looks(watch, (75, many[10:]), (180, many[10:]), (195, many[10:]))
    assert ("no_callbacks", f"w{MAX_ALERTS + 9}") in watch.alerts, "others have ended"


def test_retry_after_is_respected_up_to_ten_minutes() -> None:
    assert Outbox((), 1).failed(0, 120) == 120
    assert Outbox((), 1).failed(0, 86_400) == 600
    outbox = Outbox((), 1)
    assert [outbox.failed(0) for _ in range(8)] == [15, 30, 60, 120, 240, 480, 600, 600]


@given(
    st.lists(
        st.tuples(st.sets(st.sampled_from("abcd")), st.booleans(), st.integers(0, 700)),
        max_size=60,
    ),
    st.integers(1, 300),
)
def test_each_change_is_reported_once_in_turn(
    steps: list[tuple[set[str], bool, int]],
    interval_s: int,
) -> None:
    outbox = Outbox((), interval_s)
    now_s = 0
    last_s = -interval_s
    reported: set[str] = set()
    for workspaces, answers, pause_s in steps:
        now_s += pause_s
        alerts = by_key(*map(alert, workspaces))
        if (change := outbox.due(alerts, now_s)) is None:
            continue
        if not answers:
            outbox.failed(now_s)
            continue
        assert now_s - last_s >= interval_s
        last_s = now_s
        begun, ended = ({made.labels["workspace"] for made in made_of} for made_of in change)
        assert not begun & reported
        assert ended <= reported
        reported = (reported - ended) | begun
        assert reported == workspaces
        outbox.sent(alerts, now_s)
        assert outbox.due(alerts, now_s + 1_000) is None


def test_a_message_groups_changes_and_counts_what_it_leaves_out() -> None:
    many = [alert(f"w{number}") for number in range(30)]
    body = msgspec.json.decode(body_of(many, [alert("over")], "json", 5))
    assert body["at_ms"] == 5
    assert len(body["alerts"]) == MAX_LINES
    assert body["left_out"] == 31 - MAX_LINES
    assert body["alerts"][0] == {
        "status": "firing",
        "name": "no_callbacks",
        "severity": "critical",
        "labels": {"workspace": "w0"},
        "summary": "w0: Clay takes its leads and no results come: credits out, or auto-run off?",
        "since_ms": NOW_MS,
    }
    text = msgspec.json.decode(body_of(many, (), "slack", 5))["text"]
    assert len(text.splitlines()) == MAX_LINES + 1
    assert text.endswith("and 10 more: `stream-app explain`")


def test_critical_alerts_come_first_and_slack_sees_no_markup_of_ours() -> None:
    mild = Alert("webhook_out", "warning", {}, "<!channel> & more", 0)
    grave = Alert("no_worker", "critical", {}, "No worker runs.", 0)
    text = msgspec.json.decode(body_of([mild, grave], [mild], "slack", 0))["text"]
    assert text.splitlines() == [
        ":red_circle: *no_worker* (critical): No worker runs.",
        ":large_yellow_circle: *webhook_out* (warning): &lt;!channel&gt; &amp; more",
        ":white_check_mark: resolved *webhook_out* (warning): &lt;!channel&gt; &amp; more",
    ]


class World:
    """What the messages see, on a clock that the test moves, and what they send."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "messages.json"
        self.findings: list[Finding] | Exception = []
        self.gateway_answers = True
        self.receiver_answers = True
        self.now_s = 0.0
        self.asked = 0
        self.got: list[tuple[str, str]] = []
        self.registry = CollectorRegistry()

    async def look(self) -> tuple[list[Finding], bool]:
        if isinstance(self.findings, Exception):
            raise self.findings
        return self.findings, True

    async def gateway(self) -> bool:
        self.asked += 1
        return self.gateway_answers

    async def post(self, body: bytes) -> None:
        if not self.receiver_answers:
            raise NotDelivered("the receiver answers HTTP 500 to messages")
        self.got += [
            (shown["status"], shown["name"]) for shown in msgspec.json.decode(body)["alerts"]
        ]

    def messages(self) -> Messages:
        self.registry = CollectorRegistry()
        return Messages(
            self.look,
            self.gateway,
            self.post,
            "json",
            60,
            self.path,
            self.registry,
            lambda: self.now_s,
            lambda: NOW_MS,
        )

    async def wait(self, messages: Messages, seconds: float) -> None:
        until_s = self.now_s + seconds
        while self.now_s < until_s:
            self.now_s += LOOK_EVERY_S
            await messages.step()


async def test_a_restart_repeats_nothing_and_reports_what_is_over(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.findings = [finding(), finding(code="no_webhook")]
    await world.wait(world.messages(), 300)
    assert sorted(world.got) == [("firing", "no_callbacks"), ("firing", "no_webhook")]
    world.got.clear()
    world.findings = [finding()]
    messages = world.messages()
    await world.wait(messages, 105)
    assert world.got == []
    await world.wait(messages, 60)
    assert world.got == [("resolved", "no_webhook")]


@pytest.mark.parametrize("content", [b"", b"[{}]", b"\xff"])
async def test_a_damaged_file_is_none(tmp_path: Path, content: bytes) -> None:
    world = World(tmp_path)
    world.path.write_bytes(content)
    world.findings = [finding()]
    await world.wait(world.messages(), 90)
    assert world.got == [("firing", "no_callbacks")]


@pytest.mark.parametrize(
    ("silent_s", "got"),
    [(600, ["firing", "resolved"]), (30, [])],
    ids=["away", "restarts"],
)
async def test_a_gateway_that_does_not_answer_is_reported_once_and_when_it_is_back(
    tmp_path: Path,
    silent_s: float,
    got: list[str],
) -> None:
    world = World(tmp_path)
    messages = world.messages()
    await world.wait(messages, 600)
    assert world.got == []
    assert world.asked == 10
    world.gateway_answers = False
    await world.wait(messages, silent_s)
    world.gateway_answers = True
    await world.wait(messages, 600)
    assert world.got == [(status, "gateway") for status in got]


async def test_a_bug_does_not_end_the_board(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("stream_app.board.notify.LOOK_EVERY_S", 0.001)
    world = World(tmp_path)
    world.findings = ZeroDivisionError("ada@example.com")
    running = asyncio.create_task(world.messages().run())
    await asyncio.sleep(0.02)
    world.findings = [finding()]
    while not world.got:
        world.now_s += LOOK_EVERY_S
        await asyncio.sleep(0.001)
        assert not running.done()
    await cancel([running])


async def test_failures_are_counted_and_the_next_message_has_what_differs_then(
    tmp_path: Path,
) -> None:
    world = World(tmp_path)
    world.findings = [finding(), finding(code="no_webhook")]
    world.receiver_answers = False
    messages = world.messages()
    await world.wait(messages, 120)
    world.findings = [finding()]
    await world.wait(messages, 210)
    world.receiver_answers = True
    await world.wait(messages, 900)
    assert world.got == [("firing", "no_callbacks")]
    for result, many in (("sent", 1), ("failed", 5)):
        assert (
            world.registry.get_sample_value("stream_app_notify_messages_total", {"result": result})
            == many
        )
