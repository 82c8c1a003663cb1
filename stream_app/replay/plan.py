"""Plans a replay: reads the matching dead letters, their leads' rows and the lanes' budgets.

earlier redrives -> dead letters -> rows  ->  PricedPlan, and the dead letters to send
"""

import asyncio
import threading
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from typing import Any, Final

import msgspec

from stream_app.clock import Clock
from stream_app.config import Settings, unknown
from stream_app.config.kafka_access import topic_reader
from stream_app.domain.dead_letter.causes import (
    Filter,
    LetterKind,
    LetterSource,
    addressed_to,
    headers_of,
    kind_of,
    number,
    text,
)
from stream_app.domain.dead_letter.orders import (
    PAUSE,
    Fate,
    PricedPlan,
    ReplayPause,
    can_be_given_up,
    fate,
    pace,
    read_pause,
)
from stream_app.domain.dead_letter.replay import RedriveDedup, SuppressionList
from stream_app.domain.delivery.envelope import HEADERS, WorkspaceKeys, check_format
from stream_app.domain.delivery.resolve import body_of
from stream_app.domain.delivery.state_machine import Delivery, delivery_key
from stream_app.domain.lane.lane import Lane
from stream_app.domain.lead.identity import identify
from stream_app.domain.lead.read import Unreadable, read_lead
from stream_app.domain.limits.budget import Cost
from stream_app.domain.model.errors import SettingsError
from stream_app.domain.model.records import ConsumedRecord, parse_record_id
from stream_app.domain.model.untrusted import UNREADABLE
from stream_app.domain.plan import Workspace
from stream_app.domain.views.lane import LaneView
from stream_app.domain.views.price import Part, Quote, part, quote_of_replay
from stream_app.kafka.readers import OffsetSpan, Progress, TopicReader, consumed

Chosen = dict[int, set[int]]
"""Partition -> offsets of the dead letters to send."""

ReadViews = Callable[[Settings], Awaitable[Mapping[str, LaneView]]]
"""Reads the last published view of each lane, by workspace."""

_row: Final = msgspec.json.Decoder(Delivery)
_lane: Final = msgspec.json.Decoder(Lane)
_GOES: Final[tuple[Fate, ...]] = ("goes", "as_input")


class _MatchingLetter(msgspec.Struct, gc=False):
    """A matching dead letter. `key` is that of its lead's row, unless the lead was forced."""

    partition: int
    offset: int
    kind: LetterKind
    seq: int
    origin: str
    key: bytes
    workspace: str
    destination: str
    cause: str
    sent_back: bool
    sendable: bool


def topic_of(settings: Settings, source: LetterSource) -> str:
    """Return the topic of a source."""
    names = settings.names
    return {"dlq": names.dlq, "parked": names.parked, "deferred": names.deferred}[source]


def check_filter(settings: Settings, source: LetterSource, wanted: Filter) -> None:
    """Check that a filter does not contradict itself, and that the configuration has what it names.

    Raises:
        SettingsError: The filter contradicts itself, or names what the configuration lacks.
    """
    problems = wanted.problems()
    if wanted.kinds == {"deferred"} and source != "deferred":
        problems.append(f"--disposition deferred: {source} has none, use --from deferred")
    if wanted.kinds and "deferred" not in wanted.kinds and source == "deferred":
        problems.append(
            "--from deferred has only the disposition deferred: leave out --disposition",
        )
    problems += unknown(settings, wanted.workspaces, wanted.destinations)
    homes = {
        settings.destinations[name].workspace
        for name in wanted.destinations & settings.destinations.keys()
    }
    if not problems and wanted.workspaces and homes and not homes & wanted.workspaces:
        problems.append("no --destination belongs to a --workspace")
    if problems:
        raise SettingsError(problems)


async def spans_of(settings: Settings, source: LetterSource) -> dict[int, OffsetSpan]:
    """Return the first and the end offset of each partition of a source.

    Raises:
        BrokerUnavailable: Kafka does not answer.
    """
    async with topic_reader(settings) as reader:
        return await reader.bounds(topic_of(settings, source))


async def records_at(reader: TopicReader, topic: str, chosen: Chosen) -> AsyncIterator[Any]:
    """Read the PlainRecords at these offsets."""
    ranges = {
        partition: (min(offsets), max(offsets) + 1)
        for partition, offsets in chosen.items()
        if offsets
    }
    async for records in reader.read(topic, ranges):
        for record in records:
            if record.offset in chosen[record.partition]:
                yield record


def dead_letter_of(record: Any, keys: WorkspaceKeys) -> ConsumedRecord:
    """Convert a PlainRecord, and restore the workspace as its key."""
    return msgspec.structs.replace(consumed(record), key=keys.restore(record.key))


class _GivenUp(Exception):
    pass


async def survey_in_thread(
    settings: Settings,
    source: LetterSource,
    wanted: Filter,
    progress: Progress,
    **options: Any,
) -> tuple[PricedPlan, Chosen]:
    """Call `survey` in a thread of its own, because it keeps an event loop busy.

    The thread ends soon after a cancellation. `progress` is called in the thread.
    """
    given_up = threading.Event()

    def note(done: int, total: int) -> None:
        if given_up.is_set():
            raise _GivenUp
        progress(done, total)

    try:
        return await asyncio.to_thread(
            lambda: asyncio.run(survey(settings, source, wanted, note, **options)),
        )
    finally:
        given_up.set()


async def survey(
    settings: Settings,
    source: LetterSource,
    wanted: Filter,
    progress: Progress,
    *,
    uncertain: bool = False,
    limit: int | None = None,
    ranges: Mapping[int, OffsetSpan] | None = None,
    rate_per_s: float | None = None,
    read_views: ReadViews | None = None,
) -> tuple[PricedPlan, Chosen]:
    """Plan what would happen to the matching dead letters.

    Args:
        settings: The configuration.
        source: The topic to read.
        wanted: The filter.
        progress: Called with offsets done and offsets in all.
        uncertain: Include leads that may have reached Clay.
        limit: How many dead letters to send at most.
        ranges: By partition, the first offset to read and the end offset; None: everything that
            Kafka keeps.
        rate_per_s: Dead letters per second and workspace; None: replay.rate_share of the lane's
            current rate.
        read_views: Reads the published views of the lanes, so that the plan says what holds them;
            None: it does not say that.

    Returns:
        The plan with its price, and the partitions and offsets of the dead letters to send.

    Raises:
        SettingsError: The filter is wrong.
        UnknownFormat: Another version wrote one of the dead letters, in a format that this version
            does not read.
        BrokerUnavailable: Kafka does not answer.
    """
    check_filter(settings, source, wanted)
    # Not from the rows of the lanes: a rule needs the webhooks, whose secrets an operator's machine
    # may lack.
    views = await read_views(settings) if read_views is not None else {}
    async with topic_reader(settings, progress) as reader:
        sent_before, paused = await _replay_state(reader, settings)
        letters = await _dead_letters(reader, settings, source, wanted, ranges, sent_before)
        # After the dead letters, so that no row is older than the dead letter that it is compared
        # with.
        rows, lanes, on_list = await _rows(reader, settings.names.state, letters)
        never = await _never(
            reader,
            topic_of(settings, source),
            letters,
            on_list,
            WorkspaceKeys(settings.workspaces),
        )
    if limit is not None:
        # In order of their places, so that a later run takes the same ones.
        letters.sort(key=lambda letter: (letter.partition, letter.offset))
    chosen: Chosen = defaultdict(set)
    fates: Counter[Fate] = Counter()
    causes: Counter[str] = Counter()
    going: Counter[tuple[str, str]] = Counter()
    for letter in letters:
        asked = letter.kind in ("failed", "deferred") or letter.kind in wanted.kinds
        row = rows.get(letter.origin.encode()) or rows.get(letter.key)
        end = _fate(letter, row, asked=asked, uncertain=uncertain)
        if end in (*_GOES, "waits_for_ask") and (letter.partition, letter.offset) in never:
            end = "suppressed"
        if end in _GOES and not letter.sendable:
            end = "cannot_go"
        if end in _GOES and limit is not None and going.total() >= limit:
            end = "over_limit"
        if end in _GOES:
            chosen[letter.partition].add(letter.offset)
            causes[letter.cause] += 1
            going[letter.workspace, letter.destination] += 1
        fates[end] += 1
    return PricedPlan(
        len(letters),
        fates,
        causes,
        *_priced(settings, going, lanes, views, rate_per_s),
        paused,
    ), chosen


async def survey_given_up(
    settings: Settings,
    source: LetterSource,
    wanted: Filter,
    places: Collection[str],
    progress: Progress,
) -> tuple[list[str], Counter[Fate]]:
    """Find the dead letters that can be given up.

    Args:
        settings: The configuration.
        source: The topic to read.
        wanted: The filter.
        places: Only the dead letters at these places (`topic/partition/offset`); empty: all that
            match.
        progress: Called with offsets done and offsets in all.

    Returns:
        Their places, in the order of partitions and offsets, and how many of the matching dead
        letters have each fate.

    Raises:
        SettingsError: The filter is wrong.
        UnknownFormat: Another version wrote one of the dead letters, in a format that this version
            does not read.
        BrokerUnavailable: Kafka does not answer.
    """
    check_filter(settings, source, wanted)
    topic = topic_of(settings, source)
    ranges: dict[int, OffsetSpan] | None = None
    if places:
        ranges = {}
        for _, partition, offset in filter(None, map(parse_record_id, places)):
            begin, end = ranges.get(partition, (offset, offset + 1))
            ranges[partition] = (min(begin, offset), max(end, offset + 1))
    async with topic_reader(settings, progress) as reader:
        sent_before, _ = await _replay_state(reader, settings)
        letters = await _dead_letters(reader, settings, source, wanted, ranges, sent_before)
        # After the dead letters, as in `survey`.
        rows, _, _ = await _rows(reader, settings.names.state, letters)
    fates: Counter[Fate] = Counter()
    chosen: list[str] = []
    for letter in sorted(letters, key=lambda letter: (letter.partition, letter.offset)):
        place = f"{topic}/{letter.partition}/{letter.offset}"
        if places and place not in places:
            continue
        row = rows.get(letter.origin.encode()) or rows.get(letter.key)
        outcome = can_be_given_up(letter.kind, letter.origin, letter.seq, row)
        if letter.sent_back and letter.kind != "failed":
            outcome = "sent_back"
        elif letter.kind == "foreign" and source == "dlq":
            outcome = "under_way"
        fates[outcome] += 1
        if outcome == "goes":
            chosen.append(place)
    return chosen, fates


def _fate(letter: _MatchingLetter, row: Delivery | None, *, asked: bool, uncertain: bool) -> Fate:
    if letter.sent_back:
        return "sent_back"
    if not asked:
        return "waits_for_ask"
    if letter.kind in ("failed", "deferred") and row is not None and row.origin != letter.origin:
        return "replaced"
    return fate(letter.kind, letter.seq, row, uncertain=uncertain)


async def _replay_state(
    reader: TopicReader,
    settings: Settings,
) -> tuple[RedriveDedup, ReplayPause | None]:
    """Return which dead letters were sent back before, and the pause of all replays."""
    sent_before = RedriveDedup(settings.names.dlq)
    pause: bytes | None = None
    async for records in reader.read(settings.names.replay_state):
        for record in records:
            sent_before.apply_state(record.key, record.value)
            if record.key == PAUSE:
                pause = record.value
    async for records in reader.read(settings.names.retry):
        for record in records:
            sent_before.apply_retry(headers_of(record.headers))
    return sent_before, read_pause(pause)


async def _dead_letters(
    reader: TopicReader,
    settings: Settings,
    source: LetterSource,
    wanted: Filter,
    ranges: Mapping[int, OffsetSpan] | None,
    sent_before: RedriveDedup,
) -> list[_MatchingLetter]:
    """Return the matching dead letters, with whether an operator has sent them back before."""
    letters: list[_MatchingLetter] = []
    topic = topic_of(settings, source)
    keys = WorkspaceKeys(settings.workspaces)
    now_ms = Clock().now_ms()
    async for records in reader.read(topic, ranges):
        for record in records:
            headers = headers_of(record.headers)
            key = keys.restore(record.key)
            check_format(headers, f"{topic}/{record.partition}/{record.offset}")
            if not wanted.matches(headers, key, record.value, record.timestamp):
                continue
            workspace, alias = _address(settings, *addressed_to(headers, key, record.value))
            reason = text(headers, HEADERS["reason"])
            kind = kind_of(headers)
            letters.append(
                _MatchingLetter(
                    record.partition,
                    record.offset,
                    kind,
                    number(headers, HEADERS["seq"]),
                    text(headers, HEADERS["origin"]),
                    delivery_key(workspace, alias, text(headers, HEADERS["lead_id"])),
                    workspace,
                    alias,
                    reason or "without a reason",
                    sent_before.has(f"{topic}/{record.partition}/{record.offset}", kind),
                    is_sendable(
                        settings,
                        record.value,
                        key,
                        text(headers, HEADERS["destination"]),
                        now_ms,
                    ),
                ),
            )
    return letters


def is_sendable(
    settings: Settings,
    value: bytes | None,
    key: bytes | None,
    named: str,
    now_ms: int,
) -> bool:
    """Return True if the value of a dead letter can be sent.

    `named` is the destination that its headers name; '' if they name none.
    """
    lead = read_lead(value, key)
    if isinstance(lead, Unreadable) or identify(lead, cleaned=True) is None:
        return False
    alias = settings.destination_of(lead.workspace or "", lead.destination or named or None)
    if alias is None or (lead.not_after_ms is not None and lead.not_after_ms <= now_ms):
        return False
    return not isinstance(body_of(lead, settings.destinations[alias].columns, {}), Unreadable)


def _address(settings: Settings, workspace: str, alias: str) -> tuple[str, str]:
    """Resolve the address as the lead pipeline does. An unknown workspace counts as none."""
    if workspace not in settings.workspaces:
        return "", ""
    return workspace, alias or settings.destination_of(workspace, None) or ""


async def _rows(
    reader: TopicReader,
    state: str,
    letters: list[_MatchingLetter],
) -> tuple[dict[bytes, Delivery], dict[str, Lane], SuppressionList]:
    """Read what the state topic says about these dead letters.

    Returns:
        The current delivery rows by key and by origin, the lanes by workspace, and the suppression
        list.
    """
    origins = {letter.origin for letter in letters}
    keys = {letter.key for letter in letters}
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
                if row is not None and (row.origin in origins or key in keys):
                    key_rows[key] = row
                else:
                    key_rows.pop(key, None)
            else:
                on_list.apply(key, record.value, record.partition)
    return key_rows | {row.origin.encode(): row for row in key_rows.values()}, lanes, on_list


async def _never(
    reader: TopicReader,
    topic: str,
    letters: list[_MatchingLetter],
    on_list: SuppressionList,
    keys: WorkspaceKeys,
) -> set[tuple[int, int]]:
    """Find suppressed dead letters, by partition and offset.

    Values are read only if the suppression list is not empty.
    """
    never: set[tuple[int, int]] = set()
    if not on_list:
        return never
    offsets: Chosen = defaultdict(set)
    for letter in letters:
        offsets[letter.partition].add(letter.offset)
    async for record in records_at(reader, topic, offsets):
        if on_list.names(
            headers_of(record.headers),
            keys.restore(record.key),
            record.value,
            record.timestamp,
        ):
            never.add((record.partition, record.offset))
    return never


def _decode(decoder: Any, value: bytes) -> Any:
    try:
        return decoder.decode(value)
    except UNREADABLE:
        return None  # `stream-app books` reports a row that cannot be read.


def _priced(
    settings: Settings,
    going: Mapping[tuple[str, str], int],
    lanes: Mapping[str, Lane],
    views: Mapping[str, LaneView],
    rate_per_s: float | None,
) -> tuple[list[Quote], dict[str, float]]:
    """Price the leads by workspace, and return the rates of all workspaces."""
    now_ms = Clock().now_ms()
    policies = settings.workspaces
    parts = defaultdict[str, list[Part]](list)
    at_home = {
        name: lanes.get(name) or Lane(name, 0) for name in {*policies, *(name for name, _ in going)}
    }
    rules = {
        name: lane.in_force(policies.get(name) or Workspace(name)) for name, lane in at_home.items()
    }
    paces = {name: pace(rules[name], settings.replay.rate_share, rate_per_s) for name in policies}
    for (name, alias), leads in sorted(going.items()):
        destination = settings.destinations.get(alias)
        usual = Cost()
        most = Cost()
        # If there is no such destination, the lead pipeline rejects the lead, which costs nothing.
        if destination is not None and destination.workspace == name:
            usual = destination.estimate
            most = destination.ceiling
        parts[name].append(part(alias, leads, usual, most, at_home[name].estimates))
    at_most_per_s = max(paces.values(), default=10.0)
    quotes = [
        quote_of_replay(
            rules[name],
            at_home[name],
            its,
            paces.get(name, at_most_per_s),
            now_ms,
            views.get(name),
        )
        for name, its in parts.items()
    ]
    return quotes, paces
