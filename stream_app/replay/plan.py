"""Reads the letters that are meant, the rows of their leads and the lanes' budgets, and says what would happen.

what was sent back before -> the letters -> the rows  ->  PricedPlan and the letters that would go
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import Any, Final, Literal

import msgspec

from stream_app.config import Settings, unknown
from stream_app.config.kafka_access import connection_of
from stream_app.domain.dead_letter.causes import Filter, Kind, addressed_to, headers_of, kind_of, number, text
from stream_app.domain.dead_letter.headers import WorkspaceKeys
from stream_app.domain.dead_letter.pricing import Fate, Price, PricedPlan, fate, pace, price
from stream_app.domain.dead_letter.redrive_dedup import RedriveDedup
from stream_app.domain.delivery.envelope import HEADERS
from stream_app.domain.delivery.state_machine import Delivery
from stream_app.domain.errors import SettingsError
from stream_app.domain.lane import estimate
from stream_app.domain.lane.budget import Cost
from stream_app.domain.lane.lane import Lane
from stream_app.domain.lead.suppression import SuppressionList
from stream_app.domain.policy import Workspace
from stream_app.kafka.readers import Progress, TopicReader
from stream_app.ops.clock import SystemClock
from stream_app.replay.edit import never_sent, sendable

Source = Literal["dlq", "parked", "deferred"]
Chosen = dict[int, set[int]]
"""Partition -> offsets of the letters that would go."""

_row: Final = msgspec.json.Decoder(Delivery)
_lane: Final = msgspec.json.Decoder(Lane)


class _Found(msgspec.Struct, gc=False):
    """A letter that is meant."""

    partition: int
    offset: int
    kind: Kind
    seq: int
    origin: str
    workspace: str
    destination: str
    cause: str
    sent_back: bool
    sendable: bool


def topic_of(settings: Settings, source: Source) -> str:
    """The topic that a source's name means."""
    names = settings.names
    return {"dlq": names.dlq, "parked": names.parked, "deferred": names.deferred}[source]


def reader_of(settings: Settings, progress: Progress) -> TopicReader:
    """A reader of this system's topics."""
    return TopicReader(connection_of(settings), settings.kafka.partitions, progress)


def check_filter(settings: Settings, source: Source, wanted: Filter) -> None:
    """Raises SettingsError for a filter that contradicts itself, or names what is not there to be found."""
    found = wanted.problems()
    if wanted.kinds == {"deferred"} and source != "deferred":
        found.append(f"--disposition deferred: there are none in {source}, use --from deferred")
    if wanted.kinds and "deferred" not in wanted.kinds and source == "deferred":
        found.append("--from deferred has no letters of another --disposition: leave it out")
    found += unknown(settings, wanted.workspaces, wanted.destinations)
    homes = {settings.destinations[name].workspace for name in wanted.destinations & settings.destinations.keys()}
    if not found and wanted.workspaces and homes and not homes & wanted.workspaces:
        found.append("no destination of --destination belongs to a workspace of --workspace")
    if found:
        raise SettingsError(found)


async def survey(
    settings: Settings,
    source: Source,
    wanted: Filter,
    progress: Progress,
    *,
    uncertain: bool = False,
    limit: int | None = None,
    rewind: Mapping[int, tuple[int, int]] | None = None,
    mended: Mapping[tuple[int, int], bytes] | None = None,
    rate_per_s: float | None = None,
    edited: bool = False,
) -> tuple[PricedPlan, Chosen]:
    """What would become of the letters that `wanted` means, and which of them would go (the first `limit` of them).

    rewind  the offsets that a rewind of the replay group would bring back, by partition; then each lead counts once.

    mended  only the letters at these partitions and offsets, whatever their disposition: somebody has looked at each,
            and this is the value that it is to have.

    edited  the letters are edited before they go, and checked then: what cannot be sent now may be.

    rate_per_s  letters a second and workspace; None: replay.rate_share of what its lane takes, as it is set now.

    Raises SettingsError, BrokerUnavailable.
    """
    check_filter(settings, source, wanted)
    async with reader_of(settings, progress) as reader:
        sent_back = RedriveDedup(settings.names.dlq)
        if rewind is None:
            await _hear(sent_back, reader, settings)
        found = await _letters(reader, settings, source, wanted, sent_back, rewind, mended)
        rows, lanes, on_list = await _rows(reader, settings.names.state, {each.origin for each in found})
        never = await _never(reader, topic_of(settings, source), found, on_list)
    chosen: Chosen = defaultdict(set)
    fates: Counter[Fate] = Counter()
    causes: Counter[str] = Counter()
    going: Counter[tuple[str, str]] = Counter()
    counted: set[str] = set()
    for each in found:
        if rewind is not None and each.kind == "failed":
            if each.origin in counted:
                fates["same_lead"] += 1
                continue
            counted.add(each.origin)
        asked = each.kind in ("failed", "deferred") or each.kind in wanted.kinds or mended is not None
        end = _fate(each, rows.get(each.origin), asked=asked, uncertain=uncertain, rewind=rewind is not None)
        if end in ("goes", "as_input", "waits_for_ask") and (each.partition, each.offset) in never:
            end = "suppressed"
        if end in ("goes", "as_input") and not each.sendable and not edited and mended is None:
            end = "cannot_go"
        if end in ("goes", "as_input"):
            if limit is not None and sum(going.values()) >= limit:
                fates["over_limit"] += 1
                continue
            chosen[each.partition].add(each.offset)
            causes[each.cause] += 1
            going[each.workspace, each.destination] += 1
        fates[end] += 1
    return PricedPlan(len(found), fates, causes, *_priced(settings, going, lanes, rate_per_s)), chosen


def _fate(each: _Found, row: Delivery | None, *, asked: bool, uncertain: bool, rewind: bool) -> Fate:
    if each.sent_back:
        return "sent_back"
    if not asked:
        return "waits_for_ask"
    return fate(each.kind, each.seq, row, uncertain=uncertain, rewind=rewind)


async def _hear(sent_back: RedriveDedup, reader: TopicReader, settings: Settings) -> None:
    async for records in reader.read(settings.names.replay_state):
        for record in records:
            sent_back.hear_state(record.key, record.value)
    async for records in reader.read(settings.names.retry):
        for record in records:
            sent_back.hear_retry(headers_of(record.headers))


async def _letters(
    reader: TopicReader,
    settings: Settings,
    source: Source,
    wanted: Filter,
    sent_back: RedriveDedup,
    ranges: Mapping[int, tuple[int, int]] | None,
    mended: Mapping[tuple[int, int], bytes] | None,
) -> list[_Found]:
    found: list[_Found] = []
    why_not, now_ms = sendable(settings), SystemClock().now_ms()
    topic, keys = topic_of(settings, source), WorkspaceKeys(settings.workspaces)
    async for records in reader.read(topic, ranges):
        for record in records:
            headers, key = headers_of(record.headers), keys.restore(record.key)
            if mended is not None and (record.partition, record.offset) not in mended:
                continue
            if not wanted.matches(headers, key, record.timestamp):
                continue
            value = record.value if mended is None else mended[record.partition, record.offset]
            workspace, alias = _address(settings, *addressed_to(headers, key, value))
            reason, kind = text(headers, HEADERS["reason"]), kind_of(headers)
            found.append(
                _Found(
                    record.partition,
                    record.offset,
                    kind,
                    number(headers, HEADERS["seq"]),
                    text(headers, HEADERS["origin"]),
                    workspace,
                    alias,
                    reason or "without a reason",
                    sent_back.has(f"{topic}/{record.partition}/{record.offset}", kind),
                    never_sent(value, key, text(headers, HEADERS["destination"]), why_not, now_ms) == "",
                )
            )
    return found


def _address(settings: Settings, workspace: str, alias: str) -> tuple[str, str]:
    """The same as the line would have it; a workspace that it does not know is as good as none."""
    if workspace not in settings.workspaces:
        return "", ""
    return workspace, alias or settings.destination_of(workspace, None) or ""


async def _rows(
    reader: TopicReader, state: str, origins: set[str]
) -> tuple[dict[str, Delivery], dict[str, Lane], SuppressionList]:
    """By origin, the row of each story that still counts; by workspace, its lane; and who is never to be sent."""
    key_rows: dict[bytes, Delivery] = {}
    lanes: dict[str, Lane] = {}
    on_list = SuppressionList()
    async for records in reader.read(state):
        for record in records:
            key: bytes = record.key
            if key.startswith(b"l/") and record.value:
                lane = _decode(_lane, record.value)
                if lane is not None:
                    lanes[lane.workspace] = lane
            elif key.startswith(b"d/"):
                row = _decode(_row, record.value) if record.value else None
                if row is not None and row.origin in origins:
                    key_rows[key] = row
                else:
                    key_rows.pop(key, None)
            else:
                on_list.hear(key, record.value, record.partition)
    return {row.origin: row for row in key_rows.values()}, lanes, on_list


async def _never(
    reader: TopicReader, topic: str, found: list[_Found], on_list: SuppressionList
) -> set[tuple[int, int]]:
    """Partition and offset of the letters that never go: values are read only where anybody is on the list."""
    never: set[tuple[int, int]] = set()
    if not on_list or not found:
        return never
    offsets: Chosen = defaultdict(set)
    for each in found:
        offsets[each.partition].add(each.offset)
    ranges = {partition: (min(here), max(here) + 1) for partition, here in offsets.items()}
    async for records in reader.read(topic, ranges):
        for record in records:
            letter = (headers_of(record.headers), record.key, record.value, record.timestamp)
            if record.offset in offsets[record.partition] and on_list.names(*letter):
                never.add((record.partition, record.offset))
    return never


def _decode(decoder: Any, value: bytes) -> Any:
    try:
        return decoder.decode(value)
    except msgspec.DecodeError:
        return None  # the books name it; here it is only not known


def _priced(
    settings: Settings, going: Mapping[tuple[str, str], int], lanes: Mapping[str, Lane], rate_per_s: float | None
) -> tuple[list[Price], dict[str, float]]:
    """What so many leads cost by workspace and destination, and the paces of all workspaces."""
    now_ms, paces, prices = SystemClock().now_ms(), dict[str, float](), list[Price]()
    policies = {name: Workspace(name, "", rate=it.rate, budget=it.budget) for name, it in settings.workspaces.items()}
    for name, policy in policies.items():
        paces[name] = pace(policy, lanes.get(name) or Lane(name, 0), settings.replay.rate_share, rate_per_s)
    for (name, alias), leads in sorted(going.items()):
        there, lane = settings.destinations.get(alias), lanes.get(name) or Lane(name, 0)
        usual = most = Cost()  # where there is no such destination the line refuses it, and it costs nothing
        if there is not None and there.workspace == name:
            usual = Cost(there.estimate_credits, there.estimate_actions)
            most = Cost(there.ceiling_credits, there.ceiling_actions)
        learned = lane.estimates.get(alias) or estimate.first(usual)
        policy, at_per_s = policies.get(name) or Workspace(name, ""), paces.get(name) or max(paces.values(), default=10)
        prices.append(price(alias, leads, learned, most, policy, lane, at_per_s, now_ms))
    return prices, paces
