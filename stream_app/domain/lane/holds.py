"""The reasons to hold leads of a lane, one row each.

A row says what the hold is, what lifts it, and what people read about it. Rules, views, commands,
the board, metrics and messages look a reason up here, so that a new reason is a new row. `remains`
decides for all of them whether a hold is over once its time has passed.
"""

from collections.abc import Mapping
from typing import Final, Literal

import msgspec

from stream_app.domain.lane.overrides import OrderKind
from stream_app.domain.limits import callback_health, concurrency, suspension, yield_health
from stream_app.domain.limits.breaker import Mode
from stream_app.domain.limits.budget import METERS
from stream_app.domain.model.messages import Status

PAUSED: Final = "paused"
NO_WEBHOOK: Final = "no_webhook"
WEBHOOK_OUT: Final = "webhook_out"
OVER_CEILING: Final = "over_ceiling"
BREAKER_OPEN: Final = "breaker_open"
DESTINATION_FAILS: Final = "destination_fails"
CREDITS_OUT: Final = "credits_exhausted_suspected"
KEY_REFUSED: Final = "http_401"
"""The key or token of the workspace is not accepted, so nothing else can be asked either."""
FORCED_OPEN: Final = "forced_open"
RATE_LIMITED: Final = "rate_limited"
RATE: Final = "rate"
PROBE_DUE: Final = "its next lead goes as a probe"
"""What people read of a lane that is held although the time of its next probe has passed."""

LiftedBy = Literal["turn", "time", "probe", "callback", "event", "person"]
"""What ends a hold.

`turn`: Nothing has to end, because the lane moves and the lead waits for its turn. `time`: The hold
is over at its time. `probe`: The next lead after that time goes as a probe, and lifts the hold if
Clay accepts it. Where a poll was refused, another poll that Clay answers lifts it, too. `callback`:
Only the callback of that probe lifts it. `event`: Something lifts it whose time is not known.
`person`: Only an operator lifts it.
"""
WaitKind = Literal[
    "queue",
    "rate",
    "budget",
    "pause",
    "outage",
    "POST",
    "retry",
    "callback",
    "replay",
    "person",
    "rest",
]
"""What a record waits for."""


class HoldReason(msgspec.Struct, frozen=True):
    """A reason to hold leads.

    Attributes:
        code: Its stable code, on events, views, metrics, alerts and messages.
        lifted_by: What ends the hold.
        waits_for: What its leads wait for.
        lifts: What ends the hold, in words; `{}` stands for the workspace. '' if nothing has to
            end.
        status: The event of a lead that is held; None if the lead gets none.
        remedy: The order with which an operator ends it; '' if another place or time ends it.
        needs_repair: True if something outside the lane has to be repaired: Clay's table, a token,
            a clock.
        alarm: What a message says to people; '' if the hold ends by itself, or is what an operator
            wanted.
    """

    code: str
    lifted_by: LiftedBy
    waits_for: WaitKind
    lifts: str = ""
    status: Status | None = None
    remedy: OrderKind | Literal[""] = ""
    needs_repair: bool = False
    alarm: str = ""


_RESUME: Final = 'stream-app lanes resume {} --why "..."'
_REPAIR: Final = f"repair the cause, then: {_RESUME}"
_DENIED: Final = HoldReason(
    code="http_*",
    lifted_by="probe",
    waits_for="pause",
    lifts=f"a probe that Clay accepts; or {_REPAIR}",
    status="held_paused",
    remedy="resume",
    needs_repair=True,
    alarm="Clay refuses its leads, so the lane is held.",
)
"""Every status with which Clay refuses all leads of a destination: 401, 402 and others."""


def _budget(meter: str) -> HoldReason:
    kind, _, period = meter.partition("_")
    return HoldReason(
        code=f"budget_{meter}",
        lifted_by="time",
        waits_for="budget",
        lifts=f"the next {period}, or: stream-app lanes budget {{}} --{kind}-per-{period} N --why "
        '"..."',
        status="held_budget",
        remedy="budget",
        alarm=""
        if period == "day"
        else f"The month's {kind} are used up, so its leads wait for the next month.",
    )


_REASONS: Final = (
    HoldReason(
        code=PAUSED,
        lifted_by="person",
        waits_for="pause",
        lifts=_RESUME,
        status="held_paused",
        remedy="resume",
    ),
    HoldReason(
        code=NO_WEBHOOK,
        lifted_by="person",
        waits_for="pause",
        lifts=(
            "put a new webhook into the destination's webhooks_env, then: stream-app lanes "
            "reload; or take one "
            'back: stream-app lanes quota {} --webhook ID --use --why "..."'
        ),
        status="held_paused",
        remedy="quota",
        needs_repair=True,
        alarm="No webhook takes leads any more.",
    ),
    HoldReason(
        code=WEBHOOK_OUT,
        lifted_by="probe",
        waits_for="pause",
        lifts=f"a probe that Clay accepts, or a new webhook in the pool; or {_REPAIR}",
        status="held_paused",
        remedy="quota",
        needs_repair=True,
        alarm="Clay takes no leads by a webhook: it is full, refused, gone or not active.",
    ),
    HoldReason(
        code=callback_health.NO_CALLBACKS,
        lifted_by="callback",
        waits_for="pause",
        lifts=f"the callback of a probe; or {_REPAIR}",
        status="held_paused",
        remedy="resume",
        needs_repair=True,
        alarm="Clay takes its leads and no results come: credits out, or auto-run off?",
    ),
    HoldReason(
        code=OVER_CEILING,
        lifted_by="callback",
        waits_for="pause",
        lifts=f"a probe whose callback reports a lower cost; or {_REPAIR}",
        status="held_paused",
        remedy="resume",
        needs_repair=True,
        alarm="A lead cost more than its ceiling, so the lane is held.",
    ),
    HoldReason(
        code=CREDITS_OUT,
        lifted_by="callback",
        waits_for="pause",
        lifts=f"the result of a probe that has not failed; or top up, then: {_RESUME}",
        status="held_paused",
        remedy="resume",
        needs_repair=True,
        alarm="Its leads fail one after the other, and the workspace's credits are used up.",
    ),
    HoldReason(
        code=yield_health.YIELD_FELL,
        lifted_by="callback",
        waits_for="pause",
        lifts=f"the callback of a probe that has the column again; or {_REPAIR}",
        status="held_paused",
        remedy="resume",
        needs_repair=True,
        alarm="Clay finds a column much less often than before: does a provider fail?",
    ),
    HoldReason(
        code=suspension.FLOOD,
        lifted_by="probe",
        waits_for="pause",
        lifts=f"a probe that Clay accepts; or {_REPAIR}",
        status="held_paused",
        remedy="resume",
        needs_repair=True,
        alarm="Too many of its leads became dead letters, so the lane is held.",
    ),
    HoldReason(
        code=BREAKER_OPEN,
        lifted_by="probe",
        waits_for="outage",
        lifts="a few leads that go as probes and that Clay accepts; or: stream-app lanes reset {} "
        '--why "..."',
        status="held_outage",
        remedy="reset",
        alarm="Clay fails, is slow or cannot be reached, so the lane is held.",
    ),
    HoldReason(
        code=DESTINATION_FAILS,
        lifted_by="probe",
        waits_for="outage",
        lifts="a few of its leads that go as probes and that Clay accepts; or: stream-app lanes "
        'reset {} --why "..."',
        status="held_outage",
        remedy="reset",
        needs_repair=True,
        alarm="A destination fails by itself, so its leads are held.",
    ),
    HoldReason(
        code=FORCED_OPEN,
        lifted_by="person",
        waits_for="pause",
        lifts='stream-app lanes auto {} --why "..."',
        status="held_outage",
        remedy="auto",
    ),
    HoldReason(
        code=concurrency.STALLED,
        lifted_by="event",
        waits_for="outage",
        lifts=(
            "the next answer; if none comes, the circuit breaker opens when the requests time out"
        ),
        status="held_outage",
    ),
    HoldReason(
        code="budget_clock",
        lifted_by="event",
        waits_for="budget",
        lifts="this machine's clock, which is behind the lane's books: set it right",
        status="held_budget",
        needs_repair=True,
        alarm="The clock of a worker is behind the lane's books, so the lane is held.",
    ),
    *map(_budget, METERS),
    HoldReason(
        code=RATE_LIMITED,
        lifted_by="time",
        waits_for="rate",
        lifts="time: Clay said when",
    ),
    HoldReason(code=RATE, lifted_by="turn", waits_for="rate"),
    HoldReason(code=concurrency.IN_FLIGHT, lifted_by="turn", waits_for="rate"),
)
REASONS: Final[Mapping[str, HoldReason]] = {reason.code: reason for reason in (*_REASONS, _DENIED)}
"""All reasons by code. `reason_of` also finds the reason of any status with which Clay refuses."""


def reason_of(code: str) -> HoldReason:
    """Return the reason with this code.

    A code that this version does not know counts as a refusal of Clay.
    """
    known = REASONS.get(code)
    if known is not None:
        return known
    is_denied = code.startswith("http_")
    return msgspec.structs.replace(_DENIED, code=code, alarm=_DENIED.alarm if is_denied else "")


def code_of(holds: str, mode: Mode) -> str:
    """Return the code that people read for a hold of admission.

    A breaker that an operator opened is another reason than an outage.
    """
    return FORCED_OPEN if holds == BREAKER_OPEN and mode == "open" else holds


def lifts(code: str, workspace: str) -> str:
    """Return what ends a hold, in words."""
    return reason_of(code).lifts.format(workspace)


def ends_by_probe(code: str) -> bool:
    """Return True if a probe ends the hold: its time is then that of the next probe, and no end."""
    return reason_of(code).lifted_by in ("probe", "callback")


def time_words(*, until_probe: bool) -> str:
    """Return the words before the time of a hold: whether it ends then, or is tried again."""
    return "next probe at" if until_probe else "until"


class Remains(msgspec.Struct, frozen=True):
    """A hold that is not over.

    Attributes:
        until_ms: When it ends, or when the next probe goes if a probe ends it, epoch ms; 0 if
            neither is to come.
        probe_due: True if the time of the next probe has passed, so that the next lead goes as a
            probe.
    """

    until_ms: int
    probe_due: bool


def remains(code: str, until_ms: int, now_ms: int, *, probe_due: bool = False) -> Remains | None:
    """Return what is left of a hold, or None if it is over.

    Only a hold that time lifts is over at `until_ms`. A hold that a probe lifts lasts until a lead
    comes, so a lane without leads may be held for days beyond the time of its next probe.
    """
    has_passed = 0 < until_ms <= now_ms
    if ends_by_probe(code):
        return Remains(0 if has_passed else until_ms, probe_due or has_passed)
    if reason_of(code).lifted_by == "time":
        return None if has_passed else Remains(until_ms, probe_due=False)
    return Remains(0, probe_due=False)
