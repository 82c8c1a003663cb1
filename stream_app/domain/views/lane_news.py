"""What has changed from one view of a lane to the next, each change with a code and a text."""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Literal

from stream_app.domain.lane.holds import WEBHOOK_OUT, reason_of
from stream_app.domain.limits import yield_health
from stream_app.domain.limits.breaker import outage_text
from stream_app.domain.limits.webhook_quota import Webhook, WebhookLimits
from stream_app.domain.model.text import count
from stream_app.domain.plan import Change, Workspace, byline, in_force
from stream_app.domain.views.lane import LaneChange, LaneView


def news_of(
    configured: Workspace,
    before: LaneView,
    now: LaneView,
    pool: Mapping[str, WebhookLimits],
) -> Iterator[LaneChange]:
    """Yield what has changed.

    `pool`: the webhooks of the lane's destinations, with their limits.
    """
    if now.paused_by != before.paused_by:
        by = now.paused_by
        yield (
            LaneChange("paused", f"paused {byline(by)}") if by else LaneChange("resumed", "resumed")
        )
    if now.mode != before.mode:
        by_whom = f", {byline(now.mode_by)}" if now.mode_by else ""
        yield LaneChange("mode", f"the breaker's mode is {now.mode}{by_whom}")
    if now.changes != before.changes:
        yield from _changed_settings(configured, before.changes, now.changes)
    yield from _of_breakers(before, now)
    if now.health != before.health:
        text = f"{count(now.calls, 'call')}, score {now.score:g}, p95 {now.p95_ms} ms"
        yield LaneChange(f"health_{now.health}", text)
    if now.holds != before.holds:
        yield _held("held", now.holds, now.text) if now.holds else _moves(before.holds)
    if now.partly != before.partly:
        yield from _of_suspended(before, now)
    yield from _of_meters(before, now)
    if now.falls != before.falls:
        yield from _of_yields(before, now)
    yield from _of_webhooks(before, now, pool)


def _changed_settings(
    configured: Workspace,
    before: tuple[Change, ...],
    now: tuple[Change, ...],
) -> Iterator[LaneChange]:
    """Yield what operators have changed, and what is as configured again."""
    as_configured = in_force(configured, ())
    earlier = {
        change.key: change for change in before if in_force(configured, (change,)) != as_configured
    }
    for change in now:
        if change not in before:
            value = earlier[change.key].now if change.key in earlier else change.was
            yield LaneChange(
                "changed",
                f"{change.key}: {value} -> {change.now}, {byline(change.by)}",
            )
    for key in sorted(earlier.keys() - {change.key for change in now}):
        yield LaneChange(
            "changed",
            f"{key}: {earlier[key].now} -> {earlier[key].was}, as configured",
        )


def _of_breakers(before: LaneView, now: LaneView) -> Iterator[LaneChange]:
    """Yield what the breaker of the lane and those of its destinations changed."""
    if now.breaker != before.breaker:
        text = now.text or f"the circuit breaker is {now.breaker.replace('_', ' ')}"
        if now.outage is not None:
            since = datetime.fromtimestamp(now.outage.since_ms / 1000, UTC)
            text = f"{outage_text(now.outage)} since {since:%H:%M} UTC; {text}"
        yield LaneChange(f"breaker_{now.breaker}", text)
    for alias, health in now.destinations.items():
        known = before.destinations.get(alias)
        if health.breaker != (known.breaker if known is not None else "closed"):
            text = f"destination {alias}: its circuit breaker is {health.breaker.replace('_', ' ')}"
            yield LaneChange(f"destination_{health.breaker}", text)


def _of_webhooks(
    before: LaneView,
    now: LaneView,
    pool: Mapping[str, WebhookLimits],
) -> Iterator[LaneChange]:
    """Yield what became of the webhooks.

    `pool`: those of the lane's destinations, with their limits.
    """
    for webhook_id, webhook in now.webhooks.items():
        was = before.webhooks.get(webhook_id, Webhook())
        if webhook.dead and not was.dead:
            yield LaneChange("webhook_dead", f"webhook {webhook_id} is out of use: {webhook.dead}")
        limits = pool.get(webhook_id)
        if limits is None:
            continue
        if bool(webhook.suspension) != bool(was.suspension):
            text = (
                webhook.suspension.text
                if webhook.suspension
                else f"webhook {webhook_id} is in use again"
            )
            yield LaneChange(WEBHOOK_OUT if webhook.suspension else "webhook_back", text)
        if webhook.count >= limits.warn_at > was.count:
            left = count(int(limits.rotate_at) - webhook.count, "more submission")
            yield LaneChange(
                "quota_warning",
                f"webhook {webhook_id} is left after {left}: add a new one",
            )


def _of_suspended(before: LaneView, now: LaneView) -> Iterator[LaneChange]:
    """Yield what the suspension of some destinations changes; of a whole lane, `held` tells it."""
    was = _suspended_parts(before)
    holds = _suspended_parts(now)
    for reason in holds.keys() - was.keys():
        yield _held("held_in_part", reason, holds[reason])
    for reason in was.keys() - holds.keys():
        if not now.holds:
            yield _moves(reason)


def _held(kind: Literal["held", "held_in_part"], reason: str, text: str) -> LaneChange:
    return LaneChange(kind, f"{reason.replace('_', ' ')}: {text}", reason)


def _moves(reason: str) -> LaneChange:
    return LaneChange("moves", f"no longer {reason.replace('_', ' ')}", reason)


def _suspended_parts(seen: LaneView) -> dict[str, str]:
    """Return the words for each suspension of some destinations, by its reason."""
    return {
        part.holds: part.text
        for part in seen.partly
        # Only these have no other news: Clay's answers have suspended the destinations.
        if reason_of(part.holds).lifted_by == "callback"
    }


def _of_yields(before: LaneView, now: LaneView) -> Iterator[LaneChange]:
    was = {(fall.destination, fall.column): fall for fall in before.falls}
    for fall in now.falls:
        if was.pop((fall.destination, fall.column), None) is None:
            yield LaneChange(yield_health.YIELD_FELL, fall.text)
    for destination, column in was:
        yield LaneChange("yield_back", f"the yield of {column} of {destination} is as usual again")


def _of_meters(before: LaneView, now: LaneView) -> Iterator[LaneChange]:
    for name, meter in now.meters.items():
        was = before.meters.get(name)
        if was is None or was.period != meter.period:
            if was is not None and was.warned:
                yield LaneChange("budget_new_period", f"{name}: {meter.period} begins")
            was = None
        if meter.warned > (was.warned if was else 0):
            text = f"{name}: {meter.used} of {meter.cap} for {meter.period} are used"
            yield LaneChange(f"budget_{meter.warned}", text)
