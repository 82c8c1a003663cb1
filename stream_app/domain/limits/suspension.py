"""Suspends a lane that Clay refuses, or whose leads become dead letters in a row.

No lead is lost: they wait on Kafka. One probe at a time is sent when it is due. Its success lifts
the suspension. Where the poll of a run was refused, polls go on, because results are paid for. One
of them is the probe when it is due, since it costs nothing, and any that succeeds lifts the
suspension, since it may be the last.

The flood guard counts dead letters, because many in a row have a cause outside the leads: a column
was renamed in Clay, or a producer sends wrong fields or a destination that does not exist. Without
the guard the whole topic would end in `leads.dlq`, and each lead would have to be replayed from
there.
"""

from collections.abc import Sequence
from typing import Annotated, ClassVar, Final

import msgspec

from stream_app.domain.limits.window import WindowTotals
from stream_app.domain.model.numbers import TimeMs, Whole
from stream_app.domain.model.ranges import Policy, Range, Wait, exact, no_later
from stream_app.domain.model.text import count

FLOOD: Final = "flood_guard"  # the reason of a suspension by the flood guard
_MIN_LEADS: Final = 100


class SuspensionPolicy(Policy, frozen=True):
    """When a suspended lane sends probes.

    Attributes:
        probe_s: The delay of the first probe. It doubles with each probe that is refused.
        probe_cap_s: The longest delay of a probe.
        probe_lease_s: A probe without a result counts as lost after this time, which must be longer
            than the longest request.
    """

    ORDERED: ClassVar = (("probe_s", "probe_cap_s"),)

    probe_s: Annotated[float, Range(1, 86_400)] = 300.0
    probe_cap_s: Annotated[float, Range(1, 86_400)] = 7_200.0
    probe_lease_s: Annotated[float, Range(1, 3_600)] = 120.0


class Suspension(msgspec.Struct, frozen=True, omit_defaults=True):
    """Why a lane is suspended. Times are epoch ms.

    Attributes:
        reason: A stable code.
        text: The reason in words.
        since_ms: Since when.
        probe_at_ms: When the next probe is due.
        backoff_ms: The present interval of probes, in ms.
        probe: The number of the last probe.
        lease_until_ms: When its lease ends; 0: none in flight.
        destination: The destination that was refused.
        setup_id: Of its token and webhooks at that time.
        one_destination: True: only its leads are held. False: all but those of `exempt`.
        exempt: Destinations that are not held.
        by_poll: True if only polls of runs were refused, so that a poll shows that the cause is
            gone.
    """

    reason: str
    text: str
    since_ms: TimeMs
    probe_at_ms: TimeMs
    backoff_ms: TimeMs
    probe: Whole = 0
    lease_until_ms: TimeMs = 0
    destination: str = ""
    setup_id: str = ""
    one_destination: bool = False
    exempt: tuple[str, ...] = ()
    by_poll: bool = False


class Probe(msgspec.Struct, frozen=True):
    """Permission for one call through a suspension. `since_ms`: of the suspension."""

    number: int
    since_ms: int = 0


def suspend(
    policy: SuspensionPolicy,
    state: Suspension | None,
    fresh: Suspension,
    probe: Probe | None = None,
) -> Suspension:
    """Return the suspension after a refused call.

    `fresh` is a new one for this refusal (see `begin`).

    Only its own probe makes the interval longer: other calls in flight add no information, except
    that a refused lead shows that more than polls are refused. If only one destination is held and
    another one is refused, all are held.
    """
    if state is None:
        return fresh
    by_poll = state.by_poll and fresh.by_poll
    if not holds(state, fresh.destination):
        return msgspec.structs.replace(fresh, one_destination=False, by_poll=by_poll)
    if not _is_current(state, probe):
        return state if by_poll == state.by_poll else msgspec.structs.replace(state, by_poll=False)
    later = postpone_probe(policy, state, fresh.since_ms)
    return msgspec.structs.replace(
        fresh,
        since_ms=state.since_ms,
        probe_at_ms=later.probe_at_ms,
        backoff_ms=later.backoff_ms,
        probe=state.probe,
        one_destination=state.one_destination and fresh.reason == state.reason,
        by_poll=by_poll,
    )


def begin(
    policy: SuspensionPolicy,
    reason: str,
    text: str,
    now_ms: int,
    destination: str = "",
    setup_id: str = "",
    one_destination: bool = False,
    by_poll: bool = False,
) -> Suspension:
    """Return a new suspension with its first probe after the shortest interval."""
    wait_ms = int(policy.probe_s * 1000)
    return Suspension(
        reason,
        text,
        now_ms,
        now_ms + wait_ms,
        wait_ms,
        0,
        0,
        destination,
        setup_id,
        one_destination,
        by_poll=by_poll,
    )


def holds(state: Suspension | None, destination: str) -> bool:
    """Return True if it holds leads of this destination."""
    if state is None:
        return False
    return (
        state.destination == destination
        if state.one_destination
        else destination not in state.exempt
    )


def due_ms(state: Suspension) -> int:
    """Return when the next probe may go, epoch ms: when the lease of the last one has ended."""
    return max(state.probe_at_ms, state.lease_until_ms)


def probe_now(state: Suspension, setup_id: str, now_ms: int) -> Suspension:
    """Return the suspension with a probe due at once, because the cause may be repaired."""
    return msgspec.structs.replace(state, setup_id=setup_id, probe_at_ms=now_ms)


def permit(
    policy: SuspensionPolicy,
    state: Suspension,
    now_ms: int,
) -> tuple[Suspension, Probe | Wait]:
    """Decide whether a probe may start now.

    Keep the returned state in any case: it holds the lease of the probe.
    """
    lease_ms = int(policy.probe_lease_s * 1000)
    probe_at_ms = no_later(state.probe_at_ms, now_ms, int(policy.probe_cap_s * 1000))
    lease_until_ms = no_later(state.lease_until_ms, now_ms, lease_ms)
    due_ms = max(probe_at_ms, lease_until_ms)
    if now_ms < due_ms:
        return msgspec.structs.replace(
            state,
            probe_at_ms=probe_at_ms,
            lease_until_ms=lease_until_ms,
        ), Wait(due_ms)
    lease_until_ms = now_ms + lease_ms
    state = msgspec.structs.replace(state, probe=state.probe + 1, lease_until_ms=lease_until_ms)
    return state, Probe(state.probe, state.since_ms)


def postpone_probe(policy: SuspensionPolicy, state: Suspension, now_ms: int) -> Suspension:
    """Return the suspension after a probe that proved nothing.

    The next probe is due after twice the interval.
    """
    backoff_ms = min(2 * state.backoff_ms, int(policy.probe_cap_s * 1000))
    return msgspec.structs.replace(
        state,
        probe_at_ms=now_ms + backoff_ms,
        backoff_ms=backoff_ms,
        lease_until_ms=0,
    )


def exempt(
    policy: SuspensionPolicy,
    state: Suspension,
    destination: str,
    others: Sequence[str],
    text: str,
    now_ms: int,
) -> Suspension:
    """Return the suspension without a destination that a probe proved healthy.

    If `others` is a single one, only that one is held. Its setup is not known here, so a probe is
    sent at once when it is known, as after a change of the setup.
    """
    wait_ms = int(policy.probe_s * 1000)
    one_destination = len(others) == 1
    return msgspec.structs.replace(
        state,
        text=text,
        destination=others[0],
        setup_id="",
        probe_at_ms=min(state.probe_at_ms, now_ms + wait_ms),
        backoff_ms=wait_ms,
        one_destination=one_destination,
        exempt=() if one_destination else tuple(sorted({*state.exempt, destination})),
    )


def lift(state: Suspension, probe: Probe | None) -> Suspension | None:
    """Return None if this success is the present probe's. Any other success changes nothing."""
    return None if _is_current(state, probe) else state


def release_probe(state: Suspension, probe: Probe | None, now_ms: int) -> Suspension:
    """Free the lease of a probe that ended without a verdict.

    The next one is due after the same interval.
    """
    if not _is_current(state, probe):
        return state
    return msgspec.structs.replace(state, probe_at_ms=now_ms + state.backoff_ms, lease_until_ms=0)


def _is_current(state: Suspension, probe: Probe | None) -> bool:
    if probe is None or probe.since_ms != state.since_ms:
        return False
    return probe.number == state.probe and state.lease_until_ms > 0


class FloodGuardPolicy(Policy, frozen=True):
    """How many dead letters suspend a lane.

    Attributes:
        run: How many dead letters of one cause in a row suspend the lane.
        share: Which share of dead letters among the leads that ended in the last minute suspends
            it, if at least 100 ended.
    """

    run: Annotated[int, Range(1, 1_000_000)] = 50
    share: Annotated[float, Range(0.01, 1)] = 0.5


class FloodGuard(msgspec.Struct, frozen=True, omit_defaults=True):
    """The last dead letters: how many in a row had the same `cause`.

    The count begins again when Clay accepts a lead.
    """

    cause: str = ""
    run: Whole = 0


def counted(state: FloodGuard, cause: str) -> FloodGuard:
    """Return the state after one more dead letter."""
    return FloodGuard(cause, state.run + 1 if state.cause == cause else 1)


def flooded(policy: FloodGuardPolicy, state: FloodGuard, totals: WindowTotals) -> str:
    """Return why the lane must be suspended; '' if it need not.

    `totals` include the last dead letter.
    """
    if state.run >= policy.run:
        return (
            f"{count(state.run, 'lead')} in a row became dead letters for one cause ({state.cause})"
        )
    ended = totals.success + totals.dead_letters
    if ended >= _MIN_LEADS and totals.dead_letters > exact(policy.share) * ended:
        return (
            f"{totals.dead_letters} of the last {ended} leads became dead letters (the last: "
            f"{state.cause})"
        )
    return ""
