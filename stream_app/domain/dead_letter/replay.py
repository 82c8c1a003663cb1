"""Schedules the replay of failed and deferred leads: backoff, and delay tiers.

A delay tier is a topic whose records all wait for the same time after their append. So its head is always the next one
due, and no state is kept in memory. A record moves from tier to shorter tier until it is due: never early, and late by
less than the shortest tier. So leads return in the order in which they are due, whatever tiers there are.
"""

from collections import deque
from collections.abc import Mapping
from typing import Final

import msgspec

from stream_app.domain.delivery.envelope import RETURNS, Envelope
from stream_app.domain.lane.view import LaneView
from stream_app.domain.model.outcome import UNREACHABLE
from stream_app.domain.plan import ReplayPolicy

_GROWTH: Final = 4.0


def replay_due_ms(policy: ReplayPolicy, reason: str, replay: int, now_ms: int, rand: float) -> int:
    """Return when a replay is due, epoch ms. `replay` is its number, from 1; `rand` is from 0 to 1."""
    base_s = policy.backoff_unreachable_base_s if reason in UNREACHABLE else policy.backoff_base_s
    delay_s = min(policy.backoff_cap_s, base_s * _GROWTH ** (replay - 1))
    return now_ms + int(delay_s * 1000 * (0.5 + rand / 2))


def tier_s(policy: ReplayPolicy, rest_ms: int) -> int | None:
    """Return the next tier for the rest of a delay; None: it is due.

    It is the longest tier that exceeds the rest by less than the shortest tier. After a tier, ask again with the new
    rest.
    """
    if rest_ms <= 0:
        return None
    late_ms = policy.tiers_s[0] * 1000
    return next(tier for tier in reversed(policy.tiers_s) if tier * 1000 < rest_ms + late_ms)


def returning(envelope: Envelope, record_id: str, epoch: int = 0) -> Envelope | None:
    """Return the envelope under which a dead letter or deferred lead returns; None: it waits for a person.

    A failed one counts a replay. If it was written before the present rewind epoch, it is the first replay of that
    epoch and due at once. A deferred one counts none. One without a disposition was written by another program. We do
    not know whether it failed or was poison, so it returns as an input (`as_input`).
    """
    if envelope.way in RETURNS:
        return envelope.onward()
    if not envelope.disposition:
        return as_input(record_id)
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


def as_input(record_id: str) -> Envelope:
    """Return an envelope without an origin: the record starts a new history. Copies of one dead letter are one lead."""
    return Envelope(redriven_from=record_id)


def goes_on(envelope: Envelope) -> bool:
    """Return True if a dead letter continues its own history. Poison and policy have ended theirs."""
    return envelope.disposition == "failed" or (not envelope.disposition and envelope.way == "deferred")


def redriven(envelope: Envelope, record_id: str) -> Envelope:
    """Return the envelope under which an operator sends a dead letter back, with a fresh set of replays.

    Its `seq` proves that nothing has happened to the lead since: the pipeline accepts it only while it is the lead's
    latest dead letter, so a second redrive has no effect. A deferred lead only becomes due at once. One whose history
    has ended starts a new one.
    """
    if envelope.way == "deferred" and goes_on(envelope):
        return envelope.onward(not_before_ms=0, redriven_from=record_id)
    if not goes_on(envelope):
        return msgspec.structs.replace(as_input(record_id), trace_id=envelope.trace_id)
    return envelope.onward(
        way="redriven", replay=1, attempt=0, disposition="", not_before_ms=0, redriven_from=record_id
    )


class Came(msgspec.Struct, frozen=True, omit_defaults=True):
    """The recorded progress of one rewind epoch on a partition.

    Attributes:
        offset: What the group has committed.
        skip_to: Kafka had lost the group's offset, so reading restarted. Records before this offset were replayed
            already.
    """

    offset: int
    skip_to: int = 0


class Begin(msgspec.Struct, frozen=True):
    """How the replay app starts on a partition of the dead letters.

    Attributes:
        epoch: The rewind epoch.
        record: The progress to record before anything is published; None: nothing new.
        skip_to: Records before it were replayed, although the group has lost its offset.
        seen_to: Records before it were replayed at least once, in any epoch.
        rewound: True if a rewind was detected, for the log.
        forgotten: True if Kafka had lost the group's offset, for the log.
    """

    epoch: int = 0
    record: Came | None = None
    skip_to: int = 0
    seen_to: int = 0
    rewound: bool = False
    forgotten: bool = False


def begin(recorded: Mapping[int, Came], committed: int | None) -> Begin:
    """Compare the group's committed offset with the recorded progress of each epoch.

    Below the last epoch's offset: the group was rewound, and a new epoch begins. At or above it: an ordinary restart.
    None: Kafka has lost the offset (offset retention), and the recorded progress replaces it.
    """
    epoch = max(recorded, default=0)
    came = recorded.get(epoch, Came(0))
    seen_to = max((max(came_before.offset, came_before.skip_to) for came_before in recorded.values()), default=0)
    if committed is None and came.offset:
        # The group restarts at the beginning and will commit low offsets. That must not look like a rewind.
        again = Came(0, max(came.offset, came.skip_to))
        return Begin(epoch, again, again.skip_to, seen_to, forgotten=True)
    if committed is not None and committed < came.offset:
        return Begin(epoch + 1, Came(committed), 0, seen_to, rewound=True)
    return Begin(epoch, None, came.skip_to, seen_to)


_BURST_MS: Final = 1_000


class Pace:
    """Limits each workspace's replays to `share` of its rate, with a burst of one second after a pause.

    A dead letter whose key names no workspace may belong to any of them. It gets the lowest rate.
    """

    def __init__(self, rates_per_s: Mapping[str, float], share: float = 1.0) -> None:
        self._rates_per_s = rates_per_s
        self._share = share
        self._next_ms: dict[str, float] = {}

    def turn_ms(self, workspace: str, now_ms: int) -> int:
        """Return when the next replay may be sent, epoch ms, and count it. In the past: it may be sent now."""
        rate_per_s = self._rates_per_s.get(workspace)
        if rate_per_s is None:
            workspace, rate_per_s = "", min(self._rates_per_s.values(), default=10.0)
        turn_ms = max(self._next_ms.get(workspace, 0.0), now_ms - _BURST_MS)
        self._next_ms[workspace] = turn_ms + 1000 / (rate_per_s * self._share)
        return int(turn_ms)


_PROBE_ANSWERS_WITHIN_MS: Final = 1_000
_PROBE_EVERY_MS: Final = 1_000
_PROBED_BEFORE_MS: Final = 2_000
_PROBES: Final = 100
_LOOK_AGAIN_MS: Final = 2_000


class _Hold(msgspec.Struct):
    """A destination that takes no lead.

    `next_ms`: when the last lead that waits for it asks, epoch ms. `probes`: the origins of the leads that came as
    probes.
    """

    until_ms: int = 0
    probed_ms: int = 0
    next_ms: float = 0.0
    probes: deque[str] = msgspec.field(default_factory=lambda: deque(maxlen=_PROBES))


class Turns:
    """When leads that wait for their lane ask it again, by the last published view of the lane.

    The worker writes events for a lead that comes in vain. So none comes before its lane takes leads: the replay
    process looks at the view in its place, when the hold may end, and at the latest after 2 s. The leads of a lane look
    one by one at the rate of replays, however many wait. If the hold has ended in
    time only, the next lead is a probe: the worker has kept one, and if its answer does not change the view within 1 s,
    one lead a second comes. Leads that were probes before come a little later, so that it is another one each time.
    """

    def __init__(self, rates_per_s: Mapping[str, float], share: float = 1.0) -> None:
        self._rates_per_s = rates_per_s
        self._share = share
        self._holds: dict[str, dict[str, _Hold]] = {}

    def apply(self, view: LaneView) -> None:
        """Take in the view of a lane."""
        before = self._holds.get(view.workspace, {})
        now = self._holds[view.workspace] = {alias: before.get(alias) or _Hold() for alias in view.turns}
        for alias, until_ms in view.turns.items():
            now[alias].until_ms = until_ms

    def turn_ms(self, workspace: str, envelope: Envelope, now_ms: int) -> int:
        """Return when a lead that is due may ask its lane, epoch ms, and count it. Not in the future: now."""
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
