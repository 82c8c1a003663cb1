"""`stream-app doctor`: check a set-up without spending a credit, or with one test lead."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Final

from stream_app.cli.base import NO, OK, Subparsers, command, say, settings_of, tell, tell_json

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stream_app.config import Settings
    from stream_app.doctor import Check, RoundTrip
    from stream_app.domain.messages import StatusEvent

_MARKS: Final = {"ok": "ok      ", "advice": "advice  ", "failed": "FAILED  ", "skipped": "-       "}


def add(subparsers: Subparsers) -> None:
    parser = command(
        subparsers,
        "doctor",
        run,
        says="Check the set-up: Kafka, topics, rights, Redis, Clay's hosts, callbacks. Spends no credit.",
        example="stream-app doctor\n  stream-app doctor --round-trip people --yes",
    )
    parser.add_argument(
        "--round-trip", metavar="DESTINATION", help="then send one test lead to Clay and wait for its callback"
    )
    parser.add_argument(
        "--within", type=float, default=300, metavar="SECONDS", help="how long to wait for the callback (%(default)s)"
    )
    parser.add_argument("--yes", action="store_true", help="send it without confirmation; it costs credits")


def run(args: argparse.Namespace) -> int:
    import asyncio

    import msgspec

    from stream_app.cli.dead_letter_options import confirm
    from stream_app.doctor.round_trip import price

    settings = settings_of(args, clay=True, gateway=True)
    cost = price(settings, args.round_trip) if args.round_trip else ""
    checks = asyncio.run(_examine(settings, show=not args.json))
    report: dict[str, object] = {"checks": msgspec.to_builtins(checks)}
    code = NO if any(check.verdict == "failed" for check in checks) else OK
    if args.round_trip and code == NO:
        say("no test lead was sent: correct the failed checks first")
    elif args.round_trip:
        if args.yes:
            say(cost)
        else:
            confirm(cost)
        went = asyncio.run(_round_trip(settings, args))
        report["round_trip"] = msgspec.to_builtins(went)
        code = OK if went.ok else NO
        if not args.json:
            tell(f"{_MARKS['ok' if went.ok else 'failed']}round trip of {went.lead_id}: {went.text}")
    if args.json:
        tell_json(report)
    return code


async def _examine(settings: Settings, *, show: bool) -> list[Check]:
    from stream_app.doctor import examine

    checks: list[Check] = []
    alike: list[Check] = []  # checks with the same text share a line
    async for check in examine(settings):
        checks.append(check)
        if alike and (check.verdict, check.text) != (alike[0].verdict, alike[0].text):
            _show(alike, show=show)
            alike = []
        alike.append(check)
    _show(alike, show=show)
    return checks


def _show(alike: Sequence[Check], *, show: bool) -> None:
    if show and alike:
        names = ", ".join(dict.fromkeys(check.name for check in alike))
        tell(f"{_MARKS[alike[0].verdict]}{names}: {alike[0].text}")


async def _round_trip(settings: Settings, args: argparse.Namespace) -> RoundTrip:
    import time

    from stream_app.cli.lanes import login_name
    from stream_app.doctor import round_trip

    def on_event(event: StatusEvent) -> None:
        say(f"{event.status} {event.text or event.reason}".rstrip())

    number, who = time.time_ns() // 1_000_000, login_name()
    return await round_trip(settings, args.round_trip, number, args.within, who, on_event=on_event, say=say)
