"""Where the time of a record went: what it waited for, and which limit holds it now.

The events of its history say that. An event begins a wait and the next one ends it, so the waits
are as long as the history. Traces name their spans by the same kinds.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Final, Protocol

import msgspec

from stream_app.domain.lane.holds import RATE, RATE_LIMITED, WaitKind, ends_by_probe, reason_of
from stream_app.domain.lane.lane import LANE_BUSY
from stream_app.domain.plan import Actor
from stream_app.domain.views.lane import LaneView

WAIT_NAMES: Final[Mapping[WaitKind, str]] = {
    "queue": "queue on Kafka",
    "rate": "rate of the lane",
    "budget": "budget",
    "pause": "pause or webhook",
    "outage": "outage of Clay",
    "POST": "POST to Clay",
    "retry": "next attempt",
    "callback": "Clay's answer",
    "replay": "replay",
    "person": "a person",
    "rest": "nothing: at rest",
}
"""What the record waited for, in words."""

_OF_STATUS: Final[Mapping[str, WaitKind]] = {
    "rerouted": "queue",
    "received": "rate",
    "replayed": "rate",
    "held_budget": "budget",
    "held_paused": "pause",
    "held_outage": "outage",
    "sending": "POST",
    "accepted": "callback",
    "callback_overdue": "callback",
    "credits_exhausted_suspected": "callback",
    "partial": "callback",
    "send_uncertain": "callback",
    "dead_lettered": "replay",
    "parked": "person",
}
_LIMITS: Final[Mapping[str, tuple[str, str]]] = {
    "rerouted": ("", "a worker of its home partition has not taken it yet"),
    "received": (RATE, "its worker has it, and its turn has not come yet"),
    "replayed": (RATE, "it has come back, and its turn has not come yet"),
    "sending": ("", "the request to Clay is under way"),
    "refused": ("retry_delay", "Clay did not take it, and it is sent again"),
    "accepted": ("callback_deadline", "Clay has it, and has not called back yet"),
    "callback_overdue": ("callback_grace", ""),
    "credits_exhausted_suspected": ("callback_grace", ""),
    "send_uncertain": ("uncertain_grace", ""),
    "dead_lettered": ("replay_delay", ""),
    "parked": ("person", ""),
}
"""Where the reason of an event does not name the limit: the limit, and its text if the event has
none.
"""


class HistoryEvent(Protocol):
    """What is used of an event of a history."""

    @property
    def at_ms(self) -> int: ...
    @property
    def status(self) -> str: ...
    @property
    def reason(self) -> str: ...
    @property
    def text(self) -> str: ...
    @property
    def due_at_ms(self) -> int | None: ...
    @property
    def run(self) -> str: ...


class RecordWait(msgspec.Struct, frozen=True):
    """A time in which a record waited.

    Attributes:
        kind: What for: `queue` (on Kafka), `rate` (its turn in the lane), `budget`, `pause` (or a
            webhook), `outage`, `POST`, `retry`, `callback`, `replay`, `person`, or `rest` if it had
            ended.
        limit: What holds it, a stable code: the reason of the hold, such as `budget_credits_day` or
            `breaker_open`, or the setting that ends the wait, such as `callback_deadline`; '' if
            nothing does.
        text: The limit in words.
        begin_ms: Epoch ms.
        end_ms: Null: it waits now.
        until_ms: When the limit ends, if that is known, epoch ms. With `until_probe` it is when the
            next probe of its lane goes, which ends the hold if it succeeds.
        until_probe: True if a probe ends it.
    """

    kind: WaitKind
    limit: str
    text: str
    begin_ms: int
    end_ms: int | None
    until_ms: int | None
    until_probe: bool = False

    @property
    def name(self) -> str:
        """What the record waited for, in words."""
        return WAIT_NAMES[self.kind]

    def length_ms(self, now_ms: int) -> int:
        """Return how long it is, until now if it has not ended."""
        return max(0, (now_ms if self.end_ms is None else self.end_ms) - self.begin_ms)


def kind_of(status: str, reason: str) -> WaitKind:
    """Return what a record waits for after an event."""
    if status == "deferred":  # it waits for what its lane waits for
        return "rate" if reason == LANE_BUSY else reason_of(reason).waits_for
    if status == "refused":
        return "rate" if reason == "http_429" else "retry"
    return _OF_STATUS.get(status, "rest")


def waits(events: Sequence[HistoryEvent], *, moves: bool, queued_ms: int = 0) -> list[RecordWait]:
    """Return the waits of a history in sequence, without gaps.

    `moves`: the record is not at rest, so it waits now. `queued_ms`: how long it was on Kafka
        before its first event.
    """
    timeline: list[RecordWait] = []
    if queued_ms > 0 and events:
        timeline.append(
            RecordWait("queue", "", "", events[0].at_ms - queued_ms, events[0].at_ms, None),
        )
    # Two workers with different clocks write the events of a record that was rerouted.
    begin_ms = events[0].at_ms if events else 0
    for event, after in pairwise(events):
        if after.at_ms > begin_ms:
            _append(timeline, _after(event, begin_ms, after.at_ms))
            begin_ms = after.at_ms
    if events and moves:
        _append(timeline, _after(events[-1], begin_ms, None))
    return timeline


def held_now(wait: RecordWait, destination: str, view: LaneView, now_ms: int) -> RecordWait:
    """Return a wait of now with what its lane says of it.

    The event is as old as the hold, and the lane knows more.
    """
    if wait.end_ms is not None or wait.kind not in ("budget", "pause", "outage"):
        return wait
    view = view.at(now_ms)
    holds = [(view.holds, view.says, view.until_ms)] if view.holds else []
    holds += [
        (part.holds, part.says, part.until_ms)
        for part in view.partly
        if destination in part.destinations
    ]
    if not holds:
        if view.at_ms <= wait.begin_ms:  # the lane has published nothing since
            return wait
        text = "its lane runs again, and its turn has not come yet"
        return msgspec.structs.replace(
            wait,
            limit=RATE,
            text=text,
            until_ms=None,
            until_probe=False,
        )
    limit, text, until_ms = next((hold for hold in holds if hold[0] == wait.limit), holds[0])
    return msgspec.structs.replace(
        wait,
        limit=limit,
        text=text,
        until_ms=until_ms or None,
        until_probe=ends_by_probe(limit),
    )


RESUME_REPLAYS: Final = "stream-app replay resume"
"""What lifts a pause of all replays."""


def replays_paused(by: Actor) -> str:
    """Return what holds dead letters and deferred leads while an operator has paused replays."""
    return f"replays are paused by {by.who}{f': {by.why}' if by.why else ''}"


def held_by_pause(wait: RecordWait, by: Actor) -> RecordWait:
    """Return the wait of now of a record, while all replays are paused.

    The record is one that the replay process brings back.
    """
    return msgspec.structs.replace(
        wait,
        kind="replay",
        limit="replay_paused",
        text=replays_paused(by),
        until_ms=None,
        until_probe=False,
    )


def sums(timeline: Sequence[RecordWait], now_ms: int) -> list[tuple[WaitKind, int, int]]:
    """Return the length in ms and the number of the waits of each kind.

    The kinds that occur are in the order of their first waits.
    """
    lengths: defaultdict[WaitKind, list[int]] = defaultdict(list)
    for wait in timeline:
        lengths[wait.kind].append(wait.length_ms(now_ms))
    return [(kind, sum(times), len(times)) for kind, times in lengths.items()]


def _after(event: HistoryEvent, begin_ms: int, end_ms: int | None) -> RecordWait:
    kind = kind_of(event.status, event.reason)
    limit, text = _LIMITS.get(event.status, (event.reason, ""))
    if event.run:
        text = "Clay has it, and its run has not finished yet"
    if kind == "rate" and event.status == "refused":
        limit = RATE_LIMITED
    return RecordWait(
        kind,
        limit,
        event.text or text,
        begin_ms,
        end_ms,
        event.due_at_ms if end_ms is None else None,
        # A deferred lead comes back at its time, whatever holds its lane.
        until_probe=event.status == reason_of(limit).status and ends_by_probe(limit),
    )


def _append(timeline: list[RecordWait], wait: RecordWait) -> None:
    """Append a wait, or let the last one go on if it is for the same limit."""
    if timeline and (timeline[-1].kind, timeline[-1].limit) == (wait.kind, wait.limit):
        wait = msgspec.structs.replace(wait, begin_ms=timeline.pop().begin_ms)
    timeline.append(wait)
