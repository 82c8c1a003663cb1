"""Texts that say why a lane sends nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stream_app.domain.delivery.outcome import Denied
from stream_app.domain.lane import webhook_quota as quota
from stream_app.domain.messages import Actor
from stream_app.domain.plural import count
from stream_app.domain.policy import Destination

if TYPE_CHECKING:
    from stream_app.domain.lane.lane import Grant, Lane


def paused(by: Actor) -> str:
    """Return the text for a pause."""
    return f"paused by {by.who}" + (f": {by.why}" if by.why else "")


def why_open(lane: Lane) -> str:
    """Return why the breaker holds the lane."""
    if lane.forced is not None and lane.forced.mode == "open":
        return f"the circuit breaker was forced open by {lane.forced.by.who}: {lane.forced.by.why}"
    return f"the circuit breaker is {lane.breaker.phase}: {lane.breaker.cause}"


def no_webhook(state: quota.Quota, destination: Destination) -> str:
    """Return the text for a pool without a usable webhook."""
    ends = quota.used_up(state, destination.webhook_ids)
    mend = "make a new one on its table in Clay, add it to webhooks_env, then `stream-app lanes reload`"
    return f"destination {destination.alias} has no webhook left ({ends}): {mend}"


def turned_away(lane: Lane, grant: Grant, outcome: Denied) -> str:
    """Return the text for a refused call, with the token and webhook that it used."""
    there = grant.destination
    token = f" (token: {there.token_name})" if there.token_name else " (no token)"
    webhook = lane.quota.webhooks.get(grant.webhook_id, quota.Webhook())
    sent = (
        f", webhook {grant.webhook_id} after {count(webhook.count, 'submission')}" if outcome.http_status == 403 else ""
    )
    return f"destination {there.alias}{token}{sent}: {outcome.text}"
