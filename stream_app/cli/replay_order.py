"""The work of `replay select` and `redrive`: select dead letters, show the price, order the replay, follow it."""

# No `from __future__ import annotations`: cyclopts looks for the types of inherited options in the subclass's module.

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import Annotated, Any, Final

import msgspec
from cyclopts import Parameter, validators

from stream_app.cli.base import (
    NO,
    OK,
    QUEUED,
    Common,
    OptionalWhole,
    confirm,
    say,
    show,
    show_json,
)
from stream_app.cli.options import login_name
from stream_app.cli.progress import reading
from stream_app.config import Settings
from stream_app.domain.dead_letter.causes import Filter, Source
from stream_app.domain.dead_letter.orders import ReplayCommand, ReplayPlan, ReplayProgress
from stream_app.domain.dead_letter.pricing import MEANING, Price, PricedPlan, price_text, too_dear, too_dear_text
from stream_app.domain.errors import StreamAppError
from stream_app.domain.text import count
from stream_app.replay.order import change_command, start_command, submit_and_follow
from stream_app.replay.plan import spans_of, survey

PerSecond = Annotated[float | None, Parameter(metavar="PER_S", validator=validators.Number(gte=0.001, lte=100_000))]

_REPEAT: Final = "run the same command to continue; nothing is sent twice"
_ANSWER_WITHIN_S: Final = 15.0


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Selection(Common):
    """The dead letters that a replay by hand sends."""

    source: Annotated[Source, Parameter(name="--from")] = "dlq"
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
    """How they are sent."""

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
    """How parked leads are sent."""

    source: Annotated[Source, Parameter(name="--from")] = "parked"
    """which topic"""


async def select_and_order(settings: Settings, wanted: Filter, sending: Sending) -> int:
    """Show the price, ask, order the replay and follow it. Return the exit code."""
    planned_at_ms = time.time_ns() // 1_000_000
    ends = await spans_of(settings, sending.source)
    priced = await survey_selected(settings, wanted, sending, ranges=ends)
    if not sending.json:
        show_plan(priced)
    if not priced.go:
        if sending.json:
            show_json({"sent": 0, "refused": {}})
        else:
            show("nothing to send back")
        return NO
    if not _affordable(priced.prices, over_budget=sending.over_budget, as_json=sending.json):
        return NO
    confirm(f"send {count(priced.go, 'dead letter')} back", yes=sending.yes)
    plan = ReplayPlan(
        planned_at_ms,
        sending.source,
        wanted,
        {number: end for number, (_, end) in ends.items()},
        priced.go,
        priced.credits_at_most,
        priced.actions_at_most,
        uncertain=sending.uncertain,
        rate_per_s=sending.rate,
        over_budget=sending.over_budget,
    )
    command = start_command(plan, sending.who or login_name(), sending.why)
    sent = await order_and_follow(settings, command)
    if sent is None:
        return show_queued(command.id, "within 10 minutes of the plan", as_json=sending.json)
    if sending.json:
        show_json({"sent": sent.sent, "refused": sent.refusals})
    else:
        for record_id, why in list(sent.refusals.items())[:20]:
            say(f"{record_id} was not sent: {why}")
        sent_back = count(sent.sent, "dead letter was", "dead letters were")
        show(f"{sent_back} sent back, {sent.refused} refused")
    return NO if sent.refused else OK


def show_queued(command: str, until: str, *, as_json: bool) -> int:
    """Show that no replay process has answered a command yet. Return the exit code."""
    if as_json:
        show_json({"id": command, "queued": True})
    else:
        show(f"queued {command}")
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
            *(settings, selection.source, wanted, progress),
            ranges=ranges,
            uncertain=selection.uncertain,
            limit=selection.limit,
            rate_per_s=selection.rate,
        )
    return priced


def _affordable(prices: Sequence[Price], *, over_budget: bool, as_json: bool) -> bool:
    """Return True if each workspace's budget covers its price, or if `over_budget` is set; else print why not."""
    dear = [] if over_budget else too_dear(prices)
    for each in dear:
        say(f"{too_dear_text(each)}: send fewer, or use --over-budget to let the rest wait for the next budget")
    if dear and as_json:
        show_json({"sent": 0, "refused": {}, "too_dear": dear})
    return not dear


def show_plan(priced: PricedPlan) -> None:
    """Print how many dead letters a replay would send, by cause, and its price."""
    show(count(priced.dead_letters, "dead letter matches", "dead letters match"))
    for end, number in priced.fates.most_common():
        show(f"  {number:,} {MEANING[end]}")
    for cause, number in priced.causes.most_common(20):
        show(f"  to be sent, {number:,}: {cause}")
    for each in priced.prices:
        show(price_text(each))


def plan_document(priced: PricedPlan) -> dict[str, Any]:
    """Return a plan for `--json`."""
    return {**msgspec.to_builtins(priced), "go": priced.go}


async def order_and_follow(settings: Settings, command: ReplayCommand) -> ReplayProgress | None:
    """Order a replay, show its progress, and return its end; None: no replay process answers.

    Ctrl-C stops the replay.

    Raises:
        StreamAppError: It was refused, or stopped.
    """
    last: ReplayProgress | None = None
    deadline_s = time.monotonic() + _ANSWER_WITHIN_S
    try:
        with reading("sending back", "dead letters") as progress:
            async with aclosing(submit_and_follow(settings, command)) as following:
                async for last in _answers(following, deadline_s):
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
        async for each in _answers(following, time.monotonic() + _ANSWER_WITHIN_S):
            if command.id in each.commands:
                return each
    return None


async def _answers(following: AsyncIterator[ReplayProgress | None], deadline_s: float) -> AsyncIterator[ReplayProgress]:
    """Yield the progress. It ends if none has come before the deadline."""
    answered = False
    async for each in following:
        if each is not None:
            answered = True
            yield each
        elif not answered and time.monotonic() > deadline_s:
            return


async def _stop(settings: Settings, command: ReplayCommand) -> None:
    """Stop an ordered replay, and wait for the answer for a few seconds."""
    stop = change_command("stop", command.replay, command.who, "interrupted")
    with suppress(TimeoutError, StreamAppError):
        async with asyncio.timeout(_ANSWER_WITHIN_S):
            await order_change(settings, stop)
