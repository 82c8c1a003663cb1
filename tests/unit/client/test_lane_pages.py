"""Lanes are shown page by page, a lane names a few of its neighbours, and what answers no command
is passed over.
"""

from collections import Counter

import msgspec

from stream_app.cli.lane_tables import lane_tables
from stream_app.client.lanes.commands import answers_in
from stream_app.client.lanes.views import LanesReport, _lane, page, views_in
from stream_app.config import Kafka, Settings
from stream_app.domain.commands import CommandAnswer
from stream_app.domain.model.records import ConsumedRecord
from stream_app.domain.plan import Workspace
from stream_app.domain.views.explain import (
    VIEW_UNREADABLE,
    ConsumerGroup,
    Facts,
    LaneFacts,
    explain,
)
from stream_app.domain.views.lane import LaneView
from stream_app.kafka.backlog import Waiting

NAMES = [f"w{number:04}" for number in range(1_000)]
SETTINGS = Settings(kafka=Kafka(partitions=2), workspaces={name: Workspace(name) for name in NAMES})


def _report() -> LanesReport:
    waiting = {
        (topic, number): Waiting(7)
        for topic in ("leads", "leads.retry", "leads.bulk")
        for number in range(2)
    }
    lanes = [
        _lane(SETTINGS, name, None, waiting, Counter(), {}, {0: 5, 1: 5}, view_unreadable=False)
        for name in NAMES
    ]
    return LanesReport(
        Facts(0, ConsumerGroup("Stable", 1), ConsumerGroup("Stable", 1), lanes, 0, None, []),
        {},
    )


def test_pages_follow_each_other_until_there_is_no_more() -> None:
    report = _report()
    after = ""
    seen = list[str]()
    while True:
        shown = page(report, after, 300)
        seen += [lane.workspace for lane in shown.facts.lanes]
        after = seen[-1]
        if not shown.more:
            break
    assert seen == NAMES
    assert page(report, "", None).more == 0
    assert page(report, "w0899", 40).more == 60


def test_a_lane_names_a_few_of_its_neighbours_and_counts_the_others() -> None:
    lane = _report().facts.lanes[0]
    assert len(lane.shared_with) == 5
    assert "w0000" not in lane.shared_with
    others = len(SETTINGS.plan.residents(lane.partition)) - 1
    assert lane.shared_with_more == others - 5
    assert lane.neighbours.endswith(f" and {others - 5} more")
    assert LaneFacts("a", 0, None, {}, ("b",)).neighbours == "b"


def test_waiting_records_of_a_shared_partition_are_counted_once() -> None:
    facts = _report().facts
    stopped = Facts(0, ConsumerGroup("Empty", 0), facts.replay, facts.lanes, 0, None, [])
    assert (
        next(finding.waiting for finding in explain(stopped) if finding.code == "no_worker")
        == 2 * 3 * 7
    )
    of_lane = next(
        finding for finding in explain(facts) if finding.workspace == facts.lanes[0].workspace
    )
    assert of_lane.waiting == 3 * 7, "it may be of other lanes"
    assert of_lane.in_partition is True, "it may be of other lanes"
    assert of_lane.oldest_ms == 5, "it may be of other lanes"


def test_records_that_are_no_answers_are_passed_over() -> None:
    answer = CommandAnswer("c-1", True, 1, 1)
    values = (None, b"", b"{foreign", b"[" * 100_000, msgspec.json.encode(answer), b"{}")
    records = [
        ConsumedRecord("leads.audit", 3, offset, b"acme", value)
        for offset, value in enumerate(values)
    ]
    assert list(answers_in(records)) == [(3, answer)]


def _view_of(workspace: str, partition: float) -> ConsumedRecord:
    value = {
        "workspace": workspace,
        "partition": partition,
        "at_ms": 1,
        "breaker": "closed",
        "health": "healthy",
    }
    encoded = msgspec.json.encode({**value, "score": 100, "rate_per_s": 8})
    return ConsumedRecord("leads.lanes", 0, 0, workspace.encode(), encoded)


def test_a_lane_whose_last_state_cannot_be_read_is_named_and_the_others_are_shown() -> None:
    by_name: dict[str, list[LaneView]] = {}
    unreadable: set[str] = set()
    records = (
        _view_of("a", 0),
        _view_of("b", 1.5),
        _view_of("c", 1.5),
        _view_of("c", 0),
        _view_of("a", 1.5),
    )
    views_in(records, by_name, unreadable)
    assert unreadable == {"a", "b"}
    assert by_name.keys() == {"a", "c"}
    settings = Settings(
        kafka=Kafka(partitions=1),
        workspaces={name: Workspace(name) for name in "abc"},
    )
    waiting = {(topic, 0): Waiting(2) for topic in ("leads", "leads.retry", "leads.bulk")}
    lanes = [
        _lane(
            settings,
            name,
            by_name[name][-1] if name in by_name else None,
            waiting,
            Counter(),
            {},
            {},
            view_unreadable=name in unreadable,
        )
        for name in "abc"
    ]
    findings = explain(
        Facts(0, ConsumerGroup("Stable", 1), ConsumerGroup("Stable", 1), lanes, 0, None, []),
    )
    assert [finding.code for finding in findings] == ["view_unreadable", "view_unreadable", "moves"]
    states = lane_tables(lanes, {}, {}, 0)[0].rows
    assert [row[1] for row in states[:2]] == [VIEW_UNREADABLE] * 2
    assert states[2][1].startswith("running")
