"""Detects missing callbacks: the webhook still answers 2xx, but no callback comes.

Each lead that is sent is then wasted. It is lost in the table, because of its credits, auto-run, a
run condition, or a limit of rows; a webhook that takes no leads would say so.

Overdue leads and callbacks are counted by destination, because auto-run is a setting of one table.
Time in which the partition had no owner does not count as waiting.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Final, NamedTuple

import msgspec

from stream_app.domain.model.addresses import DestinationKind
from stream_app.domain.model.numbers import TimeMs, Whole
from stream_app.domain.model.ranges import Policy, Range
from stream_app.domain.model.text import count

NO_CALLBACKS: Final = "no_callbacks"  # the reason of the suspension that it leads to
_GAP_MS: Final = 5_000  # a shorter absence is no more than a rebalance
_GAPS_KEPT: Final = 8
# Rows that a table has at most, by default (docs/reference/clay.md, "Inbound").
_MAX_ROWS: Final = 50_000
_NEARLY: Final = 0.9


class CallbackHealthPolicy(Policy, frozen=True):
    """How many missing callbacks suspend a destination.

    Attributes:
        overdue: How many overdue leads suspend the destination, if no callback has come since the
            oldest of them was accepted.
    """

    overdue: Annotated[int, Range(1, 10_000)] = 5


class DestinationCallbacks(msgspec.Struct, frozen=True, omit_defaults=True):
    """The callbacks of one destination. Times are epoch ms."""

    last_ms: TimeMs = 0  # the last callback that settled a lead
    overdue: Whole = 0  # overdue leads that were accepted after it
    oldest_ms: TimeMs = 0  # when the oldest of them was accepted
    reported_ms: TimeMs = 0  # when missing callbacks were reported; 0 if they were not
    # When the last report that has ended was made; leads accepted before it prove nothing.
    ignored_until_ms: TimeMs = 0


class CallbackHealth(msgspec.Struct, frozen=True, omit_defaults=True):
    """The callbacks of a lane. Times are epoch ms."""

    owned_ms: TimeMs = 0  # the last time at which the partition is known to have had an owner
    gaps: tuple[tuple[Whole, Whole], ...] = ()  # (from, to) of the last times without an owner
    destinations: dict[str, DestinationCallbacks] = {}


def of(state: CallbackHealth, destination: str) -> DestinationCallbacks:
    """Return the callbacks of a destination."""
    return state.destinations.get(destination) or DestinationCallbacks()


def record_callback(state: CallbackHealth, destination: str, now_ms: int) -> CallbackHealth:
    """Return the state after a callback settled a lead of the destination."""
    ignored_until_ms = of(state, destination).ignored_until_ms
    return _with(
        state,
        destination,
        DestinationCallbacks(now_ms, ignored_until_ms=ignored_until_ms),
    )


def record_overdue(state: CallbackHealth, destination: str, accepted_ms: int) -> CallbackHealth:
    """Return the state with one more overdue lead of the destination.

    Clay accepted that lead at `accepted_ms` (epoch ms).
    """
    before = of(state, destination)
    if accepted_ms <= max(before.last_ms, before.ignored_until_ms):
        return state
    oldest_ms = min(before.oldest_ms or accepted_ms, accepted_ms)
    return _with(
        state,
        destination,
        msgspec.structs.replace(before, overdue=before.overdue + 1, oldest_ms=oldest_ms),
    )


def are_missing(policy: CallbackHealthPolicy, state: CallbackHealth, destination: str) -> bool:
    """Return True if missing callbacks must be reported."""
    callbacks = of(state, destination)
    return callbacks.overdue >= policy.overdue and not callbacks.reported_ms


def record_report(state: CallbackHealth, destination: str, now_ms: int) -> CallbackHealth:
    """Return the state after missing callbacks were reported."""
    return _with(
        state,
        destination,
        msgspec.structs.replace(of(state, destination), reported_ms=now_ms),
    )


def reset_reported(state: CallbackHealth) -> CallbackHealth:
    """Return the state after the suspension ended. Leads from before the report prove nothing."""
    reset = {
        name: DestinationCallbacks(seen.last_ms, ignored_until_ms=seen.reported_ms)
        if seen.reported_ms
        else seen
        for name, seen in state.destinations.items()
    }
    return msgspec.structs.replace(state, destinations=reset)


def still_missing(state: CallbackHealth, destination: str) -> list[str]:
    """Return the other destinations that were reported and have not called back since."""
    return sorted(
        name
        for name, seen in state.destinations.items()
        if seen.reported_ms and name != destination
    )


def missing_text(missing: Sequence[str], destination: str) -> str:
    """Return the text about destinations without callbacks after another one has called back."""
    return (
        f"no callback of {' and '.join(missing)} comes, while {destination} has called back, "
        "with the same "
        "credits: look at auto-run and the HTTP column there"
    )


def record_owner(state: CallbackHealth, now_ms: int) -> CallbackHealth:
    """Record that there is an owner.

    Save it often while leads wait: a successor counts a gap from this time on.
    """
    return msgspec.structs.replace(state, owned_ms=max(now_ms, state.owned_ms))


def taken_over(state: CallbackHealth, now_ms: int) -> CallbackHealth:
    """Record that a new owner starts."""
    gaps = state.gaps
    if state.owned_ms and now_ms - state.owned_ms > _GAP_MS:
        gaps = (*gaps, (state.owned_ms, now_ms))[-_GAPS_KEPT:]
    return msgspec.structs.replace(state, owned_ms=now_ms, gaps=gaps)


def unowned_ms(state: CallbackHealth, since_ms: int) -> int:
    """Return for how many ms since then there was no owner."""
    return sum(max(0, end_ms - max(begin_ms, since_ms)) for begin_ms, end_ms in state.gaps)


def causes(
    state: CallbackHealth,
    destination: str,
    submitted: int,
    spent: int,
    *,
    kind: DestinationKind,
    keeps_rows: bool,
) -> str:
    """Return the likely causes of missing callbacks in order, with their evidence and what to do.

    Args:
        state: What is known of the callbacks.
        destination: The destination whose callbacks are missing.
        submitted: What this lane has submitted to the table, by all webhooks of its pool.
        spent: The credits that this lane has booked in this month.
        kind: What it starts. A workflow and a routine have no rows and no auto-run, and the results
            of a routine are asked for.
        keeps_rows: False if the table deletes its rows by itself.
    """
    callbacks = of(state, destination)
    others = sorted(
        name for name, other in state.destinations.items() if other.last_ms > callbacks.oldest_ms
    )
    words = _WORDS[kind]
    last = f"{words.last} {_utc(callbacks.last_ms)}" if callbacks.last_ms else words.never
    last += f", while {' and '.join(others)} did since, with the same credits" if others else ""
    likely = [
        f"the credits of this workspace are used up (booked here this month: {spent}): top "
        f"up, then run the {'rows' if kind == 'table' else 'leads'} in Clay again, for nothing "
        "resumes by itself",
        words.broken.format(destination=destination, last=last),
    ]
    if others:  # which have the same credits
        likely.reverse()
    if kind == "table":
        counted = (
            f"{count(submitted, 'was', 'were')} submitted here" if submitted else "no count yet"
        )
        full = (
            f"the table has as many rows as it may have, {_MAX_ROWS:,} rows by default and others "
            f"by plan ({counted}), so Clay takes the leads and makes no rows: delete rows"
        )
        likely.insert(0 if keeps_rows and submitted >= _NEARLY * _MAX_ROWS else 2, full)
    if kind != "routine":  # whose results are asked for
        likely.append("Clay cannot reach the gateway: `stream-app doctor` asks its public address")
    numbered = "; ".join(f"{number}. {cause}" for number, cause in enumerate(likely, 1))
    overdue = count(callbacks.overdue, f"lead of {destination} is", f"leads of {destination} are")
    return (
        f"{overdue} overdue and no {words.answer} of it came since {_utc(callbacks.oldest_ms)}, "
        f"while {words.taker} takes every lead. Likely, in this order: {numbered}"
    )


class _Words(NamedTuple):
    """How a kind of destination answers, and what breaks its answers, in words."""

    answer: str
    taker: str
    last: str
    never: str
    broken: str


_WORDS: Final[Mapping[DestinationKind, _Words]] = {
    "table": _Words(
        answer="callback",
        taker="its webhook",
        last="it called back last at",
        never="it has never called back",
        broken="auto-run is off in the table of {destination}, or a run condition keeps its HTTP "
        "column from running ({last}; its newest rows in Clay show whether they ran, without a "
        "filter of the view): switch it on",
    ),
    "workflow": _Words(
        answer="callback",
        taker="its webhook",
        last="it called back last at",
        never="it has never called back",
        broken="a step of the workflow of {destination} fails, or its HTTP step is not reached "
        "({last}; its newest runs in Clay show where they ended): repair it",
    ),
    "routine": _Words(
        answer="result",
        taker="Clay",
        last="its last result came at",
        never="it has never had a result",
        broken="a step of the routine of {destination} hangs, or a run condition keeps its step "
        '"Send data back" from running ({last}; its newest runs in Clay show where they stopped): '
        "repair it",
    ),
}


def _utc(at_ms: int) -> str:
    return f"{datetime.fromtimestamp(at_ms / 1000, UTC):%Y-%m-%d %H:%M:%S} UTC"


def _with(
    state: CallbackHealth,
    destination: str,
    callbacks: DestinationCallbacks,
) -> CallbackHealth:
    return msgspec.structs.replace(
        state,
        destinations={**state.destinations, destination: callbacks},
    )
