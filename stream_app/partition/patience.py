"""How long a lead may wait in its partition for its lane, and when it comes back if deferred."""

from typing import Final

import msgspec

from stream_app.clock import Now
from stream_app.domain.lane.admission import Held
from stream_app.domain.lane.lane import LANE_BUSY, Horizon, postpone, sends_per_s
from stream_app.domain.limits.concurrency import IN_FLIGHT
from stream_app.domain.model.text import count
from stream_app.domain.plan import Plan, Workspace
from stream_app.partition.in_flight import Source
from stream_app.partition.lane_queue import Kind, LaneQueue, Waiter
from stream_app.partition.lanes import Lanes

# Longer than a breaker is open by default, because then the next probe is due.
_PROBE_PATIENCE_MS: Final = 120_000


class Patience:
    """Decides which waiting leads of one partition are deferred, and until when.

    A lead waits in its partition for as long as the hold of its lane lasts, with three exceptions:
    workspaces share the partition; the leads of its workspace are to be answered at once
    (`hold = "degrade"`); or its destination fails alone, so that it would hold back leads of other
    destinations.
    """

    def __init__(self, plan: Plan, lanes: Lanes) -> None:
        self._plan = plan
        self._lanes = lanes
        self._patience_ms = int(plan.delivery.patience_s * 1000)
        self.shares: dict[Source, float] = {"retry": plan.shares.retry, "bulk": plan.shares.bulk}
        self._horizons: dict[tuple[str, bool], Horizon] = {}

    def until_ms(self, waiter: Waiter, now: Now) -> int:
        """Return until when (epoch ms) a lead may wait in a shared partition."""
        patience_ms = (
            max(self._patience_ms, _PROBE_PATIENCE_MS)
            if waiter.request.was_probe
            else self._patience_ms
        )
        # Measured on the monotonic clock, because the wall clock may have stepped meanwhile.
        waited_ms = now.boot_ms - waiter.since_ms
        return now.epoch_ms + patience_ms - waited_ms

    def wait_for_stall(self, policy: Workspace, held: Held, since_ms: int, now: Now) -> Held:
        """Let a lead wait for a short stall even if it must not wait for a held lane.

        Any answer of Clay ends a stall, so it may end at any moment.
        """
        until_ms = min(held.until_ms, since_ms + self._patience_ms)
        waits = (self._lanes.shared or policy.hold == "degrade") and now.epoch_ms < until_ms
        return Held(IN_FLIGHT, "", until_ms) if waits else held

    def impatient(self, queue: LaneQueue, kind: Kind, held: Held, now: Now) -> list[Waiter]:
        """Return the ready leads of a held kind that must not wait here."""
        degrades = self._plan.workspaces[queue.workspace].hold == "degrade"
        is_long = ends_ms(held) - now.epoch_ms > self._patience_ms
        # Where workspaces share the partition or leads are to be answered at once, a lead must not
        # wait for long, not even for a Retry-After.
        if (held.status is not None and degrades) or (is_long and (self._lanes.shared or degrades)):
            return [
                waiter for waiter in queue.ready(kind) if degrades or not waiter.request.was_probe
            ]
        if held.alone:
            return [waiter for waiter in queue.ready(kind) if not waiter.request.was_probe]
        # Bulk leads that returned must not block replays that may go.
        if held.bulk_only and is_long:
            return [waiter for waiter in queue.ready(kind) if waiter.in_flight.source == "retry"]
        return []

    def comes_too_late(self, queue: LaneQueue, waiter: Waiter, now: Now) -> bool:
        """Return True if the turn of a ready lead comes after its wait must have ended."""
        begins_ms = max(now.epoch_ms, ends_ms(queue.held[waiter.kind]))
        return begins_ms + self._queue_ms(queue, waiter) > self.until_ms(waiter, now)

    def deferred(self, queue: LaneQueue, waiter: Waiter, held: Held, now: Now) -> Held:
        """Return the outcome of a deferred lead, with about the time of its turn.

        Its turn comes after those of the leads that were deferred before.
        """
        name = queue.workspace
        at_ms = max(held.back_ms or ends_ms(held), now.epoch_ms + self._queue_ms(queue, waiter))
        per_s = sends_per_s(self._lanes.policy(name), self._lanes[name])
        key = (name, waiter.request.bulk)
        returned = waiter.in_flight.source == "retry"
        self._horizons[key], due_ms = postpone(
            self._horizons.get(key, Horizon()),
            at_ms,
            per_s,
            returned=returned,
        )
        return msgspec.structs.replace(held, defer=True, back_ms=due_ms)

    def _queue_ms(self, queue: LaneQueue, waiter: Waiter) -> int:
        """How long the lane needs for the leads before this one in the queue, in ms."""
        if not waiter.ready:
            return 0
        name = queue.workspace
        share = self.shares.get(waiter.in_flight.source, 0.0)
        per_s = sends_per_s(self._lanes.policy(name), self._lanes[name])
        return round(queue.sends_before(waiter, share) * 1000 / per_s)


def ends_ms(held: Held) -> int:
    """Return when the hold ends at the latest (epoch ms); 0 if it may end at any moment.

    A POST that is in flight may end at any moment.
    """
    return 0 if held.reason == IN_FLIGHT else held.until_ms


def why_deferred(queue: LaneQueue, waiter: Waiter) -> Held:
    """Return why a ready lead is deferred: its lane holds it, or other leads are before it."""
    held = queue.held[waiter.kind]
    return held if held.status else busy(queue)


def busy(queue: LaneQueue) -> Held:
    """Return the reason of a deferral because of the leads that wait for the lane."""
    waiting = count(len(queue), "lead of its workspace waits", "leads of its workspace wait")
    return Held(LANE_BUSY, f"{waiting} for the lane", 0)
