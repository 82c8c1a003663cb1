"""`stream-app replay`: run the replay process; or plan, select, redrive, pause, resume by hand."""

# No `from __future__ import annotations`: cyclopts looks for the types of inherited options in the
# subclass's module.

import asyncio
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import Annotated, Final, Literal

import msgspec
from cyclopts import Parameter, validators

from stream_app.cli.base import (
    COMMON,
    NO,
    OK,
    QUEUED,
    Common,
    OptionalWhole,
    confirm,
    on_kafka,
    with_actions,
)
from stream_app.cli.options import WHICH, Positive, Which, iso, login_name
from stream_app.cli.output import say
from stream_app.cli.processes import Log, run_process
from stream_app.cli.tables import Column, Table, reading, table_of
from stream_app.client.lanes.views import last_views
from stream_app.config import Settings
from stream_app.domain.dead_letter.causes import Filter, LetterSource
from stream_app.domain.dead_letter.orders import (
    FATE_MEANING,
    PricedPlan,
    ReplayCommand,
    ReplayProgress,
    price_lines,
)
from stream_app.domain.model.errors import StreamAppError
from stream_app.domain.model.text import count
from stream_app.domain.views.price import too_dear
from stream_app.replay.orders import (
    change_command,
    ordered_plan,
    ordered_replays,
    start_command,
    submit_and_follow,
)
from stream_app.replay.plan import spans_of, survey
from stream_app.replay.state import set_replay_pause

PerSecond = Annotated[
    float | None,
    Parameter(metavar="PER_S", validator=validators.Number(gte=0.001, lte=100_000)),
]

_REPEAT: Final = "run the same command to continue; nothing is sent twice"
_SEND_FEWER: Final = "send fewer, or use --over-budget to let the rest wait for the next budget"
_STOP_WITHIN_S: Final = 15.0


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Selection(Common):
    """The dead letters that a replay by hand sends."""

    source: Annotated[LetterSource, Parameter(name="--from")] = "dlq"
    """which topic"""
    limit: OptionalWhole = None
    """at most N"""
    rate: PerSecond = None
    """dead letters per second and workspace (default: replay.rate_share)"""
    uncertain: bool = False
    """include leads that may have reached Clay: they may be paid for twice"""


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Sending(Selection):
    """How dead letters are sent back."""

    yes: bool = False
    """do not ask for confirmation"""
    over_budget: bool = False
    """send even if it costs more than the budget has left"""
    why: str = ""
    """the reason, for the audit log"""
    who: Annotated[str | None, Parameter(metavar="NAME")] = None
    """your name in the audit log (default: the login name)"""


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Redrive(Sending):
    """How parked leads are sent back."""

    source: Annotated[LetterSource, Parameter(name="--from")] = "parked"
    """which topic"""


async def select_and_order(settings: Settings, wanted: Filter, sending: Sending) -> int:
    """Show the price, ask, order the replay and follow it. Return the exit code."""
    planned_at_ms = time.time_ns() // 1_000_000
    ends = await spans_of(settings, sending.source)
    priced = await survey_selected(settings, wanted, sending, ranges=ends)
    sending.tell(*plan_lines(priced))
    if not priced.go:
        sending.show({"sent": 0, "refused": {}}, "nothing to send back")
        return NO
    if not sending.over_budget and (dear := too_dear(priced.quotes)):
        for line in dear:
            say(f"{line}: {_SEND_FEWER}")
        sending.show({"sent": 0, "refused": {}, "too_dear": dear})
        return NO
    confirm(f"send {count(priced.go, 'dead letter')} back", yes=sending.yes)
    how = {
        "uncertain": sending.uncertain,
        "rate_per_s": sending.rate,
        "over_budget": sending.over_budget,
    }
    until = {number: end for number, (_, end) in ends.items()}
    plan = ordered_plan(planned_at_ms, sending.source, wanted, until, priced, **how)
    command = start_command(plan, sending.who or login_name(), sending.why)
    sent = await order_and_follow(settings, command)
    if sent is None:
        return _show_queued(sending, command.id, "within 10 minutes of the plan")
    if not sending.json:
        for record_id, why in list(sent.refusals.items())[:20]:
            say(f"{record_id} was not sent: {why}")
    sent_back = count(sent.sent, "dead letter was", "dead letters were")
    sending.show(
        {"sent": sent.sent, "refused": sent.refusals},
        f"{sent_back} sent back, {sent.refused} refused",
    )
    return NO if sent.refused else OK


def _show_queued(common: Common, command: str, until: str) -> int:
    common.show({"id": command, "queued": True}, f"queued {command}")
    say(f"no replay process has answered yet: the command is carried out when one runs {until}")
    return QUEUED


async def survey_selected(
    settings: Settings,
    wanted: Filter,
    selection: Selection,
    *,
    ranges: Mapping[int, tuple[int, int]] | None = None,
) -> PricedPlan:
    """Read the dead letters that the options select, and price their replay.

    `ranges`: partition -> first offset and end; None: all that is kept.
    """
    with reading("reading dead letters and rows") as progress:
        priced, _ = await survey(
            settings,
            selection.source,
            wanted,
            progress,
            ranges=ranges,
            uncertain=selection.uncertain,
            limit=selection.limit,
            rate_per_s=selection.rate,
            read_views=last_views,
        )
    return priced


def plan_lines(priced: PricedPlan) -> Iterator[str]:
    """Yield how many dead letters a replay would send, by cause, its price, and what holds them."""
    yield count(priced.dead_letters, "dead letter matches", "dead letters match")
    yield from (f"  {number:,} {FATE_MEANING[end]}" for end, number in priced.fates.most_common())
    yield from (
        f"  to be sent, {number:,}: {cause}" for cause, number in priced.causes.most_common(20)
    )
    yield from price_lines(priced, _SEND_FEWER)


async def order_and_follow(settings: Settings, command: ReplayCommand) -> ReplayProgress | None:
    """Order a replay, show its progress, and return its end; None: no replay process answers.

    Ctrl-C stops the replay.

    Raises:
        StreamAppError: It was refused, or stopped.
    """
    last: ReplayProgress | None = None
    try:
        with reading("sending back", "dead letters") as progress:
            async with aclosing(submit_and_follow(settings, command)) as following:
                async for last in following:
                    progress(last.sent + last.refused, last.total)
                    if last.state in ("stopped", "refused"):
                        raise StreamAppError(f"replay {last.id}: {last.text}")
                    if last.state == "done":
                        return last
    except asyncio.CancelledError:
        await _stop(settings, command)
        say(f"interrupted after {last.sent if last else 0}: {_REPEAT}")
        raise
    return None


async def order_change(settings: Settings, command: ReplayCommand) -> ReplayProgress | None:
    """Stop or resume a replay, and return its state after that; None: no replay process answers."""
    async with aclosing(submit_and_follow(settings, command)) as following:
        async for progress in following:
            if command.id in progress.commands:
                return progress
    return None


async def _stop(settings: Settings, command: ReplayCommand) -> None:
    """Stop an ordered replay, and wait for the answer for a few seconds."""
    stop = change_command("stop", command.replay, command.who, "interrupted")
    with suppress(TimeoutError, StreamAppError):
        async with asyncio.timeout(_STOP_WITHIN_S):
            await order_change(settings, stop)


app = with_actions("replay")

_SELECTION: Final = Selection()
_SENDING: Final = Sending()
_REDRIVE: Final = Redrive()


@app.default
def replay(*, log: Log = None, common: Common = COMMON) -> int:
    """Run the process that sends dead letters and deferred leads back to leads.retry when due.

    An action plans or runs a replay by hand.

    example:
      stream-app replay --config stream_app.toml
      stream-app replay plan --status 503
    """
    from stream_app.services.replay import run_replay

    settings = common.settings()
    return run_process(log, run_replay(settings, common.settings), settings.log_level)


@app.command(sort_key=0)
def plan(*, which: Which = WHICH, selection: Selection = _SELECTION) -> int:
    """Show what a replay would send, by cause, its price, the budget left, and how long it takes.

    If the lane of these leads is held, or all replays are paused, it says that and what lifts it.

    example:
      stream-app replay plan --status 503 --destination people
      stream-app replay plan --import 2026-11-24-kfdwzp
    """
    settings = selection.settings()
    wanted = which.checked(settings, selection.source)
    priced = on_kafka(settings, "replay plan", survey_selected(settings, wanted, selection))
    selection.show({**msgspec.to_builtins(priced), "go": priced.go}, *plan_lines(priced))
    return OK if priced.go else NO


@app.command(sort_key=1)
def select(*, which: Which = WHICH, sending: Sending = _SENDING) -> int:
    """Send dead letters back to leads.retry, each once, with all replays available again.

    Shows the price and asks first. The replay process sends them, and Ctrl-C stops it. Deferred
    leads are only sent earlier.

    example:
      stream-app replay select --reason http_503 --limit 1000 --rate 4
      stream-app replay select --import 2026-11-24-kfdwzp
    """
    settings = sending.settings()
    wanted = which.checked(settings, sending.source)
    return on_kafka(settings, "replay select", select_and_order(settings, wanted, sending))


@app.command(sort_key=2)
def redrive(*, which: Which = WHICH, sending: Redrive = _REDRIVE) -> int:
    """Send parked leads back after a fix at Clay or in the configuration.

    A lead that is wrong itself is corrected: `stream-app dlq export`, then `stream-app publish`.

    example:
      stream-app replay redrive --reason replay_cap --workspace acme
    """
    settings = sending.settings()
    wanted = which.checked(settings, sending.source)
    return on_kafka(settings, "replay redrive", select_and_order(settings, wanted, sending))


@app.command(sort_key=4)
def pause(*, why: str = "", common: Common = COMMON) -> int:
    """Pause all replays of all processes until `resume`.

    example:
      stream-app replay pause --why "table is being rebuilt"

    Args:
        why: the reason, shown to other operators and in the audit log
    """
    return _set_pause(common, why, paused=True)


@app.command(sort_key=5)
def resume(replay: str | None = None, /, *, why: str = "", common: Common = COMMON) -> int:
    """Resume all replays after `pause`, or one stopped replay.

    example:
      stream-app replay resume
      stream-app replay resume r-4f1c9e20ab34 --why "Clay is up again"

    Args:
        replay: the id of a stopped replay; without it, the pause of all ends
        why: the reason, for the audit log
    """
    if replay is None:
        return _set_pause(common, why, paused=False)
    return _change(common, "resume", replay, why)


@app.command(sort_key=6)
def stop(replay: str, /, *, why: str = "", common: Common = COMMON) -> int:
    """Stop one replay that `select` or `redrive` started. `resume` continues it.

    example:
      stream-app replay stop r-4f1c9e20ab34 --why "Clay is down"

    Args:
        replay: the id of the replay
        why: the reason, for the audit log
    """
    return _change(common, "stop", replay, why)


@app.command(name="list", sort_key=7)
def list_them(*, limit: Positive = 20, common: Common = COMMON) -> int:
    """List the replays that operators started, the newest first.

    example:
      stream-app replay list

    Args:
        limit: at most N
    """
    settings = common.settings()
    orders = on_kafka(settings, "replay list", ordered_replays(settings))
    newest = sorted(orders.replays.values(), key=lambda order: -order.at_ms)[:limit]
    document = {"replays": [msgspec.structs.asdict(order) for order in newest]}
    none = "no operator has started a replay: stream-app replay select"
    common.show(document, _replay_table(newest) if newest else none)
    return OK


def _replay_table(replays: Sequence[ReplayProgress]) -> Table:
    return table_of(
        replays,
        {
            Column("replay"): lambda order: order.id,
            Column("state"): lambda order: order.state,
            Column("sent", right=True): lambda order: f"{order.sent:,}",
            Column("of", right=True): lambda order: f"{order.total or order.plan.dead_letters:,}",
            Column("refused", right=True, rank=2): lambda order: f"{order.refused:,}",
            Column("who", rank=1): lambda order: order.who,
            Column("started", rank=3): lambda order: iso(order.at_ms),
            Column("says", rank=4, prose=True): lambda order: order.text,
        },
    )


def _change(common: Common, kind: Literal["stop", "resume"], replay: str, why: str) -> int:
    settings = common.settings()
    command = change_command(kind, replay, login_name(), why)

    async def work() -> ReplayProgress | None:
        known = (await ordered_replays(settings)).replays.get(replay)
        if known is None:
            raise StreamAppError(f"there is no replay {replay}: stream-app replay list shows all")
        if known.state != ("running" if kind == "stop" else "stopped"):
            raise StreamAppError(f"replay {replay} is {known.state}: {known.text}")
        return await order_change(settings, command)

    changed = on_kafka(settings, f"replay {kind}", work())
    if changed is None:
        return _show_queued(common, command.id, "again")
    common.show(msgspec.structs.asdict(changed), f"replay {replay}: {changed.text}")
    return OK


def _set_pause(common: Common, why: str, *, paused: bool) -> int:
    settings = common.settings()
    work = set_replay_pause(settings, login_name(), why, time.time_ns() // 1_000_000, paused=paused)
    before = on_kafka(settings, f"replay {'pause' if paused else 'resume'}", work)
    why_before = f": {before.why}" if before and before.why else ""
    was = f" (paused by {before.who} at {iso(before.at_ms)}{why_before})" if before else ""
    now = "paused until `stream-app replay resume`" if paused else "resumed"
    common.show(
        {"paused": paused, "was_paused_by": before.who if before else None},
        f"replays are {now}{was}",
    )
    return OK
