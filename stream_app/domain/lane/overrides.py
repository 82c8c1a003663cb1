"""Orders of an operator to a lane while it runs.

An order stays in force in the lane's row, through restarts and take-overs, until another order
changes it. A change of a policy's key also ends when the configuration changes that key.
"""

from collections.abc import Mapping
from typing import Annotated, Final, Literal, get_args

from msgspec import Meta, Struct
from msgspec.structs import replace

from stream_app.domain.lane.lane import Forced, Lane, lifted
from stream_app.domain.limits import breaker, budget, window, yield_health
from stream_app.domain.limits import webhook_quota as quota
from stream_app.domain.limits.budget import Cost
from stream_app.domain.limits.meters import meters
from stream_app.domain.model.numbers import MAX_AMOUNT
from stream_app.domain.model.text import count
from stream_app.domain.plan import Actor, Change, Workspace, byline

Cap = Literal["credits_per_day", "credits_per_month", "actions_per_day", "actions_per_month"]
AsConfigured = Literal["configured"]

_MAX_WEBHOOK_CHARACTERS: Final = 64
_NO_WEBHOOKS: Final[Mapping[str, int]] = {}
_Amount = Annotated[int, Meta(ge=0, le=MAX_AMOUNT)]
_Correction = Annotated[int, Meta(ge=-MAX_AMOUNT, le=MAX_AMOUNT)]


class Pause(Struct, frozen=True):
    """Send no more leads of a lane until `resume`. They wait on Kafka."""


class Resume(Struct, frozen=True):
    """End a pause, or the suspension of a lane whose leads Clay refused."""


class Trip(Struct, frozen=True):
    """Force the circuit breaker open."""


class Close(Struct, frozen=True):
    """Force the circuit breaker closed, regardless of Clay's answers."""


class Shadow(Struct, frozen=True):
    """Let the breaker report its decisions without holding leads."""


class Auto(Struct, frozen=True):
    """Let the breaker decide again."""


class Reset(Struct, frozen=True):
    """Reset the breaker and its window, and end a suspension."""


class ChangeBudget(Struct, frozen=True, omit_defaults=True):
    """Change limits from the next lead on.

    A limit becomes a number, `none` for no limit, or what is `configured`.
    """

    caps: dict[Cap, _Amount | AsConfigured | None] = {}
    shadow: Annotated[bool | AsConfigured | None, Meta(description="count only, hold no lead")] = (
        None
    )

    def __post_init__(self) -> None:
        _check_named(
            self.caps or self.shadow is not None,
            f"something to change: {', '.join(get_args(Cap))} or shadow",
        )


class Correct(Struct, frozen=True, omit_defaults=True):
    """Book credits or actions that were spent elsewhere, or (below 0) returned by Clay.

    For what a single lead cost, use `stream-app dlq resolve`.
    """

    credits: Annotated[_Correction, Meta(description="to book; below 0: returned")] = 0
    actions: Annotated[_Correction, Meta(description="to book; below 0: returned")] = 0
    period: Annotated[
        Literal["day", "month"],
        Meta(description="day: today and this month; month: only this month"),
    ] = "day"

    def __post_init__(self) -> None:
        _check_named(self.credits or self.actions, "credits or actions that are not 0")


class ChangeRate(Struct, frozen=True, omit_defaults=True, rename={"per_second": "rate_per_s"}):
    """Change the rate live."""

    per_second: Annotated[
        Annotated[float, Meta(ge=0.01, le=1_000)] | AsConfigured | None,
        Meta(title="Leads a second at most", description="at most N leads per second"),
    ] = None
    burst: Annotated[
        Annotated[int, Meta(ge=1, le=10_000)] | AsConfigured | None,
        Meta(title="Leads at once at most", description="at most N leads at once"),
    ] = None

    def __post_init__(self) -> None:
        _check_named(
            self.per_second is not None or self.burst is not None,
            "something to change: per_second or burst",
        )


class ChangeQuota(Struct, frozen=True, omit_defaults=True, rename={"webhook": "webhook_id"}):
    """Retire a webhook or use it again, or set its count of submissions."""

    webhook: Annotated[str, Meta(description="the ID that `lanes --json` shows")]
    use: Annotated[
        bool | None,
        Meta(
            description="use the webhook again, or stop using it",
            extra={"words": ("use", "retire")},
        ),
    ] = None
    count: Annotated[
        _Amount | None,
        Meta(title="Submissions so far", description="submissions so far"),
    ] = None

    def __post_init__(self) -> None:
        if "/" in self.webhook or len(self.webhook) > _MAX_WEBHOOK_CHARACTERS:
            raise ValueError(
                "name the webhook by the ID that `stream-app lanes --json` shows, never by its URL",
            )
        _check_named(
            self.use is not None or self.count is not None,
            "something to change: use, retire or count",
        )


def _check_named(named: object, options: str) -> None:
    if not named:
        raise ValueError(f"name {options}")


Order = (
    Pause
    | Resume
    | Trip
    | Close
    | Shadow
    | Auto
    | Reset
    | ChangeBudget
    | Correct
    | ChangeRate
    | ChangeQuota
)
OrderKind = Literal[
    "pause",
    "resume",
    "trip",
    "close",
    "shadow",
    "auto",
    "reset",
    "budget",
    "correct",
    "rate",
    "quota",
]

ORDERS: Final[Mapping[OrderKind, type[Order]]] = dict(
    zip(get_args(OrderKind), get_args(Order), strict=True),
)
"""Orders by kind of command. The docstring of an order is the text of its help and of its form, and
its fields are the options.
"""


class OrderOutcome(Struct, frozen=True):
    """The lane after an order, and the outcome in one line.

    If `done` is False, the order was refused and nothing changed.
    """

    lane: Lane
    text: str
    done: bool = True


def obey(
    configured: Workspace,
    lane: Lane,
    order: Order,
    by: Actor,
    lifetimes: Mapping[str, int] = _NO_WEBHOOKS,
) -> OrderOutcome:
    """Apply an order. An order that is in force already changes nothing, and the outcome says so.

    `by.at_ms` is now. `lifetimes` says how many submissions each webhook of the workspace's
    destinations takes; 0: any number.
    """
    match order:
        case Pause():
            return _pause(lane, by)
        case Resume():
            return _resume(lane)
        case Trip() | Close() | Shadow() | Auto():
            mode, text = _MODES[type(order)]
            return _force(lane, mode, text, by)
        case Reset():
            return _reset(lane, by.at_ms)
        case ChangeBudget():
            values: dict[str, object] = {
                f"budget.{cap}": value for cap, value in order.caps.items()
            }
            if order.shadow is not None:
                values["budget.shadow"] = order.shadow
            return _change(configured, lane, values, by)
        case Correct():
            return _correct(configured, lane, order, by.at_ms)
        case ChangeRate():
            asked = {"rate.rate_per_s": order.per_second, "rate.burst": order.burst}
            return _change(
                configured,
                lane,
                {key: value for key, value in asked.items() if value is not None},
                by,
            )
        case ChangeQuota():
            return _quota(lane, order, lifetimes, by)


def _pause(lane: Lane, by: Actor) -> OrderOutcome:
    if lane.pause is not None:
        return OrderOutcome(lane, f"the lane was paused already, {byline(lane.pause)}")
    return OrderOutcome(
        replace(lane, pause=by),
        f"paused {byline(by)}; leads wait on Kafka until `resume`",
    )


def _resume(lane: Lane) -> OrderOutcome:
    gone = [f"the pause {byline(lane.pause)}"] if lane.pause else []
    gone += [f"the suspension ({lane.suspension.reason})"] if lane.suspension else []
    gone += [
        f"the suspension of webhook {webhook_id} ({webhook.out})"
        for webhook_id, webhook in lane.quota.webhooks.items()
        if webhook.suspension is not None
    ]
    if not gone:
        return OrderOutcome(lane, "the lane was neither paused nor suspended")
    lane = replace(
        lifted(lane),
        pause=None,
        quota=quota.resumed(lane.quota),
        yields=_accepted_yields(lane),
    )
    return OrderOutcome(lane, f"resumed: lifted {' and '.join(gone)}")


def _accepted_yields(lane: Lane) -> yield_health.YieldHealth:
    """Return the yields after an operator resumed the lane: a low level is the usual one now."""
    stopped = lane.suspension
    if stopped is None or stopped.reason != yield_health.YIELD_FELL:
        return lane.yields
    return yield_health.accepted(lane.yields, stopped.destination)


_MODES: Final[Mapping[type[Order], tuple[breaker.Mode, str]]] = {
    Trip: ("open", "the breaker is forced open: nothing is sent until `auto`, `close` or `reset`"),
    Close: (
        "closed",
        "the breaker is forced closed: nothing trips it until `auto`, `trip` or `reset`",
    ),
    Shadow: ("shadow", "the breaker is in shadow: it decides and reports, and holds nothing"),
    Auto: ("auto", "the breaker decides by itself"),
}


def _force(lane: Lane, mode: breaker.Mode, text: str, by: Actor) -> OrderOutcome:
    if lane.forced is not None and lane.forced.mode == mode:
        return OrderOutcome(lane, f"{text}; it was so already")
    state = lane.breaker
    if mode == "open" or mode == "closed":
        state = breaker.forced(state, mode, by.at_ms)
    if mode == "auto" and state.phase == "open":
        text += (
            ", beginning with probes"
            if state.cause == "forced"
            else f", and is open ({state.cause})"
        )
    return OrderOutcome(replace(lane, breaker=state, forced=Forced(mode, by)), text)


def _closed(state: breaker.Breaker, now_ms: int) -> breaker.Breaker:
    """Return a closed breaker of a new epoch, for which the calls in flight come too late."""
    return breaker.Breaker(epoch=state.epoch + 1, since_ms=now_ms, next_lease=state.next_lease)


def _reset(lane: Lane, now_ms: int) -> OrderOutcome:
    lane = replace(
        lifted(lane),
        breaker=_closed(lane.breaker, now_ms),
        window=window.Window(),
        forced=None,
        quota=quota.resumed(lane.quota),
        destinations={
            alias: replace(health, breaker=_closed(health.breaker, now_ms))
            for alias, health in lane.destinations.items()
        },
        failing=(),
        yields=_accepted_yields(lane),
    )
    rest = [f"the pause {byline(lane.pause)}"] if lane.pause else []
    rest += ["Clay's Retry-After"] if lane.rate.blocked_until_ms > now_ms else []
    still = f"; still in force: {' and '.join(rest)}" if rest else ""
    return OrderOutcome(
        lane,
        f"reset: the breaker is closed with an empty window, and no suspension{still}",
    )


def _change(
    configured: Workspace,
    lane: Lane,
    values: Mapping[str, object],
    by: Actor,
) -> OrderOutcome:
    kept = {change.key: change for change in lane.changes}
    for key, value in values.items():
        kept.pop(key, None)
        was = _value_of(configured, key)
        if value not in ("configured", was):
            kept[key] = Change(key, was, value, by)  # type: ignore[arg-type]  # an order's values are numbers or None
    changed = replace(lane, changes=tuple(kept.values()))
    after = changed.in_force(configured)
    problems = after.budget.problems() + after.rate.problems()
    if problems:
        return OrderOutcome(lane, f"refused: {'; '.join(problems)}", done=False)
    before = lane.in_force(configured)
    changed = replace(changed, budget=budget.reviewed(after.budget, changed.budget, by.at_ms))
    return OrderOutcome(
        changed,
        ", ".join(f"{key}: {_text_of(before, key)} -> {_text_of(after, key)}" for key in values),
    )


def _text_of(policy: Workspace, key: str) -> str:
    return setting_text(_value_of(policy, key))


def _value_of(policy: Workspace, key: str) -> int | float | bool | None:
    table, _, name = key.partition(".")
    value: int | float | bool | None = getattr(getattr(policy, table), name)
    return value


def setting_text(value: float | bool | None) -> str:
    """Return the value of a changed key for people; None is a cap that was taken away."""
    if value is None:
        return "unlimited"
    return f"{value:g}" if isinstance(value, float) else str(value).lower()


def _correct(configured: Workspace, lane: Lane, order: Correct, now_ms: int) -> OrderOutcome:
    rules = lane.in_force(configured).budget
    corrected = budget.correct(
        rules,
        lane.budget,
        Cost(order.credits, order.actions),
        now_ms,
        order.period == "day",
    )
    if isinstance(corrected, budget.BudgetRefused):
        return OrderOutcome(
            lane,
            "refused: the clock is behind the books, so it is not known which day it is",
            done=False,
        )
    after = meters(rules, corrected, now_ms)
    sums = ", ".join(
        f"{name} {after[name].elsewhere}" for name in budget.METERS if after[name].elsewhere
    )
    return OrderOutcome(
        # What is booked only in the month was spent on another day, so it explains nothing of
        # today's bill.
        replace(
            lane,
            budget=corrected,
            paid=lane.paid.elsewhere(order.credits if order.period == "day" else 0),
        ),
        f"spent elsewhere is now: {sums or 'nothing'}",
    )


def _quota(lane: Lane, order: ChangeQuota, lifetimes: Mapping[str, int], by: Actor) -> OrderOutcome:
    webhook_id = order.webhook
    known = sorted({*lifetimes, *lane.quota.webhooks})
    if webhook_id not in known:
        return OrderOutcome(
            lane,
            f"refused: there is no webhook {webhook_id}; there are {', '.join(known)}",
            done=False,
        )
    lifetime = lifetimes.get(webhook_id, 0)
    if order.count is not None and 0 < lifetime < order.count:
        return OrderOutcome(
            lane,
            f"refused: webhook {webhook_id} takes {count(lifetime, 'submission')} in its lifetime "
            "(quota_lifetime of its destination)",
            done=False,
        )
    webhook = quota.of(lane.quota, webhook_id)
    if order.use is not None:  # The first reason for taking the webhook out of use stays.
        webhook = (
            quota.Webhook(webhook.count)
            if order.use
            else replace(webhook, dead=webhook.dead or byline(by))
        )
    if order.count is not None:
        webhook = replace(webhook, count=order.count)
    webhooks = quota.Quota({**lane.quota.webhooks, webhook_id: webhook})
    use = (
        f"out of use ({webhook.dead})"
        if webhook.dead
        else f"suspended: {webhook.out}"
        if webhook.suspension
        else "in use"
    )
    return OrderOutcome(
        replace(lane, quota=webhooks),
        f"webhook {webhook_id}: {count(webhook.count, 'submission')}, {use}",
    )
