"""`stream-app replay plan | select | redrive | rewind | pause | resume`: show the price, ask, then act."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

from stream_app.cli.base import NO, OK, Run, on_kafka, say, settings_of, tell, tell_json
from stream_app.cli.dead_letter_options import (
    SOURCES,
    add_action,
    add_filter_options,
    confirm,
    filter_of,
    iso,
    reading,
    when_ms,
)
from stream_app.cli.price import add_over_budget, affordable, per_second, show_prices
from stream_app.domain.plural import count

if TYPE_CHECKING:
    from stream_app.config import Settings
    from stream_app.domain.dead_letter.pricing import PricedPlan
    from stream_app.domain.record import ConsumedRecord
    from stream_app.replay.edit import Transform
    from stream_app.replay.plan import Chosen
    from stream_app.replay.select import Edit, Operator, Sent

_SHOWN: Final = 3


def add_actions(replay: argparse.ArgumentParser) -> None:
    """Add the actions of `stream-app replay`."""
    actions = replay.add_subparsers(dest="action", metavar="ACTION", title="actions")

    def action(name: str, run: Run, says: str, example: str) -> argparse.ArgumentParser:
        return add_action(actions, name, run, says, example)

    plan = action(
        "plan",
        run_plan,
        "Show how many dead letters a replay would send, by cause, its price, the budget left, and its duration.",
        "stream-app replay plan --status 503 --destination people",
    )
    select = action(
        "select",
        run_select,
        "Send dead letters back to leads.retry, each once, with all replays available again. Shows the price and asks "
        "first. Deferred leads are only sent earlier.",
        "stream-app replay select --reason http_503 --limit 1000 --rate 4",
    )
    redrive = action(
        "redrive",
        run_select,
        "Send parked leads back after a fix. A JSON Patch or new field names can edit them.",
        "stream-app replay redrive --disposition poison --from dlq --map email=mail",
    )
    for parser, source in ((plan, "dlq"), (select, "dlq"), (redrive, "parked")):
        add_filter_options(parser)
        parser.add_argument("--from", dest="source", choices=SOURCES, default=source, help="(%(default)s)")
        parser.add_argument("--limit", type=int, metavar="N", help="at most N")
        parser.add_argument(
            "--rate",
            type=per_second,
            metavar="PER_S",
            help="dead letters per second and workspace (default: replay.rate_share)",
        )
        parser.add_argument(
            "--uncertain",
            action="store_true",
            help="include leads that may have reached Clay: they may be paid for twice",
        )
    for parser in (select, redrive):
        parser.add_argument("--yes", action="store_true", help="do not ask for confirmation")
        add_over_budget(parser)
        parser.set_defaults(patch=None, map=[], value=False)
    redrive.add_argument("--patch", type=Path, metavar="FILE", help="a JSON Patch (RFC 6902) for each lead")
    redrive.add_argument(
        "--map", action="append", default=[], metavar="NEW=OLD", help="rename a field; may be repeated"
    )
    redrive.add_argument("--value", action="store_true", help="show values (personal data) in the diff")
    rewind = action(
        "rewind",
        run_rewind,
        "Reset the replay group's offsets on leads.dlq, as Kafka's tool does. First stop every `stream-app replay`: "
        "Kafka does not reset an active group.",
        "stream-app replay rewind --to-datetime 2026-11-24T08:00 --dry-run",
    )
    to = rewind.add_mutually_exclusive_group(required=True)
    to.add_argument("--to-earliest", action="store_true", help="to the first dead letter kept")
    to.add_argument("--to-datetime", type=when_ms, metavar="TIME", help="to this time (UTC)")
    to.add_argument("--to-offset", type=int, metavar="N", help="to this offset")
    rewind.add_argument("--partition", type=int, metavar="P", help="only this partition")
    rewind.add_argument("--dry-run", action="store_true", help="show what would happen, change nothing")
    rewind.add_argument("--yes", action="store_true", help="do not ask for confirmation")
    pause = action(
        "pause",
        run_pause,
        "Pause all replays of all processes until `resume`.",
        'stream-app replay pause --why "table is being rebuilt"',
    )
    pause.add_argument("--why", default="", help="the reason, shown to other operators")
    action("resume", run_pause, "Resume replays after `pause`.", "stream-app replay resume")


def run_plan(args: argparse.Namespace) -> int:
    from stream_app.replay.plan import check_filter

    settings = settings_of(args, clay=False)
    check_filter(settings, args.source, filter_of(args))
    plan, _ = on_kafka(settings, "replay plan", _survey(args, settings))
    _show(args, plan)
    return OK if plan.go else NO


def run_select(args: argparse.Namespace) -> int:
    from stream_app.replay.plan import check_filter

    settings = settings_of(args, clay=False)
    check_filter(settings, args.source, filter_of(args))
    return on_kafka(settings, f"replay {args.action}", _select(args, settings))


async def _select(args: argparse.Namespace, settings: Settings) -> int:
    from stream_app.replay.select import Operator

    transform = _transform(args)
    async with Operator(settings) as operator:
        plan, chosen = await _survey(args, settings, edited=transform is not None)
        if not args.json:
            _show(args, plan)
        if not plan.go:
            return _nothing(args)
        if not affordable(args, plan.prices):
            return NO
        edit = await _edit_of(args, settings, transform, chosen)
        if not args.yes:
            confirm(f"send {count(plan.go, 'dead letter')} back")
        sent = await _send(args, settings, operator, chosen, plan.paces, edit)
    if args.json:
        tell_json({"sent": sent.dead_letters, "refused": sent.refused})
    else:
        for record_id, why in list(sent.refused.items())[:20]:
            say(f"{record_id} was not sent: {why}")
        sent_back = count(sent.dead_letters, "dead letter was", "dead letters were")
        tell(f"{sent_back} sent back, {len(sent.refused)} refused")
    return NO if sent.refused else OK


async def _send(
    args: argparse.Namespace,
    settings: Settings,
    operator: Operator,
    chosen: Chosen,
    paces: Mapping[str, float],
    edit: Edit,
) -> Sent:
    import asyncio

    from stream_app.domain.dead_letter.headers import WorkspaceKeys
    from stream_app.replay.plan import reader_of, topic_of
    from stream_app.replay.select import Sent, dead_letters_at

    last = Sent()

    def note(sent: Sent) -> None:
        nonlocal last
        last = sent

    with reading("sending back") as progress:
        async with reader_of(settings, progress) as reader:
            dead_letters = dead_letters_at(
                reader, topic_of(settings, args.source), chosen, WorkspaceKeys(settings.workspaces)
            )
            try:
                return await operator.send(dead_letters, paces, note, edit)
            except asyncio.CancelledError:
                say(f"interrupted after {last.dead_letters}: run the same command to continue; nothing is sent twice")
                raise


async def _survey(args: argparse.Namespace, settings: Settings, *, edited: bool = False) -> tuple[PricedPlan, Chosen]:
    from stream_app.replay.plan import survey

    with reading("reading dead letters and rows") as progress:
        return await survey(
            *(settings, args.source, filter_of(args), progress),
            uncertain=args.uncertain,
            limit=args.limit,
            rate_per_s=args.rate,
            edited=edited,
        )


def _transform(args: argparse.Namespace) -> Transform | None:
    from stream_app.domain.errors import SettingsError
    from stream_app.replay.edit import from_mapping, from_patch

    if args.patch and args.map:
        raise SettingsError(["--patch and --map exclude each other: pass one of them"])
    if args.patch:
        return from_patch(args.patch)
    pairs = [pair.partition("=") for pair in args.map]
    if not all(new and old for new, _, old in pairs):
        raise SettingsError(["--map needs NEW=OLD, such as --map email=mail"])
    return from_mapping({new: old for new, _, old in pairs}) if pairs else None


async def _edit_of(args: argparse.Namespace, settings: Settings, transform: Transform | None, chosen: Chosen) -> Edit:
    """Return the function that edits each dead letter.

    The first few edits are shown, and what cannot be edited is reported before anything is sent.
    """
    from stream_app.domain.dead_letter.headers import WorkspaceKeys
    from stream_app.domain.dead_letter.replay import goes_on
    from stream_app.domain.delivery.envelope import read_envelope
    from stream_app.replay.edit import EditError, changes, sendable, transformed
    from stream_app.replay.plan import reader_of, topic_of
    from stream_app.replay.select import dead_letters_at, unchanged

    if transform is None:
        return unchanged
    check_lead = sendable(settings)

    def edit(dead_letter: ConsumedRecord, same_lead: bool) -> bytes:
        return transformed(transform, dead_letter, check_lead, same_lead=same_lead)

    shown, bad, keys = 0, 0, WorkspaceKeys(settings.workspaces)
    async with reader_of(settings, lambda done, total: None) as reader:
        async for dead_letter in dead_letters_at(reader, topic_of(settings, args.source), chosen, keys):
            try:
                edited = edit(dead_letter, goes_on(read_envelope(dead_letter)))
            except EditError as error:
                bad += 1
                if bad <= _SHOWN:
                    say(f"{dead_letter.record_id} will not be sent: {error}")
                continue
            if shown < _SHOWN:
                shown += 1
                say(f"{dead_letter.record_id}:")
                for line in changes(dead_letter.value, edited, values=args.value):
                    say(f"  {line}")
    if bad:
        say(f"{count(bad, 'dead letter')} cannot be edited this way and will not be sent")
    return edit


def run_rewind(args: argparse.Namespace) -> int:
    from stream_app.domain.dead_letter.causes import Filter
    from stream_app.replay.plan import survey
    from stream_app.replay.rewind import To, check_partition, check_stopped, moves, rewind

    settings = settings_of(args, clay=False)
    to = To(time_ms=args.to_datetime, offset=args.to_offset, partition=args.partition)
    check_partition(settings, to)

    async def work() -> int:
        with reading("reading dead letters and rows") as progress:
            planned = await moves(settings, to, progress)
            ranges = {move.partition: (move.target, move.committed) for move in planned}
            plan, _ = await survey(settings, "dlq", Filter(), progress, rewind=ranges)
        if not args.json:
            for move in planned:
                first = ", the first dead letter still kept; older ones are deleted" if move.expired else ""
                tell(f"partition {move.partition}: {move.committed} -> {move.target}{first}")
            _show(args, plan)
        if planned and not args.dry_run:
            await check_stopped(settings)
            if not args.yes:
                confirm(f"set the replay group back by {count(sum(m.committed - m.target for m in planned), 'offset')}")
            await rewind(settings, planned)
        if args.json:
            moved = [
                {"partition": m.partition, "from": m.committed, "to": m.target, "expired": m.expired} for m in planned
            ]
            tell_json({"moves": moved, "done": bool(planned) and not args.dry_run, "plan": _document(plan)})
        else:
            tell(_said(bool(planned), args.dry_run))
        return OK if planned else NO

    return on_kafka(settings, "replay rewind", work())


def _said(planned: bool, dry_run: bool) -> str:
    if not planned:
        return "nothing to rewind: no dead letter is kept between that place and the group's offset"
    if dry_run:
        return "dry run: nothing was changed"
    return "done: the next `stream-app replay` starts a new epoch there"


def run_pause(args: argparse.Namespace) -> int:
    import getpass
    import time

    from stream_app.services.replay import set_replay_pause

    settings = settings_of(args, clay=False)
    pausing = args.action == "pause"
    who = getpass.getuser()
    at_ms = time.time_ns() // 1_000_000 if pausing else 0
    work = set_replay_pause(settings, who if pausing else None, args.why if pausing else "", at_ms)
    before = on_kafka(settings, f"replay {args.action}", work)
    if args.json:
        tell_json({"paused": pausing, "was_paused_by": before.by if before else None})
    else:
        was = (
            f" (paused by {before.by} at {iso(before.at_ms)}{': ' + before.why if before.why else ''})"
            if before
            else ""
        )
        tell(f"replays are paused until `stream-app replay resume`{was}" if pausing else f"replays are resumed{was}")
    return OK


def _show(args: argparse.Namespace, plan: PricedPlan) -> None:
    from stream_app.domain.dead_letter.pricing import MEANING

    if args.json:
        tell_json(_document(plan))
        return
    tell(count(plan.dead_letters, "dead letter matches", "dead letters match"))
    for end, number in plan.fates.most_common():
        tell(f"  {number:,} {MEANING[end]}")
    for cause, number in plan.causes.most_common(20):
        tell(f"  to be sent, {number:,}: {cause}")
    show_prices(plan)


def _document(plan: PricedPlan) -> dict[str, object]:
    import msgspec

    return {**msgspec.to_builtins(plan), "go": plan.go}


def _nothing(args: argparse.Namespace) -> int:
    if args.json:
        tell_json({"sent": 0, "refused": {}})
    else:
        tell("nothing to send back")
    return NO
