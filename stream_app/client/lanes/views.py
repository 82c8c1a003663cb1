"""Read the state of all lanes from Kafka: the last view of each, and its waiting records."""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from itertools import islice
from typing import Any, Final

import msgspec
from aiokafka import TopicPartition

from stream_app.client.lanes.commands import answers_in
from stream_app.clock import Clock
from stream_app.config import Settings
from stream_app.config.kafka_access import connection_of, kafka_ready, topic_reader
from stream_app.domain.commands import CommandAnswer, command_id
from stream_app.domain.dead_letter.orders import PAUSE, ReplayPause, read_pause
from stream_app.domain.lane.lane import moved_text
from stream_app.domain.limits.meters import SAMPLED_MS, Forecast, Sample, forecast
from stream_app.domain.model.errors import TopicsError, UnreadableBatch
from stream_app.domain.model.untrusted import UNREADABLE
from stream_app.domain.plan import Plan
from stream_app.domain.views.backlog import Place, positions_of
from stream_app.domain.views.explain import Facts, LaneFacts
from stream_app.domain.views.lane import LaneView, Position
from stream_app.kafka.backlog import Backlog, Waiting, places_of, sum_of
from stream_app.kafka.groups import Offsets, look_at
from stream_app.kafka.readers import OffsetSpan, TopicReader
from stream_app.kafka.topics import check_topics

_NAMED: Final = 5
_MARKERS: Final = 10
"""The offsets to look at for the first record, before which markers of transactions may be."""
_view: Final = msgspec.json.Decoder(LaneView)


class LanesReport(msgspec.Struct, frozen=True):
    """The facts, and the forecasts of the budget by workspace and meter.

    Attributes:
        more: Lanes on later pages.
    """

    facts: Facts
    forecasts: dict[str, dict[str, Forecast]]
    more: int = 0


async def read_lanes(settings: Settings, say: Callable[[str], None]) -> LanesReport:
    """Read all facts at one time.

    Raises BrokerUnavailable, and TopicsError if a topic that it reads is missing.
    """
    names = settings.names
    connection = connection_of(settings)
    await kafka_ready(settings, "lanes", say)
    wrong: list[str] = []
    try:
        await check_topics(connection, settings.topic_plan(), settings.kafka.broker_wait_s, say)
    except TopicsError as error:
        wrong = error.problems
    groups = await look_at(connection, (names.worker_app, names.replay_app))
    (worker, consumed) = groups[names.worker_app]
    (replay, moved) = groups[names.replay_app]
    now_ms = Clock().now_ms()
    async with topic_reader(settings) as reader:
        views, unreadable = await _views(reader, settings, now_ms)
        positions = positions_of(known[-1] for known in views.values())
        partitions = settings.kafka.partitions
        waiting = await Backlog().count(
            reader,
            places_of(names.lead_topics, partitions),
            consumed,
            positions,
        )
        blocked, oldest = await _first_of(reader, waiting, consumed, positions)
        asked = await _unanswered(reader, settings, consumed)
        back = [
            names.dlq,
            names.deferred,
            *(names.wait(tier_s) for tier_s in settings.replay.tiers_s),
        ]
        coming_back = sum_of(await Backlog().count(reader, places_of(back, partitions), moved, {}))
        paused = await _pause(reader, names.replay_state)
    last = {name: samples[-1].at(now_ms) for name, samples in views.items()}
    seen = waiting, asked, blocked, oldest
    lanes = [
        _lane(
            settings,
            name,
            last.get(name),
            *seen,
            view_unreadable=name in unreadable,
        )
        for name in settings.workspaces
    ]
    facts = Facts(
        now_ms,
        worker,
        replay,
        lanes,
        coming_back.records,
        paused,
        wrong,
        coming_back.at_most,
    )
    return LanesReport(
        facts,
        {name: _forecasts(samples, now_ms) for name, samples in views.items()},
    )


def only_workspace(report: LanesReport, workspace: str | None) -> LanesReport:
    """Return the facts of one workspace; of all for None."""
    if workspace is None:
        return report
    lanes = [lane for lane in report.facts.lanes if lane.workspace == workspace]
    forecasts = {name: foreseen for name, foreseen in report.forecasts.items() if name == workspace}
    return LanesReport(msgspec.structs.replace(report.facts, lanes=lanes), forecasts)


def page(report: LanesReport, after: str, limit: int | None) -> LanesReport:
    """Return the first lanes whose names come after `after`, at most `limit` of them; None: all."""
    lanes = sorted(
        (lane for lane in report.facts.lanes if lane.workspace > after),
        key=lambda lane: lane.workspace,
    )
    shown = lanes[:limit]
    forecasts = {lane.workspace: report.forecasts.get(lane.workspace, {}) for lane in shown}
    return LanesReport(
        msgspec.structs.replace(report.facts, lanes=shown),
        forecasts,
        len(lanes) - len(shown),
    )


async def last_views(settings: Settings) -> dict[str, LaneView]:
    """Return the last published view of each lane as it is now, by workspace.

    Views that cannot be read are left out. Raises BrokerUnavailable.
    """
    now_ms = Clock().now_ms()
    async with topic_reader(settings) as reader:
        by_name, unreadable = await _views(reader, settings, now_ms)
    return {name: views[-1].at(now_ms) for name, views in by_name.items() if name not in unreadable}


async def moved_lanes(settings: Settings, plan: Plan, workspaces: Collection[str]) -> list[str]:
    """Return a line for each of these workspaces whose lane is not in its home partition in `plan`.

    The views of all partitions are read, because a lane may be in any of them. Raises
    BrokerUnavailable.
    """
    keys = {name.encode() for name in workspaces}
    last: dict[str, tuple[int, int]] = {}
    async with topic_reader(settings) as reader:
        async for records in reader.read(settings.names.lanes):
            for record in records:
                if record.key not in keys or not record.value:
                    continue
                # The view may be of another version. Its owner knows the lane by its row.
                with suppress(*UNREADABLE):
                    view = _view.decode(record.value)
                    place = (view.at_ms, view.partition)
                    last[view.workspace] = max(place, last.get(view.workspace, place))
    homes = {name: (partition, plan.home_of(name)) for name, (_, partition) in sorted(last.items())}
    return [
        moved_text(name, partition, home)
        for name, (partition, home) in homes.items()
        if partition != home
    ]


async def command_log(
    settings: Settings,
    workspace: str | None,
    limit: int,
) -> list[list[CommandAnswer]]:
    """Return the last answers to commands, oldest first. Raises BrokerUnavailable.

    Equal answers of several partitions are one entry.
    """
    answers: list[CommandAnswer] = []
    async with topic_reader(settings) as reader:
        async for records in reader.read(settings.names.audit):
            answers += [answer for _, answer in answers_in(records)]
    alike: dict[tuple[str, bool, str], list[CommandAnswer]] = {}
    for answer in sorted(answers, key=lambda answer: answer.at_ms):
        if workspace in (None, answer.workspace):
            alike.setdefault((answer.id, answer.applied, answer.text), []).append(answer)
    return list(alike.values())[-limit:]


async def _views(
    reader: TopicReader,
    settings: Settings,
    now_ms: int,
) -> tuple[dict[str, list[LaneView]], set[str]]:
    """Return the recent views, at least the last one of each lane.

    Returns:
        The views by workspace, oldest first, and the workspaces whose last view cannot be read.
    """
    topic = settings.names.lanes
    bounds = await reader.bounds(topic)
    lately = await reader.offsets_at(topic, now_ms - SAMPLED_MS)
    begins = {
        number: end if (offset := lately[number]) is None else offset
        for number, (_, end) in bounds.items()
    }
    recent = {number: (begins[number], end) for number, (_, end) in bounds.items()}
    by_name, unreadable = await _read_views(reader, topic, recent)
    seen = by_name.keys() | unreadable
    missing = {settings.home(name) for name in settings.workspaces if name not in seen}
    if missing:  # their last views are older, in the compacted part
        older = {number: (bounds[number][0], begins[number]) for number in missing}
        earlier, unreadable_earlier = await _read_views(reader, topic, older)
        by_name = {name: views[-1:] for name, views in earlier.items()} | by_name
        unreadable |= unreadable_earlier - seen
    return by_name, unreadable


async def _read_views(
    reader: TopicReader,
    topic: str,
    ranges: dict[int, tuple[int, int]],
) -> tuple[dict[str, list[LaneView]], set[str]]:
    by_name: dict[str, list[LaneView]] = {}
    unreadable: set[str] = set()
    async for records in reader.read(topic, ranges):
        views_in(records, by_name, unreadable)
    return by_name, unreadable


def views_in(
    records: Iterable[Any],
    by_name: dict[str, list[LaneView]],
    unreadable: set[str],
) -> None:
    """Add the views among records of `leads.lanes` to those of their workspaces.

    `unreadable` has the workspaces whose last record cannot be read by this version.
    """
    for record in records:
        if not record.value:
            continue
        try:
            view = _view.decode(record.value)
        except UNREADABLE:
            unreadable.add((record.key or b"").decode("utf-8", "replace"))
        else:
            by_name.setdefault(view.workspace, []).append(view)
            unreadable.discard(view.workspace)


async def _first_of(
    reader: TopicReader,
    waiting: Mapping[Place, Waiting],
    committed: Offsets,
    positions: Mapping[Place, Position],
) -> tuple[dict[int, str], dict[int, int]]:
    """Return what is first in each partition with waiting records.

    Where a record waits in the memory of the owner, only the group's offset bounds its age.

    Returns:
        Both by partition: the unreadable batch that holds it, and when its oldest waiting record
            came, in epoch ms.
    """
    unreadable: dict[int, str] = {}
    oldest: dict[int, int] = {}

    seen: set[TopicPartition] = set()

    def note(batch: UnreadableBatch) -> None:
        # Otherwise a record before it is read first.
        if TopicPartition(batch.topic, batch.partition) not in seen:
            unreadable[batch.partition] = str(batch)

    places = [
        TopicPartition(topic, number) for (topic, number), left in waiting.items() if left.records
    ]
    spans: dict[TopicPartition, OffsetSpan] = {}
    for place, (begin, end) in (await reader.spans(places)).items():
        at = committed.get((place.topic, place.partition), 0)
        position = positions.get((place.topic, place.partition))
        if position is not None and not position.untaken:
            at = max(at, position.offset)
        if at >= begin:
            spans[place] = (at, min(at + _MARKERS, end))
    async for polled in reader.scan(spans, on_unreadable=note):
        for place, records in polled.items():
            seen.add(place)
            came_ms = records[0].timestamp
            oldest[place.partition] = min(oldest.get(place.partition, came_ms), came_ms)
    return unreadable, oldest


async def _pause(reader: TopicReader, topic: str) -> ReplayPause | None:
    value: Any = None
    async for records in reader.read(topic):
        for record in records:
            if record.key == PAUSE:
                value = record.value
    return read_pause(value)


async def _unanswered(reader: TopicReader, settings: Settings, committed: Offsets) -> Counter[int]:
    """Count the unanswered commands by partition.

    The group's offset is committed shortly after an answer.
    """
    names = settings.names
    waiting: dict[tuple[int, str], int] = {}
    bounds = await reader.bounds(names.commands)
    ranges = {
        number: (committed.get((names.commands, number), 0), end)
        for number, (_, end) in bounds.items()
    }
    async for records in reader.read(names.commands, ranges):
        for record in records:
            place = f"{names.commands}/{record.partition}/{record.offset}"
            waiting[record.partition, command_id(record.value) or place] = record.timestamp
    if not waiting:
        return Counter()
    since = await reader.offsets_at(names.audit, min(waiting.values()))
    ranges = {
        number: (begin, end)
        for number, (_, end) in (await reader.bounds(names.audit)).items()
        if (begin := since[number]) is not None
    }
    async for records in reader.read(names.audit, ranges):
        for number, answer in answers_in(records):
            waiting.pop((number, answer.id), None)
    return Counter(number for number, _ in waiting)


def _lane(
    settings: Settings,
    name: str,
    view: LaneView | None,
    records: Mapping[Place, Waiting],
    asked: Counter[int],
    blocked: Mapping[int, str],
    oldest: Mapping[int, int],
    *,
    view_unreadable: bool,
) -> LaneFacts:
    names = settings.names
    home = settings.home(name)
    unread = {
        topic.removeprefix(names.namespace): records[topic, home] for topic in names.lead_topics
    }
    waiting = {topic: left.records for topic, left in unread.items()}
    residents = settings.plan.residents(home)
    others = list(islice((other for other in residents if other != name), _NAMED))
    return LaneFacts(
        name,
        home,
        None if view_unreadable else view,
        waiting,
        tuple(others),
        asked[home],
        blocked.get(home, ""),
        len(residents) - 1 - len(others),
        oldest.get(home, 0),
        view_unreadable,
        any(left.at_most for left in unread.values()),
    )


def _forecasts(views: list[LaneView], now_ms: int) -> dict[str, Forecast]:
    forecasts: dict[str, Forecast] = {}
    for name in views[-1].meters:
        samples = [Sample(view.at_ms, view.meters[name]) for view in views if name in view.meters]
        if (foreseen := forecast(samples, now_ms)) is not None:
            forecasts[name] = foreseen
    return forecasts
