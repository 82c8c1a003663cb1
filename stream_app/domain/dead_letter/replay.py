"""When a lead that failed or was held back comes again: backoff, and the delay tier that carries it there.

A delay tier is a topic whose records all wait for the same time from their append, so its head is always the next one
due and nothing has to be kept in memory. A record goes from tier to shorter tier until it is due: never early, and late
by less than the shortest tier, so that leads come back in the order in which they are due, whatever tiers there are.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

from stream_app.domain.delivery.envelope import RETURNS, Envelope
from stream_app.domain.delivery.outcome import UNREACHABLE


class ReplayPolicy(msgspec.Struct, frozen=True):
    """`max_replays` a rewind epoch; backoff of replay n is `base_s * factor**(n-1)` to `cap_s`, half of it jitter.

    unreachable_base_s  the base where there was no connection at all: nothing that was answered needs so long.
    max_returns  how often a lead may come back in all, over every rewind, before it is parked as a loop.
    rate_share   the part of a lane's rate at which replays are brought back at most.
    """

    max_replays: int = 3
    max_returns: int = 30
    rate_share: float = 0.5
    base_s: float = 10.0
    unreachable_base_s: float = 30.0
    factor: float = 4.0
    cap_s: float = 3600.0
    tiers_s: tuple[int, ...] = (2, 10, 60, 600, 3600)


def replay_due_ms(policy: ReplayPolicy, reason: str, replay: int, now_ms: int, rand: float) -> int:
    """Epoch ms at which replay number `replay` (1, 2, ...) of what failed for `reason` is due; `rand` from 0 to 1."""
    base_s = policy.unreachable_base_s if reason in UNREACHABLE else policy.base_s
    delay_s = min(policy.cap_s, base_s * policy.factor ** max(0, replay - 1))
    return now_ms + int(delay_s * 1000 * (0.5 + rand / 2))


def tier_s(policy: ReplayPolicy, rest_ms: int) -> int | None:
    """The next tier for what is left of a delay: the longest that is longer by less than the shortest. None: it is due.

    After a tier it is asked for again with what is left then.
    """
    if rest_ms <= 0:
        return None
    late_ms = policy.tiers_s[0] * 1000
    return next(tier for tier in reversed(policy.tiers_s) if tier * 1000 < rest_ms + late_ms)


def returning(envelope: Envelope, place: str, epoch: int = 0) -> Envelope | None:
    """The envelope under which the dead letter or deferred lead at `place` comes back; None: it waits for a human.

    A failed one counts a replay; when it was written before the present rewind `epoch`, it is the first of that epoch
    and due at once. A deferred one counts none. One without a disposition was written by another program, and nobody
    knows whether it failed or was poison: it goes down the line as an input (`as_input`).
    """
    if envelope.way in RETURNS:
        return envelope.onward()
    if not envelope.disposition:
        return as_input(place)
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


def as_input(place: str) -> Envelope:
    """Without an origin a record begins a story of its own, with all defaults; copies of one letter are one lead."""
    return Envelope(redriven_from=place)


def goes_on(envelope: Envelope) -> bool:
    """Whether a letter comes back into its own story. What was refused for good (poison, policy) has ended."""
    return envelope.disposition == "failed" or (not envelope.disposition and envelope.way == "deferred")


def redriven(envelope: Envelope, place: str) -> Envelope:
    """The envelope under which an operator sends the letter at `place` back, with a fresh set of replays.

    Its `seq` is the proof that nothing has happened to the lead since: the line takes it only while the letter is the
    last word on its lead, so that sending one twice does nothing twice. A deferred one only comes sooner than it is
    due. One whose story has ended goes as an input of its own.
    """
    if envelope.way == "deferred" and goes_on(envelope):
        return envelope.onward(not_before_ms=0, redriven_from=place)
    if not goes_on(envelope):
        return msgspec.structs.replace(as_input(place), trace_id=envelope.trace_id)
    return envelope.onward(
        way="redriven",
        replay=1,
        attempt=0,
        disposition="",
        not_before_ms=0,
        redriven_from=place,
    )


class Came(msgspec.Struct, frozen=True, omit_defaults=True):
    """How far one rewind epoch has come on a partition: what the group has committed, as it was recorded.

    skip_to  where Kafka had forgotten the group's offset, so that it began anew: records before it are no news.
    """

    offset: int
    skip_to: int = 0


class Begin(msgspec.Struct, frozen=True):
    """How the replay app begins with a partition of the dead letters.

    epoch    of the rewinds.
    record   what is to be recorded for it before anything is published; None: nothing new.
    skip_to  records before it were brought back already, though the group has forgotten so.
    seen_to  records before it were brought back at least once, in whatever epoch.
    rewound, forgotten  what was found, for the log.
    """

    epoch: int = 0
    record: Came | None = None
    skip_to: int = 0
    seen_to: int = 0
    rewound: bool = False
    forgotten: bool = False


def begin(recorded: Mapping[int, Came], committed: int | None) -> Begin:
    """What the group's committed offset (None: it has none) means, given how far each epoch had come before.

    Below what the last epoch had committed: somebody has rewound the group, and a new epoch begins. At or above it: a
    plain restart. None: Kafka has forgotten it (retention of offsets), and the record stands in for it.
    """
    epoch = max(recorded, default=0)
    came = recorded.get(epoch, Came(0))
    seen_to = max((max(each.offset, each.skip_to) for each in recorded.values()), default=0)
    if committed is None and came.offset:
        # It reads from the beginning now and will commit so; that is not to look like a rewind.
        again = Came(0, max(came.offset, came.skip_to))
        return Begin(epoch, again, again.skip_to, seen_to, forgotten=True)
    if committed is not None and committed < came.offset:
        return Begin(epoch + 1, Came(committed), 0, seen_to, rewound=True)
    return Begin(epoch, None, came.skip_to, seen_to)


_BURST_MS: Final = 1_000


class Pace:
    """Each workspace's replays at `share` of its rate, a second's worth at once after a rest.

    rates_per_s  by workspace, each above 0; they may change meanwhile.

    A letter whose key names no workspace may be any one's, as its value says to the line: it goes at the lowest rate.
    """

    def __init__(self, rates_per_s: Mapping[str, float], share: float = 1.0) -> None:
        self._rates_per_s = rates_per_s
        self._share = share
        self._next_ms: dict[str, float] = {}

    def turn_ms(self, workspace: str, now_ms: int) -> int:
        """When the next one may go: epoch ms, not after now when it may go at once. It is taken to go then."""
        rate_per_s = self._rates_per_s.get(workspace)
        if rate_per_s is None:
            workspace, rate_per_s = "", min(self._rates_per_s.values(), default=10.0)
        turn_ms = max(self._next_ms.get(workspace, 0.0), now_ms - _BURST_MS)
        self._next_ms[workspace] = turn_ms + 1000 / (rate_per_s * self._share)
        return int(turn_ms)
