"""The quota: how many submissions each webhook has had, and which one of a destination's pool is next.

Clay stops a webhook after 50,000 submissions, for ever and often silently, so it is left before that. A
webhook is named by an opaque id made by the caller: its URL is a secret.
"""

from typing import Final

import msgspec

from stream_app.core.bounds import out_of_order, out_of_range

LIFETIME: Final = 50_000
"""Submissions after which Clay takes no more (clay-facts)."""


class QuotaPolicy(msgspec.Struct, frozen=True):
    """Submissions of one webhook at which to warn, and at which to go on to the next of the pool."""

    warn_at: int = 40_000
    rotate_at: int = 45_000


class Webhook(msgspec.Struct, frozen=True, omit_defaults=True):
    """`count`: submissions ever, probes and retries too; `dead`: why it is not used any more, in plain
    words.
    """

    count: int = 0
    dead: str = ""


class Quota(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is known of each webhook, by id; kept for those that left the pool, since they may come back."""

    webhooks: dict[str, Webhook] = {}


def problems(policy: QuotaPolicy) -> list[str]:
    """What is wrong with the policy, one line a key."""
    return out_of_range(policy, warn_at=(1, LIFETIME), rotate_at=(1, LIFETIME)) + out_of_order(
        policy, "warn_at", "rotate_at"
    )


def pick(policy: QuotaPolicy, state: Quota, pool: tuple[str, ...]) -> str | None:
    """The first webhook of the pool that is neither dead nor used up; None when the pool is at its end."""
    for webhook_id in pool:
        webhook = state.webhooks.get(webhook_id)
        if webhook is None or (not webhook.dead and webhook.count < policy.rotate_at):
            return webhook_id
    return None


def used_up(state: Quota, pool: tuple[str, ...]) -> str:
    """Why no webhook of the pool is left, in words."""
    there = ((webhook_id, state.webhooks.get(webhook_id, Webhook())) for webhook_id in pool)
    ends = [f"{webhook_id}: {webhook.dead or f'{webhook.count} submissions'}" for webhook_id, webhook in there]
    return ", ".join(ends) or "its pool is empty"


def left(policy: QuotaPolicy, state: Quota, pool: tuple[str, ...]) -> int:
    """Submissions that the pool still takes."""
    there = (state.webhooks.get(webhook_id, Webhook()) for webhook_id in pool)
    return sum(max(0, policy.rotate_at - webhook.count) for webhook in there if not webhook.dead)


def count(state: Quota, webhook_id: str) -> Quota:
    """One submission more."""
    webhook = state.webhooks.get(webhook_id, Webhook())
    return Quota({**state.webhooks, webhook_id: Webhook(webhook.count + 1, webhook.dead)})


def mark_dead(state: Quota, webhook_id: str, reason: str) -> Quota:
    """The webhook is gone (404) or used up; the first reason stays."""
    webhook = state.webhooks.get(webhook_id, Webhook())
    return Quota({**state.webhooks, webhook_id: Webhook(webhook.count, webhook.dead or reason)})


def revive(state: Quota, webhook_id: str) -> Quota:
    """The webhook is in use again."""
    webhook = state.webhooks.get(webhook_id, Webhook())
    return Quota({**state.webhooks, webhook_id: Webhook(webhook.count)})


def set_count(state: Quota, webhook_id: str, submissions: int) -> Quota:
    """An operator knows better how many it has had: others use it too, or its count was lost."""
    webhook = state.webhooks.get(webhook_id, Webhook())
    return Quota({**state.webhooks, webhook_id: Webhook(submissions, webhook.dead)})
