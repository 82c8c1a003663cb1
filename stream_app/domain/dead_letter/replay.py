"""When a failed or deferred lead comes back by itself, or whether an operator may send it back.

A delay tier is a topic whose records all wait for the same time after their append. Its head is
always the next one due, so that no state is kept in memory. A record moves from tier to shorter
tier until it is due: never early, and late by less than the shortest tier. So leads return in the
order in which they are due, whatever tiers there are.

A dead letter must not be sent back if it was sent before, or if its person is on the suppression
list. The pipeline accepts a dead letter that continues its history once, as long as there is a row.
One that starts a new history has none. So a row in the replay state is committed with it, and no
operator or run sends it twice.

    leads.retry          ->  the place of the dead letter in a header, kept for a week
    sent/<place>         ->  its append time, kept as long as the dead letter
    dlq/<partition>/...  ->  Came: earlier dead letters of other programs were replayed
                             automatically
"""

import math
from collections import defaultdict, deque
from collections.abc import Container, Iterable, Mapping
from typing import Final, NamedTuple

import msgspec

from stream_app.domain.dead_letter.causes import (
    HeaderValues,
    LetterKind,
    addressed_to,
    headers_of,
    kind_of,
    lead_id_of,
    number,
)
from stream_app.domain.delivery.envelope import (
    HEADERS,
    RETURNS,
    Envelope,
    named_workspace,
    read_envelope,
)
from stream_app.domain.delivery.suppression import (
    erased_row,
    people_in,
    read_suppression,
    suppressed_person,
)
from stream_app.domain.model.numbers import Whole
from stream_app.domain.model.outcome import UNREACHABLE
from stream_app.domain.model.records import ConsumedRecord, parse_record_id
from stream_app.domain.model.untrusted import UNREADABLE, decode
from stream_app.domain.plan import ReplayPolicy
from stream_app.domain.views.lane import LaneView

_GROWTH: Final = 4.0


def replay_due_ms(policy: ReplayPolicy, reason: str, replay: int, now_ms: int, rand: float) -> int:
    """Return when a replay is due, epoch ms.

    `replay` is its number, from 1; `rand` is from 0 to 1.
    """
    base_s = policy.backoff_unreachable_base_s if reason in UNREACHABLE else policy.backoff_base_s
    delay_s = min(policy.backoff_cap_s, base_s * _GROWTH ** (replay - 1))
    return now_ms + int(delay_s * 1000 * (0.5 + rand / 2))


def tier_s(policy: ReplayPolicy, rest_ms: int) -> int | None:
    """Return the next tier for the rest of a delay; None: it is due.

    It is the longest tier that exceeds the rest by less than the shortest tier. After a tier, ask
    again with the new rest.
    """
    if rest_ms <= 0:
        return None
    late_ms = policy.tiers_s[0] * 1000
    return next(tier for tier in reversed(policy.tiers_s) if tier * 1000 < rest_ms + late_ms)


def returning(envelope: Envelope, record_id: str, epoch: int = 0) -> Envelope | None:
    """Return the envelope under which a dead letter or deferred lead returns.

    None if it waits for a person. A failed lead counts a replay. If it was written before the
    present rewind epoch, it is the first replay of that epoch and due at once. A deferred lead
    counts none. A record without a disposition was written by another program. We do not know
    whether it failed or was poison, so it returns as an input (`as_input`).
    """
    if envelope.way in RETURNS:
        return envelope.onward()
    if not envelope.disposition:
        return as_input(record_id, envelope.origin_ms)
    if envelope.disposition != "failed":
        return None
    rewound = envelope.epoch < epoch
    return envelope.onward(
        way="replayed",
        replay=1 if rewound else envelope.replay + 1,
        epoch=epoch if rewound else envelope.epoch,
        attempt=0,
        disposition="",
        not_before_ms=0 if rewound else envelope.not_before_ms,
    )


def as_input(record_id: str, origin_ms: int) -> Envelope:
    """Return the envelope of a new history.

    Copies of a dead letter are one lead. Erasures since `origin_ms` count.
    """
    return Envelope(redriven_from=record_id, origin_ms=origin_ms)


def goes_on(envelope: Envelope) -> bool:
    """Return True if a dead letter continues its own history.

    Poison and policy have ended theirs.
    """
    return envelope.disposition == "failed" or (
        not envelope.disposition and envelope.way == "deferred"
    )


def redriven(envelope: Envelope, record_id: str) -> Envelope:
    """Return the envelope under which an operator sends a dead letter back.

    The dead letter gets its full number of replays again. The envelope's `seq` proves that nothing
    has happened to the lead since: the pipeline accepts it only while this is the lead's latest
    dead letter, so a second redrive has no effect. A deferred lead only becomes due at once. One
    whose history has ended starts a new one.
    """
    if envelope.way == "deferred" and goes_on(envelope):
        return envelope.onward(not_before_ms=0, redriven_from=record_id)
    if not goes_on(envelope):
        return msgspec.structs.replace(
            as_input(record_id, envelope.origin_ms),
            trace_id=envelope.trace_id,
        )
    return envelope.onward(
        way="redriven",
        replay=1,
        attempt=0,
        disposition="",
        not_before_ms=0,
        redriven_from=record_id,
    )


def giving_up(
    dead_letter: ConsumedRecord,
    workspaces: Container[str],
    text: str,
) -> tuple[bytes, bytes, Envelope]:
    """Return the record that ends a dead letter which an operator gives up.

    Its value is the text and no lead, because nothing is sent. It names the lead as the events of
    that dead letter do. Its `seq` says, as in `redriven`, which dead letter of the lead the
    operator means. A dead letter of another program has no history, so its end is a history of its
    own.

    Args:
        dead_letter: The dead letter, with the key that it has on Kafka.
        workspaces: The configured workspaces.
        text: Who gives it up, and why.

    Returns:
        The key, the value and the envelope of the record.
    """
    envelope = read_envelope(dead_letter)
    headers = headers_of(dead_letter.headers)
    named, _ = addressed_to(headers, dead_letter.key, dead_letter.value)
    key = named_workspace(named, workspaces, envelope.reason).encode()
    if kind_of(headers) == "foreign":
        end = Envelope(
            way="given_up",
            redriven_from=dead_letter.record_id,
            origin_ms=envelope.origin_ms,
        )
    else:
        lead_id = envelope.lead_id or lead_id_of(headers, dead_letter.value)
        end = envelope.onward(way="given_up", redriven_from=dead_letter.record_id, lead_id=lead_id)
    return key, msgspec.json.encode(text), end


def given_up_text(value: bytes | None) -> str:
    """Return who gave a dead letter up, and why; '' if the record that ends it has no text.

    `value` is the value of that record.
    """
    try:
        return decode(_text, value)
    except ValueError:
        return ""


class Came(msgspec.Struct, frozen=True, omit_defaults=True):
    """The recorded progress of one rewind epoch on a partition."""

    offset: Whole  # what the group has committed
    # Kafka had lost that offset, so reading restarted: records before this one were replayed
    # already.
    skip_to: Whole = 0


_came: Final = msgspec.json.Decoder(Came)


class Epoch(NamedTuple):
    """A rewind epoch of one partition of the dead letters, with its recorded progress."""

    partition: int
    number: int
    came: Came


def read_epoch(key: bytes, value: bytes | None) -> Epoch | None:
    """Return what a row of the replay state says about an epoch.

    It is None if the row is another one, deleted or unreadable. Without a row the group's own
    offset counts. A worker knows the dead letters that it has taken back already.
    """
    kind, *place = key.split(b"/")
    if kind != b"dlq" or value is None:
        return None
    try:
        partition, number = place
        return Epoch(int(partition), int(number), decode(_came, value))
    except UNREADABLE:
        return None


class Begin(msgspec.Struct, frozen=True):
    """How the replay app starts on a partition of the dead letters."""

    epoch: int = 0  # the rewind epoch
    # The progress to record before anything is published; None if there is nothing new.
    record: Came | None = None
    skip_to: int = 0  # records before it were replayed, although the group has lost its offset
    seen_to: int = 0  # records before it were replayed at least once, in any epoch
    rewound: bool = False  # a rewind was detected, for the log
    forgotten: bool = False  # Kafka had lost the group's offset, for the log


def begin(recorded: Mapping[int, Came], committed: int | None) -> Begin:
    """Compare the group's committed offset with the recorded progress of each epoch.

    Below the last epoch's offset: the group was rewound, and a new epoch begins. At or above it: an
    ordinary restart. None: Kafka has lost the offset (offset retention), and the recorded progress
    replaces it.
    """
    epoch = max(recorded, default=0)
    came = recorded.get(epoch, Came(0))
    seen_to = max(
        (max(came_before.offset, came_before.skip_to) for came_before in recorded.values()),
        default=0,
    )
    if committed is None and came.offset:
        # The group restarts at the beginning and will commit low offsets. That must not look like a
        # rewind.
        again = Came(0, max(came.offset, came.skip_to))
        return Begin(epoch, again, again.skip_to, seen_to, forgotten=True)
    if committed is not None and committed < came.offset:
        return Begin(epoch + 1, Came(committed), 0, seen_to, rewound=True)
    return Begin(epoch, None, came.skip_to, seen_to)


_BURST_MS: Final = 1_000


class Pace:
    """Limits each workspace's replays to `share` of its rate.

    After a pause, a burst of one second may follow. A dead letter whose key names no workspace may
    belong to any of them, so it gets the lowest rate.
    """

    def __init__(self, rates_per_s: Mapping[str, float], share: float = 1.0) -> None:
        self._rates_per_s = rates_per_s
        self._share = share
        self._next_ms: dict[str, float] = {}

    def turn_ms(self, workspace: str, now_ms: int) -> int:
        """Return when the next replay may be sent, epoch ms, and count it.

        In the past: it may be sent now.
        """
        rate_per_s = self._rates_per_s.get(workspace)
        if rate_per_s is None:
            workspace = ""
            rate_per_s = min(self._rates_per_s.values(), default=10.0)
        turn_ms = max(self._next_ms.get(workspace, 0.0), now_ms - _BURST_MS)
        self._next_ms[workspace] = turn_ms + 1000 / (rate_per_s * self._share)
        return int(turn_ms)


_PROBE_ANSWERS_WITHIN_MS: Final = 1_000
_PROBE_EVERY_MS: Final = 1_000
_PROBED_BEFORE_MS: Final = 2_000
_PROBES: Final = 100
_LOOK_AGAIN_MS: Final = 2_000


class _Hold(msgspec.Struct):
    """A destination that takes no lead. Times are epoch ms."""

    until_ms: int = 0
    probed_ms: int = 0
    next_ms: float = 0.0  # when the last lead that waits for it asks
    # The origins of leads that were probes.
    probes: deque[str] = msgspec.field(default_factory=lambda: deque(maxlen=_PROBES))


class Turns:
    """When leads that wait for their lane ask it again, by the last published view of the lane.

    The worker would write events for a lead that comes in vain, so no lead comes before its lane
    takes leads. In its place the replay process looks at the lane's view when the hold may end, and
    after 2 s at the latest. The leads of a lane look one by one at the rate of replays, however
    many wait. If only the time of the hold has passed and its view has not changed, the next lead
    is a probe: the worker has kept one, and if its answer does not change the view within 1 s, one
    lead a second comes. Leads that were probes before come a little later, so that it is another
    one each time.
    """

    def __init__(self, rates_per_s: Mapping[str, float], share: float = 1.0) -> None:
        self._rates_per_s = rates_per_s
        self._share = share
        self._holds: dict[str, dict[str, _Hold]] = {}

    def apply(self, view: LaneView) -> None:
        before = self._holds.get(view.workspace, {})
        now = {alias: before.get(alias) or _Hold() for alias in view.turns}
        self._holds[view.workspace] = now
        for alias, until_ms in view.turns.items():
            now[alias].until_ms = until_ms

    def turn_ms(self, workspace: str, envelope: Envelope, now_ms: int) -> int:
        """Return when a lead that is due may ask its lane, epoch ms, and count it.

        Not in the future: now.
        """
        rate_per_s = self._rates_per_s.get(workspace)
        hold = self._holds.get(workspace, {}).get(envelope.destination)
        if hold is None or rate_per_s is None:
            return now_ms
        probe_ms = max(hold.until_ms + _PROBE_ANSWERS_WITHIN_MS, hold.probed_ms + _PROBE_EVERY_MS)
        probe_ms += _PROBED_BEFORE_MS * (envelope.origin in hold.probes)
        if hold.until_ms and probe_ms <= now_ms:
            hold.probed_ms = now_ms
            hold.probes.append(envelope.origin)
            return now_ms
        look_ms = now_ms + _LOOK_AGAIN_MS
        if hold.until_ms:
            look_ms = min(look_ms, max(hold.until_ms, now_ms + 1))
        hold.next_ms = max(hold.next_ms + 1000 / (rate_per_s * self._share), look_ms)
        return int(hold.next_ms)


def _erased_until_ms(value: bytes) -> float:
    """Return until when an erased lead was published.

    A row that cannot be read holds every dead letter of the lead.
    """
    try:
        return read_suppression(value).at_ms
    except UNREADABLE:
        return math.inf


SENT: Final = b"sent/"  # begins the key of `sent_row`
_text: Final = msgspec.json.Decoder(str)


class SuppressionList:
    """The suppression list and all erased leads of all partitions.

    It is for programs that only read the state topic.
    """

    def __init__(self) -> None:
        self._partitions: dict[str, int] = {}  # a bit each
        self._erased: dict[bytes, float] = {}  # row key -> until when it was published, epoch ms

    def __bool__(self) -> bool:
        return bool(self._partitions or self._erased)

    def apply(self, row_key: bytes, value: bytes | None, partition: int) -> None:
        """Apply a record of the state topic, of any kind of row.

        One without a value deletes the row.
        """
        if row_key.startswith(b"e/"):
            if value is None:
                self._erased.pop(row_key, None)
            else:
                self._erased[row_key] = _erased_until_ms(value)
            return
        person = suppressed_person(row_key)
        if person is None:
            return
        bits = self._partitions.pop(person, 0)
        bit = 1 << partition
        if bits := bits & ~bit if value is None else bits | bit:
            self._partitions[person] = bits

    def names(
        self,
        headers: HeaderValues,
        key: bytes | None,
        value: bytes | None,
        at_ms: int,
    ) -> bool:
        """Return True if a dead letter belongs to a suppressed person or an erased lead.

        It is found even if the value is broken. `at_ms` (the append of the dead letter, epoch ms)
        is used if the dead letter does not say when its lead was published.
        """
        if self._partitions and any(person in self._partitions for person in people_in(value)):
            return True
        if not self._erased:
            return False
        workspace, _ = addressed_to(headers, key, value)
        until_ms = self._erased.get(erased_row(workspace, lead_id_of(headers, value)))
        return until_ms is not None and (number(headers, HEADERS["origin_ms"]) or at_ms) <= until_ms


def sent_row(dead_letter: ConsumedRecord) -> tuple[bytes, bytes]:
    """Return the row that says that a dead letter was sent back as a new input, or given up.

    It is a key and its value.
    """
    return SENT + dead_letter.record_id.encode(), b"%d" % dead_letter.timestamp_ms


def outlived(rows: Mapping[bytes, bytes], oldest_ms: int) -> Iterable[bytes]:
    """Return the keys of such rows whose dead letters are older than `oldest_ms`."""
    return [key for key, value in rows.items() if key.startswith(SENT) and int(value) < oldest_ms]


class RedriveDedup:
    """Reads the replay state and `leads.retry`, then answers. `dlq`: the name of that topic."""

    def __init__(self, dlq: str) -> None:
        self._dlq = dlq
        self._sent: set[str] = set()
        self._passed: defaultdict[int, int] = defaultdict(int)

    def apply_state(self, key: bytes, value: bytes | None) -> None:
        """Apply a row of the replay state; None deletes it."""
        if key.startswith(SENT):
            record_id = key.removeprefix(SENT).decode()
            if value is None:
                self._sent.discard(record_id)
            else:
                self._sent.add(record_id)
        elif (epoch := read_epoch(key, value)) is not None:
            passed = max(self._passed[epoch.partition], epoch.came.offset, epoch.came.skip_to)
            self._passed[epoch.partition] = passed

    def apply_retry(self, headers: HeaderValues) -> None:
        if (record_id := headers.get(HEADERS["redriven_from"])) is not None:
            self._sent.add(record_id.decode("utf-8", "replace"))

    def has(self, record_id: str, kind: LetterKind) -> bool:
        """Return True if the dead letter at this place was sent back."""
        if record_id in self._sent:
            return True
        topic, partition, offset = parse_record_id(record_id) or ("", 0, 0)
        return kind == "foreign" and topic == self._dlq and offset < self._passed[partition]
