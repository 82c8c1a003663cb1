"""The quota: counts the submissions of each webhook, and picks the next one of a pool.

A pool is a destination's. Clay takes a limited number of submissions through a webhook in its
lifetime, so the webhook is replaced before that. A webhook that takes no leads, because it is full,
refused or gone, or because its workflow is not active, is suspended: the next one of the pool takes
its leads, and a lead is sent to it as a probe now and then. It may be full before our own count
says so, because something else may submit to it, too. The caller names a webhook by an opaque id,
because its URL is a secret.
"""

import math
from collections.abc import Mapping
from functools import lru_cache
from typing import Annotated, ClassVar, Final, NamedTuple

import msgspec

from stream_app.domain.limits import suspension
from stream_app.domain.limits.suspension import Probe, Suspension, SuspensionPolicy
from stream_app.domain.model import text as texts
from stream_app.domain.model.numbers import MAX_AMOUNT, Whole
from stream_app.domain.model.outcome import WebhookCause
from stream_app.domain.model.ranges import Policy, Range, Wait

LIFETIME: Final = 50_000
"""Submissions after which Clay accepts no more by a table's webhook (docs/reference/clay.md).

A destination may say otherwise.
"""
_FULL: Final[WebhookCause] = "full"
_OUT: Final[Mapping[str, str]] = {
    _FULL: "full (403)",
    "refused": "refused (403)",
    "gone": "gone (404)",
    "inactive": "not active (400)",
}
"""By the reason of the suspension. One that this version does not know stands for itself."""


class WebhookLimits(NamedTuple):
    """Submissions of one webhook; infinite if it has no end.

    Attributes:
        warn_at: From this number on, an operator is warned.
        rotate_at: From this number on, the next webhook of the pool is used.
    """

    warn_at: float
    rotate_at: float


class QuotaPolicy(Policy, frozen=True):
    """When people are warned of a webhook's end, and when the next webhook takes over.

    Both are numbers of submissions of one webhook. Neither applies to a webhook that has no end
    (`quota_lifetime = 0`).

    Attributes:
        warn_at: The number of submissions at which people are warned. Absent: 80 % of the
            destination's `quota_lifetime`.
        rotate_at: The number of submissions at which the next webhook of the pool takes over.
            Absent: 90 % of `quota_lifetime`.
    """

    ORDERED: ClassVar = (("warn_at", "rotate_at"),)

    warn_at: Annotated[int | None, Range(1, MAX_AMOUNT)] = None
    rotate_at: Annotated[int | None, Range(1, MAX_AMOUNT)] = None

    def limits(self, lifetime: int) -> WebhookLimits:
        """Return the limits of a webhook that takes `lifetime` submissions; 0: without end."""
        return _limits_of(self.warn_at, self.rotate_at, lifetime)


@lru_cache(256)  # each admission and each view asks for those of its destinations
def _limits_of(warn_at: int | None, rotate_at: int | None, lifetime: int) -> WebhookLimits:
    if not lifetime:
        return WebhookLimits(math.inf, math.inf)
    rotate_at = rotate_at or max(1, lifetime * 9 // 10)
    return WebhookLimits(warn_at or min(rotate_at, max(1, lifetime * 8 // 10)), rotate_at)


class Webhook(msgspec.Struct, frozen=True, omit_defaults=True):
    """The state of one webhook.

    Attributes:
        count: All submissions, probes and retries included.
        dead: Who took it out of use, in words.
        suspension: Since when it takes no leads, why (a `WebhookCause`), and when its next probe is
            due.
    """

    count: Whole = 0
    dead: str = ""
    suspension: Suspension | None = None

    @property
    def out(self) -> str:
        """Why it is out of use or suspended, in words; '' if it takes leads."""
        if self.dead or self.suspension is None:
            return self.dead
        return _OUT.get(self.suspension.reason, self.suspension.reason)

    @property
    def is_full(self) -> bool:
        """True if Clay says that it is."""
        return self.suspension is not None and self.suspension.reason == _FULL


_UNUSED: Final = Webhook()


class Picked(msgspec.Struct, frozen=True):
    """The webhook for one lead; `probe` is set if it is suspended."""

    webhook_id: str
    probe: Probe | None = None


class Quota(msgspec.Struct, frozen=True, omit_defaults=True):
    """The state of each webhook by id.

    Webhooks that left the pool are kept, because they may return.
    """

    webhooks: dict[str, Webhook] = {}


def pick(
    limits: WebhookLimits,
    probes: SuspensionPolicy,
    state: Quota,
    pool: tuple[str, ...],
    now_ms: int,
) -> tuple[Quota, Picked | Wait | None]:
    """Return the first webhook of the pool for a lead.

    It is one in use, or a suspended one whose probe is due.

    Returns:
        The state, and the webhook. `Wait` in its place: all that is left is suspended until then.
        None: nothing is left. Keep the state if the lead is sent, or on `Wait`.
    """
    until_ms: list[int] = []
    for webhook_id in pool:
        webhook = state.webhooks.get(webhook_id)
        if webhook is None:
            return state, Picked(webhook_id)
        if webhook.dead or webhook.count >= limits.rotate_at:
            continue
        if webhook.suspension is None:
            return state, Picked(webhook_id)
        stopped, answer = suspension.permit(probes, webhook.suspension, now_ms)
        state = _changed(state, webhook_id, suspension=stopped)
        if not isinstance(answer, Wait):
            return state, Picked(webhook_id, answer)
        until_ms.append(answer.until_ms)
    return state, Wait(min(until_ms)) if until_ms else None


def has_one_in_use(limits: WebhookLimits, state: Quota, pool: tuple[str, ...]) -> bool:
    """Return True if a lead can be sent without being a probe."""
    webhooks = (of(state, webhook_id) for webhook_id in pool)
    return any(
        not (webhook.dead or webhook.suspension) and webhook.count < limits.rotate_at
        for webhook in webhooks
    )


def due_ms(limits: WebhookLimits, state: Quota, pool: tuple[str, ...]) -> int:
    """Return when the first suspended webhook of the pool may be probed, epoch ms.

    It is 0 if none may ever be.
    """
    webhooks = (of(state, webhook_id) for webhook_id in pool)
    return min(
        (
            suspension.due_ms(webhook.suspension)
            for webhook in webhooks
            if webhook.suspension is not None
            and not webhook.dead
            and webhook.count < limits.rotate_at
        ),
        default=0,
    )


def take_out(
    probes: SuspensionPolicy,
    state: Quota,
    webhook_id: str,
    fresh: Suspension,
    probe: Probe | None,
) -> Quota:
    """Return the state after this webhook took no leads.

    `fresh`: a new suspension. Its own probe makes an existing one longer.
    """
    suspended = suspension.suspend(probes, of(state, webhook_id).suspension, fresh, probe)
    return _changed(state, webhook_id, suspension=suspended)


def probed(state: Quota, webhook_id: str, probe: Probe, is_accepted: bool, now_ms: int) -> Quota:
    """Return the state after a probe that did not show the webhook out again.

    The webhook is in use again if Clay accepted the lead.
    """
    suspended = of(state, webhook_id).suspension
    if suspended is None:
        return state
    after = (
        suspension.lift(suspended, probe)
        if is_accepted
        else suspension.release_probe(suspended, probe, now_ms)
    )
    return _changed(state, webhook_id, suspension=after)


def resumed(state: Quota) -> Quota:
    """Return the state after an operator put every suspended webhook back into use."""
    return Quota(
        {name: Webhook(webhook.count, webhook.dead) for name, webhook in state.webhooks.items()},
    )


def reconfigured(state: Quota, setups: Mapping[str, str], now_ms: int) -> Quota:
    """Return the state under a new configuration.

    `setups`: setup id by destination; a changed one is probed.
    """
    for webhook_id, stopped in suspended(state).items():
        setup_id = setups.get(stopped.destination, stopped.setup_id)
        if setup_id != stopped.setup_id:
            state = _changed(
                state,
                webhook_id,
                suspension=suspension.probe_now(stopped, setup_id, now_ms),
            )
    return state


def suspended(state: Quota) -> dict[str, Suspension]:
    """Return the suspended webhooks."""
    return {
        name: webhook.suspension
        for name, webhook in state.webhooks.items()
        if webhook.suspension is not None
    }


def used_up(state: Quota, pool: tuple[str, ...]) -> str:
    """Return why no webhook of the pool is left, in words."""
    ends = []
    for webhook_id in pool:
        webhook = of(state, webhook_id)
        ends.append(f"{webhook_id}: {webhook.out or texts.count(webhook.count, 'submission')}")
    return ", ".join(ends) or "its pool is empty"


def left(limits: WebhookLimits, state: Quota, pool: tuple[str, ...]) -> int | None:
    """Return how many submissions the pool still accepts; None if it has no end."""
    submissions = 0.0
    for webhook_id in pool:
        webhook = of(state, webhook_id)
        if not (webhook.dead or webhook.is_full):
            submissions += max(0.0, limits.rotate_at - webhook.count)
    return None if submissions == math.inf else int(submissions)


def count(state: Quota, webhook_id: str) -> Quota:
    """Count one submission."""
    return _changed(state, webhook_id, count=of(state, webhook_id).count + 1)


def of(state: Quota, webhook_id: str) -> Webhook:
    """Return the state of a webhook."""
    return state.webhooks.get(webhook_id, _UNUSED)


def _changed(state: Quota, webhook_id: str, **changes: object) -> Quota:
    return Quota(
        {**state.webhooks, webhook_id: msgspec.structs.replace(of(state, webhook_id), **changes)},
    )
