"""When messages go out, and what is in them."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_app.notify.conditions import CONDITIONS, COUNTERS, LONGEST_WINDOW_S
from stream_app.notify.messages import MOST_LINES, Change, body_of
from stream_app.notify.outbox import Outbox
from stream_app.notify.samples import MOST_SERIES, Sample, Samples
from stream_app.notify.watch import MOST_ALERTS, Alert, Watch, summary_of

MINUTE_MS = 60_000


def alert(workspace: str = "acme", name: str = "BreakerOpen") -> Alert:
    return Alert(name, "critical", {"workspace": workspace}, f"The breaker of {workspace}", 1_000)


def held(*workspaces: str, now_s: float, samples: Samples | None = None) -> Samples:
    """The metrics of a worker with held lanes."""
    samples = samples or Samples(COUNTERS, LONGEST_WINDOW_S)
    samples.expect("worker", {"w1"}, now_s)
    holds = [Sample("stream_app_lane_holds", {"workspace": name, "reason": "no_callbacks"}, 1) for name in workspaces]
    samples.answered("worker", "w1", holds, now_s)
    return samples


def names(watch: Watch) -> set[str]:
    return {each.name for each in watch.firing.values()}


# Watch


def test_a_condition_that_returns_at_once_is_not_resolved_meanwhile() -> None:
    watch = Watch((), 0, ["worker"])
    watch.look(held("acme", now_s=0), 0)
    assert names(watch) == {"NoCallbacks"}
    watch.look(held(now_s=60), MINUTE_MS)
    assert names(watch) == {"NoCallbacks"}
    watch.look(held("acme", now_s=120), 2 * MINUTE_MS)
    watch.look(held(now_s=200), 200_000)
    assert names(watch) == {"NoCallbacks"}
    watch.look(held(now_s=240), 4 * MINUTE_MS)
    assert not watch.firing


def test_alerts_of_a_job_keep_firing_while_none_of_its_processes_answers() -> None:
    watch = Watch((), 0, ["worker"])
    samples = held("acme", now_s=0)
    watch.look(samples, 0)
    for minute in range(1, 60):
        samples.expect("worker", (), minute * 60)
        watch.look(samples, minute * MINUTE_MS)
    assert names(watch) == {"NoCallbacks", "NoWorker"}
    watch.look(held(now_s=3600), 60 * MINUTE_MS)
    assert not names(watch) - {"NoWorker"}
    watch.look(held(now_s=3720), 62 * MINUTE_MS)
    assert not watch.firing


def test_a_restart_repeats_nothing_and_resolves_what_is_over() -> None:
    known = [
        Alert("BreakerForced", "warning", {"workspace": "acme", "mode": "open"}, "", 0),
        Alert("NoCallbacks", "critical", {"workspace": "globex"}, "", 0),
        Alert("DeadLettersGrowing", "warning", {"workspace": "acme", "destination": "people"}, "", 0),
    ]
    watch, samples = Watch(known, 0, ["worker"]), Samples(COUNTERS, LONGEST_WINDOW_S)
    forced = Sample("stream_app_lane_breaker_mode", {"workspace": "acme", "mode": "open"}, 1)
    fired: list[set[str]] = []
    for minute in range(20):
        samples.answered("worker", "w1", [forced], minute * 60)
        watch.look(samples, minute * MINUTE_MS)
        fired.append(names(watch))
    assert fired[0] == {"BreakerForced", "NoCallbacks", "DeadLettersGrowing"}
    assert fired[3] == {"BreakerForced", "DeadLettersGrowing"}, "growth before the start is not known yet"
    assert fired[19] == {"BreakerForced"}


def test_alerts_and_series_are_bounded() -> None:
    lanes = [f"w{number}" for number in range(MOST_SERIES + 10)]
    samples = held(*lanes, now_s=0)
    assert len(list(samples.of("stream_app_lane_holds"))) == MOST_SERIES
    watch = Watch((), 0, ["worker"])
    for minute in (0, 20):
        watch.look(samples, minute * MINUTE_MS)
    assert len(watch.firing) == MOST_ALERTS


def test_a_counter_that_began_again_has_grown_by_its_value() -> None:
    samples = Samples(COUNTERS, LONGEST_WINDOW_S)
    for at_s, value in ((0, 100.0), (15, 101.0), (30, 4.0)):
        samples.answered("worker", "w1", [Sample("stream_app_recoveries_total", {}, value)], at_s)
    (grown,) = samples.grown("stream_app_recoveries_total", since_s=-1)
    assert grown.value == 5
    assert not list(samples.grown("stream_app_recoveries_total", since_s=30))
    samples.expect("worker", (), LONGEST_WINDOW_S + 31)
    assert not list(samples.grown("stream_app_recoveries_total", since_s=-1))


@pytest.mark.parametrize(("value", "text"), [(4998.0, "4998"), (2_500_000.0, "2500000")])
def test_a_value_is_written_as_a_number_of_leads(value: float, text: str) -> None:
    (condition,) = [each for each in CONDITIONS if each.name == "LeadsWait"]
    assert summary_of(condition, {}, value).startswith(f"{text} leads")


# Outbox


def firing(*alerts: Alert) -> dict[tuple[str, tuple[tuple[str, str], ...]], Alert]:
    return {each.key: each for each in alerts}


def test_a_receiver_that_fails_for_an_hour_is_asked_rarely_and_misses_nothing() -> None:
    outbox, attempts = Outbox((), MINUTE_MS), 0
    for now_ms in range(0, 3_600_000, 15_000):
        if outbox.waiting(firing(alert())) and outbox.may_send(now_ms):
            outbox.failed(now_ms)
            attempts += 1
    assert attempts < 15
    now_ms = 3_600_000 + 600_000
    assert outbox.may_send(now_ms)
    change = outbox.waiting(firing(alert(), alert("globex")))
    assert [each.labels["workspace"] for each in change.fired] == ["acme", "globex"]


def test_an_alert_that_began_and_ended_while_the_receiver_was_away_is_not_reported() -> None:
    outbox = Outbox((), MINUTE_MS)
    outbox.failed(0)
    assert not outbox.waiting(firing())


def test_retry_after_is_respected_up_to_ten_minutes() -> None:
    assert Outbox((), 1).failed(0, 120_000) == 120_000
    assert Outbox((), 1).failed(0, 86_400_000) == 600_000


@given(
    st.lists(st.tuples(st.sets(st.sampled_from("abcd")), st.booleans(), st.integers(0, 700_000)), max_size=60),
    st.integers(1_000, 300_000),
)
def test_each_change_is_reported_once_in_turn(steps: list[tuple[set[str], bool, int]], interval_ms: int) -> None:
    outbox, now_ms, reported, last_ms = Outbox((), interval_ms), 0, dict[str, str](), -interval_ms
    for workspaces, answers, pause_ms in steps:
        now_ms += pause_ms
        fires = firing(*map(alert, workspaces))
        change = outbox.waiting(fires)
        if not (change and outbox.may_send(now_ms)):
            continue
        if not answers:
            outbox.failed(now_ms)
            continue
        assert now_ms - last_ms >= interval_ms
        last_ms = now_ms
        for status, alerts in (("firing", change.fired), ("resolved", change.resolved)):
            for each in alerts:
                assert reported.get(each.labels["workspace"], "resolved") != status
                reported[each.labels["workspace"]] = status
        outbox.sent(change, now_ms)
        assert not outbox.waiting(fires)
        assert {name for name, status in reported.items() if status == "firing"} == workspaces
        outbox = Outbox(msgspec.json.decode(msgspec.json.encode(list(outbox.known.values())), type=list[Alert]), 1)
        outbox.sent(Change((), ()), now_ms)
        outbox._interval_ms, outbox._next_ms = interval_ms, now_ms + interval_ms


# Bodies


def test_a_message_groups_changes_and_counts_what_it_leaves_out() -> None:
    many = [alert(f"w{number}") for number in range(30)]
    body = msgspec.json.decode(body_of(Change(many, [alert("over")]), "json", 5))
    assert [each["status"] for each in body["alerts"]] == ["firing"] * MOST_LINES
    assert (body["at_ms"], body["left_out"]) == (5, 31 - MOST_LINES)
    assert body["alerts"][0] == {
        "status": "firing",
        "name": "BreakerOpen",
        "severity": "critical",
        "labels": {"workspace": "w0"},
        "summary": "The breaker of w0",
        "since_ms": 1_000,
    }
    text = msgspec.json.decode(body_of(Change(many, ()), "slack", 5))["text"]
    assert len(text.splitlines()) == MOST_LINES + 1
    assert text.endswith("and 10 more: `stream-app lanes`")


def test_critical_alerts_come_first_and_slack_sees_no_markup_of_ours() -> None:
    mild = Alert("LaneHeld", "warning", {}, "<!channel> & more", 0)
    text = msgspec.json.decode(body_of(Change([mild, alert()], [mild]), "slack", 0))["text"]
    assert text.splitlines() == [
        ":red_circle: *BreakerOpen* (critical): The breaker of acme",
        ":large_yellow_circle: *LaneHeld* (warning): &lt;!channel&gt; &amp; more",
        ":white_check_mark: resolved *LaneHeld* (warning): &lt;!channel&gt; &amp; more",
    ]
