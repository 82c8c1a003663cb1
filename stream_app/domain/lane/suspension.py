"""A lane that Clay turned away (token, payment, webhook gone): it stops, says why, and tries now and then.

No lead is lost by it: they wait in Kafka. One probe at a time goes out when due; its success lifts the stop.
"""

from collections.abc import Sequence

import msgspec

from stream_app.domain.lane.bounds import Wait, no_later, out_of_order, out_of_range


class SuspensionPolicy(msgspec.Struct, frozen=True):
    """First probe after `probe_s`, twice as long after each that is turned away again, up to `probe_cap_s`.

    `probe_lease_s`: a probe without an answer for so long is lost; longer than the longest request.
    """

    probe_s: float = 300.0
    probe_cap_s: float = 7_200.0
    probe_lease_s: float = 120.0


class Suspension(msgspec.Struct, frozen=True, omit_defaults=True):
    """Why a lane stands still. `reason` is a code, `text` plain words; `backoff_ms` the present interval of
    probes.

    `probe` is the number of the last probe, whose lease runs until `lease_until_ms` (0: none under way).
    `destination` is the one that was turned away, `setup_id` what its token and webhooks were then; `alone`: only its
    leads are held; else all but those of the destinations `apart`.
    """

    reason: str
    text: str
    since_ms: int
    probe_at_ms: int
    backoff_ms: int
    probe: int = 0
    lease_until_ms: int = 0
    destination: str = ""
    setup_id: str = ""
    alone: bool = False
    apart: tuple[str, ...] = ()


class Probe(msgspec.Struct, frozen=True):
    """Leave for one call through a stop. `since_ms`: of the stop."""

    number: int
    since_ms: int = 0


def problems(policy: SuspensionPolicy) -> list[str]:
    """What is wrong with the policy, one line a key."""
    return out_of_range(policy, probe_s=(1, 86_400), probe_cap_s=(1, 86_400), probe_lease_s=(1, 3_600)) + out_of_order(
        policy, "probe_s", "probe_cap_s"
    )


def halt(
    policy: SuspensionPolicy, state: Suspension | None, fresh: Suspension, probe: Probe | None = None
) -> Suspension:
    """The stop after a call was turned away; `fresh`: as it would be now (see `begin`). Only its own probe lengthens
    it: others in flight say nothing new. Where one destination alone is held and another one is turned away, all are.
    """
    if state is None:
        return fresh
    if not holds(state, fresh.destination):
        return msgspec.structs.replace(fresh, alone=False)
    if not _is_current(state, probe):
        return state
    later = put_off(policy, state, fresh.since_ms)
    return msgspec.structs.replace(
        fresh,
        since_ms=state.since_ms,
        probe_at_ms=later.probe_at_ms,
        backoff_ms=later.backoff_ms,
        probe=state.probe,
        alone=state.alone and fresh.reason == state.reason,
    )


def begin(
    policy: SuspensionPolicy,
    reason: str,
    text: str,
    now_ms: int,
    destination: str = "",
    setup_id: str = "",
    alone: bool = False,
) -> Suspension:
    """A new stop, with its first probe after the shortest interval."""
    wait_ms = int(policy.probe_s * 1000)
    return Suspension(reason, text, now_ms, now_ms + wait_ms, wait_ms, 0, 0, destination, setup_id, alone)


def holds(state: Suspension | None, destination: str) -> bool:
    """Whether leads of this destination are held by it."""
    if state is None:
        return False
    return state.destination == destination if state.alone else destination not in state.apart


def probe_now(state: Suspension, setup_id: str, now_ms: int) -> Suspension:
    """The cause may be mended: the next probe is due at once."""
    return msgspec.structs.replace(state, setup_id=setup_id, probe_at_ms=now_ms)


def permit(policy: SuspensionPolicy, state: Suspension, now_ms: int) -> tuple[Suspension, Probe | Wait]:
    """May a probe start now? The state is to be kept whatever the answer; the probe's lease is in it."""
    lease_ms = int(policy.probe_lease_s * 1000)
    probe_at_ms = no_later(state.probe_at_ms, now_ms, int(policy.probe_cap_s * 1000))
    lease_until_ms = no_later(state.lease_until_ms, now_ms, lease_ms)
    due_ms = max(probe_at_ms, lease_until_ms)
    if now_ms < due_ms:
        kept = msgspec.structs.replace(state, probe_at_ms=probe_at_ms, lease_until_ms=lease_until_ms)
        return kept, Wait(due_ms)
    lease_until_ms = now_ms + lease_ms
    state = msgspec.structs.replace(state, probe=state.probe + 1, lease_until_ms=lease_until_ms)
    return state, Probe(state.probe, state.since_ms)


def put_off(policy: SuspensionPolicy, state: Suspension, now_ms: int) -> Suspension:
    """After its probe proved nothing: the next one after twice the interval."""
    backoff_ms = min(2 * state.backoff_ms, int(policy.probe_cap_s * 1000))
    return msgspec.structs.replace(state, probe_at_ms=now_ms + backoff_ms, backoff_ms=backoff_ms, lease_until_ms=0)


def let_go(
    policy: SuspensionPolicy, state: Suspension, destination: str, others: Sequence[str], text: str, now_ms: int
) -> Suspension:
    """After a probe proved that one destination is well: it goes on. A single one of `others` is held alone.

    How that one is set up is not known here: as after a change of it, a probe goes at once when it is.
    """
    wait_ms, alone = int(policy.probe_s * 1000), len(others) == 1
    return msgspec.structs.replace(
        state,
        text=text,
        destination=others[0],
        setup_id="",
        probe_at_ms=min(state.probe_at_ms, now_ms + wait_ms),
        backoff_ms=wait_ms,
        alone=alone,
        apart=() if alone else tuple(sorted({*state.apart, destination})),
    )


def lift(state: Suspension, probe: Probe | None) -> Suspension | None:
    """None when this success is the probe's: the stop is over. A success from before it changes nothing."""
    return None if _is_current(state, probe) else state


def release(state: Suspension, probe: Probe | None, now_ms: int) -> Suspension:
    """Frees the lease of a probe that ended without a verdict; the next is due after the same interval."""
    if not _is_current(state, probe):
        return state
    return msgspec.structs.replace(state, probe_at_ms=now_ms + state.backoff_ms, lease_until_ms=0)


def _is_current(state: Suspension, probe: Probe | None) -> bool:
    if probe is None or probe.since_ms != state.since_ms:
        return False
    return probe.number == state.probe and state.lease_until_ms > 0
