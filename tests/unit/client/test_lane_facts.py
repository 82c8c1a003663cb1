"""What is read of the lanes, without a broker: the whole of the facts, and no record more."""

from typing import Any

import msgspec
import pytest
from aiokafka import TopicPartition

from stream_app.client.lanes import views as lanes
from stream_app.client.lanes.views import (
    LanesReport,
    command_log,
    last_views,
    moved_lanes,
    only_workspace,
    page,
    read_lanes,
)
from stream_app.clock import Clock
from stream_app.config import Kafka, Settings
from stream_app.domain.commands import CommandAnswer
from stream_app.domain.dead_letter.orders import ReplayPause
from stream_app.domain.limits.meters import SAMPLED_MS, Forecast, Meter
from stream_app.domain.model.errors import TopicsError, UnreadableBatch
from stream_app.domain.plan import Workspace
from stream_app.domain.views.explain import ConsumerGroup, Facts, LaneFacts
from stream_app.domain.views.lane import LaneView, Position
from tests.unit.client.logs import Logs

NOW_MS = 1_790_000_000_000
MINUTE_MS = 60_000
HOUR_MS = 60 * MINUTE_MS
SETTINGS = Settings(
    kafka=Kafka(bootstrap="kafka.example:9", namespace="t.", partitions=3, broker_wait_s=4.5),
    workspaces={
        name: Workspace(name, partition=number)
        for name, number in (("busy", 0), ("quiet", 1), ("beside", 1), ("new", 2))
    },
)
NAMES = SETTINGS.names
WORKER = ConsumerGroup("Stable", 2)
REPLAY = ConsumerGroup("Empty", 0)


def view(name: str, partition: int, ago_ms: int = 0, spent: int = 0, **more: Any) -> LaneView:
    at_ms = NOW_MS - ago_ms
    day = Meter("2026-09-21", NOW_MS + 10 * HOUR_MS, 6_000, spent, begins_ms=NOW_MS - 14 * HOUR_MS)
    meters: Any = {"credits_day": day}
    return LaneView(name, partition, at_ms, "closed", "healthy", 100, 8, meters=meters, **more)


class Topics(Logs):
    """The logs, the groups, and what was asked of them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__(3)
        self.committed_by: dict[str, dict[tuple[str, int], int]] = {}
        self.asked: list[Any] = []
        self.wrong: list[str] = []
        monkeypatch.setattr(lanes, "kafka_ready", self._ready)
        monkeypatch.setattr(lanes, "check_topics", self._check)
        monkeypatch.setattr(lanes, "look_at", self._look)
        monkeypatch.setattr(lanes, "topic_reader", lambda settings: self)
        monkeypatch.setattr(Clock, "now_ms", lambda _: NOW_MS)

    async def _ready(self, settings: Settings, program: str, say: Any) -> None:
        self.asked.append(program)
        say("Kafka is away")

    async def _check(self, connection: Any, plan: Any, wait_s: float, say: Any) -> None:
        assert connection.bootstrap == "kafka.example:9"
        assert plan == SETTINGS.topic_plan()
        self.asked.append(wait_s)
        say("it elects a leader")
        if self.wrong:
            raise TopicsError(self.wrong)

    async def _look(self, connection: Any, names: Any) -> dict[str, Any]:
        self.asked.append(tuple(names))
        groups = {NAMES.worker_app: WORKER, NAMES.replay_app: REPLAY}
        return {name: (groups[name], self.committed_by.get(name, {})) for name in names}

    def views(self, *shown: LaneView | tuple[str, int, int]) -> None:
        """Add views in this order; a tuple is a record that cannot be read."""
        for offset, one in enumerate(shown):
            if isinstance(one, tuple):
                name, partition, ago_ms = one
                self.add(
                    NAMES.lanes,
                    partition,
                    offset,
                    b'{"partition": 1.5}',
                    name.encode(),
                    NOW_MS - ago_ms,
                )
            else:
                key = one.workspace.encode()
                self.add(NAMES.lanes, one.partition, offset, one, key, one.at_ms)


@pytest.fixture
def kafka(monkeypatch: pytest.MonkeyPatch) -> Topics:
    return Topics(monkeypatch)


async def test_all_that_is_seen_of_the_lanes(kafka: Topics) -> None:
    position = Position(6, untaken=1)
    kafka.views(
        *(view("busy", 0, minutes * MINUTE_MS, spent) for minutes, spent in ((30, 9), (14, 100))),
        *(view("busy", 0, minutes * MINUTE_MS, spent) for minutes, spent in ((10, 150), (5, 200))),
        view("busy", 0, 0, 240, positions={NAMES.bulk: position}),
        view("quiet", 1, 700 * MINUTE_MS, 5),
        view("quiet", 1, 600 * MINUTE_MS, 7),
        ("beside", 1, 500 * MINUTE_MS),
    )
    kafka.wrong = ["t.leads is missing"]
    for offset in range(3, 9):
        kafka.add(NAMES.bulk, 0, offset, b"{}", at_ms=NOW_MS - 1_000 + offset)
    kafka.begin_of[TopicPartition(NAMES.bulk, 0)] = 3
    kafka.add(NAMES.leads, 1, 7, b"{}", at_ms=NOW_MS - 500)
    kafka.add(NAMES.leads, 1, 8, b"{}", at_ms=NOW_MS - 400)
    kafka.add(NAMES.retry, 1, 0, b"{}", at_ms=NOW_MS - 700)
    broken = UnreadableBatch(NAMES.leads, 2, 2, 3, "its checksum does not match")
    kafka.broken = [broken]
    kafka.end_of[TopicPartition(NAMES.leads, 2)] = 4
    # Two commands of one partition and one of another; one is answered, whose offset is not
    # committed yet.
    kafka.add(NAMES.commands, 1, 4, b'{"id": "old"}', at_ms=NOW_MS - 90)
    kafka.add(NAMES.commands, 1, 5, b'{"id": "c1"}', at_ms=NOW_MS - 80)
    kafka.add(NAMES.commands, 1, 6, b"{}", at_ms=NOW_MS - 70)
    kafka.add(NAMES.commands, 1, 7, b'{"id": "c2"}', at_ms=NOW_MS - 60)
    kafka.add(NAMES.commands, 0, 0, b'{"id": "c1"}', at_ms=NOW_MS - 50)
    kafka.add(NAMES.audit, 1, 0, b"no answer", at_ms=NOW_MS - 99)
    kafka.add(NAMES.audit, 1, 1, CommandAnswer("c1", True, 1, 1), at_ms=NOW_MS - 80)
    for number, topic in enumerate((NAMES.dlq, NAMES.deferred, NAMES.wait(60))):
        for offset in range(number + 1):
            kafka.add(topic, number, offset, b"{}", at_ms=NOW_MS)
    pause = ReplayPause("jane", "why", 5)
    kafka.add(NAMES.replay_state, 0, 0, b"of another key", b"other")
    kafka.add(NAMES.replay_state, 0, 1, pause, b"pause")
    kafka.committed_by = {
        NAMES.worker_app: {
            (NAMES.bulk, 0): 4,
            (NAMES.leads, 1): 7,
            (NAMES.leads, 2): 2,
            (NAMES.commands, 1): 5,
        },
        NAMES.replay_app: {(NAMES.dlq, 0): 0, (NAMES.wait(60), 2): 1},
    }
    told: list[str] = []
    report = await read_lanes(SETTINGS, told.append)
    busy = view("busy", 0, 0, 240, positions={NAMES.bulk: position})
    quiet = view("quiet", 1, 600 * MINUTE_MS, 7)
    shared = {"leads": 2, "leads.retry": 1, "leads.bulk": 0}
    assert report.facts == Facts(
        NOW_MS,
        WORKER,
        REPLAY,
        [
            # 3 behind the position and 1 before it that waits in memory; of the group's offset only
            # the age is known.
            LaneFacts(
                "busy",
                0,
                busy.at(NOW_MS),
                {"leads": 0, "leads.retry": 0, "leads.bulk": 4},
                asked=1,
                oldest_ms=NOW_MS - 1_000 + 4,
            ),
            LaneFacts(
                "quiet",
                1,
                quiet.at(NOW_MS),
                shared,
                ("beside",),
                2,
                oldest_ms=NOW_MS - 700,
            ),
            LaneFacts(
                "beside",
                1,
                None,
                shared,
                ("quiet",),
                2,
                oldest_ms=NOW_MS - 700,
                view_unreadable=True,
            ),
            LaneFacts(
                "new",
                2,
                None,
                {"leads": 2, "leads.retry": 0, "leads.bulk": 0},
                unreadable=str(broken),
                at_most=True,
            ),
        ],
        5,
        pause,
        ["t.leads is missing"],
    )
    # Of the samples of the last quarter of an hour: 140 credits in 14 minutes.
    assert report.forecasts.keys() == {"busy", "quiet"}
    assert report.forecasts["busy"]["credits_day"].per_hour == pytest.approx(600)
    assert report.forecasts["quiet"] == {"credits_day": Forecast(0.0, None)}
    assert kafka.asked == ["lanes", 4.5, (NAMES.worker_app, NAMES.replay_app)]
    assert told == ["Kafka is away", "it elects a leader"]
    # The views of the last minutes are read, and older ones only where a lane has none of these.
    of_views = [spans for spans in kafka.scanned if TopicPartition(NAMES.lanes, 1) in spans] + [
        spans for spans in kafka.scanned if TopicPartition(NAMES.lanes, 0) in spans
    ]
    assert of_views == [
        {TopicPartition(NAMES.lanes, 1): (0, 8)},
        {TopicPartition(NAMES.lanes, 0): (1, 5)},
    ]


async def test_of_a_recent_view_no_older_one_is_read(kafka: Topics) -> None:
    kafka.add(NAMES.lanes, 0, 0, None, b"gone", NOW_MS)
    kafka.views(
        view("quiet", 1, SAMPLED_MS + 1),
        view("beside", 1, SAMPLED_MS),
        view("quiet", 1, SAMPLED_MS - 1),
        view("busy", 0),
        ("new", 2, 5),
    )
    assert await last_views(SETTINGS) == {
        "beside": view("beside", 1, SAMPLED_MS).at(NOW_MS),
        "quiet": view("quiet", 1, SAMPLED_MS - 1).at(NOW_MS),
        "busy": view("busy", 0).at(NOW_MS),
    }
    assert len(kafka.scanned) == 1, "and none behind the mark of a lane that is gone is missed"


async def test_a_recent_view_counts_although_an_older_one_cannot_be_read(kafka: Topics) -> None:
    kafka.views(
        ("quiet", 1, 2 * SAMPLED_MS),
        ("beside", 1, 2 * SAMPLED_MS),
        view("quiet", 1, 5),
        view("busy", 0, 2 * SAMPLED_MS, 1),
        view("busy", 0, 2 * SAMPLED_MS - 1, 2),
        ("new", 2, 5),
    )
    assert (await last_views(SETTINGS)).keys() == {"quiet", "busy"}
    report = await read_lanes(SETTINGS, lambda _: None)
    assert [lane.workspace for lane in report.facts.lanes if lane.view_unreadable] == [
        "beside",
        "new",
    ]
    assert report.facts.topics == []
    assert report.facts.replay_paused is None
    assert report.facts.coming_back == 0
    assert not report.facts.at_most


async def test_a_record_behind_a_few_markers_is_the_first(kafka: Topics) -> None:
    """The markers of transactions take offsets, and so do the records that were aborted."""
    for gap, partition in ((9, 0), (10, 1)):
        place = TopicPartition(NAMES.leads, partition)
        kafka.add(NAMES.leads, partition, 20 + gap, b"{}", at_ms=NOW_MS - 7)
        kafka.begin_of[place] = 20
    kafka.committed_by = {NAMES.worker_app: {(NAMES.leads, 0): 20, (NAMES.leads, 1): 20}}
    report = await read_lanes(SETTINGS, lambda _: None)
    assert [lane.oldest_ms for lane in report.facts.lanes] == [NOW_MS - 7, 0, 0, 0]
    kafka.committed_by = {NAMES.worker_app: {(NAMES.leads, 0): 19, (NAMES.leads, 1): 20}}
    report = await read_lanes(SETTINGS, lambda _: None)
    assert report.facts.lanes[0].oldest_ms == 0, "retention has deleted the first, so who knows"


async def test_the_age_of_what_was_taken_is_not_told(kafka: Topics) -> None:
    """A position without anything in memory is where the records begin that no worker has taken."""
    for offset in range(4):
        kafka.add(NAMES.leads, 0, offset, b"{}", at_ms=NOW_MS - 90 + offset)
    kafka.views(view("busy", 0, positions={NAMES.leads: Position(2)}))
    kafka.committed_by = {NAMES.worker_app: {(NAMES.leads, 0): 1}}
    (busy, *_) = (await read_lanes(SETTINGS, lambda _: None)).facts.lanes
    assert busy.waiting["leads"] == 2
    assert busy.oldest_ms == NOW_MS - 88
    kafka.broken = [UnreadableBatch(NAMES.leads, 0, 3, 3, "broken")]
    (busy, *_) = (await read_lanes(SETTINGS, lambda _: None)).facts.lanes
    assert busy.unreadable == "", "the record before it comes first"


async def test_where_nothing_waits_no_answer_is_read(kafka: Topics) -> None:
    kafka.add(NAMES.commands, 1, 5, b'{"id": "c1"}', at_ms=NOW_MS - 80)
    kafka.add(NAMES.audit, 1, 0, CommandAnswer("c1", True, 1, 1), at_ms=NOW_MS - 79)
    kafka.committed_by = {NAMES.worker_app: {(NAMES.commands, 1): 6}}
    report = await read_lanes(SETTINGS, lambda _: None)
    assert [lane.asked for lane in report.facts.lanes] == [0, 0, 0, 0]
    assert not [spans for spans in kafka.scanned if TopicPartition(NAMES.audit, 1) in spans]
    kafka.add(NAMES.bulk, 2, 0, b"{}", at_ms=NOW_MS - 7)
    await read_lanes(SETTINGS, lambda _: None)
    waits = TopicPartition(NAMES.bulk, 2)
    assert [places for places in kafka.looked_at if waits in places and len(places) < 9] == [
        [waits],
    ], "only what waits has a first record"


async def test_a_lane_is_where_its_newest_view_says(kafka: Topics) -> None:
    kafka.views(
        view("busy", 1, 5),
        view("busy", 0, 6),
        view("quiet", 2, 5),
        view("quiet", 1, 5),
        view("new", 1, 9),
        ("new", 0, 0),
        view("beside", 2, 9),
        view("beside", 1, 8),
    )
    kafka.add(NAMES.lanes, 0, 99, None, b"new")
    assert await moved_lanes(SETTINGS, SETTINGS.plan, ["quiet", "new", "busy", "beside"]) == [
        f"workspace {name} has its lane in partition {partition}, the configuration says {home}: "
        f"set workspaces.{name}.partition = {partition}, or use a new workspace name"
        for name, partition, home in (("busy", 1, 0), ("new", 1, 2), ("quiet", 2, 1))
    ], "of two of one time the higher partition counts, so that all workers say the same"
    assert await moved_lanes(SETTINGS, SETTINGS.plan, ["beside"]) == []


async def test_the_log_of_commands_has_the_last_outcomes(kafka: Topics) -> None:
    for offset, answer in enumerate(
        (
            CommandAnswer("c2", True, 6, 1, text="2 people"),
            CommandAnswer("c2", True, 5, 0, text="2 people"),
            CommandAnswer("c2", False, 7, 1, text="2 people"),
            CommandAnswer("c1", True, 4, 0, workspace="busy"),
        ),
    ):
        kafka.add(NAMES.audit, answer.partition, offset, answer)
    log = await command_log(SETTINGS, None, 2)
    assert [[(one.at_ms, one.applied) for one in alike] for alike in log] == [
        [(5, True), (6, True)],
        [(7, False)],
    ]
    (alike,) = await command_log(SETTINGS, "busy", 9)
    assert [one.id for one in alike] == ["c1"]


def report_of(*names: str) -> LanesReport:
    facts = [LaneFacts(name, 0, None, {}) for name in names]
    forecasts = {name: {"credits_day": Forecast(float(len(name)), None)} for name in names[1:]}
    return LanesReport(Facts(5, WORKER, REPLAY, facts), forecasts)


def test_a_page_of_lanes_has_their_forecasts_and_the_number_of_the_others() -> None:
    report = report_of("d", "bbb", "a", "cc")
    shown = page(report, "a", 2)
    assert [lane.workspace for lane in shown.facts.lanes] == ["bbb", "cc"]
    assert shown.forecasts == {name: report.forecasts[name] for name in ("bbb", "cc")}
    assert shown.more == 1
    assert shown.facts == msgspec.structs.replace(report.facts, lanes=shown.facts.lanes)
    last = page(report, "cc", None)
    assert [lane.workspace for lane in last.facts.lanes] == ["d"]
    assert last.forecasts == {"d": {}}
    assert last.more == 0


def test_one_workspace_is_shown_with_all_that_concerns_it() -> None:
    report = report_of("a", "bbb", "cc")
    only = only_workspace(report, "bbb")
    assert only == LanesReport(
        msgspec.structs.replace(report.facts, lanes=[report.facts.lanes[1]]),
        {"bbb": report.forecasts["bbb"]},
    )
    assert only_workspace(report, None) is report
