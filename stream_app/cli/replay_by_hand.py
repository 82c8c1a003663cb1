"""`stream-app replay plan | rewind | select | redrive | pause | resume`: priced first, then done."""

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
    from stream_app.replay.select import Mend, Operator, Sent

_SHOWN: Final = 3


def add_actions(replay: argparse.ArgumentParser) -> None:
    """The actions of `stream-app replay`."""
    actions = replay.add_subparsers(dest="action", metavar="ACTION", title="actions")

    def action(name: str, run: Run, says: str, example: str) -> argparse.ArgumentParser:
        return add_action(actions, name, run, says, example)

    plan = action(
        "plan",
        run_plan,
        "Say how many letters would go, by cause, what they cost against what is left, and how long it takes.",
        "stream-app replay plan --status 503 --destination people",
    )
    select = action(
        "select",
        run_select,
        "Send letters back to leads.retry, each once, with a fresh set of replays; priced and confirmed first. "
        "Deferred leads only come sooner than they are due.",
        "stream-app replay select --reason http_503 --limit 1000 --rate 4",
    )
    redrive = action(
        "redrive",
        run_select,
        "Send parked leads back after a fix, mended by a JSON Patch or under other field names if need be.",
        "stream-app replay redrive --disposition poison --from dlq --map email=mail",
    )
    for parser, source in ((plan, "dlq"), (select, "dlq"), (redrive, "parked")):
        add_filter_options(parser)
        parser.add_argument("--from", dest="source", choices=SOURCES, default=source, help="(%(default)s)")
        parser.add_argument("--limit", type=int, metavar="N", help="no more than so many")
        parser.add_argument(
            "--rate",
            type=per_second,
            metavar="PER_S",
            help="letters a second and workspace (default: replay.rate_share)",
        )
        parser.add_argument(
            "--uncertain", action="store_true", help="also those that may have reached Clay: they may be paid twice"
        )
    for parser in (select, redrive):
        parser.add_argument("--yes", action="store_true", help="do it without asking")
        add_over_budget(parser)
        parser.set_defaults(patch=None, map=[], value=False)
    redrive.add_argument("--patch", type=Path, metavar="FILE", help="a JSON Patch (RFC 6902) for each lead")
    redrive.add_argument("--map", action="append", default=[], metavar="NEW=OLD", help="a field under another name")
    redrive.add_argument("--value", action="store_true", help="show values in the diff: they are personal data")
    rewind = action(
        "rewind",
        run_rewind,
        "Set the replay group back on leads.dlq, as Kafka's own tool does. Only while no `stream-app replay` runs: "
        "Kafka refuses it otherwise.",
        "stream-app replay rewind --to-datetime 2026-11-24T08:00 --dry-run",
    )
    to = rewind.add_mutually_exclusive_group(required=True)
    to.add_argument("--to-earliest", action="store_true", help="from the first letter that is kept")
    to.add_argument("--to-datetime", type=when_ms, metavar="TIME", help="from this time on (UTC)")
    to.add_argument("--to-offset", type=int, metavar="N", help="from this offset on")
    rewind.add_argument("--partition", type=int, metavar="P", help="only this one")
    rewind.add_argument("--dry-run", action="store_true", help="only say what would happen")
    rewind.add_argument("--yes", action="store_true", help="do it without asking")
    pause = action(
        "pause",
        run_pause,
        "Stop all replays, whatever process brings them, until `resume`.",
        'stream-app replay pause --why "table is being rebuilt"',
    )
    pause.add_argument("--why", default="", help="for those who wonder")
    action("resume", run_pause, "Let replays go on after `pause`.", "stream-app replay resume")


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
        mend = await _mend(args, settings, transform, chosen)
        if not args.yes:
            confirm(f"send {count(plan.go, 'letter')} back")
        sent = await _send(args, settings, operator, chosen, plan.paces, mend)
    if args.json:
        tell_json({"sent": sent.letters, "refused": sent.refused})
    else:
        for place, why in list(sent.refused.items())[:20]:
            say(f"{place} did not go: {why}")
        sent_back = count(sent.letters, "letter was", "letters were")
        tell(f"{sent_back} sent back, {len(sent.refused)} refused")
    return NO if sent.refused else OK


async def _send(
    args: argparse.Namespace,
    settings: Settings,
    operator: Operator,
    chosen: Chosen,
    paces: Mapping[str, float],
    mend: Mend,
) -> Sent:
    import asyncio

    from stream_app.domain.dead_letter.headers import WorkspaceKeys
    from stream_app.replay.plan import reader_of, topic_of
    from stream_app.replay.select import Sent, letters_at

    last = Sent()

    def note(sent: Sent) -> None:
        nonlocal last
        last = sent

    with reading("sending back") as progress:
        async with reader_of(settings, progress) as reader:
            letters = letters_at(reader, topic_of(settings, args.source), chosen, WorkspaceKeys(settings.workspaces))
            try:
                return await operator.send(letters, paces, note, mend)
            except asyncio.CancelledError:
                say(f"interrupted after {last.letters}: run the same again to go on, nothing goes twice")
                raise


async def _survey(args: argparse.Namespace, settings: Settings, *, edited: bool = False) -> tuple[PricedPlan, Chosen]:
    from stream_app.replay.plan import survey

    with reading("reading letters and rows") as progress:
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
        raise SettingsError(["--patch and --map: one of them"])
    if args.patch:
        return from_patch(args.patch)
    pairs = [pair.partition("=") for pair in args.map]
    if not all(new and old for new, _, old in pairs):
        raise SettingsError(["--map needs NEW=OLD, such as --map email=mail"])
    return from_mapping({new: old for new, _, old in pairs}) if pairs else None


async def _mend(args: argparse.Namespace, settings: Settings, transform: Transform | None, chosen: Chosen) -> Mend:
    """How each letter is mended; the first few are shown, and what cannot be mended is said before anything goes."""
    from stream_app.domain.dead_letter.headers import WorkspaceKeys
    from stream_app.domain.dead_letter.replay import goes_on
    from stream_app.domain.delivery.envelope import read_envelope
    from stream_app.replay.edit import EditError, changes, sendable, transformed
    from stream_app.replay.plan import reader_of, topic_of
    from stream_app.replay.select import as_it_is, letters_at

    if transform is None:
        return as_it_is
    why_not = sendable(settings)

    def mend(letter: ConsumedRecord, same_lead: bool) -> bytes:
        return transformed(transform, letter, why_not, same_lead=same_lead)

    shown, bad, keys = 0, 0, WorkspaceKeys(settings.workspaces)
    async with reader_of(settings, lambda done, total: None) as reader:
        async for letter in letters_at(reader, topic_of(settings, args.source), chosen, keys):
            try:
                mended = mend(letter, goes_on(read_envelope(letter)))
            except EditError as error:
                bad += 1
                if bad <= _SHOWN:
                    say(f"{letter.place} will not go: {error}")
                continue
            if shown < _SHOWN:
                shown += 1
                say(f"{letter.place}:")
                for line in changes(letter.value, mended, values=args.value):
                    say(f"  {line}")
    if bad:
        say(f"{count(bad, 'letter')} cannot be mended so and will not go")
    return mend


def run_rewind(args: argparse.Namespace) -> int:
    from stream_app.domain.dead_letter.causes import Filter
    from stream_app.replay.plan import survey
    from stream_app.replay.rewind import To, check_partition, check_stopped, moves, rewind

    settings = settings_of(args, clay=False)
    to = To(time_ms=args.to_datetime, offset=args.to_offset, partition=args.partition)
    check_partition(settings, to)

    async def work() -> int:
        with reading("reading letters and rows") as progress:
            planned = await moves(settings, to, progress)
            ranges = {move.partition: (move.target, move.committed) for move in planned}
            plan, _ = await survey(settings, "dlq", Filter(), progress, rewind=ranges)
        if not args.json:
            for move in planned:
                first = ", the first letter that is still kept: what came before is gone" if move.expired else ""
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
        return "nothing to rewind: no letter is kept from there to where the group stands"
    if dry_run:
        return "a dry run: nothing was changed"
    return "done: the next `stream-app replay` begins a new epoch from there"


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
        tell(f"replays are paused until `stream-app replay resume`{was}" if pausing else f"replays go on{was}")
    return OK


def _show(args: argparse.Namespace, plan: PricedPlan) -> None:
    from stream_app.domain.dead_letter.pricing import MEANING

    if args.json:
        tell_json(_document(plan))
        return
    tell(count(plan.letters, "letter matches", "letters match"))
    for end, number in plan.fates.most_common():
        tell(f"  {number:,} {MEANING[end]}")
    for cause, number in plan.causes.most_common(20):
        tell(f"  of those that would go, {number:,}: {cause}")
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
